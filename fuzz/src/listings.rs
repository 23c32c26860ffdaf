//! Pages of lists of stores, which come from whoever answers.

use matome_connector::file::listed;

/// A page is a list or refused, and says nothing that is not in it.
pub fn listings(bytes: &[u8]) {
    for page in listed(bytes).into_iter().flatten() {
        let said: usize = page.objects.iter().map(|object| object.key.len() + object.version.len()).sum();
        assert!(said + page.next.map_or(0, |next| next.len()) <= bytes.len());
    }
}

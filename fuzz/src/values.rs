//! Values of a row of MySQL, which come from whoever answers.

use std::collections::BTreeMap;

use matome_connector::database::mysql_values;
use matome_model::canonical::Canonicaliser;
use serde_json::value::RawValue;

/// Whatever a server sends as a value, it stays one value: a record has no further member by it. A text is what was sent.
pub fn values(bytes: &[u8]) {
    let mut canonicaliser = Canonicaliser::default();
    for (form, value) in mysql_values(bytes) {
        let row = [&b"{\"a\":"[..], &value, b",\"b\":true}"].concat();
        // What is refused goes to quarantine whole.
        let Ok(record) = canonicaliser.canonicalise(&row) else { continue };
        let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(record.text).unwrap();
        assert_eq!(members.keys().collect::<Vec<_>>(), ["a", "b"], "{form}: {}", record.text);
        assert_eq!(members["b"].get(), "true", "{form}: {}", record.text);
        if form == "varchar" {
            let text: String = serde_json::from_str(members["a"].get()).unwrap();
            assert_eq!(text.as_bytes(), bytes);
        }
    }
}

//! What the first read of a stream has stored so far, so that what it meets for the first time need not be looked up.
//!
//! A stream that was empty when its read began holds only what this read stored. A Bloom filter (B. H. Bloom, 1970) of
//! those identities says "certainly not stored" of nearly every new one; only the others cost a lookup: one in a hundred up to
//! six million keys, one in twenty-five at ten million, one in four at twenty. It is never full; it only says less and less.
//!
//! Its memory does not follow the read: 64 KiB, and 8 MiB more from [`SMALL_KEYS`] on.

use super::identity::Key;

/// Bits of a key in the filter. Four say most where the keys come to be many: ten bits to a key are few keys, four are many.
const PROBES: u64 = 4;
/// So many keys are remembered in [`SMALL_WORDS`], for most reads are short; all others in [`LARGE_WORDS`].
const SMALL_KEYS: usize = 52_000;
const SMALL_WORDS: usize = (64 << 10) / 8;
const LARGE_WORDS: usize = (8 << 20) / 8;

/// Keys that may be stored.
#[derive(Debug, Default)]
pub(super) struct FirstLoad {
    /// Empty, or of [`SMALL_WORDS`].
    small: Vec<u64>,
    /// Empty, or of [`LARGE_WORDS`].
    large: Vec<u64>,
    /// Keys that were added.
    keys: usize,
}

impl FirstLoad {
    /// Whether the key may be stored; `false` is certain.
    pub(super) fn may_hold(&self, key: &Key) -> bool {
        [&self.small, &self.large]
            .into_iter()
            .any(|words| !words.is_empty() && places(key, words.len()).all(|(word, bit)| words[word] & bit != 0))
    }

    /// Remembers a key.
    pub(super) fn add(&mut self, key: &Key) {
        let (words, length) = match self.keys < SMALL_KEYS {
            true => (&mut self.small, SMALL_WORDS),
            false => (&mut self.large, LARGE_WORDS),
        };
        words.resize(length, 0);
        for (word, bit) in places(key, length) {
            words[word] |= bit;
        }
        self.keys += 1;
    }
}

/// Where a key's bits are. Keys are parts of SHA-256, so their halves serve as the two hashes of double hashing.
fn places(key: &Key, words: usize) -> impl Iterator<Item = (usize, u64)> {
    let number = u128::from_le_bytes(*key);
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    let (low, high) = (number as u64, (number >> 64) as u64 | 1);
    let bits = u64::try_from(words).unwrap_or(u64::MAX).saturating_mul(64).max(1);
    (0..PROBES).map(move |n| {
        let bit = low.wrapping_add(n.wrapping_mul(high)) % bits;
        (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn key(n: u32) -> Key {
        *Sha256::digest(n.to_be_bytes()).first_chunk().unwrap()
    }

    #[test]
    fn what_was_added_may_be_held_and_little_else() {
        let mut filter = FirstLoad::default();
        assert!(!filter.may_hold(&key(0)));
        // Over the end of the small part.
        for n in 0..100_000 {
            filter.add(&key(n));
        }
        assert!((0..100_000).all(|n| filter.may_hold(&key(n))));
        let wrong = (100_000..200_000).filter(|n| filter.may_hold(&key(*n))).count();
        assert!(wrong < 2_000, "{wrong} of 100,000 would be looked up in vain");
    }

    #[test]
    fn memory_does_not_follow_the_read() {
        let bytes = |filter: &FirstLoad| (filter.small.capacity() + filter.large.capacity()) * 8;
        let mut filter = FirstLoad::default();
        assert_eq!(bytes(&filter), 0);
        (0..50_000).for_each(|n| filter.add(&key(n)));
        assert_eq!(bytes(&filter), 64 << 10);
        (50_000..60_000).for_each(|n| filter.add(&key(n)));
        let of_a_long_read = bytes(&filter);
        assert_eq!(of_a_long_read, (8 << 20) + (64 << 10));
        (60_000..300_000).for_each(|n| filter.add(&key(n)));
        assert_eq!(bytes(&filter), of_a_long_read);
    }
}

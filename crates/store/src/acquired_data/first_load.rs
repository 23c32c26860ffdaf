//! What the first read of a stream has stored so far, so that what it meets for the first time need not be looked up.
//!
//! A stream that was empty when its read began holds only what this read stored. A Bloom filter (B. H. Bloom, 1970) of
//! those identities says "certainly not stored" of nearly every new one; only the others, one in a hundred, cost a lookup.
//! About ten bits a record; past [`MAX_BYTES`] the read looks everything up as all others do.

use super::identity::Key;

/// Bits for each key: with [`PROBES`] one key in a hundred is looked up in vain.
const BITS_A_KEY: usize = 10;
const PROBES: u64 = 6;
/// The first layer has room for so many keys; each next one for four times as many.
const FIRST_KEYS: usize = 16 << 10;
/// All layers together at most.
const MAX_BYTES: usize = 24 << 20;

/// Keys that may be stored; layers, because nobody knows how long a read is.
#[derive(Debug, Default)]
pub(super) struct FirstLoad {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    words: Vec<u64>,
    /// Keys that it still has room for.
    room: usize,
}

impl FirstLoad {
    /// Whether the key may be stored; `false` is certain.
    pub(super) fn may_hold(&self, key: &Key) -> bool {
        self.layers.iter().any(|layer| places(key, layer.words.len()).all(|(word, bit)| layer.words[word] & bit != 0))
    }

    /// Remembers a key; `false` when there is no room for it, and nothing this filter says holds any more.
    #[must_use]
    pub(super) fn add(&mut self, key: &Key) -> bool {
        if self.layers.last().is_none_or(|layer| layer.room == 0) && !self.grow() {
            return false;
        }
        let Some(layer) = self.layers.last_mut() else { return false };
        layer.room -= 1;
        for (word, bit) in places(key, layer.words.len()) {
            layer.words[word] |= bit;
        }
        true
    }

    fn grow(&mut self) -> bool {
        let keys = self.layers.last().map_or(FIRST_KEYS, |layer| layer.words.len() * 64 / BITS_A_KEY * 4);
        let words = keys * BITS_A_KEY / 64;
        let held: usize = self.layers.iter().map(|layer| layer.words.len() * 8).sum();
        if held + words * 8 > MAX_BYTES {
            return false;
        }
        self.layers.push(Layer { words: vec![0; words], room: keys });
        true
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
        // Over the ends of the first two layers.
        for n in 0..100_000 {
            assert!(filter.add(&key(n)));
        }
        assert!((0..100_000).all(|n| filter.may_hold(&key(n))));
        let wrong = (100_000..200_000).filter(|n| filter.may_hold(&key(*n))).count();
        assert!(wrong < 4_000, "{wrong} of 100,000 would be looked up in vain");
    }

    #[test]
    fn memory_is_bounded_and_the_end_is_told() {
        let mut filter = FirstLoad::default();
        let mut full = filter.grow();
        while filter.grow() {
            full = true;
        }
        let bytes: usize = filter.layers.iter().map(|layer| layer.words.len() * 8).sum();
        assert!(full && bytes <= MAX_BYTES && bytes > MAX_BYTES / 8, "{bytes}");
        filter.layers.last_mut().unwrap().room = 0;
        assert!(!filter.add(&key(1)));
    }
}

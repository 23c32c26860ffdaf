//! A hash of the first and of the last bytes of what was read of a document: whether that is still its beginning.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How much of the beginning and of the end tells whether something was only added behind it.
const WINDOW_BYTES: usize = 4096;

/// Of the first `bytes` of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    pub(super) bytes: u64,
    pub(super) hash: u64,
}

impl Fingerprint {
    /// Looks into a document that has so many bytes at least; it is read from its start afterwards.
    pub(super) fn of(content: &mut (impl Read + Seek), bytes: u64) -> io::Result<Self> {
        let mut seen = Seen::default();
        for start in [0, start_of_window(bytes)] {
            content.seek(SeekFrom::Start(start))?;
            seen.go_to(start);
            let mut window = Vec::new();
            content.by_ref().take((bytes - start).min(WINDOW_BYTES as u64)).read_to_end(&mut window)?;
            seen.add(&window);
        }
        content.rewind()?;
        Ok(Self { bytes, hash: seen.hash() })
    }
}

/// Where the last bytes begin that are looked at.
pub(super) fn start_of_window(bytes: u64) -> u64 {
    bytes.saturating_sub(WINDOW_BYTES as u64)
}

/// What passes by of a document that is read in order.
#[derive(Default)]
struct Seen {
    /// The first bytes, and the last ones, which end at `at`.
    head: Vec<u8>,
    tail: Vec<u8>,
    at: u64,
}

impl Seen {
    fn add(&mut self, bytes: &[u8]) {
        if self.at == self.head.len() as u64 {
            let room = WINDOW_BYTES - self.head.len();
            self.head.extend_from_slice(&bytes[..room.min(bytes.len())]);
        }
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(WINDOW_BYTES)..]);
        self.tail.drain(..self.tail.len().saturating_sub(WINDOW_BYTES));
        self.at += bytes.len() as u64;
    }

    fn go_to(&mut self, place: u64) {
        if place != self.at {
            self.tail.clear();
            self.at = place;
        }
    }

    fn hash(&self) -> u64 {
        let hash = Sha256::new().chain_update(&self.head).chain_update(&self.tail).finalize();
        u64::from_le_bytes(*hash.first_chunk().expect("8 is less than 32"))
    }

    /// Nothing where some of what it is made of has not passed by.
    fn fingerprint(&self) -> Option<Fingerprint> {
        let window = self.at.min(WINDOW_BYTES as u64);
        let is_whole = self.head.len() as u64 == window && self.tail.len() as u64 == window;
        is_whole.then(|| Fingerprint { bytes: self.at, hash: self.hash() })
    }
}

/// What was read so far of the document of a [`Watched`]. Clones see the same.
#[derive(Clone, Default)]
pub(super) struct Trail(Arc<Mutex<Seen>>);

impl Trail {
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fingerprint()
    }
}

/// A document that leaves a trail as it is read.
pub(super) struct Watched<R> {
    pub(super) inner: R,
    pub(super) trail: Trail,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.trail.0.lock().unwrap_or_else(PoisonError::into_inner).add(&buffer[..read]);
        Ok(read)
    }
}

impl<R: Seek> Seek for Watched<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = self.inner.seek(to)?;
        self.trail.0.lock().unwrap_or_else(PoisonError::into_inner).go_to(place);
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn what_passed_by_in_pieces_has_the_fingerprint_of_what_is_there() {
        let text: Vec<u8> = (0..30_000_u32).flat_map(u32::to_le_bytes).collect();
        for size in [0, 1, 4095, 4096, 4097, 8191, 8192, 10_000, 120_000] {
            let there = Fingerprint::of(&mut Cursor::new(&text), size as u64).unwrap();
            for piece in [1, 7, 4096, 5000, 200_000] {
                let trail = Trail::default();
                let mut watched = Watched { inner: Cursor::new(&text[..size]), trail: trail.clone() };
                let mut buffer = vec![0; piece];
                while watched.read(&mut buffer).unwrap() > 0 {}
                assert_eq!(trail.fingerprint(), Some(there), "{size} bytes in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_goes_on_elsewhere_has_one_again_once_all_of_its_end_has_passed_by() {
        let text = vec![b'x'; 50_000];
        let trail = Trail::default();
        let mut watched = Watched { inner: Cursor::new(&text), trail: trail.clone() };
        watched.read_exact(&mut [0; 5000]).unwrap();
        watched.seek(SeekFrom::Start(40_000)).unwrap();
        watched.read_exact(&mut [0; 4095]).unwrap();
        assert_eq!(trail.fingerprint(), None);
        watched.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(trail.fingerprint(), Some(Fingerprint::of(&mut Cursor::new(&text), 44_096).unwrap()));
    }
}

//! Which documents were read, and what each was like: so that the next read passes over those that did not change.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Seek, SeekFrom};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::fingerprint::Fingerprint;
use super::location::Stamp;
use crate::record::Boundary;

/// Documents that a manifest has room for: it goes into the database with every page.
pub(super) const DOCUMENT_LIMIT: usize = 10_000;
/// Of one document, as it is kept.
const ENTRY_BYTES: usize = 48;

type Name = [u8; 8];

/// A document that was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    size: u64,
    modified_ns: i64,
    inode: u64,
    /// The hash of its [`Fingerprint`].
    fingerprint: u64,
    /// Records in it.
    records: u64,
    end: End,
}

/// How a document ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody knows.
    #[default]
    Unknown,
    /// Inside of a record.
    Inside,
    /// Behind a whole one: what is added begins with this line.
    Line(u64),
}

/// What became of a document since it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It was not read before.
    New,
    /// Nothing.
    None,
    /// Something was added behind so many records. `is_whole`: the last of them ended with its line. `from`: where what was
    /// added begins, if it can be read from there on.
    Grown { records: u64, is_whole: bool, from: Option<Boundary> },
    /// It is another one.
    Rewritten,
}

/// The documents that were read, by a hash of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest(BTreeMap<Name, Known>);

impl Manifest {
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes a document that was read to its end, as it was when it was opened.
    pub(super) fn add(&mut self, name: &str, known: Known) {
        self.0.insert(hash_of(name), known);
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Keeps what is still there.
    pub(super) fn keep<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        let names: HashSet<Name> = names.map(hash_of).collect();
        self.0.retain(|name, _| names.contains(name));
    }

    /// Whether a document was read before.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(&hash_of(name))
    }

    /// What became of a document; looks into it only where its stamp does not tell.
    pub(super) fn compare(&self, name: &str, stamp: &Stamp, content: &mut (impl Read + Seek)) -> io::Result<Change> {
        let Some(known) = self.0.get(&hash_of(name)) else { return Ok(Change::New) };
        if (known.size, known.modified_ns, known.inode) == (stamp.size, stamp.modified_ns, stamp.inode) {
            return Ok(Change::None);
        }
        let may_be_added_to = stamp.inode == known.inode && stamp.size > known.size;
        match may_be_added_to && known.is_beginning_of(stamp, content)? {
            true => known.since(stamp, content),
            false => Ok(Change::Rewritten),
        }
    }

    /// What is known of other documents than those, as far as there was something in it.
    pub(super) fn gone<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<Lost> {
        let names: HashSet<Name> = names.map(hash_of).collect();
        let gone = self.0.iter().filter(|(name, known)| !names.contains(*name) && known.has_records());
        gone.map(|(name, known)| Lost { name: *name, known: *known }).collect()
    }

    /// What is known of a document that is another one by now.
    pub(super) fn lost(&self, name: &str) -> Option<Lost> {
        let name = hash_of(name);
        self.0.get(&name).filter(|known| known.has_records()).map(|known| Lost { name, known: *known })
    }

    /// What was `lost` is somewhere else.
    pub(super) fn forget(&mut self, lost: &Lost) {
        self.0.remove(&lost.name);
    }

    /// How the documents ended, in their order here.
    pub(super) fn ends(&self) -> Ends {
        if self.0.values().all(|known| known.end == End::Unknown) {
            return Ends::default();
        }
        Ends(self.0.values().map(|known| known.end.to_number()).collect())
    }

    /// Takes over how they ended; nothing of those of other documents.
    pub(super) fn know_ends(&mut self, ends: &Ends) {
        if ends.0.len() == self.0.len() {
            self.0.values_mut().zip(&ends.0).for_each(|(known, end)| known.end = End::of_number(*end));
        }
    }
}

/// A document that was read and is not under its name any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    name: Name,
    pub(super) known: Known,
}

/// How each document of a manifest ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends(Vec<u64>);

impl Ends {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl End {
    fn to_number(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Inside => u64::MAX,
            Self::Line(line) => line,
        }
    }

    fn of_number(number: u64) -> Self {
        match number {
            0 => Self::Unknown,
            u64::MAX => Self::Inside,
            line => Self::Line(line),
        }
    }
}

impl Known {
    /// A document that had `records` records in its first `stamp.size` bytes, which ended so.
    pub(super) fn of(stamp: &Stamp, records: u64, end: End, content: &mut (impl Read + Seek)) -> io::Result<Self> {
        let Stamp { size, modified_ns, inode } = *stamp;
        Ok(Self { size, modified_ns, inode, fingerprint: Fingerprint::of(content, size)?.hash, records, end })
    }

    /// What was read of a document, as the checkpoint of a read says that ended in it; how it ended is not known.
    pub(super) fn of_read(stamp: &Stamp, records: u64, read: Fingerprint) -> Option<Self> {
        let Stamp { size, modified_ns, inode } = *stamp;
        let known = Self { size, modified_ns, inode, fingerprint: read.hash, records, end: End::Unknown };
        (read.bytes == size).then_some(known)
    }

    fn has_records(&self) -> bool {
        self.records > 0 && self.size > 0
    }

    /// Whether a document begins with what was read, and may be longer by now.
    pub(super) fn is_beginning_of(&self, stamp: &Stamp, content: &mut (impl Read + Seek)) -> io::Result<bool> {
        Ok(self.size <= stamp.size && Fingerprint::of(content, self.size)?.hash == self.fingerprint)
    }

    /// Whether it is in the same place of the disk.
    pub(super) fn has_inode_of(&self, stamp: &Stamp) -> bool {
        self.inode == stamp.inode
    }

    /// Whether it was not written to without becoming longer. Where there are no inodes, it was not written to at all.
    pub(super) fn has_time_of(&self, stamp: &Stamp) -> bool {
        (self.inode != 0 && self.size < stamp.size) || (self.size, self.modified_ns) == (stamp.size, stamp.modified_ns)
    }

    /// Whether a document was written to since.
    pub(super) fn is_not_later_than(&self, stamp: &Stamp) -> bool {
        self.modified_ns <= stamp.modified_ns
    }

    /// The same of a document under another name, which begins with what was read.
    pub(super) fn as_of(&self, stamp: &Stamp) -> Self {
        let modified_ns = if self.size == stamp.size { stamp.modified_ns } else { 0 };
        Self { modified_ns, inode: stamp.inode, ..*self }
    }

    /// What became of a document that begins with what was read.
    pub(super) fn since(&self, stamp: &Stamp, content: &mut (impl Read + Seek)) -> io::Result<Change> {
        if self.size == stamp.size {
            return Ok(Change::None);
        }
        let mut last = [b'\n'];
        if let Some(place) = self.size.checked_sub(1) {
            content.seek(SeekFrom::Start(place))?;
            content.read_exact(&mut last)?;
            content.rewind()?;
        }
        let (is_whole, from) = match self.end {
            End::Unknown => (last == [b'\n'], None),
            End::Inside => (false, None),
            End::Line(line) => (true, Some(Boundary { offset: self.size, line })),
        };
        Ok(Change::Grown { records: self.records, is_whole, from })
    }

    /// Whether it begins with what was read.
    pub(super) fn begins_with(&self, read: Fingerprint) -> bool {
        read == Fingerprint { bytes: self.size, hash: self.fingerprint }
    }

    fn to_bytes(self) -> [[u8; 8]; 5] {
        [
            self.size.to_le_bytes(),
            self.modified_ns.to_le_bytes(),
            self.inode.to_le_bytes(),
            self.fingerprint.to_le_bytes(),
            self.records.to_le_bytes(),
        ]
    }
}

fn hash_of(name: &str) -> Name {
    *Sha256::digest(name).first_chunk().expect("8 is less than 32")
}

impl Serialize for Manifest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.0.len() * ENTRY_BYTES);
        for (name, known) in &self.0 {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(known.to_bytes().as_flattened());
        }
        serializer.serialize_str(&BASE64.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = BASE64.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        let mut manifest = Self::default();
        let (entries, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || !bytes.len().is_multiple_of(ENTRY_BYTES) {
            return Err(D::Error::custom("the list of files is cut off"));
        }
        for entry in entries.chunks_exact(6) {
            let number = |at: usize| u64::from_le_bytes(entry[at]);
            let known = Known {
                size: number(1),
                modified_ns: i64::from_le_bytes(entry[2]),
                inode: number(3),
                fingerprint: number(4),
                records: number(5),
                end: End::Unknown,
            };
            manifest.0.insert(entry[0], known);
        }
        Ok(manifest)
    }
}

impl Serialize for Ends {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|end| end.to_le_bytes()).collect();
        serializer.serialize_str(&BASE64.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Ends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = BASE64.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        let (ends, rest) = bytes.as_chunks::<8>();
        match rest.is_empty() {
            true => Ok(Self(ends.iter().map(|end| u64::from_le_bytes(*end)).collect())),
            false => Err(D::Error::custom("the ends of files are cut off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn stamp(size: u64, modified_ns: i64) -> Stamp {
        Stamp { size, modified_ns, inode: 7 }
    }

    #[test]
    fn a_document_is_new_the_same_grown_or_rewritten() {
        let text: String = (0..2000).map(|n| format!("line {n}\n")).collect();
        let size = text.len() as u64;
        let mut manifest = Manifest::default();
        let mut content = Cursor::new(text.clone().into_bytes());
        manifest.add("a", Known::of(&stamp(size, 1), 2000, End::Unknown, &mut content).unwrap());
        let compare = |name: &str, stamp: Stamp, text: &str| {
            manifest.compare(name, &stamp, &mut Cursor::new(text.as_bytes())).unwrap()
        };
        assert_eq!(compare("b", stamp(size, 1), &text), Change::New);
        assert_eq!(compare("a", stamp(size, 1), &text), Change::None);
        assert_eq!(compare("a", stamp(size, 2), &text), Change::Rewritten);
        assert_eq!(
            compare("a", stamp(size + 2, 2), &format!("{text}x\n")),
            Change::Grown { records: 2000, is_whole: true, from: None }
        );
        let other = text.replace("line 1999", "other 199");
        assert_eq!(compare("a", stamp(size + 2, 2), &format!("{other}x\n")), Change::Rewritten);
        assert_eq!(compare("a", stamp(size - 2, 2), &text), Change::Rewritten);
        assert_eq!(compare("a", Stamp { inode: 8, ..stamp(size + 2, 2) }, &format!("{text}x\n")), Change::Rewritten);
    }

    #[test]
    fn a_manifest_is_written_and_read_back_and_keeps_what_is_there() {
        let mut manifest = Manifest::default();
        for n in 0..100 {
            let text = format!("{n}\n").into_bytes();
            let size = text.len() as u64;
            let end = [End::Unknown, End::Inside, End::Line(2)][usize::try_from(n % 3).unwrap()];
            manifest.add(&format!("{n}"), Known::of(&stamp(size, n), 1, end, &mut Cursor::new(text)).unwrap());
        }
        let json = serde_json::to_string(&manifest).unwrap();
        assert!(json.len() < 100 * 65, "{}", json.len());
        let mut back: Manifest = serde_json::from_str(&json).unwrap();
        assert_ne!(back, manifest, "how they ended stands beside it");
        let ends: Ends = serde_json::from_str(&serde_json::to_string(&manifest.ends()).unwrap()).unwrap();
        back.know_ends(&ends);
        assert_eq!(back, manifest);
        back.keep(["1", "99", "x"].into_iter());
        assert_eq!(back.len(), 2);
        assert!(serde_json::from_str::<Manifest>(&json.replacen('A', "", 1)).is_err());
    }
}

//! The members of a zip archive, read one after the other where they are: nothing is unpacked to a disk, so that the
//! name of a member leads nowhere. What Windows and its programs pack in Japan has names in code page 932 without saying so.

use std::collections::HashSet;
use std::io::{self, Read, Seek};

use encoding_rs::Encoding;
use globset::GlobMatcher;
use zip::ZipArchive;
use zip::read::{Config, ZipReadOptions};
use zip::result::ZipError;
use zip::unstable::read::ZipIterable;

use super::compression::{Bounded, Counted, Meter};
use super::text::japanese;

/// Members that an archive may have.
const MEMBER_LIMIT: usize = 100_000;
/// The directory of an archive is held in memory; a longer one is none.
const DIRECTORY_LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// So much of the names of members is looked at for what they are in.
const NAMES_BYTES: usize = 64 * 1024;

/// An open archive.
pub(super) struct Archive<R> {
    zip: ZipArchive<Counted<R>>,
    meter: Meter,
}

/// A member that is to be read.
pub(super) struct Member {
    index: usize,
    pub(super) name: String,
    /// The name as versions took it that knew UTF-8 and code page 437 only; their checkpoints have it.
    pub(super) old_name: String,
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the directory of an archive and refuses what two programs would read differently.
    pub(super) fn open(mut content: R, meter: Meter) -> io::Result<Self> {
        directory_within_limits(&mut content)?;
        let mut zip = ZipArchive::new(Counted { inner: content, meter: meter.clone() }).map_err(told)?;
        if zip.has_duplicate_names() {
            return Err(bad("it has two members of the same name".to_owned()));
        }
        if zip.has_overlapping_entries().map_err(told)? {
            return Err(bad("its members overlap".to_owned()));
        }
        Ok(Self { zip, meter })
    }

    /// The members to read, by name: those that `pattern` matches, and hidden ones only when its last part begins with a dot.
    pub(super) fn members(&mut self, pattern: Option<&GlobMatcher>) -> io::Result<Vec<Member>> {
        let mut members = Vec::new();
        let last = pattern.and_then(|pattern| pattern.glob().glob().rsplit('/').next());
        let hidden = last.is_some_and(|part| part.starts_with('.'));
        let encoding = self.encoding()?;
        let mut names = HashSet::new();
        for index in 0..self.zip.len() {
            let entry = self.zip.by_index_data(index).map_err(told)?;
            let old_name = entry.name().map_err(told)?.into_owned();
            let name = encoding.filter(|_| std::str::from_utf8(entry.name_raw()).is_err());
            let name = name.map(|encoding| encoding.decode_without_bom_handling(entry.name_raw()).0.into_owned());
            let name = name.unwrap_or_else(|| old_name.clone());
            if !names.insert(name.clone()) {
                return Err(bad("it has two members of the same name".to_owned()));
            }
            let is_wanted = pattern.is_none_or(|pattern| pattern.is_match(&name));
            if entry.is_dir() || !is_wanted || (!hidden && is_hidden(&name)) {
                continue;
            }
            if entry.is_symlink() {
                return Err(bad(format!("its member `{name}` is a symbolic link")));
            }
            if entry.encrypted() {
                return Err(bad(format!("its member `{name}` is encrypted")));
            }
            members.push(Member { index, name, old_name });
        }
        members.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(members)
    }

    /// What names are in that are no UTF-8, if not in what the standard says. All of them tell it together.
    fn encoding(&mut self) -> io::Result<Option<&'static Encoding>> {
        let (mut bytes, mut standard) = (Vec::new(), String::new());
        for index in 0..self.zip.len() {
            let entry = self.zip.by_index_data(index).map_err(told)?;
            if std::str::from_utf8(entry.name_raw()).is_err() && bytes.len() < NAMES_BYTES {
                bytes.extend_from_slice(entry.name_raw());
                bytes.push(b'\n');
                standard += &entry.name().map_err(told)?;
                standard.push('\n');
            }
        }
        Ok(if bytes.is_empty() { None } else { japanese(&bytes, &standard) })
    }

    /// What is in a member.
    pub(super) fn read(&mut self, member: &Member) -> io::Result<impl Read + '_> {
        let options = ZipReadOptions::new().enforce_header_consistency(true);
        let inner = self.zip.by_index_with_options(member.index, options).map_err(told)?;
        Ok(Bounded { inner, meter: self.meter.clone() })
    }
}

/// What a Mac adds, and what is hidden as files are.
fn is_hidden(name: &str) -> bool {
    name.starts_with("__MACOSX/") || name.split('/').any(|part| part.starts_with('.') && part != "." && part != "..")
}

fn bad(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// An error of the archive, or of the disk that it is on.
fn told(error: ZipError) -> io::Error {
    match error {
        ZipError::Io(error) => error,
        error => bad(error.to_string()),
    }
}

/// Passes over the directory entry by entry before room is made for all of it.
pub(super) fn directory_within_limits(content: &mut (impl Read + Seek)) -> io::Result<()> {
    let mut directory = ZipIterable::try_new(&mut *content, Config::default()).map_err(told)?;
    if directory.len() > MEMBER_LIMIT {
        return Err(bad(format!("it has {} members, more than the limit of {MEMBER_LIMIT}", directory.len())));
    }
    let mut start = None;
    for entry in directory.files().map_err(told)? {
        let at = entry.map_err(told)?.central_header_start();
        if at - *start.get_or_insert(at) > DIRECTORY_LIMIT_BYTES {
            return Err(bad(format!("its directory has more than {DIRECTORY_LIMIT_BYTES} bytes")));
        }
    }
    content.rewind()
}

//! Where the bytes of documents come from. A format asks for nothing but this, so each one works with each location.
//!
//! - [`place`]: what a config says of it, and opening it. Directories of this machine are in `roots`.
//! - [`transfer`]: the bytes of a document elsewhere, whatever brings them.
//! - [`web`]: requests over HTTP; [`http`]: one address; [`objects`]: stores of objects ([`s3`], [`gcs`], [`azure`]), whose pages [`listing`] reads.
//! - [`ssh`]: connections to SSH servers; [`sftp`]: their files.

mod azure;
mod gcs;
mod http;
mod listing;
mod objects;
mod place;
mod rsa_key;
mod s3;
mod sftp;
mod ssh;
mod transfer;
mod web;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;

pub(super) use azure::page_of_azure;
pub use azure::{AzureKey, AzurePlace};
pub(super) use gcs::page_of_gcs;
pub use gcs::{GcsPlace, ServiceAccount};
pub use http::HttpPlace;
pub use listing::{Object, Page};
pub(super) use place::Reach;
pub use place::{Means, Place};
pub use s3::S3Place;
pub(super) use s3::page_of_s3;
pub use sftp::SftpPlace;
pub use ssh::SshServer;

/// What has to be read here and there, and comes compressed or from elsewhere, takes as much room on the disk at most.
pub(super) const SPOOL_LIMIT_BYTES: u64 = 4 << 30;

/// A place that has documents. Its methods block: a read runs on a thread of its own.
pub(super) trait Location: Send + Sync {
    /// What the name or pattern `path` means in it, in the order in which it is read; elsewhere than on this machine nothing if there is
    /// nothing.
    ///
    /// # Errors
    /// [`ConnectorError::Directory`] when it is one, and when there is too much, or something that may not be read.
    fn find(&self, path: &str) -> Result<Vec<Entry>, ConnectorError>;

    /// Opens a document at its beginning.
    ///
    /// # Errors
    /// One that [is missing](ConnectorError::is_missing) when it has gone meanwhile.
    fn open(&self, entry: &Entry) -> Result<Box<dyn Content>, ConnectorError>;

    /// As [`Location::open`], unless whoever is asked for it says that it still is what these `validators` are of; then nothing.
    fn open_unless(&self, entry: &Entry, _validators: &Validators) -> Result<Option<Box<dyn Content>>, ConnectorError> {
        self.open(entry).map(Some)
    }

    /// Whether its documents are files that programs write to, rename and cut off.
    fn has_files(&self) -> bool {
        false
    }

    /// The files beside `entry` whose names begin as its own does: what it may be called by now.
    fn beside(&self, _entry: &Entry) -> Vec<Entry> {
        Vec::new()
    }

    /// HTTP requests that were answered since this was asked last.
    fn requests(&self) -> u64 {
        0
    }
}

/// A document of a location.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// What it is called: in positions, in checkpoints and for people.
    pub(super) name: Arc<str>,
    /// Which of the location's places it is in.
    pub(super) place: usize,
    /// What the location calls it there.
    pub(super) path: PathBuf,
    /// Its state, where the list of the location says it.
    pub(super) stamp: Option<Stamp>,
}

/// The bytes of a document, from wherever they come. What reads them in order seeks to where it goes on, and to what is looked at before that.
pub(super) trait Content: Read + Seek + Send {
    /// What tells this state of the document from any other; asked again behind its last byte.
    fn stamp(&mut self) -> io::Result<Stamp>;

    /// From now on it is read here and there. Whoever would have to ask for each piece fetches all of it now.
    fn fetch(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What to ask by whether it still is this version, if somebody is asked.
    fn validators(&self) -> Option<Validators> {
        None
    }
}

/// What a server said of a version of a document, to be asked whether that still is the one (RFC 9110, 8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validators {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) modified: Option<String>,
}

/// What tells a state of a document from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) modified_ns: i64,
    /// Of a file, its inode: another one is another file under the same name. Elsewhere a hash of what names its version, so
    /// that each version is another document.
    pub(super) inode: u64,
}

impl Content for File {
    fn stamp(&mut self) -> io::Result<Stamp> {
        let metadata = self.metadata()?;
        let modified_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Ok(Stamp { size: metadata.size(), modified_ns, inode: metadata.ino() })
    }
}

/// A document that several read, in turns, from wherever they are.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Box<dyn Content>>>);

impl Shared {
    pub(super) fn new(content: Box<dyn Content>) -> Self {
        Self(Arc::new(Mutex::new(content)))
    }

    pub(super) fn stamp(&self) -> io::Result<Stamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).stamp()
    }

    pub(super) fn validators(&self) -> Option<Validators> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).validators()
    }

    pub(super) fn fetch(&self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fetch()
    }
}

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(buffer)
    }
}

impl Seek for Shared {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).seek(to)
    }
}

/// One document that is in memory.
pub(super) struct Memory(pub(super) Vec<u8>);

impl Location for Memory {
    fn find(&self, _: &str) -> Result<Vec<Entry>, ConnectorError> {
        Ok(vec![Entry { name: "bytes".into(), place: 0, path: PathBuf::new(), stamp: None }])
    }

    fn open(&self, _: &Entry) -> Result<Box<dyn Content>, ConnectorError> {
        Ok(Box::new(io::Cursor::new(self.0.clone())))
    }
}

impl Content for io::Cursor<Vec<u8>> {
    fn stamp(&mut self) -> io::Result<Stamp> {
        Ok(Stamp { size: self.get_ref().len() as u64, ..Stamp::default() })
    }
}

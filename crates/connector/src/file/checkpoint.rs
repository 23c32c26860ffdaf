//! How far a read of files has come.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::location::Stamp;
use crate::error::ConnectorError;

/// What a checkpoint says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// Everything was read; the next read starts anew.
    pub(super) complete: bool,
    /// The document of the last committed record; all before it, by name, are done.
    pub(super) document: Option<String>,
    /// The member of it, if it is an archive; all before it, by name, are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) member: Option<String>,
    /// Records of the document, or of its member, that are committed.
    pub(super) records: u64,
    size: u64,
    modified_ns: i64,
    inode: u64,
}

impl State {
    /// Before the first document.
    pub(super) fn new() -> Self {
        Self { version: 1, ..Self::default() }
    }

    /// Reads a checkpoint.
    pub(super) fn parse(checkpoint: &RawValue) -> Result<Self, ConnectorError> {
        serde_json::from_str(checkpoint.get()).map_err(ConnectorError::Checkpoint)
    }

    /// What is committed with a page.
    pub(super) fn to_checkpoint(&self) -> Result<Box<RawValue>, ConnectorError> {
        to_raw_value(self).map_err(ConnectorError::Checkpoint)
    }

    /// The state, if a read may go on at it.
    pub(super) fn under_way(self) -> Option<Self> {
        (!self.complete && self.document.is_some()).then_some(self)
    }

    /// Turns to the next document.
    pub(super) fn turn_to(&mut self, document: &str, stamp: &Stamp) {
        *self = Self {
            version: self.version,
            document: Some(document.to_owned()),
            size: stamp.size,
            modified_ns: stamp.modified_ns,
            inode: stamp.inode,
            ..Self::default()
        };
    }

    /// Whether `now` is still the document that this state is about. It may have grown.
    ///
    /// # Errors
    /// How it changed.
    pub(super) fn same_document(&self, now: &Stamp) -> Result<(), ConnectorError> {
        let change = if now.inode != self.inode {
            ("it was replaced", "別のファイルに置き換えられました")
        } else if now.size < self.size {
            ("it became shorter", "短くなりました")
        } else if now.size == self.size && now.modified_ns != self.modified_ns {
            ("it was written anew", "書き直されました")
        } else {
            return Ok(());
        };
        Err(ConnectorError::Changed { document: self.document.clone().unwrap_or_default(), change })
    }
}

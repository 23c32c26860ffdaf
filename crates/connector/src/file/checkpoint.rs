//! How far a read of files has come.

use std::io::{self, Read, Seek};

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::fingerprint::Fingerprint;
use super::location::{Stamp, Validators};
use super::manifest::{Ends, Known, Manifest};
use crate::error::ConnectorError;
use crate::read::ReadRequest;
use crate::record::Boundary;

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
    /// Where in the document the last of them ends, if it can be read from there on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boundary: Option<Boundary>,
    size: u64,
    modified_ns: i64,
    inode: u64,
    /// Of the bytes of the document that were read for these records, where it is read in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fingerprint: Option<Fingerprint>,
    /// The documents of the last complete read.
    #[serde(default, skip_serializing_if = "Manifest::is_empty")]
    pub(super) files: Manifest,
    /// How each of them ended. Beside them, so that a version that does not know it reads the rest.
    #[serde(default, skip_serializing_if = "Ends::is_empty")]
    files_ends: Ends,
    /// Those that this read has read to their end.
    #[serde(default, skip_serializing_if = "Manifest::is_empty")]
    pub(super) done: Manifest,
    #[serde(default, skip_serializing_if = "Ends::is_empty")]
    done_ends: Ends,
    /// What to ask the server of the only document by, once it was read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) validators: Option<Validators>,
    /// Whether nothing of what is read was read before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) adds: bool,
    /// Whether a read that goes on here gives nothing again that the read before gave.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_exact: bool,
    /// Whether the document grew between two parts of a read: what changed besides in the first part was not seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) has_grown: bool,
}

impl State {
    /// Before the first document.
    pub(super) fn new() -> Self {
        Self { version: 1, ..Self::default() }
    }

    /// Reads a checkpoint.
    pub(super) fn parse(checkpoint: &RawValue) -> Result<Self, ConnectorError> {
        let mut state: Self = serde_json::from_str(checkpoint.get()).map_err(ConnectorError::Checkpoint)?;
        state.files.know_ends(&std::mem::take(&mut state.files_ends));
        state.done.know_ends(&std::mem::take(&mut state.done_ends));
        Ok(state)
    }

    /// What is committed with a page.
    pub(super) fn write(&mut self) -> Result<Box<RawValue>, ConnectorError> {
        (self.files_ends, self.done_ends) = (self.files.ends(), self.done.ends());
        to_raw_value(self).map_err(ConnectorError::Checkpoint)
    }

    /// The state, if a read stopped in it.
    pub(super) fn under_way(self) -> Option<Self> {
        (!self.complete && self.document.is_some()).then_some(self)
    }

    /// Whether a read may go on inside of what is read here.
    pub(super) fn may_go_on(&self, request: &ReadRequest) -> bool {
        request.resume_inside && (self.is_exact || !request.compares_reads)
    }

    /// The document that a read of one has read to its end that kept no list of them.
    pub(super) fn only(&self) -> Option<(&str, Known)> {
        let stamp = Stamp { size: self.size, modified_ns: self.modified_ns, inode: self.inode };
        let read = self.fingerprint.filter(|_| self.complete && self.files.is_empty() && self.member.is_none())?;
        Some((self.document.as_deref()?, Known::of_read(&stamp, self.records, read)?))
    }

    /// Turns to the next document.
    pub(super) fn turn_to(&mut self, document: &str, stamp: &Stamp) {
        self.document = Some(document.to_owned());
        (self.member, self.records, self.boundary, self.fingerprint) = (None, 0, None, None);
        (self.size, self.modified_ns, self.inode) = (stamp.size, stamp.modified_ns, stamp.inode);
        self.has_grown = false;
    }

    /// Whether the document is no longer as it was when it was opened for this.
    pub(super) fn is_before(&self, now: &Stamp) -> bool {
        self.has_grown || (self.size, self.modified_ns) != (now.size, now.modified_ns)
    }

    /// Everything was read: what is known now is `known` and what this read did, as far as it is `there`.
    pub(super) fn end<'n>(&mut self, there: impl Iterator<Item = &'n str>) {
        self.complete = true;
        let done = std::mem::take(&mut self.done);
        self.files.extend(done);
        self.files.keep(there);
        self.adds = false;
    }

    /// The document is another one by now: the next read begins it anew.
    pub(super) fn begin_anew(&mut self) {
        (self.member, self.records, self.boundary, self.fingerprint) = (None, 0, None, None);
        self.adds = false;
    }

    /// Nothing of this read counts; only what was known before it stays, if it `keeps_known`.
    pub(super) fn begin_whole_anew(&mut self, keeps_known: bool) {
        let files = if keeps_known { std::mem::take(&mut self.files) } else { Manifest::default() };
        *self = Self { files, ..Self::new() };
    }

    /// Whether nothing is stored of what the document is now.
    pub(super) fn is_at_its_start(&self) -> bool {
        self.records == 0 && self.member.is_none()
    }

    /// Whether `now` is still the document that this state is about. It may have grown if it `may_grow`.
    ///
    /// # Errors
    /// How it changed.
    pub(super) fn same_document(&self, now: &Stamp, may_grow: bool) -> Result<(), ConnectorError> {
        let change = if self.is_at_its_start() {
            return Ok(());
        } else if now.inode != self.inode {
            ("it was replaced", "別のファイルに置き換えられました")
        } else if now.size < self.size {
            ("it became shorter", "短くなりました")
        } else if (now.size, now.modified_ns) != (self.size, self.modified_ns) && (now.size == self.size || !may_grow) {
            WRITTEN_ANEW
        } else {
            return Ok(());
        };
        Err(self.changed(change))
    }

    /// Whether a document that is longer by now begins with what was read of it, as far as that is known.
    ///
    /// # Errors
    /// That it does not, or why it can not be read.
    pub(super) fn same_beginning(
        &self,
        now: &Stamp,
        content: &mut (impl Read + Seek),
    ) -> io::Result<Result<(), ConnectorError>> {
        let Some(read) = self.fingerprint.filter(|_| !self.is_at_its_start() && now.size != self.size) else {
            return Ok(Ok(()));
        };
        let is_same = read.bytes <= now.size && Fingerprint::of(content, read.bytes)? == read;
        Ok(if is_same { Ok(()) } else { Err(self.changed(WRITTEN_ANEW)) })
    }

    /// Whether its document can be told from others under another name.
    pub(super) fn knows_file(&self) -> bool {
        self.inode != 0 && self.fingerprint.is_some() && !self.is_at_its_start()
    }

    /// The error of a read that can not go on at this state.
    pub(super) fn changed(&self, change: (&'static str, &'static str)) -> ConnectorError {
        let (document, records) = (self.document.clone().unwrap_or_default(), self.records);
        ConnectorError::Changed { document, records, change, is_stale: false }
    }
}

const WRITTEN_ANEW: (&str, &str) = ("it was written anew", "書き直されました");

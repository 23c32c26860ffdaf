//! What a connector yields: records as they came, where they were, and how to go on from there.

use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use matome_model::canonical::QuarantineReason;
use matome_model::field_error::Words;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// Where in a source something was. Carries no secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The path of a file, or the address of a page.
    #[serde(serialize_with = "as_text")]
    pub document: Arc<str>,
    /// The number of the HTTP request within this read, from 1; null for files.
    pub request: Option<u64>,
    /// The line on which the record starts, from 1; null for records of a JSON document, which may be one line.
    pub line: Option<u64>,
    /// The number of the record within the document, from 1; 0 before the first.
    pub record: u64,
    /// What the sender of a push said in headers: a JSON object of texts in canonical form. It goes with the record, not with
    /// errors.
    #[serde(skip)]
    pub headers: Option<Arc<str>>,
}

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.document)?;
        if let Some(request) = self.request {
            write!(f, " (request {request})")?;
        }
        if let Some(line) = self.line {
            write!(f, " line {line}")?;
        }
        Ok(())
    }
}

/// One thing that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A record: JSON text that is not validated yet.
    Record {
        /// The bytes; for CSV rows, the object made of them.
        raw: Vec<u8>,
        /// Where it was.
        position: Position,
    },
    /// Something the reader could not make a record of; it belongs into quarantine.
    Rejected {
        /// The bytes as they were in the source; the first 64 KiB of something over a limit.
        raw: Vec<u8>,
        /// Why.
        reason: QuarantineReason,
        /// What exactly, for people.
        detail: Words,
        /// Where it was.
        position: Position,
        /// Of a row: the names of its columns.
        fields: Option<Arc<[String]>>,
    },
}

impl Item {
    /// Where it was.
    pub fn position(&self) -> &Position {
        match self {
            Self::Record { position, .. } | Self::Rejected { position, .. } => position,
        }
    }

    /// Its bytes.
    pub fn raw(&self) -> &[u8] {
        match self {
            Self::Record { raw, .. } | Self::Rejected { raw, .. } => raw,
        }
    }
}

/// What was done since the batch before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// HTTP requests that were answered.
    pub requests: u64,
    /// Those answered with "304 Not Modified", and files that were passed over because they did not change.
    pub not_modified: u64,
    /// Bytes read: of files as they are on disk, of answers after decompression.
    pub bytes: u64,
    /// Gaps in a stream: times of which nobody can send again what was missed.
    pub gaps: u64,
    /// Something of the source was passed over: a page by a rule, or what could not be asked for. Told with the last batch.
    pub is_partial: bool,
}

impl AddAssign for ReadStats {
    fn add_assign(&mut self, next: Self) {
        let Self { requests, not_modified, bytes, gaps, is_partial } = next;
        self.requests += requests;
        self.not_modified += not_modified;
        self.bytes += bytes;
        self.gaps += gaps;
        self.is_partial |= is_partial;
    }
}

/// Records, and the state to commit with them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// In the order of the source. May be empty, when only the checkpoint moved.
    pub items: Vec<Item>,
    /// The connector's own state after these items; opaque to everybody else.
    pub checkpoint: Box<RawValue>,
    /// Whether a read that goes on at `checkpoint` gives nothing of this batch, or of those before, again.
    pub is_exact: bool,
    /// Whether what this read gave before comes again: it begins anew, or its next attempt does. Said with
    /// [`compares_reads`](crate::ReadRequest::compares_reads) alone.
    pub begins_anew: bool,
    /// Whether nothing of its read was read before: a record that equals a stored one is another one.
    pub is_addition: bool,
    /// What was done for it.
    pub stats: ReadStats,
}

/// Something inside a document that makes the rest of it unreadable.
#[derive(Debug)]
pub(crate) struct DocumentError {
    pub(crate) line: Option<u64>,
    pub(crate) problem: Words,
}

impl DocumentError {
    pub(crate) fn new(line: u64, problem: impl Into<Words>) -> Self {
        Self { line: Some(line), problem: problem.into() }
    }

    /// One that has no line.
    pub(crate) fn anywhere(problem: impl Into<Words>) -> Self {
        Self { line: None, problem: problem.into() }
    }
}

/// A place between two records of a text, where reading can begin without what stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Boundary {
    /// Bytes before it.
    pub(crate) offset: u64,
    /// The number of the line that begins there.
    pub(crate) line: u64,
}

/// Takes the records of a format apart, piece by piece as the bytes come.
pub(crate) trait Parse: Send {
    fn feed(&mut self, bytes: &[u8], found: &mut Found) -> Result<(), DocumentError>;
    fn finish(&mut self, found: &mut Found) -> Result<(), DocumentError>;

    /// Goes on at another place of the text, once [`Parse::knows_columns`]. `before` is the byte before it. False: no record
    /// begins there.
    fn jump(&mut self, _: Boundary, _before: u8) -> bool {
        false
    }

    /// Whether what all records depend on has come.
    fn knows_columns(&self) -> bool {
        true
    }
}

/// Why a document can not be read any further.
#[derive(Debug)]
pub(crate) enum Broken {
    /// What it says.
    Document(DocumentError),
    /// Its bytes do not come.
    Io(std::io::Error),
}

impl From<DocumentError> for Broken {
    fn from(error: DocumentError) -> Self {
        Self::Document(error)
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Takes the records of a format apart whose reader asks for its bytes itself.
pub(crate) trait Pull {
    /// Finds some more; `false` once there are none.
    fn next(&mut self, found: &mut Found) -> Result<bool, Broken>;
}

/// Collects what a parser finds in one document and hands it on in batches.
pub(crate) struct Found {
    document: Arc<str>,
    headers: Option<Arc<str>>,
    request: Option<u64>,
    record: u64,
    skip: u64,
    /// Each with where it ends, if that is known.
    items: std::collections::VecDeque<(Item, Option<Boundary>)>,
    bytes: usize,
    /// Whether it is noted where records end.
    notes_ends: bool,
    /// Where the text begins, if places in it are places in the document.
    text_start: Option<u64>,
    /// Where the record ends that comes next.
    end: Option<Boundary>,
    /// Where the last one ends that was taken.
    taken_to: Option<Boundary>,
    tail: Tail,
}

/// How a text ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nobody says.
    #[default]
    Unknown,
    /// Inside of a record, which may go on when the document grows.
    Inside,
    /// Behind a whole record.
    Whole(Boundary),
}

impl Found {
    /// `skip`: how many records at the start of the document are passed over.
    pub(crate) fn new(document: Arc<str>, request: Option<u64>, skip: u64) -> Self {
        Self {
            document,
            headers: None,
            request,
            record: 0,
            skip,
            items: Default::default(),
            bytes: 0,
            notes_ends: false,
            text_start: None,
            end: None,
            taken_to: None,
            tail: Tail::Unknown,
        }
    }

    /// Of a document that is read behind its first `record` records, which do not come.
    pub(crate) fn behind(document: Arc<str>, record: u64) -> Self {
        Self { record, ..Self::new(document, None, record) }
    }

    /// Goes with each record that is found from now on.
    pub(crate) fn tell_headers(&mut self, headers: Option<Arc<str>>) {
        self.headers = headers;
    }

    /// Notes where records end, for a document that is read as it is.
    pub(crate) fn noting_ends(mut self) -> Self {
        self.notes_ends = true;
        self
    }

    /// Places in the text are so many bytes further on in the document.
    pub(crate) fn text_starts(&mut self, offset: u64) {
        self.text_start = self.notes_ends.then_some(offset);
    }

    /// The record that is found next ends there in the text; nowhere if it may go on.
    pub(crate) fn ends_at(&mut self, end: Option<Boundary>) {
        self.end = end;
    }

    /// The text is at its end: behind a record, or else inside of one.
    pub(crate) fn end_text(&mut self, whole: Option<Boundary>) {
        self.tail = match (self.text_start, whole) {
            (None, _) => Tail::Unknown,
            (Some(_), None) => Tail::Inside,
            (Some(start), Some(end)) => Tail::Whole(Boundary { offset: end.offset + start, ..end }),
        };
    }

    /// How the text ended.
    pub(crate) fn tail(&self) -> Tail {
        self.tail
    }

    /// Where the last record ends that was taken, if that is known.
    pub(crate) fn taken_to(&self) -> Option<Boundary> {
        self.taken_to
    }

    pub(crate) fn record(&mut self, line: Option<u64>, raw: Vec<u8>) {
        if let Some(position) = self.position(line) {
            self.push(Item::Record { raw, position });
        }
    }

    pub(crate) fn rejected(&mut self, line: Option<u64>, raw: &[u8], reason: QuarantineReason, detail: Words) {
        self.rejected_row(line, raw, (reason, detail), None);
    }

    /// As [`Found::rejected`], of a row with these columns.
    pub(crate) fn rejected_row(
        &mut self,
        line: Option<u64>,
        raw: &[u8],
        (reason, detail): (QuarantineReason, Words),
        fields: Option<Arc<[String]>>,
    ) {
        if let Some(position) = self.position(line) {
            self.push(Item::Rejected { raw: raw.to_vec(), reason, detail, position, fields });
        }
    }

    fn push(&mut self, item: Item) {
        self.bytes += item.raw().len();
        let end = self.end.take().zip(self.text_start);
        let end = end.map(|(end, start)| Boundary { offset: end.offset + start, ..end });
        self.items.push_back((item, end));
    }

    fn position(&mut self, line: Option<u64>) -> Option<Position> {
        self.record += 1;
        (self.record > self.skip).then(|| self.here(line))
    }

    /// The position of what was found last.
    pub(crate) fn here(&self, line: Option<u64>) -> Position {
        Position {
            document: self.document.clone(),
            request: self.request,
            line,
            record: self.record,
            headers: self.headers.clone(),
        }
    }

    /// Records found so far in the document, skipped ones included.
    pub(crate) fn count(&self) -> u64 {
        self.record
    }

    /// A full batch, if there is one.
    pub(crate) fn take_full(&mut self, max_items: usize, max_bytes: usize) -> Option<Vec<Item>> {
        (self.items.len() >= max_items || self.bytes >= max_bytes).then(|| self.take(max_items, max_bytes))
    }

    /// What is there, up to a full batch.
    pub(crate) fn take(&mut self, max_items: usize, max_bytes: usize) -> Vec<Item> {
        let mut taken = Vec::with_capacity(self.items.len().min(max_items));
        let mut bytes = 0;
        while taken.len() < max_items.max(1) && (bytes < max_bytes || taken.is_empty()) {
            let Some((item, end)) = self.items.pop_front() else { break };
            bytes += item.raw().len();
            self.taken_to = end;
            taken.push(item);
        }
        self.bytes -= bytes;
        taken
    }

    /// Changes what was found and not taken.
    pub(crate) fn change_waiting(&mut self, mut change: impl FnMut(&mut Item)) {
        self.items.iter_mut().for_each(|(item, _)| change(item));
        self.bytes = self.items.iter().map(|(item, _)| item.raw().len()).sum();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Drops what was found and not taken.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.bytes = 0;
    }
}

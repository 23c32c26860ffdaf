//! Reads one document after the other, with everything that may stand between its bytes and its records.

use std::io::{self, Read, Seek as _};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::archive::Archive;
use super::checkpoint::State;
use super::compression::{CHUNK_BYTES, Codec, Counted, Input, Meter, fill, start_of};
use super::config::FileConfig;
use super::document::Document;
use super::location::{Content, Entry, Location, Stamp};
use crate::error::ConnectorError;
use crate::read::ReadRequest;
use crate::record::{Batch, DocumentError, Found, Item, Position, ReadStats};

/// A longer document is not begun: at the rate of a disk it would hold its source for hours.
const SIZE_LIMIT_BYTES: u64 = 256 << 30;

/// Why reading stopped before its end.
enum Stop {
    Failed(Box<ConnectorError>),
    /// The reader was dropped.
    Abandoned,
}

impl From<ConnectorError> for Stop {
    fn from(error: ConnectorError) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// An error of the disk or of a codec, at a place.
fn failed(position: Position, action: &'static str, source: io::Error) -> Stop {
    Stop::from(ConnectorError::Io { position: Box::new(position), action, source })
}

/// The place before the first record of a document.
fn beginning(document: &Arc<str>) -> Position {
    Position { document: document.clone(), request: None, line: None, record: 0 }
}

pub(super) struct Pump {
    config: Arc<FileConfig>,
    location: Arc<dyn Location>,
    request: ReadRequest,
    sender: mpsc::Sender<Result<Batch, ConnectorError>>,
    state: State,
    stats: ReadStats,
    /// Bytes of the document that are in the stats already.
    counted: u64,
}

impl Pump {
    pub(super) fn new(
        config: Arc<FileConfig>,
        location: Arc<dyn Location>,
        request: ReadRequest,
        sender: mpsc::Sender<Result<Batch, ConnectorError>>,
    ) -> Self {
        Self { config, location, request, sender, state: State::new(), stats: ReadStats::default(), counted: 0 }
    }

    /// Reads all of `found`, or what lies behind `resume`. Blocks.
    pub(super) fn run(mut self, found: &[Entry], resume: Option<State>) {
        if let Err(Stop::Failed(error)) = self.read(found, resume) {
            // Nobody listens any more if this fails, and then nobody wants to know.
            let _ = self.sender.blocking_send(Err(*error));
        }
    }

    fn read(&mut self, found: &[Entry], mut resume: Option<State>) -> Result<(), Stop> {
        let mut first = 0;
        if let Some(document) = resume.as_ref().and_then(|state| state.document.as_deref()) {
            let gone = || ConnectorError::Changed {
                document: document.to_owned(),
                change: ("it is gone", "なくなりました"),
            };
            first = found.iter().position(|entry| &*entry.name == document).ok_or_else(gone)?;
        }
        for entry in &found[first..] {
            let content = match self.location.open(entry) {
                Err(ConnectorError::Io { source, .. })
                    if found.len() > 1 && source.kind() == io::ErrorKind::NotFound =>
                {
                    tracing::warn!(file = %entry.name, "`{}` vanished before it was read; it is passed over", entry.name);
                    resume = None;
                    continue;
                }
                opened => opened?,
            };
            self.entry(&entry.name, content, resume.take())?;
        }
        self.state.complete = true;
        self.send(Vec::new())
    }

    /// Reads what is in a file or the like: a document, or an archive of some.
    fn entry(&mut self, name: &Arc<str>, mut content: Box<dyn Content>, resume: Option<State>) -> Result<(), Stop> {
        let stamp = content.stamp().map_err(|error| failed(beginning(name), "reading its size", error))?;
        if stamp.size > SIZE_LIMIT_BYTES {
            let (path, size, limit) = (name.to_string(), stamp.size, SIZE_LIMIT_BYTES);
            return Err(ConnectorError::FileTooLarge { path, size, limit }.into());
        }
        self.state.turn_to(name, &stamp);
        self.counted = 0;
        if let Some(before) = &resume {
            before.same_document(&stamp)?;
        }
        let start = start_of(&mut content).and_then(|start| content.rewind().map(|()| start));
        let start = start.map_err(|error| failed(beginning(name), "reading it", error))?;
        let meter = Meter::default();
        if self.config.compression.of(&start) == Some(Codec::Zip) {
            self.archive(name, &mut content, &meter, resume)?;
        } else {
            let skip = resume.map_or(0, |before| before.records);
            let document = Counted { inner: &mut content, meter: meter.clone() };
            self.document(name, document, &meter, skip, Some(stamp.size))?;
        }
        let now = content.stamp().map_err(|error| failed(beginning(name), "reading its size", error))?;
        unchanged(name, &stamp, &now)
    }

    fn archive(
        &mut self,
        name: &Arc<str>,
        content: &mut Box<dyn Content>,
        meter: &Meter,
        resume: Option<State>,
    ) -> Result<(), Stop> {
        let refuse = |error| failed(beginning(name), "decompressing it", error);
        let mut archive = Archive::open(content, meter.clone()).map_err(refuse)?;
        let members = archive.members(self.config.member.as_ref()).map_err(refuse)?;
        let mut skip = 0;
        let mut first = 0;
        if let Some(State { member: Some(member), records, .. }) = resume {
            skip = records;
            first = members.iter().position(|other| other.name == member).unwrap_or_default();
        }
        if members.is_empty() {
            let problem = (
                "the archive has no member to read; look at `member`",
                "書庫に読むべきファイルがありません。`member` を確かめてください",
            );
            return Err(ConnectorError::document(beginning(name), DocumentError::anywhere(problem)).into());
        }
        for member in &members[first..] {
            self.state.member = Some(member.name.clone());
            self.state.records = 0;
            let inside: Arc<str> = format!("{name}!/{}", member.name).into();
            let reader = archive.read(member).map_err(|error| failed(beginning(&inside), "decompressing it", error))?;
            self.document(&inside, reader, meter, std::mem::take(&mut skip), None)?;
        }
        Ok(())
    }

    /// Reads one document behind its first `skip` records. `size`: how long it is, if it is read as it is.
    fn document(
        &mut self,
        name: &Arc<str>,
        bytes: impl Read,
        meter: &Meter,
        skip: u64,
        size: Option<u64>,
    ) -> Result<(), Stop> {
        let mut found = Found::new(name.clone(), None, skip);
        let opened = Input::new(bytes, meter, self.config.compression.inside());
        let mut input = opened.map_err(|error| failed(beginning(name), "decompressing it", error))?;
        let action =
            if input.codec().is_some() || self.state.member.is_some() { "decompressing it" } else { "reading it" };
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut document = Document::new(self.config.document.clone());
        loop {
            if self.request.cancel.is_cancelled() {
                return Err(ConnectorError::Cancelled.into());
            }
            let read = match fill(&mut input, &mut buffer) {
                Ok(read) => read,
                Err(error) => {
                    let stop = failed(found.here(None), action, error);
                    // What came whole before it is handed on.
                    return Err(self.send_rest(&mut found).err().unwrap_or(stop));
                }
            };
            self.stats.bytes += meter.taken() - self.counted;
            self.counted = meter.taken();
            let last = read < buffer.len();
            let parsed = document.feed(&buffer[..read], last, &mut found);
            let (max_items, max_bytes) = (self.request.max_items, self.request.max_bytes);
            while let Some(items) = found.take_full(max_items, max_bytes) {
                self.send(items)?;
            }
            parsed.map_err(|error| self.broken(&mut found, error))?;
            if last {
                break;
            }
        }
        if input.codec().is_none() && size.is_some_and(|size| meter.taken() < size) {
            return Err(changed(name, ("it became shorter while it was read", "読んでいる間に短くなりました")));
        }
        self.send_rest(&mut found)
    }

    /// The document can not be taken apart any further; what came before the place is handed on.
    fn broken(&mut self, found: &mut Found, error: DocumentError) -> Stop {
        let error = ConnectorError::document(found.here(None), error);
        match self.send_rest(found) {
            Ok(()) => error.into(),
            Err(stop) => stop,
        }
    }

    fn send_rest(&mut self, found: &mut Found) -> Result<(), Stop> {
        while !found.is_empty() {
            let items = found.take(self.request.max_items, self.request.max_bytes);
            self.send(items)?;
        }
        Ok(())
    }

    fn send(&mut self, items: Vec<Item>) -> Result<(), Stop> {
        if let Some(last) = items.last() {
            self.state.records = last.position().record;
        }
        let checkpoint = self.state.to_checkpoint()?;
        // Otherwise a read begins at the first document, whatever its checkpoint.
        let is_exact = self.request.resume_inside;
        let batch = Batch { items, checkpoint, is_exact, stats: std::mem::take(&mut self.stats) };
        self.sender.blocking_send(Ok(batch)).map_err(|_| Stop::Abandoned)
    }
}

fn changed(name: &Arc<str>, change: (&'static str, &'static str)) -> Stop {
    ConnectorError::Changed { document: name.to_string(), change }.into()
}

/// A document may grow while it is read, and what came is read. One that was written over is neither the old nor the new.
fn unchanged(name: &Arc<str>, before: &Stamp, now: &Stamp) -> Result<(), Stop> {
    if now.size < before.size {
        return Err(changed(name, ("it became shorter while it was read", "読んでいる間に短くなりました")));
    }
    if now.size == before.size && now.modified_ns != before.modified_ns {
        return Err(changed(name, ("it was written anew while it was read", "読んでいる間に書き直されました")));
    }
    Ok(())
}

//! Reads one document after the other, with everything that may stand between its bytes and its records.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use matome_columnar::{Avro, Parquet};
use tokio::sync::mpsc;

use super::archive::{Archive, Member};
use super::checkpoint::State;
use super::compression::{CHUNK_BYTES, Codec, Counted, Input, Meter, fill, start_of};
use super::config::{FileConfig, Format};
use super::document::Document;
use super::excel;
use super::fingerprint::{Trail, Watched, start_of_window};
use super::location::{Location, SPOOL_LIMIT_BYTES, Shared, Stamp};
use super::manifest::{End, Known};
use super::plan::{Plan, Step, beginning};
use super::table::TypedRows;
use crate::error::ConnectorError;
use crate::read::ReadRequest;
use crate::record::{Batch, Boundary, Broken, DocumentError, Found, Item, Position, Pull, ReadStats, Tail};

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
    Stop::from(ConnectorError::io(position, action, source))
}

const SHORTER: (&str, &str) = ("it became shorter while it was read", "読んでいる間に短くなりました");
const WRITTEN_ANEW: (&str, &str) = ("it was written anew while it was read", "読んでいる間に書き直されました");

/// How far a document was read that is read in order.
struct Reached {
    /// Bytes of it.
    bytes: u64,
    end: End,
}

impl Reached {
    fn of(bytes: u64, found: &Found) -> Self {
        let end = match found.tail() {
            // At the very beginning there is nothing to go on behind.
            Tail::Whole(end) if end.offset == bytes && end.line > 1 => End::Line(end.line),
            Tail::Inside => End::Inside,
            Tail::Whole(_) | Tail::Unknown => End::Unknown,
        };
        Self { bytes, end }
    }
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
    /// What was read of the document, if it is read in order.
    trail: Trail,
    /// Whether the next batch says that what came before it comes again.
    begins_anew: bool,
    /// Whether this read goes on with one before it.
    goes_on: bool,
    /// Whether it has given records.
    has_given: bool,
}

impl Pump {
    pub(super) fn new(
        config: Arc<FileConfig>,
        location: Arc<dyn Location>,
        request: ReadRequest,
        sender: mpsc::Sender<Result<Batch, ConnectorError>>,
    ) -> Self {
        let (state, stats) = (State::new(), ReadStats::default());
        let (trail, begins_anew, goes_on, has_given) = (Trail::default(), false, false, false);
        Self { config, location, request, sender, state, stats, counted: 0, trail, begins_anew, goes_on, has_given }
    }

    /// Reads what is planned; `names` are those of all documents that are there. Blocks.
    pub(super) fn run(mut self, plan: Plan, names: &[Arc<str>]) {
        if let Err(Stop::Failed(mut error)) = self.read(plan, names) {
            self.turn_back(&mut error);
            // Nobody listens any more if this fails, and then nobody wants to know.
            let _ = self.sender.blocking_send(Err(*error));
        }
    }

    /// A document that is not what it was is told of once; the next read begins it anew.
    fn turn_back(&mut self, error: &mut ConnectorError) {
        let ConnectorError::Changed { records, is_stale, .. } = error else { return };
        *records = (*records).max(self.state.records);
        match self.request.compares_reads {
            true => {
                *is_stale = self.goes_on && !self.has_given;
                // What counts equal records reads all then; so does what does not know any more what was known before it.
                self.state.begin_whole_anew(!self.request.counts_equals && !self.goes_on);
                (self.begins_anew, self.request.resume_inside) = (true, false);
            }
            false => self.state.begin_anew(),
        }
        // As above.
        let _ = self.send(Vec::new(), None);
    }

    fn read(&mut self, plan: Plan, names: &[Arc<str>]) -> Result<(), Stop> {
        let keeps = plan.known.is_some();
        self.state.files = plan.known.unwrap_or_default();
        (self.state.adds, self.state.done, self.begins_anew) = (plan.adds, plan.done, plan.begins_anew);
        self.goes_on = plan.gone.is_some() || plan.steps.iter().any(|step| step.resume.is_some());
        self.state.validators = plan.validators;
        self.stats.not_modified += plan.unchanged;
        if let Some(stopped) = plan.gone {
            self.state.document.clone_from(&stopped.document);
            return Err(stopped.changed(("it is gone", "なくなりました")).into());
        }
        let is_one = names.len() == 1 && plan.steps.len() == 1;
        for Step { entry, opened, skip, from, resume } in plan.steps {
            let opened = match opened {
                Some(opened) => Ok(opened),
                None => self.location.open(&entry).map(Shared::new),
            };
            let content = match opened {
                Err(error) if !is_one && error.is_missing() => {
                    tracing::warn!(file = %entry.name, "`{}` vanished before it was read; it is passed over", entry.name);
                    continue;
                }
                opened => opened?,
            };
            let known = self.entry(&entry.name, content, (skip, from), resume)?;
            if keeps {
                self.state.done.add(&entry.name, known);
            }
        }
        self.state.end(names.iter().map(|name| &**name));
        self.send(Vec::new(), None)
    }

    /// Reads what is in a file or the like: a document, or an archive of some, behind so many records, which end there.
    fn entry(
        &mut self,
        name: &Arc<str>,
        mut content: Shared,
        (skip, from): (u64, Option<Boundary>),
        resume: Option<State>,
    ) -> Result<Known, Stop> {
        let stamp = content.stamp().map_err(|error| failed(beginning(name), "reading its size", error))?;
        if stamp.size > SIZE_LIMIT_BYTES {
            let (path, size, limit) = (name.to_string(), stamp.size, SIZE_LIMIT_BYTES);
            return Err(ConnectorError::FileTooLarge { path, size, limit }.into());
        }
        self.state.turn_to(name, &stamp);
        self.state.has_grown = resume.as_ref().is_some_and(|before| before.is_before(&stamp));
        self.state.validators = content.validators();
        (self.counted, self.trail) = (0, Trail::default());
        let start = start_of(&mut content).and_then(|start| content.rewind().map(|()| start));
        let start = start.map_err(|error| failed(beginning(name), "reading it", error))?;
        let meter = Meter::default();
        let codec = self.config.compression.of(&start);
        if let Some(before) = &resume {
            // What is read here and there has its directory at its end.
            let may_grow = codec.map_or(!self.config.document.format.seeks(), |codec| codec != Codec::Zip);
            before.same_document(&stamp, may_grow)?;
            let same = before.same_beginning(&stamp, &mut content);
            same.map_err(|error| failed(beginning(name), "reading it", error))??;
        }
        let mut reached = None;
        if codec == Some(Codec::Zip) {
            content.fetch().map_err(|error| failed(beginning(name), "reading it", error))?;
            self.archive(name, content.clone(), &meter, resume)?;
        } else if self.config.document.format.seeks() && codec.is_none() {
            content.fetch().map_err(|error| failed(beginning(name), "reading it", error))?;
            let mut found = Found::new(name.clone(), None, skip);
            let document = Counted { inner: content.clone(), meter: meter.clone() };
            self.seeking(document, &mut found, &meter, "reading it")?;
            self.send_rest(&mut found)?;
        } else {
            let document = Watched { inner: content.clone(), trail: self.trail.clone() };
            let document = Counted { inner: document, meter: meter.clone() };
            reached = Some(match from.filter(|from| codec.is_none() && from.offset > 0) {
                Some(from) => self.rest(name, document, &meter, skip, from, stamp.size)?,
                None => self.document(name, document, &meter, skip, Some(stamp.size))?,
            });
        }
        let now = content.stamp().map_err(|error| failed(beginning(name), "reading its size", error))?;
        unchanged(name, &stamp, &now)?;
        // What came to it while it was read is in the records; what comes now is not.
        let (stamp, end) = match reached {
            Some(Reached { bytes, end }) if bytes == now.size => (now, end),
            Some(Reached { bytes, end }) => (Stamp { size: bytes, modified_ns: 0, ..now }, end),
            None => (stamp, End::Unknown),
        };
        // Whoever compares whole reads has it read again next time.
        let is_unsure = self.request.compares_reads && self.state.has_grown && !self.state.adds;
        let stamp = if is_unsure { Stamp { modified_ns: 0, inode: 0, ..stamp } } else { stamp };
        let known = Known::of(&stamp, self.state.records.max(skip), end, &mut content);
        let known = known.map_err(|error| failed(beginning(name), "reading it", error))?;
        match self.trail.fingerprint() {
            Some(read) if read.bytes == stamp.size && !known.begins_with(read) => Err(changed(name, WRITTEN_ANEW)),
            _ => Ok(known),
        }
    }

    fn archive(&mut self, name: &Arc<str>, content: Shared, meter: &Meter, resume: Option<State>) -> Result<(), Stop> {
        let refuse = |error| failed(beginning(name), "decompressing it", error);
        let mut archive = Archive::open(content, meter.clone()).map_err(refuse)?;
        let mut members = archive.members(self.config.member.as_ref()).map_err(refuse)?;
        let mut skip = 0;
        let mut first = 0;
        if let Some(State { member: Some(member), records, .. }) = resume {
            skip = records;
            if members.iter().all(|other| other.name != member) {
                // A version that had other names read them in their order.
                members.sort_by(|one, other| one.old_name.cmp(&other.old_name));
            }
            let is_it = |other: &Member| other.name == member || other.old_name == member;
            first = members.iter().position(is_it).unwrap_or_default();
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
    ) -> Result<Reached, Stop> {
        let mut found = Found::new(name.clone(), None, skip);
        let opened =
            Input::new(bytes, meter, self.config.compression.inside(self.config.document.format == Format::Excel));
        let mut input = opened.map_err(|error| failed(beginning(name), "decompressing it", error))?;
        let action =
            if input.codec().is_some() || self.state.member.is_some() { "decompressing it" } else { "reading it" };
        let is_compressed = input.codec().is_some();
        if size.is_some() && !is_compressed {
            found = found.noting_ends();
        }
        match self.config.document.format {
            Format::Avro => {
                let rows = Avro::open(&mut input).map_err(|error| self.broken(&mut found, action, error.into()))?;
                self.pulled(&mut TypedRows(rows), &mut found, meter, action)?;
            }
            Format::Parquet | Format::Excel => {
                let spooled = spooled(input).map_err(|error| failed(beginning(name), action, error))?;
                self.seeking(spooled, &mut found, meter, action)?;
            }
            Format::Ndjson | Format::Json | Format::Csv | Format::Fixed | Format::Xml => {
                let document = Document::new(self.config.document.clone());
                self.pushed(document, &mut input, &mut found, meter, action)?;
            }
        }
        if !is_compressed && size.is_some_and(|size| meter.taken() < size) {
            return Err(changed(name, SHORTER));
        }
        self.send_rest(&mut found)?;
        Ok(Reached::of(meter.taken(), &found))
    }

    /// Reads a document from a place on that lies behind its first `skip` records.
    fn rest(
        &mut self,
        name: &Arc<str>,
        mut content: impl Read + Seek,
        meter: &Meter,
        skip: u64,
        from: Boundary,
        size: u64,
    ) -> Result<Reached, Stop> {
        const ACTION: &str = "reading it";
        if from.offset > size {
            return Err(changed(name, ("it became shorter", "短くなりました")));
        }
        let mut document = Document::new(self.config.document.clone());
        let mut found = Found::behind(name.clone(), skip).noting_ends();
        // What all records depend on stands at the beginning; those that are there, too, are passed over.
        let mut passed = Found::new(name.clone(), None, u64::MAX);
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut ended = false;
        while !ended && !document.knows_columns() {
            self.go_on()?;
            let read = fill(&mut content, &mut buffer).map_err(|error| failed(beginning(name), ACTION, error))?;
            ended = read < buffer.len();
            let fed = document.feed(&buffer[..read], ended, &mut passed);
            fed.map_err(|error| self.broken(&mut passed, ACTION, error.into()))?;
        }
        // More than the one byte before, so that it is known what this read began behind.
        let window = start_of_window(from.offset);
        let mut before = Vec::new();
        let sought = content.seek(SeekFrom::Start(window));
        let read = sought.and_then(|_| content.by_ref().take(from.offset - window).read_to_end(&mut before));
        read.map_err(|error| failed(beginning(name), ACTION, error))?;
        let last = before.last().copied().filter(|_| before.len() as u64 == from.offset - window);
        if !last.is_some_and(|last| document.jump(from, last, &mut found)) {
            return Err(changed(name, ("it was written anew", "書き直されました")));
        }
        let taken = meter.taken();
        self.pushed(document, &mut content, &mut found, meter, ACTION)?;
        let reached = from.offset + (meter.taken() - taken);
        if reached < size {
            return Err(changed(name, SHORTER));
        }
        self.send_rest(&mut found)?;
        Ok(Reached::of(reached, &found))
    }

    /// Reads a document that has to be read here and there.
    fn seeking(
        &mut self,
        document: impl Read + Seek + Send + 'static,
        found: &mut Found,
        meter: &Meter,
        action: &'static str,
    ) -> Result<(), Stop> {
        if self.config.document.format == Format::Parquet {
            let rows = Parquet::open(document).map_err(|error| self.broken(found, action, error.into()))?;
            return self.pulled(&mut TypedRows(rows), found, meter, action);
        }
        let config = self.config.document.clone();
        let read = excel::with_rows(document, &config.excel, &config.csv.header, |rows| {
            self.pulled(rows, found, meter, action)
        });
        match read {
            Ok(read) => read,
            Err(error) => Err(self.broken(found, action, error)),
        }
    }

    /// Hands the bytes of a text to its parser.
    fn pushed(
        &mut self,
        mut document: Document,
        input: &mut impl Read,
        found: &mut Found,
        meter: &Meter,
        action: &'static str,
    ) -> Result<(), Stop> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            self.go_on()?;
            let read = match fill(input, &mut buffer) {
                Ok(read) => read,
                Err(error) => return Err(self.broken(found, action, error.into())),
            };
            let last = read < buffer.len();
            let parsed = document.feed(&buffer[..read], last, found);
            self.send_full(found, meter)?;
            parsed.map_err(|error| self.broken(found, action, error.into()))?;
            if last {
                return Ok(());
            }
        }
    }

    /// Has a reader that asks for its bytes find records.
    fn pulled(
        &mut self,
        rows: &mut dyn Pull,
        found: &mut Found,
        meter: &Meter,
        action: &'static str,
    ) -> Result<(), Stop> {
        loop {
            self.go_on()?;
            let more = rows.next(found);
            self.send_full(found, meter)?;
            if !more.map_err(|error| self.broken(found, action, error))? {
                return Ok(());
            }
        }
    }

    fn go_on(&self) -> Result<(), Stop> {
        if self.request.cancel.is_cancelled() { Err(ConnectorError::Cancelled.into()) } else { Ok(()) }
    }

    /// Hands on what is enough for a page.
    fn send_full(&mut self, found: &mut Found, meter: &Meter) -> Result<(), Stop> {
        self.stats.bytes += meter.taken() - self.counted;
        self.counted = meter.taken();
        while let Some(items) = found.take_full(self.request.max_items, self.request.max_bytes) {
            self.send(items, found.taken_to())?;
        }
        Ok(())
    }

    /// The document can not be read any further; what came whole before the place is handed on.
    fn broken(&mut self, found: &mut Found, action: &'static str, error: Broken) -> Stop {
        let stop = match error {
            Broken::Document(error) => ConnectorError::document(found.here(None), error).into(),
            Broken::Io(error) => failed(found.here(None), action, error),
        };
        self.send_rest(found).err().unwrap_or(stop)
    }

    fn send_rest(&mut self, found: &mut Found) -> Result<(), Stop> {
        while !found.is_empty() {
            let items = found.take(self.request.max_items, self.request.max_bytes);
            self.send(items, found.taken_to())?;
        }
        Ok(())
    }

    /// Hands on a page; `boundary` is where its last record ends, if that is known.
    fn send(&mut self, items: Vec<Item>, boundary: Option<Boundary>) -> Result<(), Stop> {
        if let Some(last) = items.last() {
            (self.state.records, self.state.boundary) = (last.position().record, boundary);
            self.state.fingerprint = self.trail.fingerprint().filter(|read| read.bytes > 0);
            self.has_given = true;
        }
        // Otherwise a read begins at the first document, whatever its checkpoint.
        let is_exact = self.request.resume_inside || self.state.adds;
        self.state.is_exact = is_exact;
        let checkpoint = self.state.write()?;
        let mut stats = std::mem::take(&mut self.stats);
        stats.requests += self.location.requests();
        let begins_anew = std::mem::take(&mut self.begins_anew);
        let batch = Batch { items, checkpoint, is_exact, begins_anew, is_addition: self.state.adds, stats };
        self.sender.blocking_send(Ok(batch)).map_err(|_| Stop::Abandoned)
    }
}

/// What comes compressed or out of an archive, unpacked into a file without a name.
fn spooled(input: impl Read) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    let written = io::copy(&mut input.take(SPOOL_LIMIT_BYTES + 1), &mut file)?;
    if written > SPOOL_LIMIT_BYTES {
        let message = format!("it has to be unpacked to be read, and has more than {SPOOL_LIMIT_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    file.rewind()?;
    Ok(file)
}

fn changed(name: &Arc<str>, change: (&'static str, &'static str)) -> Stop {
    ConnectorError::Changed { document: name.to_string(), records: 0, change, is_stale: false }.into()
}

/// A document may grow while it is read, and what came is read. One that was written over is neither the old nor the new.
fn unchanged(name: &Arc<str>, before: &Stamp, now: &Stamp) -> Result<(), Stop> {
    if now.size < before.size {
        return Err(changed(name, SHORTER));
    }
    if now.size == before.size && now.modified_ns != before.modified_ns {
        return Err(changed(name, WRITTEN_ANEW));
    }
    Ok(())
}

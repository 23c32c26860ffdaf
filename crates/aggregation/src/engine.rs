//! The engine child from the outside: started ahead, given rows as files, asked once, listened to, and killed when it is late.
//!
//! A child serves one request. Whatever happens to it becomes an [`EngineError`] with a reason and a remedy; nothing of it
//! reaches this process but frames of bounded size.

mod child;
mod error;
mod spool;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use matome_columnar::{Fault, RowWriter};
use matome_model::engine::{
    Ask, Frame, Limits, Parameter, Probed, Request, Run, RunHeader, RunTrailer, Table, TableInput, Validated,
};
use matome_model::field_error::Words;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub use child::resident_bytes;
pub use error::EngineError;
pub use spool::{Identity, TableSpool};

use child::EngineChild;

/// Seconds that a validation may take; it runs no query.
const VALIDATION_SECONDS: u64 = 10;

/// Validations that may work at the same time.
const VALIDATION_SLOTS: usize = 2;

/// Time beyond its own limit after which a child is killed. The child gives a better reason when it still can.
const GRACE: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(3) };

/// How to start engine children.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The executable; `matome` itself.
    pub program: PathBuf,
    /// Its arguments; those that make it an engine child.
    pub arguments: Vec<OsString>,
    /// The folder in which each child gets a folder of its own; made when missing.
    pub scratch_root: PathBuf,
    /// Runs and previews that may work at the same time; at least 1. One more child waits for its request.
    pub slots: usize,
}

/// Starts engine children and speaks with them. Clones share the slots.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: EngineSettings,
    slots: Arc<Semaphore>,
    /// Validations have slots of their own: they are brief, and a user waits for them while long runs hold the others.
    validations: Arc<Semaphore>,
    waiting: Mutex<Option<EngineChild>>,
}

impl Engine {
    /// An engine without any child yet; the first comes with the first request, or with [`Engine::warm`].
    #[must_use]
    pub fn new(settings: EngineSettings) -> Self {
        let slots = Arc::new(Semaphore::new(settings.slots.max(1)));
        let validations = Arc::new(Semaphore::new(VALIDATION_SLOTS));
        Self { shared: Arc::new(Shared { settings, slots, validations, waiting: Mutex::new(None) }) }
    }

    /// Removes what children of an earlier process left in the scratch folder.
    ///
    /// Only before the first child, and when no other process uses the same folder.
    ///
    /// # Errors
    /// When a leftover cannot be removed.
    pub fn clear_scratch(&self) -> io::Result<()> {
        child::clear_scratch(&self.shared.settings.scratch_root)
    }

    /// Starts a child ahead of its request. Call within a runtime.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn warm(&self) -> Result<(), EngineError> {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.as_mut().is_none_or(|child| !child.is_alive()) {
            *waiting = Some(EngineChild::start(&self.shared.settings)?);
        }
        Ok(())
    }

    /// Whether `sql` may run, and which tables it reads. Whether they exist is not asked here.
    ///
    /// # Errors
    /// [`EngineError::Refused`] when it may not; others when the child failed.
    pub async fn validate(&self, sql: &str) -> Result<Validated, EngineError> {
        let (mut child, _slot) = self.child(&self.shared.validations).await?;
        let deadline = Instant::now() + Duration::from_secs(VALIDATION_SECONDS) + GRACE;
        let request = Request::new(Ask::Validate { sql: sql.to_owned() });
        child.ask(&request, deadline, VALIDATION_SECONDS).await?;
        match child.frame(deadline, VALIDATION_SECONDS).await? {
            (Frame::Reply, payload) => message(&payload),
            (frame, payload) => Err(unexpected(frame, &payload)),
        }
    }

    /// Has a child try what it is not to do: which walls of the kernel stand around it.
    ///
    /// # Errors
    /// When no child can be started or it failed.
    pub async fn probe(&self) -> Result<Probed, EngineError> {
        let (mut child, _slot) = self.child(&self.shared.validations).await?;
        let deadline = Instant::now() + Duration::from_secs(VALIDATION_SECONDS) + GRACE;
        child.ask(&Request::new(Ask::Probe), deadline, VALIDATION_SECONDS).await?;
        match child.frame(deadline, VALIDATION_SECONDS).await? {
            (Frame::Reply, payload) => message(&payload),
            (frame, payload) => Err(unexpected(frame, &payload)),
        }
    }

    /// Takes a child for one run; waits for a free slot. Next come the rows of its tables, then [`Preparation::run`].
    ///
    /// # Errors
    /// When no child can be started.
    pub async fn prepare(&self) -> Result<Preparation, EngineError> {
        let (child, slot) = self.child(&self.shared.slots).await?;
        Ok(Preparation { child, slot, tables: Vec::new() })
    }

    async fn child(&self, slots: &Arc<Semaphore>) -> Result<(EngineChild, OwnedSemaphorePermit), EngineError> {
        let slot = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
        let waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let child = match waiting.and_then(|mut child| child.is_alive().then_some(child)) {
            Some(child) => child,
            None => EngineChild::start(&self.shared.settings)?,
        };
        // The next request need not wait for a process to start. A failure here shows at that request.
        if let Err(err) = self.warm() {
            tracing::debug!(error = %err, "no engine child could be started ahead");
        }
        Ok((child, slot))
    }
}

/// A child that has not been asked yet, and the tables it was given.
#[derive(Debug)]
pub struct Preparation {
    child: EngineChild,
    slot: OwnedSemaphorePermit,
    tables: Vec<TableInput>,
}

impl Preparation {
    /// The child's folder: private, removed with the child.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.child.scratch()
    }

    /// Gives the child a table, whose rows go into the returned writer. Finish that before [`Preparation::run`].
    ///
    /// # Errors
    /// When the file cannot be made.
    pub async fn table(&mut self, table: Table) -> Result<TableSpool, EngineError> {
        let file = format!("table-{}", self.tables.len());
        let spool = TableSpool::create(&self.child.scratch().join(&file)).await?;
        self.tables.push(TableInput { table, file });
        Ok(spool)
    }

    /// Runs `sql` over the tables given, with values for its parameters. Returns when planning is done and rows may come.
    ///
    /// # Errors
    /// When the query is refused, fails or meets a limit before its first row, or the child does.
    pub async fn run(
        mut self,
        sql: &str,
        parameters: BTreeMap<String, Parameter>,
        limits: Limits,
        preview_rows: Option<u64>,
    ) -> Result<RowStream, EngineError> {
        let deadline = Instant::now() + Duration::from_secs(limits.seconds) + GRACE;
        self.child.watch_memory(resident_limit(&limits));
        let run = Run { sql: sql.to_owned(), tables: self.tables, limits, preview_rows, parameters };
        self.child.ask(&Request::new(Ask::Run(run)), deadline, limits.seconds).await?;
        let header = match self.child.frame(deadline, limits.seconds).await? {
            (Frame::Header, payload) => message(&payload)?,
            (frame, payload) => return Err(unexpected(frame, &payload)),
        };
        Ok(RowStream {
            child: self.child,
            _slot: self.slot,
            header,
            trailer: None,
            deadline,
            limits,
            received: 0,
            decoder: StreamDecoder::new(),
            batches: VecDeque::new(),
            rows: RowWriter::default(),
            written: 0,
            at: 0,
        })
    }
}

/// The rows of a run, as they come. Dropping it ends the child.
#[derive(Debug)]
pub struct RowStream {
    child: EngineChild,
    _slot: OwnedSemaphorePermit,
    header: RunHeader,
    trailer: Option<RunTrailer>,
    deadline: Instant,
    limits: Limits,
    /// Bytes of Arrow data received.
    received: u64,
    decoder: StreamDecoder,
    batches: VecDeque<RecordBatch>,
    rows: RowWriter,
    /// Rows of the result so far.
    written: u64,
    /// Rows of the first of `batches` that are gone already.
    at: usize,
}

/// A value of the result that has no form in JSON, as a fault of the query.
fn no_json(fault: Fault, row: u64) -> EngineError {
    let Fault { column, reason, hint } = fault;
    EngineError::Query {
        reason: Box::new(Words::new(
            format!("column `{column}`, row {row} of the result: {}", reason.english),
            format!("結果の列`{column}`、{row}行目: {}", reason.japanese),
        )),
        hint: Box::new(hint.into()),
    }
}

impl RowStream {
    /// The tables as the engine saw them.
    #[must_use]
    pub fn header(&self) -> &RunHeader {
        &self.header
    }

    /// Names and Arrow types of the result's columns; empty until the first page was asked for.
    #[must_use]
    pub fn columns(&self) -> Vec<(String, String)> {
        let schema = self.decoder.schema();
        let fields = schema.iter().flat_map(|schema| schema.fields().iter());
        fields.map(|field| (field.name().clone(), field.data_type().to_string())).collect()
    }

    /// What the whole run was like; known once [`RowStream::next_page`] has returned `None`.
    #[must_use]
    pub fn summary(&self) -> Option<&RunTrailer> {
        self.trailer.as_ref()
    }

    /// The next rows, each the text of one JSON object: at least one and at most `max_rows`, ending with the row that reaches
    /// `max_bytes`. `None` when the result is complete. The text is JSON but not canonical.
    ///
    /// Not to be cancelled half-way and called again; the child waits while nobody calls.
    ///
    /// # Errors
    /// When the query fails or meets a limit, a value has no JSON form, or the child ends before the result does.
    pub async fn next_page(&mut self, max_rows: usize, max_bytes: usize) -> Result<Option<Vec<String>>, EngineError> {
        let mut page = Vec::new();
        let mut bytes = 0;
        while page.len() < max_rows && bytes < max_bytes {
            let Some(batch) = self.batches.front() else {
                if self.trailer.is_some() || !self.receive().await? {
                    break;
                }
                continue;
            };
            if self.at == batch.num_rows() {
                self.batches.pop_front();
                self.at = 0;
                continue;
            }
            let (row, fault) = self.rows.row(batch, self.at);
            self.at += 1;
            self.written += 1;
            if let Some(fault) = fault {
                return Err(no_json(fault, self.written));
            }
            let row = String::from_utf8(row).expect("JSON was made of valid UTF-8");
            bytes += row.len();
            page.push(row);
        }
        Ok(if page.is_empty() { None } else { Some(page) })
    }

    /// Takes one frame; false when it was the last.
    async fn receive(&mut self) -> Result<bool, EngineError> {
        match self.child.frame(self.deadline, self.limits.seconds).await? {
            (Frame::Arrow, payload) => {
                self.received += payload.len() as u64;
                // The child counts bytes in memory, which padding and metadata of many small batches can exceed here.
                if self.received > self.limits.bytes.saturating_mul(4).saturating_add(64 << 20) {
                    return Err(EngineError::Engine { reason: "the child sent more than its limit".to_owned() });
                }
                let mut buffer = Buffer::from_vec(payload);
                while !buffer.is_empty() {
                    let batch = self
                        .decoder
                        .decode(&mut buffer)
                        .map_err(|err| EngineError::Engine { reason: err.to_string() })?;
                    self.batches.extend(batch);
                }
                Ok(true)
            }
            (Frame::Trailer, payload) => {
                self.trailer = Some(message(&payload)?);
                Ok(false)
            }
            (frame, payload) => Err(unexpected(frame, &payload)),
        }
    }
}

/// Bytes of memory that a child may really hold. Its own pool counts what its operators ask for; this is for what they do not:
/// one huge value, a leak. Twice the pool and what the process needs besides, half a gigabyte.
fn resident_limit(limits: &Limits) -> u64 {
    limits.memory_bytes.saturating_mul(2).saturating_add(512 << 20)
}

fn message<T: DeserializeOwned>(payload: &[u8]) -> Result<T, EngineError> {
    serde_json::from_slice(payload).map_err(|err| EngineError::Engine { reason: format!("unreadable message: {err}") })
}

fn unexpected(frame: Frame, payload: &[u8]) -> EngineError {
    if frame == Frame::Failure {
        return message(payload).map_or_else(|err| err, EngineError::from_failure);
    }
    EngineError::Engine { reason: format!("unexpected {frame:?} frame") }
}

#[cfg(test)]
mod tests;

//! Reads one file after the other on a thread of its own and hands batches over a small channel.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;

use super::config::FileConfig;
use super::document::Document;
use super::roots::{FileRoots, Listed};
use super::text::{CHUNK_BYTES, Input, fill};
use crate::error::ConnectorError;
use crate::read::{ReadRequest, Reader};
use crate::record::{Batch, DocumentError, Found, Item, Position, ReadStats};

/// Batches that wait to be asked for.
const WAITING_BATCHES: usize = 2;

/// A longer file is not begun: at the rate of a disk it would hold its source for hours.
const FILE_LIMIT_BYTES: u64 = 256 << 30;

/// What a checkpoint says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    version: u32,
    /// Everything was read; the next read starts anew.
    complete: bool,
    /// The file of the last committed record; all before it, by name, are done.
    document: Option<String>,
    /// Records of it that are committed.
    records: u64,
    size: u64,
    modified_ns: i64,
    inode: u64,
}

pub(super) struct FileReader {
    batches: mpsc::Receiver<Result<Batch, ConnectorError>>,
    complete: bool,
}

/// Finds the files and starts to read them.
pub(super) async fn start(
    config: Arc<FileConfig>,
    roots: Arc<FileRoots>,
    request: ReadRequest,
) -> Result<FileReader, ConnectorError> {
    let resume = match &request.checkpoint {
        Some(checkpoint) if request.resume_inside => {
            let state: State = serde_json::from_str(checkpoint.get()).map_err(ConnectorError::Checkpoint)?;
            Some(state).filter(|state| !state.complete && state.document.is_some())
        }
        _ => None,
    };
    let (sender, batches) = mpsc::channel(WAITING_BATCHES);
    let (config_there, roots_there) = (config.clone(), roots.clone());
    let files = tokio::task::spawn_blocking(move || roots_there.find(&config_there.path));
    let files = files.await.map_err(|_| ConnectorError::Broken)??;
    tokio::task::spawn_blocking(move || {
        let several = files.len() > 1;
        let mut pump = Pump { config, roots, request, sender, state: State::default(), stats: ReadStats::default() };
        if let Err(Stop::Failed(error)) = pump.run(&files, several, resume) {
            // Nobody listens any more if this fails, and then nobody wants to know.
            let _ = pump.sender.blocking_send(Err(*error));
        }
    });
    Ok(FileReader { batches, complete: false })
}

impl Reader for FileReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, ConnectorError>> {
        Box::pin(async move {
            if self.complete {
                return Ok(None);
            }
            let batch = self.batches.recv().await.unwrap_or(Err(ConnectorError::Broken))?;
            // The last checkpoint is the only one that says so.
            self.complete = serde_json::from_str::<State>(batch.checkpoint.get()).is_ok_and(|state| state.complete);
            Ok(Some(batch))
        })
    }
}

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

struct Pump {
    config: Arc<FileConfig>,
    roots: Arc<FileRoots>,
    request: ReadRequest,
    sender: mpsc::Sender<Result<Batch, ConnectorError>>,
    state: State,
    stats: ReadStats,
}

impl Pump {
    fn run(&mut self, files: &[Listed], several: bool, resume: Option<State>) -> Result<(), Stop> {
        self.state.version = 1;
        let mut first = 0;
        if let Some(document) = resume.as_ref().and_then(|state| state.document.as_deref()) {
            let gone = || ConnectorError::Changed {
                document: document.to_owned(),
                change: ("it is gone", "なくなりました"),
            };
            first = files.iter().position(|file| &*file.shown == document).ok_or_else(gone)?;
        }
        let mut resume = resume;
        for file in &files[first..] {
            let opened = match self.roots.open_file(file) {
                Err(ConnectorError::Io { source, .. }) if several && source.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(file = %file.shown, "`{}` vanished before it was read; it is passed over", file.shown);
                    resume = None;
                    continue;
                }
                opened => opened?,
            };
            self.file(file, opened, resume.take())?;
        }
        self.state.complete = true;
        self.send(Vec::new())
    }

    fn file(&mut self, listed: &Listed, file: std::fs::File, resume: Option<State>) -> Result<(), Stop> {
        let here = Position { document: listed.shown.clone(), request: None, line: None, record: 0 };
        let failed = |position: Position, action: &'static str, source: io::Error| {
            Stop::from(ConnectorError::Io { position: Box::new(position), action, source })
        };
        let metadata = file.metadata().map_err(|error| failed(here.clone(), "reading its size", error))?;
        if metadata.size() > FILE_LIMIT_BYTES {
            let (path, size, limit) = (listed.shown.to_string(), metadata.size(), FILE_LIMIT_BYTES);
            return Err(ConnectorError::FileTooLarge { path, size, limit }.into());
        }
        self.state.identify(&listed.shown, &metadata);
        let skip = match &resume {
            Some(before) => before.same_file(&self.state)?,
            None => 0,
        };
        let mut found = Found::new(listed.shown.clone(), None, skip);
        let mut input =
            Input::new(file, self.config.compression).map_err(|error| failed(here.clone(), "reading it", error))?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut document = Document::new(self.config.document.clone());
        let mut counted = 0;
        loop {
            if self.request.cancel.is_cancelled() {
                return Err(ConnectorError::Cancelled.into());
            }
            let read = fill(&mut input, &mut buffer).map_err(|error| {
                let action = if input.is_compressed() { "decompressing it" } else { "reading it" };
                failed(found.here(None), action, error)
            })?;
            self.stats.bytes += input.taken() - counted;
            counted = input.taken();
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
        if !input.is_compressed() && input.taken() < metadata.size() {
            let change = ("it became shorter while it was read", "読んでいる間に短くなりました");
            return Err(ConnectorError::Changed { document: listed.shown.to_string(), change }.into());
        }
        self.send_rest(&mut found)
    }

    /// The file can not be taken apart any further; what came before the place is handed on.
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
        let checkpoint: Box<RawValue> = to_raw_value(&self.state).map_err(ConnectorError::Checkpoint)?;
        // Otherwise a read begins at the first document, whatever its checkpoint.
        let is_exact = self.request.resume_inside;
        let batch = Batch { items, checkpoint, is_exact, stats: std::mem::take(&mut self.stats) };
        self.sender.blocking_send(Ok(batch)).map_err(|_| Stop::Abandoned)
    }
}

impl State {
    fn identify(&mut self, document: &str, metadata: &Metadata) {
        self.document = Some(document.to_owned());
        self.records = 0;
        self.size = metadata.size();
        self.modified_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        self.inode = metadata.ino();
    }

    /// How many records to pass over in `now`, if it is still the file that this state is about. It may have grown.
    fn same_file(&self, now: &Self) -> Result<u64, ConnectorError> {
        let change = if now.inode != self.inode {
            ("it was replaced", "別のファイルに置き換えられました")
        } else if now.size < self.size {
            ("it became shorter", "短くなりました")
        } else if now.size == self.size && now.modified_ns != self.modified_ns {
            ("it was written anew", "書き直されました")
        } else {
            return Ok(self.records);
        };
        Err(ConnectorError::Changed { document: self.document.clone().unwrap_or_default(), change })
    }
}

//! What was sent to a source, read as a connector reads: push by push, each behind the records of it that are
//! committed.
//!
//! Where a read stands is in the rows of the pushes and not in the checkpoint, so neither a reset nor a change of the
//! config has anything read twice. The checkpoint says what a page brings to those rows, in whose transaction they
//! change ([`progress`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_connector::file::{DocumentConfig, Format};
use matome_connector::push::{Body, PushConfig};
use matome_connector::{Batch, Connector, ConnectorError, Item, ReadRequest, ReadStats, Reader};
use matome_store::db::Db;
use matome_store::error::StoreError;
use matome_store::pushes::{self, Progress, Unread};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// Bodies with fewer bytes are taken apart where they are; the others leave the async threads alone.
const INLINE_BYTES: usize = 64 << 10;

/// What a checkpoint says: what its page brings.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct State {
    version: u32,
    /// Pushes of which nothing is left.
    read: Vec<i64>,
    /// The push that the page ends in.
    push: Option<i64>,
    /// Records of it up to there.
    records: u64,
}

/// What a page with this checkpoint brings to the pushes that it is made of.
pub(crate) fn progress(checkpoint: &str) -> Progress {
    let State { read, push, records, .. } = serde_json::from_str(checkpoint).unwrap_or_default();
    Progress { whole: read, part: push.map(|id| (id, records)) }
}

/// Reads what waits of one source stream.
pub(crate) struct PushConnector {
    pub(crate) db: Db,
    pub(crate) source_id: i64,
    pub(crate) stream: String,
    pub(crate) config: PushConfig,
}

impl Connector for PushConnector {
    fn read(&self, request: ReadRequest) -> BoxFuture<'_, Result<Box<dyn Reader>, ConnectorError>> {
        let reader = PushReader {
            db: self.db.clone(),
            source_id: self.source_id,
            stream: self.stream.clone(),
            config: self.config.clone(),
            documents: HashMap::new(),
            request,
            waiting: VecDeque::new(),
            last_id: 0,
            open: None,
            read: Vec::new(),
            told: Vec::new(),
            bytes: 0,
        };
        async move { Ok(Box::new(reader) as Box<dyn Reader>) }.boxed()
    }

    /// A checkpoint tells of its own batch alone.
    fn may_be_gathered(&self) -> bool {
        false
    }
}

struct PushReader {
    db: Db,
    source_id: i64,
    stream: String,
    config: PushConfig,
    documents: HashMap<&'static str, Arc<DocumentConfig>>,
    request: ReadRequest,
    waiting: VecDeque<Unread>,
    /// Of the pushes that were fetched.
    last_id: i64,
    open: Option<Open>,
    /// Pushes whose last record is in the batch that is being made.
    read: Vec<i64>,
    /// Those of the batch before: a batch without records goes with the page of that one, and says what both read.
    told: Vec<i64>,
    bytes: u64,
}

struct Open {
    id: i64,
    size: usize,
    body: Body,
    /// Records up to the end of what was taken.
    records: u64,
}

impl Reader for PushReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, ConnectorError>> {
        self.batch().boxed()
    }
}

impl PushReader {
    async fn batch(&mut self) -> Result<Option<Batch>, ConnectorError> {
        let mut items: Vec<Item> = Vec::new();
        let mut size = 0;
        while items.len() < self.request.max_items && (size < self.request.max_bytes || items.is_empty()) {
            if self.request.cancel.is_cancelled() {
                return Err(ConnectorError::Cancelled);
            }
            let Some(open) = self.open().await? else { break };
            let room = (self.request.max_items - items.len(), self.request.max_bytes.saturating_sub(size));
            let (open, taken) = take(open, room).await?;
            size += taken.iter().map(|item| item.raw().len()).sum::<usize>();
            items.extend(taken);
            if open.body.is_done() {
                self.bytes += u64::try_from(open.size).unwrap_or(u64::MAX);
                self.read.push(open.id);
            } else {
                self.open = Some(open);
            }
        }
        if items.is_empty() && self.read.is_empty() {
            return Ok(None);
        }
        let read = match items.is_empty() {
            true => self.told.drain(..).chain(self.read.drain(..)).collect(),
            false => std::mem::take(&mut self.read),
        };
        self.told.clone_from(&read);
        let part = self.open.as_ref().filter(|_| !items.is_empty());
        let state =
            State { version: 1, read, push: part.map(|open| open.id), records: part.map_or(0, |open| open.records) };
        let checkpoint: Box<RawValue> = to_raw_value(&state).map_err(ConnectorError::Checkpoint)?;
        let stats = ReadStats { bytes: std::mem::take(&mut self.bytes), ..ReadStats::default() };
        Ok(Some(Batch { items, checkpoint, is_exact: true, begins_anew: false, is_addition: false, stats }))
    }

    /// The push that is to be read on, taken out; `None` when nothing waits.
    async fn open(&mut self) -> Result<Option<Open>, ConnectorError> {
        if let Some(open) = self.open.take() {
            return Ok(Some(open));
        }
        if self.waiting.is_empty() {
            let mut reader = self.db.read().await.map_err(from_store)?;
            let (id, room) = (self.last_id, self.request.max_bytes);
            let waiting = pushes::next(&mut reader.conn(), self.source_id, &self.stream, id, room).await;
            self.waiting = waiting.map_err(from_store)?.into();
        }
        let Some(push) = self.waiting.pop_front() else { return Ok(None) };
        self.last_id = push.id;
        let format = Format::WORDS.iter().find(|(word, _)| *word == push.format);
        let (word, format) = *format.ok_or_else(|| {
            let what = format!("`{}` of push {}", push.format, push.id);
            from_store(StoreError::Inconsistent { column: "pushes.format".to_owned(), what })
        })?;
        let document = self.documents.entry(word).or_insert_with(|| self.config.document(format)).clone();
        let (size, name) = (push.body.len(), format!("push {}", push.id).into());
        let headers = push.headers.map(Into::into);
        let body = Body::new(document, name, push.body, push.records_read).with_headers(headers);
        Ok(Some(Open { id: push.id, size, body, records: push.records_read }))
    }
}

async fn take(mut open: Open, (items, bytes): (usize, usize)) -> Result<(Open, Vec<Item>), ConnectorError> {
    let is_small = open.size < INLINE_BYTES;
    let work = move || {
        let taken = open.body.take(items, bytes);
        if let Some(last) = taken.last() {
            open.records = last.position().record;
        }
        (open, taken)
    };
    match is_small {
        true => Ok(work()),
        false => tokio::task::spawn_blocking(work).await.map_err(|_| ConnectorError::Broken),
    }
}

fn from_store(err: StoreError) -> ConnectorError {
    ConnectorError::Store(Box::new(err))
}

//! Raw records: written a page at a time, read as one stream per source.
//!
//! A page goes in one transaction with its checkpoint, quarantine and counters ([`commit_page`]): everything
//! or nothing, and nothing when the lease was lost.

mod first_load;
mod identity;
mod insert;
mod occurrences;
pub mod renewal;
mod repeats;
mod stream;
pub mod tombstones;
mod versions;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use data_encoding::HEXLOWER;
use matome_model::clock::Timestamp;
use matome_model::source::Dedupe;
use matome_model::task::{Fence, LaneKind};
use serde_json::value::RawValue;

use crate::checkpoints::{self, Advance};
use crate::counters;
use crate::db::Conn;
use crate::error::{Result, StoreError};
use crate::inbox::{self, Taken};
use crate::lease;
use crate::pushes;
use crate::quarantine::{self, BadRecord};
use crate::source_schemas::{self, NewVersion};
use crate::tasks;
use crate::triggers;

use identity::Selection;
use identity::{content_key, copy_key};
pub use occurrences::{Occurrences, SeenInPage};
use repeats::Settled;
pub use repeats::{KeyedRead, Room, any as any_repeats};
pub use stream::{StoredRecord, Versions, stream, stream_versions};

/// Records of one page in the source's order, their texts in one buffer.
#[derive(Clone, Debug, Default)]
pub struct Records {
    text: String,
    metadata: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Ends of its texts; they begin where the entry before ends.
    text_end: usize,
    metadata_end: usize,
    hash: [u8; 32],
    key: Option<[u8; 16]>,
}

/// One record of a page.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Canonical JSON text of the record.
    pub text: &'a str,
    /// SHA-256 of `text`.
    pub hash: &'a [u8; 32],
    /// Identity by its key; there with [`Dedupe::Key`].
    pub key: Option<[u8; 16]>,
    /// Canonical JSON text of its metadata.
    pub metadata: &'a str,
}

impl Records {
    /// Room for `records` records of `bytes` bytes together.
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        Self {
            text: String::with_capacity(bytes),
            metadata: String::with_capacity(records * 64),
            entries: Vec::with_capacity(records),
        }
    }

    /// Adds a record: its canonical text, the hash of that, its identity with [`Dedupe::Key`], and its metadata,
    /// which `metadata` appends as a canonical JSON object.
    pub fn push(&mut self, text: &str, hash: [u8; 32], key: Option<[u8; 16]>, metadata: impl FnOnce(&mut String)) {
        self.text.push_str(text);
        metadata(&mut self.metadata);
        self.entries.push(Entry { text_end: self.text.len(), metadata_end: self.metadata.len(), hash, key });
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all canonical texts together.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The records in order.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        let (mut text_start, mut metadata_start) = (0, 0);
        self.entries.iter().map(move |entry| {
            let record = RecordRef {
                text: &self.text[text_start..entry.text_end],
                hash: &entry.hash,
                key: entry.key,
                metadata: &self.metadata[metadata_start..entry.metadata_end],
            };
            (text_start, metadata_start) = (entry.text_end, entry.metadata_end);
            record
        })
    }

    /// Record `index` of the page.
    ///
    /// # Panics
    /// When there are not that many.
    pub fn get(&self, index: usize) -> RecordRef<'_> {
        let (text_start, metadata_start) = match index {
            0 => (0, 0),
            _ => (self.entries[index - 1].text_end, self.entries[index - 1].metadata_end),
        };
        let entry = &self.entries[index];
        RecordRef {
            text: &self.text[text_start..entry.text_end],
            hash: &entry.hash,
            key: entry.key,
            metadata: &self.metadata[metadata_start..entry.metadata_end],
        }
    }
}

/// Makes what a task says of itself after a page (a JSON object) out of what the page did.
#[derive(Clone)]
pub struct Progress(pub Arc<dyn Fn(PageCounts) -> Box<RawValue> + Send + Sync>);

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress(..)")
    }
}

/// What one page transaction stores.
#[derive(Clone, Debug)]
pub struct Page {
    /// Proof that the worker holds the lane of this source stream.
    pub fence: Fence,
    /// The task that reads.
    pub task_id: i64,
    /// Time that its records carry as `acquired_at`.
    pub acquired_at: Timestamp,
    /// What makes two records the same.
    pub dedupe: Dedupe,
    /// What this read has seen so far; only [`Dedupe::Rows`] needs it. The caller moves it on with
    /// [`Occurrences::advance`] once the page is committed.
    pub occurrences: Option<Arc<Mutex<Occurrences>>>,
    /// What this read knows of its keys; only [`Dedupe::Key`] needs it, and without it a page is compared by itself. The
    /// caller moves it on with [`KeyedRead::advance`].
    pub keyed: Option<Arc<Mutex<KeyedRead>>>,
    /// The records.
    pub records: Records,
    /// What cannot be stored.
    pub quarantined: Vec<BadRecord>,
    /// How the checkpoint moves; names the source and its stream.
    pub checkpoint: Advance,
    /// Whether this page ends the read: the source then counts as fetched at `acquired_at`, and the task as read.
    pub ends_read: bool,
    /// The page stands for a read by itself, as each page of a stream does: its source counts as fetched.
    pub is_fetch: bool,
    /// The page has no records of its own: it settles what still waits of a read that has ended.
    pub settles: Option<Room>,
    /// What the task shows after it; committed with the page, so that the next attempt of a task goes on counting
    /// where this one stopped.
    pub progress: Option<Progress>,
    /// The records of the inbox that this page is made of, if it is.
    pub inbox: Option<Taken>,
    /// How far it brings the pushes that it is made of, if it is.
    pub pushes: Option<pushes::Progress>,
    /// What it brings to the schema of its source stream.
    pub schema: SchemaStep,
    /// What it does about keys that its source no longer has.
    pub deletes: tombstones::Deletes,
}

/// What a page brings to the schema of its source stream.
#[derive(Clone, Debug, Default)]
pub struct SchemaStep {
    /// A version with what is new in its records.
    pub new: Option<NewVersion>,
    /// Whether the schema has learned enough when this page ends the read.
    pub settles: bool,
    /// [`source_schemas::SourceSchema::accepts`] as the read found it.
    pub accepts: i64,
}

/// What a page transaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Records of the page, bad ones included.
    pub read: u64,
    /// Records that are new, new versions included.
    pub stored: u64,
    /// Of these, new versions of a key that was stored before.
    pub updated: u64,
    /// Records that were stored before.
    pub duplicate: u64,
    /// Records that went to quarantine, also those that were there already.
    pub quarantined: u64,
    /// Tombstones, which are no records.
    pub deleted: u64,
}

/// Result of a page transaction; holds once it is committed.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// The counts.
    pub counts: PageCounts,
    /// What the page adds to [`Page::occurrences`] or [`Page::keyed`].
    pub seen: SeenInPage,
}

const FETCHED: &str = "update data_sources set last_fetched_at = $2 where id = $1";

const MAX_ID: &str = "select coalesce(max(id), 0) as id from acquired_data where source_id = $1";

/// Stores a page: records that are new, quarantine, checkpoint, counters. To be called in
/// [`crate::db::Db::write_page`]; what it returns holds after the commit.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is lost, [`StoreError::CheckpointMoved`] when somebody reset the
/// checkpoint; when the database refuses a statement or is gone. The caller's transaction must roll back.
pub async fn commit_page(conn: &mut Conn<'_>, page: &Page) -> Result<Committed> {
    let key = &page.checkpoint.key;
    lease::peek(conn, &page.fence).await?;

    let mut selection = match page.settles {
        None => identity::select(conn, page).await?,
        Some(room) => versions::settle_next(conn, page, room).await?,
    };
    let last_record_id = repeats::settle(conn, page, &selection.settled).await?;
    let (deleted, last_tombstone_id) = tombstones::insert(conn, page).await?;
    let last_record_id = last_record_id.max(last_tombstone_id);
    let last_record_id = last_record_id.max(insert::insert(conn, page, &selection.new).await?);
    repeats::insert(conn, page, &selection.waiting).await?;
    // What is begun anew meets it again.
    if page.keyed.is_some() || page.occurrences.is_some() && page.checkpoint.is_exact {
        repeats::note_met(conn, page, &selection.seen.met).await?;
    }
    if let Some(read) = &page.keyed {
        selection.seen.is_noted = tombstones::note(conn, page, read, &selection.seen.given).await?;
    }
    let counts = PageCounts { deleted, ..count(page, &selection) };
    let new_in_quarantine =
        quarantine::insert(conn, key.source_id, &key.stream, page.task_id, page.acquired_at, &page.quarantined).await?;
    if let Some(taken) = &page.inbox {
        let new: HashSet<usize> = selection.new.iter().map(|new| new.index).collect();
        inbox::settle(conn, &taken.records, &new, &page.quarantined, page.acquired_at).await?;
    }
    let less_waits = match &page.pushes {
        Some(progress) => Some(pushes::settle(conn, key.source_id, progress, page.acquired_at).await?),
        None => None,
    };
    if let Some(new) = &page.schema.new {
        source_schemas::add(conn, key.source_id, &key.stream, new, page.task_id, page.acquired_at).await?;
    }
    if page.ends_read || page.is_fetch {
        // Source before lane: the order of the API's changes, so that neither waits for the other.
        conn.execute(FETCHED, &[key.source_id.into(), page.acquired_at.into()]).await?;
        if page.schema.settles {
            source_schemas::settle(conn, key.source_id, &key.stream, page.schema.accepts).await?;
        }
    }

    if counts.stored > 0 || counts.deleted > 0 {
        triggers::note(conn, LaneKind::Source, key.source_id, page.acquired_at).await?;
    }

    lease::lock(conn, &page.fence).await?;
    let was_ended = page.inbox.as_ref().is_some_and(|taken| taken.read_ended);
    let ended = page.ends_read || page.settles.is_some() || was_ended || !page.deletes.gone.is_empty();
    checkpoints::advance(conn, &page.checkpoint, last_record_id, ended, page.fence.lease_epoch, page.acquired_at)
        .await?;
    let stored = i64::try_from(counts.stored + counts.deleted).unwrap_or(i64::MAX);
    counters::add(conn, counters::ACQUIRED_DATA, key.source_id, &key.stream, stored).await?;
    let new_in_quarantine = i64::try_from(new_in_quarantine).unwrap_or(i64::MAX);
    counters::add(conn, counters::QUARANTINE, key.source_id, &key.stream, new_in_quarantine).await?;
    if let Some(less) = less_waits {
        counters::add(conn, counters::PUSHES, key.source_id, &key.stream, -less.pushes).await?;
        counters::add(conn, counters::PUSH_BYTES, key.source_id, &key.stream, -less.bytes).await?;
    }
    let progress = page.progress.as_ref().map(|Progress(of)| of(counts));
    tasks::made_progress(conn, &page.fence, progress.as_deref()).await?;
    Ok(Committed { counts, seen: selection.seen })
}

/// A record that waits for the end of its read is read in one page, and new or known in another.
fn count(page: &Page, selection: &Selection) -> PageCounts {
    let settled = || selection.settled.iter();
    let settled_new: u64 = settled().map(Settled::changes).sum();
    let settled_all: u64 = settled().map(|one| one.records).sum();
    let new_versions = selection.new.iter().filter(|new| new.version > 1).count();
    let decided = page.records.len() - selection.new.len() - selection.waiting.len();
    PageCounts {
        read: as_u64(page.records.len() + page.quarantined.len()),
        stored: as_u64(selection.new.len()) + settled_new,
        updated: as_u64(new_versions) + settled_new,
        duplicate: as_u64(decided) + settled_all - settled_new,
        quarantined: as_u64(page.quarantined.len()),
        deleted: 0,
    }
}

/// Id of the newest record of a source; 0 when it has none. Records up to it never become more.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn watermark(conn: &mut Conn<'_>, source_id: i64) -> Result<i64> {
    match checkpoints::watermark(conn, source_id).await? {
        // Rows that the original application made have no checkpoint.
        0 => conn.fetch_one(MAX_ID, &[source_id.into()]).await?.int("id"),
        id => Ok(id),
    }
}

fn as_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(crate) fn encode_hex(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

fn as_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn encode_error(err: sqlx::error::BoxDynError) -> StoreError {
    StoreError::Database(sqlx::Error::Encode(err))
}

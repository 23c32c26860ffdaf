//! Acquired records as lists show them: newest first, those of deleted sources hidden at once.

use matome_model::clock::Timestamp;
use serde_json::value::RawValue;

use super::{Column, ColumnKind, Listing, OF_DELETED_SOURCES, Order};
use crate::counters;
use crate::db::{Conn, Row};
use crate::error::{Result, StoreError};

/// One stored record.
#[derive(Clone, Debug)]
pub struct AcquiredRecord {
    /// Its id.
    pub id: i64,
    /// The source it came from.
    pub source_id: i64,
    /// The record itself.
    pub raw_data: Box<RawValue>,
    /// Where and how it was read.
    pub metadata: Box<RawValue>,
    /// SHA-256 of its canonical form, 64 hex digits.
    pub data_hash: Option<String>,
    /// When it was read.
    pub acquired_at: Timestamp,
    /// When it was stored.
    pub created_at: Timestamp,
    /// Stream of the source.
    pub stream: String,
    /// Version of its key, from 1.
    pub version: i64,
    /// Its identity under the source's dedupe mode, 16 bytes; `None` when it has none.
    pub key_hash: Option<Vec<u8>>,
    /// It is a tombstone: from then on its source had the key no more. `raw_data` is that of the version before.
    pub is_deleted: bool,
}

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);
const ACQUIRED_AT: Column = Column::new("acquired_at", "t.acquired_at", ColumnKind::Time);

/// Filters by key and version, and the order of a history.
pub const SOURCE: Column = Column::new("source", "t.source_id", ColumnKind::Reference);
/// See [`SOURCE`].
pub const STREAM: Column = Column::new("stream", "t.stream", ColumnKind::Text).filter_only();
/// See [`SOURCE`].
pub const KEY_HASH: Column = Column::new("key_hash", "t.key_hash", ColumnKind::Key).nullable().filter_only();
/// See [`SOURCE`].
pub const VERSION: Column = Column::new("version", "t.version", ColumnKind::Int).filter_only();

/// Holds for a record that was the newest version of its key at a time, when the key was not gone.
pub(super) const NEWEST_AT: &str =
    "not t.is_deleted and t.acquired_at <= {as_of} and (t.key_hash is null or not exists (
    select 1 from acquired_data n
    where n.source_id = t.source_id and n.stream = t.stream and n.key_hash = t.key_hash and n.version > t.version
        and n.acquired_at <= {as_of}))";

/// The newest version of each key that is not gone; a record without a key is one.
pub const LISTING_OF_NEWEST: Listing = Listing {
    visible: "not t.is_deleted and (t.key_hash is null or not exists (
    select 1 from acquired_data n
    where n.source_id = t.source_id and n.stream = t.stream and n.key_hash = t.key_hash and n.version > t.version))",
    ..LISTING
};

/// The list.
pub const LISTING: Listing = Listing {
    table: "acquired_data",
    select: "t.id, t.source_id, t.raw_data, t.metadata, t.data_hash, t.acquired_at, t.created_at, t.stream, t.version,
    t.key_hash, t.is_deleted",
    visible: "1 = 1",
    gone: OF_DELETED_SOURCES,
    columns: &[
        ID,
        SOURCE,
        STREAM,
        KEY_HASH,
        VERSION,
        Column::new("deleted", "t.is_deleted", ColumnKind::Bool).filter_only(),
        Column::new("data_hash", "t.data_hash", ColumnKind::Text).filter_only(),
        ACQUIRED_AT,
        Column::new("created_at", "t.created_at", ColumnKind::Time).filter_only(),
    ],
    search: &[],
    default_order: &[Order { column: &ACQUIRED_AT, descending: true }, Order { column: &ID, descending: true }],
};

impl TryFrom<&Row> for AcquiredRecord {
    type Error = StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.int("id")?,
            source_id: row.int("source_id")?,
            raw_data: row.json("raw_data")?,
            metadata: row.json("metadata")?,
            data_hash: row.opt_text("data_hash")?,
            acquired_at: row.time("acquired_at")?,
            created_at: row.time("created_at")?,
            stream: row.text("stream")?,
            version: row.int("version")?,
            key_hash: row.opt_bytes("key_hash")?,
            is_deleted: row.bool("is_deleted")?,
        })
    }
}

/// The number of all records as [`count`] finds it, for [`Listing::first_page`].
pub const TOTAL: &str = counters::ACQUIRED_OF_LIVE_SOURCES;

/// Records of all sources, or of one, from their counters: the time does not depend on how many there are.
///
/// # Errors
/// When the database is gone.
pub async fn count(conn: &mut Conn<'_>, source_id: Option<i64>) -> Result<i64> {
    counters::of_live_sources(conn, counters::ACQUIRED_DATA, source_id).await
}

const VERSION_BEFORE: &str = "select id from acquired_data
where source_id = $1 and stream = $2 and key_hash = $3 and version < $4
order by source_id desc, stream desc, key_hash desc, version desc limit 1";

/// The id of the version before a record, as far as it is kept.
///
/// # Errors
/// When the database is gone.
pub async fn version_before(conn: &mut Conn<'_>, record: &AcquiredRecord) -> Result<Option<i64>> {
    let Some(key) = &record.key_hash else { return Ok(None) };
    let args = [record.source_id.into(), (&record.stream).into(), key.as_slice().into(), record.version.into()];
    conn.fetch_optional(VERSION_BEFORE, &args).await?.map(|row| row.int("id")).transpose()
}

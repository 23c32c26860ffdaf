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
}

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);
const ACQUIRED_AT: Column = Column::new("acquired_at", "t.acquired_at", ColumnKind::Time);

/// The list.
pub const LISTING: Listing = Listing {
    table: "acquired_data",
    select: "t.id, t.source_id, t.raw_data, t.metadata, t.data_hash, t.acquired_at, t.created_at, t.stream, t.version",
    visible: "1 = 1",
    gone: OF_DELETED_SOURCES,
    columns: &[
        ID,
        Column::new("source", "t.source_id", ColumnKind::Reference),
        Column::new("stream", "t.stream", ColumnKind::Text).filter_only(),
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
        })
    }
}

/// Records of all sources, or of one, from their counters: the time does not depend on how many there are.
///
/// # Errors
/// When the database is gone.
pub async fn count(conn: &mut Conn<'_>, source_id: Option<i64>) -> Result<i64> {
    counters::of_live_sources(conn, counters::ACQUIRED_DATA, source_id).await
}

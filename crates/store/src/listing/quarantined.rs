//! Quarantined records as lists show them.

use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use serde_json::value::RawValue;

use super::{Column, ColumnKind, Listing, OF_DELETED_SOURCES, Order};
use crate::counters;
use crate::db::{Conn, Row};
use crate::error::{Result, StoreError};

/// A record that could not be stored as it is, with its bytes.
#[derive(Clone, Debug)]
pub struct QuarantinedRecord {
    /// Its id.
    pub id: i64,
    /// The source it came from.
    pub source_id: i64,
    /// Stream of the source.
    pub stream: String,
    /// The task that met it last.
    pub task_id: i64,
    /// Code of the reason.
    pub reason: String,
    /// The reason in words; in English only when an earlier version wrote it.
    pub detail: Words,
    /// Where it stood: `{"document", "line", "record"}`.
    pub position: Box<RawValue>,
    /// Its bytes, cut when it was too long.
    pub raw: Vec<u8>,
    /// Length at the source, in bytes.
    pub raw_length: i64,
    /// How often it was read.
    pub seen: i64,
    /// When it was met first.
    pub created_at: Timestamp,
    /// When it was met last.
    pub last_seen_at: Timestamp,
    /// One of [`STATUSES`].
    pub status: String,
    /// The task that reads it again, or did.
    pub replay_task: Option<i64>,
    /// What came of it: `stored`, `duplicate`, `quarantined`.
    pub outcome: Option<String>,
    /// Why it is in quarantine again.
    pub outcome_detail: Option<Words>,
    /// When it was read again.
    pub replayed_at: Option<Timestamp>,
}

/// What a record in quarantine is: kept aside, on its way back, or read again.
pub const STATUSES: &[&str] = &["held", "replaying", "replayed"];

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);

/// The list, newest first.
pub const LISTING: Listing = Listing {
    table: "quarantine",
    select:
        "t.id, t.source_id, t.stream, t.task_id, t.reason, t.detail, t.detail_japanese, t.position, t.raw, t.raw_length,
    t.seen,    t.created_at, t.last_seen_at, t.status, t.replay_task, t.outcome, t.outcome_detail,
    t.outcome_detail_japanese, t.replayed_at",
    visible: "1 = 1",
    gone: OF_DELETED_SOURCES,
    columns: &[
        ID,
        Column::new("source", "t.source_id", ColumnKind::Reference),
        Column::new("stream", "t.stream", ColumnKind::Text).filter_only(),
        Column::new("task", "t.task_id", ColumnKind::Int).filter_only(),
        Column::new("reason", "t.reason", ColumnKind::Text).filter_only(),
        Column::new("status", "t.status", ColumnKind::Choice(STATUSES)).filter_only(),
        Column::new("created_at", "t.created_at", ColumnKind::Time).filter_only(),
        Column::new("last_seen_at", "t.last_seen_at", ColumnKind::Time).filter_only(),
    ],
    search: &[],
    default_order: &[Order { column: &ID, descending: true }],
};

fn in_both(english: String, japanese: Option<String>) -> Words {
    match japanese {
        Some(japanese) => Words { english, japanese },
        None => Words::quoted(english),
    }
}

impl TryFrom<&Row> for QuarantinedRecord {
    type Error = StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.int("id")?,
            source_id: row.int("source_id")?,
            stream: row.text("stream")?,
            task_id: row.int("task_id")?,
            reason: row.text("reason")?,
            detail: in_both(row.text("detail")?, row.opt_text("detail_japanese")?),
            position: row.json("position")?,
            raw: row.bytes("raw")?,
            raw_length: row.int("raw_length")?,
            seen: row.int("seen")?,
            created_at: row.time("created_at")?,
            last_seen_at: row.time("last_seen_at")?,
            status: row.text("status")?,
            replay_task: row.opt_int("replay_task")?,
            outcome: row.opt_text("outcome")?,
            outcome_detail: match row.opt_text("outcome_detail")? {
                Some(english) => Some(in_both(english, row.opt_text("outcome_detail_japanese")?)),
                None => None,
            },
            replayed_at: row.opt_time("replayed_at")?,
        })
    }
}

/// Quarantined records of all sources, or of one, from their counters.
///
/// # Errors
/// When the database is gone.
pub async fn count(conn: &mut Conn<'_>, source_id: Option<i64>) -> Result<i64> {
    counters::of_live_sources(conn, counters::QUARANTINE, source_id).await
}

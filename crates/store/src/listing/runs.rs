//! Runs of aggregations as lists show them, newest first.

use matome_model::clock::Timestamp;
use serde_json::value::RawValue;

use super::{Column, ColumnKind, Gone, Listing, Order};
use crate::aggregation_runs::Effect;
use crate::db::Row;
use crate::error::{Result, StoreError};

/// One run.
#[derive(Clone, Debug)]
pub struct AggregationRun {
    /// Its id.
    pub id: i64,
    /// Its aggregation.
    pub source_id: i64,
    /// The task that computed it.
    pub task_id: i64,
    /// One of [`STATUSES`].
    pub status: String,
    /// One of [`Effect::WORDS`].
    pub mode: String,
    /// The rows that it made; 0 before its publication.
    pub rows: i64,
    /// Rows of other runs that it took the place of.
    pub superseded: i64,
    /// Whether its rows can still be read.
    pub kept: bool,
    /// Its parameters, a JSON object.
    pub params: Box<RawValue>,
    /// Its inputs with watermarks and columns, a JSON array.
    pub inputs: Box<RawValue>,
    /// The physical plan.
    pub plan: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When its rows became visible.
    pub published_at: Option<Timestamp>,
}

/// The states of a run: being computed, shown, not shown any more, never shown.
pub const STATUSES: &[&str] = &["building", "current", "superseded", "abandoned"];

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);

/// The runs of all aggregations that are there.
pub const LISTING: Listing = Listing {
    table: "aggregation_runs",
    select:
        "t.id, t.source_id, t.task_id, t.status, t.mode, t.row_count, t.superseded_count, t.params, t.inputs, t.plan,
    t.started_at, t.published_at, t.rows_removed_at,
    case when t.status = 'current' then 0 else coalesce(t.replaced_by, 0) end as replaced_by,
    (select s.kept_from_run from aggregation_sources s where s.id = t.source_id) as kept_from_run",
    visible: "1 = 1",
    gone: Some(Gone {
        spares: "t.source_id not in (select s.id from aggregation_sources s where s.deleted_at is not null)",
        any: "select s.id from aggregation_sources s where s.deleted_at is not null limit 1",
    }),
    columns: &[
        ID,
        Column::new("source", "t.source_id", ColumnKind::Reference),
        Column::new("task", "t.task_id", ColumnKind::Int).filter_only(),
        Column::new("status", "t.status", ColumnKind::Choice(STATUSES)).filter_only(),
        Column::new("mode", "t.mode", ColumnKind::Choice(Effect::WORDS)).filter_only(),
    ],
    search: &[],
    default_order: &[Order { column: &ID, descending: true }],
};

impl TryFrom<&Row> for AggregationRun {
    type Error = StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        let status = row.text("status")?;
        let kept = match status.as_str() {
            "current" => true,
            "superseded" => {
                row.opt_time("rows_removed_at")?.is_none() && row.int("replaced_by")? > row.int("kept_from_run")?
            }
            _ => false,
        };
        Ok(Self {
            id: row.int("id")?,
            source_id: row.int("source_id")?,
            task_id: row.int("task_id")?,
            status,
            mode: row.text("mode")?,
            rows: row.int("row_count")?,
            superseded: row.int("superseded_count")?,
            kept,
            params: row.json("params")?,
            inputs: row.json("inputs")?,
            plan: row.opt_text("plan")?,
            started_at: row.time("started_at")?,
            published_at: row.opt_time("published_at")?,
        })
    }
}

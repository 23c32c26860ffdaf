//! Aggregated rows as lists show them: those of each aggregation's current runs, newest run first, the rows of
//! a run in the order in which its SQL put them.

use matome_model::clock::Timestamp;
use serde_json::value::RawValue;

use super::{Column, ColumnKind, Gone, Listing, Order};
use crate::db::{Conn, Row};
use crate::error::{Result, StoreError};

/// One row of a result.
#[derive(Clone, Debug)]
pub struct AggregatedRow {
    /// Its id.
    pub id: i64,
    /// The aggregation that made it.
    pub source_id: i64,
    /// The row itself.
    pub data: Box<RawValue>,
    /// Its run and lineage.
    pub metadata: Box<RawValue>,
    /// Time of the run.
    pub aggregated_at: Timestamp,
    /// When it was stored.
    pub created_at: Timestamp,
    /// Its run; none for rows of the original application.
    pub run_id: Option<i64>,
}

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);
const AGGREGATED_AT: Column = Column::new("aggregated_at", "t.aggregated_at", ColumnKind::Time);

const SELECT: &str = "t.id, t.source_id, t.data, t.metadata, t.aggregated_at, t.created_at, t.run_id";
const COLUMNS: &[Column] = &[
    ID,
    Column::new("source", "t.source_id", ColumnKind::Reference),
    Column::new("run", "t.run_id", ColumnKind::Int).filter_only(),
    AGGREGATED_AT,
    Column::new("created_at", "t.created_at", ColumnKind::Time).filter_only(),
];
const ORDER: &[Order] = &[Order { column: &AGGREGATED_AT, descending: true }, Order { column: &ID, descending: false }];

/// The rows that are shown: those of current runs that no published run took from view, and rows of the original
/// application, which have no run.
pub const LISTING: Listing = Listing {
    table: "aggregated_data",
    select: SELECT,
    // Looked up row by row, so that the index of the order gives the first page at once however many runs are shown.
    visible: "(t.run_id is null or exists (
        select 1 from aggregation_runs r where r.id = t.run_id and r.status = 'current'))
    and (t.superseded_by is null or not exists (
        select 1 from aggregation_runs p where p.id = t.superseded_by and p.published_at is not null))",
    gone: Some(Gone {
        spares: "t.source_id not in (select s.id from aggregation_sources s where s.deleted_at is not null)",
        any: "select s.id from aggregation_sources s where s.deleted_at is not null limit 1",
    }),
    columns: COLUMNS,
    search: &[],
    default_order: ORDER,
};

/// The rows that a run made, shown or not, as far as they are kept; for `?run=ID`.
pub const LISTING_OF_RUNS: Listing = Listing {
    visible: "exists (select 1 from aggregation_runs r where r.id = t.run_id and r.published_at is not null)",
    ..LISTING
};

const COUNT: &str = "select cast(coalesce(sum(s.visible_rows), 0) as bigint)
    + (select count(*) from aggregated_data t where t.run_id is null
        and t.source_id not in (select d.id from aggregation_sources d where d.deleted_at is not null)) as n
from aggregation_sources s where s.deleted_at is null";
const COUNT_OF_SOURCE: &str = "select cast(coalesce(sum(s.visible_rows), 0) as bigint)
    + (select count(*) from aggregated_data t where t.run_id is null and t.source_id = $1) as n
from aggregation_sources s where s.id = $1 and s.deleted_at is null";

const VERSION: &str = "select coalesce(s.current_run_id, 0) as run_id, s.kept_from_run,
    (select r.published_at from aggregation_runs r where r.id = s.current_run_id) as published_at,
    case when exists (select 1 from aggregated_data t where t.source_id = s.id and t.run_id is null) then 1 else 0 end as adopted
from aggregation_sources s where s.id = $1 and s.deleted_at is null";

/// What is shown of one aggregation: as long as this stays the same, so do all lists of its rows by [`LISTING`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The aggregation.
    pub source_id: i64,
    /// Its newest published run; 0 when it has none.
    pub run_id: i64,
    /// When that was published: run ids come again in a database that was restored.
    pub published_at: Option<Timestamp>,
    /// The oldest run whose version is kept.
    pub kept_from_run: i64,
}

/// The version of an aggregation that is shown. None: there is no such aggregation, or it has rows of the original application,
/// which that may still change.
///
/// # Errors
/// When the database is gone.
pub async fn version(conn: &mut Conn<'_>, source_id: i64) -> Result<Option<Version>> {
    let Some(row) = conn.fetch_optional(VERSION, &[source_id.into()]).await? else { return Ok(None) };
    if row.int("adopted")? == 1 {
        return Ok(None);
    }
    Ok(Some(Version {
        source_id,
        run_id: row.int("run_id")?,
        published_at: row.opt_time("published_at")?,
        kept_from_run: row.int("kept_from_run")?,
    }))
}

impl TryFrom<&Row> for AggregatedRow {
    type Error = StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.int("id")?,
            source_id: row.int("source_id")?,
            data: row.json("data")?,
            metadata: row.json("metadata")?,
            aggregated_at: row.time("aggregated_at")?,
            created_at: row.time("created_at")?,
            run_id: row.opt_int("run_id")?,
        })
    }
}

/// Shown rows of all aggregations, or of one, as their publications counted them.
///
/// Rows of the original application have no run and are counted one by one.
///
/// # Errors
/// When the database is gone.
pub async fn count(conn: &mut Conn<'_>, source_id: Option<i64>) -> Result<i64> {
    match source_id {
        None => conn.fetch_one(COUNT, &[]).await?.int("n"),
        Some(id) => conn.fetch_one(COUNT_OF_SOURCE, &[id.into()]).await?.int("n"),
    }
}

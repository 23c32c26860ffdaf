//! Results of aggregations: rows are written in fenced pages under a run that nobody sees, then the run
//! becomes current in one transaction.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use matome_model::clock::Timestamp;
use matome_model::task::{Fence, LaneKind};
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;

use crate::db::{Arg, Conn};
use crate::error::Result;
use crate::lease;

const ABANDON: &str = "update aggregation_runs set status = 'abandoned'
where source_id = $1 and status = 'building'";

const BEGIN: &str = "insert into aggregation_runs (source_id, task_id, status, inputs, started_at)
values ($1, $2, 'building', $3, $4)
returning id";

const INSERT_POSTGRES: &str = "
insert into aggregated_data (source_id, data, metadata, aggregated_at, created_at, run_id)
select $1, row_text::jsonb, $3, $4, $4, $5
from unnest($2::text[]) with ordinality as page (row_text, place)
order by place";

const INSERT_SQLITE: &str = "
insert into aggregated_data (source_id, data, metadata, aggregated_at, created_at, run_id)
select $1, page.value, $3, $4, $4, $5
from json_each($2) as page
order by page.key";

const SUPERSEDE: &str = "update aggregation_runs set status = 'superseded'
where source_id = $1 and status = 'current'";

const MAKE_CURRENT: &str = "update aggregation_runs
set status = 'current', row_count = $2, plan = $3, inputs = $4, published_at = $5
where id = $1 and status = 'building'";

const POINT_TO: &str = "update aggregation_sources set current_run_id = $2 where id = $1";

const COLLECT: &str = "delete from aggregated_data where id in (
    select d.id from aggregated_data d
    join aggregation_runs r on r.id = d.run_id
    where r.status in ('superseded', 'abandoned')
    limit $1
)";

/// Begins a run. A run of the same aggregation that a crash left unfinished is given up: its rows were never
/// seen and are collected.
///
/// # Errors
/// [`crate::error::StoreError::Fenced`] when the lease is lost.
pub async fn begin_run(
    conn: &mut Conn<'_>,
    fence: &Fence,
    source_id: i64,
    task_id: i64,
    inputs: &RawValue,
    now: Timestamp,
) -> Result<i64> {
    lease::peek(conn, fence).await?;
    conn.execute(ABANDON, &[source_id.into()]).await?;
    let row = conn.fetch_one(BEGIN, &[source_id.into(), task_id.into(), inputs.into(), now.into()]).await?;
    lease::lock(conn, fence).await?;
    row.int("id")
}

/// Adds a page of rows (JSON object texts, in their order) to a run.
///
/// # Errors
/// [`crate::error::StoreError::Fenced`] when the lease is lost.
pub async fn insert_page(
    conn: &mut Conn<'_>,
    fence: &Fence,
    source_id: i64,
    run_id: i64,
    rows: &[String],
    metadata: &RawValue,
    now: Timestamp,
) -> Result<()> {
    lease::peek(conn, fence).await?;
    let sql = conn.pick(INSERT_POSTGRES, INSERT_SQLITE);
    conn.execute(sql, &[source_id.into(), Arg::Texts(rows), metadata.into(), now.into(), run_id.into()]).await?;
    lease::lock(conn, fence).await
}

/// Makes a run the one that readers see; the one before is superseded and its rows are collected later.
///
/// # Errors
/// [`crate::error::StoreError::Fenced`] when the lease is lost.
#[expect(clippy::too_many_arguments, reason = "the columns of one row")]
pub async fn publish(
    conn: &mut Conn<'_>,
    fence: &Fence,
    source_id: i64,
    run_id: i64,
    row_count: i64,
    plan: &str,
    inputs: &RawValue,
    now: Timestamp,
) -> Result<()> {
    lease::peek(conn, fence).await?;
    conn.execute(SUPERSEDE, &[source_id.into()]).await?;
    conn.execute(MAKE_CURRENT, &[run_id.into(), row_count.into(), plan.into(), inputs.into(), now.into()]).await?;
    conn.execute(POINT_TO, &[source_id.into(), run_id.into()]).await?;
    // Source before lane: the order of the API's changes, so that neither waits for the other.
    lease::lock(conn, fence).await
}

/// Removes at most `limit` rows of runs that nobody sees any more; returns how many.
///
/// # Errors
/// When the database refuses it or is gone.
pub async fn collect_unseen(conn: &mut Conn<'_>, limit: i64) -> Result<u64> {
    conn.execute(COLLECT, &[limit.into()]).await
}

const STREAM_CURRENT: &str = "select d.id, d.aggregated_at, d.data from aggregated_data d
where d.source_id = $1 and (d.run_id is null or d.run_id = $2)";

/// One row of a result, as another aggregation reads it.
#[derive(Debug)]
pub struct ResultRow {
    /// `aggregated_data.id`.
    pub id: i64,
    /// Time of its run.
    pub aggregated_at: Timestamp,
    /// The row.
    pub data: Box<RawValue>,
}

/// The rows of one run of an aggregation (and those of the original application), in no order.
///
/// # Errors
/// The stream carries them: when the database refuses the statement or is gone.
pub fn stream_run<'s>(conn: &'s mut Conn<'_>, source_id: i64, run_id: i64) -> Result<BoxStream<'s, Result<ResultRow>>> {
    let rows = conn.fetch_stream(STREAM_CURRENT, &[source_id.into(), run_id.into()])?;
    Ok(rows
        .map(|row| {
            let row = row?;
            Ok(ResultRow { id: row.int("id")?, aggregated_at: row.time("aggregated_at")?, data: row.json("data")? })
        })
        .boxed())
}

const TABLES: &str = "select 'source' as kind, id, name, 0 as run_id, {is_keyed} as keyed
from data_sources where deleted_at is null
union all
select 'aggregation' as kind, id, name, coalesce(current_run_id, 0) as run_id, 0 as keyed
from aggregation_sources where deleted_at is null
order by name
limit 100000";
// A config that names a key and no mode has the mode `key`.
const IS_KEYED_POSTGRES: &str =
    "case when coalesce(config ->> 'dedupe', 'key') = 'key' and config ->> 'key' is not null then 1 else 0 end";
const IS_KEYED_SQLITE: &str = "(coalesce(json_extract(config, '$.dedupe'), 'key') = 'key'
    and json_extract(config, '$.key') is not null)";

/// Something that SQL can read as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryTable {
    /// A source's records, or an aggregation's current rows.
    pub kind: LaneKind,
    /// Id of the source or aggregation.
    pub id: i64,
    /// Its name: the table's name.
    pub name: String,
    /// The current run of an aggregation; 0 when it has none.
    pub run_id: i64,
    /// Whether the records of a source are versions of keys.
    pub keyed: bool,
}

/// All that SQL can read as a table.
///
/// # Errors
/// When the database refuses it or is gone.
pub async fn query_tables(conn: &mut Conn<'_>) -> Result<Vec<QueryTable>> {
    let sql = TABLES.replace("{is_keyed}", conn.pick(IS_KEYED_POSTGRES, IS_KEYED_SQLITE));
    let rows = conn.fetch_all(AssertSqlSafe(sql), &[]).await?;
    let table = |row: &crate::db::Row| {
        let kind = if row.text("kind")? == "source" { LaneKind::Source } else { LaneKind::Aggregation };
        let (id, name, run_id) = (row.int("id")?, row.text("name")?, row.int("run_id")?);
        Ok(QueryTable { kind, id, name, run_id, keyed: row.int("keyed")? == 1 })
    };
    rows.iter().map(table).collect()
}

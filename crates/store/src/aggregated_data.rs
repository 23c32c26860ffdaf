//! Rows of aggregations: written in fenced pages under a run that nobody sees until it is published
//! ([`crate::aggregation_runs`]), read as one version.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use matome_model::clock::Timestamp;
use matome_model::task::{Fence, LaneKind};
use serde_json::value::RawValue;
use sqlx::{AssertSqlSafe, SqlSafeStr};

use crate::db::{Arg, Conn};
use crate::error::Result;
use crate::lease;

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

// Each text is a key's hash with the row behind it.
const INSERT_KEYED_POSTGRES: &str = "
insert into aggregated_data (source_id, data, metadata, aggregated_at, created_at, run_id, key_hash)
select $1, substr(row_text, 33)::jsonb, $3, $4, $4, $5, left(row_text, 32)
from unnest($2::text[]) with ordinality as page (row_text, place)
order by place";

const INSERT_KEYED_SQLITE: &str = "
insert into aggregated_data (source_id, data, metadata, aggregated_at, created_at, run_id, key_hash)
select $1, substr(page.value, 33), $3, $4, $4, $5, substr(page.value, 1, 32)
from json_each($2) as page
order by page.key";

// Only what is shown: rows of runs that are, and not those that another published run took from view. Marks of a run
// that was given up mean nothing. The lane is ours, so none of this changes before our publication.
const SUPERSEDE_POSTGRES: &str = "update aggregated_data set superseded_by = $2
where source_id = $1 and key_hash = any($3) and run_id <> $2
    and exists (select 1 from aggregation_runs r where r.id = aggregated_data.run_id and r.status = 'current')
    and not exists (select 1 from aggregation_runs p where p.id = aggregated_data.superseded_by and p.published_at is not null)";

const SUPERSEDE_SQLITE: &str = "update aggregated_data set superseded_by = $2
where source_id = $1 and key_hash in (select value from json_each($3)) and run_id <> $2
    and exists (select 1 from aggregation_runs r where r.id = aggregated_data.run_id and r.status = 'current')
    and not exists (select 1 from aggregation_runs p where p.id = aggregated_data.superseded_by and p.published_at is not null)";

/// Characters of a key's hash in hexadecimal.
pub const KEY_HASH_CHARS: usize = 32;

/// Rows of a run that go in one transaction.
#[derive(Clone, Debug)]
pub struct Page {
    /// The aggregation.
    pub source_id: i64,
    /// The run.
    pub run_id: i64,
    /// JSON object texts, in their order.
    pub rows: Vec<String>,
    /// With a key: the hash of each row's key, [`KEY_HASH_CHARS`] hexadecimal digits.
    pub keys: Option<Keys>,
    /// What each row says of its run, a JSON object.
    pub metadata: Box<RawValue>,
    /// Time of the run.
    pub aggregated_at: Timestamp,
}

/// The keys of a page's rows.
#[derive(Clone, Debug)]
pub struct Keys {
    /// A hash for each row.
    pub hashes: Vec<String>,
    /// Whether rows that are shown leave with the publication of this run when a new one has their key.
    pub supersede: bool,
}

/// Adds a page of rows to a run; returns how many shown rows it will supersede.
///
/// # Errors
/// [`crate::error::StoreError::Fenced`] when the lease is lost, [`crate::error::StoreError::Unique`] when the run has a
/// row of one of these keys already.
pub async fn insert_page(conn: &mut Conn<'_>, fence: &Fence, page: &Page) -> Result<u64> {
    lease::peek(conn, fence).await?;
    let (source, run) = (page.source_id, page.run_id);
    let keyed: Vec<String>;
    let (sql, rows) = match &page.keys {
        None => (conn.pick(INSERT_POSTGRES, INSERT_SQLITE), &page.rows),
        Some(keys) => {
            keyed = keys.hashes.iter().zip(&page.rows).map(|(hash, row)| format!("{hash}{row}")).collect();
            (conn.pick(INSERT_KEYED_POSTGRES, INSERT_KEYED_SQLITE), &keyed)
        }
    };
    let metadata = (&*page.metadata).into();
    let args: [Arg<'_>; 5] = [source.into(), Arg::Texts(rows), metadata, page.aggregated_at.into(), run.into()];
    conn.execute(sql, &args).await?;
    let superseded = match &page.keys {
        Some(keys) if keys.supersede => {
            let sql = conn.pick(SUPERSEDE_POSTGRES, SUPERSEDE_SQLITE);
            conn.execute(sql, &[source.into(), run.into(), Arg::Texts(&keys.hashes)]).await?
        }
        _ => 0,
    };
    lease::lock(conn, fence).await?;
    Ok(superseded)
}

const HAS_KEY: (&str, &str) = (
    "select key_hash from aggregated_data where source_id = $1 and run_id = $2 and key_hash = any($3) limit 1",
    "select key_hash from aggregated_data where source_id = $1 and run_id = $2
    and key_hash in (select value from json_each($3)) limit 1",
);

/// One of `hashes` that the run has a row of; after an [`insert_page`] that met [`crate::error::StoreError::Unique`].
///
/// # Errors
/// When the database refuses it or is gone.
pub async fn key_in_run(conn: &mut Conn<'_>, source_id: i64, run_id: i64, hashes: &[String]) -> Result<Option<String>> {
    let sql = conn.pick(HAS_KEY.0, HAS_KEY.1);
    let found = conn.fetch_optional(sql, &[source_id.into(), run_id.into(), Arg::Texts(hashes)]).await?;
    found.map(|row| row.text("key_hash")).transpose()
}

/// Holds for a row of aggregation `{source}` that was shown after its run `{run}`. For none at all when some of them may be
/// removed: whoever reads must see all or nothing.
pub(crate) const SHOWN_AFTER: &str = "t.source_id = {source}
    and (t.run_id is null or exists (
        select 1 from aggregation_runs r where r.id = t.run_id and r.id <= {run} and r.published_at is not null
            and (r.replaced_by is null or r.replaced_by > {run})))
    and (t.superseded_by is null or t.superseded_by > {run} or not exists (
        select 1 from aggregation_runs p where p.id = t.superseded_by and p.published_at is not null))
    and (select s.kept_from_run from aggregation_sources s where s.id = {source}) <= {run}";

// What a run made, as long as nothing of it may be removed.
const STREAM_RUN: &str = "select t.id, t.aggregated_at, t.data from aggregated_data t
where t.source_id = $1 and t.run_id = $2 and exists (
    select 1 from aggregation_runs r join aggregation_sources s on s.id = r.source_id
    where r.id = $2 and r.published_at is not null and r.rows_removed_at is null
        and (r.status = 'current' or r.replaced_by > s.kept_from_run))";

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

/// The rows that were shown after run `version` of an aggregation (and those of the original application), in no order.
/// They all come from one moment; none come when the version is not kept any more: ask [`is_kept`] when there were none.
///
/// # Errors
/// The stream carries them: when the database refuses the statement or is gone.
pub fn stream_version<'s>(
    conn: &'s mut Conn<'_>,
    source_id: i64,
    version: i64,
) -> Result<BoxStream<'s, Result<ResultRow>>> {
    let shown = SHOWN_AFTER.replace("{source}", "$1").replace("{run}", "$2");
    let sql = format!("select t.id, t.aggregated_at, t.data from aggregated_data t where {shown}");
    results(conn, AssertSqlSafe(sql), source_id, version)
}

/// The rows that run `run` of an aggregation made, shown or not, in no order. They all come from one moment; none come when
/// they are not kept any more.
///
/// # Errors
/// As [`stream_version`].
pub fn stream_run<'s>(conn: &'s mut Conn<'_>, source_id: i64, run: i64) -> Result<BoxStream<'s, Result<ResultRow>>> {
    results(conn, STREAM_RUN, source_id, run)
}

fn results<'s>(
    conn: &'s mut Conn<'_>,
    sql: impl SqlSafeStr + Send + 's,
    source_id: i64,
    run: i64,
) -> Result<BoxStream<'s, Result<ResultRow>>> {
    let rows = conn.fetch_stream(sql, &[source_id.into(), run.into()])?;
    Ok(rows
        .map(|row| {
            let row = row?;
            Ok(ResultRow { id: row.int("id")?, aggregated_at: row.time("aggregated_at")?, data: row.json("data")? })
        })
        .boxed())
}

/// The version that is shown, and whether `version` is still whole.
///
/// # Errors
/// When the aggregation is gone, or the database.
pub async fn is_kept(conn: &mut Conn<'_>, source_id: i64, version: i64) -> Result<(i64, bool)> {
    let sql = "select coalesce(current_run_id, 0) as run_id, kept_from_run from aggregation_sources where id = $1";
    let row = conn.fetch_one(sql, &[source_id.into()]).await?;
    Ok((row.int("run_id")?, row.int("kept_from_run")? <= version))
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
    /// A source's records, or an aggregation's shown rows.
    pub kind: LaneKind,
    /// Id of the source or aggregation.
    pub id: i64,
    /// Its name: the table's name.
    pub name: String,
    /// The newest published run of an aggregation; 0 when it has none.
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

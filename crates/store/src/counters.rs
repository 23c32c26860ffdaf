//! Row counts by (table, source, stream): what makes `count` cost the same however many rows there are.
//!
//! They change in the transactions that add and remove rows, each source's in its own row, so that no row is
//! hot for all.

use crate::db::Conn;
use crate::error::Result;

/// Table name of raw records.
pub const ACQUIRED_DATA: &str = "acquired_data";
/// Table name of records in quarantine.
pub const QUARANTINE: &str = "quarantine";
/// Name under which pushes are counted that wait to be read.
pub const PUSHES: &str = "pushes";
/// Name under which their bytes are counted.
pub const PUSH_BYTES: &str = "push_bytes";

const ADD: &str = "insert into counters (table_name, source_id, stream, row_count)
values ($1, $2, $3, $4)
on conflict (table_name, source_id, stream)
do update set row_count = counters.row_count + excluded.row_count";

// sum() of bigint is numeric on PostgreSQL.
const OF_SOURCE: &str = "select cast(coalesce(sum(row_count), 0) as bigint) as row_count from counters
where table_name = $1 and source_id = $2";

/// Adds `rows` (negative for removed ones) to a counter; nothing for 0.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn add(conn: &mut Conn<'_>, table: &str, source_id: i64, stream: &str, rows: i64) -> Result<()> {
    if rows != 0 {
        conn.execute(ADD, &[table.into(), source_id.into(), stream.into(), rows.into()]).await?;
    }
    Ok(())
}

/// Rows of a table that belong to one source, all its streams together.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn of_source(conn: &mut Conn<'_>, table: &str, source_id: i64) -> Result<i64> {
    conn.fetch_one(OF_SOURCE, &[table.into(), source_id.into()]).await?.int("row_count")
}

const OF_LIVE_SOURCES: &str = "select cast(coalesce(sum(c.row_count), 0) as bigint) as row_count from counters c
where c.table_name = $1
and c.source_id not in (select s.id from data_sources s where s.deleted_at is not null)";
/// As [`OF_LIVE_SOURCES`], of raw records, as an expression.
pub(crate) const ACQUIRED_OF_LIVE_SOURCES: &str = "select cast(coalesce(sum(c.row_count), 0) as bigint) from counters c
where c.table_name = 'acquired_data'
and c.source_id not in (select s.id from data_sources s where s.deleted_at is not null)";
const OF_LIVE_SOURCE: &str = "select cast(coalesce(sum(c.row_count), 0) as bigint) as row_count from counters c
where c.table_name = $1 and c.source_id = $2
and c.source_id not in (select s.id from data_sources s where s.deleted_at is not null)";

/// Rows of a table that lists show: of all data sources, or of one, but not of deleted ones whose rows are
/// being removed.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn of_live_sources(conn: &mut Conn<'_>, table: &str, source_id: Option<i64>) -> Result<i64> {
    let row = match source_id {
        None => conn.fetch_one(OF_LIVE_SOURCES, &[table.into()]).await?,
        Some(id) => conn.fetch_one(OF_LIVE_SOURCE, &[table.into(), id.into()]).await?,
    };
    row.int("row_count")
}

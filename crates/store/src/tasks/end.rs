//! Writing what became of running tasks, many in one statement.

use matome_model::clock::Timestamp;
use matome_model::task::TaskStatus;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::db::{Arg, Conn, Dialect};
use crate::error::{Result, StoreError};

/// The new state of a task that was running; its lane is locked.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) id: i64,
    pub(super) status: TaskStatus,
    /// `None` keeps the time.
    pub(super) run_at: Option<Timestamp>,
    pub(super) attempt: i64,
    pub(super) crash_count: i64,
    /// `None` keeps what is there.
    pub(super) result: Option<Box<RawValue>>,
    pub(super) error: Option<Box<RawValue>>,
}

/// A change as both databases take it out of a JSON document: times are text for PostgreSQL's input function,
/// microseconds for SQLite.
#[derive(Serialize)]
struct Wire<'a> {
    id: i64,
    status: &'static str,
    run_at: Option<WireTime>,
    attempt: i64,
    crash_count: i64,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireTime {
    Text(String),
    Micros(i64),
}

const APPLY: (&str, &str) = (
    "update tasks set status = e.status, attempt = e.attempt, crash_count = e.crash_count, lease_epoch = null,
    run_at = coalesce(e.run_at, tasks.run_at),
    sort_key = coalesce(e.run_at + (tasks.sort_key - tasks.run_at), tasks.sort_key),
    result = coalesce(e.result, tasks.result), error = e.error,
    finished_at = case when e.status = 'pending' then null else $2 end
from jsonb_to_recordset($1) as e (id bigint, status text, run_at timestamptz, attempt integer, crash_count integer,
    result jsonb, error jsonb)
where tasks.id = e.id and tasks.status = 'running'",
    "update tasks set status = e.status, attempt = e.attempt, crash_count = e.crash_count, lease_epoch = null,
    run_at = coalesce(e.run_at, tasks.run_at),
    sort_key = coalesce(e.run_at + (tasks.sort_key - tasks.run_at), tasks.sort_key),
    result = coalesce(e.result, tasks.result), error = e.error,
    finished_at = case when e.status = 'pending' then null else $2 end
from (select json_extract(value, '$.id') as id, json_extract(value, '$.status') as status,
    json_extract(value, '$.run_at') as run_at, json_extract(value, '$.attempt') as attempt,
    json_extract(value, '$.crash_count') as crash_count, json_extract(value, '$.result') as result,
    json_extract(value, '$.error') as error from json_each($1)) e
where tasks.id = e.id and tasks.status = 'running'",
);

/// Writes the changes; each of them must find its task running.
pub(super) async fn apply(conn: &mut Conn<'_>, changes: &[Change], now: Timestamp) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let dialect = conn.dialect();
    let time = |at: Timestamp| match dialect {
        Dialect::Postgres => WireTime::Text(at.to_rfc3339()),
        Dialect::Sqlite => WireTime::Micros(at.timestamp_micros()),
    };
    let wire: Vec<Wire<'_>> = changes
        .iter()
        .map(|change| Wire {
            id: change.id,
            status: change.status.as_str(),
            run_at: change.run_at.map(time),
            attempt: change.attempt,
            crash_count: change.crash_count,
            result: change.result.as_deref(),
            error: change.error.as_deref(),
        })
        .collect();
    // `jsonb` cannot hold NUL; a message that quotes one must not keep a task from ending.
    let document = serde_json::to_string(&wire).expect("changes are JSON").replace("\\u0000", "\\ufffd");
    let sql = conn.pick(APPLY.0, APPLY.1);
    let changed = conn.execute(sql, &[Arg::Json(Some(&document)), now.into()]).await?;
    if usize::try_from(changed).ok() != Some(changes.len()) {
        return Err(StoreError::Inconsistent {
            column: "tasks.status".to_owned(),
            what: format!("{changed} of {} leased tasks were running", changes.len()),
        });
    }
    Ok(())
}

//! The schema of each source stream as its records have shown it, with its versions.
//!
//! A version is added in the transaction of the page that brings something new, and only then.

use matome_model::clock::Timestamp;
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;

use crate::data_sources;
use crate::db::{Arg, Conn, Row};
use crate::error::Result;

/// Versions of one stream that are kept.
const KEPT: i64 = 100;

/// The schema in force.
#[derive(Clone, Debug)]
pub struct SourceSchema {
    /// 1 for the first.
    pub version: i64,
    /// JSON text that [`matome_model::drift::Shape`] reads.
    pub fields: Box<RawValue>,
    /// Whether a read has ended since it began to learn.
    pub settled: bool,
    /// How often somebody had it learn anew.
    pub accepts: i64,
    /// When this version was made.
    pub created_at: Timestamp,
}

/// A version, for its history.
#[derive(Clone, Debug)]
pub struct SchemaVersion {
    /// Its number.
    pub version: i64,
    /// `[{"field", "old", "new"}]`, the first fifty.
    pub changes: Box<RawValue>,
    /// The task that met them.
    pub task_id: i64,
    /// When.
    pub created_at: Timestamp,
}

/// What a page adds.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// Its number: one more than that in force.
    pub version: i64,
    /// See [`SourceSchema::fields`].
    pub fields: String,
    /// See [`SchemaVersion::changes`].
    pub changes: String,
    /// See [`SourceSchema::settled`].
    pub settled: bool,
    /// [`SourceSchema::accepts`] as the read found it.
    pub accepts: i64,
}

const CURRENT: &str = "select version, fields, settled, accepts, created_at from source_schemas
where source_id = $1 and stream = $2 order by version desc limit 1";
const HISTORY: &str = "select version, changes, task_id, created_at from source_schemas
where source_id = $1 and stream = $2 order by version desc limit $3";
// What was accepted since the read began holds: it goes on learning.
const INSERT: &str = "insert into source_schemas
(source_id, stream, version, fields, changes, settled, task_id, created_at, accepts)
select $1, $2, $3, $4, $5, $6 and n.accepts = $9, $7, $8, n.accepts
from (select coalesce(max(accepts), 0) as accepts from source_schemas where source_id = $1 and stream = $2) n";
const FORGET: &str = "delete from source_schemas where source_id = $1 and stream = $2 and version <= $3";
const IN_FORCE: &str = "source_id = $1 and stream = $2
and version = (select max(v.version) from source_schemas v where v.source_id = $1 and v.stream = $2)";
const SETTLE: &str = "update source_schemas set settled = {true} where not settled and accepts = $3 and ";
const ACCEPT: &str = "update source_schemas set settled = {false}, accepts = accepts + 1 where ";

/// The schema in force; `None` before the first record.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn current(conn: &mut Conn<'_>, source_id: i64, stream: &str) -> Result<Option<SourceSchema>> {
    let read = |row: Row| {
        Ok(SourceSchema {
            version: row.int("version")?,
            fields: row.json("fields")?,
            settled: row.bool("settled")?,
            accepts: row.int("accepts")?,
            created_at: row.time("created_at")?,
        })
    };
    conn.fetch_optional(CURRENT, &[source_id.into(), stream.into()]).await?.map(read).transpose()
}

/// Its versions, newest first, as many as are kept.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn history(conn: &mut Conn<'_>, source_id: i64, stream: &str) -> Result<Vec<SchemaVersion>> {
    let rows = conn.fetch_all(HISTORY, &[source_id.into(), stream.into(), KEPT.into()]).await?;
    let read = |row: &Row| {
        Ok(SchemaVersion {
            version: row.int("version")?,
            changes: row.json("changes")?,
            task_id: row.int("task_id")?,
            created_at: row.time("created_at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Adds a version, in the transaction of its page.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub(crate) async fn add(
    conn: &mut Conn<'_>,
    source_id: i64,
    stream: &str,
    new: &NewVersion,
    task_id: i64,
    now: Timestamp,
) -> Result<()> {
    // The source's row orders it with `accept_next`.
    data_sources::find_for_update(conn, source_id).await?;
    let args: [Arg<'_>; 9] = [
        source_id.into(),
        stream.into(),
        new.version.into(),
        Arg::Json(Some(&new.fields)),
        Arg::Json(Some(&new.changes)),
        new.settled.into(),
        task_id.into(),
        now.into(),
        new.accepts.into(),
    ];
    conn.execute(INSERT, &args).await?;
    if new.version > KEPT {
        conn.execute(FORGET, &[source_id.into(), stream.into(), (new.version - KEPT).into()]).await?;
    }
    Ok(())
}

/// Says that a read has ended, so that from now on the source's policy decides; in the transaction of the last page, which
/// has locked the source. Not when somebody had it learn anew since the read began, which knows of `accepts`.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub(crate) async fn settle(conn: &mut Conn<'_>, source_id: i64, stream: &str, accepts: i64) -> Result<()> {
    let sql = format!("{}{IN_FORCE}", SETTLE.replace("{true}", conn.pick("true", "1")));
    conn.execute(AssertSqlSafe(sql), &[source_id.into(), stream.into(), accepts.into()]).await.map(drop)
}

/// Has the next read take in whatever is new, whatever the policy, until it ends. A read that has begun already is not
/// the next one.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn accept_next(conn: &mut Conn<'_>, source_id: i64, stream: &str) -> Result<()> {
    data_sources::find_for_update(conn, source_id).await?;
    let sql = format!("{}{IN_FORCE}", ACCEPT.replace("{false}", conn.pick("false", "0")));
    conn.execute(AssertSqlSafe(sql), &[source_id.into(), stream.into()]).await.map(drop)
}

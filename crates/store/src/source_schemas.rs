//! The schema of each source stream as its records have shown it, with its versions.
//!
//! A version is added in the transaction of the page that brings something new, and only then.

use matome_model::clock::Timestamp;
use serde_json::value::RawValue;

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
}

const CURRENT: &str = "select version, fields, settled, created_at from source_schemas
where source_id = $1 and stream = $2 order by version desc limit 1";
const HISTORY: &str = "select version, changes, task_id, created_at from source_schemas
where source_id = $1 and stream = $2 order by version desc limit $3";
const INSERT: &str = "insert into source_schemas
(source_id, stream, version, fields, changes, settled, task_id, created_at) values ($1, $2, $3, $4, $5, $6, $7, $8)";
const FORGET: &str = "delete from source_schemas where source_id = $1 and stream = $2 and version <= $3";
const SET_SETTLED: &str = "update source_schemas set settled = $3
where source_id = $1 and stream = $2 and settled <> $3
and version = (select max(v.version) from source_schemas v where v.source_id = $1 and v.stream = $2)";

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
    let args: [Arg<'_>; 8] = [
        source_id.into(),
        stream.into(),
        new.version.into(),
        Arg::Json(Some(&new.fields)),
        Arg::Json(Some(&new.changes)),
        new.settled.into(),
        task_id.into(),
        now.into(),
    ];
    conn.execute(INSERT, &args).await?;
    if new.version > KEPT {
        conn.execute(FORGET, &[source_id.into(), stream.into(), (new.version - KEPT).into()]).await?;
    }
    Ok(())
}

/// Says that a read has ended, so that from now on the source's policy decides; in the transaction of the last page.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub(crate) async fn settle(conn: &mut Conn<'_>, source_id: i64, stream: &str) -> Result<()> {
    conn.execute(SET_SETTLED, &[source_id.into(), stream.into(), true.into()]).await.map(drop)
}

/// Has the next read take in whatever is new, whatever the policy, until it ends.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn accept_next(conn: &mut Conn<'_>, source_id: i64, stream: &str) -> Result<()> {
    conn.execute(SET_SETTLED, &[source_id.into(), stream.into(), false.into()]).await.map(drop)
}

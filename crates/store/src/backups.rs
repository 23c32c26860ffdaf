//! When backups of this installation were made.

use matome_model::clock::Timestamp;

use crate::db::Conn;
use crate::error::Result;

/// Notes that are kept.
const KEPT: i64 = 100;

const INSERT: &str = "insert into backups (made_at, made_by, size_bytes) values ($1, $2, $3) returning id";
const FORGET: &str = "delete from backups where id <= $1";
const LAST: &str = "select max(made_at) as made_at from backups";

/// Notes that a backup was made: by us, with its length in bytes, or by other means.
///
/// # Errors
/// When the schema is older than these notes (17), or the database is gone.
pub async fn note(conn: &mut Conn<'_>, made_at: Timestamp, size_bytes: Option<u64>) -> Result<()> {
    let made_by = if size_bytes.is_some() { "matome" } else { "other" };
    let size_bytes = size_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let id = conn.fetch_one(INSERT, &[made_at.into(), made_by.into(), size_bytes.into()]).await?.int("id")?;
    conn.execute(FORGET, &[(id - KEPT).into()]).await.map(drop)
}

/// When the last backup was made that is known of.
///
/// # Errors
/// As [`note`].
pub async fn last(conn: &mut Conn<'_>) -> Result<Option<Timestamp>> {
    conn.fetch_one(LAST, &[]).await?.opt_time("made_at")
}

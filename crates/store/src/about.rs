//! What a database says about itself, for `doctor`.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::db::{Conn, Dialect};
use crate::error::Result;
use crate::migrate;

/// Facts about a database and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// `SQLite 3.50.2`, `PostgreSQL 16.1`.
    pub server_version: String,
    /// Version of the schema; 0 when it has none of ours.
    pub schema_version: i64,
    /// How long a plain question took.
    pub answer_millis: u128,
    /// Seconds by which the server's clock is ahead of this one; none where both are one.
    pub clock_skew_secs: Option<i64>,
}

/// Asks.
///
/// # Errors
/// When the database is gone.
pub async fn about(conn: &mut Conn<'_>) -> Result<About> {
    let version = conn.pick(
        "select 'PostgreSQL ' || current_setting('server_version') as version",
        "select 'SQLite ' || sqlite_version() as version",
    );
    let server_version = conn.fetch_one(version, &[]).await?.text("version")?;
    let started = Instant::now();
    conn.fetch_one("select 1 as one", &[]).await?;
    let answer_millis = started.elapsed().as_millis();
    let schema_version = migrate::version(conn).await?;
    let clock_skew_secs = match conn.dialect() {
        Dialect::Sqlite => None,
        Dialect::Postgres => {
            let sql = "select cast(extract(epoch from clock_timestamp()) as bigint) as secs";
            let theirs = conn.fetch_one(sql, &[]).await?.int("secs")?;
            let ours = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            Some(theirs - i64::try_from(ours).unwrap_or(i64::MAX))
        }
    };
    Ok(About { server_version, schema_version, answer_millis, clock_skew_secs })
}

//! One consistent view of a database, read-only, for looking at all of it while others work on.

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection, SqliteConnection};

use super::{Conn, corrupt};
use crate::error::{Result, StoreError};

/// A connection inside one read-only transaction: it sees the database as it was at its first statement.
/// Ends when dropped.
#[derive(Debug)]
pub enum Snapshot {
    /// PostgreSQL, repeatable read.
    Postgres(PgConnection),
    /// SQLite, a read transaction on a file opened read-only.
    Sqlite(SqliteConnection),
}

impl Snapshot {
    /// Of an embedded database, whether a process holds its data directory or not: neither lock nor file is
    /// touched. While it lives beside a server, the write-ahead log of that server only grows.
    ///
    /// # Errors
    /// When there is no such file or it is no database.
    pub async fn of_file(file: &Path) -> Result<Self> {
        if let Err(source) = std::fs::metadata(file) {
            return Err(StoreError::DataDir {
                path: file.to_owned(),
                what: "there is no database to read".to_owned(),
                source,
            });
        }
        // Large sorts go to temporary files, not to memory.
        let options = SqliteConnectOptions::new()
            .filename(file)
            .read_only(true)
            .busy_timeout(Duration::from_secs(10))
            .pragma("cache_size", "-16000")
            .pragma("temp_store", "file");
        let conn = options.connect().await.map_err(|err| corrupt(file, &err))?;
        let mut snapshot = Self::Sqlite(conn);
        snapshot.begin("begin").await?;
        Ok(snapshot)
    }

    /// Of a PostgreSQL database.
    ///
    /// # Errors
    /// When the URL is no PostgreSQL URL or the server does not answer.
    pub async fn of_postgres(url: &str) -> Result<Self> {
        let options: PgConnectOptions = url.parse().map_err(StoreError::Database)?;
        let options = options.application_name("matome-snapshot").options([("timezone", "UTC")]);
        let mut snapshot = Self::Postgres(options.connect().await?);
        snapshot.begin("begin isolation level repeatable read read only").await?;
        Ok(snapshot)
    }

    async fn begin(&mut self, sql: &'static str) -> Result<()> {
        self.conn().execute(sql, &[]).await.map(drop)
    }

    /// The connection.
    pub fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Postgres(conn) => Conn::Postgres(conn),
            Self::Sqlite(conn) => Conn::Sqlite(conn),
        }
    }
}

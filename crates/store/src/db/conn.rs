//! A connection of either database, with one way to run a statement.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use sqlx::{Executor as _, PgConnection, SqlSafeStr, SqliteConnection};
use tokio::io::AsyncRead;

use super::value::{Arg, Row, postgres_arguments, sqlite_arguments};
use crate::error::{Result, StoreError};

/// Which database it is; for the few statements that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL 15 to 18.
    Postgres,
    /// SQLite, embedded.
    Sqlite,
}

/// A borrowed connection, inside a transaction when it comes from [`super::Db::write`].
#[derive(Debug)]
pub enum Conn<'c> {
    /// PostgreSQL.
    Postgres(&'c mut PgConnection),
    /// SQLite.
    Sqlite(&'c mut SqliteConnection),
}

impl Conn<'_> {
    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        match self {
            Conn::Postgres(_) => Dialect::Postgres,
            Conn::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Chooses between the two texts of a statement that truly differs.
    pub fn pick<T>(&self, postgres: T, sqlite: T) -> T {
        match self {
            Conn::Postgres(_) => postgres,
            Conn::Sqlite(_) => sqlite,
        }
    }

    /// All rows of a statement. The caller bounds their number.
    ///
    /// # Errors
    /// When the database refuses the statement or is gone.
    pub async fn fetch_all(&mut self, sql: impl SqlSafeStr, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        match self {
            Conn::Postgres(conn) => {
                let rows = conn.fetch_all(sqlx::query_with(sql, postgres_arguments(args)?)).await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
            Conn::Sqlite(conn) => {
                let rows = conn.fetch_all(sqlx::query_with(sql, sqlite_arguments(args)?)).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
        }
    }

    /// The first row, if there is one.
    ///
    /// # Errors
    /// When the database refuses the statement or is gone.
    pub async fn fetch_optional(&mut self, sql: impl SqlSafeStr, args: &[Arg<'_>]) -> Result<Option<Row>> {
        match self {
            Conn::Postgres(conn) => {
                Ok(conn.fetch_optional(sqlx::query_with(sql, postgres_arguments(args)?)).await?.map(Row::Postgres))
            }
            Conn::Sqlite(conn) => {
                Ok(conn.fetch_optional(sqlx::query_with(sql, sqlite_arguments(args)?)).await?.map(Row::Sqlite))
            }
        }
    }

    /// The one row that must be there.
    ///
    /// # Errors
    /// When there is none, or as [`Conn::fetch_optional`].
    pub async fn fetch_one(&mut self, sql: impl SqlSafeStr, args: &[Arg<'_>]) -> Result<Row> {
        self.fetch_optional(sql, args).await?.ok_or(StoreError::Database(sqlx::Error::RowNotFound))
    }

    /// Runs a statement; returns how many rows it changed.
    ///
    /// # Errors
    /// When the database refuses the statement or is gone.
    pub async fn execute(&mut self, sql: impl SqlSafeStr, args: &[Arg<'_>]) -> Result<u64> {
        match self {
            Conn::Postgres(conn) => {
                Ok(conn.execute(sqlx::query_with(sql, postgres_arguments(args)?)).await?.rows_affected())
            }
            Conn::Sqlite(conn) => {
                Ok(conn.execute(sqlx::query_with(sql, sqlite_arguments(args)?)).await?.rows_affected())
            }
        }
    }

    /// Runs a script of several statements without parameters; for migrations.
    ///
    /// # Errors
    /// When the database refuses one of them or is gone.
    pub async fn execute_script(&mut self, sql: String) -> Result<()> {
        let script = sqlx::AssertSqlSafe(sql);
        match self {
            Conn::Postgres(conn) => conn.execute(sqlx::raw_sql(script)).await.map(drop)?,
            Conn::Sqlite(conn) => conn.execute(sqlx::raw_sql(script)).await.map(drop)?,
        }
        Ok(())
    }

    /// Feeds a `copy ... from stdin` with what `source` holds; returns how many rows that were. PostgreSQL only.
    ///
    /// # Errors
    /// When the database refuses the statement or a row, is gone, or is SQLite.
    pub async fn copy_in(&mut self, copy: &str, source: impl AsyncRead + Unpin) -> Result<u64> {
        let Conn::Postgres(conn) = self else {
            return Err(StoreError::Database(sqlx::Error::Protocol("SQLite has no COPY".to_owned())));
        };
        let mut copy = conn.copy_in_raw(copy).await?;
        copy.read_from(source).await?;
        Ok(copy.finish().await?)
    }

    /// Streams rows as they come, without holding the result in memory.
    ///
    /// # Errors
    /// When a parameter cannot be encoded; the stream carries the rest.
    pub fn fetch_stream<'s>(
        &'s mut self,
        sql: impl SqlSafeStr + Send + 's,
        args: &[Arg<'_>],
    ) -> Result<BoxStream<'s, Result<Row>>> {
        Ok(match self {
            Conn::Postgres(conn) => conn
                .fetch(sqlx::query_with(sql, postgres_arguments(args)?))
                .map(|row| row.map(Row::Postgres).map_err(StoreError::from))
                .boxed(),
            Conn::Sqlite(conn) => conn
                .fetch(sqlx::query_with(sql, sqlite_arguments(args)?))
                .map(|row| row.map(Row::Sqlite).map_err(StoreError::from))
                .boxed(),
        })
    }
}

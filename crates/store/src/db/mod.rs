//! The database: SQLite in the data directory, or PostgreSQL, behind one way to read and one way to write.
//!
//! [`Db::write`] runs a unit of work in one transaction: what it does commits whole or not at all. On SQLite
//! the unit goes through the single writer, with group commit. [`Db::read`] gives a connection for reading.

mod conn;
mod data_dir;
mod room;
mod snapshot;
mod space;
mod sqlite_checkpoints;
mod sqlite_writer;
mod value;
mod waits;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres, Sqlite, SqlitePool};
use uuid::Uuid;

pub use conn::{Conn, Dialect};
pub use data_dir::DataDir;
pub(crate) use data_dir::make_database_file;
pub use snapshot::Snapshot;
pub use space::Pages;

pub use value::{Arg, Row};

use crate::error::{Result, StoreError};
use room::Room;
use sqlite_writer::SqliteWriter;

/// A session that was idle for so long is asked whether it still lives before it is used.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Where an address of PostgreSQL leads, for people: `host:port/database`, or the folder of its socket. Never the user or
/// the password; none when it is no such address.
pub fn postgres_place(url: &str) -> Option<String> {
    let options: PgConnectOptions = url.parse().ok()?;
    let host = match options.get_socket() {
        Some(folder) => folder.display().to_string(),
        None => options.get_host().trim_matches(['[', ']']).to_owned(),
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    // As libpq has it: without a name the database is that of the user.
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    Some(format!("{host}:{}/{database}", options.get_port()))
}

/// A unit of work: gets a connection inside a transaction, owns all else it needs.
pub type Work<T> = Box<dyn for<'a, 'c> FnOnce(&'a mut Conn<'c>) -> BoxFuture<'a, Result<T>> + Send>;

/// Sees every unit of work just before its commit and just after, and may let it fail there: how tests look at each
/// place where a database or a process can be lost.
pub trait CommitHook: Send + Sync + std::fmt::Debug {
    /// Before a commit; returns its number. An error rolls the unit back.
    ///
    /// # Errors
    /// What the caller is to see instead.
    fn before(&self) -> Result<usize>;

    /// After commit `number`, which is durable.
    ///
    /// # Errors
    /// What the caller is to see instead of its result.
    fn after(&self, number: usize) -> Result<()>;
}

/// A database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    backend: Arc<Backend>,
    room: Arc<Room>,
    hook: Option<Arc<dyn CommitHook>>,
    /// Instead of what suits the database.
    page_rows: Option<usize>,
}

#[derive(Debug)]
enum Backend {
    Postgres { pool: PgPool, application_name: String },
    Sqlite { writer: SqliteWriter, readers: SqlitePool, file: PathBuf, data_dir: Option<DataDir> },
}

impl Db {
    /// Opens (and makes, when new) the embedded database in a data directory that this process holds.
    ///
    /// # Errors
    /// When the file is damaged or cannot be opened.
    pub async fn open_embedded(data_dir: DataDir) -> Result<Self> {
        let file = data_dir.database_file();
        let is_new = make_database_file(&file)?;
        let options = sqlite_options(&file)
            // New records go to random places of two large indexes: with a small cache nearly each is read again
            // and written twice.
            .pragma("cache_size", "-65536")
            .pragma("wal_autocheckpoint", sqlite_checkpoints::BACKSTOP);
        // Of an older file it would change nothing.
        let options = if is_new { options.auto_vacuum(SqliteAutoVacuum::Incremental) } else { options };
        let mut writer = options.connect().await.map_err(|err| corrupt(&file, &err))?;
        if !is_new {
            let is_small = file.metadata().is_ok_and(|meta| meta.len() <= CHECKED_AT_START);
            quick_check(&mut writer, &file, data_dir.owes_check() && is_small).await?;
            if is_small {
                data_dir.checked();
            }
        } else {
            data_dir.checked();
        }
        let other = sqlite_options(&file).connect().await.map_err(|err| corrupt(&file, &err))?;
        let writer = SqliteWriter::start(writer, sqlite_checkpoints::Checkpoints::start(other));
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(30))
            // There is no server that could have gone away.
            .test_before_acquire(false)
            .connect_lazy_with(sqlite_options(&file).read_only(true));
        Ok(Self::of(Backend::Sqlite { writer, readers, file, data_dir: Some(data_dir) }))
    }

    /// Opens the embedded database in `data_dir` beside the process that holds that directory: for a child of it, which
    /// ends with it. SQLite lets one of them write at a time.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub async fn open_beside(data_dir: &Path) -> Result<Self> {
        let file = data_dir.join(data_dir::DATABASE_FILE);
        let options = sqlite_options(&file).pragma("wal_autocheckpoint", sqlite_checkpoints::BACKSTOP);
        let writer = options.connect().await.map_err(|err| corrupt(&file, &err))?;
        let other = sqlite_options(&file).connect().await.map_err(|err| corrupt(&file, &err))?;
        let writer = SqliteWriter::start(writer, sqlite_checkpoints::Checkpoints::start(other));
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .test_before_acquire(false)
            .connect_lazy_with(sqlite_options(&file).read_only(true));
        Ok(Self::of(Backend::Sqlite { writer, readers, file, data_dir: None }))
    }

    /// Connects to PostgreSQL. `boot` names this process in `pg_stat_activity`, so that the sessions of a
    /// worker that was declared dead can be ended.
    ///
    /// # Errors
    /// When the URL is no PostgreSQL URL or the server does not answer.
    pub async fn connect_postgres(url: &str, boot: Uuid, max_connections: u32) -> Result<Self> {
        let application_name = format!("matome-{boot}");
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(StoreError::DatabaseUrl { what: "it does not begin with `postgres://`".to_owned() });
        }
        let options: PgConnectOptions =
            url.parse().map_err(|err: sqlx::Error| StoreError::DatabaseUrl { what: err.to_string() })?;
        let options = options.application_name(&application_name).options([
            ("idle_in_transaction_session_timeout", "60s"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            ("timezone", "UTC"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(Duration::from_secs(10))
            // A round trip before each use would cost as much as most statements; a server that goes away while a
            // session is in use fails that statement anyhow.
            .test_before_acquire(false)
            .before_acquire(|conn, meta| {
                Box::pin(async move {
                    if meta.idle_for >= PING_AFTER_IDLE {
                        conn.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(options.clone())
            .await;
        let pool = match pool {
            // The pool says that time ran out; one connection says why.
            Err(sqlx::Error::PoolTimedOut) => {
                let once = tokio::time::timeout(Duration::from_secs(5), PgConnection::connect_with(&options)).await;
                let why = once.ok().and_then(std::result::Result::err);
                return Err(StoreError::Unreachable(why.unwrap_or(sqlx::Error::PoolTimedOut)));
            }
            pool => pool.map_err(StoreError::from)?,
        };
        Ok(Self::of(Backend::Postgres { pool, application_name }))
    }

    /// Checks the embedded file if the process before was killed and the file was too large to be checked before it was
    /// opened: that reads all of it, beside the work. Returns whether there was something to check.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is damaged; nothing should be written to it then.
    pub async fn check_after_kill(&self) -> Result<bool> {
        let Backend::Sqlite { file, data_dir: Some(data_dir), .. } = &*self.backend else { return Ok(false) };
        if !data_dir.owes_check() {
            return Ok(false);
        }
        let mib = file.metadata().map_or(0, |meta| meta.len() >> 20);
        tracing::info!(mib, "checking the database file beside the work: the process before did not end by itself");
        let mut conn = sqlite_options(file).read_only(true).connect().await.map_err(|err| corrupt(file, &err))?;
        quick_check(&mut conn, file, true).await?;
        data_dir.checked();
        Ok(true)
    }

    fn of(backend: Backend) -> Self {
        Self { backend: Arc::new(backend), room: Arc::default(), hook: None, page_rows: None }
    }

    /// The same database, whose units of work `hook` sees.
    #[must_use]
    pub fn with_commit_hook(&self, hook: Arc<dyn CommitHook>) -> Self {
        Self { hook: Some(hook), ..self.clone() }
    }

    /// The same database with pages of at most so many rows, so that a few records are several pages.
    #[must_use]
    pub fn with_page_rows(&self, rows: usize) -> Self {
        Self { page_rows: Some(rows), ..self.clone() }
    }

    /// Whether there is no room to write: new work has to wait. See [`Db::look_for_room`].
    pub fn is_full(&self) -> bool {
        self.room.is_full()
    }

    /// Lets an embedded database grow to `bytes` at most, the last sixteenth of them for control work only: a task must be able
    /// to say that it waits for room. PostgreSQL has limits of its own.
    ///
    /// # Errors
    /// When the database is gone.
    pub async fn limit_size(&self, bytes: u64) -> Result<()> {
        if self.dialect() == Dialect::Postgres {
            return Ok(());
        }
        let pages = self
            .write(move |conn| {
                Box::pin(async move {
                    let row = conn.fetch_one("pragma page_size", &[]).await?;
                    let pages = bytes / u64::try_from(row.int("page_size")?).unwrap_or(4096).max(1);
                    limit_pages(conn, pages).await.map(|()| pages)
                })
            })
            .await?;
        self.room.limit(bytes, pages);
        Ok(())
    }

    /// Looks whether there is room to write, and remembers it. Called now and then: a disk that was full is used again
    /// by itself, and one that soon will be is not filled to its last byte.
    ///
    /// # Errors
    /// When the database is gone.
    pub async fn look_for_room(&self) -> Result<()> {
        let Backend::Sqlite { file, .. } = &*self.backend else {
            self.room.forgive();
            return Ok(());
        };
        let sql = "select (select page_count from pragma_page_count()) as pages,
(select freelist_count from pragma_freelist_count()) as free, (select page_size from pragma_page_size()) as bytes";
        let row = self.read().await?.conn().fetch_one(sql, &[]).await?;
        let bytes = |pages: i64, size: i64| u64::try_from(pages * size).unwrap_or(0);
        let size = row.int("bytes")?;
        self.room.judge(file, bytes(row.int("pages")?, size), bytes(row.int("free")?, size));
        Ok(())
    }

    /// The file of an embedded database.
    pub(crate) fn embedded_file(&self) -> Option<&std::path::Path> {
        match &*self.backend {
            Backend::Postgres { .. } => None,
            Backend::Sqlite { file, .. } => Some(file),
        }
    }

    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        match &*self.backend {
            Backend::Postgres { .. } => Dialect::Postgres,
            Backend::Sqlite { .. } => Dialect::Sqlite,
        }
    }

    /// Records of one page transaction at most: SQLite's writer must not be held long (11 ms for 1,000 rows).
    pub fn page_rows(&self) -> usize {
        self.page_rows.unwrap_or(match self.dialect() {
            Dialect::Postgres => 5_000,
            Dialect::Sqlite => 1_000,
        })
    }

    /// Bytes of raw records of one page transaction at most, unless a single record is larger.
    pub fn page_bytes(&self) -> usize {
        match self.dialect() {
            Dialect::Postgres => 8 << 20,
            Dialect::Sqlite => 1 << 20,
        }
    }

    /// A connection for reading.
    ///
    /// # Errors
    /// When none is free in time, or the database is gone.
    pub async fn read(&self) -> Result<Reader> {
        Ok(match &*self.backend {
            Backend::Postgres { pool, .. } => Reader::Postgres(waits::timed("read", pool.acquire()).await?),
            Backend::Sqlite { readers, .. } => Reader::Sqlite(waits::timed("read", readers.acquire()).await?),
        })
    }

    /// Control work (claims, heartbeats, changes by the API) in one transaction; goes before pages of data.
    ///
    /// ```ignore
    /// db.write(move |conn| Box::pin(async move { data_sources::delete(conn, id).await })).await?
    /// ```
    ///
    /// # Errors
    /// What the unit returns, which rolls it back; or the database's error on commit.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'a, 'c> FnOnce(&'a mut Conn<'c>) -> BoxFuture<'a, Result<T>> + Send + 'static,
    {
        self.transaction(false, Box::new(work)).await
    }

    /// A page of data in one transaction, after waiting control work.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub async fn write_page<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'a, 'c> FnOnce(&'a mut Conn<'c>) -> BoxFuture<'a, Result<T>> + Send + 'static,
    {
        self.transaction(true, Box::new(work)).await
    }

    async fn transaction<T: Send + 'static>(&self, is_data: bool, work: Work<T>) -> Result<T> {
        let work = match self.room.pages() {
            Some(pages) if is_data => within(pages - pages / 16, pages, work),
            _ => work,
        };
        let result = self.run_hooked(is_data, work).await;
        if let Err(StoreError::DiskFull(_)) = &result {
            self.room.refused();
        }
        result
    }

    async fn run_hooked<T: Send + 'static>(&self, is_data: bool, work: Work<T>) -> Result<T> {
        let Some(hook) = &self.hook else { return self.run_transaction(is_data, work).await };
        let before = Arc::clone(hook);
        let hooked: Work<(T, usize)> = Box::new(move |conn| {
            Box::pin(async move {
                let result = work(conn).await?;
                Ok((result, before.before()?))
            })
        });
        let (result, number) = self.run_transaction(is_data, hooked).await?;
        hook.after(number).map(|()| result)
    }

    async fn run_transaction<T: Send + 'static>(&self, is_data: bool, work: Work<T>) -> Result<T> {
        match &*self.backend {
            Backend::Sqlite { writer, .. } => writer.submit(is_data, waits::until_begun(work)).await,
            Backend::Postgres { pool, .. } => {
                // A transaction that is dropped half-way can leave a session that answers the next statement with
                // the rows of the last. So a unit runs to its end even when its caller has gone, as on SQLite.
                match tokio::spawn(in_transaction(pool.clone(), work)).await {
                    Ok(result) => result,
                    Err(err) => match err.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(_) => Err(StoreError::Closed),
                    },
                }
            }
        }
    }

    /// Connections of the pool: (in use, open). For metrics.
    pub fn connections(&self) -> (usize, usize) {
        let (idle, open) = match &*self.backend {
            Backend::Postgres { pool, .. } => (pool.num_idle(), pool.size()),
            Backend::Sqlite { readers, .. } => (readers.num_idle(), readers.size()),
        };
        let open = usize::try_from(open).unwrap_or(usize::MAX);
        (open.saturating_sub(idle), open)
    }

    /// Connections that the pool has at most. For metrics.
    pub fn connection_limit(&self) -> usize {
        let limit = match &*self.backend {
            Backend::Postgres { pool, .. } => pool.options().get_max_connections(),
            Backend::Sqlite { readers, .. } => readers.options().get_max_connections(),
        };
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    /// Name of this process's sessions in `pg_stat_activity`; empty on SQLite.
    pub fn application_name(&self) -> &str {
        match &*self.backend {
            Backend::Postgres { application_name, .. } => application_name,
            Backend::Sqlite { .. } => "",
        }
    }

    /// Closes every connection; waits for those in use, and for work that was handed in.
    pub async fn close(&self) {
        match &*self.backend {
            Backend::Postgres { pool, .. } => pool.close().await,
            Backend::Sqlite { writer, readers, .. } => {
                readers.close().await;
                writer.close().await;
            }
        }
    }
}

/// `work` with room for `pages` pages; whoever comes next has room for `all` again.
fn within<T: Send + 'static>(pages: u64, all: u64, work: Work<T>) -> Work<T> {
    Box::new(move |conn| {
        Box::pin(async move {
            limit_pages(conn, pages).await?;
            let result = work(conn).await;
            let widened = limit_pages(conn, all).await;
            let result = result?;
            widened.map(|()| result)
        })
    })
}

/// SQLite never goes below what the file has already.
async fn limit_pages(conn: &mut Conn<'_>, pages: u64) -> Result<()> {
    conn.execute_script(format!("pragma max_page_count = {pages}")).await
}

/// Runs a unit and commits it; an error rolls it back.
async fn in_transaction<T>(pool: PgPool, work: Work<T>) -> Result<T> {
    let mut tx = waits::timed("write", pool.begin()).await?;
    let result = work(&mut Conn::Postgres(&mut tx)).await?;
    tx.commit().await.map_err(|err| match StoreError::from(err) {
        StoreError::Unreachable(err) => StoreError::CommitUnknown(err),
        other => other,
    })?;
    Ok(result)
}

/// A connection for reading, back in its pool when dropped.
#[derive(Debug)]
pub enum Reader {
    /// PostgreSQL.
    Postgres(PoolConnection<Postgres>),
    /// SQLite, opened read-only.
    Sqlite(PoolConnection<Sqlite>),
}

impl Reader {
    /// The connection.
    pub fn conn(&mut self) -> Conn<'_> {
        match self {
            Reader::Postgres(conn) => Conn::Postgres(conn),
            Reader::Sqlite(conn) => Conn::Sqlite(conn),
        }
    }
}

fn sqlite_options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        .pragma("cache_size", "-16000")
        .pragma("temp_store", "memory")
        .statement_cache_capacity(200)
}

/// A file of up to this size is checked as a whole, after an unclean end, before anything else is done with it. That
/// takes a fraction of a second; a larger one is checked beside the work, or a start would take minutes.
const CHECKED_AT_START: u64 = 64 << 20;

/// Refuses a file that is no database, and one that is damaged when all of it is looked at.
async fn quick_check(conn: &mut sqlx::SqliteConnection, file: &Path, thoroughly: bool) -> Result<()> {
    let sql = if thoroughly { "pragma quick_check(1)" } else { "select 'ok' from sqlite_schema limit 1" };
    let found: Option<String> =
        sqlx::query_scalar(sql).fetch_optional(conn).await.map_err(|err| corrupt(file, &err))?;
    match found {
        Some(word) if word != "ok" => Err(StoreError::Corrupt { path: file.to_owned(), what: word }),
        _ => Ok(()),
    }
}

pub(crate) fn corrupt(file: &Path, err: &sqlx::Error) -> StoreError {
    let what = match err {
        sqlx::Error::Database(db) => db.message().to_owned(),
        other => other.to_string(),
    };
    StoreError::Corrupt { path: file.to_owned(), what }
}

impl Conn<'_> {
    /// A condition "`column` is one of the set bound at `$n`" (an [`Arg::Ints`]).
    pub fn any_of(&self, column: &str, n: usize) -> String {
        // Were the array itself in the text, PostgreSQL would count its elements when it plans for given values, expect
        // ten when it plans for all, find the first cheaper for fewer, and plan at each call: most of what a task cost.
        self.pick(
            format!("{column} = any((select ${n}::bigint[])::bigint[])"),
            format!("{column} in (select value from json_each(${n}))"),
        )
    }
}

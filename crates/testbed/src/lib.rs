//! The databases that tests run on: every test of stored behaviour runs on SQLite **and** on PostgreSQL.
//!
//! ```ignore
//! #[tokio::test]
//! async fn second_page_starts_after_cursor() {
//!     for bed in matome_testbed::databases().await {
//!         let db = &bed.db; // migrated and empty
//!     }
//! }
//! ```
//!
//! PostgreSQL is the one that `scripts/test` (or `scripts/with-postgres`) starts. Without it a test fails: no
//! test passes because something is absent.

use matome_store::db::{DataDir, Db, Snapshot};
use matome_store::migrate;
use sqlx::Connection as _;
use tempfile::TempDir;
use uuid::Uuid;

/// Name of the environment variable with the URL of a PostgreSQL server made for tests.
pub const DATABASE_URL: &str = "MATOME_TEST_DATABASE_URL";

/// A migrated, empty database of one test.
#[derive(Debug)]
pub struct TestDb {
    /// `sqlite` or `postgres`, for messages.
    pub name: &'static str,
    /// The database.
    pub db: Db,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Dir(TempDir),
    Url(String),
}

impl TestDb {
    /// A view of it as it is now, for [`matome_store::check`].
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn snapshot(&self) -> Snapshot {
        let snapshot = match &self.place {
            Place::Dir(dir) => Snapshot::of_file(&dir.path().join("matome.db")).await,
            Place::Url(url) => Snapshot::of_postgres(url).await,
        };
        snapshot.expect("the database can be read")
    }
}

/// One fresh database of each kind.
///
/// # Panics
/// When PostgreSQL is not there.
pub async fn databases() -> Vec<TestDb> {
    vec![sqlite().await, postgres().await]
}

/// A fresh embedded database in a temporary directory.
///
/// # Panics
/// When it cannot be made.
pub async fn sqlite() -> TestDb {
    let dir = TempDir::new().expect("a temporary directory can be made");
    let data_dir = DataDir::acquire(dir.path()).expect("a new directory is free");
    let db = Db::open_embedded(data_dir).await.expect("a new database opens");
    migrate::migrate(&db).await.expect("an empty database can be migrated");
    TestDb { name: "sqlite", db, place: Place::Dir(dir) }
}

/// A fresh schema on the test server.
///
/// # Panics
/// When the server is not there.
pub async fn postgres() -> TestDb {
    let url = postgres_schema().await;
    let db = Db::connect_postgres(&url, Uuid::new_v4(), 10).await.expect("the new schema can be reached");
    migrate::migrate(&db).await.expect("an empty schema can be migrated");
    TestDb { name: "postgres", db, place: Place::Url(url) }
}

/// Makes an empty schema on the test server and returns a URL that works in it.
///
/// # Panics
/// When the server is not there.
pub async fn postgres_schema() -> String {
    let url = std::env::var(DATABASE_URL).unwrap_or_else(|_| {
        panic!("{DATABASE_URL} is not set: run `scripts/test`, or `scripts/with-postgres cargo test ...`")
    });
    let schema = format!("t_{}", Uuid::new_v4().simple());
    let mut conn = sqlx::PgConnection::connect(&url).await.expect("the test server answers");
    let create = format!("create schema {schema}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut conn).await.expect("a schema can be made");
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options=-c%20search_path%3D{schema}")
}

/// Makes a database on the MariaDB of `scripts/with-mariadb`, a source of tests, and runs a script in it; returns its URL.
///
/// # Panics
/// When the server is not there or refuses the script.
pub async fn mysql_database(script: &str) -> String {
    let server = std::env::var("MATOME_TEST_MYSQL_URL")
        .expect("MATOME_TEST_MYSQL_URL is set: run `scripts/test`, or `scripts/with-mariadb cargo test ...`");
    let name = format!("t_{}", Uuid::new_v4().simple());
    let mut conn = sqlx::MySqlConnection::connect(&server).await.expect("the test server answers");
    let script = format!("create database {name}; use {name}; {script}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut conn).await.expect("the script runs");
    let (server, _) = server.rsplit_once('/').expect("a URL has a path");
    format!("{server}/{name}")
}

/// Makes a database of its own on the test server that at most `connections` sessions of the tests' role may use at once;
/// returns its URL.
///
/// # Panics
/// When the server is not there.
pub async fn postgres_database_of(connections: u32) -> String {
    let url = std::env::var(DATABASE_URL).expect("the test server is there");
    let name = format!("d_{}", Uuid::new_v4().simple());
    let mut conn = sqlx::PgConnection::connect(&url).await.expect("the test server answers");
    let create = format!("create database {name} connection limit {connections}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut conn).await.expect("the role may create databases");
    let (server, _) = url.rsplit_once('/').expect("a URL has a path");
    format!("{server}/{name}")
}

/// Sessions that somebody else holds.
#[derive(Debug, Default)]
pub struct Hog(Vec<sqlx::PgConnection>);

impl Hog {
    /// Takes every session of the database that is free; returns how many more it has now.
    pub async fn take_all(&mut self, url: &str) -> usize {
        let before = self.0.len();
        while let Ok(conn) = sqlx::PgConnection::connect(url).await {
            self.0.push(conn);
        }
        self.0.len() - before
    }

    /// Ends the sessions of workers through one of its own, as there is no other.
    ///
    /// # Panics
    /// When it has none.
    pub async fn end_sessions_of_workers(&mut self) -> usize {
        let conn = self.0.first_mut().expect("it has a session");
        sqlx::query(SESSIONS_OF_WORKERS).fetch_all(conn).await.expect("the role may end its own sessions").len()
    }
}

/// Tasks that schedules made, and how many of them there should not be: beside another of the same schedule and time.
///
/// # Panics
/// When the server is not there.
pub async fn fires(url: &str) -> (u64, u64) {
    let mut conn = sqlx::PgConnection::connect(url).await.expect("the test server answers");
    let sql = "select count(*), count(distinct (schedule_id, fire_time)) from tasks where schedule_id is not null";
    let (all, distinct): (i64, i64) = sqlx::query_as(sql).fetch_one(&mut conn).await.expect("there are tasks");
    (all.unsigned_abs(), (all - distinct).unsigned_abs())
}

const SESSIONS_OF_WORKERS: &str = "select pg_terminate_backend(a.pid) from pg_stat_activity a
where a.application_name in (select 'matome-' || w.boot from workers w)";

/// Ends the sessions of every process that is a worker in the schema that `url` names; returns how many.
///
/// # Panics
/// When the server is not there.
pub async fn end_sessions_of_workers(url: &str) -> usize {
    let mut conn = sqlx::PgConnection::connect(url).await.expect("the test server answers");
    sqlx::query(SESSIONS_OF_WORKERS).fetch_all(&mut conn).await.expect("the role may end its own sessions").len()
}

/// Runs a statement in the schema that `url` names, past everything that guards it.
///
/// # Panics
/// When the server is not there or refuses it.
pub async fn execute(url: &str, sql: &'static str) {
    let mut conn = sqlx::PgConnection::connect(url).await.expect("the test server answers");
    sqlx::raw_sql(sql).execute(&mut conn).await.expect("the statement is right");
}

/// Runs a statement there in a transaction that stays open until what is returned is dropped.
///
/// # Panics
/// As [`execute`].
pub async fn hold(url: &str, sql: &'static str) -> impl Send {
    let mut conn = sqlx::PgConnection::connect(url).await.expect("the test server answers");
    sqlx::raw_sql("begin").execute(&mut conn).await.expect("a transaction begins");
    sqlx::raw_sql(sql).execute(&mut conn).await.expect("the statement is right");
    conn
}

/// Runs a script on the database that `url` names: a dump, or what another application does.
///
/// # Panics
/// When the server refuses it.
pub async fn run_script(url: &str, script: &str) {
    let mut conn = sqlx::PgConnection::connect(url).await.expect("the test server answers");
    sqlx::raw_sql(sqlx::AssertSqlSafe(script.to_owned())).execute(&mut conn).await.expect("the script runs");
}

/// Makes an SQLite file, or changes it.
///
/// # Panics
/// When it cannot be opened, or refuses the script.
pub async fn run_sqlite_script(file: &std::path::Path, script: &str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let mut conn = sqlx::SqliteConnection::connect_with(&options).await.expect("the file opens");
    sqlx::raw_sql(sqlx::AssertSqlSafe(script.to_owned())).execute(&mut conn).await.expect("the script runs");
    conn.close().await.expect("the file closes");
}

/// The texts of the first column of a query's rows.
///
/// # Panics
/// When the server refuses it, or a row has none.
pub async fn texts(url: &str, sql: &str) -> Vec<String> {
    let mut conn = sqlx::PgConnection::connect(url).await.expect("the test server answers");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()));
    query.fetch_all(&mut conn).await.expect("every row has a text")
}

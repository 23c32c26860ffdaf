//! Making and upgrading the schema.
//!
//! Migrations are embedded and ordered. Each runs in one transaction that also records it, under an advisory
//! lock on PostgreSQL, so it is safe to kill at any point and to start from several processes at once.

use uuid::Uuid;

use crate::db::{Conn, Db, Dialect};
use crate::error::{Result, StoreError};

struct Migration {
    version: i64,
    /// The oldest schema version whose binaries still work after this migration (expand, then contract).
    min_binary: i64,
    text: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, min_binary: 1, text: include_str!("../migrations/0001_first_light.sql") },
    Migration { version: 2, min_binary: 1, text: include_str!("../migrations/0002_aggregation_runs.sql") },
    // Older binaries cannot read a task whose cause is a trigger.
    Migration { version: 3, min_binary: 3, text: include_str!("../migrations/0003_triggers.sql") },
    Migration { version: 4, min_binary: 3, text: include_str!("../migrations/0004_schedules.sql") },
    Migration { version: 5, min_binary: 3, text: include_str!("../migrations/0005_inbox.sql") },
    Migration { version: 6, min_binary: 3, text: include_str!("../migrations/0006_source_schemas.sql") },
    Migration { version: 7, min_binary: 3, text: include_str!("../migrations/0007_removals.sql") },
    Migration { version: 8, min_binary: 3, text: include_str!("../migrations/0008_priorities.sql") },
    Migration { version: 9, min_binary: 3, text: include_str!("../migrations/0009_repeats.sql") },
    Migration { version: 10, min_binary: 3, text: include_str!("../migrations/0010_adoptions.sql") },
    Migration { version: 11, min_binary: 3, text: include_str!("../migrations/0011_japanese.sql") },
    Migration { version: 12, min_binary: 3, text: include_str!("../migrations/0012_schema_accepts.sql") },
    Migration { version: 13, min_binary: 3, text: include_str!("../migrations/0013_celery_calls.sql") },
];

/// The schema version that this binary makes and works with.
pub const SCHEMA_VERSION: i64 = 13;

const CREATE_HISTORY: &str = "
create table if not exists schema_history (
    version bigint primary key not null,
    min_binary bigint not null,
    applied_at {time} not null default {now}
);
create table if not exists instance (
    -- new on restore and copy: leases and wake-ups of another instance are void
    instance_id {uuid} primary key not null
)";

/// What [`migrate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Version before; 0 for an empty database.
    pub from: i64,
    /// Version now.
    pub to: i64,
}

/// Brings the schema to [`SCHEMA_VERSION`].
///
/// # Errors
/// [`StoreError::SchemaVersion`] when the database was made by a newer matome that this binary cannot serve.
pub async fn migrate(db: &Db) -> Result<Migrated> {
    db.write(|conn| {
        Box::pin(async move {
            lock(conn).await?;
            run(conn, &[]).await
        })
    })
    .await
}

/// Lets one process at a time change the schema, until its transaction ends.
pub(crate) async fn lock(conn: &mut Conn<'_>) -> Result<()> {
    if conn.dialect() == Dialect::Postgres {
        // Any constant will do, as long as every matome uses the same.
        conn.fetch_all("select pg_advisory_xact_lock(7305808869232)", &[]).await?;
    }
    Ok(())
}

/// Runs the migrations that are missing, in the caller's transaction. The first leaves out the tables `adopted`, which
/// are as it would make them.
pub(crate) async fn run(conn: &mut Conn<'_>, adopted: &[&str]) -> Result<Migrated> {
    conn.execute_script(fill_in(CREATE_HISTORY, conn.dialect())).await?;
    conn.execute(
        "insert into instance (instance_id) select $1 where not exists (select 1 from instance)",
        &[Uuid::new_v4().into()],
    )
    .await?;
    let (from, min_binary) = installed(conn).await?;
    refuse_foreign(from, min_binary)?;
    for migration in MIGRATIONS.iter().filter(|m| m.version > from) {
        let text = match migration.version {
            1 => without(migration.text, adopted),
            _ => migration.text.to_owned(),
        };
        conn.execute_script(fill_in(&text, conn.dialect())).await?;
        conn.execute(
            "insert into schema_history (version, min_binary) values ($1, $2)",
            &[migration.version.into(), migration.min_binary.into()],
        )
        .await?;
    }
    Ok(Migrated { from, to: from.max(SCHEMA_VERSION) })
}

/// The statements of a migration but those that make one of `tables` or an index of it.
fn without(text: &str, tables: &[&str]) -> String {
    let is_left_out = |statement: &&str| {
        let words: Vec<&str> = statement.split_whitespace().collect();
        let made =
            |before: &[&str]| words.windows(before.len() + 1).find(|w| w.starts_with(before)).map(|w| w[before.len()]);
        let table = match words.first() {
            Some(&"create") if words.contains(&"index") => made(&["on"]),
            Some(&"create") => made(&["table"]),
            _ => None,
        };
        table.is_some_and(|table| tables.contains(&table))
    };
    statements(text)
        .iter()
        .map(String::as_str)
        .filter(|statement| !is_left_out(statement))
        .collect::<Vec<_>>()
        .join(";\n")
}

/// The statements of a migration, without comments. No text of ours has a semicolon inside a statement.
fn statements(text: &str) -> Vec<String> {
    let code = text.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    code.split(';').map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

/// Every table that the migrations make, in the order in which they refer to each other.
pub fn table_names() -> Vec<String> {
    let texts = std::iter::once(CREATE_HISTORY).chain(MIGRATIONS.iter().map(|migration| migration.text));
    let statements = texts.flat_map(statements);
    let name = |statement: String| {
        let rest = statement.strip_prefix("create table ")?;
        let rest = rest.strip_prefix("if not exists ").unwrap_or(rest);
        rest.split_whitespace().next().map(str::to_owned)
    };
    statements.filter_map(name).collect()
}

/// The version of the schema; 0 when there is none of ours.
///
/// # Errors
/// When the database is gone.
pub async fn version(conn: &mut Conn<'_>) -> Result<i64> {
    let exists = conn.pick(HISTORY_POSTGRES, HISTORY_SQLITE);
    match conn.fetch_optional(exists, &[]).await? {
        None => Ok(0),
        Some(_) => installed(conn).await.map(|(version, _)| version),
    }
}

const HISTORY_POSTGRES: &str = "select 1 as found from pg_catalog.pg_class where oid = to_regclass('schema_history')";
const HISTORY_SQLITE: &str = "select 1 as found from sqlite_schema where name = 'schema_history'";

/// Checks that the schema is one that this binary can work with; changes nothing.
///
/// # Errors
/// [`StoreError::SchemaVersion`] otherwise.
pub async fn check(db: &Db) -> Result<()> {
    check_on(&mut db.read().await?.conn()).await
}

/// As [`check`], on a connection.
///
/// # Errors
/// As [`check`].
pub async fn check_on(conn: &mut Conn<'_>) -> Result<()> {
    if version(conn).await? == 0 {
        return Err(version_error(0));
    }
    let (found, min_binary) = installed(conn).await?;
    if found < SCHEMA_VERSION {
        return Err(version_error(found));
    }
    refuse_foreign(found, min_binary)
}

/// The id of this installation.
///
/// # Errors
/// When the database is not migrated or is gone.
pub async fn instance_id(conn: &mut Conn<'_>) -> Result<Uuid> {
    conn.fetch_one("select instance_id from instance", &[]).await?.uuid("instance_id")
}

async fn installed(conn: &mut Conn<'_>) -> Result<(i64, i64)> {
    let sql =
        "select coalesce(max(version), 0) as version, coalesce(max(min_binary), 0) as min_binary from schema_history";
    let row = conn.fetch_one(sql, &[]).await?;
    Ok((row.int("version")?, row.int("min_binary")?))
}

fn refuse_foreign(found: i64, min_binary: i64) -> Result<()> {
    if min_binary > SCHEMA_VERSION { Err(version_error(found)) } else { Ok(()) }
}

fn version_error(found: i64) -> StoreError {
    StoreError::SchemaVersion { found, wanted: SCHEMA_VERSION.to_string() }
}

/// Fills in the words that differ between the databases.
fn fill_in(text: &str, dialect: Dialect) -> String {
    let words: [(&str, &str); 9] = match dialect {
        Dialect::Postgres => [
            ("{id}", "bigint generated by default as identity primary key"),
            ("{time}", "timestamptz"),
            ("{json}", "jsonb"),
            ("{bytes}", "bytea"),
            ("{uuid}", "uuid"),
            ("{now}", "now()"),
            ("{binary_collation}", "collate \"C\""),
            ("{false}", "false"),
            ("{true}", "true"),
        ],
        Dialect::Sqlite => [
            // AUTOINCREMENT: a plain rowid is used again after a delete.
            ("{id}", "integer primary key autoincrement"),
            ("{time}", "integer"),
            ("{json}", "text"),
            ("{bytes}", "blob"),
            ("{uuid}", "blob"),
            ("{now}", "(cast(unixepoch('subsec') * 1000000 as integer))"),
            ("{binary_collation}", "collate binary"),
            ("{false}", "0"),
            ("{true}", "1"),
        ],
    };
    words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
}

//! Making and upgrading the schema.
//!
//! Migrations are embedded and ordered. Those that may run, run in one transaction that also records them, under an
//! advisory lock on PostgreSQL, so it is safe to kill at any point and to start from several processes at once.
//!
//! A migration either expands (older binaries go on working beside it) or contracts: it raises `min_binary`, since it takes
//! away what older binaries use. On PostgreSQL a contracting one waits until no process of an older binary lives
//! ([`older`]). An embedded database has one process, the one that migrates.

mod older;
mod text;

use std::time::Duration;

use uuid::Uuid;

use crate::db::{Conn, Db, Dialect};
use crate::error::{Result, StoreError};
use crate::workers;

pub use older::OlderMember;

/// One step of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The version that it makes.
    pub version: i64,
    /// The oldest schema version whose binaries still work after this migration (expand, then contract).
    pub min_binary: i64,
    /// Its statements.
    pub text: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, min_binary: 1, text: include_str!("../../migrations/0001_first_light.sql") },
    Migration { version: 2, min_binary: 1, text: include_str!("../../migrations/0002_aggregation_runs.sql") },
    // Older binaries cannot read a task whose cause is a trigger.
    Migration { version: 3, min_binary: 3, text: include_str!("../../migrations/0003_triggers.sql") },
    Migration { version: 4, min_binary: 3, text: include_str!("../../migrations/0004_schedules.sql") },
    Migration { version: 5, min_binary: 3, text: include_str!("../../migrations/0005_inbox.sql") },
    Migration { version: 6, min_binary: 3, text: include_str!("../../migrations/0006_source_schemas.sql") },
    Migration { version: 7, min_binary: 3, text: include_str!("../../migrations/0007_removals.sql") },
    Migration { version: 8, min_binary: 3, text: include_str!("../../migrations/0008_priorities.sql") },
    Migration { version: 9, min_binary: 3, text: include_str!("../../migrations/0009_repeats.sql") },
    Migration { version: 10, min_binary: 3, text: include_str!("../../migrations/0010_adoptions.sql") },
    Migration { version: 11, min_binary: 3, text: include_str!("../../migrations/0011_japanese.sql") },
    Migration { version: 12, min_binary: 3, text: include_str!("../../migrations/0012_schema_accepts.sql") },
    Migration { version: 13, min_binary: 3, text: include_str!("../../migrations/0013_celery_calls.sql") },
    Migration { version: 14, min_binary: 3, text: include_str!("../../migrations/0014_hosts.sql") },
    Migration { version: 15, min_binary: 3, text: include_str!("../../migrations/0015_pushes.sql") },
    // Older binaries cannot read a source of the type push, nor a task that a push causes: there are none before this.
    Migration { version: PUSH_SOURCES, min_binary: 15, text: include_str!("../../migrations/0016_push_sources.sql") },
    Migration { version: 17, min_binary: 15, text: include_str!("../../migrations/0017_backups.sql") },
    Migration { version: 18, min_binary: 15, text: include_str!("../../migrations/0018_source_bytes.sql") },
    Migration { version: 19, min_binary: 15, text: include_str!("../../migrations/0019_tombstones.sql") },
    // Older binaries show a tombstone as the record that is gone: there are none before this.
    Migration {
        version: TOMBSTONES,
        min_binary: 19,
        text: include_str!("../../migrations/0020_tombstone_sources.sql"),
    },
    Migration { version: 21, min_binary: 19, text: include_str!("../../migrations/0021_push_headers.sql") },
    #[cfg(feature = "next")]
    Migration { version: 9001, min_binary: 3, text: include_str!("../../migrations/next/expand.sql") },
    #[cfg(feature = "next")]
    Migration { version: 9002, min_binary: 9001, text: include_str!("../../migrations/next/contract.sql") },
];

/// What this binary's statements use is there from this version on. Migrations behind it only take away what it does not use.
const NEEDED: i64 = if cfg!(feature = "next") { 9001 } else { 21 };

/// From this version of the schema on there may be sources of the type push: no older process works beside it.
pub const PUSH_SOURCES: i64 = 16;

/// From this version of the schema on sources may ask for tombstones: no older process works beside it.
pub const TOMBSTONES: i64 = 20;

/// The schema version that this binary makes.
pub const SCHEMA_VERSION: i64 = Schema::BUILT.version();

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

/// The schemas that one build knows.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    migrations: &'static [Migration],
    needed: i64,
}

/// What [`Schema::migrate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Version before; 0 for an empty database.
    pub from: i64,
    /// Version now.
    pub to: i64,
    /// What did not happen yet, and why.
    pub held_back: Option<HeldBack>,
}

/// A contracting migration that waits for the end of older processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// Version that the migration would make.
    pub version: i64,
    /// Oldest version whose binaries would work after it.
    pub min_binary: i64,
    /// The processes that it would break.
    pub members: Vec<OlderMember>,
}

impl Schema {
    /// Of this binary.
    pub const BUILT: Self = Self::new(MIGRATIONS, NEEDED);

    /// Of a build that knows `migrations`, at least one, and works with every schema from `needed` on that they make.
    pub const fn new(migrations: &'static [Migration], needed: i64) -> Self {
        Self { migrations, needed }
    }

    /// The newest version that this build makes.
    pub const fn version(self) -> i64 {
        self.migrations[self.migrations.len() - 1].version
    }

    /// Whether this build can work with a schema of `version` that it migrated itself.
    pub const fn suffices(self, version: i64) -> bool {
        version >= self.needed
    }

    /// Brings the schema to [`Schema::version`]; or as far as older processes allow that live on it.
    ///
    /// # Errors
    /// [`StoreError::SchemaVersion`] when the database was made by a newer matome that this build cannot serve.
    pub async fn migrate(self, db: &Db) -> Result<Migrated> {
        self.migrate_watching(db, workers::DEAD_AFTER).await
    }

    /// As [`Schema::migrate`], where a process is dead whose heartbeat stands still for so long.
    ///
    /// # Errors
    /// As [`Schema::migrate`].
    pub async fn migrate_watching(self, db: &Db, dead_after: Duration) -> Result<Migrated> {
        let (mut from, mut dead) = (None, Vec::new());
        loop {
            let migrating = db.write(move |conn| {
                Box::pin(async move {
                    lock(conn).await?;
                    self.run(conn, &[], &dead).await
                })
            });
            let migrated = migrating.await?;
            let from = *from.get_or_insert(migrated.from);
            let Some(held_back) = migrated.held_back else { return Ok(Migrated { from, ..migrated }) };
            let watched = older::watch(db, held_back.min_binary, dead_after).await?;
            if !watched.living.is_empty() {
                let held_back = Some(HeldBack { members: watched.living, ..held_back });
                return Ok(Migrated { from, to: migrated.to, held_back });
            }
            // What they have locked, the migration would wait for.
            for (boot, beat_seq) in watched.still.iter().copied() {
                db.write(move |conn| Box::pin(async move { workers::end_sessions(conn, boot, beat_seq).await }))
                    .await?;
            }
            dead = watched.still;
        }
    }

    /// Runs the migrations that are missing, in the caller's transaction. The first leaves out the tables `adopted`, which
    /// are as it would make them. Members in `dead` are gone whose heartbeat still stands where it stood.
    pub(crate) async fn run(self, conn: &mut Conn<'_>, adopted: &[&str], dead: &[(Uuid, i64)]) -> Result<Migrated> {
        conn.execute_script(text::fill_in(CREATE_HISTORY, conn.dialect())).await?;
        conn.execute(
            "insert into instance (instance_id) select $1 where not exists (select 1 from instance)",
            &[Uuid::new_v4().into()],
        )
        .await?;
        let (from, mut min_binary) = installed(conn).await?;
        self.refuse_newer(from, min_binary)?;
        let (mut to, mut held_back) = (from, None);
        for migration in self.migrations.iter().filter(|m| m.version > from) {
            if migration.min_binary > min_binary && from > 0 {
                let members = older::close(conn, migration.min_binary, dead).await?;
                if !members.is_empty() {
                    let Migration { version, min_binary, .. } = *migration;
                    held_back = Some(HeldBack { version, min_binary, members });
                    break;
                }
            }
            let text = match migration.version {
                1 => text::without(migration.text, adopted),
                _ => migration.text.to_owned(),
            };
            conn.execute_script(text::fill_in(&text, conn.dialect())).await?;
            conn.execute(
                "insert into schema_history (version, min_binary) values ($1, $2)",
                &[migration.version.into(), migration.min_binary.into()],
            )
            .await?;
            (to, min_binary) = (migration.version, migration.min_binary);
        }
        Ok(Migrated { from, to, held_back })
    }

    /// Checks that the schema is one that this build can work with; changes nothing.
    ///
    /// # Errors
    /// [`StoreError::SchemaVersion`] otherwise.
    pub async fn check(self, conn: &mut Conn<'_>) -> Result<()> {
        if version(conn).await? == 0 {
            return Err(self.error(0));
        }
        let (found, min_binary) = installed(conn).await?;
        if !self.suffices(found) {
            return Err(self.error(found));
        }
        self.refuse_newer(found, min_binary)
    }

    fn refuse_newer(self, found: i64, min_binary: i64) -> Result<()> {
        if min_binary > self.version() { Err(self.error(found)) } else { Ok(()) }
    }

    fn error(self, found: i64) -> StoreError {
        let wanted = match (self.needed, self.version()) {
            (oldest, newest) if oldest == newest => newest.to_string(),
            (oldest, newest) => format!("{oldest}-{newest}"),
        };
        StoreError::SchemaVersion { found, wanted }
    }
}

/// Brings the schema to that of this binary: [`Schema::migrate`].
///
/// # Errors
/// As [`Schema::migrate`].
pub async fn migrate(db: &Db) -> Result<Migrated> {
    Schema::BUILT.migrate(db).await
}

/// Lets one process at a time change the schema, until its transaction ends.
pub(crate) async fn lock(conn: &mut Conn<'_>) -> Result<()> {
    if conn.dialect() == Dialect::Postgres {
        // Any constant will do, as long as every matome uses the same.
        conn.fetch_all("select pg_advisory_xact_lock(7305808869232)", &[]).await?;
    }
    Ok(())
}

/// Lets the schema keep the processes that live on it until the transaction ends: no contracting migration takes place meanwhile.
pub(crate) async fn stay(conn: &mut Conn<'_>) -> Result<()> {
    older::stay(conn).await
}

/// Every table that the migrations make, in the order in which they refer to each other.
pub fn table_names() -> Vec<String> {
    let texts = std::iter::once(CREATE_HISTORY).chain(MIGRATIONS.iter().map(|migration| migration.text));
    let statements = texts.flat_map(text::statements);
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
    Schema::BUILT.check(conn).await
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

//! Upgrades under processes that go on working: expanding at once, contracting when no older process lives any more.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use chrono::DateTime;
use matome_model::clock::Timestamp;
use matome_store::db::Db;
use matome_store::error::{Result, StoreError};
use matome_store::migrate::{Migrated, Migration, SCHEMA_VERSION, Schema};
use matome_store::workers::{self, Beat, NewWorker};
use matome_testbed::databases;
use uuid::Uuid;

/// A process is dead for these tests when its heart stands still for so long.
const DEAD_AFTER: Duration = Duration::from_millis(1200);

const TODAY: Migration = Migration { version: SCHEMA_VERSION, min_binary: 3, text: "" };
const EXPAND: Migration =
    Migration { version: 901, min_binary: 3, text: "alter table tasks add column expanded bigint" };
const CONTRACT: Migration = Migration { version: 902, min_binary: 901, text: "create table contracted (id bigint)" };

/// The build of today, the next one, which expands, and one that both expands and contracts and needs the former only.
const OLD: Schema = Schema::BUILT;
const NEXT: Schema = Schema::new(&[TODAY, EXPAND], 901);
const AFTER: Schema = Schema::new(&[TODAY, EXPAND, CONTRACT], 901);

fn at(micros: i64) -> Timestamp {
    DateTime::from_timestamp_micros(1_763_900_000_000_000 + micros).unwrap()
}

async fn sign_on(db: &Db, boot: Uuid, schema: Schema) -> Result<()> {
    let worker = NewWorker { boot, role: "beat".into(), host: "alpha".into(), pid: 7, version: "0.0.9".into() };
    db.write(move |conn| Box::pin(async move { workers::register(conn, &worker, schema, at(0)).await })).await
}

async fn beat(db: &Db, boot: Uuid) -> Beat {
    db.write(move |conn| Box::pin(async move { workers::beat(conn, boot, false, at(1)).await })).await.unwrap()
}

async fn sign_off(db: &Db, boot: Uuid) {
    db.write(move |conn| Box::pin(async move { workers::gone(conn, boot, at(2)).await })).await.unwrap();
}

async fn fits(db: &Db, schema: Schema) -> bool {
    let checked = schema.check(&mut db.read().await.unwrap().conn()).await;
    assert!(matches!(checked, Ok(()) | Err(StoreError::SchemaVersion { .. })), "{checked:?}");
    checked.is_ok()
}

/// Migrates beside a process whose heart beats all the time.
async fn migrate_beside(db: &Db, schema: Schema, boot: Uuid) -> Migrated {
    let beats = async {
        loop {
            beat(db, boot).await;
            tokio::time::sleep(DEAD_AFTER / 8).await;
        }
    };
    tokio::select! {
        migrated = schema.migrate_watching(db, DEAD_AFTER) => migrated.unwrap(),
        () = beats => unreachable!("it beats for ever"),
    }
}

#[tokio::test]
async fn a_contracting_migration_waits_for_the_end_of_older_processes_and_names_them() {
    for bed in databases().await {
        let db = &bed.db;
        let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
        sign_on(db, old, OLD).await.unwrap();

        let migrated = migrate_beside(db, NEXT, old).await;
        assert_eq!((migrated.from, migrated.to, migrated.held_back), (SCHEMA_VERSION, 901, None), "{}", bed.name);
        assert!(fits(db, OLD).await && fits(db, NEXT).await && fits(db, AFTER).await, "{}", bed.name);
        sign_on(db, new, NEXT).await.unwrap();

        let migrated = migrate_beside(db, AFTER, old).await;
        if bed.name == "sqlite" {
            // One process holds the directory: the one that migrates.
            assert_eq!((migrated.to, migrated.held_back), (902, None));
            continue;
        }
        let held_back = migrated.held_back.unwrap();
        assert_eq!((migrated.from, migrated.to, held_back.version), (901, 901, 902));
        let named: Vec<_> = held_back.members.iter().map(|m| (m.boot, m.host.as_str(), m.pid)).collect();
        assert_eq!(named, [(old, "alpha", 7)], "not the one that knows the expanded schema");
        assert!(fits(db, OLD).await, "nothing has changed for it");

        sign_off(db, old).await;
        let migrated = AFTER.migrate_watching(db, DEAD_AFTER).await.unwrap();
        assert_eq!((migrated.to, migrated.held_back), (902, None));
        assert!(!fits(db, OLD).await && fits(db, NEXT).await && fits(db, AFTER).await);
        for boot in [old, Uuid::new_v4()] {
            let refused = sign_on(db, boot, OLD).await;
            assert!(matches!(refused, Err(StoreError::SchemaVersion { found: 902, .. })), "{refused:?}");
        }
        assert!(matches!(beat(db, old).await, Beat::DeclaredDead), "its refusal has not brought it back");
        assert!(matches!(beat(db, new).await, Beat::Alive(_)));
    }
}

#[tokio::test]
async fn one_build_expands_beside_older_processes_and_contracts_later() {
    let bed = matome_testbed::postgres().await;
    let old = Uuid::new_v4();
    sign_on(&bed.db, old, OLD).await.unwrap();
    let migrated = migrate_beside(&bed.db, AFTER, old).await;
    assert_eq!((migrated.from, migrated.to), (SCHEMA_VERSION, 901));
    assert!(AFTER.suffices(migrated.to) && migrated.held_back.is_some());
    assert!(fits(&bed.db, OLD).await && fits(&bed.db, AFTER).await);
}

#[tokio::test]
async fn an_older_process_that_was_killed_holds_nothing_back_and_cannot_come_back() {
    let bed = matome_testbed::postgres().await;
    let (killed, other) = (Uuid::new_v4(), Uuid::new_v4());
    sign_on(&bed.db, killed, OLD).await.unwrap();
    NEXT.migrate_watching(&bed.db, DEAD_AFTER).await.unwrap();
    sign_on(&bed.db, other, AFTER).await.unwrap();
    let migrated = migrate_beside(&bed.db, AFTER, other).await;
    assert_eq!((migrated.to, migrated.held_back), (902, None));
    // It was not killed but stopped, and goes on.
    assert!(matches!(beat(&bed.db, killed).await, Beat::DeclaredDead));
    let refused = sign_on(&bed.db, killed, OLD).await;
    assert!(matches!(refused, Err(StoreError::SchemaVersion { .. })), "{refused:?}");
    assert!(matches!(beat(&bed.db, other).await, Beat::Alive(_)));
}

/// Processes of the old build start all the time, at any moment of the migration: each is either seen by it or refused.
#[tokio::test(flavor = "multi_thread")]
async fn no_older_process_slips_in_while_a_contracting_migration_runs() {
    for _ in 0..20 {
        let bed = matome_testbed::postgres().await;
        NEXT.migrate_watching(&bed.db, DEAD_AFTER).await.unwrap();
        let starts = futures::future::join_all((0..8).map(|n| {
            let (db, boot) = (bed.db.clone(), Uuid::new_v4());
            async move {
                tokio::time::sleep(Duration::from_micros(n * 700)).await;
                sign_on(&db, boot, OLD).await.is_ok().then_some(boot)
            }
        }));
        let lives = async {
            let started: Vec<Uuid> = starts.await.into_iter().flatten().collect();
            if !started.is_empty() {
                assert!(fits(&bed.db, OLD).await, "one signed on and the schema is not its own any more");
            }
            for boot in started {
                sign_off(&bed.db, boot).await;
            }
        };
        // It waits for as long as one of them is there.
        let migrating = AFTER.migrate_watching(&bed.db, Duration::from_secs(3600));
        let (migrated, ()) = futures::join!(migrating, lives);
        assert_eq!(migrated.unwrap().to, 902);
    }
}

/// A prepared statement with a `*` ends when a migration adds a column: every process that runs beside it would answer with
/// errors from then on.
#[test]
fn no_statement_of_ours_says_star() {
    fn look(dir: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
                continue;
            }
            let says = |line: &&str| {
                let code = line.split("//").next().unwrap_or_default();
                ["select *", "returning *", "t.*"].iter().any(|star| code.contains(star))
            };
            let text = std::fs::read_to_string(&path).unwrap();
            found.extend(text.lines().filter(says).map(|line| format!("{}: {line}", path.display())));
        }
    }
    let mut found = Vec::new();
    look(std::path::Path::new("src"), &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

//! Every commit by which records are removed fails once before it happens and once after, in a process that goes on and
//! in one that dies of it: afterwards what was to go is gone, the rest is there, and everything that must hold does.
//!
//! The scenario: a source is reset with its data, another loses what it acquired before a time, a third and a fourth what
//! their retention does not keep, by number and by bytes; then the first is read again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;

use futures::FutureExt as _;
use matome_acquisition::apply_retention;
use matome_model::clock::{Clock, Timestamp};
use matome_store::check::check;
use matome_store::db::Db;
use matome_store::removals::{self, Removal, Reset};
use matome_testbed::TestDb;
use support::Bench;
use support::failpoint::{Failpoint, each_fault, write};

const RECORDS: usize = 5;
/// Less than the records, so that each removal takes several transactions.
const BATCH: i64 = 2;

fn lines(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!(r#"{{"n":{n}}}"#)).collect()
}

struct Stage {
    reset: Bench,
    cleared: Bench,
    retained: Bench,
    sized: Bench,
    /// Between the two reads of the cleared source.
    between: Timestamp,
}

impl Stage {
    async fn set(db: &Db) -> Self {
        let reset = Bench::new(db, "").await;
        let cleared = Bench::new(db, "").await;
        let retained = Bench::new(db, r#","retention":{"max_records":2}"#).await;
        // Room for two records of 7 bytes, or 8 as PostgreSQL writes them.
        let sized = Bench::new(db, r#","retention":{"max_bytes":20}"#).await;
        for bench in [&reset, &cleared, &retained, &sized] {
            bench.write_file(&lines(0..RECORDS));
            bench.run().await.unwrap();
        }
        let between = Clock::system().now();
        cleared.write_file(&lines(0..RECORDS + 2));
        cleared.run().await.unwrap();
        Self { reset, cleared, retained, sized, between }
    }

    /// Asks for everything and does it, through `db`. A reset that an earlier process was asked for is not asked for again.
    async fn live(&self, db: &Db) {
        let id = self.reset.source_id;
        let is_whole = self.reset.stored().await.len() == RECORDS;
        if is_whole && !pending(db, id).await {
            // As a client that asks until it is answered: what it asked for twice is done once.
            let reset = write(db, move |conn, now| removals::reset(conn, id, true, now).boxed()).await;
            assert!(matches!(reset, Reset::Removing | Reset::Done), "{reset:?}");
        }
        let (id, which) = (self.cleared.source_id, Removal { from: None, before: Some(self.between) });
        write(db, move |conn, now| async move { removals::request(conn, id, &which, now).await }.boxed()).await;
        while write(db, move |conn, now| removals::remove_batch(conn, BATCH, now).boxed()).await {}
        while let Err(err) = apply_retention(db, Clock::system().now()).await {
            assert!(err.is_transient(), "{err:?}");
        }
    }

    async fn look(&self, bed: &TestDb, told: &str) {
        assert_eq!(self.reset.stored().await, [""; 0], "{told}: reset");
        assert_eq!(self.cleared.stored().await, lines(RECORDS..RECORDS + 2), "{told}: cleared");
        assert_eq!(self.retained.stored().await, lines(RECORDS - 2..RECORDS), "{told}: retained");
        assert_eq!(self.sized.stored().await, lines(RECORDS - 2..RECORDS), "{told}: sized");
        // A lane that stayed paused, or a place in the file that was not forgotten, would leave it empty.
        self.reset.run().await.unwrap();
        assert_eq!(self.reset.stored().await, lines(0..RECORDS), "{told}: read again");
        let mut reader = bed.db.read().await.unwrap();
        let left = reader.conn().fetch_one("select count(*) as n from removals", &[]).await.unwrap().int("n").unwrap();
        assert_eq!(left, 0, "{told}: removals");
        drop(reader);
        for verdict in check(&mut bed.snapshot().await, true).await.unwrap() {
            assert!(verdict.holds(), "{told}: {verdict:?}");
        }
    }
}

async fn pending(db: &Db, source_id: i64) -> bool {
    removals::pending(&mut db.read().await.unwrap().conn(), source_id).await.unwrap()
}

/// Runs the scenario into one fault, and lets another process take over when the first died.
async fn suffer(bed: &TestDb, failpoint: Arc<Failpoint>) {
    let stage = Stage::set(&bed.db).await;
    let told = format!("{} {failpoint}", bed.name);
    let db = bed.db.with_commit_hook(failpoint.clone());
    failpoint.befall(&told, stage.live(&db).boxed_local(), stage.live(&bed.db).boxed_local()).await;
    stage.look(bed, &told).await;
}

async fn every_commit(bed: TestDb) {
    let commits = each_fault(async |failpoint| suffer(&bed, failpoint).await).await;
    assert!(commits >= 10, "{}: {commits} commits", bed.name);
    println!("{}: {commits} commits, {} faults", bed.name, commits * 4);
    println!("row removal {} - {} 0 0 -", bed.name, commits * 4 * (4 * RECORDS + 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_while_records_are_removed_removes_all_that_should_go_and_no_more_on_sqlite() {
    every_commit(matome_testbed::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_while_records_are_removed_removes_all_that_should_go_and_no_more_on_postgres() {
    every_commit(matome_testbed::postgres().await).await;
}

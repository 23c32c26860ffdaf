//! Hosts that not many tasks may read from at a time, on both databases.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use matome_model::clock::Timestamp;
use matome_model::source::HostUse;
use matome_model::task::{LaneKind, Queue};
use matome_store::db::Db;
use matome_store::migrate::Schema;
use matome_store::tasks::{self, ClaimedTask, End, Finish, NewTask, RetryPolicy};
use matome_store::{check, hosts, workers};
use matome_testbed::{TestDb, databases};
use serde_json::value::RawValue;
use uuid::Uuid;

const KIND: LaneKind = LaneKind::Source;

/// `write!(db, conn => expression)`: the expression in one transaction.
macro_rules! write {
    ($db:expr, $conn:ident => $work:expr) => {
        $db.write(move |$conn| Box::pin(async move { $work.await })).await
    };
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_timestamp_secs(1_763_900_000 + secs).unwrap()
}

async fn reads_from(db: &Db, object_id: i64, host: &'static str, concurrent: Option<u32>) {
    let host = HostUse { host: host.to_owned(), concurrent };
    write!(db, conn => hosts::set(conn, KIND, object_id, Some(&host))).unwrap();
}

async fn enqueue(db: &Db, object_id: i64) {
    let new = NewTask::manual(KIND, object_id, at(0));
    write!(db, conn => tasks::enqueue(conn, &new, at(0))).unwrap();
}

async fn claim(db: &Db, boot: Uuid, slots: usize) -> Vec<ClaimedTask> {
    write!(db, conn => tasks::claim(conn, Queue::Acquisition, boot, slots, at(1))).unwrap()
}

fn succeeded(task: &ClaimedTask) -> Finish {
    let result = RawValue::from_string("{}".to_owned()).unwrap();
    Finish { task_id: task.task.id, fence: task.fence, end: End::Succeeded { result } }
}

async fn finish(db: &Db, task: &ClaimedTask) {
    let finishes = vec![succeeded(task)];
    write!(db, conn => tasks::finish(conn, &finishes, &RetryPolicy::default(), at(2))).unwrap();
}

fn objects(claimed: &[ClaimedTask]) -> Vec<i64> {
    let mut objects: Vec<i64> = claimed.iter().map(|task| task.task.object_id).collect();
    objects.sort_unstable();
    objects
}

/// All that must always hold.
async fn holds(bed: &TestDb) {
    for verdict in check::check(&mut bed.snapshot().await, false).await.unwrap() {
        // There are lanes and tasks here, and no sources.
        assert!(verdict.holds() || verdict.invariant == "owner", "{}: {verdict:?}", bed.name);
    }
}

#[tokio::test]
async fn no_more_tasks_read_from_a_host_than_its_strictest_source_says() {
    for bed in databases().await {
        let db = &bed.db;
        // Five sources of one host: two say how many, one of them less; two of another host, one of none.
        for object_id in 1..=5 {
            let concurrent = [None, Some(4), Some(2), None, None][usize::try_from(object_id - 1).unwrap()];
            reads_from(db, object_id, "api.example.com", concurrent).await;
        }
        reads_from(db, 6, "other.example.com", None).await;
        reads_from(db, 7, "other.example.com", None).await;
        for object_id in 1..=8 {
            enqueue(db, object_id).await;
        }
        let boot = Uuid::from_u128(7);
        // Those of the full host stand first and do not keep the others from being served.
        let first = claim(db, boot, 5).await;
        assert_eq!(objects(&first), [1, 2, 6, 7, 8], "{}", bed.name);
        assert!(claim(db, boot, 5).await.is_empty(), "{}", bed.name);
        // One ends, one more may.
        finish(db, &first[0]).await;
        let second = claim(db, Uuid::from_u128(8), 5).await;
        assert_eq!(second.len(), 1, "{}", bed.name);
        // What the strictest asks for is taken back; the next strictest holds.
        reads_from(db, 3, "api.example.com", None).await;
        let third = claim(db, boot, 5).await;
        assert_eq!(third.len(), 2, "{}: four in all", bed.name);
        write!(db, conn => hosts::forget_limit(conn, KIND, 2)).unwrap();
        let left = db.read().await.unwrap().conn().fetch_all("select host from hosts", &[]).await.unwrap();
        assert!(left.is_empty(), "{}: nobody asks for anything any more", bed.name);
        holds(&bed).await;
    }
}

#[tokio::test]
async fn a_lower_limit_lets_what_runs_end_and_another_host_counts_at_once() {
    for bed in databases().await {
        let db = &bed.db;
        for object_id in 1..=4 {
            reads_from(db, object_id, "a.example.com", (object_id == 1).then_some(3)).await;
            enqueue(db, object_id).await;
        }
        let boot = Uuid::from_u128(7);
        let running = claim(db, boot, 9).await;
        assert_eq!(running.len(), 3, "{}", bed.name);
        reads_from(db, 1, "a.example.com", Some(1)).await;
        for task in &running[..2] {
            finish(db, task).await;
            assert!(claim(db, boot, 9).await.is_empty(), "{}: one still reads", bed.name);
        }
        // The source that waits moves to a host that nobody limits.
        reads_from(db, 4, "b.example.com", None).await;
        assert_eq!(objects(&claim(db, boot, 9).await), [4], "{}", bed.name);
    }
}

#[tokio::test]
async fn the_place_of_a_dead_worker_is_free_when_its_lease_is_taken_back() {
    for bed in databases().await {
        let db = &bed.db;
        for object_id in 1..=2 {
            reads_from(db, object_id, "api.example.com", Some(1)).await;
            enqueue(db, object_id).await;
        }
        let (dead, heir) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let worker = workers::NewWorker {
            boot: dead,
            role: "acquisition".into(),
            host: "h".into(),
            pid: 1,
            version: "0".into(),
        };
        write!(db, conn => workers::register(conn, &worker, Schema::BUILT, at(0))).unwrap();
        assert_eq!(claim(db, dead, 2).await.len(), 1, "{}", bed.name);
        assert!(claim(db, heir, 2).await.is_empty(), "{}", bed.name);
        assert!(write!(db, conn => workers::declare_dead(conn, dead, 0, at(5))).unwrap());
        write!(db, conn => tasks::steal(conn, dead, at(5))).unwrap();
        assert_eq!(claim(db, heir, 2).await.len(), 1, "{}: one, not two", bed.name);
    }
}

/// Many who claim and end at once, as on many machines; whoever looks sees no more than may.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workers_that_claim_at_once_never_exceed_the_limit() {
    const LIMIT: usize = 3;
    for bed in databases().await {
        for object_id in 1..=12 {
            reads_from(&bed.db, object_id, "api.example.com", (object_id % 4 == 0).then_some(3)).await;
        }
        for object_id in 1..=12 {
            enqueue(&bed.db, object_id).await;
        }
        let most = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicUsize::new(0));
        let work = (0..6).map(|n| {
            let (db, most, done) = (bed.db.clone(), most.clone(), done.clone());
            tokio::spawn(async move {
                let boot = Uuid::from_u128(100 + n);
                let mut held: Vec<ClaimedTask> = Vec::new();
                while done.load(Ordering::SeqCst) < 300 {
                    // An end and the next claim in one transaction, as workers do it.
                    let ends: Vec<Finish> = held.iter().map(succeeded).collect();
                    let objects: Vec<i64> = held.iter().map(|task| task.task.object_id).collect();
                    done.fetch_add(ends.len(), Ordering::SeqCst);
                    held = db
                        .write(move |conn| {
                            Box::pin(async move {
                                if !ends.is_empty() {
                                    tasks::finish(conn, &ends, &RetryPolicy::default(), at(2)).await?;
                                }
                                tasks::claim(conn, Queue::Acquisition, boot, 2, at(2)).await
                            })
                        })
                        .await
                        .unwrap();
                    for object_id in objects {
                        enqueue(&db, object_id).await;
                    }
                    let sql = "select count(*) as reading from lanes where lease_worker is not null";
                    let row = db.read().await.unwrap().conn().fetch_one(sql, &[]).await.unwrap();
                    most.fetch_max(usize::try_from(row.int("reading").unwrap()).unwrap(), Ordering::SeqCst);
                }
            })
        });
        for worker in futures::future::join_all(work).await {
            worker.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), LIMIT, "{}: as many as may, and no more", bed.name);
        holds(&bed).await;
    }
}

//! What is sent to a source is stored once, whatever fails: the transaction that keeps it, a page that reads it, or the
//! process that does either. On both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures::FutureExt as _;
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use matome_model::task::{LaneKind, Queue, Trigger};
use matome_store::check::check;
use matome_store::data_sources;
use matome_store::db::Db;
use matome_store::pushes::{self, Accepted, Identity, NewPush, Waiting};
use matome_store::removals;
use matome_store::tasks::{self, End, Finish, RetryPolicy};
use matome_tasks::{Advice, ClaimedTask, Handler as _, TaskContext};
use matome_testbed::{TestDb, databases};
use support::failpoint::{Failpoint, Side, each_fault, write};
use support::{Bench, canonical, count, json};
use uuid::Uuid;

async fn bench(db: &Db, config: &str) -> Bench {
    Bench::with_config(db, tempfile::TempDir::new().unwrap(), SourceType::Push, config).await
}

fn push(bench: &Bench, key: Option<&str>, format: &'static str, body: &str) -> NewPush {
    let key = key.map(str::to_owned);
    NewPush::new(bench.source_id, key, Identity::Body, format, body.as_bytes().to_vec(), 1)
}

async fn send(db: &Db, push: NewPush) -> Accepted {
    write(db, move |conn, now| {
        let push = push.clone();
        async move { pushes::accept(conn, &push, now).await }.boxed()
    })
    .await
}

async fn waiting(bench: &Bench) -> Waiting {
    pushes::waiting(&mut bench.db.read().await.unwrap().conn(), bench.source_id).await.unwrap()
}

async fn number(db: &Db, sql: &'static str) -> i64 {
    db.read().await.unwrap().conn().fetch_one(sql, &[]).await.unwrap().int("n").unwrap()
}

const BODIES: &str = "select count(*) as n from push_bodies";

async fn holds(bed: &TestDb, told: &str) {
    for verdict in check(&mut bed.snapshot().await, true).await.unwrap() {
        assert!(verdict.holds(), "{told}: {verdict:?}");
    }
}

#[tokio::test]
async fn one_task_reads_all_that_was_sent_and_what_has_a_key_is_known_again() {
    for bed in databases().await {
        let bench = bench(&bed.db, r#"{"format":"auto"}"#).await;
        let first = send(&bed.db, push(&bench, Some("a"), "json", r#"[{"n":1},{"n":2}]"#)).await;
        let Accepted::New(first, _) = first else { panic!("{first:?}") };
        let second = send(&bed.db, push(&bench, None, "csv", "n,s\n1,x\n2\n3,z\n")).await;
        let Accepted::New(second, _) = second else { panic!("{second:?}") };
        assert_eq!(first.task_id, second.task_id, "{}: one waits already", bed.name);
        assert!(matches!(send(&bed.db, push(&bench, None, "ndjson", "[1]\n{\"n\":4}\n")).await, Accepted::New(..)));
        assert!(matches!(send(&bed.db, push(&bench, None, "json", "[]")).await, Accepted::New(..)));
        assert_eq!(waiting(&bench).await.pushes, 4, "{}", bed.name);

        let task = bench.claim_pending().await;
        assert_eq!((task.task.id, task.task.cause), (first.task_id, Trigger::Push), "{}", bed.name);
        let ctx = TaskContext::new(bed.db.clone(), task.task.id, task.fence);
        let result = bench.handler().run(task.clone(), ctx).await.unwrap().result;
        assert_eq!((count(&result, "read"), count(&result, "stored"), count(&result, "pages")), (7, 5, 1), "{result}");
        let stored = [r#"{"n":"1","s":"x"}"#, r#"{"n":"3","s":"z"}"#, r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":4}"#];
        assert_eq!(bench.stored().await, stored, "{}", bed.name);
        assert_eq!(waiting(&bench).await, Waiting { pushes: 0, bytes: 0 }, "{}", bed.name);
        assert_eq!(number(&bed.db, BODIES).await, 0, "{}", bed.name);

        let mut reader = bed.db.read().await.unwrap();
        let bad = reader.conn().fetch_all("select reason, position from quarantine order by id", &[]).await.unwrap();
        let told: Vec<_> = bad
            .iter()
            .map(|row| {
                let position: serde_json::Value = serde_json::from_str(row.json("position").unwrap().get()).unwrap();
                let line = position["line"].as_i64().unwrap();
                (row.text("reason").unwrap(), position["document"].as_str().unwrap().to_owned(), line)
            })
            .collect();
        let id = second.id;
        let expected = [
            ("csv_width".to_owned(), format!("push {id}"), 3),
            ("not_object".to_owned(), format!("push {}", id + 1), 1),
        ];
        assert_eq!(told, expected, "{}", bed.name);
        drop(reader);

        // A key is known after its push was read; what has none leaves nothing behind.
        let again = send(&bed.db, push(&bench, Some("a"), "json", r#"[{"n":1},{"n":2}]"#)).await;
        assert_eq!(again, Accepted::Known(pushes::Push { is_read: true, ..first }), "{}", bed.name);
        let other = send(&bed.db, push(&bench, Some("a"), "json", r#"[{"n":3}]"#)).await;
        assert!(matches!(other, Accepted::Other(known) if known.id == first.id), "{}: {other:?}", bed.name);
        assert_eq!(number(&bed.db, "select count(*) as n from pushes").await, 1, "{}", bed.name);
        let later = Clock::system().now() + pushes::KEEP + TimeDelta::minutes(1);
        let forgotten = bed.db.write(move |conn| async move { pushes::forget(conn, later, 10).await }.boxed());
        assert_eq!(forgotten.await.unwrap(), 1, "{}", bed.name);
        bench.abandon(&task).await;
        holds(&bed, bed.name).await;
    }
}

#[tokio::test]
async fn what_makes_records_the_same_holds_from_push_to_push() {
    for bed in databases().await {
        let keyed = bench(&bed.db, r#"{"key":"id"}"#).await;
        for (body, stored) in [
            (r#"[{"id":1,"s":"on"},{"id":2,"s":"on"}]"#, 2),
            (r#"{"id":1,"s":"off"}"#, 1),
            (r#"{"id":1,"s":"off"}"#, 0),
            (r#"{"id":1,"s":"on"}"#, 1),
        ] {
            send(&bed.db, push(&keyed, None, "json", body)).await;
            let task = keyed.claim_pending().await;
            let ctx = TaskContext::new(bed.db.clone(), task.task.id, task.fence);
            let result = keyed.handler().run(task.clone(), ctx).await.unwrap().result;
            assert_eq!(count(&result, "stored"), stored, "{}: {body}: {result}", bed.name);
            keyed.abandon(&task).await;
        }
        let hashed = bench(&bed.db, r#"{"dedupe":"hash"}"#).await;
        for _ in 0..2 {
            send(&bed.db, push(&hashed, None, "json", r#"[{"n":1},{"n":1}]"#)).await;
        }
        hashed.run().await.unwrap();
        assert_eq!(hashed.stored().await, [r#"{"n":1}"#], "{}", bed.name);
        holds(&bed, bed.name).await;
    }
}

/// A task ended its read and died before it could say so: what was sent meanwhile joined it, and is read by its next
/// attempt.
#[tokio::test]
async fn what_joins_a_task_whose_read_has_ended_is_read_by_its_next_attempt() {
    for bed in databases().await {
        let bench = bench(&bed.db, r#"{"format":"auto"}"#).await;
        send(&bed.db, push(&bench, None, "json", r#"{"n":1}"#)).await;
        let task = bench.claim_pending().await;
        let ctx = TaskContext::new(bed.db.clone(), task.task.id, task.fence);
        bench.handler().run(task.clone(), ctx).await.unwrap();
        let dead = task.fence.worker;
        bed.db
            .write(move |conn| async move { tasks::steal(conn, dead, Clock::system().now()).await.map(drop) }.boxed())
            .await
            .unwrap();
        let joined = send(&bed.db, push(&bench, None, "json", r#"{"n":2}"#)).await;
        assert!(matches!(joined, Accepted::New(push, _) if push.task_id == task.task.id), "{}: {joined:?}", bed.name);
        let task = bench.claim_pending().await;
        let ctx = TaskContext::new(bed.db.clone(), task.task.id, task.fence);
        bench.handler().run(task.clone(), ctx).await.unwrap();
        assert_eq!(bench.stored().await, [r#"{"n":1}"#, r#"{"n":2}"#], "{}", bed.name);
        bench.abandon(&task).await;
    }
}

/// In the middle of a push: neither a change of the config nor a reset has what is stored read again.
#[tokio::test]
async fn a_reset_goes_on_behind_the_records_that_were_read() {
    for bed in databases().await {
        let bench = bench(&bed.db, r#"{"format":"auto"}"#).await;
        let lines: Vec<String> = (0..PAGE_ROWS * 2 + 1).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
        send(&bed.db, push(&bench, None, "ndjson", &lines.join("\n"))).await;
        let task = bench.claim_pending().await;
        // The first page commits, the second does not.
        let failpoint = Failpoint::new(2, Side::Before, true);
        let db = bed.db.with_page_rows(PAGE_ROWS).with_commit_hook(failpoint.clone());
        let ctx = TaskContext::new(db.clone(), task.task.id, task.fence);
        let handler = bench.handler_on(&db);
        tokio::select! {
            () = failpoint.death() => {}
            ended = handler.run(task.clone(), ctx) => panic!("{}: {ended:?}", bed.name),
        }
        bench.abandon(&task).await;
        let read = number(&bed.db, "select records_read as n from pushes").await;
        assert_eq!(read, i64::try_from(PAGE_ROWS).unwrap(), "{}", bed.name);
        let id = bench.source_id;
        let reset = bed
            .db
            .write(move |conn| async move { removals::reset(conn, id, false, Clock::system().now()).await }.boxed());
        reset.await.unwrap();
        bench.run().await.unwrap();
        assert_eq!(bench.stored().await, canonical(&lines), "{}", bed.name);
        holds(&bed, bed.name).await;
    }
}

#[tokio::test]
async fn a_deleted_source_takes_what_was_sent_with_it_and_takes_no_more() {
    for bed in databases().await {
        let bench = bench(&bed.db, r#"{"format":"auto"}"#).await;
        send(&bed.db, push(&bench, Some("a"), "json", r#"{"n":1}"#)).await;
        let id = bench.source_id;
        let deleted = bed.db.write(move |conn| {
            async move {
                data_sources::mark_deleted(conn, id, Clock::system().now()).await?;
                tasks::cancel_all(conn, LaneKind::Source, id, Clock::system().now()).await.map(drop)
            }
            .boxed()
        });
        deleted.await.unwrap();
        assert_eq!(send(&bed.db, push(&bench, None, "json", r#"{"n":2}"#)).await, Accepted::NoSource, "{}", bed.name);
        holds(&bed, bed.name).await;
        while bed
            .db
            .write(|conn| async move { data_sources::remove_deleted_batch(conn, 1).await }.boxed())
            .await
            .unwrap()
        {}
        assert_eq!(number(&bed.db, BODIES).await, 0, "{}", bed.name);
        holds(&bed, bed.name).await;
    }
}

#[tokio::test]
async fn headers_go_with_each_record_also_of_what_comes_back_from_quarantine() {
    for bed in databases().await {
        let bench = bench(&bed.db, r#"{"validation":{"rules":[{"field":"n","max":5}]}}"#).await;
        let headers = r#"{"x-github-event":"push","x-team":"営業"}"#;
        let with = push(&bench, None, "json", r#"[{"n":1},{"n":7}]"#).with_headers(Some(headers.to_owned()));
        send(&bed.db, with).await;
        send(&bed.db, push(&bench, None, "json", r#"{"n":2}"#)).await;
        bench.run().await.unwrap();
        let told = async |sql| -> Vec<serde_json::Value> {
            let mut reader = bed.db.read().await.unwrap();
            let rows = reader.conn().fetch_all(sql, &[]).await.unwrap();
            rows.iter().map(|row| serde_json::from_str(row.json("told").unwrap().get()).unwrap()).collect()
        };
        const STORED: &str = "select metadata as told from acquired_data order by id";
        let expected: serde_json::Value = serde_json::from_str(headers).unwrap();
        let stored = told(STORED).await;
        assert_eq!((stored.len(), &stored[0]["headers"]), (2, &expected), "{}", bed.name);
        assert!(stored[1].get("headers").is_none(), "{}: {stored:?}", bed.name);
        let held = told("select position as told from quarantine").await;
        assert_eq!((held.len(), &held[0]["headers"]), (1, &expected), "{}", bed.name);

        bench.set_config(r#"{"format":"auto"}"#).await;
        bench.replay_all().await;
        bench.run().await.unwrap();
        let stored = told(STORED).await;
        assert_eq!((stored.len(), &stored[2]["headers"]), (3, &expected), "{}: {stored:?}", bed.name);
    }
}

#[tokio::test]
async fn more_than_may_wait_is_not_taken() {
    for bed in databases().await {
        let bench = bench(&bed.db, r#"{"format":"auto"}"#).await;
        send(&bed.db, push(&bench, None, "json", r#"{"n":1}"#)).await;
        let id = bench.source_id;
        let (table, more) = (matome_store::counters::PUSH_BYTES, pushes::MOST_WAITING_BYTES - 10);
        let raised = bed
            .db
            .write(move |conn| async move { matome_store::counters::add(conn, table, id, "", more).await }.boxed());
        raised.await.unwrap();
        let full = send(&bed.db, push(&bench, None, "json", r#"{"n":2}"#)).await;
        assert!(matches!(full, Accepted::Full { pushes: 1, .. }), "{}: {full:?}", bed.name);
    }
}

/// Batches of other sources become one page while the page before is stored. A batch of pushes stays a page, since its checkpoint
/// tells of no other.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_while_a_page_is_stored_is_read_once() {
    const RECORDS: u64 = 12_000;
    for bed in databases().await {
        let bench = bench(&bed.db, r#"{"format":"auto"}"#).await;
        let lines: Vec<String> = (0..RECORDS).map(|n| format!(r#"{{"n":{n},"s":"{n:0>100}"}}"#)).collect();
        for lines in lines.chunks(700) {
            send(&bed.db, push(&bench, None, "ndjson", &lines.join("\n"))).await;
        }
        let task = bench.claim_pending().await;
        let ctx = TaskContext::new(bed.db.clone(), task.task.id, task.fence);
        let result = bench.as_in_production(&bed.db).run(task.clone(), ctx).await.unwrap().result;
        assert_eq!((count(&result, "read"), count(&result, "stored")), (RECORDS, RECORDS), "{}: {result}", bed.name);
        assert_eq!(waiting(&bench).await.pushes, 0, "{}", bed.name);
        bench.abandon(&task).await;
        bench.run().await.unwrap();
        assert_eq!(bench.stored().await, canonical(&lines), "{}", bed.name);
        holds(&bed, bed.name).await;
    }
}

const RECORDS_OF_SMALL: usize = 3;
/// So few that the long push is several pages.
const PAGE_ROWS: usize = 4;

/// A client that sends three pushes until it is answered, and a worker.
struct Stage {
    bench: Bench,
    lines: Vec<String>,
}

impl Stage {
    async fn set(db: &Db) -> Self {
        let bench = bench(db, r#"{"format":"auto"}"#).await;
        let lines = (0..PAGE_ROWS * 2 + 1).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
        Self { bench, lines }
    }

    fn pushes(&self) -> [NewPush; 3] {
        let small = |name: &str| {
            let records = (0..RECORDS_OF_SMALL).map(|n| format!(r#"{{"{name}":{n}}}"#));
            format!("[{}]", records.collect::<Vec<_>>().join(","))
        };
        [
            push(&self.bench, Some("a"), "json", &small("a")),
            push(&self.bench, Some("long"), "ndjson", &self.lines.join("\n")),
            push(&self.bench, Some("b"), "json", &small("b")),
        ]
    }

    async fn live(&self, db: &Db, worker: Uuid) {
        for push in self.pushes() {
            let accepted = send(db, push).await;
            assert!(matches!(accepted, Accepted::New(..) | Accepted::Known(_)), "{accepted:?}");
        }
        let policy = RetryPolicy { base: Duration::ZERO, ..RetryPolicy::default() };
        loop {
            let claimed = write(db, move |conn, now| {
                async move { tasks::claim(conn, Queue::Acquisition, worker, 1, now).await }.boxed()
            })
            .await;
            let Some(task) = claimed.into_iter().next() else {
                // A claim that was not confirmed is given back, as the heartbeat does it.
                let stolen =
                    write(db, move |conn, now| async move { tasks::steal(conn, worker, now).await }.boxed()).await;
                if stolen.total() == 0 && waiting(&self.bench).await.pushes == 0 {
                    return;
                }
                continue;
            };
            let end = self.run(db, &task).await;
            let finish = Finish { task_id: task.task.id, fence: task.fence, end };
            write(db, move |conn, now| {
                let (finish, policy) = (finish.clone(), policy);
                async move { tasks::finish(conn, &[finish], &policy, now).await.map(drop) }.boxed()
            })
            .await;
        }
    }

    async fn run(&self, db: &Db, task: &ClaimedTask) -> End {
        let ctx = TaskContext::new(db.clone(), task.task.id, task.fence);
        match self.bench.handler_on(db).run(task.clone(), ctx).await {
            Ok(outcome) => End::Succeeded { result: outcome.result },
            Err(err) => {
                let Advice::Retry { after } = err.advice else { panic!("{err:?}") };
                End::Retry { error: json(r#"{"reason":"fault"}"#), result: err.result, after, jitter: 0.5 }
            }
        }
    }
}

/// As a sweeper does, look after look: a lane that a session of the dead still has locked is for the next one.
async fn take_back(db: &Db, dead: Uuid) {
    loop {
        let steal = db.write(move |conn| {
            async move {
                tasks::steal(conn, dead, Clock::system().now()).await?;
                let sql = "select count(*) as n from lanes where lease_worker = $1";
                conn.fetch_one(sql, &[dead.into()]).await?.int("n")
            }
            .boxed()
        });
        if steal.await.unwrap() == 0 {
            return;
        }
    }
}

async fn suffer(bed: &TestDb, failpoint: Arc<Failpoint>) {
    let stage = Stage::set(&bed.db).await;
    let told = format!("{} {failpoint}", bed.name);
    let db = bed.db.with_page_rows(PAGE_ROWS);
    let (dying, first) = (db.with_commit_hook(failpoint.clone()), Uuid::new_v4());
    let heir = async {
        take_back(&bed.db, first).await;
        stage.live(&db, Uuid::new_v4()).await;
    };
    failpoint.befall(&told, stage.live(&dying, first).boxed_local(), heir.boxed_local()).await;
    let mut expected = stage.lines.clone();
    for name in ["a", "b"] {
        expected.extend((0..RECORDS_OF_SMALL).map(|n| format!(r#"{{"{name}":{n}}}"#)));
    }
    assert_eq!(stage.bench.stored().await, canonical(&expected), "{told}");
    assert_eq!(waiting(&stage.bench).await, Waiting { pushes: 0, bytes: 0 }, "{told}");
    holds(bed, &told).await;
}

async fn every_commit(bed: TestDb) {
    let commits = each_fault(async |failpoint| suffer(&bed, failpoint).await).await;
    // Three pushes, a claim, the beginning of a read, four pages, an end.
    assert!(commits >= 10, "{}: {commits} commits", bed.name);
    println!("{}: {commits} commits, {} faults", bed.name, commits * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_commit_loses_and_doubles_nothing_that_was_sent_on_sqlite() {
    every_commit(matome_testbed::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_commit_loses_and_doubles_nothing_that_was_sent_on_postgres() {
    every_commit(matome_testbed::postgres().await).await;
}

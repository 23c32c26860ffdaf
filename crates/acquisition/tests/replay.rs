//! Records that go back from the quarantine through the inbox, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use matome_model::clock::Clock;
use matome_model::source::SourceType;
use matome_model::task::{LaneKind, Queue};
use matome_store::counters;
use matome_store::quarantine::{self, Done, Replay, Unfit, Which};
use matome_store::tasks::{self, NewTask};
use matome_tasks::{ClaimedTask, Handler as _, TaskContext, TaskError, TaskOutcome};
use matome_testbed::databases;
use serde_json::value::RawValue;
use support::{Bench, canonical, count};
use uuid::Uuid;

const RULES: &str = r#","validation":{"rules":[{"field":"id","required":true}]}"#;

/// A row of the quarantine.
#[derive(Debug, PartialEq)]
struct Held {
    id: i64,
    reason: String,
    status: String,
    outcome: Option<String>,
    detail: Option<String>,
    seen: i64,
}

async fn held(bench: &Bench) -> Vec<Held> {
    let mut reader = bench.db.read().await.unwrap();
    let sql =
        "select id, reason, status, outcome, outcome_detail, seen from quarantine where source_id = $1 order by id";
    let rows = reader.conn().fetch_all(sql, &[bench.source_id.into()]).await.unwrap();
    let counted = counters::of_source(&mut reader.conn(), counters::QUARANTINE, bench.source_id).await.unwrap();
    assert_eq!(counted, i64::try_from(rows.len()).unwrap());
    let read = |row: &matome_store::db::Row| Held {
        id: row.int("id").unwrap(),
        reason: row.text("reason").unwrap(),
        status: row.text("status").unwrap(),
        outcome: row.opt_text("outcome").unwrap(),
        detail: row.opt_text("outcome_detail").unwrap(),
        seen: row.int("seen").unwrap(),
    };
    rows.iter().map(read).collect()
}

async fn waiting(bench: &Bench) -> i64 {
    let mut reader = bench.db.read().await.unwrap();
    let sql = "select count(*) as n from inbox where source_id = $1";
    reader.conn().fetch_one(sql, &[bench.source_id.into()]).await.unwrap().int("n").unwrap()
}

async fn replay(bench: &Bench, id: i64, corrected: Option<&'static str>) -> Replay {
    let write = bench.db.write(move |conn| {
        Box::pin(
            async move { quarantine::replay(conn, id, corrected.map(str::as_bytes), &[], Clock::system().now()).await },
        )
    });
    write.await.unwrap()
}

/// The task that waits, claimed.
async fn claim(bench: &Bench) -> ClaimedTask {
    let claimed = bench.db.write(|conn| {
        Box::pin(async move { tasks::claim(conn, Queue::Acquisition, Uuid::new_v4(), 1, Clock::system().now()).await })
    });
    claimed.await.unwrap().pop().expect("a task waits")
}

/// Runs the task that waits, to its end.
async fn drain(bench: &Bench) -> Result<TaskOutcome, TaskError> {
    let task = claim(bench).await;
    let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
    let result = bench.handler().run(task.clone(), ctx).await;
    bench.abandon(&task).await;
    result
}

/// Takes the rules out of the config.
async fn forget_rules(bench: &Bench) {
    let path = bench.dir.path().join("data.ndjson").canonicalize().unwrap();
    let config = format!(r#"{{"path":{},"files":"all"}}"#, serde_json::to_string(&path).unwrap());
    bench.set_config(&config).await;
}

#[tokio::test]
async fn a_replayed_record_is_stored_and_its_source_is_not_read() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, RULES).await;
        let lines = [r#"{"id":1}"#, r#"{"x":1.50}"#].map(str::to_owned);
        bench.write_file(&lines);
        bench.run().await.unwrap();
        let [row] = &held(&bench).await[..] else { panic!() };
        assert_eq!((row.reason.as_str(), row.status.as_str()), ("rule", "held"), "{}", bed.name);

        forget_rules(&bench).await;
        bench.write_file(&[lines[0].clone(), lines[1].clone(), r#"{"id":3}"#.to_owned()]);
        let Replay::Accepted { task_id } = replay(&bench, row.id, None).await else { panic!() };
        assert_eq!(held(&bench).await[0].status, "replaying");
        assert_eq!(replay(&bench, row.id, None).await, Replay::Unfit(Unfit::Replaying), "{}", bed.name);
        let result = drain(&bench).await.unwrap().result;
        let counts = ["read", "replayed", "stored", "quarantined"].map(|name| count(&result, name));
        assert_eq!(counts, [1, 1, 1, 0], "{}", bed.name);
        assert_eq!(bench.stored().await, canonical(&lines), "{}: the source was not read", bed.name);
        let [row] = &held(&bench).await[..] else { panic!() };
        assert_eq!((row.status.as_str(), row.outcome.as_deref()), ("replayed", Some("stored")));
        assert_eq!(waiting(&bench).await, 0);
        let mut reader = bed.db.read().await.unwrap();
        let sql = "select metadata from acquired_data where source_id = $1 order by id desc limit 1";
        let metadata = reader.conn().fetch_one(sql, &[bench.source_id.into()]).await.unwrap().json("metadata").unwrap();
        let metadata: serde_json::Value = serde_json::from_str(metadata.get()).unwrap();
        assert_eq!(
            (&metadata["line"], &metadata["replay_of"], &metadata["task"]),
            (&2.into(), &row.id.into(), &task_id.into())
        );
        assert_eq!(replay(&bench, row.id, None).await, Replay::Unfit(Unfit::Replayed));

        // The next read of the source goes as ever: it knows what is stored.
        let result = bench.run().await.unwrap().result;
        assert_eq!((count(&result, "stored"), count(&result, "duplicate")), (1, 2), "{}", bed.name);
    }
}

#[tokio::test]
async fn what_is_still_bad_is_held_again_with_its_reason() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, RULES).await;
        bench.write_file(&[r#"{"x":1}"#, r#"{"x":2}"#, r#"{"x":"#, r#"{"id":9}"#].map(str::to_owned));
        bench.run().await.unwrap();
        let ids: Vec<i64> = held(&bench).await.iter().map(|row| row.id).collect();
        // As it is; corrected and still without an id; corrected and good; corrected to what is stored already.
        replay(&bench, ids[0], None).await;
        replay(&bench, ids[1], Some(r#"{"x":3}"#)).await;
        replay(&bench, ids[2], Some(r#"{"id":8}"#)).await;
        let result = drain(&bench).await.unwrap().result;
        let counts = ["replayed", "stored", "quarantined"].map(|name| count(&result, name));
        assert_eq!(counts, [3, 1, 2], "{}", bed.name);
        let rows = held(&bench).await;
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.reason.as_str(), row.status.as_str(), row.outcome.as_deref(), row.seen))
            .collect();
        assert_eq!(
            told,
            [
                ("rule", "held", Some("quarantined"), 2),
                ("rule", "replayed", Some("quarantined"), 1),
                ("invalid_json", "replayed", Some("stored"), 1),
                ("rule", "held", None, 1),
            ],
            "{}",
            bed.name
        );
        assert!(rows[1].detail.as_deref().unwrap().starts_with("rule: /id: is missing"), "{:?}", rows[1]);

        // Read again, what was replayed in vain is held again; what is stored under corrected bytes is not.
        bench.run().await.unwrap();
        let statuses: Vec<String> = held(&bench).await.into_iter().map(|row| row.status).collect();
        assert_eq!(statuses, ["held", "held", "replayed", "held"], "{}", bed.name);

        replay(&bench, ids[0], Some(r#"{"id":9}"#)).await;
        drain(&bench).await.unwrap();
        assert_eq!(held(&bench).await[0].outcome.as_deref(), Some("duplicate"), "{}", bed.name);
        assert_eq!(bench.stored().await, canonical(&[r#"{"id":8}"#, r#"{"id":9}"#].map(str::to_owned)));
    }
}

#[tokio::test]
async fn a_row_that_could_not_be_read_comes_back_once_the_config_reads_it() {
    for bed in databases().await {
        for through_revalidation in [false, true] {
            let dir = tempfile::TempDir::new().unwrap();
            let path = dir.path().canonicalize().unwrap().join("shops.csv");
            let text = [b"id,name\n1,a\n2,".as_slice(), &[0x93, 0x8c, 0x8b, 0x9e], b"\n3,x,y\n"].concat();
            std::fs::write(&path, text).unwrap();
            let path = serde_json::to_string(&path).unwrap();
            let config = format!(r#"{{"path":{path}}}"#);
            let bench = Bench::with_config(&bed.db, dir, SourceType::File, &config).await;
            bench.run().await.unwrap();
            let reasons: Vec<String> = held(&bench).await.into_iter().map(|row| row.reason).collect();
            assert_eq!(reasons, ["invalid_utf8", "csv_width"], "{}", bed.name);

            bench.set_config(&format!(r#"{{"path":{path},"encoding":"shift_jis"}}"#)).await;
            // The source itself is gone: its rows come out of the quarantine alone.
            std::fs::remove_file(bench.dir.path().join("shops.csv")).unwrap();
            if through_revalidation {
                let payload = RawValue::from_string(r#"{"only":"stored"}"#.to_owned()).unwrap();
                let (source_id, now) = (bench.source_id, Clock::system().now());
                let new = NewTask { payload, ..NewTask::manual(LaneKind::Source, source_id, now) };
                let queue = bench.db.write(move |conn| Box::pin(async move { tasks::enqueue(conn, &new, now).await }));
                queue.await.unwrap();
            } else {
                bench.replay_all().await;
            }
            drain(&bench).await.unwrap();
            let stored = [r#"{"id":"1","name":"a"}"#, r#"{"id":"2","name":"東京"}"#].map(str::to_owned);
            assert_eq!(bench.stored().await, stored, "{}: {through_revalidation}", bed.name);
            let rows = held(&bench).await;
            let told: Vec<_> = rows.iter().map(|row| (row.status.as_str(), row.outcome.as_deref())).collect();
            let width = if through_revalidation { None } else { Some("quarantined") };
            assert_eq!(told, [("replayed", Some("stored")), ("held", width)], "{}", bed.name);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_replayed_says_why_until_it_is_corrected() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, "").await;
        bench.write_file(&["[1]".to_owned(), format!("{{\"a\":\"{}\",", "x".repeat(2 << 20))]);
        bench.run().await.unwrap();
        let [no_object, cut] = &held(&bench).await[..] else { panic!() };
        assert_eq!(replay(&bench, no_object.id, None).await, Replay::Unfit(Unfit::NoObject), "{}", bed.name);
        let Replay::Unfit(Unfit::Cut { kept, length }) = replay(&bench, cut.id, None).await else { panic!() };
        assert_eq!((kept, length), (1 << 20, (2 << 20) + 8));
        assert_eq!(replay(&bench, 1_000_000, None).await, Replay::Missing);
        let which = Which::Matching { source_id: bench.source_id, reason: None, status: "held", after: 0, limit: 10 };
        let all = bench.db.write(move |conn| {
            Box::pin(async move { quarantine::replay_many(conn, &which, &[], Clock::system().now()).await })
        });
        let done = all.await.unwrap();
        assert_eq!((done.done, done.skipped, done.last_id), (0, 2, Some(cut.id)), "{}", bed.name);
        for (row, corrected) in [(no_object, r#"{"a":1}"#), (cut, r#"{"a":2}"#)] {
            assert!(matches!(replay(&bench, row.id, Some(corrected)).await, Replay::Accepted { .. }));
        }
        drain(&bench).await.unwrap();
        assert_eq!(bench.stored().await.len(), 2, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_replay_is_stored_once_wherever_its_worker_dies() {
    for bed in databases().await {
        for dedupe in ["rows", "hash", "none"] {
            let bench = Bench::new(&bed.db, &format!(r#","dedupe":"{dedupe}"{RULES}"#)).await;
            bench.write_file(&[r#"{"x":1}"#, r#"{"x":2}"#].map(str::to_owned));
            bench.run().await.unwrap();
            let ids: Vec<i64> = held(&bench).await.iter().map(|row| row.id).collect();
            replay(&bench, ids[0], Some(r#"{"id":1}"#)).await;

            // It dies before it begins: the next one reads it.
            let first = claim(&bench).await;
            let second = bench.take_over(&first).await;
            assert_eq!(second.task.id, first.task.id);
            let ctx = TaskContext::new(bed.db.clone(), first.task.id, first.fence);
            let fenced = bench.handler().run(first, ctx).await.unwrap_err();
            assert_eq!(fenced.advice, matome_tasks::Advice::Fenced, "{}", bed.name);
            assert_eq!((waiting(&bench).await, bench.stored().await.len()), (1, 0), "{}", bed.name);
            let ctx = TaskContext::new(bed.db.clone(), second.task.id, second.fence);
            bench.handler().run(second.clone(), ctx).await.unwrap();
            // It dies behind its page, before its end is written: the next one finds nothing to do.
            let third = bench.take_over(&second).await;
            let ctx = TaskContext::new(bed.db.clone(), third.task.id, third.fence);
            let result = bench.handler().run(third.clone(), ctx).await.unwrap().result;
            assert_eq!(count(&result, "replayed"), 1, "{} {dedupe}: all attempts together", bed.name);
            bench.abandon(&third).await;
            assert_eq!(bench.stored().await, [r#"{"id":1}"#], "{} {dedupe}", bed.name);
            assert_eq!(held(&bench).await[0].outcome.as_deref(), Some("stored"));

            // Its task is cancelled: the next read of the source takes it along.
            replay(&bench, ids[1], Some(r#"{"id":2}"#)).await;
            let cancelled = claim(&bench).await;
            bench.abandon(&cancelled).await;
            assert_eq!(waiting(&bench).await, 1);
            let result = bench.run().await.unwrap().result;
            assert_eq!(count(&result, "replayed"), 1, "{} {dedupe}", bed.name);
            assert_eq!(waiting(&bench).await, 0);
            assert_eq!(bench.stored().await, [r#"{"id":1}"#, r#"{"id":2}"#], "{} {dedupe}", bed.name);
        }
    }
}

#[tokio::test]
async fn a_replay_does_not_make_an_ended_read_begin_again() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, &format!(r#","dedupe":"none"{RULES}"#)).await;
        bench.write_file(&[r#"{"id":1}"#, r#"{"x":1}"#].map(str::to_owned));
        // The read ends, and its worker dies before it can say so.
        let read = bench.claim().await;
        let ctx = TaskContext::new(bed.db.clone(), read.task.id, read.fence);
        bench.handler().run(read.clone(), ctx).await.unwrap();
        let again = bench.take_over(&read).await;
        let id = held(&bench).await[0].id;
        replay(&bench, id, Some(r#"{"id":2}"#)).await;
        // The read is tried again: it takes the replay along and reads nothing twice.
        let ctx = TaskContext::new(bed.db.clone(), again.task.id, again.fence);
        bench.handler().run(again.clone(), ctx).await.unwrap();
        assert_eq!(bench.stored().await, [r#"{"id":1}"#, r#"{"id":2}"#], "{}", bed.name);
    }
}

#[tokio::test]
async fn a_run_and_a_replay_that_wait_are_two_tasks() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, RULES).await;
        bench.write_file(&[r#"{"x":1}"#, r#"{"x":2}"#].map(str::to_owned));
        bench.run().await.unwrap();
        let ids: Vec<i64> = held(&bench).await.iter().map(|row| row.id).collect();
        let Replay::Accepted { task_id: first } = replay(&bench, ids[0], None).await else { panic!() };
        let Replay::Accepted { task_id: second } = replay(&bench, ids[1], None).await else { panic!() };
        assert_eq!(first, second, "{}: one task reads both", bed.name);
        let source_id = bench.source_id;
        let run = bench.db.write(move |conn| {
            Box::pin(async move {
                let now = Clock::system().now();
                let new = tasks::NewTask::manual(matome_model::task::LaneKind::Source, source_id, now);
                tasks::enqueue(conn, &new, now).await
            })
        });
        assert_ne!(run.await.unwrap().task.id, first, "{}", bed.name);
    }
}

#[tokio::test]
async fn discarded_records_are_gone_and_counted() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, RULES).await;
        bench.write_file(&[r#"{"x":1}"#, r#"{"x":2}"#, "{", r#"{"x":3}"#].map(str::to_owned));
        bench.run().await.unwrap();
        let ids: Vec<i64> = held(&bench).await.iter().map(|row| row.id).collect();
        replay(&bench, ids[0], None).await;
        let discard = async |which: Which| -> Done {
            bench.db.write(move |conn| Box::pin(async move { quarantine::discard(conn, &which).await })).await.unwrap()
        };
        let done = discard(Which::Ids(vec![ids[0], ids[1], 1_000_000])).await;
        assert_eq!((done.done, done.skipped), (1, 2), "{}: what is being replayed stays", bed.name);
        let matching = |reason: Option<&str>, after| Which::Matching {
            source_id: bench.source_id,
            reason: reason.map(str::to_owned),
            status: "held",
            after,
            limit: 1,
        };
        let done = discard(matching(Some("rule"), 0)).await;
        assert_eq!((done.done, done.last_id), (1, Some(ids[3])), "{}", bed.name);
        let left: Vec<i64> = held(&bench).await.iter().map(|row| row.id).collect();
        assert_eq!(left, [ids[0], ids[2]], "{}", bed.name);
        assert_eq!(discard(matching(None, ids[2])).await, Done::default(), "{}", bed.name);
    }
}

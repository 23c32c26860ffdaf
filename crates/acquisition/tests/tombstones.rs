//! `deletes: "tombstone"` on both databases: keys that a whole read does not give are marked, and only then.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use futures::TryStreamExt as _;
use matome_acquisition::apply_retention;
use matome_model::clock::Clock;
use matome_model::task::{LaneKind, Queue};
use matome_store::acquired_data::{self, Versions, tombstones};
use matome_store::check::check;
use matome_store::checkpoints::{CheckpointKey, LIVE};
use matome_store::error::StoreError;
use matome_store::tasks::{self, NewTask};
use matome_tasks::{ClaimedTask, Handler as _, TaskContext, TaskError, TaskOutcome};
use matome_testbed::{TestDb, databases};
use serde_json::Value;
use support::{Bench, json};
use uuid::Uuid;

const OPTIONS: &str = r#","key":"id","deletes":"tombstone""#;

fn lines(ids: impl IntoIterator<Item = usize>, n: usize) -> Vec<String> {
    ids.into_iter().map(|id| format!(r#"{{"id":{id},"n":{n}}}"#)).collect()
}

async fn claim(bench: &Bench, payload: &'static str) -> ClaimedTask {
    let source_id = bench.source_id;
    let claim = bench.db.write(move |conn| {
        Box::pin(async move {
            let now = Clock::system().now();
            let new = NewTask { payload: json(payload), ..NewTask::manual(LaneKind::Source, source_id, now) };
            tasks::enqueue(conn, &new, now).await?;
            tasks::claim(conn, Queue::Acquisition, Uuid::new_v4(), 1, now).await
        })
    });
    claim.await.unwrap().pop().unwrap()
}

async fn run(bench: &Bench, lines: &[String], payload: &'static str) -> Result<TaskOutcome, TaskError> {
    bench.write_file(lines);
    let task = claim(bench, payload).await;
    let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
    let result = bench.handler().run(task.clone(), ctx).await;
    bench.abandon(&task).await;
    result
}

async fn read(bench: &Bench, lines: &[String]) -> Value {
    serde_json::from_str(run(bench, lines, "{}").await.unwrap().result.get()).unwrap()
}

/// The versions of a key in their order: what each says, or that it is gone.
async fn versions(bench: &Bench, id: usize) -> Vec<String> {
    let mut reader = bench.db.read().await.unwrap();
    let sql = "select raw_data, version, is_deleted from acquired_data where source_id = $1 order by version";
    let rows = reader.conn().fetch_all(sql, &[bench.source_id.into()]).await.unwrap();
    let mut versions = Vec::new();
    for row in rows {
        let raw: Value = serde_json::from_str(row.json("raw_data").unwrap().get()).unwrap();
        if raw["id"] == id {
            let gone = if row.bool("is_deleted").unwrap() { "gone" } else { "there" };
            versions.push(format!("{} {} {gone}", row.int("version").unwrap(), raw["n"]));
        }
    }
    versions
}

async fn current(bench: &Bench) -> Vec<u64> {
    let mut reader = bench.db.read().await.unwrap();
    let mut conn = reader.conn();
    let newest = acquired_data::stream_versions(&mut conn, bench.source_id, i64::MAX, Versions::Newest);
    let newest: Vec<_> = newest.try_collect().await.unwrap();
    let id = |raw: &str| serde_json::from_str::<Value>(raw).unwrap()["id"].as_u64().unwrap();
    let mut ids: Vec<u64> = newest.iter().map(|record| id(&record.raw_data)).collect();
    ids.sort_unstable();
    ids
}

async fn assert_holds(bed: &TestDb) {
    for verdict in check(&mut bed.snapshot().await, true).await.unwrap() {
        assert!(verdict.holds(), "{}: {verdict:?}", bed.name);
    }
}

#[tokio::test]
async fn a_key_that_does_not_come_is_gone_and_one_that_comes_back_has_a_third_version() {
    for bed in databases().await {
        // Small pages, so that what is given and what is gone is spread over many.
        let bench = Bench::new(&bed.db.with_page_rows(7), OPTIONS).await;
        let first = read(&bench, &lines(0..60, 1)).await;
        assert_eq!((&first["stored"], first.get("deleted")), (&60.into(), None), "{}: {first}", bed.name);
        let second = read(&bench, &lines((0..60).filter(|id| id % 3 > 0), 1)).await;
        assert_eq!(
            (&second["stored"], &second["duplicate"], &second["deleted"]),
            (&0.into(), &40.into(), &20.into()),
            "{}: {second}",
            bed.name
        );
        assert_eq!(versions(&bench, 9).await, ["1 1 there", "2 1 gone"], "{}", bed.name);
        assert_eq!(versions(&bench, 10).await, ["1 1 there"], "{}", bed.name);
        assert!(current(&bench).await.iter().all(|id| id % 3 > 0), "{}", bed.name);
        assert_holds(&bed).await;

        // Gone is gone: nothing more is said of them.
        let third = read(&bench, &lines((0..60).filter(|id| id % 3 > 0), 1)).await;
        assert_eq!(third.get("deleted"), None, "{}: {third}", bed.name);

        // One as it was, one changed, others changed meanwhile.
        let fourth = read(&bench, &lines((0..60).filter(|id| id % 3 > 0), 2)).await;
        assert_eq!((&fourth["updated"], fourth.get("deleted")), (&40.into(), None), "{}: {fourth}", bed.name);
        let back: Vec<String> = [lines([9], 1), lines([12], 7), lines((0..60).filter(|id| id % 3 > 0), 2)].concat();
        let fifth = read(&bench, &back).await;
        assert_eq!((&fifth["stored"], &fifth["updated"]), (&2.into(), &2.into()), "{}: {fifth}", bed.name);
        assert_eq!(versions(&bench, 9).await, ["1 1 there", "2 1 gone", "3 1 there"], "{}", bed.name);
        assert_eq!(versions(&bench, 12).await, ["1 1 there", "2 1 gone", "3 7 there"], "{}", bed.name);
        assert_eq!(current(&bench).await.len(), 42, "{}", bed.name);
        assert_holds(&bed).await;
    }
}

#[tokio::test]
async fn more_than_half_is_marked_only_when_somebody_says_that_it_is_right() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, OPTIONS).await;
        read(&bench, &lines(0..10, 1)).await;
        // Four changed and one is new: of the ten that there were, six are missing.
        let left = [lines(0..4, 2), lines([10], 1)].concat();
        let refused = run(&bench, &left, "{}").await.unwrap_err();
        assert_eq!(refused.reason, "deletes_refused", "{}: {refused:?}", bed.name);
        assert!(refused.message.english.starts_with("6 of 10 keys did not come"), "{}", refused.message);
        assert!(refused.message.english.contains("--confirm-deletes"), "{}", refused.message);
        let result: Value = serde_json::from_str(refused.result.as_deref().unwrap().get()).unwrap();
        assert_eq!((&result["stored"], result.get("deleted")), (&5.into(), None), "{}: {result}", bed.name);
        assert_eq!(versions(&bench, 0).await, ["1 1 there", "2 2 there"], "{}: what came is stored", bed.name);
        assert_eq!(current(&bench).await.len(), 11, "{}", bed.name);
        // An empty file is not everything gone.
        let empty = run(&bench, &[], "{}").await.unwrap_err();
        assert_eq!(empty.reason, "deletes_refused", "{}: {empty:?}", bed.name);

        let confirmed = run(&bench, &left, r#"{"confirm_deletes":true}"#).await.unwrap();
        let confirmed: Value = serde_json::from_str(confirmed.result.get()).unwrap();
        assert_eq!(confirmed["deleted"], 6, "{}: {confirmed}", bed.name);
        assert_eq!(current(&bench).await, [0, 1, 2, 3, 10], "{}", bed.name);
        assert_holds(&bed).await;
    }
}

/// A worker that lost its lease behind its last page does not end the sweep of the one that took the task over.
#[tokio::test]
async fn only_who_holds_the_lane_ends_a_sweep() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, OPTIONS).await;
        read(&bench, &lines(0..4, 1)).await;
        // It is refused, so its sweep is left.
        run(&bench, &lines(0..1, 1), "{}").await.unwrap_err();
        let key = CheckpointKey { source_id: bench.source_id, stream: String::new(), purpose: LIVE.to_owned() };
        let end = async |fence| {
            let of = key.clone();
            bed.db.write(move |conn| Box::pin(async move { tombstones::end(conn, &fence, &of).await })).await
        };
        let is_left = async || {
            let mut reader = bed.db.read().await.unwrap();
            tombstones::pending(&mut reader.conn(), &key).await.unwrap().is_some()
        };
        let lost = bench.claim().await;
        let holds = bench.take_over(&lost).await;
        assert!(matches!(end(lost.fence).await, Err(StoreError::Fenced { .. })), "{}", bed.name);
        assert!(is_left().await, "{}", bed.name);
        end(holds.fence).await.unwrap();
        assert!(!is_left().await, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_bad_record_counts_as_there_by_its_key_or_keeps_all_tombstones_back() {
    for bed in databases().await {
        let options = format!(r#"{OPTIONS},"validation":{{"rules":[{{"field":"n","max":5}}]}}"#);
        let bench = Bench::new(&bed.db, &options).await;
        read(&bench, &lines(0..10, 1)).await;
        // Key 0 breaks a rule now, 9 does not come.
        let read_on = read(&bench, &[lines([0], 6), lines(1..9, 1)].concat()).await;
        assert_eq!((&read_on["quarantined"], &read_on["deleted"]), (&1.into(), &1.into()), "{}: {read_on}", bed.name);
        assert_eq!(versions(&bench, 0).await, ["1 1 there"], "{}", bed.name);
        assert_eq!(versions(&bench, 9).await, ["1 1 there", "2 1 gone"], "{}", bed.name);

        // Which key the second record has, nobody knows.
        let bad = [lines(0..5, 1), vec![r#"{"id":"#.to_owned()]].concat();
        let withheld = read(&bench, &bad).await;
        assert_eq!(
            (withheld.get("deleted"), &withheld["deletes_withheld"]),
            (None, &"quarantined".into()),
            "{}: {withheld}",
            bed.name
        );
        assert_eq!(current(&bench).await.len(), 9, "{}", bed.name);
        let after = read(&bench, &lines(0..8, 1)).await;
        assert_eq!((&after["deleted"], after.get("deletes_withheld")), (&1.into(), None), "{}: {after}", bed.name);
        assert_holds(&bed).await;
    }
}

/// What fails at its last page has given everything, and what is cut off before has not.
#[tokio::test]
async fn a_read_that_breaks_off_marks_nothing_and_the_next_attempt_gives_everything_again() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db.with_page_rows(4), OPTIONS).await;
        read(&bench, &lines(0..20, 1)).await;
        bench.write_file(&lines((0..20).filter(|id| *id != 17), 2));
        let task = claim(&bench, "{}").await;
        let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
        // It stops behind its first pages.
        let begun = bench.db.clone();
        let (stopping, source_id) = (ctx.stop.clone(), bench.source_id);
        let watch = async move {
            let sql = "select count(*) as n from acquired_data where source_id = $1";
            loop {
                let mut reader = begun.read().await.unwrap();
                let rows = reader.conn().fetch_one(sql, &[source_id.into()]).await.unwrap().int("n").unwrap();
                drop(reader);
                if rows > 20 {
                    stopping.cancel();
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let handler = bench.handler();
        let (_, _) = tokio::join!(handler.run(task.clone(), ctx), watch);
        let tombstones = async || {
            let mut reader = bed.db.read().await.unwrap();
            let sql = "select count(*) as n from acquired_data where source_id = $1 and is_deleted";
            reader.conn().fetch_one(sql, &[source_id.into()]).await.unwrap().int("n").unwrap()
        };
        let again = bench.take_over(&task).await;
        let ctx = TaskContext::new(bench.db.clone(), again.task.id, again.fence);
        bench.handler().run(again.clone(), ctx).await.unwrap();
        bench.abandon(&again).await;
        assert_eq!(tombstones().await, 1, "{}", bed.name);
        assert_eq!(versions(&bench, 17).await, ["1 1 there", "2 1 gone"], "{}", bed.name);
        assert!(current(&bench).await.len() == 19, "{}", bed.name);
        assert_holds(&bed).await;
    }
}

#[tokio::test]
async fn retention_keeps_a_tombstone_as_long_as_a_version_before_it() {
    for bed in databases().await {
        let options = format!(r#"{OPTIONS},"retention":{{"max_records":1}}"#);
        let bench = Bench::new(&bed.db, &options).await;
        read(&bench, &lines(0..4, 1)).await;
        read(&bench, &lines(0..3, 2)).await;
        assert_eq!(versions(&bench, 3).await, ["1 1 there", "2 1 gone"], "{}", bed.name);
        let now = Clock::system().now();
        // The versions before, of all keys; then what is left of a key that is gone.
        assert_eq!(apply_retention(&bed.db, now).await.unwrap(), 4, "{}", bed.name);
        assert_eq!(current(&bench).await, [0, 1, 2], "{}", bed.name);
        assert_eq!(apply_retention(&bed.db, now).await.unwrap(), 1, "{}", bed.name);
        assert_eq!((versions(&bench, 3).await.len(), current(&bench).await.len()), (0, 3), "{}", bed.name);
        assert_holds(&bed).await;
    }
}

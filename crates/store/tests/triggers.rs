//! Runs after what has changed: each change makes one, none is lost, on both databases.

#![allow(clippy::unwrap_used, reason = "a failing unwrap in a test names its line")]

mod page_support;

use chrono::TimeDelta;
use matome_model::clock::Timestamp;
use matome_model::source::{Dedupe, SourceStatus};
use matome_model::task::{LaneKind, Trigger};
use matome_store::aggregation_sources::{self, AggregationFields};
use matome_store::db::Db;
use matome_store::tasks::TaskRow;
use matome_store::triggers::{self, After, Fired, Refused};
use matome_testbed::databases;
use page_support::{Reading, at};
use serde_json::value::RawValue;

async fn aggregation(db: &Db, name: &str) -> i64 {
    let fields = AggregationFields {
        name: name.to_owned(),
        description: None,
        status: SourceStatus::Active,
        config: RawValue::from_string("{}".to_owned()).unwrap(),
    };
    db.write(move |conn| Box::pin(async move { aggregation_sources::create(conn, &fields, at()).await })).await.unwrap()
}

fn after(sources: &[&str], aggregations: &[&str]) -> After {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    After { sources: owned(sources), aggregations: owned(aggregations), debounce_secs: 5 }
}

async fn set(db: &Db, id: i64, after: After) {
    db.write(move |conn| Box::pin(async move { triggers::set(conn, id, &after).await })).await.unwrap();
}

async fn check(db: &Db, id: i64, name: &'static str, after: After) -> Vec<Refused> {
    db.write(move |conn| Box::pin(async move { triggers::check(conn, id, name, &after).await })).await.unwrap()
}

async fn fire(db: &Db, now: Timestamp) -> Fired {
    db.write(move |conn| Box::pin(async move { triggers::fire(conn, now, 10).await })).await.unwrap()
}

/// Notes taken, tasks made, and runs that waited already.
async fn fired(db: &Db, now: Timestamp) -> (usize, usize, usize) {
    let fired = fire(db, now).await;
    (fired.changes, fired.enqueued.len(), fired.coalesced)
}

async fn note(db: &Db, kind: LaneKind, id: i64) {
    db.write(move |conn| Box::pin(async move { triggers::note(conn, kind, id, at()).await })).await.unwrap();
}

async fn rename(db: &Db, id: i64, name: &'static str) {
    let sql = "update data_sources set name = $2 where id = $1";
    db.write(move |conn| Box::pin(async move { conn.execute(sql, &[id.into(), name.into()]).await })).await.unwrap();
}

/// Gives the lane of a source back, as at the end of a task.
async fn release(db: &Db, id: i64) {
    let sql = "update lanes set lease_worker = null, lease_task = null where kind = 'source' and object_id = $1";
    db.write(move |conn| Box::pin(async move { conn.execute(sql, &[id.into()]).await })).await.unwrap();
}

/// Takes the lane of a source again.
async fn hold(db: &Db, reading: &Reading) {
    let (id, worker) = (reading.fence.lane_id, reading.fence.worker);
    let sql = "update lanes set lease_worker = $2, lease_task = 7 where id = $1";
    db.write(move |conn| Box::pin(async move { conn.execute(sql, &[id.into(), worker.into()]).await })).await.unwrap();
}

async fn waiting(db: &Db) -> Vec<TaskRow> {
    let mut reader = db.read().await.unwrap();
    let sql = "select * from tasks where queue = 'aggregation' and status = 'pending' order by id";
    let rows = reader.conn().fetch_all(sql, &[]).await.unwrap();
    rows.iter().map(|row| TaskRow::from_row(row).unwrap()).collect()
}

async fn changes(db: &Db) -> i64 {
    let mut reader = db.read().await.unwrap();
    reader.conn().fetch_one("select count(*) as n from changes", &[]).await.unwrap().int("n").unwrap()
}

#[tokio::test]
async fn a_source_that_stored_something_new_makes_one_run_after_it() {
    for bed in databases().await {
        let db = &bed.db;
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        rename(db, reading.source_id, "orders").await;
        let (daily, other) = (aggregation(db, "daily").await, aggregation(db, "other").await);
        set(db, daily, after(&["orders"], &[])).await;
        set(db, other, after(&["others"], &[])).await;
        reading.commit_records(&[r#"{"n":1}"#]).await.unwrap();
        assert_eq!(fire(db, at()).await, Fired::default(), "{}: the source is still being read", bed.name);
        reading.commit_records(&[r#"{"n":2}"#]).await.unwrap();
        release(db, reading.source_id).await;
        assert_eq!(fired(db, at()).await, (1, 1, 0), "{}", bed.name);
        let tasks = waiting(db).await;
        assert_eq!(tasks.len(), 1, "{}", bed.name);
        let (task, due) = (&tasks[0], at() + TimeDelta::seconds(5));
        assert_eq!((task.object_id, task.cause, task.run_at), (daily, Trigger::After, due), "{}", bed.name);
        assert_eq!(fire(db, at()).await, Fired::default(), "{}: once", bed.name);

        // What is there already is no news.
        hold(db, &reading).await;
        let mut again = reading.restarted().await;
        again.commit_records(&[r#"{"n":1}"#]).await.unwrap();
        assert_eq!(changes(db).await, 0, "{}", bed.name);
        // More news while the run waits make no second one.
        again.commit_records(&[r#"{"n":3}"#]).await.unwrap();
        release(db, reading.source_id).await;
        assert_eq!(fired(db, at()).await, (1, 0, 1), "{}", bed.name);
        assert_eq!(waiting(db).await.len(), 1, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_read_without_end_is_not_waited_for() {
    for bed in databases().await {
        let db = &bed.db;
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        rename(db, reading.source_id, "stream").await;
        let id = aggregation(db, "daily").await;
        set(db, id, after(&["stream"], &[])).await;
        reading.commit_records(&[r#"{"n":1}"#]).await.unwrap();
        assert_eq!(fire(db, at() + TimeDelta::seconds(59)).await.changes, 0, "{}", bed.name);
        assert_eq!(fire(db, at() + TimeDelta::seconds(60)).await.enqueued.len(), 1, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_page_that_rolls_back_is_no_news() {
    for bed in databases().await {
        let db = &bed.db;
        let mut reading = Reading::start(&bed, Dedupe::Hash).await;
        rename(db, reading.source_id, "orders").await;
        let id = aggregation(db, "daily").await;
        set(db, id, after(&["orders"], &[])).await;
        reading.steal_lane().await;
        assert!(reading.commit_records(&[r#"{"n":1}"#]).await.is_err());
        assert_eq!(changes(db).await, 0, "{}", bed.name);
    }
}

#[tokio::test]
async fn runs_follow_runs_and_paused_aggregations_do_not() {
    for bed in databases().await {
        let db = &bed.db;
        let (first, second, paused) =
            (aggregation(db, "first").await, aggregation(db, "second").await, aggregation(db, "paused").await);
        set(db, second, after(&[], &["first"])).await;
        set(db, paused, After { debounce_secs: 0, ..after(&[], &["first"]) }).await;
        db.write(move |conn| {
            Box::pin(async move {
                aggregation_sources::set_status(conn, paused, SourceStatus::Inactive, at()).await?;
                triggers::note(conn, LaneKind::Aggregation, second, at()).await?;
                triggers::note(conn, LaneKind::Aggregation, first, at()).await
            })
        })
        .await
        .unwrap();
        assert_eq!(fired(db, at()).await, (1, 1, 0), "{}", bed.name);
        assert_eq!(waiting(db).await[0].object_id, second, "{}", bed.name);
        triggers_of_deleted_are_gone(db, second, first).await;
    }
}

async fn triggers_of_deleted_are_gone(db: &Db, second: i64, first: i64) {
    db.write(move |conn| Box::pin(async move { triggers::remove(conn, second).await })).await.unwrap();
    note(db, LaneKind::Aggregation, first).await;
    assert_eq!(fire(db, at()).await.enqueued.len(), 0);
}

#[tokio::test]
async fn what_is_not_there_and_circles_are_refused() {
    for bed in databases().await {
        let db = &bed.db;
        let (a, b, c) = (aggregation(db, "a").await, aggregation(db, "b").await, aggregation(db, "c").await);
        set(db, b, after(&[], &["a"])).await;
        set(db, c, after(&[], &["b"])).await;
        let cycle = |names: &[&str]| vec![Refused::Cycle(names.iter().map(|name| (*name).to_owned()).collect())];
        assert_eq!(check(db, a, "a", after(&[], &["c"])).await, cycle(&["a", "c", "b", "a"]), "{}", bed.name);
        assert_eq!(check(db, a, "a", after(&[], &["a"])).await, cycle(&["a", "a"]), "{}", bed.name);
        assert_eq!(check(db, 0, "new", after(&[], &["new"])).await, cycle(&["new", "new"]), "{}", bed.name);
        assert_eq!(check(db, c, "c", after(&[], &["a", "b"])).await, [], "{}: a diamond is none", bed.name);
        let missing = check(db, a, "a", after(&["x"], &["b2"])).await;
        assert_eq!(
            missing,
            [
                Refused::Missing { kind: LaneKind::Source, at: 0, name: "x".to_owned() },
                Refused::Missing { kind: LaneKind::Aggregation, at: 0, name: "b2".to_owned() },
            ],
            "{}",
            bed.name
        );
        // `b` waits for a name that nobody bears any more; who takes it must not close the circle.
        let (sql, name) = ("update aggregation_sources set name = 'gone' where id = $1", "a");
        db.write(move |conn| Box::pin(async move { conn.execute(sql, &[a.into()]).await })).await.unwrap();
        assert_eq!(check(db, 0, name, after(&[], &["c"])).await, cycle(&["a", "c", "b", "a"]), "{}", bed.name);
        let waiting = triggers::waiting_for(&mut db.read().await.unwrap().conn(), LaneKind::Aggregation, "b").await;
        assert_eq!(waiting.unwrap(), ["c"], "{}", bed.name);
    }
}

/// Any number of beats and workers at once: after the last change there is a run that starts later.
#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_lost_between_beats() {
    for bed in databases().await {
        let db = &bed.db;
        let first = aggregation(db, "first").await;
        let ids = [aggregation(db, "x").await, aggregation(db, "y").await, aggregation(db, "z").await];
        for id in ids {
            set(db, id, after(&[], &["first"])).await;
        }
        let mut work = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let db = db.clone();
            work.spawn(async move {
                for _ in 0..25 {
                    note(&db, LaneKind::Aggregation, first).await;
                    fire(&db, at()).await;
                }
            });
        }
        while let Some(done) = work.join_next().await {
            done.unwrap();
        }
        fire(db, at()).await;
        assert_eq!(changes(db).await, 0, "{}", bed.name);
        assert_eq!(waiting(db).await.iter().map(|task| task.object_id).collect::<Vec<_>>().len(), 3, "{}", bed.name);
    }
}

//! Priorities, weights, retries in bulk and the breaker, on both databases.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use chrono::TimeDelta;
use matome_model::clock::Timestamp;
use matome_model::schedule::Plan;
use matome_model::source::{SourceStatus, SourceType};
use matome_model::task::{LaneKind, Priority, Queue, Share, TaskStatus};
use matome_store::data_sources::{self, SourceFields};
use matome_store::db::Db;
use matome_store::lanes;
use matome_store::schedules;
use matome_store::tasks::{self, ClaimedTask, End, Ended, Finish, NewTask, RetryPolicy};
use matome_testbed::databases;
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

async fn enqueue(db: &Db, object_id: i64, priority: Priority, now: Timestamp) -> i64 {
    let new = NewTask { priority: Some(priority), ..NewTask::manual(KIND, object_id, now) };
    write!(db, conn => tasks::enqueue(conn, &new, now)).unwrap().task.id
}

async fn set_share(db: &Db, object_id: i64, priority: Priority, weight: u32) {
    write!(db, conn => lanes::set_share(conn, KIND, object_id, Share { priority, weight })).unwrap();
}

async fn enqueue_scheduled(db: &Db, nominal: Timestamp) {
    let new = NewTask::scheduled(KIND, 1, 5, nominal);
    write!(db, conn => tasks::enqueue(conn, &new, nominal)).unwrap();
}

/// Claims one task.
async fn claim(db: &Db, now: Timestamp) -> ClaimedTask {
    let mut claimed = write!(db, conn => tasks::claim(conn, Queue::Acquisition, Uuid::from_u128(7), 1, now)).unwrap();
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

async fn finish(db: &Db, task: &ClaimedTask, end: End, now: Timestamp) -> Ended {
    let finishes = vec![Finish { task_id: task.task.id, fence: task.fence, end }];
    write!(db, conn => tasks::finish(conn, &finishes, &RetryPolicy::default(), now)).unwrap()[0]
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn succeeded() -> End {
    End::Succeeded { result: json("{}") }
}

fn failed() -> End {
    End::Failed { error: json(r#"{"reason":"config"}"#), result: None }
}

fn retry() -> End {
    End::Retry { error: json(r#"{"reason":"http_status"}"#), result: None, after: None, jitter: 0.0 }
}

async fn source(db: &Db, name: &str) -> i64 {
    let fields = SourceFields {
        name: name.to_owned(),
        source_type: SourceType::File,
        description: None,
        status: SourceStatus::Active,
        config: json("{}"),
        fetch_interval: 0,
    };
    write!(db, conn => data_sources::create(conn, &fields, at(0))).unwrap()
}

#[tokio::test]
async fn lanes_that_all_wait_are_served_by_their_weights_and_priorities() {
    for bed in databases().await {
        let db = &bed.db;
        let shares = [
            (Priority::Normal, 1),
            (Priority::Normal, 3),
            (Priority::High, 1),
            (Priority::Critical, 1),
            (Priority::Low, 1),
        ];
        for (n, (priority, weight)) in (1..).zip(shares) {
            set_share(db, n, priority, weight).await;
        }
        let mut served: BTreeMap<i64, usize> = BTreeMap::new();
        for round in 0..82 {
            for object_id in 1..=5 {
                enqueue(db, object_id, Priority::Normal, at(round)).await;
            }
            let claimed = claim(db, at(round)).await;
            finish(db, &claimed, succeeded(), at(round)).await;
            *served.entry(claimed.task.object_id).or_default() += 1;
        }
        // 1 : 3 : 2 : 4 : 1/4, eight turns for a weight of one.
        for (object_id, expected) in [(1, 8), (2, 24), (3, 16), (4, 32), (5, 2)] {
            let got = served[&object_id];
            assert!(got.abs_diff(expected) <= 2, "{}: {object_id}: {got} of {expected}: {served:?}", bed.name);
        }
    }
}

#[tokio::test]
async fn a_critical_run_is_next_and_its_lane_has_no_advantage_afterwards() {
    for bed in databases().await {
        let db = &bed.db;
        // Lane 9 has used more of the time than the others.
        for round in 0..5 {
            enqueue(db, 9, Priority::High, at(round)).await;
            let claimed = claim(db, at(round)).await;
            finish(db, &claimed, succeeded(), at(round)).await;
        }
        for object_id in 1..=8 {
            enqueue(db, object_id, Priority::High, at(10)).await;
        }
        let eight = enqueue(db, 8, Priority::Critical, at(11)).await;
        let nine = enqueue(db, 9, Priority::Critical, at(12)).await;
        for (wanted, second) in [(eight, 13), (nine, 14)] {
            let claimed = claim(db, at(second)).await;
            assert_eq!(claimed.task.id, wanted, "{}: in the order of asking", bed.name);
            finish(db, &claimed, succeeded(), at(second)).await;
        }
        enqueue(db, 9, Priority::High, at(15)).await;
        let mut order = Vec::new();
        for _ in 0..8 {
            let claimed = claim(db, at(16)).await;
            finish(db, &claimed, succeeded(), at(16)).await;
            order.push(claimed.task.object_id);
        }
        assert_eq!(order.last(), Some(&9), "{}: {order:?}", bed.name);
    }
}

#[tokio::test]
async fn a_run_that_waits_is_hurried_and_never_slowed_down() {
    for bed in databases().await {
        let db = &bed.db;
        let id = enqueue(db, 1, Priority::Normal, at(0)).await;
        for (wanted, becomes) in [
            (Priority::Low, Priority::Normal),
            (Priority::High, Priority::High),
            (Priority::Critical, Priority::Critical),
            (Priority::Normal, Priority::Critical),
        ] {
            assert_eq!(enqueue(db, 1, wanted, at(5)).await, id);
            let task = tasks::find(&mut db.read().await.unwrap().conn(), id).await.unwrap().unwrap();
            let place = at(0) + TimeDelta::seconds(becomes.offset_secs());
            assert_eq!((task.priority, task.sort_key, task.run_at), (becomes, place, at(0)), "{}", bed.name);
        }
    }
}

#[tokio::test]
async fn a_scheduled_task_has_the_priority_of_its_source() {
    for bed in databases().await {
        let db = &bed.db;
        for (object_id, priority) in [(1, Priority::Low), (2, Priority::Critical), (3, Priority::Normal)] {
            set_share(db, object_id, priority, 1).await;
            write!(db, conn => schedules::upsert(conn, KIND, object_id, &Plan::every(60), true, at(0))).unwrap();
        }
        write!(db, conn => schedules::fire_due(conn, at(60), 10)).unwrap();
        let mut reader = db.read().await.unwrap();
        let rows = reader.conn().fetch_all("select * from tasks order by object_id", &[]).await.unwrap();
        let found: Vec<(Priority, i64)> = rows
            .iter()
            .map(|row| tasks::TaskRow::from_row(row).unwrap())
            .map(|task| (task.priority, (task.sort_key - task.run_at).num_seconds()))
            .collect();
        assert_eq!(found, [(Priority::Low, 600), (Priority::Critical, -600), (Priority::Normal, 0)], "{}", bed.name);
    }
}

#[tokio::test]
async fn what_failed_last_of_each_source_is_retried_once() {
    for bed in databases().await {
        let db = &bed.db;
        let mut sources = Vec::new();
        for n in 0..8 {
            sources.push(source(db, &format!("s{n}")).await);
        }
        let run = async |object_id: i64, end: End| {
            let id = enqueue(db, object_id, Priority::High, at(0)).await;
            let claimed = claim(db, at(0)).await;
            assert_eq!(claimed.task.id, id);
            finish(db, &claimed, end, at(0)).await;
            id
        };
        let mut expected = Vec::new();
        for object_id in &sources[..5] {
            run(*object_id, failed()).await;
            expected.push(run(*object_id, failed()).await);
        }
        // It worked since; it is being retried already; it is gone.
        run(sources[5], failed()).await;
        run(sources[5], succeeded()).await;
        run(sources[6], failed()).await;
        let gone = sources[7];
        run(gone, failed()).await;
        enqueue(db, sources[6], Priority::High, at(1)).await;
        write!(db, conn => data_sources::mark_deleted(conn, gone, at(1))).unwrap();
        // A cancelled one after it says nothing.
        let cancelled = enqueue(db, sources[0], Priority::High, at(1)).await;
        write!(db, conn => tasks::cancel(conn, cancelled, at(1))).unwrap();

        let (only, mut below, mut made) = (sources[3], i64::MAX, Vec::new());
        let one = write!(db, conn => tasks::retry_failed(conn, KIND, Some(only), below, 10, at(2))).unwrap();
        assert_eq!((one.tasks.len(), one.next_below), (1, None), "{}", bed.name);
        made.extend(one.tasks);
        let mut calls = 0;
        loop {
            let some = write!(db, conn => tasks::retry_failed(conn, KIND, None, below, 2, at(2))).unwrap();
            made.extend(some.tasks);
            calls += 1;
            match some.next_below {
                Some(next) => below = next,
                None => break,
            }
        }
        assert!(calls >= 3, "{}: {calls} calls of two", bed.name);
        let mut repeated = Vec::new();
        for task in made {
            let task = tasks::find(&mut db.read().await.unwrap().conn(), task.id).await.unwrap().unwrap();
            assert_eq!(task.status, TaskStatus::Pending);
            repeated.push(task.retry_of.unwrap());
        }
        repeated.sort_unstable();
        expected.sort_unstable();
        assert_eq!(repeated, expected, "{}", bed.name);
        let again = write!(db, conn => tasks::retry_failed(conn, KIND, None, i64::MAX, 10, at(3))).unwrap();
        assert!(again.tasks.is_empty(), "{}", bed.name);
    }
}

#[tokio::test]
async fn a_lane_that_keeps_failing_is_held_back_and_probed_by_one_attempt() {
    for bed in databases().await {
        let (db, policy) = (&bed.db, RetryPolicy::default());
        for n in 0..policy.breaker_after {
            enqueue_scheduled(db, at(n)).await;
            let claimed = claim(db, at(n)).await;
            finish(db, &claimed, failed(), at(n)).await;
        }
        let begun = at(policy.breaker_after - 1);
        enqueue_scheduled(db, at(30)).await;
        let none = write!(db, conn => tasks::claim(conn, Queue::Acquisition, Uuid::from_u128(7), 9, at(30))).unwrap();
        assert!(none.is_empty(), "{}: held back", bed.name);
        let probe = begun + TimeDelta::seconds(60);
        let claimed = claim(db, probe).await;
        // What would be tried eight times otherwise says enough once, and the next probe comes later.
        assert_eq!(finish(db, &claimed, retry(), probe).await, Ended::Terminal(TaskStatus::Failed), "{}", bed.name);
        enqueue_scheduled(db, probe + TimeDelta::seconds(1)).await;
        let early = probe + TimeDelta::seconds(119);
        let none = write!(db, conn => tasks::claim(conn, Queue::Acquisition, Uuid::from_u128(7), 9, early)).unwrap();
        assert!(none.is_empty(), "{}: held back for longer", bed.name);
        let probe = probe + TimeDelta::seconds(120);
        let claimed = claim(db, probe).await;
        assert_eq!(finish(db, &claimed, succeeded(), probe).await, Ended::Terminal(TaskStatus::Succeeded));
        // One good read, and all is as before.
        enqueue(db, 1, Priority::High, probe).await;
        let claimed = claim(db, probe).await;
        assert!(matches!(finish(db, &claimed, retry(), probe).await, Ended::Waiting { .. }), "{}", bed.name);
    }
}

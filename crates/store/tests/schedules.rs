//! What schedules promise, on both databases.

#![allow(clippy::unwrap_used)]

use matome_model::clock::Timestamp;
use matome_model::schedule::{Plan, ScheduleOptions};
use matome_model::task::{LaneKind, Queue};
use matome_store::db::Db;
use matome_store::schedules::{self, Fired};
use matome_store::tasks::{self, ClaimedTask, End, Finish, NewTask, RetryPolicy};
use matome_testbed::databases;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

const KIND: LaneKind = LaneKind::Source;

/// `write!(db, conn => expression)`: the expression in one transaction.
macro_rules! write {
    ($db:expr, $conn:ident => $work:expr) => {
        $db.write(move |$conn| Box::pin(async move { $work.await })).await
    };
}

/// A full minute and so many seconds.
fn at(secs: i64) -> Timestamp {
    Timestamp::from_timestamp_secs(1_763_900_040 + secs).unwrap()
}

fn plan(options: Value, interval_secs: i64) -> Plan {
    ScheduleOptions::parse(&options).unwrap().plan(Some(interval_secs)).unwrap()
}

/// Makes or changes the schedule of an object at the time `now`.
async fn set(db: &Db, object_id: i64, plan: Plan, enabled: bool, now: i64) {
    write!(db, conn => schedules::upsert(conn, KIND, object_id, &plan, enabled, at(now))).unwrap();
}

async fn fire(db: &Db, now: i64) -> Vec<Fired> {
    write!(db, conn => schedules::fire_due(conn, at(now), 1000)).unwrap()
}

/// How many tasks a look at the time `now` makes.
async fn made(db: &Db, now: i64) -> usize {
    fire(db, now).await.iter().map(|fired| fired.made.len()).sum()
}

/// The nominal times of all tasks, in seconds after `at(0)`, in the order in which they were made.
async fn fire_times(db: &Db) -> Vec<i64> {
    let mut reader = db.read().await.unwrap();
    let rows = reader.conn().fetch_all("select fire_time from tasks order by id", &[]).await.unwrap();
    rows.iter().map(|row| (row.time("fire_time").unwrap() - at(0)).num_seconds()).collect()
}

async fn next_at(db: &Db) -> i64 {
    let mut reader = db.read().await.unwrap();
    let row = reader.conn().fetch_one("select next_at from schedules", &[]).await.unwrap();
    (row.time("next_at").unwrap() - at(0)).num_seconds()
}

async fn claim(db: &Db, slots: usize, now: i64) -> Vec<ClaimedTask> {
    let worker = Uuid::new_v4();
    write!(db, conn => tasks::claim(conn, Queue::Acquisition, worker, slots, at(now))).unwrap()
}

async fn finish(db: &Db, task: &ClaimedTask, now: i64) {
    let result = RawValue::from_string("{}".to_owned()).unwrap();
    let finishes = vec![Finish { task_id: task.task.id, fence: task.fence, end: End::Succeeded { result } }];
    write!(db, conn => tasks::finish(conn, &finishes, &RetryPolicy::default(), at(now))).unwrap();
}

#[tokio::test]
async fn several_beats_fire_each_nominal_time_once() {
    for bed in databases().await {
        let db = &bed.db;
        for object_id in 1..=20 {
            set(db, object_id, Plan::every(60), true, -60).await;
        }
        let fire_some = |secs| {
            let db = db.clone();
            async move { write!(db, conn => schedules::fire_due(conn, at(secs), 7)).unwrap() }
        };
        let mut made = 0;
        loop {
            let fired = futures::future::join_all((0..5).map(|_| fire_some(1))).await;
            made += fired.iter().flatten().map(|fired| fired.made.len()).sum::<usize>();
            if fired.iter().flatten().count() == 0 {
                break;
            }
        }
        assert_eq!(made, 20, "{}", bed.name);
        // Times that were missed together make one task, and the rhythm goes on from the nominal time.
        for task in claim(db, 20, 1).await {
            finish(db, &task, 2).await;
        }
        write!(db, conn => schedules::remove(conn, KIND, 20)).unwrap();
        let mut rounds = 0;
        while !fire_some(1000).await.is_empty() {
            rounds += 1;
        }
        assert_eq!(rounds, 3, "19 schedules, 7 at a time");
        let low_and_high = "select min(next_at) as low, max(next_at) as high from schedules";
        let next = db.read().await.unwrap().conn().fetch_one(low_and_high, &[]).await.unwrap();
        assert_eq!((next.time("low").unwrap(), next.time("high").unwrap()), (at(1020), at(1020)));
        assert_eq!(claim(db, 99, 1000).await.len(), 19);
    }
}

#[tokio::test]
async fn other_times_start_anew_and_saying_them_again_does_not() {
    for bed in databases().await {
        let db = &bed.db;
        set(db, 1, Plan::every(60), true, 0).await;
        assert_eq!(next_at(db).await, 60, "{}", bed.name);
        set(db, 1, Plan::every(60), true, 39).await;
        assert_eq!(next_at(db).await, 60);
        set(db, 1, plan(json!({"misfire": "skip", "overlap": "skip", "jitter_secs": 5}), 60), true, 39).await;
        assert_eq!(next_at(db).await, 60, "what is done with the times does not change them");
        set(db, 1, Plan::every(30), true, 20).await;
        assert_eq!(next_at(db).await, 50);
        set(db, 1, Plan::every(30), false, 20).await;
        assert!(fire(db, 70).await.is_empty());
        set(db, 1, Plan::every(30), true, 70).await;
        assert_eq!(next_at(db).await, 100);
        set(db, 1, plan(json!({"cron": "*/2 * * * *"}), 0), true, 71).await;
        assert_eq!(next_at(db).await, 120);
        set(db, 1, plan(json!({"cron": "*/2 * * * *"}), 0), true, 200).await;
        assert_eq!(next_at(db).await, 120);
        set(db, 1, plan(json!({"cron": "*/2 * * * *", "timezone": "Asia/Tokyo"}), 0), true, 200).await;
        assert_eq!(next_at(db).await, 240);
    }
}

#[tokio::test]
async fn missed_times_are_merged_skipped_or_made_up_for() {
    for bed in databases().await {
        let db = &bed.db;
        for (object_id, options, wanted, next) in [
            (1, json!({}), vec![60], 360),
            (2, json!({"misfire": "skip"}), vec![], 360),
            (3, json!({"misfire": "catch_up"}), vec![60, 120, 180, 240, 300], 360),
            (4, json!({"misfire": "coalesce", "cron": "* * * * *"}), vec![60], 360),
            (5, json!({"misfire": "skip", "cron": "* * * * *"}), vec![], 360),
            (6, json!({"misfire": "catch_up", "cron": "* * * * *"}), vec![60, 120, 180, 240, 300], 360),
        ] {
            set(db, object_id, plan(options.clone(), 60), true, 0).await;
            let fired = fire(db, 330).await;
            assert_eq!((fired.len(), fired[0].made.len()), (1, wanted.len()), "{}: {options}", bed.name);
            assert_eq!(fire_times(db).await, wanted, "{}: {options}", bed.name);
            assert_eq!(next_at(db).await, next, "{}: {options}", bed.name);
            assert!(fire(db, 359).await.is_empty());
            set(db, object_id, Plan::every(60), false, 0).await;
            write!(db, conn => tasks::cancel_all(conn, KIND, object_id, at(330))).unwrap();
            write!(db, conn => async { conn.execute("delete from tasks", &[]).await }).unwrap();
            write!(db, conn => schedules::remove(conn, KIND, object_id)).unwrap();
        }
    }
}

#[tokio::test]
async fn catching_up_makes_the_latest_hundred_and_never_more_wait() {
    for bed in databases().await {
        let db = &bed.db;
        set(db, 1, plan(json!({"misfire": "catch_up"}), 60), true, 0).await;
        assert_eq!(made(db, 60 * 500).await, 100, "{}", bed.name);
        let times = fire_times(db).await;
        assert_eq!((times[0], times[99]), (60 * 401, 60 * 500));
        assert_eq!(made(db, 60 * 501).await, 0, "a hundred wait already");
        let first = claim(db, 1, 60 * 501).await.remove(0);
        assert_eq!((first.task.fire_time.unwrap() - at(0)).num_seconds(), 60 * 401, "oldest first");
        finish(db, &first, 60 * 501).await;
        assert_eq!(made(db, 60 * 502).await, 1);
    }
}

#[tokio::test]
async fn one_scheduled_task_waits_behind_the_running_one_or_none() {
    for bed in databases().await {
        let db = &bed.db;
        set(db, 1, Plan::every(60), true, 0).await;
        set(db, 2, plan(json!({"overlap": "skip"}), 60), true, 0).await;
        assert_eq!(made(db, 60).await, 2, "{}", bed.name);
        let fired = fire(db, 120).await;
        assert!(fired.iter().all(|fired| fired.made.is_empty() && fired.coalesced), "both wait: {fired:?}");
        let running = claim(db, 2, 121).await;
        assert_eq!(running.len(), 2);
        assert_eq!(made(db, 180).await, 1, "one may queue behind the task that runs, the other may not");
        for task in &running {
            finish(db, task, 190).await;
        }
        assert_eq!(made(db, 240).await, 1, "the first still waits, the second is idle again");
        // A run by hand that waits counts too.
        for task in claim(db, 9, 241).await {
            finish(db, &task, 242).await;
        }
        for object_id in [1, 2] {
            let by_hand = NewTask::manual(KIND, object_id, at(250));
            write!(db, conn => tasks::enqueue(conn, &by_hand, at(250))).unwrap();
        }
        assert_eq!(made(db, 300).await, 1);
    }
}

#[tokio::test]
async fn jitter_moves_the_task_and_not_its_nominal_time() {
    for bed in databases().await {
        let db = &bed.db;
        let moved = plan(json!({"jitter_secs": 30}), 60);
        for object_id in 1..=200 {
            set(db, object_id, moved.clone(), true, 0).await;
        }
        let mut made_at = Vec::new();
        for now in 60..120 {
            made_at.extend(std::iter::repeat_n(now, made(db, now).await));
        }
        assert_eq!(made_at.len(), 200, "{}", bed.name);
        assert!(made_at.iter().all(|at| (60..=91).contains(at)), "{made_at:?}");
        assert!(made_at[0] < 65 && made_at[199] > 85, "spread over half a minute: {made_at:?}");
        assert_eq!(fire_times(db).await, vec![60; 200]);
        let unlike = "select count(*) as n from tasks where run_at < fire_time or sort_key <> run_at";
        assert_eq!(db.read().await.unwrap().conn().fetch_one(unlike, &[]).await.unwrap().int("n").unwrap(), 0);
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_repeats_nothing() {
    for bed in databases().await {
        let db = &bed.db;
        set(db, 1, plan(json!({"misfire": "catch_up"}), 60), true, 0).await;
        set(db, 2, plan(json!({"cron": "* * * * *", "misfire": "catch_up"}), 0), true, 0).await;
        assert_eq!(made(db, 60).await + made(db, 120).await, 4, "{}", bed.name);
        for now in [-86_400, 0, 59, 60, 61, 119, 120, 179] {
            assert!(fire(db, now).await.is_empty(), "{}: at {now}", bed.name);
        }
        assert_eq!(made(db, 180).await, 2);
        assert_eq!(fire_times(db).await, [60, 60, 120, 120, 180, 180]);
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_holds_nobody_up_and_is_not_lost() {
    for bed in databases().await {
        let db = &bed.db;
        let update = |sql: &'static str| async move {
            write!(db, conn => async { conn.execute(sql, &[]).await }).unwrap();
        };
        set(db, 1, plan(json!({"cron": "* * * * *"}), 0), true, 0).await;
        set(db, 2, Plan::every(60), true, 0).await;
        for (n, (damage, repair)) in [
            ("update schedules set timezone = 'Moon/Sea' where object_id = 1", "update schedules set timezone = 'UTC'"),
            ("update schedules set misfire = 'later' where object_id = 1", "update schedules set misfire = 'coalesce'"),
            ("update schedules set kind = 'report' where object_id = 1", "update schedules set kind = 'source'"),
        ]
        .into_iter()
        .enumerate()
        {
            update(damage).await;
            let now = 60 + 600 * n as i64;
            let fired = fire(db, now).await;
            assert_eq!(fired.iter().filter(|fired| fired.unreadable).count(), 1, "{}: {damage}", bed.name);
            assert_eq!(fired.iter().map(|fired| fired.made.len()).sum::<usize>(), 1, "{}: {damage}", bed.name);
            assert!(fire(db, now + 59).await.iter().all(|fired| !fired.unreadable), "not looked at all the time");
            update(repair).await;
            assert_eq!(made(db, now + 61).await, 1, "{}: {repair}", bed.name);
            for task in claim(db, 9, now + 62).await {
                finish(db, &task, now + 63).await;
            }
        }
    }
}

/// Before migration 4 there were intervals only; such rows, and those that an older binary moves, go on.
#[tokio::test]
async fn schedules_of_an_older_version_go_on() {
    for bed in databases().await {
        let db = &bed.db;
        let insert = "insert into schedules (kind, object_id, interval_secs, next_at) values ('source', 1, 60, $1)";
        write!(db, conn => async { conn.execute(insert, &[at(60).into()]).await }).unwrap();
        assert_eq!(made(db, 60).await, 1, "{}", bed.name);
        assert_eq!(next_at(db).await, 120);
        // An older binary moves `next_at` and leaves `due_at` behind.
        set(db, 1, plan(json!({"jitter_secs": 10}), 60), true, 60).await;
        let older = "update schedules set next_at = $1";
        write!(db, conn => async { conn.execute(older, &[at(600).into()]).await }).unwrap();
        assert_eq!(made(db, 300).await, 0);
        assert!(fire(db, 301).await.is_empty(), "it is put right at the first look");
        assert_eq!(next_at(db).await, 600);
    }
}

#[tokio::test]
async fn the_queries_of_the_beat_use_their_indexes() {
    for bed in databases().await {
        let db = &bed.db;
        write!(db, conn => async {
            for object_id in 1..=3000 {
                let plan = Plan::every(3600);
                schedules::upsert(conn, KIND, object_id, &plan, true, at(object_id)).await?;
            }
            Ok(())
        })
        .unwrap();
        write!(db, conn => async { conn.execute("analyze schedules", &[]).await }).unwrap();
        let due = "select id from schedules where enabled and coalesce(due_at, next_at) <= $1
            order by coalesce(due_at, next_at), id limit 500";
        let explain = format!("{}{due}", if bed.name == "sqlite" { "explain query plan " } else { "explain " });
        let column = if bed.name == "sqlite" { "detail" } else { "QUERY PLAN" };
        let mut reader = db.read().await.unwrap();
        let args = [at(1).into()];
        let rows = reader.conn().fetch_all(sqlx::AssertSqlSafe(explain), &args).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.text(column).unwrap()).collect();
        assert!(plan.iter().any(|line| line.contains("schedules_due_at")), "{}: {plan:?}", bed.name);
    }
}

//! What an installation tells of itself in numbers, on both databases.

#![allow(clippy::unwrap_used)]

use matome_model::clock::Timestamp;
use matome_model::schedule::{Plan, ScheduleOptions};
use matome_model::task::{LaneKind, Queue};
use matome_store::db::Db;
use matome_store::migrate::Schema;
use matome_store::pulse::{self, Pulse};
use matome_store::schedules;
use matome_store::tasks::{self, NewTask};
use matome_store::workers::{self, NewWorker};
use matome_testbed::databases;
use serde_json::json;
use uuid::Uuid;

/// `write!(db, conn => expression)`: the expression in one transaction.
macro_rules! write {
    ($db:expr, $conn:ident => $work:expr) => {
        $db.write(move |$conn| Box::pin(async move { $work.await })).await.unwrap()
    };
}

/// A full minute and so many seconds.
fn at(secs: i64) -> Timestamp {
    Timestamp::from_timestamp_secs(1_763_900_040 + secs).unwrap()
}

async fn look(db: &Db, secs: i64) -> Pulse {
    let mut reader = db.read().await.unwrap();
    pulse::look(&mut reader.conn(), at(secs)).await.unwrap()
}

/// Waiting, due, and how long the first has waited.
async fn queue(db: &Db, queue: Queue, secs: i64) -> (i64, i64, i64) {
    let pulse = look(db, secs).await;
    let state = pulse.queues.iter().find(|state| state.queue == queue).unwrap();
    (state.waiting, state.due, state.oldest.num_seconds())
}

#[tokio::test]
async fn what_waits_is_told_for_each_queue_with_the_time_that_the_first_has_waited() {
    for bed in databases().await {
        let db = &bed.db;
        assert_eq!(queue(db, Queue::Acquisition, 0).await, (0, 0, 0), "{}", bed.name);
        for (object_id, due) in [(1, 10), (2, 20), (3, 500)] {
            let task = NewTask::manual(LaneKind::Source, object_id, at(due));
            write!(db, conn => tasks::enqueue(conn, &task, at(0)));
        }
        let other = NewTask::manual(LaneKind::Aggregation, 1, at(30));
        write!(db, conn => tasks::enqueue(conn, &other, at(0)));
        assert_eq!(queue(db, Queue::Acquisition, 5).await, (3, 0, 0), "{}: none is due", bed.name);
        assert_eq!(queue(db, Queue::Acquisition, 100).await, (3, 2, 90), "{}", bed.name);
        assert_eq!(queue(db, Queue::Aggregation, 100).await, (1, 1, 70), "{}", bed.name);
        // What runs does not wait.
        let claimed = write!(db, conn => tasks::claim(conn, Queue::Acquisition, Uuid::new_v4(), 1, at(100)));
        assert_eq!(claimed.len(), 1);
        let left = if claimed[0].task.object_id == 1 { 20 } else { 10 };
        assert_eq!(queue(db, Queue::Acquisition, 100).await, (2, 1, 100 - left), "{}", bed.name);
    }
}

#[tokio::test]
async fn processes_are_told_by_role_with_the_oldest_heartbeat_until_they_sign_off() {
    for bed in databases().await {
        let db = &bed.db;
        let boots = [("worker", 0), ("worker", 40), ("beat", 45)].map(|(role, start)| (Uuid::now_v7(), role, start));
        for (boot, role, start) in boots {
            let (host, version) = ("host".to_owned(), "0".to_owned());
            let worker = NewWorker { boot, role: role.to_owned(), host, pid: 1, version };
            write!(db, conn => workers::register(conn, &worker, Schema::BUILT, at(start)));
        }
        let roles = async |secs| {
            let mut told: Vec<_> = look(db, secs).await.roles;
            told.sort_by(|one, other| one.role.cmp(&other.role));
            let of =
                |state: pulse::RoleState| (state.role, state.processes, state.alive, state.heartbeat_age.num_seconds());
            told.into_iter().map(of).collect()
        };
        let told: Vec<(String, i64, i64, i64)> = roles(50).await;
        // One that is hung or was killed says nothing of the other.
        assert_eq!(told, [("beat".to_owned(), 1, 1, 5), ("worker".to_owned(), 2, 1, 50)], "{}", bed.name);
        let first = boots[0].0;
        write!(db, conn => workers::gone(conn, first, at(50)));
        let told: Vec<(String, i64, i64, i64)> = roles(50).await;
        assert_eq!(told, [("beat".to_owned(), 1, 1, 5), ("worker".to_owned(), 1, 1, 10)], "{}", bed.name);
    }
}

#[tokio::test]
async fn a_schedule_that_nobody_fires_is_late() {
    for bed in databases().await {
        let db = &bed.db;
        let plan: Plan = ScheduleOptions::parse(&json!({})).unwrap().plan(Some(60)).unwrap();
        write!(db, conn => schedules::upsert(conn, LaneKind::Source, 1, &plan, true, at(0)));
        let due = write!(db, conn => schedules::fire_due(conn, at(0), 1000));
        assert!(due.len() <= 1);
        let early = look(db, 1).await.beat_lag.num_seconds();
        let late = look(db, 1000).await.beat_lag.num_seconds();
        assert_eq!(early, 0, "{}", bed.name);
        assert!((900..=1000).contains(&late), "{}: {late}", bed.name);
        write!(db, conn => schedules::fire_due(conn, at(1000), 1000));
        assert_eq!(look(db, 1000).await.beat_lag.num_seconds(), 0, "{}: fired", bed.name);
    }
}

#[tokio::test]
async fn a_look_reads_the_oldest_waiting_tasks_by_index_and_no_more_of_them_than_it_says() {
    for bed in databases().await {
        let db = &bed.db;
        let task = NewTask::manual(LaneKind::Source, 1, at(0));
        write!(db, conn => tasks::enqueue(conn, &task, at(0)));
        // 40,000 that ended, and then more that wait than are looked at.
        let (numbers, uuid) = if bed.name == "sqlite" {
            ("with recursive n (i) as (select 1 union all select i + 1 from n where i < 52000)", "randomblob(16)")
        } else {
            ("with n (i) as (select generate_series(1, 52000))", "gen_random_uuid()")
        };
        let sql = format!(
            "{numbers} insert into tasks
            (task_uuid, queue, lane_id, object_id, cause, status, run_at, sort_key, created_at, finished_at)
            select {uuid}, queue, lane_id, object_id, cause, case when i <= 40000 then 'succeeded' else 'pending' end,
            run_at, sort_key, created_at, case when i <= 40000 then run_at end
            from n cross join (select * from tasks where status = 'pending' limit 1) as one order by i"
        );
        write!(db, conn => async { conn.execute(sqlx::AssertSqlSafe(sql), &[]).await });
        write!(db, conn => async { conn.execute("analyze tasks", &[]).await });
        assert_eq!(queue(db, Queue::Acquisition, 100).await, (pulse::COUNTED, pulse::COUNTED, 100), "{}", bed.name);
        assert_eq!(queue(db, Queue::Aggregation, 100).await, (0, 0, 0), "{}", bed.name);
        // Those that are looked at are not due; one behind them is, in a lane of its own.
        let later = at(5000);
        write!(db, conn => async {
            conn.execute("update tasks set run_at = $1, sort_key = $1 where status = 'pending'", &[later.into()]).await?;
            conn.execute("update lanes set next_run_at = $1, ready = false", &[later.into()]).await
        });
        let task = NewTask::manual(LaneKind::Source, 2, at(40));
        write!(db, conn => tasks::enqueue(conn, &task, at(40)));
        assert_eq!(queue(db, Queue::Acquisition, 100).await, (pulse::COUNTED, 0, 60), "{}", bed.name);

        let (explain, column) = match bed.name {
            "sqlite" => ("explain query plan", "detail"),
            _ => ("explain", "QUERY PLAN"),
        };
        let explain = format!("{explain} {}", pulse::WAITING);
        let mut reader = db.read().await.unwrap();
        let args = [Queue::Acquisition.as_str().into(), at(100).into(), pulse::COUNTED.into()];
        let rows = reader.conn().fetch_all(sqlx::AssertSqlSafe(explain), &args).await.unwrap();
        let plan = rows.iter().map(|row| row.text(column).unwrap()).collect::<Vec<_>>().join("\n");
        assert!(plan.contains("tasks_by_status"), "{}: {plan}", bed.name);
        assert!(!plan.to_lowercase().contains("sort") && !plan.contains("TEMP B-TREE"), "{}: {plan}", bed.name);
    }
}

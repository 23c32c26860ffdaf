//! 10,000 schedules each minute in real time, on both databases: two beats, one worker, tasks that do nothing.
//!
//! `scripts/fault/schedule` runs it. It ends with 1 when a fire was missed or doubled, or when tasks started too late.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on may stop")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures::future::BoxFuture;
use matome_bus::Bus;
use matome_model::clock::{Clock, Timestamp};
use matome_model::schedule::Plan;
use matome_model::task::{LaneKind, Queue};
use matome_store::db::Db;
use matome_store::schedules;
use matome_store::workers::NewWorker;
use matome_tasks::{Beat, ClaimedTask, Handler, Process, TaskContext, TaskError, TaskOutcome, Worker, WorkerOptions};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const SCHEDULES: i64 = 10_000;
const EVERY: TimeDelta = TimeDelta::seconds(60);
/// 99 of 100 tasks start within so much of their time.
const BUDGET_MS: i64 = 1000;

struct Nothing;

impl Handler for Nothing {
    fn run(&self, _: ClaimedTask, _: TaskContext) -> BoxFuture<'_, Result<TaskOutcome, TaskError>> {
        Box::pin(async { Ok(TaskOutcome::new(&serde_json::json!({ "read": 0 }))) })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let minutes: i64 = std::env::args().nth(1).map_or(10, |text| text.parse().expect("a number of minutes"));
    let mut is_well = true;
    for bed in matome_testbed::databases().await {
        let took = all_at_once(&bed.db).await;
        println!("{}: {SCHEDULES} fires that come due together take a beat {took:?}", bed.name);
    }
    println!("{SCHEDULES} schedules each minute, {minutes} minutes");
    println!("database\tfires\tmissed\tdoubled\tstart p50\tstart p99\tstart max");
    for bed in matome_testbed::databases().await {
        let (begin, end) = run(&bed.db, minutes).await;
        is_well &= report(bed.name, &bed.db, begin, end).await;
    }
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How long a beat takes over all schedules when they come due in the same second, the lanes being there.
async fn all_at_once(db: &Db) -> Duration {
    let clock = Clock::fixed(Clock::system().now());
    let begin = clock.now();
    let set = db.write(move |conn| {
        Box::pin(async move {
            for object_id in 0..SCHEDULES {
                schedules::upsert(conn, LaneKind::Source, object_id, &Plan::every(60), true, begin).await?;
            }
            Ok(())
        })
    });
    set.await.unwrap();
    let mut beat = Beat::new(db.clone(), Bus::in_process(), clock.clone(), None);
    let mut took = Duration::ZERO;
    for _ in 0..2 {
        clock.advance(EVERY);
        let started = std::time::Instant::now();
        assert_eq!(beat.fire_due().await.unwrap(), usize::try_from(SCHEDULES).unwrap());
        took = started.elapsed();
        let end = "update tasks set status = 'succeeded', finished_at = created_at where status = 'pending'";
        db.write(move |conn| Box::pin(async move { conn.execute(end, &[]).await })).await.unwrap();
    }
    for table in ["delete from schedules", "delete from tasks"] {
        db.write(move |conn| Box::pin(async move { conn.execute(table, &[]).await })).await.unwrap();
    }
    took
}

/// Runs for so many minutes; returns the first nominal time that counts, and the last.
async fn run(db: &Db, minutes: i64) -> (Timestamp, Timestamp) {
    let clock = Clock::system();
    // Time to write them all before the first is due; then they come evenly over each minute.
    let begin = clock.now() + TimeDelta::seconds(20);
    let set = db.write(move |conn| {
        Box::pin(async move {
            for object_id in 0..SCHEDULES {
                let first =
                    begin + EVERY * i32::try_from(object_id).unwrap_or(0) / i32::try_from(SCHEDULES).unwrap_or(1);
                schedules::upsert(conn, LaneKind::Source, object_id, &Plan::every(60), true, first - EVERY).await?;
            }
            Ok(())
        })
    });
    set.await.unwrap();
    let (bus, shutdown) = (Bus::in_process(), CancellationToken::new());
    let introduction = NewWorker {
        boot: Uuid::new_v4(),
        role: "measurement".to_owned(),
        host: String::new(),
        pid: i64::from(std::process::id()),
        version: String::new(),
    };
    let process = Process::start(db.clone(), clock.clone(), introduction).await.unwrap();
    let options = WorkerOptions::new(Queue::Acquisition, 8);
    let worker = Worker::new(&process, bus.clone(), options, Arc::new(Nothing));
    let mut running = vec![tokio::spawn(worker.run(shutdown.clone()))];
    for _ in 0..2 {
        let beat = Beat::new(db.clone(), bus.clone(), clock.clone(), Some(process.boot()));
        running.push(tokio::spawn(beat.run(shutdown.clone())));
    }
    let end = begin + EVERY * i32::try_from(minutes).unwrap_or(i32::MAX);
    let left = (end - clock.now()).to_std().unwrap_or_default();
    // What is due at the end has time to start.
    tokio::time::sleep(left + Duration::from_secs(10)).await;
    shutdown.cancel();
    for task in running {
        task.await.unwrap();
    }
    process.stop().await;
    (begin, end)
}

async fn report(name: &str, db: &Db, begin: Timestamp, end: Timestamp) -> bool {
    let mut reader = db.read().await.unwrap();
    let mut conn = reader.conn();
    let window = [begin.into(), end.into()];
    let late =
        "select started_at, run_at from tasks where fire_time >= $1 and fire_time < $2 and started_at is not null";
    let mut waits: Vec<i64> = Vec::new();
    for row in conn.fetch_all(late, &window).await.unwrap() {
        waits.push((row.time("started_at").unwrap() - row.time("run_at").unwrap()).num_milliseconds());
    }
    waits.sort_unstable();
    let distinct = "select count(*) as n from (
        select distinct schedule_id, fire_time from tasks where fire_time >= $1 and fire_time < $2
    ) fires";
    let distinct = conn.fetch_one(distinct, &window).await.unwrap().int("n").unwrap();
    let all = "select count(*) as n from tasks where fire_time >= $1 and fire_time < $2";
    let all = conn.fetch_one(all, &window).await.unwrap().int("n").unwrap();
    let wanted = SCHEDULES * (end - begin).num_minutes();
    let started = i64::try_from(waits.len()).unwrap();
    let (missed, doubled) = (wanted - distinct.min(started), all - distinct);
    let rank = |percent: usize| waits.get((waits.len() * percent / 100).min(waits.len().saturating_sub(1))).copied();
    let [p50, p99, max] = [50, 99, 100].map(|percent| rank(percent).unwrap_or(i64::MAX));
    println!("{name}\t{all}\t{missed}\t{doubled}\t{p50} ms\t{p99} ms\t{max} ms");
    // For `scripts/faults`: fault, database, tasks, records, lost, doubled, milliseconds.
    println!("row schedule {name} {all} - {missed} {doubled} {p99}");
    missed == 0 && doubled == 0 && p99 < BUDGET_MS
}

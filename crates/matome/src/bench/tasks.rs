//! The task engine with a handler that does nothing: how many durable tasks a second, and how soon one starts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_bus::Bus;
use matome_model::clock::Clock;
use matome_model::task::{LaneKind, Queue};
use matome_store::db::{Db, Dialect};
use matome_store::tasks::{NewTask, enqueue};
use matome_store::workers::NewWorker;
use matome_tasks::{ClaimedTask, Handler, Process, TaskContext, TaskError, TaskOutcome, Worker, WorkerOptions};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::celery::{Beside, Celery, Redis};
use super::figure::{Budget, Figure};
use super::peer::per_second;
use super::target::{Target, failed};
use super::usage::{Meter, percentile};
use super::{Bench, say};
use crate::failure::Failure;

const GROUP: &str = "tasks";
/// Slots that design.md §12 names.
const SLOTS: [usize; 2] = [8, 64];
/// Of 100 lanes so many have work that is due.
const READY_OF_HUNDRED: u64 = 1;
/// Tasks that come one at a time.
const IDLE_TASKS: i64 = 50;
/// Requests to accept a task that are under way at most; the API would use as many connections.
const ACCEPTING: usize = 8;

/// Does nothing, and counts.
struct NoWork {
    clock: Clock,
    left: Mutex<u64>,
    done: Notify,
    waits: Mutex<Vec<Duration>>,
}

impl NoWork {
    fn new(count: u64) -> Arc<Self> {
        let (clock, left, done, waits) = (Clock::system(), Mutex::new(count), Notify::new(), Mutex::default());
        Arc::new(Self { clock, left, done, waits })
    }
}

impl Handler for NoWork {
    fn run(&self, task: ClaimedTask, _ctx: TaskContext) -> BoxFuture<'_, Result<TaskOutcome, TaskError>> {
        let waited = (self.clock.now() - task.task.run_at).to_std().unwrap_or_default();
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).push(waited);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.done.notify_one();
        }
        async { Ok(TaskOutcome::new(&serde_json::json!({}))) }.boxed()
    }
}

/// A worker of this process on a database.
struct Running {
    db: Db,
    bus: Bus,
    process: Process,
    worker: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    async fn start(db: &Db, redis: Option<&Redis>, slots: usize, handler: Arc<NoWork>) -> Result<Self, Failure> {
        let introduction = NewWorker {
            boot: Uuid::now_v7(),
            role: "bench".to_owned(),
            host: String::new(),
            pid: i64::from(std::process::id()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // An embedded database has one process, and needs no Redis.
        let bus = match redis.filter(|_| db.dialect() == Dialect::Postgres) {
            Some(redis) => Bus::redis(Uuid::new_v4(), &redis.urls()).map_err(failed)?,
            None => Bus::in_process(),
        };
        let stop = CancellationToken::new();
        let process = Process::start(db.clone(), Clock::system(), introduction).await?;
        let options = WorkerOptions::new(Queue::Acquisition, slots);
        let worker = Worker::new(&process, bus.clone(), options, handler);
        let worker = tokio::spawn(worker.run(stop.clone()));
        Ok(Self { db: db.clone(), bus, process, worker, stop })
    }

    /// Waits until the last end is written.
    async fn stop(self) -> Result<(), Failure> {
        self.stop.cancel();
        self.worker.await.map_err(failed)?;
        self.process.stop().await;
        self.bus.close().await;
        Ok(())
    }
}

pub async fn run(bench: &mut Bench, target: &Target, redis: Option<&Redis>) -> Result<(), Failure> {
    let db = target.open().await?;
    let count = bench.sizes.tasks;
    let mut first_object = 1;
    for slots in SLOTS {
        say(format_args!("{}: {count} tasks at -c {slots}", target.name));
        accept(&db, first_object, count).await?;
        let (rate, usage) = drain(target, &db, redis, slots, count).await?;
        first_object += i64::try_from(count).unwrap_or(0);
        let (peer, note) = beside(bench, |celery| celery.rate(slots));
        let mut figure = Figure::new(GROUP, format!("durable no-op tasks, -c {slots}"), rate, "tasks/s")
            .on(target.name)
            .beside(peer)
            .cost(usage)
            .note(format!("accepted before; one lane each; {note}"));
        if let Some(budget) = match (target.name, slots) {
            ("sqlite", _) => Some(10_000.0),
            (_, 64) => Some(5_000.0),
            _ => None,
        } {
            figure = figure.budget(Budget::AtLeast(budget));
        }
        bench.add(figure);
    }
    first_object = idle_latency(bench, target, &db, redis, first_object).await?;
    start_latency(bench, target, &db, redis, first_object).await?;
    many_lanes(bench, target, &db).await?;
    db.close().await;
    Ok(())
}

/// Accepts tasks, one for each of `count` lanes.
async fn accept(db: &Db, first_object: i64, count: u64) -> Result<(), Failure> {
    let now = Clock::system().now();
    let objects: Vec<i64> = (first_object..).take(usize::try_from(count).unwrap_or(0)).collect();
    for some in objects.chunks(200) {
        let some = some.to_vec();
        db.write(move |conn| {
            Box::pin(async move {
                for object in some {
                    enqueue(conn, &NewTask::manual(LaneKind::Source, object, now), now).await?;
                }
                Ok(())
            })
        })
        .await?;
    }
    Ok(())
}

fn beside(bench: &Bench, of: impl Fn(&Celery) -> Beside) -> Beside {
    bench.celery.as_ref().map_or((None, "Celery is not here".to_owned()), of)
}

/// One task after the other, each when the one before is over and a moment has passed.
async fn idle_latency(
    bench: &mut Bench,
    target: &Target,
    db: &Db,
    redis: Option<&Redis>,
    first_object: i64,
) -> Result<i64, Failure> {
    say(format_args!("{}: tasks one at a time", target.name));
    let mut waits = Vec::new();
    let handler = NoWork::new(0);
    let running = Running::start(db, redis, 8, handler.clone()).await?;
    let last = first_object + IDLE_TASKS;
    for object in first_object..last {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = Clock::system().now();
        let new = NewTask::manual(LaneKind::Source, object, now);
        db.write(move |conn| Box::pin(async move { enqueue(conn, &new, now).await })).await?;
        running.bus.wake(Queue::Acquisition);
        let begun = tokio::time::timeout(Duration::from_secs(60), handler.done.notified()).await;
        begun.map_err(|_| failed("a task did not start"))?;
        waits.append(&mut handler.waits.lock().unwrap_or_else(PoisonError::into_inner));
    }
    running.stop().await?;
    waits.sort_unstable();
    let millis = |share| percentile(&waits, share).as_secs_f64() * 1e3;
    let (peer, note) = beside(bench, |celery| celery.latency(true));
    bench.add(
        Figure::new(GROUP, "asked for to started, p99, one at a time", millis(0.99), "ms")
            .on(target.name)
            .beside(peer)
            .note(format!("p50 {:.1} ms; {note}", millis(0.5))),
    );
    Ok(last)
}

async fn drain(
    target: &Target,
    db: &Db,
    redis: Option<&Redis>,
    slots: usize,
    count: u64,
) -> Result<(f64, super::usage::Usage), Failure> {
    let handler = NoWork::new(count);
    let meter = Meter::start(std::process::id(), target.server_pid);
    let running = Running::start(db, redis, slots, handler.clone()).await?;
    handler.done.notified().await;
    running.stop().await?;
    let usage = meter.end();
    Ok((per_second(count, usage.wall), usage))
}

/// Tasks come one by one, each in a transaction of its own, as from an API.
async fn start_latency(
    bench: &mut Bench,
    target: &Target,
    db: &Db,
    redis: Option<&Redis>,
    first_object: i64,
) -> Result<(), Failure> {
    let (pace, seconds) = (bench.sizes.pace, bench.sizes.load.as_secs().max(1));
    let count = pace * seconds;
    say(format_args!("{}: {pace} tasks a second for {seconds} s", target.name));
    let handler = NoWork::new(count);
    let meter = Meter::start(std::process::id(), target.server_pid);
    let running = Running::start(db, redis, 64, handler.clone()).await?;
    let places = Arc::new(Semaphore::new(ACCEPTING));
    let mut clock = tokio::time::interval(Duration::from_secs(1).div_f64(pace as f64));
    let mut accepting = JoinSet::new();
    for object in (first_object..).take(usize::try_from(count).unwrap_or(0)) {
        clock.tick().await;
        let (db, bus, places) = (running.db.clone(), running.bus.clone(), places.clone());
        // The clock of a task begins here, also when it waits for a place: who asks does not wait for the others.
        let now = Clock::system().now();
        accepting.spawn(async move {
            let _place = places.acquire_owned().await;
            let new = NewTask::manual(LaneKind::Source, object, now);
            let accepted = db.write(move |conn| Box::pin(async move { enqueue(conn, &new, now).await })).await;
            bus.wake(Queue::Acquisition);
            accepted.map(drop)
        });
    }
    while let Some(accepted) = accepting.join_next().await {
        accepted.map_err(failed)??;
    }
    let all = tokio::time::timeout(Duration::from_secs(60), handler.done.notified()).await;
    all.map_err(|_| failed("not every task started"))?;
    running.stop().await?;
    let usage = meter.end();
    let mut waits = std::mem::take(&mut *handler.waits.lock().unwrap_or_else(PoisonError::into_inner));
    waits.sort_unstable();
    let (p50, p99) = (percentile(&waits, 0.5), percentile(&waits, 0.99));
    let p99 = p99.as_secs_f64() * 1e3;
    let (peer, note) = beside(bench, |celery| celery.latency(false));
    bench.add(
        Figure::new(GROUP, format!("asked for to started, p99 at {pace}/s"), p99, "ms")
            .on(target.name)
            .beside(peer)
            .budget(Budget::AtMost(25.0))
            .cost(usage)
            .note(format!("p50 {:.1} ms, the commit that accepts it included; {note}", p50.as_secs_f64() * 1e3)),
    );
    Ok(())
}

/// Many lanes, nearly all of them waiting for their time.
async fn many_lanes(bench: &mut Bench, target: &Target, db: &Db) -> Result<(), Failure> {
    let lanes = bench.sizes.lanes;
    let ready = lanes * READY_OF_HUNDRED / 100;
    say(format_args!("{}: {lanes} lanes, {ready} of them ready", target.name));
    let objects = i64::try_from(lanes).unwrap_or(0);
    // One object in a hundred is due.
    let (lanes_sql, tasks_sql) = match db.dialect() {
        Dialect::Postgres => (LANES_POSTGRES, TASKS_POSTGRES),
        Dialect::Sqlite => (LANES_SQLITE, TASKS_SQLITE),
    };
    let now = Clock::system().now();
    let later = now + chrono::TimeDelta::days(1);
    db.write(move |conn| {
        Box::pin(async move {
            conn.execute(lanes_sql, &[objects.into(), now.into(), later.into()]).await?;
            conn.execute(tasks_sql, &[]).await
        })
    })
    .await?;
    if db.dialect() == Dialect::Postgres {
        db.read().await?.conn().execute_script("analyze lanes; analyze tasks".to_owned()).await?;
    }
    let started = Instant::now();
    let (rate, usage) = drain(target, db, None, 64, ready).await?;
    let took = started.elapsed().as_secs_f64();
    bench.add(
        Figure::new(GROUP, format!("no-op tasks of {lanes} lanes, 99 % waiting, -c 64"), rate, "tasks/s")
            .on(target.name)
            .cost(usage)
            .note(format!("{ready} due tasks in {took:.2} s")),
    );
    Ok(())
}

// Objects above a million, so that they are none of those before.
const LANES_POSTGRES: &str = "insert into lanes (queue, kind, object_id, ready, next_run_at)
select 'acquisition', 'source', 1000000 + i, i % 100 = 0, case when i % 100 = 0 then $2 else $3 end
from generate_series(1, $1) i";
const LANES_SQLITE: &str = "with recursive n (i) as (select 1 union all select i + 1 from n where i < $1)
insert into lanes (queue, kind, object_id, ready, next_run_at)
select 'acquisition', 'source', 1000000 + i, i % 100 = 0, case when i % 100 = 0 then $2 else $3 end from n";
const TASKS_POSTGRES: &str = "insert into tasks (task_uuid, queue, lane_id, object_id, cause, run_at, sort_key)
select gen_random_uuid(), queue, id, object_id, 'manual', next_run_at, next_run_at from lanes where object_id > 1000000";
const TASKS_SQLITE: &str = "insert into tasks (task_uuid, queue, lane_id, object_id, cause, run_at, sort_key)
select randomblob(16), queue, id, object_id, 'manual', next_run_at, next_run_at from lanes where object_id > 1000000";

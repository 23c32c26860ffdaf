//! What a worker process does with tasks, on both databases.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use matome_bus::Bus;
use matome_model::clock::{Clock, Timestamp};
use matome_model::schedule::Plan;
use matome_model::task::{Fence, LaneKind, Queue, TaskStatus};
use matome_store::db::{Conn, Db};
use matome_store::error::Result as StoreResult;

use matome_store::migrate::Schema;
use matome_store::tasks::{self, NewTask, RetryPolicy, TaskRow};
use matome_store::workers::NewWorker;
use matome_store::{lease, schedules, workers};
use matome_tasks::{
    Beat, ClaimedTask, Handler, Process, StopReason, Sweeper, TaskContext, TaskError, TaskOutcome, Worker,
    WorkerOptions,
};
use matome_testbed::databases;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What the handler does, by object.
#[derive(Clone, Copy, Debug)]
enum Act {
    Succeed,
    Fail,
    FailOnce,
    Panic,
    /// Works on until it is asked to stop.
    UntilStopped,
    /// The same, and says that it may take 50 ms.
    Limited,
    /// Makes room for others the first time.
    YieldOnce,
    /// Hears nothing.
    Deaf,
}

#[derive(Default)]
struct Actor {
    acts: HashMap<i64, Act>,
    runs: Mutex<Vec<i64>>,
    tasks: Mutex<Vec<i64>>,
    working: AtomicUsize,
    most: AtomicUsize,
    stops: Mutex<Vec<StopReason>>,
}

impl Actor {
    fn new(acts: &[(i64, Act)]) -> Arc<Self> {
        Arc::new(Self { acts: acts.iter().copied().collect(), ..Self::default() })
    }

    fn runs_of(&self, object_id: i64) -> usize {
        self.runs.lock().unwrap().iter().filter(|id| **id == object_id).count()
    }

    async fn act(&self, task: ClaimedTask, ctx: TaskContext) -> Result<TaskOutcome, TaskError> {
        let object_id = task.task.object_id;
        self.runs.lock().unwrap().push(object_id);
        self.tasks.lock().unwrap().push(task.task.id);
        assert!(ctx.lease_valid());
        match self.acts.get(&object_id).copied().unwrap_or(Act::Succeed) {
            Act::Fail => Err(TaskError::fail("config", ("the definition is wrong", "定義が不正です"))),
            Act::FailOnce if task.task.attempt == 0 => {
                Err(TaskError::retry("http_status", ("answered 503", "503 が返りました")))
            }
            Act::Panic => panic!("object {object_id} is cursed"),
            Act::YieldOnce if self.runs_of(object_id) > 1 => Ok(TaskOutcome::new(&serde_json::json!({}))),
            Act::UntilStopped | Act::Limited | Act::YieldOnce => {
                if matches!(self.acts[&object_id], Act::Limited) {
                    ctx.set_deadline(Duration::from_millis(50));
                }
                if matches!(self.acts[&object_id], Act::YieldOnce) {
                    ctx.may_yield();
                }
                ctx.progress(&serde_json::json!({ "pages": 1 })).await;
                ctx.stop.cancelled().await;
                self.stops.lock().unwrap().extend(ctx.stop_reason());
                Err(TaskError::interrupted())
            }
            Act::Deaf => std::future::pending().await,
            Act::Succeed | Act::FailOnce => {
                tokio::task::yield_now().await;
                Ok(TaskOutcome::new(&serde_json::json!({ "stored": object_id })))
            }
        }
    }
}

impl Handler for Actor {
    fn run(&self, task: ClaimedTask, ctx: TaskContext) -> BoxFuture<'_, Result<TaskOutcome, TaskError>> {
        Box::pin(async move {
            let working = self.working.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(working, Ordering::SeqCst);
            let result = self.act(task, ctx).await;
            self.working.fetch_sub(1, Ordering::SeqCst);
            result
        })
    }
}

/// A running worker process.
struct Running {
    db: Db,
    bus: Bus,
    process: Process,
    worker: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Running {
    async fn start(db: &Db, slots: usize, actor: &Arc<Actor>) -> Self {
        Self::start_with(db, WorkerOptions::new(Queue::Acquisition, slots), actor).await
    }

    async fn start_with(db: &Db, options: WorkerOptions, actor: &Arc<Actor>) -> Self {
        let (bus, shutdown) = (Bus::in_process(), CancellationToken::new());
        let process = Process::start_yielding(db.clone(), Clock::system(), introduce(), Duration::ZERO).await.unwrap();
        let policy = RetryPolicy { base: Duration::from_millis(20), ..RetryPolicy::default() };
        let options = WorkerOptions { policy, ..options };
        let worker = Worker::new(&process, bus.clone(), options, Arc::clone(actor) as Arc<dyn Handler>);
        let worker = tokio::spawn(worker.run(shutdown.clone()));
        Self { db: db.clone(), bus, process, worker, shutdown }
    }

    async fn enqueue(&self, object_id: i64) -> i64 {
        let id = enqueue(&self.db, object_id).await;
        self.bus.wake(Queue::Acquisition);
        id
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.worker).await.expect("a drain ends").unwrap();
        self.process.stop().await;
    }
}

fn introduce() -> NewWorker {
    let (role, host, version) = ("test".to_owned(), "here".to_owned(), "0".to_owned());
    NewWorker { boot: Uuid::new_v4(), role, host, pid: 1, version }
}

async fn enqueue(db: &Db, object_id: i64) -> i64 {
    let now = Clock::system().now();
    let new = NewTask::manual(LaneKind::Source, object_id, now);
    db.write(move |conn| Box::pin(async move { tasks::enqueue(conn, &new, now).await })).await.unwrap().task.id
}

async fn find(db: &Db, id: i64) -> TaskRow {
    tasks::find(&mut db.read().await.unwrap().conn(), id).await.unwrap().unwrap()
}

async fn count(db: &Db, sql: &'static str) -> i64 {
    db.read().await.unwrap().conn().fetch_one(sql, &[]).await.unwrap().int("n").unwrap()
}

/// Waits for a condition, with a deadline.
macro_rules! wait_for {
    ($what:expr, $condition:expr) => {{
        let deadline = Instant::now() + Duration::from_secs(30);
        while !$condition {
            assert!(Instant::now() < deadline, "not in time: {}", $what);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }};
}

async fn wait_for_status(db: &Db, id: i64, status: TaskStatus) -> TaskRow {
    wait_for!(format!("task {id} {status}"), find(db, id).await.status == status);
    find(db, id).await
}

#[tokio::test]
async fn a_worker_runs_what_is_enqueued_within_its_slots() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[]));
        let running = Running::start(db, 3, &actor).await;
        for object_id in 1..=30 {
            running.enqueue(object_id).await;
        }
        let succeeded = "select count(*) as n from tasks where status = 'succeeded'";
        wait_for!("30 tasks", count(db, succeeded).await == 30);
        assert!(actor.most.load(Ordering::SeqCst) <= 3, "{}", bed.name);
        running.stop().await;
        assert_eq!(count(db, "select count(*) as n from lanes where lease_worker is not null").await, 0);
        assert_eq!(count(db, "select count(*) as n from workers where gone_at is null").await, 0);
    }
}

#[tokio::test]
async fn a_failure_and_a_panic_end_their_tasks_and_not_the_worker() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[(1, Act::Fail), (2, Act::Panic), (3, Act::FailOnce)]));
        let running = Running::start(db, 2, &actor).await;
        let [failed, panicked, retried, plain] =
            [running.enqueue(1).await, running.enqueue(2).await, running.enqueue(3).await, running.enqueue(4).await];
        let error = wait_for_status(db, failed, TaskStatus::Failed).await.error.unwrap();
        assert!(error.get().contains("\"config\"") && error.get().contains("the definition is wrong"));
        let error = wait_for_status(db, panicked, TaskStatus::Failed).await.error.unwrap();
        assert!(error.get().contains("\"panic\"") && error.get().contains("cursed"), "{}", bed.name);
        let retried = wait_for_status(db, retried, TaskStatus::Succeeded).await;
        assert_eq!((retried.attempt, actor.runs_of(3)), (1, 2));
        assert!(retried.error.is_none());
        wait_for_status(db, plain, TaskStatus::Succeeded).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_cancelled_task_ends_within_two_seconds_whether_it_listens_or_not() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[(1, Act::Deaf), (2, Act::UntilStopped)]));
        let running = Running::start(db, 2, &actor).await;
        for object_id in [1, 2] {
            let id = enqueue(db, object_id).await;
            wait_for_status(db, id, TaskStatus::Running).await;
            let (now, asked) = (Clock::system().now(), Instant::now());
            // Nobody wakes the worker: another process would not, either.
            db.write(move |conn| Box::pin(async move { tasks::cancel(conn, id, now).await })).await.unwrap();
            wait_for_status(db, id, TaskStatus::Cancelled).await;
            assert!(asked.elapsed() < Duration::from_secs(2), "{}: {:?}", bed.name, asked.elapsed());
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn a_cancel_reaches_a_running_task() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[(1, Act::UntilStopped)]));
        let running = Running::start(db, 2, &actor).await;
        let id = running.enqueue(1).await;
        wait_for_status(db, id, TaskStatus::Running).await;
        wait_for!("progress is shown", find(db, id).await.progress.is_some());
        let now = Clock::system().now();
        db.write(move |conn| Box::pin(async move { tasks::cancel(conn, id, now).await })).await.unwrap();
        running.bus.stop(Queue::Acquisition);
        wait_for_status(db, id, TaskStatus::Cancelled).await;
        assert_eq!(*actor.stops.lock().unwrap(), [StopReason::Cancelled], "{}", bed.name);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_drain_gives_the_task_back_and_the_next_process_goes_on_with_it() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[(1, Act::UntilStopped)]));
        let first = Running::start(db, 2, &actor).await;
        let id = first.enqueue(1).await;
        wait_for_status(db, id, TaskStatus::Running).await;
        wait_for!("the handler runs", actor.runs_of(1) == 1);
        first.stop().await;
        let task = find(db, id).await;
        assert_eq!((task.status, task.attempt, task.crash_count), (TaskStatus::Pending, 0, 0), "{}", bed.name);
        assert_eq!(*actor.stops.lock().unwrap(), [StopReason::Drain]);
        let second = Running::start(db, 2, &Actor::new(&[])).await;
        wait_for_status(db, id, TaskStatus::Succeeded).await;
        second.stop().await;
    }
}

#[tokio::test]
async fn a_task_makes_room_for_another_of_its_lane_and_goes_on_behind_it() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[(1, Act::YieldOnce), (2, Act::UntilStopped)]));
        let running = Running::start(db, 2, &actor).await;
        let (first, deaf) = (running.enqueue(1).await, running.enqueue(2).await);
        wait_for!("both run", actor.runs_of(1) == 1 && actor.runs_of(2) == 1);
        // Nobody waits, so nobody makes room.
        assert!(actor.stops.lock().unwrap().is_empty(), "{}", bed.name);
        let (second, unheard) = (running.enqueue(1).await, running.enqueue(2).await);
        assert!(second != first && unheard != deaf);
        for id in [first, second] {
            let task = wait_for_status(db, id, TaskStatus::Succeeded).await;
            assert_eq!((task.attempt, task.crash_count), (0, 0), "{}", bed.name);
        }
        let of_lane: Vec<i64> =
            actor.tasks.lock().unwrap().iter().copied().filter(|id| [first, second].contains(id)).collect();
        assert_eq!(of_lane, [first, second, first], "{}", bed.name);
        // A task that would have to begin anew is not asked.
        assert_eq!(*actor.stops.lock().unwrap(), [StopReason::Yield], "{}", bed.name);
        assert_eq!(find(db, deaf).await.status, TaskStatus::Running, "{}", bed.name);
        running.stop().await;
    }
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_stopped_and_tried_again() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[(1, Act::UntilStopped)]));
        let options =
            WorkerOptions { deadline: Duration::from_millis(50), ..WorkerOptions::new(Queue::Acquisition, 1) };
        let running = Running::start_with(db, options, &actor).await;
        let id = running.enqueue(1).await;
        wait_for!("it is tried again", actor.runs_of(1) >= 2);
        assert_eq!(actor.stops.lock().unwrap()[0], StopReason::Deadline, "{}", bed.name);
        let task = find(db, id).await;
        assert!(task.attempt >= 1, "{}: {}", bed.name, task.attempt);
        wait_for!(
            "the error says it",
            find(db, id).await.error.is_some_and(|error| error.get().contains("\"deadline\""))
        );
        running.stop().await;
    }
}

#[tokio::test]
async fn a_task_that_takes_longer_than_it_says_itself_fails() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[(1, Act::Limited)]));
        let running = Running::start(db, 1, &actor).await;
        let id = running.enqueue(1).await;
        let task = wait_for_status(db, id, TaskStatus::Failed).await;
        let error = task.error.unwrap();
        assert!(error.get().contains("\"deadline\"") && error.get().contains("`deadline_secs`"), "{error}");
        assert_eq!(*actor.stops.lock().unwrap(), [StopReason::Overdue], "{}", bed.name);
        assert_eq!(actor.runs_of(1), 1, "{}: it is not tried again", bed.name);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_lease_that_lasts_too_long_is_taken_back_although_its_worker_beats() {
    for bed in databases().await {
        let db = &bed.db;
        let (hung, id) = (introduce(), enqueue(db, 1).await);
        let (boot, now) = (hung.boot, Clock::system().now());
        db.write(move |conn| {
            Box::pin(async move {
                workers::register(conn, &hung, Schema::BUILT, now).await?;
                tasks::claim(conn, Queue::Acquisition, boot, 1, now).await
            })
        })
        .await
        .unwrap();
        let mut sweeper = Sweeper::new(None, Duration::from_secs(600)).overdue_after(Duration::from_millis(50));
        // However old the lease is by any wall clock, this observer has only just seen it.
        let later = now + Duration::from_secs(365 * 86_400);
        assert_eq!(sweeper.look(db, later).await.unwrap().total(), 0, "{}", bed.name);
        wait_for!("it is taken back", sweeper.look(db, now).await.unwrap().total() == 1);
        let task = find(db, id).await;
        assert_eq!((task.status, task.crash_count), (TaskStatus::Pending, 1), "{}", bed.name);
        // The next lease of the lane is another one.
        db.write(move |conn| Box::pin(async move { tasks::claim(conn, Queue::Acquisition, boot, 1, now).await }))
            .await
            .unwrap();
        assert_eq!(sweeper.look(db, now).await.unwrap().total(), 0, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_stolen_lease_stops_the_task_and_its_effects_are_refused() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[(1, Act::UntilStopped)]));
        let running = Running::start(db, 1, &actor).await;
        let id = running.enqueue(1).await;
        let task = wait_for_status(db, id, TaskStatus::Running).await;
        let (boot, now) = (running.process.boot(), Clock::system().now());
        // Paused, so that nobody takes the task before it is looked at.
        db.write(move |conn| {
            Box::pin(async move {
                matome_store::lanes::set_paused(conn, LaneKind::Source, 1, true, now).await?;
                tasks::steal(conn, boot, now).await
            })
        })
        .await
        .unwrap();
        let fence =
            matome_model::task::Fence { lane_id: task.lane_id, lease_epoch: task.lease_epoch.unwrap(), worker: boot };
        assert!(db.write(move |conn| Box::pin(async move { lease::lock(conn, &fence).await })).await.is_err());
        running.bus.stop(Queue::Acquisition);
        wait_for!("the task is told", !actor.stops.lock().unwrap().is_empty());
        assert_eq!(*actor.stops.lock().unwrap(), [StopReason::LeaseLost], "{}", bed.name);
        let task = find(db, id).await;
        assert_eq!((task.status, task.crash_count), (TaskStatus::Pending, 1));
        running.stop().await;
    }
}

#[tokio::test]
async fn a_worker_whose_heartbeat_stops_is_swept_and_a_living_one_is_not() {
    for bed in databases().await {
        let db = &bed.db;
        let (dead, id) = (introduce(), enqueue(db, 1).await);
        let (boot, now) = (dead.boot, Clock::system().now());
        db.write(move |conn| {
            Box::pin(async move {
                workers::register(conn, &dead, Schema::BUILT, now).await?;
                tasks::claim(conn, Queue::Acquisition, boot, 1, now).await
            })
        })
        .await
        .unwrap();
        // Counters that move are never taken for dead, however little time is given.
        let mut sweeper = Sweeper::new(None, Duration::ZERO);
        for _ in 0..10 {
            assert_eq!(sweeper.look(db, now).await.unwrap().total(), 0);
            db.write(move |conn| Box::pin(async move { workers::beat(conn, boot, false, now).await })).await.unwrap();
        }
        assert_eq!(find(db, id).await.status, TaskStatus::Running);
        wait_for!("the dead are found", sweeper.look(db, now).await.unwrap().total() == 1);
        let task = find(db, id).await;
        assert_eq!((task.status, task.crash_count), (TaskStatus::Pending, 1), "{}", bed.name);
        assert_eq!(sweeper.look(db, now).await.unwrap().total(), 0);
    }
}

/// A process that has claimed task `id` and was stopped within a transaction.
struct Stopped {
    db: Db,
    id: i64,
    boot: Uuid,
    within: JoinHandle<()>,
}

impl Stopped {
    async fn within<F>(work: F) -> Self
    where
        F: for<'a, 'c> FnOnce(&'a mut Conn<'c>, Fence, Timestamp) -> BoxFuture<'a, StoreResult<()>> + Send + 'static,
    {
        let url = matome_testbed::postgres_schema().await;
        let db = Db::connect_postgres(&url, Uuid::new_v4(), 4).await.unwrap();
        matome_store::migrate::migrate(&db).await.unwrap();
        let (stopped, id) = (introduce(), enqueue(&db, 1).await);
        let (boot, now) = (stopped.boot, Clock::system().now());
        let own = Db::connect_postgres(&url, boot, 2).await.unwrap();
        let claimed = own.write(move |conn| {
            Box::pin(async move {
                workers::register(conn, &stopped, Schema::BUILT, now).await?;
                tasks::claim(conn, Queue::Acquisition, boot, 1, now).await
            })
        });
        let fence = claimed.await.unwrap()[0].fence;
        let (reached, is_reached) = tokio::sync::oneshot::channel();
        let within = tokio::spawn(async move {
            let stopped = own.write(move |conn| {
                Box::pin(async move {
                    work(conn, fence, now).await?;
                    reached.send(()).unwrap();
                    std::future::pending::<StoreResult<()>>().await
                })
            });
            let _ = stopped.await;
        });
        is_reached.await.unwrap();
        Self { db, id, boot, within }
    }

    /// The server itself would end such a session after a minute.
    async fn ends_swept(self) {
        let mut sweeper = Sweeper::new(None, Duration::ZERO);
        let now = Clock::system().now();
        let swept = async {
            while sweeper.look(&self.db, now).await.unwrap().total() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), swept)
            .await
            .expect("nobody waits for the session of the stopped one");
        assert_eq!(find(&self.db, self.id).await.status, TaskStatus::Pending);
        self.within.abort();
    }
}

#[tokio::test]
async fn a_worker_that_was_stopped_within_a_heartbeat_is_swept_at_once() {
    let stopped = Stopped::within(|conn, fence, now| {
        async move { workers::beat(conn, fence.worker, false, now).await.map(drop) }.boxed()
    });
    stopped.await.ends_swept().await;
}

#[tokio::test]
async fn a_lane_that_a_stopped_worker_holds_is_taken_back_whoever_declared_it_dead() {
    let stopped = Stopped::within(|conn, fence, _| async move { lease::lock(conn, &fence).await }.boxed()).await;
    let (boot, now) = (stopped.boot, Clock::system().now());
    stopped.db.write(move |conn| workers::gone(conn, boot, now).boxed()).await.unwrap();
    stopped.ends_swept().await;
}

#[tokio::test]
async fn two_beats_make_one_task_of_each_fire_and_wake_the_worker() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[]));
        let running = Running::start(db, 4, &actor).await;
        let now = Clock::system().now();
        db.write(move |conn| {
            Box::pin(async move {
                for object_id in 1..=10 {
                    let then = now - chrono::TimeDelta::seconds(3600);
                    schedules::upsert(conn, LaneKind::Source, object_id, &Plan::every(3600), true, then).await?;
                }
                Ok(())
            })
        })
        .await
        .unwrap();
        let beats: Vec<_> = (0..2)
            .map(|_| {
                let beat = Beat::new(db.clone(), running.bus.clone(), Clock::system(), None);
                tokio::spawn(beat.run(running.shutdown.clone()))
            })
            .collect();
        let succeeded = "select count(*) as n from tasks where status = 'succeeded' and cause = 'schedule'";
        wait_for!("10 fires", count(db, succeeded).await == 10);
        running.stop().await;
        for beat in beats {
            beat.await.unwrap();
        }
        assert_eq!(count(db, "select count(*) as n from tasks").await, 10, "{}", bed.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_processes_never_run_two_tasks_of_a_lane() {
    for bed in databases().await {
        let db = &bed.db;
        let actors: Vec<_> = (0..3).map(|_| Actor::new(&[])).collect();
        let mut processes = Vec::new();
        for actor in &actors {
            processes.push(Running::start(db, 4, actor).await);
        }
        for n in 0..120 {
            processes[n % 3].enqueue(i64::try_from(n % 8).unwrap()).await;
        }
        let open = "select count(*) as n from tasks where status in ('pending', 'running')";
        wait_for!("all is done", count(db, open).await == 0);
        let runs: usize = actors.iter().map(|actor| actor.runs.lock().unwrap().len()).sum();
        // The unique index on running tasks would have failed a claim; here each task ran exactly once.
        assert_eq!(i64::try_from(runs).unwrap(), count(db, "select count(*) as n from tasks").await, "{}", bed.name);
        for process in processes {
            process.stop().await;
        }
    }
}

#[tokio::test]
async fn a_process_that_cannot_beat_stops_its_tasks_and_goes_on_when_it_can() {
    for bed in databases().await {
        let (db, actor) = (&bed.db, Actor::new(&[(1, Act::UntilStopped)]));
        let running = Running::start(db, 1, &actor).await;
        let id = running.enqueue(1).await;
        wait_for!("the handler runs", actor.runs_of(1) == 1);
        let release = Arc::new(tokio::sync::Notify::new());
        let (until, boot) = (Arc::clone(&release), running.process.boot());
        // Holds the worker's row, and on SQLite the writer itself.
        let holder = db.clone();
        let held = tokio::spawn(async move {
            holder
                .write(move |conn| {
                    Box::pin(async move {
                        conn.execute("update workers set pid = pid where boot = $1", &[boot.into()]).await?;
                        until.notified().await;
                        Ok(())
                    })
                })
                .await
        });
        wait_for!("the task is told", !actor.stops.lock().unwrap().is_empty());
        assert_eq!(*actor.stops.lock().unwrap(), [StopReason::LeaseLost], "{}", bed.name);
        release.notify_one();
        held.await.unwrap().unwrap();
        wait_for!("the task runs again", actor.runs_of(1) == 2);
        let task = wait_for_status(db, id, TaskStatus::Running).await;
        assert_eq!((task.attempt, task.crash_count), (0, 0));
        running.stop().await;
        assert_eq!(find(db, id).await.status, TaskStatus::Pending);
    }
}

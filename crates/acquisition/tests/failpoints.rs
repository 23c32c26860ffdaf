//! Every commit of a scenario fails once before it happens and once after, in a process that goes on and in one that
//! dies of it: afterwards everything that must hold does, and what is stored is what a run without a fault stores.
//!
//! The scenario: a paged API that answers 503 in between, a log of changes that is read again and has grown, a
//! file that lost two of its keys, an aggregation that writes and publishes a run, and the removal of a deleted source; tasks are claimed and ended as `matome_tasks::Worker` does it, without its clock.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_connector::{FileRoots, HttpClient, Policy, Registry};
use matome_model::clock::{Clock, Timestamp};
use matome_model::source::{SourceStatus, SourceType};
use matome_model::task::{LaneKind, Queue, TaskStatus};
use matome_store::aggregation_runs::{Effect, NewRun, Publication, Retention};
use matome_store::aggregation_sources::{self, AggregationFields};
use matome_store::check::check;
use matome_store::db::{Conn, Db};
use matome_store::error::Result;
use matome_store::migrate::Schema;
use matome_store::tasks::{self, End, Finish, NewTask, RetryPolicy};
use matome_store::workers::{self, Beat, NewWorker};
use matome_store::{aggregated_data, aggregation_runs, data_sources};
use matome_tasks::{Advice, ClaimedTask, Handler as _, TaskContext, TaskError, TaskOutcome};
use matome_testbed::TestDb;
use support::failpoint::{Failpoint, each_fault, write};
use support::{Bench, count, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

const PAGES: usize = 4;
const RECORDS_OF_PAGE: usize = 3;
const ROWS_OF_RUN: [usize; 2] = [3, 2];

/// Pages of records under any first path segment; the third answers 503 when it is asked for the first time.
async fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let (base, asked) = (origin.clone(), Arc::new(Mutex::new(HashSet::new())));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(answer(client, base.clone(), asked.clone()));
        }
    });
    origin
}

async fn answer(mut client: TcpStream, origin: String, asked: Arc<Mutex<HashSet<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut piece = [0; 1024];
        match client.read(&mut piece).await {
            Ok(read @ 1..) => head.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let (run, page) = path.rsplit_once('/').unwrap();
    let page: usize = page.parse().unwrap();
    let is_first = asked.lock().unwrap().insert(path.clone());
    if page == 0 && !is_first {
        asked.lock().unwrap().insert(format!("{run} grown"));
    }
    let response = if run.starts_with("/log") {
        let pages = if asked.lock().unwrap().contains(&format!("{run} grown")) { 4 } else { 3 };
        let next = if page + 1 < pages { format!(r#""{origin}{run}/{}""#, page + 1) } else { "null".to_owned() };
        let body = format!(r#"{{"results":[{{"id":1,"state":"{}"}}],"next":{next}}}"#, ["on", "off"][page % 2]);
        ok(&body)
    } else if page == 2 && is_first {
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
    } else {
        let from = page * RECORDS_OF_PAGE;
        let rows: Vec<String> = (from..from + RECORDS_OF_PAGE).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
        let next = if page + 1 < PAGES { format!(r#""{origin}{run}/{}""#, page + 1) } else { "null".to_owned() };
        ok(&format!(r#"{{"results":[{}],"next":{next}}}"#, rows.join(",")))
    };
    let _ = client.write_all(response.as_bytes()).await;
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn keys(ids: std::ops::Range<usize>) -> Vec<String> {
    ids.map(|id| format!(r#"{{"id":{id}}}"#)).collect()
}

/// What a run works on.
struct Stage {
    bench: Bench,
    /// Has been read once: on, off, on. Its next read gives these three, then off.
    log: Bench,
    /// Has been read once: six keys. Its next read gives four of them.
    swept: Bench,
    aggregation_id: i64,
    /// Deleted, with records that are still there.
    doomed_id: i64,
}

impl Stage {
    async fn set(db: &Db, origin: &str) -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let roots = FileRoots::open([dir.path()]).unwrap();
        let config = format!(
            r#"{{"url":"{origin}/{}/0","records":"$.results","dedupe":"none",
                "pagination":{{"type":"next_link","next":"$.next"}}}}"#,
            Uuid::new_v4()
        );
        let mut bench = Bench::with_config(db, dir, SourceType::Api, &config).await;
        let policy = Policy::new(["127.0.0.1".parse().unwrap()]);
        bench.registry = Registry::new(roots, HttpClient::new(policy), Clock::system());
        let config = format!(
            r#"{{"url":"{origin}/log/{}/0","records":"$.results","key":"id",
                "pagination":{{"type":"next_link","next":"$.next"}}}}"#,
            Uuid::new_v4()
        );
        let mut log = Bench::with_config(db, tempfile::TempDir::new().unwrap(), SourceType::Api, &config).await;
        log.registry = bench.registry.clone();
        log.run().await.unwrap();

        let path = bench.dir.path().canonicalize().unwrap().join("data.ndjson");
        let config =
            format!(r#"{{"path":{},"key":"id","deletes":"tombstone"}}"#, serde_json::to_string(&path).unwrap());
        let mut swept = Bench::with_config(db, tempfile::TempDir::new().unwrap(), SourceType::File, &config).await;
        swept.registry = bench.registry.clone();
        bench.write_file(&keys(0..6));
        swept.run().await.unwrap();
        bench.write_file(&keys(2..6));

        let doomed = Bench::new(db, "").await;
        doomed.write_file(&(0..5).map(|n| format!(r#"{{"n":{n}}}"#)).collect::<Vec<_>>());
        doomed.run().await.unwrap();
        let (doomed_id, now) = (doomed.source_id, Clock::system().now());
        let fields = AggregationFields {
            name: Uuid::new_v4().to_string(),
            description: None,
            status: SourceStatus::Active,
            config: json("{}"),
        };
        let aggregation_id = db
            .write(move |conn| {
                async move {
                    data_sources::mark_deleted(conn, doomed_id, now).await?;
                    aggregation_sources::create(conn, &fields, now).await
                }
                .boxed()
            })
            .await
            .unwrap();
        Self { bench, log, swept, aggregation_id, doomed_id }
    }
}

/// A process: what it does, it does through `db`.
struct Process<'a> {
    db: Db,
    boot: Uuid,
    stage: &'a Stage,
}

impl Process<'_> {
    async fn live(&self) {
        let worker = NewWorker {
            boot: self.boot,
            role: "test".to_owned(),
            host: "here".to_owned(),
            pid: 1,
            version: "0".to_owned(),
        };
        self.write(move |conn, now| {
            let worker = worker.clone();
            async move { workers::register(conn, &worker, Schema::BUILT, now).await }.boxed()
        })
        .await;
        for (kind, object_id) in [
            (LaneKind::Source, self.stage.bench.source_id),
            (LaneKind::Source, self.stage.log.source_id),
            (LaneKind::Source, self.stage.swept.source_id),
            (LaneKind::Aggregation, self.stage.aggregation_id),
        ] {
            self.accept(kind, object_id).await;
        }
        for queue in [Queue::Acquisition, Queue::Aggregation] {
            self.work(queue).await;
        }
        while self.write(|conn, _| async move { data_sources::remove_deleted_batch(conn, 2).await }.boxed()).await {}
        while self
            .write(|conn, now| {
                async move {
                    let Some(leftover) = aggregation_runs::leftover(conn).await? else { return Ok(false) };
                    aggregation_runs::remove(conn, leftover, 2, now).await?;
                    Ok::<_, matome_store::error::StoreError>(true)
                }
                .boxed()
            })
            .await
        {}
    }

    /// As a client that asks until it is answered; a task that an earlier process was asked for is not asked for again.
    async fn accept(&self, kind: LaneKind, object_id: i64) {
        let asked = tasks_of(&self.db, kind, object_id).await;
        if asked.iter().any(|task| task.status != TaskStatus::Cancelled) {
            return;
        }
        self.write(move |conn, now| {
            async move { tasks::enqueue(conn, &NewTask::manual(kind, object_id, now), now).await.map(drop) }.boxed()
        })
        .await;
    }

    async fn write<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: for<'a, 'c> Fn(&'a mut Conn<'c>, Timestamp) -> BoxFuture<'a, Result<T>> + Clone + Send + 'static,
    {
        write(&self.db, work).await
    }

    async fn work(&self, queue: Queue) {
        let mut finishes: Vec<Finish> = Vec::new();
        loop {
            let claimed = match self.turn(queue, finishes.clone()).await {
                Ok(claimed) => claimed,
                Err(err) => {
                    assert!(err.is_transient(), "{err:?}");
                    self.give_back(&finishes).await;
                    continue;
                }
            };
            finishes.clear();
            if claimed.is_empty() && self.open(queue).await == 0 {
                return;
            }
            for task in claimed {
                finishes.push(self.run(task).await);
            }
        }
    }

    /// Ends and claims in one transaction.
    async fn turn(&self, queue: Queue, finishes: Vec<Finish>) -> Result<Vec<ClaimedTask>> {
        let (boot, now) = (self.boot, Clock::system().now());
        let policy = RetryPolicy { base: Duration::ZERO, ..RetryPolicy::default() };
        self.db
            .write(move |conn| {
                async move {
                    tasks::finish(conn, &finishes, &policy, now).await?;
                    tasks::claim(conn, queue, boot, 2, now).await
                }
                .boxed()
            })
            .await
    }

    /// As the heartbeat does with leases that no task of the process is behind.
    async fn give_back(&self, known: &[Finish]) {
        let boot = self.boot;
        let beat =
            self.write(move |conn, now| async move { workers::beat(conn, boot, false, now).await }.boxed()).await;
        let Beat::Alive(held) = beat else { panic!("nobody declares it dead") };
        let unknown: Vec<Finish> = held
            .into_iter()
            .filter(|lease| {
                let is_its = |finish: &Finish| {
                    (finish.fence.lane_id, finish.fence.lease_epoch) == (lease.lane_id, lease.lease_epoch)
                };
                !known.iter().any(is_its)
            })
            .map(|lease| Finish {
                task_id: lease.task_id,
                fence: matome_model::task::Fence {
                    lane_id: lease.lane_id,
                    lease_epoch: lease.lease_epoch,
                    worker: boot,
                },
                end: End::Released { result: None },
            })
            .collect();
        self.write(move |conn, now| {
            let unknown = unknown.clone();
            async move { tasks::finish(conn, &unknown, &RetryPolicy::default(), now).await.map(drop) }.boxed()
        })
        .await;
    }

    async fn open(&self, queue: Queue) -> i64 {
        let sql = "select count(*) as n from tasks where queue = $1 and status in ('pending', 'running')";
        let mut reader = self.db.read().await.unwrap();
        reader.conn().fetch_one(sql, &[queue.as_str().into()]).await.unwrap().int("n").unwrap()
    }

    async fn run(&self, task: ClaimedTask) -> Finish {
        let (task_id, fence) = (task.task.id, task.fence);
        let result = match task.task.queue {
            Queue::Acquisition => {
                let ctx = TaskContext::new(self.db.clone(), task_id, fence);
                self.stage.bench.handler_on(&self.db).run(task, ctx).await
            }
            Queue::Aggregation => self.aggregate(task).await,
        };
        let end = match result {
            Ok(TaskOutcome { result }) => End::Succeeded { result },
            Err(TaskError { advice: Advice::Retry { after }, result, .. }) => {
                End::Retry { error: json(r#"{"reason":"fault"}"#), result, after, jitter: 0.5 }
            }
            Err(err) => panic!("{err:?}"),
        };
        Finish { task_id, fence, end }
    }

    /// What the handler of aggregations does to the database.
    async fn aggregate(&self, task: ClaimedTask) -> Result<TaskOutcome, TaskError> {
        let (fence, id, task_id, now) = (task.fence, task.task.object_id, task.task.id, Clock::system().now());
        let published = {
            let mut reader = self.db.read().await?;
            aggregation_runs::published_by(&mut reader.conn(), id, task_id).await?
        };
        if published.is_some() {
            return Ok(TaskOutcome { result: json("{}") });
        }
        // Its rows join those that are shown, so one that publishes twice shows.
        let (effect, inputs, params) = (Effect::Append, json("[]"), json("{}"));
        let new = NewRun { source_id: id, task_id, effect, inputs, params };
        let begin =
            self.db.write(move |conn| async move { aggregation_runs::begin(conn, &fence, &new, now).await }.boxed());
        let run_id = begin.await?;
        let mut written = 0;
        for rows in ROWS_OF_RUN {
            let page = aggregated_data::Page {
                source_id: id,
                run_id,
                rows: (0..rows).map(|n| format!(r#"{{"row":{}}}"#, written + n)).collect(),
                keys: None,
                metadata: json("{}"),
                aggregated_at: now,
            };
            let write = self
                .db
                .write_page(move |conn| async move { aggregated_data::insert_page(conn, &fence, &page).await }.boxed());
            write.await?;
            written += rows;
        }
        let publication = Publication {
            source_id: id,
            run_id,
            effect,
            rows: i64::try_from(written).unwrap(),
            superseded: 0,
            key: None,
            plan: String::new(),
            inputs: json("[]"),
            retention: Retention::default(),
            now,
        };
        let publish = self.db.write(move |conn| {
            async move { aggregation_runs::publish(conn, &fence, &publication).await.map(drop) }.boxed()
        });
        publish.await?;
        Ok(TaskOutcome { result: json("{}") })
    }
}

async fn tasks_of(db: &Db, kind: LaneKind, object_id: i64) -> Vec<tasks::TaskRow> {
    let sql = "select * from tasks where queue = $1 and object_id = $2 order by id";
    let args = [kind.queue().as_str().into(), object_id.into()];
    let rows = db.read().await.unwrap().conn().fetch_all(sql, &args).await.unwrap();
    rows.iter().map(|row| tasks::TaskRow::from_row(row).unwrap()).collect()
}

/// Runs the scenario into one fault, lets another process take over when the first died, and looks at what is there.
async fn suffer(bed: &TestDb, origin: &str, failpoint: Arc<Failpoint>) {
    let stage = Stage::set(&bed.db, origin).await;
    let told = format!("{} {failpoint}", bed.name);
    let process = Process { db: bed.db.with_commit_hook(failpoint.clone()), boot: Uuid::new_v4(), stage: &stage };
    let heir = async {
        take_back(&bed.db, process.boot).await;
        Process { db: bed.db.clone(), boot: Uuid::new_v4(), stage: &stage }.live().await;
    };
    failpoint.befall(&told, process.live().boxed_local(), heir.boxed_local()).await;
    look(bed, &stage, &told).await;
}

/// As a sweeper does, look after look: a lane that a session of the dead still has locked is for the next one.
async fn take_back(db: &Db, dead: Uuid) {
    let now = Clock::system().now();
    db.write(move |conn| async move { workers::gone(conn, dead, now).await }.boxed()).await.unwrap();
    loop {
        db.write(move |conn| async move { tasks::steal(conn, dead, now).await }.boxed()).await.unwrap();
        if !workers::holders_gone(&mut db.read().await.unwrap().conn()).await.unwrap().contains(&dead) {
            return;
        }
    }
}

/// What must be there whatever happened.
async fn look(bed: &TestDb, stage: &Stage, told: &str) {
    let mut expected: Vec<String> = (0..PAGES * RECORDS_OF_PAGE).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    expected.sort();
    assert_eq!(stage.bench.stored().await, expected, "{told}");
    let [task] = &tasks_of(&bed.db, LaneKind::Source, stage.bench.source_id).await[..] else { panic!("{told}: tasks") };
    assert_eq!(task.status, TaskStatus::Succeeded, "{told}: {task:?}");
    let stored = u64::try_from(expected.len()).unwrap();
    assert_eq!(count(task.result.as_deref().unwrap(), "stored"), stored, "{told}: the result sums up all attempts");
    let log = [r#"{"id":1,"state":"off"}"#, r#"{"id":1,"state":"on"}"#].map(str::to_owned);
    let log: Vec<String> = log.into_iter().flat_map(|text| [text.clone(), text]).collect();
    assert_eq!(stage.log.stored().await, log, "{told}: the log");
    let [_, task] = &tasks_of(&bed.db, LaneKind::Source, stage.log.source_id).await[..] else {
        panic!("{told}: tasks")
    };
    let result = task.result.as_deref().unwrap();
    assert_eq!((count(result, "stored"), count(result, "duplicate")), (1, 3), "{told}: {result}");
    // What is gone is there once more, as its tombstone.
    let swept: Vec<String> = [keys(0..2), keys(0..6)].concat();
    assert_eq!(stage.swept.stored().await, support::canonical(&swept), "{told}: what is gone");
    let [_, task] = &tasks_of(&bed.db, LaneKind::Source, stage.swept.source_id).await[..] else {
        panic!("{told}: tasks")
    };
    assert_eq!(count(task.result.as_deref().unwrap(), "deleted"), 2, "{told}: {task:?}");
    let [task] = &tasks_of(&bed.db, LaneKind::Aggregation, stage.aggregation_id).await[..] else {
        panic!("{told}: tasks")
    };
    assert_eq!(task.status, TaskStatus::Succeeded, "{told}: {task:?}");
    let mut reader = bed.db.read().await.unwrap();
    for (sql, id, rows) in [
        ("select count(*) as n from sweeps where source_id = $1", stage.swept.source_id, 0),
        ("select count(*) as n from acquired_data where source_id = $1 and is_deleted", stage.swept.source_id, 2),
        (
            "select count(*) as n from aggregated_data where source_id = $1",
            stage.aggregation_id,
            ROWS_OF_RUN.iter().sum::<usize>(),
        ),
        ("select count(*) as n from data_sources where id = $1", stage.doomed_id, 0),
    ] {
        let found = reader.conn().fetch_one(sql, &[id.into()]).await.unwrap().int("n").unwrap();
        assert_eq!(found, i64::try_from(rows).unwrap(), "{told}: {sql}");
    }
    for verdict in check(&mut bed.snapshot().await, true).await.unwrap() {
        assert!(verdict.holds(), "{told}: {verdict:?}");
    }
}

async fn every_commit(bed: TestDb) {
    let origin = upstream().await;
    let commits = each_fault(async |failpoint| suffer(&bed, &origin, failpoint).await).await;
    assert!(commits >= 15, "{}: {commits} commits", bed.name);
    let faults = commits * 4;
    println!("{}: {commits} commits, {faults} faults", bed.name);
    println!("row commit {} {} {} 0 0 -", bed.name, faults * 4, faults * (PAGES * RECORDS_OF_PAGE + 12));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_commit_loses_and_doubles_nothing_on_sqlite() {
    every_commit(matome_testbed::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_commit_loses_and_doubles_nothing_on_postgres() {
    every_commit(matome_testbed::postgres().await).await;
}

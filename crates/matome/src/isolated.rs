//! A task alone in its own process: one whose worker died twice while it ran, and which may be the reason.
//!
//! The binary executes itself with [`TASK_CHILD`]. The child reads an [`Order`] from its stdin, works with the lease of its
//! parent, which keeps that alive, and writes a [`Report`] to its stdout. What it stores goes through the same fence as
//! all else. Its stdin stays open: each further line is a reason to stop, and its end is the end of the parent, after
//! which nobody would hear the child. When the child dies without a report while nobody asked it to stop, the task
//! itself has been shown to be what kills, and fails as `poison`. Before the report, and each second, the child tells what it
//! has counted ([`crate::tally`]), and each commit as it is made ([`crate::traces::Commits`]).

use std::io::BufRead as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use matome_acquisition::AcquisitionHandler;
use matome_aggregation::AggregationHandler;
use matome_model::clock::Clock;
use matome_model::engine::Limits;
use matome_model::field_error::Words;
use matome_model::say;
use matome_model::task::{Fence, Queue};
use matome_store::db::Db;
use matome_store::secrets::Vault;
use matome_store::tasks;
use matome_tasks::{
    Advice, ClaimedTask, Handler, StopReason, TaskContext, TaskError, TaskOutcome, run_to_its_deadline,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::app;
use crate::cli::{ReachArgs, StorageArgs};
use crate::failure::Failure;
use crate::tally::{Counted, Tally};
use crate::traces::{Commit, Commits};

/// The argument that makes this binary the process of one task.
pub const TASK_CHILD: &str = "task-child";

/// A child tells so often what it has counted.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Connections to PostgreSQL of a child.
const CONNECTIONS: u32 = 4;

const STOP_WORDS: [(StopReason, &str); 6] = [
    (StopReason::Cancelled, "cancelled"),
    (StopReason::LeaseLost, "lease_lost"),
    (StopReason::Drain, "drain"),
    (StopReason::Yield, "yield"),
    (StopReason::Deadline, "deadline"),
    (StopReason::Overdue, "overdue"),
];

/// What every child of one process needs to know.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Surroundings {
    /// Where the data is.
    pub storage: StorageArgs,
    /// What sources may reach.
    pub reach: ReachArgs,
    /// MiB of memory for the query of an aggregation.
    pub aggregation_memory: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Order {
    surroundings: Surroundings,
    task_id: i64,
    fence: Fence,
}

/// A line of a child.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Counted(Counted),
    Committed(Commit),
    Ended(Box<Report>),
}

/// How the attempt ended: well when there is no advice.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Report {
    advice: Option<String>,
    after_ms: Option<u64>,
    reason: String,
    message: Words,
    causes: Vec<Words>,
    position: Option<Box<RawValue>>,
    result: Option<Box<RawValue>>,
}

impl From<Result<TaskOutcome, TaskError>> for Report {
    fn from(ended: Result<TaskOutcome, TaskError>) -> Self {
        let err = match ended {
            Ok(outcome) => return Self { result: Some(outcome.result), ..Self::default() },
            Err(err) => err,
        };
        let (advice, after) = match err.advice {
            Advice::Retry { after } => ("retry", after),
            Advice::Fail => ("fail", None),
            Advice::Interrupted => ("interrupted", None),
            Advice::Fenced => ("fenced", None),
        };
        Self {
            advice: Some(advice.to_owned()),
            after_ms: after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            reason: err.reason,
            message: *err.message,
            causes: err.causes,
            position: err.position,
            result: err.result,
        }
    }
}

impl Report {
    fn into_result(self) -> Result<TaskOutcome, TaskError> {
        let advice = match self.advice.as_deref() {
            None => {
                let nothing = || RawValue::from_string("{}".to_owned()).expect("an empty object is JSON");
                return Ok(TaskOutcome { result: self.result.unwrap_or_else(nothing) });
            }
            Some("fail") => Advice::Fail,
            Some("interrupted") => Advice::Interrupted,
            Some("fenced") => Advice::Fenced,
            Some(_) => Advice::Retry { after: self.after_ms.map(Duration::from_millis) },
        };
        let (causes, position, result) = (self.causes, self.position, self.result);
        Err(TaskError { causes, position, result, ..TaskError::new(advice, &self.reason, self.message) })
    }
}

/// Runs each task in a child of its own.
#[derive(Debug)]
pub struct Isolated(pub Surroundings);

impl Handler for Isolated {
    fn run(&self, task: ClaimedTask, ctx: TaskContext) -> BoxFuture<'_, Result<TaskOutcome, TaskError>> {
        Box::pin(async move {
            tracing::warn!(
                task.id = task.task.id,
                crashes = task.task.crash_count,
                "its worker died {} times while task {} ran: it runs in a process of its own",
                task.task.crash_count,
                task.task.id
            );
            let order = Order { surroundings: self.0.clone(), task_id: task.task.id, fence: task.fence };
            let failed = |err: std::io::Error| {
                let what = ("the process of the task cannot be used", "タスクのプロセスを使えません");
                TaskError::because(Advice::Retry { after: None }, "isolation", what, Some(&err))
            };
            let mut child = start().map_err(failed)?;
            match converse(&mut child, &order, &ctx).await.map_err(failed)? {
                Some(report) => report.into_result(),
                // Asked to stop, and gone before it could say how far it was.
                None if ctx.stop_reason().is_some() => Err(TaskError::interrupted()),
                None => Err(poison(child.wait().await.map_err(failed)?, task.task.crash_count)),
            }
        })
    }
}

fn poison(status: ExitStatus, crashes: i64) -> TaskError {
    let mut err = TaskError::fail(
        "poison",
        say!(
            "its worker died {crashes} times while it ran, and a process in which it ran alone died, too",
            "実行中にワーカーが {crashes} 回終了し、それだけを動かしたプロセスも終了しました"
        ),
    );
    err.causes.push(match (status.signal(), status.code()) {
        (Some(signal), _) => {
            say!("the process was ended by signal {signal}", "プロセスがシグナル {signal} で終了しました")
        }
        (None, Some(code)) => {
            say!("the process ended with exit code {code}", "プロセスが終了コード {code} で終わりました")
        }
        (None, None) => Words::new("the process ended", "プロセスが終わりました"),
    });
    err
}

/// Starts a child. Dropped, it is killed.
fn start() -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg(TASK_CHILD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C on the terminal is for this process, which ends its children in its own time.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Hands the order over and waits for the report; `None`: it died without one.
async fn converse(child: &mut Child, order: &Order, ctx: &TaskContext) -> std::io::Result<Option<Report>> {
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
    let mut order = serde_json::to_vec(order)?;
    order.push(b'\n');
    // A child that reads nothing has died, and its output says so.
    let _ = stdin.write_all(&order).await;
    let mut is_told = false;
    loop {
        tokio::select! {
            line = lines.next_line() => {
                match line?.as_deref().map(serde_json::from_str) {
                    Some(Ok(Said::Counted(counted))) => counted.add(),
                    Some(Ok(Said::Committed(commit))) => commit.tell(),
                    Some(Ok(Said::Ended(report))) => return Ok(Some(*report)),
                    Some(Err(_)) | None => return Ok(None),
                }
            }
            () = ctx.stop.cancelled(), if !is_told => {
                is_told = true;
                let Some(reason) = ctx.stop_reason() else { continue };
                if reason == StopReason::LeaseLost {
                    child.start_kill()?;
                }
                let word = STOP_WORDS.iter().find(|(of, _)| *of == reason).map_or("drain", |(_, word)| *word);
                let _ = stdin.write_all(format!("{word}\n").as_bytes()).await;
            }
        }
    }
}

/// The process of one task.
pub fn run_child() -> ExitCode {
    let mut line = String::new();
    let order = std::io::stdin().lock().read_line(&mut line).ok().and_then(|_| serde_json::from_str(&line).ok());
    let Some(order) = order else {
        eprintln!("this is the process of one task, which matome starts by itself");
        return ExitCode::from(2);
    };
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let tally = Tally::default();
    let _ = metrics::set_global_recorder(tally.clone());
    let telling = Commits(|commit| {
        say_to_parent(&Said::Committed(commit));
    });
    tracing_subscriber::registry().with(telling).init();
    let report = Report::from(runtime.block_on(async {
        let telling = async {
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                tell_counted(&tally);
            }
        };
        tokio::select! {
            report = work(order) => report,
            () = telling => unreachable!("it tells for ever"),
        }
    }));
    tell_counted(&tally);
    let is_told = say_to_parent(&Said::Ended(Box::new(report)));
    runtime.shutdown_background();
    if is_told { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell_counted(tally: &Tally) {
    let counted = tally.take();
    if !counted.is_empty() {
        say_to_parent(&Said::Counted(counted));
    }
}

/// Whether it could be said.
fn say_to_parent(said: &Said) -> bool {
    use std::io::Write as _;
    let Ok(line) = serde_json::to_string(said) else { return false };
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_ok()
}

async fn work(order: Order) -> Result<TaskOutcome, TaskError> {
    let clock = Clock::system();
    let Surroundings { storage, reach, aggregation_memory } = order.surroundings;
    let failed = |failure: Failure| TaskError::retry("isolation", failure.what);
    let db = match &storage.database_url {
        // Under the name of its parent, whose sessions end together when it is declared dead.
        Some(url) => Db::connect_postgres(url, order.fence.worker, CONNECTIONS).await?,
        None => {
            let db = Db::open_beside(&storage.data_dir).await?;
            if let Some(mib) = storage.max_database {
                db.limit_size(mib << 20).await?;
            }
            db
        }
    };
    let task = tasks::find(&mut db.read().await?.conn(), order.task_id).await?;
    let Some(task) = task else { return Err(TaskError::lease_lost()) };
    let handler: Arc<dyn Handler> = match task.queue {
        Queue::Acquisition => {
            let registry = app::registry(&reach, clock.clone()).map_err(failed)?;
            let key = storage.master_key_file.clone().unwrap_or_else(|| storage.data_dir.join("master.key"));
            Arc::new(AcquisitionHandler::new(db.clone(), registry, Vault::from_file(&key)?, clock))
        }
        Queue::Aggregation => {
            let engine = app::engine_in(&storage.data_dir.join("scratch")).map_err(failed)?;
            let limits = Limits { memory_bytes: aggregation_memory << 20, ..Limits::default() };
            Arc::new(AggregationHandler::new(db.clone(), engine, clock, limits))
        }
    };
    let ctx = TaskContext::new(db.clone(), task.id, order.fence);
    listen(ctx.clone());
    let claimed = ClaimedTask { task, fence: order.fence };
    // A panic is a defect that the task meets in any process; it is told as such.
    let ended = run_to_its_deadline(handler.as_ref(), claimed, &ctx).await;
    db.close().await;
    ended
}

/// Hears what the parent says; ends the process when the parent has ended.
fn listen(ctx: TaskContext) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let reason = STOP_WORDS.iter().find(|(_, word)| *word == line).map_or(StopReason::Drain, |(of, _)| *of);
            ctx.stop_with(reason);
        }
        std::process::exit(1);
    });
}

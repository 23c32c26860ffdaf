//! What does the work of a task, and what it hears and says while it does.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use matome_model::field_error::{Words, chain};
use matome_model::task::Fence;
use matome_store::db::Db;
use matome_store::error::StoreError;
pub use matome_store::tasks::ClaimedTask;
use matome_store::tasks::set_progress;
use serde_json::value::RawValue;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SetOnce};
use tokio_util::sync::CancellationToken;

/// When a task whose page found no room is tried again, if there is room by then.
const DISK_FULL_PAUSE: Duration = Duration::from_secs(10);

use crate::liveness::Pulse;

/// Progress is written at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Does the work of one queue's tasks.
///
/// The handler commits its effects itself, page by page, in transactions that check the fence
/// ([`matome_store::lease`]); the worker then writes the end of the attempt.
pub trait Handler: Send + Sync + 'static {
    /// Runs one task to its end, or until [`TaskContext::stop`] asks it to finish its page and return.
    fn run(&self, task: ClaimedTask, ctx: TaskContext) -> BoxFuture<'_, Result<TaskOutcome, TaskError>>;
}

/// Why a task is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A person cancelled it: finish the page, return; the task becomes `cancelled`.
    Cancelled,
    /// The lease is gone: nothing can be committed any more, return at once.
    LeaseLost,
    /// The process is shutting down: finish the page, return; the task becomes `pending` without an attempt.
    Drain,
    /// Another task of the lane has waited long enough: finish the page, return; the task goes on after that one. Only
    /// a task that said [`TaskContext::may_yield`] hears it.
    Yield,
    /// The attempt has taken longer than any may: finish the page, return; it counts as failed and is tried again.
    Deadline,
    /// It has taken longer than the task itself says that it may: finish the page, return; the task fails.
    Overdue,
}

/// What a handler gets beside its task. Cheap to clone.
#[derive(Clone)]
pub struct TaskContext {
    /// Goes into every effect.
    pub fence: Fence,
    /// Cancelled when the task must stop; [`TaskContext::stop_reason`] says why.
    pub stop: CancellationToken,
    shared: Arc<Shared>,
}

struct Shared {
    task_id: i64,
    db: Db,
    reason: AtomicU8,
    begun: Instant,
    deadline: SetOnce<Duration>,
    may_yield: AtomicBool,
    streams: Option<Arc<Streams>>,
    stream_slot: OnceLock<Option<OwnedSemaphorePermit>>,
    pulse: Pulse,
    /// When progress was last written.
    written: Mutex<Option<Instant>>,
}

/// The slots that tasks take which go on until they are stopped.
#[derive(Debug)]
pub(crate) struct Streams {
    slots: Arc<Semaphore>,
    /// Such a task has left its ordinary slot.
    pub(crate) left: Notify,
}

impl Streams {
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(slots)), left: Notify::new() }
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("task_id", &self.shared.task_id)
            .field("fence", &self.fence)
            .field("stop_reason", &self.stop_reason())
            .finish_non_exhaustive()
    }
}

impl TaskContext {
    /// A context whose lease is valid until [`TaskContext::stop_with`] says otherwise: for running a handler
    /// without a worker.
    pub fn new(db: Db, task_id: i64, fence: Fence) -> Self {
        Self::with_pulse(db, task_id, fence, Pulse::eternal(), None)
    }

    pub(crate) fn with_pulse(db: Db, task_id: i64, fence: Fence, pulse: Pulse, streams: Option<Arc<Streams>>) -> Self {
        let shared = Shared {
            task_id,
            db,
            reason: AtomicU8::new(0),
            begun: Instant::now(),
            deadline: SetOnce::new(),
            may_yield: AtomicBool::new(false),
            streams,
            stream_slot: OnceLock::new(),
            pulse,
            written: Mutex::new(None),
        };
        Self { fence, stop: CancellationToken::new(), shared: Arc::new(shared) }
    }

    /// Asks the task to stop. A lost lease replaces any other reason; else the first reason stays.
    pub fn stop_with(&self, reason: StopReason) {
        let code = match reason {
            StopReason::Cancelled => 1,
            StopReason::Drain => 2,
            StopReason::LeaseLost => 3,
            StopReason::Yield => 4,
            StopReason::Deadline => 5,
            StopReason::Overdue => 6,
        };
        if reason == StopReason::LeaseLost {
            self.shared.reason.store(code, Ordering::SeqCst);
        } else {
            let _ = self.shared.reason.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
        }
        self.stop.cancel();
    }

    /// Why the task has to stop; `None` while it may go on.
    pub fn stop_reason(&self) -> Option<StopReason> {
        match self.shared.reason.load(Ordering::SeqCst) {
            1 => Some(StopReason::Cancelled),
            2 => Some(StopReason::Drain),
            3 => Some(StopReason::LeaseLost),
            4 => Some(StopReason::Yield),
            5 => Some(StopReason::Deadline),
            6 => Some(StopReason::Overdue),
            _ => None,
        }
    }

    /// Says that another attempt of this task goes on where this one stops: it may be asked to make room for another
    /// task of its lane ([`StopReason::Yield`]).
    pub fn may_yield(&self) {
        self.shared.may_yield.store(true, Ordering::SeqCst);
    }

    /// Says how long this attempt may take, from its beginning: after that it is asked to stop ([`StopReason::Overdue`]).
    /// The first word holds.
    pub fn set_deadline(&self, deadline: Duration) {
        let _ = self.shared.deadline.set(deadline);
    }

    /// What [`TaskContext::set_deadline`] said; waits until it does.
    pub(crate) async fn deadline(&self) -> Duration {
        *self.shared.deadline.wait().await
    }

    /// Since the attempt began.
    pub(crate) fn age(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    /// Says that this task goes on until it is stopped: it leaves its slot to others and takes one of those for streams.
    /// `false` when none of them is free; then it should end soon.
    pub fn becomes_stream(&self) -> bool {
        let Some(streams) = &self.shared.streams else {
            return self.shared.stream_slot.set(None).is_ok() || self.is_stream();
        };
        let Ok(slot) = Arc::clone(&streams.slots).try_acquire_owned() else { return self.is_stream() };
        let is_first = self.shared.stream_slot.set(Some(slot)).is_ok();
        if is_first {
            streams.left.notify_one();
        }
        true
    }

    /// Whether it said that it goes on until it is stopped.
    pub(crate) fn is_stream(&self) -> bool {
        self.shared.stream_slot.get().is_some()
    }

    /// Asks the task to make room, if it may and has run for `after`.
    pub(crate) fn yield_after(&self, after: Duration) {
        if self.shared.may_yield.load(Ordering::SeqCst) && self.age() >= after {
            self.stop_with(StopReason::Yield);
        }
    }

    /// Whether this process may still believe that it holds the lane. Ask before each request to the outside
    /// and each page: after a long pause of the process the answer is `false` at once.
    pub fn lease_valid(&self) -> bool {
        if !self.shared.pulse.is_fresh() {
            self.stop_with(StopReason::LeaseLost);
        }
        self.stop_reason() != Some(StopReason::LeaseLost)
    }

    /// Shows how far the task is (a JSON object of counts). Written at most twice a second; what comes in
    /// between is dropped, and so is an error: progress is for people.
    pub async fn progress(&self, counts: &impl serde::Serialize) {
        let now = Instant::now();
        {
            let mut written = self.shared.written.lock().unwrap_or_else(PoisonError::into_inner);
            let is_early = written.is_some_and(|at| now.duration_since(at) < PROGRESS_EVERY);
            if is_early {
                return;
            }
            *written = Some(now);
        }
        if let Ok(counts) = serde_json::value::to_raw_value(counts) {
            let (task_id, fence) = (self.shared.task_id, self.fence);
            let write = self
                .shared
                .db
                .write(move |conn| Box::pin(async move { set_progress(conn, task_id, &fence, &counts).await }));
            // A database that hangs must not keep the task from hearing that it has to stop.
            let written = tokio::select! {
                written = write => written,
                () = self.stop.cancelled() => Ok(()),
            };
            if let Err(err) = written {
                tracing::debug!(task.id = task_id, error = %err, "progress was not written");
            }
        }
    }
}

/// How a task ended well.
#[derive(Clone, Debug)]
pub struct TaskOutcome {
    /// Counts, a JSON object; kept as the task's `result`.
    pub result: Box<RawValue>,
}

impl TaskOutcome {
    /// An outcome with `counts` as its result.
    ///
    /// # Panics
    /// When `counts` cannot be written as JSON, which a struct of numbers and text always can.
    pub fn new(counts: &impl serde::Serialize) -> Self {
        Self { result: serde_json::value::to_raw_value(counts).expect("counts are JSON") }
    }
}

/// What the worker should do after an attempt that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Try again later, with backoff. `after` is what the source itself asked for: it wins and costs no attempt.
    Retry {
        /// `Retry-After` of the source.
        after: Option<Duration>,
    },
    /// Do not try again: the definition or its credentials must change first.
    Fail,
    /// It stopped because [`TaskContext::stop`] asked for it; nothing went wrong.
    Interrupted,
    /// The lease was lost: everything since is rolled back and nothing is written about it.
    Fenced,
}

/// How an attempt failed, for the worker (`advice`) and for people (all else).
#[derive(Debug)]
pub struct TaskError {
    /// What to do now.
    pub advice: Advice,
    /// A short code from a small set: `http_status`, `config`, `auth`, `panic`, ...
    pub reason: String,
    /// What failed, in one sentence.
    pub message: Box<Words>,
    /// Why, outermost first.
    pub causes: Vec<Words>,
    /// Where: which request, which line; a JSON object.
    pub position: Option<Box<RawValue>>,
    /// Counts up to here, a JSON object.
    pub result: Option<Box<RawValue>>,
}

impl TaskError {
    /// An error without causes.
    pub fn new(advice: Advice, reason: &str, message: impl Into<Words>) -> Self {
        let (reason, message) = (reason.to_owned(), Box::new(message.into()));
        Self { advice, reason, message, causes: Vec::new(), position: None, result: None }
    }

    /// An error that says what happened, with `err` and the chain of its sources as causes.
    pub fn because(
        advice: Advice,
        reason: &str,
        message: impl Into<Words>,
        err: Option<&(dyn Error + 'static)>,
    ) -> Self {
        Self { causes: chain(err), ..Self::new(advice, reason, message) }
    }

    /// What the store says, with the chain of its sources as causes.
    pub fn from_store(advice: Advice, reason: &str, err: &StoreError) -> Self {
        Self::because(advice, reason, err.words(), err.source())
    }

    /// Worth another try, with backoff.
    pub fn retry(reason: &str, message: impl Into<Words>) -> Self {
        Self::new(Advice::Retry { after: None }, reason, message)
    }

    /// Not worth another try.
    pub fn fail(reason: &str, message: impl Into<Words>) -> Self {
        Self::new(Advice::Fail, reason, message)
    }

    /// Stopped on request.
    pub fn interrupted() -> Self {
        Self::new(Advice::Interrupted, "interrupted", ("stopped on request", "求めに応じて止まりました"))
    }

    /// A panic: a defect of matome.
    pub fn panicked() -> Self {
        Self::fail("panic", ("a defect of matome ended the task", "matome の不具合でタスクが終わりました"))
    }

    /// The lease is gone: nothing is written about it.
    pub fn lease_lost() -> Self {
        Self::new(Advice::Fenced, "lease_lost", ("the lease was lost", "リースを失いました"))
    }

    /// The same error with its place (a JSON object).
    #[must_use]
    pub fn at(mut self, position: Option<Box<RawValue>>) -> Self {
        self.position = position;
        self
    }

    /// The same error with the counts so far.
    #[must_use]
    pub fn with_result(mut self, result: Box<RawValue>) -> Self {
        self.result = Some(result);
        self
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message.english)
    }
}

impl Error for TaskError {}

impl From<StoreError> for TaskError {
    /// A lost lease is [`Advice::Fenced`], a closing store [`Advice::Interrupted`]; all else is tried again.
    fn from(err: StoreError) -> Self {
        let (advice, reason) = match &err {
            StoreError::Fenced { .. } => (Advice::Fenced, "lease_lost"),
            StoreError::Closed => (Advice::Interrupted, "interrupted"),
            // No fault of the task: it waits, and the attempt does not count.
            StoreError::DiskFull(_) => (Advice::Retry { after: Some(DISK_FULL_PAUSE) }, "disk_full"),
            _ => (Advice::Retry { after: None }, "store"),
        };
        Self::from_store(advice, reason, &err)
    }
}

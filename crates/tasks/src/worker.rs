//! The worker of one queue: claims tasks for its free slots, runs them, writes their ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use matome_bus::{Bus, TaskEvent};
use matome_model::clock::Timestamp;
use matome_model::complaint::Complaint;
use matome_model::task::{Fence, Queue, TaskStatus};
use matome_store::error::Result;
use matome_store::tasks::{End, Ended, Finish, RetryPolicy, claim, claim_of, finish};
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::attempt::{self, Done};
use crate::handler::{ClaimedTask, Handler, StopReason, Streams, TaskContext};
use crate::process::{Inner, Process};
use crate::trace;

/// Ends that come within this time are written together.
const FINISH_WINDOW: Duration = Duration::from_millis(5);
/// An idle worker looks for work so soon, and ever later up to the second time, although nothing woke it.
const POLL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// Until a database that did not answer is asked again.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);

/// With so many deaths of its worker without a page in between, a task is no longer run beside others.
const SUSPECT_AFTER: i64 = 2;

/// An attempt that runs so long is stopped after its page and tried again, unless the operator says otherwise.
pub const ATTEMPT_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// Streams that a worker listens to at the same time: each holds a page, and seldom more than a connection.
const STREAM_SLOTS: usize = 100;

/// How a worker works.
#[derive(Clone, Copy, Debug)]
pub struct WorkerOptions {
    /// The queue it serves.
    pub queue: Queue,
    /// The only lane it serves, one task after another; of all lanes where there is none.
    pub lane: Option<i64>,
    /// Tasks it runs at the same time, those not counted that listen to streams.
    pub slots: usize,
    /// Streams it listens to at the same time.
    pub stream_slots: usize,
    /// When failed attempts are repeated.
    pub policy: RetryPolicy,
    /// How long an attempt may take.
    pub deadline: Duration,
}

impl WorkerOptions {
    /// `slots` tasks at a time, with the default retries and deadline.
    pub fn new(queue: Queue, slots: usize) -> Self {
        let (lane, stream_slots, policy) = (None, STREAM_SLOTS, RetryPolicy::default());
        Self { queue, lane, slots, stream_slots, policy, deadline: ATTEMPT_DEADLINE }
    }

    /// One task at a time, of one lane alone.
    #[must_use]
    pub fn of_lane(queue: Queue, lane: i64) -> Self {
        Self { lane: Some(lane), ..Self::new(queue, 1) }
    }
}

/// A worker of one queue in this process.
pub struct Worker {
    options: WorkerOptions,
    process: Arc<Inner>,
    bus: Bus,
    handler: Arc<dyn Handler>,
    /// For tasks that may be what kills their workers.
    isolated: Option<Arc<dyn Handler>>,
    running: JoinSet<Done>,
    contexts: HashMap<i64, TaskContext>,
    streams: Arc<Streams>,
    done: Vec<Done>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker that runs `handler` for each task.
    pub fn new(process: &Process, bus: Bus, options: WorkerOptions, handler: Arc<dyn Handler>) -> Self {
        // They begin at zero: who watches them sees a rise only of what was there before.
        for outcome in OUTCOMES {
            finished(options.queue, outcome).increment(0);
        }
        metrics::gauge!("matome_task_slots", "queue" => options.queue.as_str()).set(options.slots as f64);
        Self {
            options,
            process: process.inner(),
            bus,
            handler,
            isolated: None,
            running: JoinSet::new(),
            contexts: HashMap::new(),
            streams: Arc::new(Streams::new(options.stream_slots)),
            done: Vec::new(),
        }
    }

    /// The same worker, which gives a task to `isolated` when two workers died of what they ran, this task among it: it is
    /// to run the task alone in a process of its own, and to fail it with reason `poison` when that dies, too.
    #[must_use]
    pub fn isolating(self, isolated: Arc<dyn Handler>) -> Self {
        Self { isolated: Some(isolated), ..self }
    }

    /// Works until `shutdown`; then claims nothing more, lets each task finish its page, gives the lanes back
    /// and returns.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut poll = POLL.0;
        let mut look = true;
        let mut complaint = Complaint::default();
        loop {
            let is_draining = shutdown.is_cancelled();
            if is_draining {
                self.contexts.values().for_each(|ctx| ctx.stop_with(StopReason::Drain));
            }
            let free = self.options.slots.saturating_sub(self.in_slots());
            let may_claim = !is_draining && free > 0 && self.process.may_claim();
            let wants = if may_claim && (look || !self.done.is_empty()) { free } else { 0 };
            if wants > 0 || !self.done.is_empty() {
                match self.turn(wants).await {
                    Ok(claimed) => {
                        if complaint.over() {
                            tracing::info!(queue = %self.options.queue, "the queue is reached again");
                        }
                        look = false;
                        poll = if claimed > 0 { POLL.0 } else { (poll * 2).min(POLL.1) };
                    }
                    Err(err) => {
                        if let Some(kept_back) = complaint.due(Instant::now()) {
                            let queue = self.options.queue.as_str();
                            tracing::warn!(queue, error = %err, kept_back, "the queue cannot be reached");
                        }
                        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                        if is_draining && !self.process.may_claim() {
                            // The leases are left to a sweeper; waiting for the database would be for ever.
                            self.done.clear();
                        }
                        look = true;
                    }
                }
                if !self.done.is_empty() {
                    continue;
                }
            }
            if is_draining && self.running.is_empty() {
                return;
            }
            let is_full = self.in_slots() >= self.options.slots;
            // Workers that started together should not look together.
            let wait = poll.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            tokio::select! {
                Some(done) = self.running.join_next() => self.collect(done).await,
                // A worker that is full leaves what wakes it to others.
                // There may be work for the slot that a stream has left.
                () = self.streams.left.notified(), if !is_draining => look = true,
                () = self.bus.woken(self.options.queue), if !is_full && !is_draining => look = true,
                // The heartbeat learns which tasks.
                () = self.bus.stopped(self.options.queue) => self.process.beat_soon(),
                () = tokio::time::sleep(wait), if !is_full && !is_draining => look = true,
                () = shutdown.cancelled(), if !is_draining => {}
            }
        }
    }

    /// How many slots are taken; a stream has one of its own.
    fn in_slots(&self) -> usize {
        let streams = self.contexts.values().filter(|ctx| ctx.is_stream()).count();
        self.running.len().saturating_sub(streams)
    }

    /// Collects ends for a moment, so that tasks that end together share a transaction.
    async fn collect(&mut self, first: Result<Done, tokio::task::JoinError>) {
        let mut next = Some(first);
        let until = tokio::time::Instant::now() + FINISH_WINDOW;
        while let Some(joined) = next.take() {
            // A handler's panic is caught inside, so there is nothing to join only when the runtime goes down.
            self.done.extend(joined.ok());
            next = self.running.try_join_next();
            if next.is_none() && !self.running.is_empty() {
                next = tokio::time::timeout_at(until, self.running.join_next()).await.ok().flatten();
            }
        }
    }

    /// Writes the ends of what is done and claims for at most `slots` slots, in one transaction.
    async fn turn(&mut self, slots: usize) -> Result<usize> {
        let finishes: Vec<Finish> = self.done.iter().map(|done| done.finish.clone()).collect();
        let (ended, claimed) = match self.write(finishes, slots).await {
            Ok(written) => written,
            Err(err) if err.is_transient() || self.done.is_empty() => return Err(err),
            // One end that cannot be written must not keep the others from being written.
            Err(_) => return self.finish_one_by_one().await.map(|()| 0),
        };
        let done = std::mem::take(&mut self.done);
        let gave_back = done.iter().any(|done| matches!(done.finish.end, End::Released { .. }));
        for (done, ended) in done.iter().zip(ended) {
            self.forget(done, ended);
        }
        let count = claimed.len();
        if gave_back || (count > 0 && count == slots) {
            self.bus.pass_on(self.options.queue);
        }
        let now = self.process.clock.now();
        for task in claimed {
            self.start(task, now);
        }
        Ok(count)
    }

    async fn write(&self, finishes: Vec<Finish>, slots: usize) -> Result<(Vec<Ended>, Vec<ClaimedTask>)> {
        let WorkerOptions { queue, lane, policy, .. } = self.options;
        let (boot, now) = (self.process.boot(), self.process.clock.now());
        self.process
            .db
            .write(move |conn| {
                Box::pin(async move {
                    let ended = match finishes.is_empty() {
                        true => Vec::new(),
                        false => finish(conn, &finishes, &policy, now).await?,
                    };
                    let claimed = match (slots, lane) {
                        (0, _) => Vec::new(),
                        (slots, None) => claim(conn, queue, boot, slots, now).await?,
                        (_, Some(lane)) => claim_of(conn, queue, lane, boot, now).await?,
                    };
                    Ok((ended, claimed))
                })
            })
            .await
    }

    async fn finish_one_by_one(&mut self) -> Result<()> {
        while let Some(mut done) = self.done.pop() {
            let mut written = self.write(vec![done.finish.clone()], 0).await;
            if let Err(err) = &written
                && !err.is_transient()
            {
                done.finish.end = attempt::unstorable(done.finish.task_id, err);
                written = self.write(vec![done.finish.clone()], 0).await;
            }
            match written {
                Ok((ended, _)) => ended.into_iter().for_each(|ended| self.forget(&done, ended)),
                Err(err) if err.is_transient() => {
                    self.done.push(done);
                    return Err(err);
                }
                Err(err) => {
                    // The heartbeat finds the lease without a task behind it and gives it back.
                    tracing::error!(task.id = done.finish.task_id, error = %err, "the end of the task was not written");
                    self.forget(&done, Ended::Fenced);
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, task: ClaimedTask, now: Timestamp) {
        let queue = self.options.queue.as_str();
        let waited = (now - task.task.run_at).num_milliseconds().max(0);
        metrics::histogram!("matome_task_wait_seconds", "queue" => queue)
            .record(Duration::from_millis(waited.unsigned_abs()).as_secs_f64());
        let (task_id, status) = (task.task.id, TaskStatus::Running);
        self.bus.tell(TaskEvent { queue: self.options.queue, task_id, status });
        let ctx = self.process.begin(&task, Arc::clone(&self.streams));
        self.contexts.insert(task.task.id, ctx.clone());
        let suspect = self.isolated.as_ref().filter(|_| task.task.crash_count >= SUSPECT_AFTER);
        let handler = Arc::clone(suspect.unwrap_or(&self.handler));
        let deadline = self.options.deadline;
        let span = trace::attempt(&task.task);
        self.running.spawn(async move { attempt::run(handler.as_ref(), task, ctx, deadline).await }.instrument(span));
        metrics::gauge!("matome_tasks_running", "queue" => queue).set(self.running.len() as f64);
    }

    fn forget(&mut self, done: &Done, ended: Ended) {
        let fence: &Fence = &done.finish.fence;
        self.process.end(fence);
        self.contexts.remove(&done.finish.task_id);
        let status = match ended {
            Ended::Terminal(status) => Some(status),
            Ended::Waiting { .. } => Some(TaskStatus::Pending),
            Ended::Fenced => None,
        };
        if let Some(status) = status {
            self.bus.tell(TaskEvent { queue: self.options.queue, task_id: done.finish.task_id, status });
        }
        let outcome = outcome(done, ended);
        let since = self.process.clock.now() - TimeDelta::from_std(done.at.elapsed()).unwrap_or_default();
        done.origin.ended(outcome, since, matches!(ended, Ended::Terminal(_)));
        if let End::Failed { error, .. } = &done.finish.end
            && ended == Ended::Terminal(TaskStatus::Failed)
        {
            count_failed(self.options.queue, error);
        }
        finished(self.options.queue, outcome).increment(1);
        let queue = self.options.queue.as_str();
        metrics::gauge!("matome_tasks_running", "queue" => queue).set(self.running.len() as f64);
        metrics::histogram!("matome_task_duration_seconds", "queue" => queue, "outcome" => outcome)
            .record(done.took.as_secs_f64());
        let duration_ms = u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(task.id = done.finish.task_id, queue, outcome, duration_ms, "task ended: {outcome}");
    }
}

/// All that [`outcome`] says.
const OUTCOMES: [&str; 7] = ["succeeded", "failed", "cancelled", "retry", "released", "yielded", "lease_lost"];

/// How often an attempt at a task of `queue` ended so.
fn finished(queue: Queue, outcome: &'static str) -> metrics::Counter {
    metrics::counter!("matome_tasks_finished_total", "queue" => queue.as_str(), "outcome" => outcome)
}

/// Counts a task that failed for good, with the short code of its reason.
fn count_failed(queue: Queue, error: &RawValue) {
    #[derive(serde::Deserialize)]
    struct Reason {
        reason: String,
    }
    let reason = serde_json::from_str(error.get()).map_or_else(|_| String::new(), |Reason { reason }| reason);
    metrics::counter!("matome_tasks_failed_total", "queue" => queue.as_str(), "reason" => reason).increment(1);
}

fn outcome(done: &Done, ended: Ended) -> &'static str {
    match (ended, &done.finish.end) {
        (Ended::Fenced, _) => "lease_lost",
        (Ended::Waiting { .. }, End::Released { .. }) => "released",
        (Ended::Waiting { .. }, End::Yielded { .. }) => "yielded",
        (Ended::Waiting { .. }, _) => "retry",
        (Ended::Terminal(status), _) => TaskStatus::as_str(status),
    }
}

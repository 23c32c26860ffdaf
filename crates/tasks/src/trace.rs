//! Spans that follow a task from what asked for it to its last commit, for whoever collects them. Their target is their own:
//! logs do not show them, and where nobody collects them they cost nothing.
//!
//! The trace of a task is its public id, and the first half of that is the id of the span that all others are in. So each
//! process that has to do with a task knows both, and nothing has to be handed on.

use matome_model::clock::Timestamp;
use matome_model::task::{Queue, Trigger};
use matome_store::tasks::{Queued, TaskRow};
use tracing::field::Empty;
use tracing::{Span, info_span};
use uuid::Uuid;

/// The target of these spans.
pub const TARGET: &str = "matome_trace";

/// A task was accepted, or asked for again while it waits, which began at `since`. Call it after the commit.
pub fn accepted(queue: Queue, task: &Queued, since: Timestamp) {
    created(queue, task.cause, task.uuid, since);
}

/// As [`accepted`], for a task that was made because of `cause`.
pub(crate) fn created(queue: Queue, cause: Trigger, task: Uuid, since: Timestamp) {
    let (queue, cause) = (queue.as_str(), cause.as_str());
    let since_us = since.timestamp_micros();
    drop(info_span!(target: TARGET, parent: None, "task.accept", task.uuid = %task, queue, cause, since_us));
}

/// An attempt at a task; its outcome is recorded when it is known.
pub(crate) fn attempt(task: &TaskRow) -> Span {
    let (uuid, worker) = (task.task_uuid, task.worker.unwrap_or_default());
    let (id, object, attempt) = (task.id, task.object_id, task.attempt + 1);
    match task.queue {
        Queue::Acquisition => info_span!(
            target: TARGET, parent: None, "acquisition.attempt", task.uuid = %uuid, task.id = id, source.id = object,
            stream = task.stream, attempt, %worker, outcome = Empty, error = Empty,
        ),
        Queue::Aggregation => info_span!(
            target: TARGET, parent: None, "aggregation.attempt", task.uuid = %uuid, task.id = id, aggregation.id = object,
            attempt, %worker, outcome = Empty, error = Empty,
        ),
    }
}

/// The name of [`page`].
pub const PAGE: &str = "page.commit";

/// The name of [`publish`].
pub const PUBLISH: &str = "run.publish";

/// The commit of one page, by the attempt that runs.
pub fn page(records: usize) -> Span {
    info_span!(target: TARGET, PAGE, records)
}

/// The commit that shows the rows of a run, by the attempt that runs.
pub fn publish() -> Span {
    info_span!(target: TARGET, PUBLISH)
}

/// A commit that another process made for the attempt that runs here, from `since_us` to `until_us` (microseconds since 1970):
/// of a page with so many records, or of what shows a run.
pub fn committed(page: Option<u64>, since_us: i64, until_us: i64) {
    drop(match page {
        Some(records) => info_span!(target: TARGET, PAGE, records, since_us, until_us),
        None => info_span!(target: TARGET, PUBLISH, since_us, until_us),
    });
}

/// What the spans at the end of a task say of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    uuid: Uuid,
    queue: Queue,
    cause: Trigger,
    created_at: Timestamp,
}

impl Origin {
    pub(crate) fn of(task: &TaskRow) -> Self {
        Self { uuid: task.task_uuid, queue: task.queue, cause: task.cause, created_at: task.created_at }
    }

    /// The end of an attempt was committed, which began at `since`; with `is_last` the whole task has ended.
    pub(crate) fn ended(&self, outcome: &str, since: Timestamp, is_last: bool) {
        let (uuid, queue, cause) = (self.uuid, self.queue.as_str(), self.cause.as_str());
        let since_us = since.timestamp_micros();
        drop(info_span!(target: TARGET, parent: None, "task.end", task.uuid = %uuid, outcome, since_us));
        if is_last {
            let since_us = self.created_at.timestamp_micros();
            drop(info_span!(
                target: TARGET, parent: None, "task", is_whole = true, task.uuid = %uuid, queue, cause, outcome, since_us,
            ));
        }
    }
}

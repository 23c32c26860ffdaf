//! Tasks: what is to be done, what is being done, and what was done.
//!
//! Every transition locks its lane rows first, in a statement of its own, in the order of their ids, and reads
//! or writes `tasks` only in later statements, which then see what the last holder of the lock committed.
//! Three forms that look right and are not (claiming in one statement, a finish that reads the tasks before
//! it holds the lane, a cancel that reads the status before it holds the lane) leave lanes leased to nobody
//! or idle for ever with a pending task. `tests/model` has each transition as steps of a model that is searched
//! whole, and finds these; who changes a transition here changes it there. `tests/tasks_storm.rs` runs the real one.

/// What [`TaskRow::from_row`] reads. Never `*`: a migration that adds a column would end the prepared statements of every
/// process that runs beside it ("cached plan must not change result type").
macro_rules! columns {
    () => {
        "id, task_uuid, queue, lane_id, object_id, stream, cause, status, priority, run_at, sort_key, attempt, \
         crash_count, lease_epoch, worker, cancel_requested_at, retry_of, schedule_id, fire_time, payload, progress, result, \
         error, started_at, finished_at, created_at"
    };
}

mod cancel;
mod claim;
mod end;
mod enqueue;
mod finish;
mod fires;
mod retry;
mod sweep;

use matome_model::clock::Timestamp;
use matome_model::task::{Fence, Priority, Queue, TaskStatus, Trigger};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::db::{Arg, Conn, Row};
use crate::error::{Result, StoreError};

pub use cancel::{CancelledAll, cancel, cancel_all};
pub use claim::{claim, claim_of, promote};
pub use enqueue::{
    Enqueued, NewTask, ONLY_INBOX, Queued, Retried, RetriedMany, enqueue, only_stored, retry_ended, retry_failed,
};
pub use finish::{End, Ended, Finish, finish};
pub(crate) use fires::{Fire, enqueue_fires};
pub use retry::RetryPolicy;
pub use sweep::{Repaired, Stolen, repair, steal, steal_lease, void_leases};

/// A row of `tasks`, whole.
#[derive(Clone, Debug)]
pub struct TaskRow {
    /// Key; grows with every task.
    pub id: i64,
    /// The public id of the original design.
    pub task_uuid: Uuid,
    /// The queue that serves it.
    pub queue: Queue,
    /// Its lane.
    pub lane_id: i64,
    /// The source or aggregation it works for, by queue.
    pub object_id: i64,
    /// The stream of the source; empty for the only one.
    pub stream: String,
    /// What caused it.
    pub cause: Trigger,
    /// Its state.
    pub status: TaskStatus,
    /// How soon it runs in its lane.
    pub priority: Priority,
    /// When it may run.
    pub run_at: Timestamp,
    /// `run_at` moved by the priority: the order in its lane.
    pub sort_key: Timestamp,
    /// How often it failed since it last made progress; above 0 and pending: it waits for a retry.
    pub attempt: i64,
    /// How often its worker died since it last made progress.
    pub crash_count: i64,
    /// Epoch of the lease while it runs.
    pub lease_epoch: Option<i64>,
    /// The worker that runs it, or ran it last.
    pub worker: Option<Uuid>,
    /// When somebody asked a running task to stop.
    pub cancel_requested_at: Option<Timestamp>,
    /// The ended task that this one repeats.
    pub retry_of: Option<i64>,
    /// The schedule that fired.
    pub schedule_id: Option<i64>,
    /// Nominal time of that fire.
    pub fire_time: Option<Timestamp>,
    /// Options of the run, a JSON object.
    pub payload: Box<RawValue>,
    /// Counts so far of all its attempts, a JSON object.
    pub progress: Option<Box<RawValue>>,
    /// Counts at the end, a JSON object.
    pub result: Option<Box<RawValue>>,
    /// `{"message", "causes", "position", "reason"}` of the last failed attempt.
    pub error: Option<Box<RawValue>>,
    /// When it was claimed last.
    pub started_at: Option<Timestamp>,
    /// When it ended for good.
    pub finished_at: Option<Timestamp>,
    /// When it was accepted.
    pub created_at: Timestamp,
}

impl TryFrom<&Row> for TaskRow {
    type Error = StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        Self::from_row(row)
    }
}

impl TaskRow {
    /// Reads a row that has the columns of `columns!` under their own names.
    ///
    /// # Errors
    /// When a column is missing or holds what this binary does not know.
    pub fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.int("id")?,
            task_uuid: row.uuid("task_uuid")?,
            queue: word(row, "queue", Queue::parse)?,
            lane_id: row.int("lane_id")?,
            object_id: row.int("object_id")?,
            stream: row.text("stream")?,
            cause: word(row, "cause", Trigger::parse)?,
            status: word(row, "status", TaskStatus::parse)?,
            priority: word(row, "priority", Priority::parse)?,
            run_at: row.time("run_at")?,
            sort_key: row.time("sort_key")?,
            attempt: row.int("attempt")?,
            crash_count: row.int("crash_count")?,
            lease_epoch: row.opt_int("lease_epoch")?,
            worker: row.opt_uuid("worker")?,
            cancel_requested_at: row.opt_time("cancel_requested_at")?,
            retry_of: row.opt_int("retry_of")?,
            schedule_id: row.opt_int("schedule_id")?,
            fire_time: row.opt_time("fire_time")?,
            payload: row.json("payload")?,
            progress: row.opt_json("progress")?,
            result: row.opt_json("result")?,
            error: row.opt_json("error")?,
            started_at: row.opt_time("started_at")?,
            finished_at: row.opt_time("finished_at")?,
            created_at: row.time("created_at")?,
        })
    }
}

/// A task that this worker holds, with the fence that guards its effects.
#[derive(Clone, Debug)]
pub struct ClaimedTask {
    /// The task as it was claimed.
    pub task: TaskRow,
    /// Proof of the lease.
    pub fence: Fence,
}

const FIND: &str = concat!("select ", columns!(), " from tasks where id = $1");

/// The task with this id.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn find(conn: &mut Conn<'_>, task_id: i64) -> Result<Option<TaskRow>> {
    conn.fetch_optional(FIND, &[task_id.into()]).await?.as_ref().map(TaskRow::from_row).transpose()
}

pub(crate) fn word<T>(row: &Row, column: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
    let text = row.text(column)?;
    parse(&text).ok_or_else(|| StoreError::Inconsistent {
        column: column.to_owned(),
        what: format!("`{text}` is not a word of this version"),
    })
}

const SET_PROGRESS: &str = "update tasks set progress = $1
where id = $2 and status = 'running' and lease_epoch = $3 and worker = $4";

/// Shows how far a running task is. Without effect once the lease is lost.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn set_progress(conn: &mut Conn<'_>, task_id: i64, fence: &Fence, counts: &RawValue) -> Result<()> {
    let args = [counts.into(), task_id.into(), fence.lease_epoch.into(), fence.worker.into()];
    conn.execute(SET_PROGRESS, &args).await.map(drop)
}

// Called behind `lease::lock`, so the lane is locked already.
const MADE_PROGRESS: &str = "update tasks set attempt = 0, crash_count = 0, progress = coalesce($3, progress)
where lane_id = $1 and status = 'running' and lease_epoch = $2";

/// Says that a page of the running task commits in this transaction: earlier failures and crashes no longer
/// count against it, and `counts` (a JSON object) is how far it is. Call it after [`crate::lease::lock`].
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn made_progress(conn: &mut Conn<'_>, fence: &Fence, counts: Option<&RawValue>) -> Result<()> {
    let args = [fence.lane_id.into(), fence.lease_epoch.into(), Arg::Json(counts.map(RawValue::get))];
    conn.execute(MADE_PROGRESS, &args).await.map(drop)
}

//! Ending attempts.

use std::collections::HashMap;
use std::time::Duration;

use matome_model::clock::Timestamp;
use matome_model::task::{Fence, TaskStatus};
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;

use super::end::{self, Change};
use super::retry::{RetryPolicy, delta};
use crate::db::{Arg, Conn};
use crate::error::Result;
use crate::lanes::{self, LockedLane};

/// How an attempt ended. Results and errors are JSON objects.
#[derive(Clone, Debug)]
pub enum End {
    /// Well.
    Succeeded {
        /// Its counts.
        result: Box<RawValue>,
    },
    /// For good, with an error.
    Failed {
        /// What went wrong.
        error: Box<RawValue>,
        /// Counts up to there.
        result: Option<Box<RawValue>>,
    },
    /// With an error that may pass; after the last attempt it is final.
    Retry {
        /// What went wrong.
        error: Box<RawValue>,
        /// Counts up to there.
        result: Option<Box<RawValue>>,
        /// What the source asked for: wins over the backoff, costs no attempt and holds for the whole lane.
        after: Option<Duration>,
        /// Uniform in 0..1.
        jitter: f64,
    },
    /// Given back unharmed: waits again at once, without an attempt.
    Released {
        /// Counts up to there.
        result: Option<Box<RawValue>>,
    },
    /// Given back, so that another task of its lane that waits has its turn: waits again behind that one, without an
    /// attempt.
    Yielded {
        /// Counts up to there.
        result: Option<Box<RawValue>>,
    },
    /// Stopped because a person asked for it.
    Cancelled {
        /// Counts up to there.
        result: Option<Box<RawValue>>,
    },
}

/// The end of one attempt.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The task.
    pub task_id: i64,
    /// The lease under which it ran.
    pub fence: Fence,
    /// How it ended.
    pub end: End,
}

/// What became of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It reached this terminal state.
    Terminal(TaskStatus),
    /// It waits for another attempt.
    Waiting {
        /// When it runs again.
        run_at: Timestamp,
    },
    /// The lease was lost; nothing was changed.
    Fenced,
}

struct Running {
    attempt: i64,
    crash_count: i64,
    cancel_requested: bool,
}

const READ: &str =
    "select id, attempt, crash_count, cancel_requested_at from tasks where {tasks} and status = 'running'";

/// Ends attempts, several in one transaction; answers in the order of `finishes`.
///
/// A request to cancel wins over a retry, over a release and over a yield. A fenced attempt changes nothing.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn finish(
    conn: &mut Conn<'_>,
    finishes: &[Finish],
    policy: &RetryPolicy,
    now: Timestamp,
) -> Result<Vec<Ended>> {
    let lane_ids: Vec<i64> = finishes.iter().map(|finish| finish.fence.lane_id).collect();
    let locked = lanes::lock(conn, &lane_ids).await?;
    let locked: HashMap<i64, &LockedLane> = locked.iter().map(|lane| (lane.id, lane)).collect();
    let held = |finish: &Finish| locked.get(&finish.fence.lane_id).copied().filter(|lane| holds(lane, finish));
    let task_ids: Vec<i64> = finishes.iter().filter(|f| held(f).is_some()).map(|f| f.task_id).collect();
    let running = read_running(conn, &task_ids).await?;

    let mut ended = Vec::with_capacity(finishes.len());
    let mut changes = Vec::with_capacity(task_ids.len());
    let mut free = Vec::with_capacity(task_ids.len());
    for finish in finishes {
        let (Some(lane), Some(task)) = (held(finish), running.get(&finish.task_id)) else {
            ended.push(Ended::Fenced);
            continue;
        };
        let change = decide(finish, task, lane, policy, now);
        set_breaker(conn, lane, finish, &change, policy, now).await?;
        ended.push(match change.status {
            TaskStatus::Pending => Ended::Waiting { run_at: change.run_at.unwrap_or(now) },
            terminal => Ended::Terminal(terminal),
        });
        changes.push(change);
        free.push(lane.id);
    }
    end::apply(conn, &changes, now).await?;
    lanes::release(conn, &free, now).await?;
    Ok(ended)
}

fn holds(lane: &LockedLane, finish: &Finish) -> bool {
    lane.lease_epoch == finish.fence.lease_epoch
        && lane.lease_worker == Some(finish.fence.worker)
        && lane.lease_task == Some(finish.task_id)
}

async fn read_running(conn: &mut Conn<'_>, ids: &[i64]) -> Result<HashMap<i64, Running>> {
    let sql = READ.replace("{tasks}", &conn.any_of("id", 1));
    let rows = conn.fetch_all(AssertSqlSafe(sql), &[Arg::Ints(ids)]).await?;
    rows.iter()
        .map(|row| {
            let running = Running {
                attempt: row.int("attempt")?,
                crash_count: row.int("crash_count")?,
                cancel_requested: row.opt_time("cancel_requested_at")?.is_some(),
            };
            Ok((row.int("id")?, running))
        })
        .collect()
}

fn decide(finish: &Finish, task: &Running, lane: &LockedLane, policy: &RetryPolicy, now: Timestamp) -> Change {
    let mut change = Change {
        id: finish.task_id,
        status: TaskStatus::Pending,
        run_at: None,
        attempt: task.attempt,
        crash_count: task.crash_count,
        result: None,
        error: None,
    };
    match &finish.end {
        End::Succeeded { result } => {
            change.status = TaskStatus::Succeeded;
            change.result = Some(result.clone());
        }
        End::Failed { error, result } => {
            change.status = TaskStatus::Failed;
            change.attempt += 1;
            change.error = Some(error.clone());
            change.result.clone_from(result);
        }
        End::Retry { error, result, after, jitter } => {
            change.error = Some(error.clone());
            change.result.clone_from(result);
            if let Some(after) = after {
                change.run_at = Some(now + delta(*after));
            } else {
                change.attempt += 1;
                change.run_at = Some(now + policy.backoff(change.attempt, *jitter));
            }
            // A lane that is held back is probed: one attempt tells enough.
            let is_last = change.attempt >= policy.max_attempts || (after.is_none() && policy.holds(lane.fail_streak));
            if task.cancel_requested {
                change.status = TaskStatus::Cancelled;
            } else if is_last {
                change.status = TaskStatus::Failed;
            }
        }
        End::Released { result } => {
            change.result.clone_from(result);
            if task.cancel_requested {
                change.status = TaskStatus::Cancelled;
            }
        }
        End::Yielded { result } => {
            change.result.clone_from(result);
            change.run_at = Some(now);
            if task.cancel_requested {
                change.status = TaskStatus::Cancelled;
            }
        }
        End::Cancelled { result } => {
            change.status = TaskStatus::Cancelled;
            change.result.clone_from(result);
        }
    }
    if change.status.is_terminal() {
        change.run_at = None;
    }
    change
}

async fn set_breaker(
    conn: &mut Conn<'_>,
    lane: &LockedLane,
    finish: &Finish,
    change: &Change,
    policy: &RetryPolicy,
    now: Timestamp,
) -> Result<()> {
    let (streak, not_before) = match (change.status, &finish.end) {
        (TaskStatus::Succeeded, _) => (0, None),
        (TaskStatus::Failed, _) => {
            let streak = lane.fail_streak + 1;
            (streak, policy.breaker(streak).map(|wait| now + wait).max(lane.not_before))
        }
        (TaskStatus::Pending, End::Retry { after: Some(_), .. }) => {
            (lane.fail_streak, change.run_at.max(lane.not_before))
        }
        _ => return Ok(()),
    };
    if (streak, not_before) == (lane.fail_streak, lane.not_before) {
        return Ok(());
    }
    lanes::set_breaker(conn, lane.id, streak, not_before).await
}

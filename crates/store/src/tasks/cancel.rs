//! Cancelling tasks.

use matome_model::clock::Timestamp;
use matome_model::task::{LaneKind, TaskStatus};
use sqlx::AssertSqlSafe;

use super::{TaskRow, find};
use crate::db::{Arg, Conn};
use crate::error::Result;
use crate::lanes;

const CANCEL_PENDING: &str = concat!(
    "update tasks set status = 'cancelled', finished_at = $2, cancel_requested_at = $2
where id = $1 and status = 'pending' returning ",
    columns!()
);

const REQUEST: &str = concat!(
    "update tasks set cancel_requested_at = coalesce(cancel_requested_at, $2)
where id = $1 and status = 'running' returning ",
    columns!()
);

/// Cancels a task: a waiting one at once, a running one as soon as its worker has finished its page. An ended
/// task stays as it is. Returns the task as it is then, or `None` when there is none.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn cancel(conn: &mut Conn<'_>, task_id: i64, now: Timestamp) -> Result<Option<TaskRow>> {
    // The lane of a task never changes; its status is read only behind the lane's lock.
    let Some(lane_id) = find(conn, task_id).await?.map(|task| task.lane_id) else { return Ok(None) };
    lanes::lock(conn, &[lane_id]).await?;
    let args = [task_id.into(), now.into()];
    if let Some(row) = conn.fetch_optional(CANCEL_PENDING, &args).await? {
        lanes::recompute(conn, &[lane_id], now, None).await?;
        return TaskRow::from_row(&row).map(Some);
    }
    match conn.fetch_optional(REQUEST, &args).await? {
        Some(row) => TaskRow::from_row(&row).map(Some),
        None => find(conn, task_id).await,
    }
}

/// What [`cancel_all`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CancelledAll {
    /// Waiting tasks that are cancelled now.
    pub cancelled: u64,
    /// Running tasks that were asked to stop.
    pub requested: u64,
}

const CANCEL_ALL_PENDING: &str = "update tasks set status = 'cancelled', finished_at = $2, cancel_requested_at = $2
where {lanes} and status = 'pending'";

const REQUEST_ALL: &str = "update tasks set cancel_requested_at = coalesce(cancel_requested_at, $2)
where {lanes} and status = 'running'";

/// Cancels every task of an object, before it is deleted.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn cancel_all(conn: &mut Conn<'_>, kind: LaneKind, object_id: i64, now: Timestamp) -> Result<CancelledAll> {
    let ids: Vec<i64> = lanes::lock_object(conn, kind, object_id).await?.iter().map(|lane| lane.id).collect();
    let of_lanes = conn.any_of("lane_id", 1);
    let args = [Arg::Ints(&ids), now.into()];
    let cancelled = conn.execute(AssertSqlSafe(CANCEL_ALL_PENDING.replace("{lanes}", &of_lanes)), &args).await?;
    let requested = conn.execute(AssertSqlSafe(REQUEST_ALL.replace("{lanes}", &of_lanes)), &args).await?;
    lanes::recompute(conn, &ids, now, None).await?;
    Ok(CancelledAll { cancelled, requested })
}

impl CancelledAll {
    /// Whether nothing of the object runs any more.
    pub fn is_idle(self) -> bool {
        self.requested == 0
    }
}

/// The state that a task asked to stop ends in when it cannot go on.
pub(super) fn stopped(cancel_requested: bool) -> TaskStatus {
    if cancel_requested { TaskStatus::Cancelled } else { TaskStatus::Pending }
}

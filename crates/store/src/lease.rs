//! The fence: proof, inside a transaction, that a worker still holds its lane.
//!
//! Every effect of a task reads the fence first without a lock ([`peek`]), so that a fenced worker stops
//! early, and **locks and re-checks it in its last statement group** ([`lock`]), with checkpoint and counters.
//! The lock is late so that a page never makes claim, cancel or a sweep wait for its inserts.

use matome_model::task::Fence;

use crate::db::{Arg, Conn};
use crate::error::{Result, StoreError};

const PEEK: &str = "select id from lanes
where id = $1 and lease_epoch = $2 and lease_worker = $3";

// SQLite has one writer, so there the row cannot change before the commit and PEEK is enough.
const LOCK_POSTGRES: &str = "select id from lanes
where id = $1 and lease_epoch = $2 and lease_worker = $3
for update";

/// Checks the fence without a lock, at the start of a transaction.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is lost.
pub async fn peek(conn: &mut Conn<'_>, fence: &Fence) -> Result<()> {
    check(conn, fence, PEEK).await
}

/// Locks the lane and checks the fence again, in the last statement group of a transaction.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is lost; the caller's transaction must roll back.
pub async fn lock(conn: &mut Conn<'_>, fence: &Fence) -> Result<()> {
    let sql = conn.pick(LOCK_POSTGRES, PEEK);
    check(conn, fence, sql).await
}

async fn check(conn: &mut Conn<'_>, fence: &Fence, sql: &'static str) -> Result<()> {
    let args: [Arg<'_>; 3] = [fence.lane_id.into(), fence.lease_epoch.into(), fence.worker.into()];
    match conn.fetch_optional(sql, &args).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::Fenced { lane_id: fence.lane_id, lease_epoch: fence.lease_epoch }),
    }
}

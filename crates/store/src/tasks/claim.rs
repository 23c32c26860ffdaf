//! Handing tasks to workers.

use std::collections::BTreeSet;

use matome_model::clock::Timestamp;
use matome_model::task::{Fence, Queue};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{ClaimedTask, TaskRow};
use crate::db::{Arg, Conn, Row};
use crate::error::{Result, StoreError};
use crate::{hosts, lanes};

/// How often a claim looks again for lanes behind those whose host turned out to be full.
const ROUNDS: usize = 4;
/// Lanes that one call makes ready at most.
const PROMOTE_AT_ONCE: i64 = 500;

const DUE: (&str, &str) = (
    "select id from lanes
where queue = $1 and not ready and next_run_at is not null and next_run_at <= $2 and lease_worker is null
order by next_run_at limit $3 for update skip locked",
    "select id from lanes
where queue = $1 and not ready and next_run_at is not null and next_run_at <= $2 and lease_worker is null
order by next_run_at limit $3",
);

const MAKE_READY: &str = "update lanes set ready = true,
    vtime = case when vtime >= 0 and vtime < $2 then $2 else vtime end
where {lanes}";

/// Makes lanes ready whose time has come. Returns how many; when it is [`PROMOTE_AT_ONCE`] there may be more.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn promote(conn: &mut Conn<'_>, queue: Queue, now: Timestamp) -> Result<usize> {
    let due = conn.pick(DUE.0, DUE.1);
    let rows = conn.fetch_all(due, &[queue.as_str().into(), now.into(), PROMOTE_AT_ONCE.into()]).await?;
    let ids = rows.iter().map(|row| row.int("id")).collect::<Result<Vec<i64>>>()?;
    if !ids.is_empty() {
        let floor = lanes::floor(conn, queue).await?;
        let sql = MAKE_READY.replace("{lanes}", &conn.any_of("id", 1));
        conn.execute(AssertSqlSafe(sql), &[Arg::Ints(&ids), floor.into()]).await?;
    }
    Ok(ids.len())
}

// Lanes only, and never waiting: another claimer's lanes are skipped, and those of hosts that are full by this snapshot, so
// that they do not stand before others. Only those of limited hosts have a name here.
macro_rules! lock_free {
    ($which:literal, $lock:literal) => {
        concat!(
            "select id, vtime, (select h.host from hosts h where h.host = lanes.host) as limited_host from lanes
where queue = $1 and ready and not paused and lease_worker is null",
            $which,
            " and (host is null or host not in (
    select h.host from hosts h where h.concurrent <= (
        select count(*) from lanes r where r.host = h.host and r.host is not null and r.lease_worker is not null)))
order by vtime limit $2",
            $lock
        )
    };
}
const LOCK_FREE: (&str, &str) = (lock_free!("", " for update skip locked"), lock_free!("", ""));
const LOCK_ONE: (&str, &str) = (lock_free!(" and id = $3", " for update skip locked"), lock_free!(" and id = $3", ""));

// A statement of its own behind LOCK_FREE: its snapshot has all that earlier holders of the lanes committed.
const PICK: (&str, &str) = (
    "select t.id, t.lane_id from unnest((select $1::bigint[])) as l (id) cross join lateral (
    select x.id, x.lane_id from tasks x where x.lane_id = l.id and x.status = 'pending' and x.run_at <= $2
    order by x.sort_key, x.id limit 1) t",
    "select t.id, t.lane_id from json_each($1) l join tasks t on t.id = (
    select x.id from tasks x where x.lane_id = l.value and x.status = 'pending' and x.run_at <= $2
    order by x.sort_key, x.id limit 1)",
);

const LEASE: (&str, &str) = (
    "update lanes set lease_epoch = lease_epoch + 1, lease_worker = $3, lease_task = p.task_id, leased_at = $4,
    vtime = (case when vtime < 0 then coalesce($5, 0) else vtime end) + 1 / weight
from unnest((select $1::bigint[]), (select $2::bigint[])) as p (lane_id, task_id) where lanes.id = p.lane_id",
    "update lanes set lease_epoch = lease_epoch + 1, lease_worker = $3, lease_task = p.task_id, leased_at = $4,
    vtime = (case when vtime < 0 then coalesce($5, 0) else vtime end) + 1 / weight
from (select a.value as lane_id, b.value as task_id from json_each($1) a join json_each($2) b on a.key = b.key) p
where lanes.id = p.lane_id",
);

const START: &str = concat!(
    "update tasks set status = 'running', worker = $2, started_at = $3,
    lease_epoch = (select l.lease_epoch from lanes l where l.id = tasks.lane_id)
where {tasks} and status = 'pending' returning ",
    columns!()
);

/// Leases at most `slots` ready lanes of `queue` to `worker`, in the order of their virtual times, and starts
/// one task of each.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn claim(
    conn: &mut Conn<'_>,
    queue: Queue,
    worker: Uuid,
    slots: usize,
    now: Timestamp,
) -> Result<Vec<ClaimedTask>> {
    claim_among(conn, queue, None, worker, slots, now).await
}

/// As [`claim`], of one lane alone.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn claim_of(
    conn: &mut Conn<'_>,
    queue: Queue,
    lane_id: i64,
    worker: Uuid,
    now: Timestamp,
) -> Result<Vec<ClaimedTask>> {
    claim_among(conn, queue, Some(lane_id), worker, 1, now).await
}

async fn claim_among(
    conn: &mut Conn<'_>,
    queue: Queue,
    only: Option<i64>,
    worker: Uuid,
    slots: usize,
    now: Timestamp,
) -> Result<Vec<ClaimedTask>> {
    promote(conn, queue, now).await?;
    let mut claimed = Vec::new();
    for _ in 0..ROUNDS {
        let (more, left_out) = claim_once(conn, queue, only, worker, slots - claimed.len(), now).await?;
        claimed.extend(more);
        if !left_out || claimed.len() == slots {
            break;
        }
    }
    Ok(claimed)
}

/// Claims once; also says whether lanes were left out because their host is full: others may have come behind them.
async fn claim_once(
    conn: &mut Conn<'_>,
    queue: Queue,
    only: Option<i64>,
    worker: Uuid,
    slots: usize,
    now: Timestamp,
) -> Result<(Vec<ClaimedTask>, bool)> {
    let limit = i64::try_from(slots).unwrap_or(i64::MAX);
    let (queued, limit): (Arg<'_>, Arg<'_>) = (queue.as_str().into(), limit.into());
    let rows = match only {
        None => conn.fetch_all(conn.pick(LOCK_FREE.0, LOCK_FREE.1), &[queued, limit]).await?,
        Some(lane_id) => conn.fetch_all(conn.pick(LOCK_ONE.0, LOCK_ONE.1), &[queued, limit, lane_id.into()]).await?,
    };
    let (rows, left_out) = with_room(conn, rows).await?;
    let locked = rows.iter().map(|row| row.int("id")).collect::<Result<Vec<i64>>>()?;
    if locked.is_empty() {
        return Ok((Vec::new(), left_out));
    }
    // Lanes that were to be served next come back into virtual time where the others are.
    let is_next =
        rows.first().map(|row| row.opt_float("vtime")).transpose()?.flatten().is_some_and(|vtime| vtime < 0.0);
    let floor = if is_next { lanes::floor(conn, queue).await? } else { None };
    let pick = conn.pick(PICK.0, PICK.1);
    let rows = conn.fetch_all(pick, &[Arg::Ints(&locked), now.into()]).await?;
    let lane_ids = rows.iter().map(|row| row.int("lane_id")).collect::<Result<Vec<i64>>>()?;
    let task_ids = rows.iter().map(|row| row.int("id")).collect::<Result<Vec<i64>>>()?;
    if lane_ids.len() < locked.len() {
        // Said to be ready and was not; a sweep counts how often that happens, here it is put right.
        let idle: Vec<i64> = locked.iter().copied().filter(|id| !lane_ids.contains(id)).collect();
        lanes::recompute(conn, &idle, now, None).await?;
    }
    if lane_ids.is_empty() {
        return Ok((Vec::new(), left_out));
    }
    let lease = conn.pick(LEASE.0, LEASE.1);
    let args: [Arg<'_>; 5] = [Arg::Ints(&lane_ids), Arg::Ints(&task_ids), worker.into(), now.into(), floor.into()];
    let leased = conn.execute(lease, &args).await?;
    let start = START.replace("{tasks}", &conn.any_of("id", 1));
    let rows = conn.fetch_all(AssertSqlSafe(start), &[Arg::Ints(&task_ids), worker.into(), now.into()]).await?;
    if rows.len() != task_ids.len() || leased != u64::try_from(lane_ids.len()).unwrap_or(u64::MAX) {
        // Cannot be while the lock order holds; nothing of this claim may commit.
        return Err(StoreError::Inconsistent {
            column: "lanes.lease_task".to_owned(),
            what: format!("{leased} lanes leased, {} tasks started", rows.len()),
        });
    }
    // `ready` means nothing while a lane is leased; whoever ends the lease computes it.
    let claimed = rows.iter().map(|row| claimed(row, worker)).collect::<Result<Vec<_>>>()?;
    Ok((claimed, left_out))
}

/// Those of the locked lanes whose hosts have room for them, in their order; and whether some have not.
async fn with_room(conn: &mut Conn<'_>, rows: Vec<Row>) -> Result<(Vec<Row>, bool)> {
    let mut hosts = Vec::with_capacity(rows.len());
    for row in &rows {
        hosts.push(row.opt_text("limited_host")?);
    }
    let limited: BTreeSet<String> = hosts.iter().flatten().cloned().collect();
    if limited.is_empty() {
        return Ok((rows, false));
    }
    let mut room = hosts::room(conn, limited).await?;
    let mut fits = |host: &Option<String>| match host.as_ref().and_then(|host| room.get_mut(host)) {
        // No limit, or not any more.
        None => true,
        Some(0) => false,
        Some(room) => {
            *room -= 1;
            true
        }
    };
    let before = rows.len();
    let kept: Vec<Row> = rows.into_iter().zip(&hosts).filter(|(_, host)| fits(host)).map(|(row, _)| row).collect();
    let left_out = kept.len() < before;
    Ok((kept, left_out))
}

fn claimed(row: &crate::db::Row, worker: Uuid) -> Result<ClaimedTask> {
    let task = TaskRow::from_row(row)?;
    let lease_epoch = row.int("lease_epoch")?;
    let fence = Fence { lane_id: task.lane_id, lease_epoch, worker };
    Ok(ClaimedTask { task, fence })
}

//! Taking lanes back from workers that died, and putting right what should never be.

use matome_model::clock::Timestamp;
use matome_model::task::{Fence, TaskStatus};
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::cancel::stopped;
use super::end::{self, Change};
use crate::db::{Arg, Conn};
use crate::error::Result;
use crate::lanes::{self, LockedLane};

/// With so many deaths of a worker without a page in between, the task itself is taken for the cause. From the second
/// on it runs alone in a process of its own, and is failed at once when that dies: see `matome_tasks::Worker::isolating`.
/// These here are deaths of everything, of which a task is the cause only when it takes the machine with it: one that is
/// switched off a few times must not cost anybody a task.
const POISON_AFTER: i64 = 10;
const POISON: &str = r#"{"message":"its worker died ten times in a row while it ran, without a page committed","causes":[],"position":null,"reason":"poison","ja":{"message":"実行中のワーカーが、ページを一つも確定しないまま続けて 10 回終了しました","causes":[]}}"#;
/// Lanes that one call takes back at most.
const LANES_AT_ONCE: i64 = 500;

/// What became of the tasks of dead workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stolen {
    /// They wait again.
    pub waiting: usize,
    /// They were to be cancelled anyway.
    pub cancelled: usize,
    /// They failed for good, with reason `poison`.
    pub poisoned: usize,
}

impl Stolen {
    /// How many there were.
    pub fn total(self) -> usize {
        self.waiting + self.cancelled + self.poisoned
    }
}

/// Takes back lanes that `worker`, which is dead, held. Lanes that a session of it still has locked are left
/// for the next call.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn steal(conn: &mut Conn<'_>, worker: Uuid, now: Timestamp) -> Result<Stolen> {
    let lanes = lanes::lock_leased(conn, Some(worker), LANES_AT_ONCE).await?;
    take_back(conn, &lanes, now).await
}

/// Takes back one lane whose lease has lasted too long, if it still is that lease. A lane that a session has locked is
/// left for the next call.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn steal_lease(conn: &mut Conn<'_>, fence: &Fence, now: Timestamp) -> Result<Stolen> {
    let lanes: Vec<LockedLane> = lanes::lock_lease(conn, fence).await?.into_iter().collect();
    take_back(conn, &lanes, now).await
}

/// Takes back every lane: for a process that is the only one that can be alive, because it holds the data
/// directory, and has just started.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn void_leases(conn: &mut Conn<'_>, now: Timestamp) -> Result<Stolen> {
    conn.execute("update workers set gone_at = $1 where gone_at is null", &[now.into()]).await?;
    let lanes = lanes::lock_leased(conn, None, i64::MAX).await?;
    take_back(conn, &lanes, now).await
}

// A worker that said goodbye gave up what it could not give back; no death.
const RUNNING: &str = "select t.id, t.lane_id, t.attempt, t.crash_count, t.cancel_requested_at,
    case when w.draining then 0 else 1 end as deaths
from tasks t left join workers w on w.boot = t.worker and w.gone_at is not null
where {lanes} and t.status = 'running'";

// The new epoch fences the last holder even if it should come back under its own name.
const BUMP: &str = "update lanes set lease_epoch = lease_epoch + 1 where {lanes}";

async fn take_back(conn: &mut Conn<'_>, lanes: &[LockedLane], now: Timestamp) -> Result<Stolen> {
    let mut stolen = Stolen::default();
    let ids: Vec<i64> = lanes.iter().map(|lane| lane.id).collect();
    if ids.is_empty() {
        return Ok(stolen);
    }
    let running = RUNNING.replace("{lanes}", &conn.any_of("t.lane_id", 1));
    let mut changes = Vec::new();
    for row in conn.fetch_all(AssertSqlSafe(running), &[Arg::Ints(&ids)]).await? {
        let crash_count = row.int("crash_count")? + row.int("deaths")?;
        let status = match stopped(row.opt_time("cancel_requested_at")?.is_some()) {
            TaskStatus::Pending if crash_count >= POISON_AFTER => TaskStatus::Failed,
            status => status,
        };
        let mut error = None;
        match status {
            TaskStatus::Pending => stolen.waiting += 1,
            TaskStatus::Cancelled => stolen.cancelled += 1,
            _ => {
                stolen.poisoned += 1;
                error = Some(RawValue::from_string(POISON.to_owned()).expect("a constant object is JSON"));
            }
        }
        let (id, attempt) = (row.int("id")?, row.int("attempt")?);
        changes.push(Change { id, status, run_at: None, attempt, crash_count, result: None, error });
    }
    let bump = BUMP.replace("{lanes}", &conn.any_of("id", 1));
    conn.execute(AssertSqlSafe(bump), &[Arg::Ints(&ids)]).await?;
    end::apply(conn, &changes, now).await?;
    lanes::release(conn, &ids, now).await?;
    Ok(stolen)
}

/// How much was found that should never be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Lanes leased to a task that does not run.
    pub leaked_leases: usize,
    /// Running tasks whose lane is not leased to them.
    pub orphaned_tasks: usize,
    /// Free lanes that would never have been looked at although a task waits.
    pub idle_lanes: usize,
}

impl Repaired {
    /// How much it was in all.
    pub fn total(self) -> usize {
        self.leaked_leases + self.orphaned_tasks + self.idle_lanes
    }
}

const LEAKED: &str = "select l.id from lanes l left join tasks t on t.id = l.lease_task
where l.lease_worker is not null
and (t.id is null or t.status <> 'running' or t.lane_id <> l.id or t.lease_epoch <> l.lease_epoch)";

const ORPHANED: &str = "select t.lane_id as id from tasks t join lanes l on l.id = t.lane_id
where t.status = 'running' and (l.lease_task is null or l.lease_task <> t.id)";

const IDLE: &str = "select distinct l.id from lanes l join tasks t on t.lane_id = l.id
where t.status = 'pending' and l.lease_worker is null and (l.next_run_at is null
    or (not l.ready and l.next_run_at > t.run_at and (l.not_before is null or l.next_run_at > l.not_before)))";

const REQUEUE_ORPHANS: &str = "update tasks set status = 'pending', lease_epoch = null
where {lanes} and status = 'running'
and not exists (select 1 from lanes l where l.id = tasks.lane_id and l.lease_task = tasks.id)";

/// Looks for lanes and tasks in states that no transition makes, repairs and counts them. Each transition
/// commits whole, so one snapshot that shows such a state proves a defect.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn repair(conn: &mut Conn<'_>, now: Timestamp) -> Result<Repaired> {
    let mut repaired = Repaired::default();
    for (kind, query) in [LEAKED, ORPHANED, IDLE].into_iter().enumerate() {
        let suspects = suspects(conn, query, &[]).await?;
        if suspects.is_empty() {
            continue;
        }
        lanes::lock(conn, &suspects).await?;
        // Again behind the locks: it may have been put right in between.
        let narrowed = format!("select id from ({query}) found where {}", conn.any_of("id", 1));
        let found = suspects_in(conn, narrowed, &suspects).await?;
        match kind {
            0 => {
                let bump = BUMP.replace("{lanes}", &conn.any_of("id", 1));
                conn.execute(AssertSqlSafe(bump), &[Arg::Ints(&found)]).await?;
                lanes::release(conn, &found, now).await?;
                repaired.leaked_leases = found.len();
            }
            1 => {
                let requeue = REQUEUE_ORPHANS.replace("{lanes}", &conn.any_of("lane_id", 1));
                conn.execute(AssertSqlSafe(requeue), &[Arg::Ints(&found)]).await?;
                lanes::recompute(conn, &found, now, None).await?;
                repaired.orphaned_tasks = found.len();
            }
            _ => {
                lanes::recompute(conn, &found, now, None).await?;
                repaired.idle_lanes = found.len();
            }
        }
    }
    Ok(repaired)
}

async fn suspects(conn: &mut Conn<'_>, query: &'static str, args: &[Arg<'_>]) -> Result<Vec<i64>> {
    let rows = conn.fetch_all(AssertSqlSafe(format!("{query} limit {LANES_AT_ONCE}")), args).await?;
    rows.iter().map(|row| row.int("id")).collect()
}

async fn suspects_in(conn: &mut Conn<'_>, query: String, ids: &[i64]) -> Result<Vec<i64>> {
    let rows = conn.fetch_all(AssertSqlSafe(query), &[Arg::Ints(ids)]).await?;
    rows.iter().map(|row| row.int("id")).collect()
}

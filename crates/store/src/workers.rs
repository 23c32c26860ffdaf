//! Worker processes and their heartbeats.

use std::time::Duration;

use matome_model::clock::Timestamp;
use matome_model::task::Fence;
use uuid::Uuid;

use crate::db::{Conn, Dialect};
use crate::error::Result;
use crate::migrate::{self, Schema};

/// A worker whose heartbeat counter stands still for so long, by the observer's own clock, is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(6);

/// A process that runs tasks, as it introduces itself.
#[derive(Clone, Debug)]
pub struct NewWorker {
    /// New at every process start.
    pub boot: Uuid,
    /// What it does, for people.
    pub role: String,
    /// Name of its machine.
    pub host: String,
    /// Process id there.
    pub pid: i64,
    /// Version of its binary.
    pub version: String,
}

const REGISTER: &str = "insert into workers (boot, role, host, pid, version, schema_version, started_at, last_beat_at)
values ($1, $2, $3, $4, $5, $6, $7, $7)
on conflict (boot) do update set gone_at = null, draining = false, beat_seq = workers.beat_seq + 1, last_beat_at = excluded.last_beat_at";

/// Registers a worker; or brings one back that was declared dead and is not, without its leases.
///
/// # Errors
/// [`StoreError::SchemaVersion`](crate::error::StoreError::SchemaVersion) when the schema is none that the worker's build,
/// which knows `schema`, works with; when the database refuses a statement or is gone.
pub async fn register(conn: &mut Conn<'_>, worker: &NewWorker, schema: Schema, now: Timestamp) -> Result<()> {
    migrate::stay(conn).await?;
    let args = [
        worker.boot.into(),
        (&worker.role).into(),
        (&worker.host).into(),
        worker.pid.into(),
        (&worker.version).into(),
        schema.version().into(),
        now.into(),
    ];
    conn.execute(REGISTER, &args).await?;
    // A snapshot of its own: a contracting migration that was quicker is seen, and this transaction has not happened.
    schema.check(conn).await
}

/// A lease as the database sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// The lane.
    pub lane_id: i64,
    /// The epoch of the lease.
    pub lease_epoch: i64,
    /// The task that runs under it.
    pub task_id: i64,
    /// Somebody asked the task to stop.
    pub cancel_requested: bool,
    /// Another task of the lane is due that would come first if this one went back in line now.
    pub others_wait: bool,
}

/// What a heartbeat learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The leases that this worker still has; any other that it believes in is lost.
    Alive(Vec<HeldLease>),
    /// A sweeper took this worker for dead, or it never registered: all its leases are lost.
    DeclaredDead,
}

const BEAT: &str = "update workers set beat_seq = beat_seq + 1, last_beat_at = $2, draining = $3
where boot = $1 and gone_at is null";

const HELD: &str = "select l.id, l.lease_epoch, l.lease_task, t.cancel_requested_at,
    case when l.paused or l.not_before > $2 then 0
        else (select count(*) from (
            select 1 as one from tasks o where o.lane_id = l.id and o.status = 'pending'
            and o.sort_key < $2 + (t.sort_key - t.run_at) and o.run_at <= $2 limit 1) due)
    end as others
from lanes l join tasks t on t.id = l.lease_task where l.lease_worker = $1";

/// Shows that the worker lives, and tells it which leases it has and which tasks are to stop.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn beat(conn: &mut Conn<'_>, boot: Uuid, draining: bool, now: Timestamp) -> Result<Beat> {
    if conn.execute(BEAT, &[boot.into(), now.into(), draining.into()]).await? == 0 {
        return Ok(Beat::DeclaredDead);
    }
    let rows = conn.fetch_all(HELD, &[boot.into(), now.into()]).await?;
    let held = rows.iter().map(|row| {
        Ok(HeldLease {
            lane_id: row.int("id")?,
            lease_epoch: row.int("lease_epoch")?,
            task_id: row.int("lease_task")?,
            cancel_requested: row.opt_time("cancel_requested_at")?.is_some(),
            others_wait: row.int("others")? > 0,
        })
    });
    held.collect::<Result<Vec<_>>>().map(Beat::Alive)
}

const CANCELLED: &str = "select l.id, l.lease_epoch from lanes l join tasks t on t.id = l.lease_task
where l.lease_worker = $1 and t.cancel_requested_at is not null";

/// The leases of a worker whose tasks somebody asked to stop.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn cancelled(conn: &mut Conn<'_>, boot: Uuid) -> Result<Vec<Fence>> {
    let rows = conn.fetch_all(CANCELLED, &[boot.into()]).await?;
    rows.iter()
        .map(|row| Ok(Fence { lane_id: row.int("id")?, lease_epoch: row.int("lease_epoch")?, worker: boot }))
        .collect()
}

// Whoever says goodbye is no dead worker, even when it leaves a lease behind (see `tasks::steal`).
const GONE: &str = "update workers set gone_at = $2, draining = true where boot = $1 and gone_at is null";

/// Says goodbye: the worker has released all it held.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn gone(conn: &mut Conn<'_>, boot: Uuid, now: Timestamp) -> Result<()> {
    conn.execute(GONE, &[boot.into(), now.into()]).await.map(drop)
}

/// The heartbeat counters of the workers that are not gone.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn beats(conn: &mut Conn<'_>) -> Result<Vec<(Uuid, i64)>> {
    let rows = conn.fetch_all("select boot, beat_seq from workers where gone_at is null", &[]).await?;
    rows.iter().map(|row| Ok((row.uuid("boot")?, row.int("beat_seq")?))).collect()
}

const DECLARE_DEAD: &str = "update workers set gone_at = $3 where boot = $1 and beat_seq = $2 and gone_at is null";

/// Declares a worker dead whose counter still stands at `beat_seq`. Returns whether it did.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn declare_dead(conn: &mut Conn<'_>, boot: Uuid, beat_seq: i64, now: Timestamp) -> Result<bool> {
    Ok(conn.execute(DECLARE_DEAD, &[boot.into(), beat_seq.into(), now.into()]).await? > 0)
}

const NAMED: &str = "select role, host, pid from workers where boot = $1";

/// What a worker is called, for people: its role, its name or that of its machine, and its process. Its boot id when it
/// never registered.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn name(conn: &mut Conn<'_>, boot: Uuid) -> Result<String> {
    match conn.fetch_optional(NAMED, &[boot.into()]).await? {
        Some(row) => Ok(format!("{} {} (pid {})", row.text("role")?, row.text("host")?, row.int("pid")?)),
        None => Ok(boot.to_string()),
    }
}

const HOLDERS_GONE: &str = "select distinct l.lease_worker as boot from lanes l
where l.lease_worker is not null
and not exists (select 1 from workers w where w.boot = l.lease_worker and w.gone_at is null)";

/// Boot ids that hold lanes although their workers are gone.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn holders_gone(conn: &mut Conn<'_>) -> Result<Vec<Uuid>> {
    let rows = conn.fetch_all(HOLDERS_GONE, &[]).await?;
    rows.iter().map(|row| row.uuid("boot")).collect()
}

const LEASED: &str = "select id, lease_epoch, lease_worker from lanes where lease_worker is not null";

/// All leases there are.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn leased(conn: &mut Conn<'_>) -> Result<Vec<Fence>> {
    let rows = conn.fetch_all(LEASED, &[]).await?;
    let fence = |row: &crate::db::Row| {
        let (lane_id, lease_epoch) = (row.int("id")?, row.int("lease_epoch")?);
        Ok(Fence { lane_id, lease_epoch, worker: row.uuid("lease_worker")? })
    };
    rows.iter().map(fence).collect()
}

const END_SESSIONS: &str = "select pg_terminate_backend(pid) as ended from pg_stat_activity
where application_name = $1 and pid <> pg_backend_pid()
and not exists (select 1 from workers where boot = $2 and beat_seq <> $3 and gone_at is null)";

/// Ends the database sessions of a worker, so that none of them keeps anything locked; unless it lives and its counter has
/// moved on from `beat_seq`. Returns how many there were; always 0 on SQLite.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn end_sessions(conn: &mut Conn<'_>, boot: Uuid, beat_seq: i64) -> Result<usize> {
    if conn.dialect() == Dialect::Sqlite {
        return Ok(0);
    }
    let name = format!("matome-{boot}");
    Ok(conn.fetch_all(END_SESSIONS, &[(&name).into(), boot.into(), beat_seq.into()]).await?.len())
}

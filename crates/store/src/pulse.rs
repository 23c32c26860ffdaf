//! How an installation does, in a few numbers: what waits, who works, how late schedules are.
//!
//! Each statement stays on an index and reads what waits now, not the history, and of that no more than [`COUNTED`] rows.

use chrono::TimeDelta;
use matome_model::clock::Timestamp;
use matome_model::task::Queue;

use crate::db::Conn;
use crate::error::Result;

/// Waiting tasks of a queue that are looked at, the oldest of them: a scrape costs no more, however many wait.
pub const COUNTED: i64 = 10_000;

/// A process whose heartbeat is older does not live, whatever its row says.
const ALIVE: TimeDelta = TimeDelta::seconds(30);

/// The tasks of a queue that wait; as far as they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// The queue.
    pub queue: Queue,
    /// All that wait, for a retry too.
    pub waiting: i64,
    /// Those of them whose time has come.
    pub due: i64,
    /// How long the first of these has waited; zero when none is due.
    pub oldest: TimeDelta,
}

/// The processes of a role that have not signed off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleState {
    /// What they do.
    pub role: String,
    /// How many they are.
    pub processes: i64,
    /// Those of them with a heartbeat of the last 30 seconds.
    pub alive: i64,
    /// Since the heartbeat that is longest ago.
    pub heartbeat_age: TimeDelta,
}

/// A machine with workers, or that had some in the last ten minutes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerHost {
    /// Its name.
    pub host: String,
    /// Whether a worker there has a heartbeat of the last 30 seconds.
    pub is_up: bool,
    /// Tasks that run there.
    pub tasks: i64,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// In the order of [`Queue::ALL`].
    pub queues: Vec<QueueState>,
    /// In no order.
    pub roles: Vec<RoleState>,
    /// How long the first schedule that is due has waited; zero when none is.
    pub beat_lag: TimeDelta,
}

/// What waits. By id: the first to come are the first to be late. Were the status a constant, PostgreSQL would see `id` alone
/// as the order and walk through the history by the primary key; so it is a range, which only `tasks_by_status` has in order.
pub const WAITING: &str =
    "select count(*) as waiting, count(case when run_at <= $2 then 1 end) as due, min(run_at) as first_at
from (select run_at from tasks where queue = $1 and status between 'pending' and 'pending'
    order by status desc, id limit $3) as waiting";

// Where more wait than are looked at, the lanes that would be served next tell of those behind.
const FIRST_LANE: &str = "select min(first_at) as first_at from (
    select next_run_at as first_at from (select next_run_at from lanes
        where queue = $1 and ready and not paused and lease_worker is null order by vtime limit $2) as ready
    union all
    select next_run_at from (select next_run_at from lanes
        where queue = $1 and not ready and next_run_at is not null and lease_worker is null
        order by next_run_at limit 1) as waiting
) as lanes_first";

const ROLES: &str = "select role, count(*) as processes, count(case when last_beat_at >= $1 then 1 end) as alive,
    min(last_beat_at) as beat_at
from workers where gone_at is null group by role";

const HOSTS: &str =
    "select w.host, count(l.id) as tasks, max(case when w.gone_at is null then w.last_beat_at end) as beat_at
from workers w left join lanes l on l.lease_worker = w.boot
where (w.gone_at is null or w.gone_at > $1)
    and (w.role = 'serve' or w.role like '%acquisition%' or w.role like '%aggregation%')
group by w.host order by w.host";

/// The machines with workers.
///
/// # Errors
/// When the database is gone.
pub async fn worker_hosts(conn: &mut Conn<'_>, now: Timestamp) -> Result<Vec<WorkerHost>> {
    let rows = conn.fetch_all(HOSTS, &[(now - TimeDelta::minutes(10)).into()]).await?;
    let host = |row: &crate::db::Row| {
        let is_up = row.opt_time("beat_at")?.is_some_and(|at| now - at <= ALIVE);
        Ok(WorkerHost { host: row.text("host")?, is_up, tasks: row.int("tasks")? })
    };
    rows.iter().map(host).collect()
}

const SERVED: &str = "select 1 as one from workers where gone_at is null and not draining and last_beat_at >= $1
    and (role = 'serve' or role like $2) limit 1";

/// Whether a process lives that takes tasks of `queue`.
///
/// # Errors
/// When the database is gone.
pub async fn is_served(conn: &mut Conn<'_>, queue: Queue, now: Timestamp) -> Result<bool> {
    let role = format!("%{queue}%");
    Ok(!conn.fetch_all(SERVED, &[(now - ALIVE).into(), (&role).into()]).await?.is_empty())
}

const FIRST_SCHEDULE: &str = "select coalesce(due_at, next_at) as first_at from schedules where enabled
order by coalesce(due_at, next_at), id limit 1";

/// Looks at it.
///
/// # Errors
/// When the database is gone.
pub async fn look(conn: &mut Conn<'_>, now: Timestamp) -> Result<Pulse> {
    let since = |at: Option<Timestamp>| at.map_or(TimeDelta::zero(), |at| (now - at).max(TimeDelta::zero()));
    let mut queues = Vec::new();
    for &queue in Queue::ALL {
        let row = conn.fetch_one(WAITING, &[queue.as_str().into(), now.into(), COUNTED.into()]).await?;
        let (waiting, due) = (row.int("waiting")?, row.int("due")?);
        let mut oldest = since(row.opt_time("first_at")?);
        if waiting == COUNTED {
            let row = conn.fetch_one(FIRST_LANE, &[queue.as_str().into(), COUNTED.into()]).await?;
            oldest = oldest.max(since(row.opt_time("first_at")?));
        }
        queues.push(QueueState { queue, waiting, due, oldest });
    }
    let mut roles = Vec::new();
    for row in conn.fetch_all(ROLES, &[(now - ALIVE).into()]).await? {
        let heartbeat_age = since(row.opt_time("beat_at")?);
        let (processes, alive) = (row.int("processes")?, row.int("alive")?);
        roles.push(RoleState { role: row.text("role")?, processes, alive, heartbeat_age });
    }
    let first = conn.fetch_optional(FIRST_SCHEDULE, &[]).await?;
    let first = first.map(|row| row.time("first_at")).transpose()?;
    Ok(Pulse { queues, roles, beat_lag: since(first) })
}

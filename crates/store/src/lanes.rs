//! Lanes: who may work on one stream of one object, and when.
//!
//! A lane row is locked before anything about its tasks is read. `next_run_at` and `ready` follow from the
//! pending tasks and are computed anew by every transition that may change them, while it holds the lock.

use std::collections::BTreeMap;

use matome_model::clock::Timestamp;
use matome_model::task::{Fence, LaneKind, Priority, Queue, Share};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::db::{Arg, Conn};
use crate::error::{Result, StoreError};

/// A lane whose row this transaction has locked.
#[derive(Clone, Debug)]
pub(crate) struct LockedLane {
    pub(crate) id: i64,
    pub(crate) queue: Queue,
    pub(crate) lease_epoch: i64,
    pub(crate) lease_worker: Option<Uuid>,
    pub(crate) lease_task: Option<i64>,
    pub(crate) fail_streak: i64,
    pub(crate) not_before: Option<Timestamp>,
    /// Of the tasks that nobody gave another.
    pub(crate) priority: Priority,
}

const COLUMNS: &str = "id, queue, lease_epoch, lease_worker, lease_task, fail_streak, not_before, priority";

impl LockedLane {
    fn from_row(row: &crate::db::Row) -> Result<Self> {
        Ok(Self {
            id: row.int("id")?,
            queue: crate::tasks::word(row, "queue", Queue::parse)?,
            lease_epoch: row.int("lease_epoch")?,
            lease_worker: row.opt_uuid("lease_worker")?,
            lease_task: row.opt_int("lease_task")?,
            fail_streak: row.int("fail_streak")?,
            not_before: row.opt_time("not_before")?,
            priority: crate::tasks::word(row, "priority", Priority::parse)?,
        })
    }
}

/// Locks lanes chosen by `condition`, waiting for those that others hold, in the order of their ids.
async fn lock_where(conn: &mut Conn<'_>, condition: &str, args: &[Arg<'_>]) -> Result<Vec<LockedLane>> {
    // SQLite has one writer: whoever writes holds every lock.
    let lock = conn.pick(" for update", "");
    let sql = format!("select {COLUMNS} from lanes where {condition} order by id{lock}");
    conn.fetch_all(AssertSqlSafe(sql), args).await?.iter().map(LockedLane::from_row).collect()
}

pub(crate) async fn lock(conn: &mut Conn<'_>, ids: &[i64]) -> Result<Vec<LockedLane>> {
    let condition = conn.any_of("id", 1);
    lock_where(conn, &condition, &[Arg::Ints(ids)]).await
}

pub(crate) async fn lock_object(conn: &mut Conn<'_>, kind: LaneKind, object_id: i64) -> Result<Vec<LockedLane>> {
    lock_where(conn, "kind = $1 and object_id = $2", &[kind.as_str().into(), object_id.into()]).await
}

/// Locks the lanes of several objects, in the order of their ids.
pub(crate) async fn lock_objects(conn: &mut Conn<'_>, kind: LaneKind, object_ids: &[i64]) -> Result<Vec<LockedLane>> {
    let condition = format!("kind = $1 and {}", conn.any_of("object_id", 2));
    lock_where(conn, &condition, &[kind.as_str().into(), Arg::Ints(object_ids)]).await
}

/// Locks at most `limit` leased lanes that nobody else has locked; of `worker`, or of anybody.
pub(crate) async fn lock_leased(conn: &mut Conn<'_>, worker: Option<Uuid>, limit: i64) -> Result<Vec<LockedLane>> {
    // A page that is being committed holds its lane for a moment: that lane is for the next sweep.
    let lock = conn.pick(" for update skip locked", "");
    let whose = if worker.is_some() { "lease_worker = $2" } else { "lease_worker is not null" };
    let sql = format!("select {COLUMNS} from lanes where {whose} order by id limit $1{lock}");
    let mut args: Vec<Arg<'_>> = vec![limit.into()];
    args.extend(worker.map(Arg::from));
    conn.fetch_all(AssertSqlSafe(sql), &args).await?.iter().map(LockedLane::from_row).collect()
}

/// Locks the lane of a lease, unless it has ended or somebody has the lane locked.
pub(crate) async fn lock_lease(conn: &mut Conn<'_>, fence: &Fence) -> Result<Option<LockedLane>> {
    let lock = conn.pick(" for update skip locked", "");
    let sql = format!("select {COLUMNS} from lanes where id = $1 and lease_epoch = $2 and lease_worker = $3{lock}");
    let args = [fence.lane_id.into(), fence.lease_epoch.into(), fence.worker.into()];
    conn.fetch_optional(AssertSqlSafe(sql), &args).await?.as_ref().map(LockedLane::from_row).transpose()
}

/// Locks the lanes of the only stream of many objects, in the order of their ids.
pub(crate) async fn lock_many(
    conn: &mut Conn<'_>,
    sources: &[i64],
    aggregations: &[i64],
) -> Result<BTreeMap<(LaneKind, i64), LockedLane>> {
    let lock = conn.pick(" for update", "");
    let (sources_sql, aggregations_sql) = (conn.any_of("object_id", 1), conn.any_of("object_id", 2));
    let sql = format!(
        "select kind, object_id, {COLUMNS} from lanes
where (kind = 'source' and stream = '' and {sources_sql})
    or (kind = 'aggregation' and stream = '' and {aggregations_sql})
order by id{lock}"
    );
    let rows = conn.fetch_all(AssertSqlSafe(sql), &[Arg::Ints(sources), Arg::Ints(aggregations)]).await?;
    let lanes = rows.iter().map(|row| {
        let kind = crate::tasks::word(row, "kind", LaneKind::parse)?;
        Ok(((kind, row.int("object_id")?), LockedLane::from_row(row)?))
    });
    lanes.collect()
}

/// Makes the lanes of the only stream of many objects; one that is there is left as it is.
pub(crate) async fn create_many(conn: &mut Conn<'_>, kind: LaneKind, objects: &[i64]) -> Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let sql = conn.pick(
        "insert into lanes (queue, kind, object_id, stream) select $1, $2, x.id, '' from unnest($3) as x (id)
on conflict (kind, object_id, stream) do nothing",
        "insert into lanes (queue, kind, object_id, stream) select $1, $2, value, '' from json_each($3) where true
on conflict (kind, object_id, stream) do nothing",
    );
    let args = [kind.queue().as_str().into(), kind.as_str().into(), Arg::Ints(objects)];
    conn.execute(sql, &args).await.map(drop)
}

const CREATE: &str = "insert into lanes (queue, kind, object_id, stream) values ($1, $2, $3, $4)
on conflict (kind, object_id, stream) do nothing";

/// Locks the lane of a stream; makes it when it is new.
pub(crate) async fn lock_or_create(
    conn: &mut Conn<'_>,
    kind: LaneKind,
    object_id: i64,
    stream: &str,
) -> Result<LockedLane> {
    let condition = "kind = $1 and object_id = $2 and stream = $3";
    let key: [Arg<'_>; 3] = [kind.as_str().into(), object_id.into(), stream.into()];
    if let Some(lane) = lock_where(conn, condition, &key).await?.pop() {
        return Ok(lane);
    }
    let args = [kind.queue().as_str().into(), kind.as_str().into(), object_id.into(), stream.into()];
    conn.execute(CREATE, &args).await?;
    lock_where(conn, condition, &key).await?.pop().ok_or(StoreError::Database(sqlx::Error::RowNotFound))
}

// Among active lanes only: leased ones, few, and those of the claim index, whose first entry is the minimum. Lanes that
// are served next (see `serve_next`) are outside of virtual time. The queue is in the text, so that PostgreSQL plans once:
// this runs for each task that is accepted.
const FLOOR: &str = "select min(low) as low from (
    select min(vtime) as low from lanes
    where queue = '{queue}' and vtime >= 0 and ready and not paused and lease_worker is null
    union all
    select min(vtime) as low from lanes where queue = '{queue}' and vtime >= 0 and lease_worker is not null
) active";

/// The lowest virtual time of the queue's active lanes. A lane that wakes starts from there, so that it
/// cannot use up what it did not take while it was idle.
pub(crate) async fn floor(conn: &mut Conn<'_>, queue: Queue) -> Result<Option<f64>> {
    conn.fetch_one(AssertSqlSafe(FLOOR.replace("{queue}", queue.as_str())), &[]).await?.opt_float("low")
}

// The lanes are locked already, so this never waits for one and may look at the tasks.
const RECOMPUTE: &str = "update lanes set {release}
    next_run_at = p.next_at,
    ready = (p.next_at is not null and p.next_at <= $2),
    vtime = case when p.next_at <= $2 and not ready and lease_worker is null and vtime >= 0 and vtime < $3 then $3
        else vtime end
from (
    select x.lane_id, case when x.not_before > x.first_at then x.not_before else x.first_at end as next_at
    from (
        select l.id as lane_id, l.not_before,
            (select min(t.run_at) from tasks t where t.lane_id = l.id and t.status = 'pending') as first_at
        from lanes l where {lanes}
    ) x
) p
where lanes.id = p.lane_id";

async fn recompute_with(
    conn: &mut Conn<'_>,
    ids: &[i64],
    now: Timestamp,
    floor: Option<f64>,
    release: &str,
) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let sql = RECOMPUTE.replace("{release}", release).replace("{lanes}", &conn.any_of("l.id", 1));
    conn.execute(AssertSqlSafe(sql), &[Arg::Ints(ids), now.into(), floor.into()]).await.map(drop)
}

/// Brings `ready` and `next_run_at` of locked lanes in line with their pending tasks.
pub(crate) async fn recompute(conn: &mut Conn<'_>, ids: &[i64], now: Timestamp, floor: Option<f64>) -> Result<()> {
    recompute_with(conn, ids, now, floor, "").await
}

/// Ends the leases of locked lanes and brings `ready` and `next_run_at` in line.
pub(crate) async fn release(conn: &mut Conn<'_>, ids: &[i64], now: Timestamp) -> Result<()> {
    recompute_with(conn, ids, now, None, "lease_worker = null, lease_task = null, leased_at = null,").await
}

/// Virtual times of lanes that are served next are below zero: this, plus the second in which it was asked for. So they
/// are served in the order of asking, before all others.
const NEXT: f64 = -1e12;

const SERVE_NEXT: &str = "update lanes set vtime = $2 where id = $1 and vtime >= 0";

/// Lets a locked lane be the next to be served, once. Its share of the time is reckoned from then on as if it had just
/// become ready, so nobody starves who waits meanwhile.
pub(crate) async fn serve_next(conn: &mut Conn<'_>, id: i64, now: Timestamp) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit a float exactly")]
    let asked = now.timestamp_millis() as f64 / 1000.0;
    conn.execute(SERVE_NEXT, &[id.into(), Some(NEXT + asked).into()]).await.map(drop)
}

const SET_SHARE: &str = "update lanes set priority = $3, weight = $4 where kind = $1 and object_id = $2";

/// Says how often the lanes of an object are served beside others, and which priority its tasks have by themselves.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn set_share(conn: &mut Conn<'_>, kind: LaneKind, object_id: i64, share: Share) -> Result<()> {
    if lock_object(conn, kind, object_id).await?.is_empty() {
        if share == Share::default() {
            return Ok(());
        }
        lock_or_create(conn, kind, object_id, "").await?;
    }
    let args: [Arg<'_>; 4] =
        [kind.as_str().into(), object_id.into(), share.priority.as_str().into(), Some(share.lane_weight()).into()];
    conn.execute(SET_SHARE, &args).await.map(drop)
}

const SET_BREAKER: &str = "update lanes set fail_streak = $2, not_before = $3 where id = $1";

/// Sets how often tasks of a locked lane failed in a row, and before when nothing of it starts.
pub(crate) async fn set_breaker(
    conn: &mut Conn<'_>,
    id: i64,
    fail_streak: i64,
    not_before: Option<Timestamp>,
) -> Result<()> {
    conn.execute(SET_BREAKER, &[id.into(), fail_streak.into(), not_before.into()]).await.map(drop)
}

const SET_PAUSED: &str = "update lanes set paused = $3 where kind = $1 and object_id = $2";

/// Pauses or resumes all lanes of an object. A paused lane keeps its tasks; a running one goes on.
/// Returns how many lanes the object has.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn set_paused(
    conn: &mut Conn<'_>,
    kind: LaneKind,
    object_id: i64,
    paused: bool,
    now: Timestamp,
) -> Result<usize> {
    let lanes = lock_object(conn, kind, object_id).await?;
    let ids: Vec<i64> = lanes.iter().map(|lane| lane.id).collect();
    let floor = floor(conn, kind.queue()).await?;
    conn.execute(SET_PAUSED, &[kind.as_str().into(), object_id.into(), paused.into()]).await?;
    if !paused {
        // Not ready for a moment, so that the lane wakes at the floor and not with what it saved up.
        let sql = format!("update lanes set ready = false where {}", conn.any_of("id", 1));
        conn.execute(AssertSqlSafe(sql), &[Arg::Ints(&ids)]).await?;
        recompute(conn, &ids, now, floor).await?;
    }
    Ok(ids.len())
}

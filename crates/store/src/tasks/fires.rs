//! Accepting the tasks of many schedules at once: a handful of statements, however many there are.

use std::collections::{BTreeMap, HashMap, HashSet};

use matome_model::clock::Timestamp;
use matome_model::schedule::{MAX_CATCH_UP, Overlap};
use matome_model::task::{LaneKind, Queue, Trigger};
use serde_json::json;
use uuid::Uuid;

use crate::db::{Arg, Conn};
use crate::error::Result;
use crate::lanes;
use crate::tasks::enqueue::count_accepted;

/// A nominal time of a schedule that asks for a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fire {
    pub(crate) schedule_id: i64,
    /// The caller's own number of the schedule.
    pub(crate) at: usize,
    pub(crate) kind: LaneKind,
    pub(crate) object_id: i64,
    pub(crate) nominal: Timestamp,
    pub(crate) run_at: Timestamp,
    pub(crate) overlap: Overlap,
    /// Beside other waiting tasks of the schedule, as far as the limit goes.
    pub(crate) catches_up: bool,
}

/// What waits in a lane.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    all: usize,
    scheduled: usize,
}

const WAITING: &str = "select lane_id, count(*) as waiting,
    sum(case when cause = 'schedule' then 1 else 0 end) as scheduled
from tasks where status = 'pending' and {lanes} group by lane_id";

// `x.fire`, `x.run` and `x.sort` are microseconds.
const INSERT: (&str, &str) = (
    "insert into tasks
    (task_uuid, queue, lane_id, object_id, stream, cause, priority, run_at, sort_key, payload, schedule_id, fire_time,
    created_at)
select x.uuid, x.queue, x.lane, x.object, '', 'schedule', x.priority,
    timestamptz 'epoch' + x.run * interval '1 microsecond', timestamptz 'epoch' + x.sort * interval '1 microsecond',
    '{}', x.schedule, timestamptz 'epoch' + x.fire * interval '1 microsecond', $2
from jsonb_to_recordset($1)
    as x (uuid uuid, queue text, lane bigint, object bigint, priority text, run bigint, sort bigint, schedule bigint,
    fire bigint)
on conflict (schedule_id, fire_time) where schedule_id is not null do nothing
returning task_uuid",
    "insert into tasks
    (task_uuid, queue, lane_id, object_id, stream, cause, priority, run_at, sort_key, payload, schedule_id, fire_time,
    created_at)
select unhex(value ->> 'uuid'), value ->> 'queue', value ->> 'lane', value ->> 'object', '', 'schedule',
    value ->> 'priority', value ->> 'run', value ->> 'sort', '{}', value ->> 'schedule', value ->> 'fire', $2
from json_each($1)
where true
on conflict (schedule_id, fire_time) where schedule_id is not null do nothing
returning task_uuid",
);

/// Accepts the tasks of `fires`; says for each which one was made. One that was not is stood for by a task that
/// waits (or, with [`Overlap::Skip`], runs), or was made before.
///
/// The schedules of the fires are locked by the caller.
pub(crate) async fn enqueue_fires(conn: &mut Conn<'_>, fires: &[Fire], now: Timestamp) -> Result<Vec<Option<Uuid>>> {
    if fires.is_empty() {
        return Ok(Vec::new());
    }
    let lanes = lock_lanes(conn, fires).await?;
    let ids: Vec<i64> = lanes.values().map(|lane| lane.id).collect();
    let mut waiting: HashMap<i64, Waiting> = HashMap::new();
    let sql = WAITING.replace("{lanes}", &conn.any_of("lane_id", 1));
    for row in conn.fetch_all(sqlx::AssertSqlSafe(sql), &[Arg::Ints(&ids)]).await? {
        let count = |column| row.int(column).map(|n| usize::try_from(n).unwrap_or(0));
        waiting.insert(row.int("lane_id")?, Waiting { all: count("waiting")?, scheduled: count("scheduled")? });
    }
    // The latest of a schedule first, so that the limit drops the oldest.
    let mut wanted: Vec<(usize, Uuid)> = Vec::with_capacity(fires.len());
    for (n, fire) in fires.iter().enumerate().rev() {
        let Some(lane) = lanes.get(&(fire.kind, fire.object_id)) else { continue };
        let there = waiting.entry(lane.id).or_default();
        let has_room = match fire.overlap {
            _ if fire.catches_up => there.scheduled < MAX_CATCH_UP,
            Overlap::QueueOne => there.scheduled == 0,
            Overlap::Skip => there.all == 0 && lane.lease_task.is_none(),
        };
        if has_room {
            there.all += 1;
            there.scheduled += 1;
            wanted.push((n, Uuid::new_v4()));
        }
    }
    wanted.reverse();
    let is_sqlite = conn.pick(false, true);
    let rows: Vec<serde_json::Value> = wanted
        .iter()
        .map(|(n, uuid)| {
            let fire = &fires[*n];
            let lane = &lanes[&(fire.kind, fire.object_id)];
            let run = fire.run_at.timestamp_micros();
            json!({
                "uuid": if is_sqlite { uuid.simple().to_string() } else { uuid.to_string() },
                "queue": fire.kind.queue().as_str(),
                "lane": lane.id,
                "object": fire.object_id,
                "priority": lane.priority.as_str(),
                "run": run,
                "sort": run + lane.priority.offset_secs() * 1_000_000,
                "schedule": fire.schedule_id,
                "fire": fire.nominal.timestamp_micros(),
            })
        })
        .collect();
    let mut made = vec![None; fires.len()];
    if !rows.is_empty() {
        let rows = serde_json::value::to_raw_value(&rows).expect("numbers and text are JSON");
        let insert = conn.pick(INSERT.0, INSERT.1);
        let inserted = conn.fetch_all(insert, &[(&*rows).into(), now.into()]).await?;
        let inserted = inserted.iter().map(|row| row.uuid("task_uuid")).collect::<Result<HashSet<Uuid>>>()?;
        for (n, uuid) in &wanted {
            made[*n] = inserted.contains(uuid).then_some(*uuid);
            if made[*n].is_some() {
                count_accepted(fires[*n].kind.queue(), Trigger::Schedule);
            }
        }
    }
    for queue in Queue::ALL {
        let of_queue = lanes.values().filter(|lane| lane.queue == *queue).map(|lane| lane.id).collect::<Vec<i64>>();
        if !of_queue.is_empty() {
            let floor = lanes::floor(conn, *queue).await?;
            lanes::recompute(conn, &of_queue, now, floor).await?;
        }
    }
    Ok(made)
}

/// Locks the lanes of all fires in the order of their ids, after making those that are new.
async fn lock_lanes(conn: &mut Conn<'_>, fires: &[Fire]) -> Result<BTreeMap<(LaneKind, i64), lanes::LockedLane>> {
    let objects = |kind| -> Vec<i64> {
        let mut ids: Vec<i64> = fires.iter().filter(|fire| fire.kind == kind).map(|fire| fire.object_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let (sources, aggregations) = (objects(LaneKind::Source), objects(LaneKind::Aggregation));
    let mut found = lanes::lock_many(conn, &sources, &aggregations).await?;
    let missing = |kind, ids: &[i64]| -> Vec<i64> {
        ids.iter().copied().filter(|id| !found.contains_key(&(kind, *id))).collect()
    };
    let (new_sources, new_aggregations) =
        (missing(LaneKind::Source, &sources), missing(LaneKind::Aggregation, &aggregations));
    if !new_sources.is_empty() || !new_aggregations.is_empty() {
        lanes::create_many(conn, LaneKind::Source, &new_sources).await?;
        lanes::create_many(conn, LaneKind::Aggregation, &new_aggregations).await?;
        found.extend(lanes::lock_many(conn, &new_sources, &new_aggregations).await?);
    }
    Ok(found)
}

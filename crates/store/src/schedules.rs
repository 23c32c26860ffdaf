//! Schedules: when tasks are made without anybody asking.
//!
//! Lock order: a schedule is locked before the lane of its object.

use std::collections::HashMap;

use chrono::TimeDelta;
use matome_model::clock::Timestamp;
use matome_model::schedule::{Cron, Misfire, Overlap, Plan, ScheduleOptions, Timing};
use matome_model::task::{LaneKind, Queue};
use serde_json::json;
use uuid::Uuid;

use crate::db::{Conn, Row};
use crate::error::{Result, StoreError};
use crate::listing::{Column, ColumnKind, Listing, Order};
use crate::tasks::{self, Fire};

/// A schedule as it is stored.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Its id.
    pub id: i64,
    /// What kind of object it is for.
    pub kind: LaneKind,
    /// The object's id.
    pub object_id: i64,
    /// The object's name.
    pub name: String,
    /// Whether it fires: its object is active and can run.
    pub enabled: bool,
    /// What it does.
    pub plan: Plan,
    /// Its next nominal time.
    pub next_at: Timestamp,
    /// The last nominal time that came due.
    pub last_at: Option<Timestamp>,
}

/// The name of a schedule's object.
macro_rules! name {
    () => {
        "coalesce((select s.name from data_sources s where t.kind = 'source' and s.id = t.object_id),
        (select s.name from aggregation_sources s where t.kind = 'aggregation' and s.id = t.object_id), '')"
    };
}

const COLUMNS: &str = concat!(
    "t.id, t.kind, t.object_id, t.interval_secs, t.cron, t.timezone, t.misfire, t.overlap,
    t.jitter_secs, t.enabled, t.next_at, t.last_at, ",
    name!(),
    " as name"
);

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);

/// Schedules as lists show them.
pub const LISTING: Listing = Listing {
    table: "schedules",
    select: COLUMNS,
    visible: "1 = 1",
    gone: None,
    columns: &[
        ID,
        Column::new("kind", "t.kind", ColumnKind::Choice(KINDS)),
        Column::new("object_id", "t.object_id", ColumnKind::Int),
        Column::new("name", name!(), ColumnKind::Text),
        Column::new("misfire", "t.misfire", ColumnKind::Choice(&["coalesce", "skip", "catch_up"])),
        Column::new("overlap", "t.overlap", ColumnKind::Choice(&["queue_one", "skip"])),
        Column::new("next_at", "t.next_at", ColumnKind::Time),
        Column::new("last_at", "t.last_at", ColumnKind::Time).nullable(),
    ],
    search: &[],
    default_order: &[Order { column: &ID, descending: false }],
};

/// Kinds of objects that have schedules.
pub const KINDS: &[&str] = &["source", "aggregation"];

impl TryFrom<&Row> for Schedule {
    type Error = StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.int("id")?,
            kind: tasks::word(row, "kind", LaneKind::parse)?,
            object_id: row.int("object_id")?,
            name: row.text("name")?,
            enabled: row.bool("enabled")?,
            plan: Plans::default().read(row)?,
            next_at: row.time("next_at")?,
            last_at: row.opt_time("last_at")?,
        })
    }
}

/// The schedule with this id.
///
/// # Errors
/// When the database is gone.
pub async fn find(conn: &mut Conn<'_>, id: i64) -> Result<Option<Schedule>> {
    let row = LISTING.find(conn, &crate::listing::Query::default(), id).await?;
    row.as_ref().map(Schedule::try_from).transpose()
}

/// Reads plans from rows; an expression that many rows have is parsed once.
#[derive(Default)]
struct Plans(HashMap<(String, String), Cron>);

impl Plans {
    fn read(&mut self, row: &Row) -> Result<Plan> {
        let cron = match row.opt_text("cron")? {
            None => None,
            Some(text) => {
                let key = (text, row.opt_text("timezone")?.unwrap_or_else(|| "UTC".to_owned()));
                if !self.0.contains_key(&key) {
                    let cron = Cron::in_zone(&key.0, &key.1).map_err(|words| inconsistent("cron", &words.english))?;
                    self.0.insert(key.clone(), cron);
                }
                self.0.get(&key).cloned()
            }
        };
        let options = ScheduleOptions {
            cron,
            misfire: Some(tasks::word(row, "misfire", Misfire::parse)?),
            overlap: Some(tasks::word(row, "overlap", Overlap::parse)?),
            jitter_secs: row.int("jitter_secs")?.max(0).unsigned_abs(),
        };
        let plan = options.plan(Some(row.int("interval_secs")?));
        plan.ok_or_else(|| inconsistent("interval_secs", "neither interval nor cron"))
    }
}

fn inconsistent(column: &str, what: &str) -> StoreError {
    StoreError::Inconsistent { column: column.to_owned(), what: what.to_owned() }
}

/// What tells schedules apart where jitter is computed: the same in every process, and after a restore.
fn seed(kind: LaneKind, object_id: i64) -> u64 {
    let kind = match kind {
        LaneKind::Source => 0,
        LaneKind::Aggregation => 1,
    };
    object_id.unsigned_abs() << 1 | kind
}

/// When the task of a nominal time is made, if not at that time itself.
fn moved(plan: &Plan, kind: LaneKind, object_id: i64, nominal: Timestamp) -> Option<Timestamp> {
    (plan.jitter_secs > 0).then(|| plan.due_at(nominal, seed(kind, object_id)))
}

const FIND_OLD: &str = "select interval_secs, cron, timezone, misfire, overlap, jitter_secs, enabled, next_at
from schedules where kind = $1 and object_id = $2";

const UPSERT: &str = "insert into schedules
    (kind, object_id, interval_secs, cron, timezone, misfire, overlap, jitter_secs, enabled, next_at, due_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (kind, object_id) do update set
    interval_secs = excluded.interval_secs, cron = excluded.cron, timezone = excluded.timezone,
    misfire = excluded.misfire, overlap = excluded.overlap, jitter_secs = excluded.jitter_secs,
    enabled = excluded.enabled, next_at = excluded.next_at, due_at = excluded.due_at";

/// Sets the plan of an object's schedule. A new one, one with other times, and one that is switched on again start
/// anew from `now`; one whose times do not change keeps its next.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn upsert(
    conn: &mut Conn<'_>,
    kind: LaneKind,
    object_id: i64,
    plan: &Plan,
    enabled: bool,
    now: Timestamp,
) -> Result<()> {
    // The schedule first: a beat that fires it holds it, and then moves its next time.
    let find = format!("{FIND_OLD}{}", conn.pick(" for update", ""));
    let old = conn.fetch_optional(sqlx::AssertSqlSafe(find), &[kind.as_str().into(), object_id.into()]).await?;
    let kept = match old {
        Some(row) if row.bool("enabled")? == enabled => {
            // A plan that cannot be read (of another version, by another hand) is replaced.
            let old = Plans::default().read(&row).ok();
            if old.is_some_and(|old| old.timing == plan.timing) { Some(row.time("next_at")?) } else { None }
        }
        _ => None,
    };
    let Some(next_at) = kept.or_else(|| plan.first(now)) else { return remove(conn, kind, object_id).await.map(drop) };
    let (interval, cron) = match &plan.timing {
        Timing::Interval(every) => (every.num_seconds(), None),
        Timing::Cron(cron) => {
            let gap = plan.after(next_at).map_or(86_400, |second| (second - next_at).num_seconds());
            (gap.max(1), Some(cron))
        }
    };
    let args = [
        kind.as_str().into(),
        object_id.into(),
        interval.into(),
        cron.map(Cron::as_str).into(),
        cron.map(|cron| cron.zone().name()).into(),
        plan.misfire.as_str().into(),
        plan.overlap.as_str().into(),
        i64::try_from(plan.jitter_secs).unwrap_or(0).into(),
        enabled.into(),
        next_at.into(),
        moved(plan, kind, object_id, next_at).into(),
    ];
    conn.execute(UPSERT, &args).await.map(drop)
}

/// Removes an object's schedule; returns whether it had one.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn remove(conn: &mut Conn<'_>, kind: LaneKind, object_id: i64) -> Result<bool> {
    let sql = "delete from schedules where kind = $1 and object_id = $2";
    Ok(conn.execute(sql, &[kind.as_str().into(), object_id.into()]).await? > 0)
}

/// When a schedule that cannot be read is looked at again.
const AGAIN: TimeDelta = TimeDelta::minutes(1);

/// A schedule that came due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// The schedule.
    pub schedule_id: i64,
    /// The queue of its tasks; none when it is not known.
    pub queue: Option<Queue>,
    /// Public ids of the tasks that were made.
    pub made: Vec<Uuid>,
    /// Its fire found a task that stands for it, so no new one was made.
    pub coalesced: bool,
    /// Nominal times passed that have no task of their own.
    pub missed: bool,
    /// Its row cannot be understood: a newer version may have written it, or another hand. It is left as it is and
    /// looked at again in a minute.
    pub unreadable: bool,
}

const DUE: (&str, &str) = (
    "select id, kind, object_id, interval_secs, cron, timezone, misfire, overlap, jitter_secs, next_at from schedules
where enabled and coalesce(due_at, next_at) <= $1 order by coalesce(due_at, next_at), id limit $2
for update skip locked",
    "select id, kind, object_id, interval_secs, cron, timezone, misfire, overlap, jitter_secs, next_at from schedules
where enabled and coalesce(due_at, next_at) <= $1 order by coalesce(due_at, next_at), id limit $2",
);

// All of a round in one statement; times are microseconds.
const ADVANCE: (&str, &str) = (
    "update schedules set next_at = timestamptz 'epoch' + x.next * interval '1 microsecond',
    due_at = timestamptz 'epoch' + x.due * interval '1 microsecond',
    last_at = coalesce(timestamptz 'epoch' + x.last * interval '1 microsecond', last_at),
    enabled = x.enabled
from jsonb_to_recordset($1) as x (id bigint, next bigint, due bigint, last bigint, enabled boolean)
where schedules.id = x.id",
    "update schedules set next_at = x.next, due_at = x.due, last_at = coalesce(x.last, last_at), enabled = x.enabled
from (
    select value ->> 'id' as id, value ->> 'next' as next, value ->> 'due' as due, value ->> 'last' as last,
        value ->> 'enabled' as enabled
    from json_each($1)
) x
where schedules.id = x.id",
);

/// Makes the tasks of at most `limit` schedules that are due; returns one entry for each that was looked at. Any
/// number of beats may call it at once: each nominal time makes at most one task.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn fire_due(conn: &mut Conn<'_>, now: Timestamp, limit: i64) -> Result<Vec<Fired>> {
    let due = conn.pick(DUE.0, DUE.1);
    let rows = conn.fetch_all(due, &[now.into(), limit.into()]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut plans = Plans::default();
    let (mut fires, mut advances, mut looked) = (Vec::new(), Vec::new(), Vec::with_capacity(rows.len()));
    for row in &rows {
        let (id, nominal) = (row.int("id")?, row.time("next_at")?);
        let kind = tasks::word(row, "kind", LaneKind::parse).ok();
        let object_id = row.int("object_id")?;
        let mut fired = Fired {
            schedule_id: id,
            queue: kind.map(LaneKind::queue),
            made: Vec::new(),
            coalesced: false,
            missed: false,
            unreadable: false,
        };
        let (Some(kind), Ok(plan)) = (kind, plans.read(row)) else {
            // It must not hold up all the others, nor be lost.
            let again = (now + AGAIN).timestamp_micros();
            advances.push(json!({ "id": id, "next": nominal.timestamp_micros(), "due": again, "enabled": true }));
            looked.push(Fired { unreadable: true, ..fired });
            continue;
        };
        // An older binary moves `next_at` alone.
        let due = (nominal <= now).then(|| plan.due(nominal, now, seed(kind, object_id)));
        let next = due.as_ref().map_or(Some(nominal), |due| due.next);
        advances.push(json!({
            "id": id,
            "next": next.unwrap_or(nominal).timestamp_micros(),
            "due": next.and_then(|next| moved(&plan, kind, object_id, next)).map(|due| due.timestamp_micros()),
            "last": due.as_ref().map(|_| nominal.timestamp_micros()),
            "enabled": next.is_some(),
        }));
        fired.missed = due.as_ref().is_some_and(|due| due.missed);
        looked.push(fired);
        let times = due.map(|due| due.fires).unwrap_or_default();
        fires.extend(times.into_iter().map(|nominal| Fire {
            schedule_id: id,
            at: looked.len() - 1,
            kind,
            object_id,
            nominal,
            run_at: moved(&plan, kind, object_id, nominal).unwrap_or(nominal),
            overlap: plan.overlap,
            catches_up: plan.misfire == Misfire::CatchUp,
        }));
    }
    let advance = conn.pick(ADVANCE.0, ADVANCE.1);
    let advances = serde_json::value::to_raw_value(&advances).expect("numbers and truth values are JSON");
    conn.execute(advance, &[(&*advances).into()]).await?;
    let made = tasks::enqueue_fires(conn, &fires, now).await?;
    for (fire, made) in fires.iter().zip(made) {
        let fired = &mut looked[fire.at];
        match made {
            Some(task) => fired.made.push(task),
            None => fired.coalesced = true,
        }
    }
    Ok(looked)
}

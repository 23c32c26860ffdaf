//! Accepting tasks.

use matome_model::clock::{Timestamp, iso8601};
use matome_model::task::{LaneKind, Priority, Queue, TaskStatus, Trigger};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{TaskRow, find};
use crate::db::{Arg, Conn};
use crate::error::Result;
use crate::lanes::{self, LockedLane};

/// A task to be accepted.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// Its public id.
    pub task_uuid: Uuid,
    /// What kind of object it works for.
    pub kind: LaneKind,
    /// The object's id.
    pub object_id: i64,
    /// The stream of the object.
    pub stream: String,
    /// What causes it.
    pub cause: Trigger,
    /// How soon it runs in its lane; `None`: as its source or aggregation says.
    pub priority: Option<Priority>,
    /// When it may run.
    pub run_at: Timestamp,
    /// Options of the run, a JSON object.
    pub payload: Box<RawValue>,
    /// The schedule that fired, and the nominal time.
    pub fire: Option<(i64, Timestamp)>,
    /// The ended task that it repeats.
    pub retry_of: Option<i64>,
}

impl NewTask {
    /// A run by hand, now.
    pub fn manual(kind: LaneKind, object_id: i64, now: Timestamp) -> Self {
        Self {
            task_uuid: Uuid::new_v4(),
            kind,
            object_id,
            stream: String::new(),
            cause: Trigger::Manual,
            priority: Some(Priority::High),
            run_at: now,
            payload: RawValue::from_string("{}".to_owned()).expect("an empty object is JSON"),
            fire: None,
            retry_of: None,
        }
    }

    /// A run that reads what was sent to a source.
    pub fn pushed(source_id: i64, stream: &str, now: Timestamp) -> Self {
        let manual = Self::manual(LaneKind::Source, source_id, now);
        Self { stream: stream.to_owned(), cause: Trigger::Push, priority: None, ..manual }
    }

    /// A run that a schedule asks for at its nominal time.
    pub fn scheduled(kind: LaneKind, object_id: i64, schedule_id: i64, nominal: Timestamp) -> Self {
        Self {
            cause: Trigger::Schedule,
            priority: None,
            fire: Some((schedule_id, nominal)),
            ..Self::manual(kind, object_id, nominal)
        }
    }
}

/// Payload of a task that reads what waits in the inbox of its source stream, and nothing else.
pub const ONLY_INBOX: &str = r#"{"only":"inbox"}"#;

/// Payload of a task that goes through what is stored of its source, from a time on if one is given, and reads nothing. It judges
/// that by the config of today if `applies`, else it tells what that would do.
#[must_use]
pub fn only_stored(since: Option<Timestamp>, applies: bool) -> Box<RawValue> {
    let since = since.map(|since| format!(",\"since\":\"{}\"", iso8601(since))).unwrap_or_default();
    // A word of its own: a worker of a version that knows no reports must not take one for the deed.
    let only = if applies { "stored" } else { "report" };
    RawValue::from_string(format!("{{\"only\":\"{only}\"{since}}}")).expect("it is JSON")
}

/// What became of a task to be accepted.
#[derive(Clone, Debug)]
pub struct Enqueued {
    /// The task that will do the work.
    pub task: TaskRow,
    /// It was waiting already; no new one was made.
    pub existing: bool,
}

/// What those need to know of a task who asked for something that it will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its id.
    pub id: i64,
    /// Its public id.
    pub uuid: Uuid,
    /// Why it is there: not what they asked for, if it waited already.
    pub cause: Trigger,
}

impl From<Enqueued> for Queued {
    fn from(Enqueued { task, .. }: Enqueued) -> Self {
        Self { id: task.id, uuid: task.task_uuid, cause: task.cause }
    }
}

const WAITING: &str =
    concat!("select ", columns!(), " from tasks where lane_id = $1 and status = 'pending' order by sort_key, id");

const INSERT: &str = concat!(
    "insert into tasks
    (task_uuid, queue, lane_id, object_id, stream, cause, priority, run_at, sort_key, payload, schedule_id, fire_time,
    retry_of, created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
on conflict (schedule_id, fire_time) where schedule_id is not null do nothing
returning ",
    columns!()
);

const BY_FIRE: &str = concat!("select ", columns!(), " from tasks where schedule_id = $1 and fire_time = $2");

const PULL: &str = concat!(
    "update tasks set run_at = case when run_at > $2 then $2 else run_at end, sort_key = $3, priority = $4
where id = $1 and (run_at > $2 or priority <> $4) returning ",
    columns!()
);

/// Accepts a task: in the caller's transaction, so that it is queued with what causes it or not at all.
///
/// A lane has at most one waiting manual task of each payload, one waiting scheduled task, one that waits because
/// something changed, and one for what was sent: a second one is the first. A run by hand takes a task that waits for a retry, if there is one, and starts it now;
/// it also ends the time that a failing lane is held back.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn enqueue(conn: &mut Conn<'_>, new: &NewTask, now: Timestamp) -> Result<Enqueued> {
    let lane = lanes::lock_or_create(conn, new.kind, new.object_id, &new.stream).await?;
    let by_hand = matches!(new.cause, Trigger::Manual | Trigger::Retry);
    if by_hand && lane.not_before.is_some() {
        // The streak stays: if this one fails too, the lane is held back again.
        lanes::set_breaker(conn, lane.id, lane.fail_streak, None).await?;
    }
    let waiting = waiting(conn, &lane).await?;
    let enqueued = match same(new, waiting) {
        Some(task) if by_hand => Enqueued { task: pull(conn, task, new.priority, now).await?, existing: true },
        Some(task) => Enqueued { task, existing: true },
        None => insert(conn, new, &lane, now).await?,
    };
    if by_hand && new.priority == Some(Priority::Critical) {
        lanes::serve_next(conn, lane.id, now).await?;
    }
    let floor = lanes::floor(conn, lane.queue).await?;
    lanes::recompute(conn, &[lane.id], now, floor).await?;
    Ok(enqueued)
}

async fn waiting(conn: &mut Conn<'_>, lane: &LockedLane) -> Result<Vec<TaskRow>> {
    conn.fetch_all(WAITING, &[lane.id.into()]).await?.iter().map(TaskRow::from_row).collect()
}

/// The waiting task that `new` would repeat.
fn same(new: &NewTask, waiting: Vec<TaskRow>) -> Option<TaskRow> {
    let is_same = |task: &TaskRow| match new.cause {
        Trigger::Manual => {
            (task.cause == Trigger::Manual || task.attempt > 0) && same_options(&task.payload, &new.payload)
        }
        Trigger::Schedule | Trigger::After | Trigger::Push => task.cause == new.cause,
        Trigger::Retry => task.retry_of.is_some() && task.retry_of == new.retry_of,
    };
    let exact = waiting.iter().position(|task| is_same(task) && task.cause == new.cause);
    let at = exact.or_else(|| waiting.iter().position(is_same))?;
    waiting.into_iter().nth(at)
}

/// Whether two payloads ask for the same, however the database writes them.
fn same_options(a: &RawValue, b: &RawValue) -> bool {
    let value = |payload: &RawValue| serde_json::from_str::<serde_json::Value>(payload.get()).ok();
    a.get() == b.get() || value(a) == value(b)
}

/// Lets a waiting task run now, and sooner if somebody is in more of a hurry than before.
async fn pull(conn: &mut Conn<'_>, task: TaskRow, wanted: Option<Priority>, now: Timestamp) -> Result<TaskRow> {
    let soonest = |priority: &Priority| priority.offset_secs();
    let priority = wanted.into_iter().chain([task.priority]).min_by_key(soonest).unwrap_or(task.priority);
    let sort_key = task.run_at.min(now) + chrono::TimeDelta::seconds(priority.offset_secs());
    let args = [task.id.into(), now.into(), sort_key.into(), priority.as_str().into()];
    let pulled = conn.fetch_optional(PULL, &args).await?;
    pulled.as_ref().map_or(Ok(task), TaskRow::from_row)
}

async fn insert(conn: &mut Conn<'_>, new: &NewTask, lane: &LockedLane, now: Timestamp) -> Result<Enqueued> {
    let priority = new.priority.unwrap_or(lane.priority);
    let sort_key = new.run_at + chrono::TimeDelta::seconds(priority.offset_secs());
    let (schedule_id, fire_time) = new.fire.unzip();
    let args: [Arg<'_>; 14] = [
        new.task_uuid.into(),
        lane.queue.as_str().into(),
        lane.id.into(),
        new.object_id.into(),
        new.stream.as_str().into(),
        new.cause.as_str().into(),
        priority.as_str().into(),
        new.run_at.into(),
        sort_key.into(),
        (&*new.payload).into(),
        schedule_id.into(),
        fire_time.into(),
        new.retry_of.into(),
        now.into(),
    ];
    if let Some(row) = conn.fetch_optional(INSERT, &args).await? {
        count_accepted(lane.queue, new.cause);
        return Ok(Enqueued { task: TaskRow::from_row(&row)?, existing: false });
    }
    // This fire made its task before.
    let row = conn.fetch_one(BY_FIRE, &[schedule_id.into(), fire_time.into()]).await?;
    Ok(Enqueued { task: TaskRow::from_row(&row)?, existing: true })
}

/// Counts a task that was made. Its transaction can still fail, which is too rare to hurt a count of many.
pub(super) fn count_accepted(queue: Queue, cause: Trigger) {
    metrics::counter!("matome_tasks_accepted_total", "queue" => queue.as_str(), "cause" => cause.as_str()).increment(1);
}

/// What [`retry_failed`] did.
#[derive(Clone, Debug, Default)]
pub struct RetriedMany {
    /// The new tasks.
    pub tasks: Vec<Queued>,
    /// Where the next call goes on; `None`: nothing is left.
    pub next_below: Option<i64>,
}

/// Failed tasks that one statement looks at.
const LOOK_AT: i64 = 500;

// Walks `tasks_by_status` or, of one object, `tasks_by_object`; the inner look is one step on `tasks_by_object`.
const FAILED: &str = "select t.id, t.is_last from (
    select t.id, not exists (
        select 1 from tasks n where n.queue = t.queue and n.object_id = t.object_id and n.stream = t.stream
        and n.id > t.id and n.status <> 'cancelled'
    ) and exists (select 1 from {objects} o where o.id = t.object_id and o.deleted_at is null) as is_last
    from tasks t where t.queue = $1 and t.status = 'failed' and t.id < $2 {whose}
    order by t.id desc limit $3
) t order by t.id desc";

/// Runs again, as a new task each, what failed last: of each stream its newest task, if it failed; one that was
/// cancelled does not count. Looks at tasks with ids below `below`, newest first, and makes at most `limit`.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn retry_failed(
    conn: &mut Conn<'_>,
    kind: LaneKind,
    object_id: Option<i64>,
    below: i64,
    limit: usize,
    now: Timestamp,
) -> Result<RetriedMany> {
    let objects = match kind {
        LaneKind::Source => "data_sources",
        LaneKind::Aggregation => "aggregation_sources",
    };
    let whose = if object_id.is_some() { "and t.object_id = $4" } else { "" };
    let sql = FAILED.replace("{objects}", objects).replace("{whose}", whose);
    let mut args: Vec<Arg<'_>> = vec![kind.queue().as_str().into(), below.into(), LOOK_AT.into()];
    args.extend(object_id.map(Arg::from));
    let rows = conn.fetch_all(sqlx::AssertSqlSafe(sql), &args).await?;
    let mut retried = RetriedMany::default();
    let mut last = None;
    let mut found = Vec::new();
    for row in &rows {
        if found.len() == limit {
            break;
        }
        last = Some(row.int("id")?);
        if row.bool("is_last")? {
            found.push(row.int("id")?);
        }
    }
    let saw_all = last == rows.last().map(|row| row.int("id")).transpose()?;
    let is_rest = i64::try_from(rows.len()).is_ok_and(|count| count == LOOK_AT) || !saw_all;
    retried.next_below = last.filter(|_| is_rest);
    // The lanes are locked in the order of their ids, as by everybody who locks several.
    let lanes = format!("select distinct lane_id as id from tasks where {} order by lane_id", conn.any_of("id", 1));
    let lanes = conn.fetch_all(sqlx::AssertSqlSafe(lanes), &[Arg::Ints(&found)]).await?;
    let lanes = lanes.iter().map(|row| row.int("id")).collect::<Result<Vec<i64>>>()?;
    lanes::lock(conn, &lanes).await?;
    for task_id in found {
        if let Retried::Accepted(queued) = retry_ended(conn, task_id, kind, now).await?
            && !queued.existing
        {
            retried.tasks.push((*queued).into());
        }
    }
    Ok(retried)
}

/// What became of the wish to run an ended task again.
#[derive(Clone, Debug)]
pub enum Retried {
    /// There is no such task.
    Missing,
    /// It did not fail and was not cancelled (it waits, runs, or succeeded): nothing was done.
    Refused(Box<TaskRow>),
    /// The task that repeats it.
    Accepted(Box<Enqueued>),
}

/// Runs a failed or cancelled task again, as a new task with `retry_of`; asking twice gives the same task
/// while it waits.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn retry_ended(conn: &mut Conn<'_>, task_id: i64, kind: LaneKind, now: Timestamp) -> Result<Retried> {
    // Ended tasks never change, so no lock is needed to believe what is read here.
    let Some(ended) = find(conn, task_id).await?.filter(|task| task.queue == kind.queue()) else {
        return Ok(Retried::Missing);
    };
    if !matches!(ended.status, TaskStatus::Failed | TaskStatus::Cancelled) {
        return Ok(Retried::Refused(Box::new(ended)));
    }
    let new = NewTask {
        stream: ended.stream,
        cause: Trigger::Retry,
        payload: ended.payload,
        retry_of: Some(ended.id),
        ..NewTask::manual(kind, ended.object_id, now)
    };
    Ok(Retried::Accepted(Box::new(enqueue(conn, &new, now).await?)))
}

//! Calls of Celery producers: what they ask for, the task that does it, and whether they were told.
//!
//! A call is accepted here before its message leaves Redis, keyed by Celery's id, so a message that is seen twice is one
//! call, and one that was seen is not lost.

use chrono::TimeDelta;
use matome_model::clock::Timestamp;
use matome_model::task::{LaneKind, Priority, Queue, TaskStatus};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use sqlx::AssertSqlSafe;

use crate::db::{Arg, Conn, Row};
use crate::error::{Result, StoreError};
use crate::tasks::{self, NewTask, Queued};

/// Answered calls are kept so long, for people who look.
pub const KEEP: TimeDelta = TimeDelta::days(7);

/// A call that can become a task.
#[derive(Clone, Debug)]
pub struct Call {
    /// Celery's id.
    pub call_key: String,
    /// Its queue.
    pub queue: Queue,
    /// The source or aggregation, by queue.
    pub object_id: i64,
    /// How soon it runs in its lane; `None`: as a run by hand.
    pub priority: Option<Priority>,
    /// Not before.
    pub due_at: Option<Timestamp>,
    /// Not after.
    pub expires: Option<Timestamp>,
    /// Nobody asks how it ended.
    pub ignores_result: bool,
}

/// A message that cannot become one.
#[derive(Clone, Debug)]
pub struct BadMessage {
    /// Celery's id, by which somebody can ask how it ended; `None` when the message has none.
    pub caller: Option<String>,
    /// Its queue.
    pub queue: Queue,
    /// What is wrong.
    pub reason: String,
    /// As it came.
    pub message: Vec<u8>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A task waits for it.
    Enqueued(Queued),
    /// It becomes a task when it is due.
    Waits,
    /// It came after its time; its caller will be told.
    Expired,
    /// There is no such source or aggregation; its caller will be told.
    Refused,
    /// It was received before.
    Known,
}

const INSERT: &str = "insert into celery_calls
    (call_key, queue, object_id, priority, due_at, expired, received_at, answered_at)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (call_key) do nothing
returning id";

const INSERT_BAD: &str = "insert into celery_calls
    (call_key, queue, due_at, refused, message, received_at, answered_at)
values ($1, $2, $3, $4, $5, $3, $6)
on conflict (call_key) do nothing
returning id";

const SOURCE: &str = "select 1 as found from data_sources where id = $1 and deleted_at is null";
const AGGREGATION: &str = "select 1 as found from aggregation_sources where id = $1 and deleted_at is null";

const TASK_OF: &str = "update celery_calls set task_id = $2 where id = $1 and task_id is null";

const REFUSE: &str = "update celery_calls set refused = $2 where id = $1 and task_id is null";

const DUE: &str = "select id, object_id, priority from celery_calls
where queue = $1 and due_at <= $2 and task_id is null and refused is null and not expired
order by due_at, id limit 1";

/// Ended, or never to become a task; a task that is no longer known has ended long ago.
const TO_ANSWER: &str = "select c.id, c.call_key, c.refused, c.expired, c.task_id, t.status, t.result, t.error, t.finished_at, c.received_at
from celery_calls c left join tasks t on t.id = c.task_id
where c.queue = $1 and c.answered_at is null
    and (c.refused is not null or c.expired or (c.task_id is not null
        and (t.id is null or t.status in ('succeeded', 'failed', 'cancelled'))))
order by c.id limit $2";

const ANSWERED: &str = "update celery_calls set answered_at = $2 where answered_at is null and ";

const FORGET: &str = "delete from celery_calls where id in
    (select id from celery_calls where answered_at < $1 order by answered_at limit $2)";

/// Accepts a call, in the caller's transaction; the task with it, if it is due.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn receive(conn: &mut Conn<'_>, call: &Call, now: Timestamp) -> Result<Received> {
    let expired = call.expires.is_some_and(|expires| expires <= now);
    let due_at = call.due_at.unwrap_or(now);
    let answered = call.ignores_result.then_some(now);
    let args = [
        call.call_key.as_str().into(),
        call.queue.as_str().into(),
        call.object_id.into(),
        call.priority.map(Priority::as_str).into(),
        due_at.into(),
        expired.into(),
        now.into(),
        answered.into(),
    ];
    let Some(row) = conn.fetch_optional(INSERT, &args).await? else { return Ok(Received::Known) };
    match () {
        () if expired => Ok(Received::Expired),
        () if due_at > now => Ok(Received::Waits),
        () => enqueue(conn, row.int("id")?, call.queue, call.object_id, call.priority, now).await,
    }
}

/// Keeps a message that cannot become a task, with the reason.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn keep_bad(conn: &mut Conn<'_>, bad: &BadMessage, now: Timestamp) -> Result<Received> {
    let hash = || Sha256::digest(&bad.message).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let call_key = bad.caller.clone().unwrap_or_else(|| format!("sha256:{}", hash()));
    let answered = bad.caller.is_none().then_some(now);
    let args = [
        call_key.as_str().into(),
        bad.queue.as_str().into(),
        now.into(),
        bad.reason.as_str().into(),
        bad.message.as_slice().into(),
        answered.into(),
    ];
    let is_new = conn.fetch_optional(INSERT_BAD, &args).await?.is_some();
    Ok(if is_new { Received::Refused } else { Received::Known })
}

/// Makes a task of the call that is due first, if one is: one a transaction, for each locks a lane.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn enqueue_due(conn: &mut Conn<'_>, queue: Queue, now: Timestamp) -> Result<Option<Received>> {
    // Another process may be at one of them; then the next is ours.
    let sql = format!("{DUE}{}", conn.pick(" for update skip locked", ""));
    let Some(row) = conn.fetch_optional(AssertSqlSafe(sql), &[queue.as_str().into(), now.into()]).await? else {
        return Ok(None);
    };
    let priority = row.opt_text("priority")?.as_deref().and_then(Priority::parse);
    let object_id = row.opt_int("object_id")?.unwrap_or_default();
    enqueue(conn, row.int("id")?, queue, object_id, priority, now).await.map(Some)
}

async fn enqueue(
    conn: &mut Conn<'_>,
    id: i64,
    queue: Queue,
    object_id: i64,
    priority: Option<Priority>,
    now: Timestamp,
) -> Result<Received> {
    let (kind, exists, what) = match queue {
        Queue::Acquisition => (LaneKind::Source, SOURCE, "data source"),
        Queue::Aggregation => (LaneKind::Aggregation, AGGREGATION, "aggregation"),
    };
    if conn.fetch_optional(exists, &[object_id.into()]).await?.is_none() {
        let reason = format!("there is no {what} with the id {object_id}");
        conn.execute(REFUSE, &[id.into(), reason.as_str().into()]).await?;
        return Ok(Received::Refused);
    }
    let new = NewTask { priority, ..NewTask::manual(kind, object_id, now) };
    let task: Queued = tasks::enqueue(conn, &new, now).await?.into();
    conn.execute(TASK_OF, &[id.into(), task.id.into()]).await?;
    Ok(Received::Enqueued(task))
}

/// A call whose caller waits to hear how it ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The row.
    pub id: i64,
    /// Celery's id.
    pub call_key: String,
    /// How.
    pub how: How,
    /// When.
    pub at: Timestamp,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub enum How {
    /// With counts, a JSON object.
    Succeeded(Box<RawValue>),
    /// With an error, as the task keeps it: `{"message", "causes", ...}`.
    Failed(Box<RawValue>),
    /// By a person.
    Cancelled,
    /// It never became a task.
    Refused(String),
    /// It came after its time.
    Expired,
    /// Its task ended so long ago that it is no longer known.
    Forgotten,
}

/// Calls whose callers are to be told, the oldest first.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn to_answer(conn: &mut Conn<'_>, queue: Queue, limit: i64) -> Result<Vec<Ended>> {
    let rows = conn.fetch_all(TO_ANSWER, &[queue.as_str().into(), limit.into()]).await?;
    rows.iter().map(Ended::from_row).collect()
}

impl Ended {
    fn from_row(row: &Row) -> Result<Self> {
        let status = row.opt_text("status")?.and_then(|word| TaskStatus::parse(&word));
        let json = |column| Ok::<_, StoreError>(row.opt_json(column)?.unwrap_or_else(empty));
        let how = match (row.opt_text("refused")?, row.bool("expired")?, status) {
            (Some(reason), _, _) => How::Refused(reason),
            (None, true, _) => How::Expired,
            (None, false, Some(TaskStatus::Succeeded)) => How::Succeeded(json("result")?),
            (None, false, Some(TaskStatus::Failed)) => How::Failed(json("error")?),
            (None, false, Some(TaskStatus::Cancelled)) => How::Cancelled,
            (None, false, _) => How::Forgotten,
        };
        let at = row.opt_time("finished_at")?.map_or_else(|| row.time("received_at"), Ok)?;
        Ok(Self { id: row.int("id")?, call_key: row.text("call_key")?, how, at })
    }
}

fn empty() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).expect("an empty object is JSON")
}

/// The caller was told.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn mark_answered(conn: &mut Conn<'_>, ids: &[i64], now: Timestamp) -> Result<()> {
    let sql = format!("{ANSWERED}{}", conn.any_of("id", 1));
    conn.execute(AssertSqlSafe(sql), &[Arg::Ints(ids), now.into()]).await?;
    Ok(())
}

/// Removes calls that were answered longer than [`KEEP`] ago; returns how many.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn forget(conn: &mut Conn<'_>, now: Timestamp, limit: i64) -> Result<u64> {
    conn.execute(FORGET, &[(now - KEEP).into(), limit.into()]).await
}

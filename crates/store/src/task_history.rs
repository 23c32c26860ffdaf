//! Tasks as the API shows them: state and history of both queues.

use matome_model::clock::Timestamp;
use matome_model::task::{Queue, TaskStatus};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::db::{Conn, Row};
use crate::error::{Result, StoreError};
use crate::listing::{Column, ColumnKind, Condition, Gone, Listing, Lookup, Order, Query, Value, unknown_word};

/// One task with what is known of its execution.
#[derive(Clone, Debug)]
pub struct TaskRecord {
    /// Its id.
    pub id: i64,
    /// Public id of the original design.
    pub task_uuid: Uuid,
    /// The source or aggregation it is about.
    pub object_id: i64,
    /// Stream of the source.
    pub stream: String,
    /// What caused it.
    pub cause: String,
    /// Its state.
    pub status: TaskStatus,
    /// Its priority.
    pub priority: String,
    /// Earliest time it may start.
    pub run_at: Timestamp,
    /// Failed tries since it last made progress.
    pub attempt: i64,
    /// A person asked to end it.
    pub cancel_requested_at: Option<Timestamp>,
    /// The task it repeats by hand.
    pub retry_of: Option<i64>,
    /// Counts so far.
    pub progress: Option<Box<RawValue>>,
    /// Counts at the end.
    pub result: Option<Box<RawValue>>,
    /// What went wrong last.
    pub error: Option<Box<RawValue>>,
    /// Start of the last try.
    pub started_at: Option<Timestamp>,
    /// When it reached a state that never changes.
    pub finished_at: Option<Timestamp>,
    /// When it was accepted.
    pub created_at: Timestamp,
}

const SELECT: &str = "t.id, t.task_uuid, t.object_id, t.stream, t.cause, t.status, t.priority, t.run_at, t.attempt,
    t.cancel_requested_at, t.retry_of, t.progress, t.result, t.error, t.started_at, t.finished_at, t.created_at";

/// The words of [`TaskStatus`] as filters take them.
pub const STATUSES: &[&str] = &["pending", "running", "succeeded", "failed", "cancelled"];
const CAUSES: &[&str] = &["manual", "schedule", "retry"];

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);
const COLUMNS: &[Column] = &[
    ID,
    Column::new("source", "t.object_id", ColumnKind::Reference),
    Column::new("status", "t.status", ColumnKind::Choice(STATUSES)),
    Column::new("task_id", "t.task_uuid", ColumnKind::Uuid).filter_only(),
    Column::new("trigger", "t.cause", ColumnKind::Choice(CAUSES)).filter_only(),
    Column::new("attempt", "t.attempt", ColumnKind::Int).filter_only(),
    Column::new("retry_of", "t.retry_of", ColumnKind::Int).nullable().filter_only(),
    Column::new("run_at", "t.run_at", ColumnKind::Time),
    Column::new("started_at", "t.started_at", ColumnKind::Time).nullable(),
    Column::new("finished_at", "t.finished_at", ColumnKind::Time).nullable(),
    Column::new("created_at", "t.created_at", ColumnKind::Time),
];
const NEWEST_FIRST: &[Order] = &[Order { column: &ID, descending: true }];

const ACQUISITION: Listing = Listing {
    table: "tasks",
    select: SELECT,
    visible: "t.queue = 'acquisition'",
    gone: Some(Gone {
        spares: "t.object_id not in (select s.id from data_sources s where s.deleted_at is not null)",
        any: "select s.id from data_sources s where s.deleted_at is not null limit 1",
    }),
    columns: COLUMNS,
    search: &[],
    default_order: NEWEST_FIRST,
};
const AGGREGATION: Listing = Listing {
    visible: "t.queue = 'aggregation'",
    gone: Some(Gone {
        spares: "t.object_id not in (select s.id from aggregation_sources s where s.deleted_at is not null)",
        any: "select s.id from aggregation_sources s where s.deleted_at is not null limit 1",
    }),
    ..ACQUISITION
};

/// Tasks of one queue as lists show them.
pub fn listing(queue: Queue) -> &'static Listing {
    match queue {
        Queue::Acquisition => &ACQUISITION,
        Queue::Aggregation => &AGGREGATION,
    }
}

impl TryFrom<&Row> for TaskRecord {
    type Error = StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        let status = row.text("status")?;
        Ok(Self {
            id: row.int("id")?,
            task_uuid: row.uuid("task_uuid")?,
            object_id: row.int("object_id")?,
            stream: row.text("stream")?,
            cause: row.text("cause")?,
            status: TaskStatus::parse(&status).ok_or_else(|| unknown_word("status", &status))?,
            priority: row.text("priority")?,
            run_at: row.time("run_at")?,
            attempt: row.int("attempt")?,
            cancel_requested_at: row.opt_time("cancel_requested_at")?,
            retry_of: row.opt_int("retry_of")?,
            progress: row.opt_json("progress")?,
            result: row.opt_json("result")?,
            error: row.opt_json("error")?,
            started_at: row.opt_time("started_at")?,
            finished_at: row.opt_time("finished_at")?,
            created_at: row.time("created_at")?,
        })
    }
}

/// The task of a queue with this id.
///
/// # Errors
/// When the database is gone.
pub async fn find(conn: &mut Conn<'_>, queue: Queue, id: i64) -> Result<Option<TaskRecord>> {
    listing(queue).find(conn, &Query::default(), id).await?.as_ref().map(TaskRecord::try_from).transpose()
}

/// The newest task of a source or aggregation.
///
/// # Errors
/// When the database is gone.
pub async fn newest_of(conn: &mut Conn<'_>, queue: Queue, object_id: i64) -> Result<Option<TaskRecord>> {
    let condition = Condition { column: &COLUMNS[1], lookup: Lookup::Exact, value: Value::Int(object_id) };
    let query = Query { conditions: vec![condition], ..Query::default() };
    listing(queue).rows(conn, &query, 1, 0).await?.first().map(TaskRecord::try_from).transpose()
}

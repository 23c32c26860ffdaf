//! Tasks as lists show them: state and history of both queues, rows of [`crate::tasks::TaskRow`].

use matome_model::task::Queue;

use crate::listing::{Column, ColumnKind, Gone, Listing, Order};

/// The words of [`matome_model::task::TaskStatus`] as filters take them.
pub const STATUSES: &[&str] = &["pending", "running", "succeeded", "failed", "cancelled"];
const CAUSES: &[&str] = &["manual", "schedule", "retry", "after"];

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
    // The columns that `TaskRow::from_row` reads.
    select: "t.id, t.task_uuid, t.queue, t.lane_id, t.object_id, t.stream, t.cause, t.status, t.priority, t.run_at, t.sort_key,
    t.attempt, t.crash_count, t.lease_epoch, t.worker, t.cancel_requested_at, t.retry_of, t.schedule_id, t.fire_time, t.payload,
    t.progress, t.result, t.error, t.started_at, t.finished_at, t.created_at",
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

//! Lanes as lists show them: which run, and what keeps the others from it.

use matome_model::clock::Timestamp;
use matome_model::task::LaneKind;

use super::{Column, ColumnKind, Listing, Order};
use crate::db::Row;
use crate::error::{Result, StoreError};
use crate::schedules::KINDS;
use crate::tasks;

/// One lane.
#[derive(Clone, Debug)]
pub struct LaneRow {
    /// Its id.
    pub id: i64,
    /// What kind of object its tasks are for.
    pub kind: LaneKind,
    /// The object's id.
    pub object_id: i64,
    /// The object's name.
    pub name: String,
    /// The stream of the object; empty where it has one only.
    pub stream: String,
    /// One of [`STATES`].
    pub state: String,
    /// When its next task is due, or was.
    pub next_run_at: Option<Timestamp>,
    /// Nothing of it starts before this, because it keeps failing or was asked to wait.
    pub not_before: Option<Timestamp>,
    /// Tasks of it that failed in a row.
    pub fail_streak: i64,
    /// The host that it reads from.
    pub host: Option<String>,
    /// How many tasks may read from that at a time.
    pub host_limit: Option<i64>,
    /// How many do; only where there is a limit.
    pub host_running: Option<i64>,
    /// The task that runs.
    pub task: Option<i64>,
    /// The process that runs it: its name, or that of its machine, and its id there.
    pub worker: Option<(String, i64)>,
    /// Since when.
    pub leased_at: Option<Timestamp>,
}

/// What a lane does: a task of it runs; it was paused by hand; it has no task; it failed too often or its source asked it to
/// wait; its task is not due yet; its host has as many readers as it may; the next free worker takes it.
pub const STATES: &[&str] = &["running", "paused", "idle", "held_back", "waiting", "host_full", "ready"];

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);

/// The limit of a lane's host, how many read from it, and what both come to.
macro_rules! limit {
    () => {
        "(select h.concurrent from hosts h where h.host = t.host)"
    };
}
macro_rules! reading {
    () => {
        "(select count(*) from lanes r where r.host = t.host and r.host is not null and r.lease_worker is not null)"
    };
}
// `next_run_at` is the first task's time, or `not_before` when that is later.
macro_rules! state {
    () => {
        concat!(
            "case when t.lease_worker is not null then 'running' when t.paused then 'paused'
        when t.next_run_at is null then 'idle'
        when not t.ready and t.not_before >= t.next_run_at then 'held_back'
        when not t.ready then 'waiting'
        when ",
            limit!(),
            " <= ",
            reading!(),
            " then 'host_full' else 'ready' end"
        )
    };
}
macro_rules! name {
    () => {
        "coalesce((select s.name from data_sources s where t.kind = 'source' and s.id = t.object_id),
        (select s.name from aggregation_sources s where t.kind = 'aggregation' and s.id = t.object_id), '')"
    };
}

/// The lanes of what is there.
pub const LISTING: Listing = Listing {
    table: "lanes",
    select: concat!(
        "t.id, t.kind, t.object_id, t.stream, t.next_run_at, t.not_before, t.fail_streak, t.host, t.lease_task, t.leased_at,
    (select w.host from workers w where w.boot = t.lease_worker) as worker_host,
    (select w.pid from workers w where w.boot = t.lease_worker) as worker_pid, ",
        name!(),
        " as name, ",
        state!(),
        " as state, ",
        limit!(),
        " as host_limit, ",
        reading!(),
        " as host_running"
    ),
    visible: "(t.kind = 'source' and exists (select 1 from data_sources s where s.id = t.object_id and s.deleted_at is null)
    or t.kind = 'aggregation' and exists (select 1 from aggregation_sources s where s.id = t.object_id and s.deleted_at is null))",
    gone: None,
    columns: &[
        ID,
        Column::new("kind", "t.kind", ColumnKind::Choice(KINDS)),
        Column::new("object_id", "t.object_id", ColumnKind::Int),
        Column::new("name", name!(), ColumnKind::Text),
        Column::new("state", state!(), ColumnKind::Choice(STATES)).filter_only(),
        Column::new("host", "t.host", ColumnKind::Text).nullable(),
        Column::new("next_run_at", "t.next_run_at", ColumnKind::Time).nullable(),
    ],
    search: &[],
    default_order: &[Order { column: &ID, descending: false }],
};

impl TryFrom<&Row> for LaneRow {
    type Error = StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        let host_limit = row.opt_int("host_limit")?;
        Ok(Self {
            id: row.int("id")?,
            kind: tasks::word(row, "kind", LaneKind::parse)?,
            object_id: row.int("object_id")?,
            name: row.text("name")?,
            stream: row.text("stream")?,
            state: row.text("state")?,
            next_run_at: row.opt_time("next_run_at")?,
            not_before: row.opt_time("not_before")?,
            fail_streak: row.int("fail_streak")?,
            host: row.opt_text("host")?,
            host_limit,
            host_running: row.opt_int("host_running")?.filter(|_| host_limit.is_some()),
            task: row.opt_int("lease_task")?,
            worker: row.opt_text("worker_host")?.zip(row.opt_int("worker_pid")?),
            leased_at: row.opt_time("leased_at")?,
        })
    }
}

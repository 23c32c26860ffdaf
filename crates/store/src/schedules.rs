//! Schedules: when tasks are made without anybody asking.
//!
//! Lock order: a schedule is locked before the lane of its object.

use chrono::TimeDelta;
use matome_model::clock::Timestamp;
use matome_model::task::{LaneKind, Queue};

use crate::db::Conn;
use crate::error::Result;
use crate::tasks::{self, NewTask};

const UPSERT: &str = "insert into schedules (kind, object_id, interval_secs, enabled, next_at)
values ($1, $2, $3, $4, $5)
on conflict (kind, object_id) do update set
    next_at = case when schedules.interval_secs = excluded.interval_secs and schedules.enabled = excluded.enabled
        then schedules.next_at else excluded.next_at end,
    interval_secs = excluded.interval_secs, enabled = excluded.enabled";

/// Sets the interval of an object's schedule. A new one, one with another interval, and one that is switched
/// on again fire first at `first_at`; one that does not change keeps its time.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn upsert(
    conn: &mut Conn<'_>,
    kind: LaneKind,
    object_id: i64,
    interval_secs: i64,
    enabled: bool,
    first_at: Timestamp,
) -> Result<()> {
    let args = [kind.as_str().into(), object_id.into(), interval_secs.into(), enabled.into(), first_at.into()];
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

/// A schedule that came due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired {
    /// The queue of its task.
    pub queue: Queue,
    /// The task.
    pub task_id: i64,
    /// A task of the schedule was waiting already, so no new one was made.
    pub coalesced: bool,
}

const DUE: (&str, &str) = (
    "select id, kind, object_id, interval_secs, next_at from schedules
where enabled and next_at <= $1 order by next_at, id limit $2 for update skip locked",
    "select id, kind, object_id, interval_secs, next_at from schedules
where enabled and next_at <= $1 order by next_at, id limit $2",
);

const ADVANCE: &str = "update schedules set next_at = $2, last_at = $3 where id = $1";

/// Makes the tasks of at most `limit` schedules that are due. Any number of beats may call it at once: each
/// nominal time makes at most one task, and times that were missed together make one.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn fire_due(conn: &mut Conn<'_>, now: Timestamp, limit: i64) -> Result<Vec<Fired>> {
    let due = conn.pick(DUE.0, DUE.1);
    let rows = conn.fetch_all(due, &[now.into(), limit.into()]).await?;
    let mut fired = Vec::with_capacity(rows.len());
    for row in rows {
        let id = row.int("id")?;
        let nominal = row.time("next_at")?;
        let kind = tasks::word(&row, "kind", LaneKind::parse)?;
        conn.execute(ADVANCE, &[id.into(), next_after(nominal, row.int("interval_secs")?, now).into(), nominal.into()])
            .await?;
        let new = NewTask::scheduled(kind, row.int("object_id")?, id, nominal);
        let enqueued = tasks::enqueue(conn, &new, now).await?;
        fired.push(Fired { queue: kind.queue(), task_id: enqueued.task.id, coalesced: enqueued.existing });
    }
    Ok(fired)
}

/// The first nominal time after `now`, counted in whole intervals from the last one: strictly later than it.
fn next_after(nominal: Timestamp, interval_secs: i64, now: Timestamp) -> Timestamp {
    let interval = TimeDelta::seconds(interval_secs.clamp(1, 1 << 40));
    let missed = (now - nominal).num_seconds().max(0) / interval.num_seconds();
    nominal + TimeDelta::seconds(interval.num_seconds().saturating_mul(missed.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_times_are_skipped_and_the_rhythm_is_kept() {
        let at = |secs: i64| Timestamp::UNIX_EPOCH + TimeDelta::seconds(secs);
        assert_eq!(next_after(at(100), 60, at(100)), at(160));
        assert_eq!(next_after(at(100), 60, at(159)), at(160));
        assert_eq!(next_after(at(100), 60, at(160)), at(220));
        assert_eq!(next_after(at(100), 60, at(1000)), at(1060));
        // A clock that went back repeats nothing.
        assert_eq!(next_after(at(100), 60, at(0)), at(160));
    }
}

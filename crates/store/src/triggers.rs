//! Aggregations that run after sources and other aggregations.
//!
//! Whatever commits something new leaves a note in the same transaction ([`note`]), if anybody waits for it; a beat takes the
//! notes and enqueues the runs, in one transaction too ([`fire`]). So a crash in between loses nothing. Names stand for what
//! bears them: a source that is deleted and made again is waited for again.
//!
//! Lock order: a note is locked before lanes.

use std::collections::HashMap;

use chrono::TimeDelta;
use matome_model::clock::Timestamp;
use matome_model::task::{LaneKind, Trigger};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::db::Conn;
use crate::error::Result;
use crate::lanes;
use crate::tasks::{self, NewTask};

/// What an aggregation runs after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct After {
    /// Names of sources.
    pub sources: Vec<String>,
    /// Names of aggregations.
    pub aggregations: Vec<String>,
    /// Seconds from the news to the run; more news in between makes no second run.
    pub debounce_secs: i64,
}

/// Why an aggregation cannot run after what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no source or aggregation of this name.
    Missing {
        /// What it should be.
        kind: LaneKind,
        /// Its place among the names of its kind.
        at: usize,
        /// The name.
        name: String,
    },
    /// It would run after itself: the names from the aggregation over each that the one before runs after, back to it.
    Cycle(Vec<String>),
}

const NAMED: (&str, &str) = (
    "select 1 as found from data_sources where name = $1 and deleted_at is null",
    "select 1 as found from aggregation_sources where name = $1 and deleted_at is null",
);

const EDGES: &str = "select a.name, g.cause_name from aggregation_triggers g
join aggregation_sources a on a.id = g.aggregation_id
where g.cause_kind = 'aggregation' and a.deleted_at is null and a.id <> $1";

/// Checks that an aggregation (`id`: 0 for a new one) called `name` may run after what it names. Call it in the transaction
/// that then writes: two definitions that together make a circle wait for each other here.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn check(conn: &mut Conn<'_>, id: i64, name: &str, after: &After) -> Result<Vec<Refused>> {
    let lock = conn.pick(Some("select pg_advisory_xact_lock(7305808869233)"), None);
    if let Some(lock) = lock {
        conn.fetch_all(lock, &[]).await?;
    }
    let mut refused = Vec::new();
    for (kind, sql, names) in
        [(LaneKind::Source, NAMED.0, &after.sources), (LaneKind::Aggregation, NAMED.1, &after.aggregations)]
    {
        for (at, wanted) in names.iter().enumerate() {
            // Its own name is there once it is stored; the circle is what is wrong then.
            let is_own = kind == LaneKind::Aggregation && wanted == name;
            if !is_own && conn.fetch_optional(sql, &[wanted.into()]).await?.is_none() {
                refused.push(Refused::Missing { kind, at, name: wanted.clone() });
            }
        }
    }
    if !after.aggregations.is_empty() {
        let mut edges: HashMap<String, Vec<String>> = HashMap::new();
        for row in conn.fetch_all(EDGES, &[id.into()]).await? {
            edges.entry(row.text("name")?).or_default().push(row.text("cause_name")?);
        }
        refused.extend(cycle(name, &after.aggregations, &edges).map(Refused::Cycle));
    }
    Ok(refused)
}

/// A way from `name` over what it runs after (`causes`) and so on back to `name`, if there is one.
fn cycle(name: &str, causes: &[String], edges: &HashMap<String, Vec<String>>) -> Option<Vec<String>> {
    // For each name that was reached: the name from which.
    let mut reached: HashMap<&str, &str> = HashMap::new();
    let mut open: Vec<(&str, &str)> = causes.iter().map(|cause| (name, cause.as_str())).collect();
    while let Some((from, at)) = open.pop() {
        if reached.contains_key(at) {
            continue;
        }
        reached.insert(at, from);
        if at == name {
            let mut way = vec![name.to_owned()];
            let mut back = from;
            while back != name {
                way.push(back.to_owned());
                back = reached[back];
            }
            way.push(name.to_owned());
            way.reverse();
            return Some(way);
        }
        open.extend(edges.get(at).into_iter().flatten().map(|next| (at, next.as_str())));
    }
    None
}

/// Replaces what an aggregation runs after; [`check`] it before.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn set(conn: &mut Conn<'_>, aggregation_id: i64, after: &After) -> Result<()> {
    remove(conn, aggregation_id).await?;
    let insert = "insert into aggregation_triggers (aggregation_id, cause_kind, cause_name, debounce_secs)
        values ($1, $2, $3, $4)";
    for (kind, names) in [(LaneKind::Source, &after.sources), (LaneKind::Aggregation, &after.aggregations)] {
        for name in names {
            let args = [aggregation_id.into(), kind.as_str().into(), name.into(), after.debounce_secs.into()];
            conn.execute(insert, &args).await?;
        }
    }
    Ok(())
}

/// Lets an aggregation run after nothing any more.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn remove(conn: &mut Conn<'_>, aggregation_id: i64) -> Result<()> {
    let sql = "delete from aggregation_triggers where aggregation_id = $1";
    conn.execute(sql, &[aggregation_id.into()]).await.map(drop)
}

const WAITING: &str = "select a.name from aggregation_triggers g join aggregation_sources a on a.id = g.aggregation_id
where g.cause_kind = $1 and g.cause_name = $2 and a.deleted_at is null order by a.name limit 20";

/// Names of aggregations that run after what is called `name`; the first twenty.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn waiting_for(conn: &mut Conn<'_>, kind: LaneKind, name: &str) -> Result<Vec<String>> {
    let rows = conn.fetch_all(WAITING, &[kind.as_str().into(), name.into()]).await?;
    rows.iter().map(|row| row.text("name")).collect()
}

// The update does nothing but wait for a beat that has the note in hand: it must not be taken before this commits.
const NOTE: (&str, &str) = (
    "insert into changes (kind, object_id, since) select 'source', s.id, $2 from data_sources s
where s.id = $1 and exists (
    select 1 from aggregation_triggers g where g.cause_kind = 'source' and g.cause_name = s.name)
on conflict (kind, object_id) do update set since = changes.since",
    "insert into changes (kind, object_id, since) select 'aggregation', s.id, $2 from aggregation_sources s
where s.id = $1 and exists (
    select 1 from aggregation_triggers g where g.cause_kind = 'aggregation' and g.cause_name = s.name)
on conflict (kind, object_id) do update set since = changes.since",
);

/// Notes that a source or an aggregation commits something new in this transaction; nothing when nobody waits for it.
/// Call it before the lane is locked.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn note(conn: &mut Conn<'_>, kind: LaneKind, object_id: i64, now: Timestamp) -> Result<()> {
    let sql = match kind {
        LaneKind::Source => NOTE.0,
        LaneKind::Aggregation => NOTE.1,
    };
    conn.execute(sql, &[object_id.into(), now.into()]).await.map(drop)
}

/// A source that is still being read is waited for so long.
const PATIENCE: TimeDelta = TimeDelta::seconds(60);

const NOTES: (&str, &str) = (
    "select c.kind, c.object_id from changes c
where c.since <= $1 or c.kind = 'aggregation' or not exists (
    select 1 from lanes l where l.kind = c.kind and l.object_id = c.object_id and l.lease_worker is not null)
order by c.since, c.kind, c.object_id limit $2 for update skip locked",
    "select c.kind, c.object_id from changes c
where c.since <= $1 or c.kind = 'aggregation' or not exists (
    select 1 from lanes l where l.kind = c.kind and l.object_id = c.object_id and l.lease_worker is not null)
order by c.since, c.kind, c.object_id limit $2",
);

const DEPENDENTS: (&str, &str) = (
    "select a.id, g.debounce_secs from data_sources s
join aggregation_triggers g on g.cause_kind = 'source' and g.cause_name = s.name
join aggregation_sources a on a.id = g.aggregation_id
where s.id = $1 and s.deleted_at is null and a.status = 'active' and a.deleted_at is null",
    "select a.id, g.debounce_secs from aggregation_sources s
join aggregation_triggers g on g.cause_kind = 'aggregation' and g.cause_name = s.name
join aggregation_sources a on a.id = g.aggregation_id
where s.id = $1 and s.deleted_at is null and a.status = 'active' and a.deleted_at is null",
);

/// What [`fire`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    /// Notes taken.
    pub changes: usize,
    /// Public ids of the tasks that were made.
    pub enqueued: Vec<Uuid>,
    /// Runs that were waiting already.
    pub coalesced: usize,
}

/// Takes at most `limit` notes and enqueues the runs that waited for them: each aggregation has at most one such run that
/// waits and was not tried. Any number of beats may call it at once.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn fire(conn: &mut Conn<'_>, now: Timestamp, limit: i64) -> Result<Fired> {
    let notes = conn.pick(NOTES.0, NOTES.1);
    let rows = conn.fetch_all(notes, &[(now - PATIENCE).into(), limit.into()]).await?;
    let mut fired = Fired { changes: rows.len(), ..Fired::default() };
    let mut due = Vec::new();
    for row in rows {
        let kind = tasks::word(&row, "kind", LaneKind::parse)?;
        let object_id = row.int("object_id")?;
        let dependents = match kind {
            LaneKind::Source => DEPENDENTS.0,
            LaneKind::Aggregation => DEPENDENTS.1,
        };
        for row in conn.fetch_all(dependents, &[object_id.into()]).await? {
            due.push((row.int("id")?, row.int("debounce_secs")?, kind, object_id));
        }
        let delete = "delete from changes where kind = $1 and object_id = $2";
        conn.execute(delete, &[kind.as_str().into(), object_id.into()]).await?;
    }
    // The soonest counts; the lanes are locked together, in their order.
    due.sort_unstable_by_key(|(aggregation, debounce, ..)| (*aggregation, *debounce));
    due.dedup_by_key(|(aggregation, ..)| *aggregation);
    let ids: Vec<i64> = due.iter().map(|(aggregation, ..)| *aggregation).collect();
    lanes::lock_objects(conn, LaneKind::Aggregation, &ids).await?;
    for (aggregation, debounce, kind, object_id) in due {
        let payload = format!("{{\"after\":{{\"id\":{object_id},\"kind\":\"{}\"}}}}", kind.as_str());
        let new = NewTask {
            cause: Trigger::After,
            priority: None,
            run_at: now + TimeDelta::seconds(debounce),
            payload: RawValue::from_string(payload).expect("numbers and words are JSON"),
            ..NewTask::manual(LaneKind::Aggregation, aggregation, now)
        };
        let queued = tasks::enqueue(conn, &new, now).await?;
        match queued.existing {
            true => fired.coalesced += 1,
            false => fired.enqueued.push(queued.task.task_uuid),
        }
    }
    Ok(fired)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, causes: &[&str], edges: &[(&str, &[&str])]) -> Option<Vec<String>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        let edges = edges.iter().map(|(name, causes)| ((*name).to_owned(), owned(causes))).collect();
        cycle(name, &owned(causes), &edges)
    }

    #[test]
    fn a_circle_is_told_from_end_to_end() {
        assert_eq!(found("a", &["b"], &[]), None);
        assert_eq!(found("a", &["a"], &[]).unwrap(), ["a", "a"]);
        assert_eq!(found("a", &["b"], &[("b", &["c"]), ("c", &["a", "d"])]).unwrap(), ["a", "b", "c", "a"]);
        // A diamond is none, and neither is a circle beside.
        assert_eq!(found("a", &["b", "c"], &[("b", &["d"]), ("c", &["d"])]), None);
        assert_eq!(found("a", &["b"], &[("b", &["c"]), ("c", &["b"])]), None);
    }
}

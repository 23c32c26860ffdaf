//! Hosts that not many may read from at a time.
//!
//! A task takes up its host for as long as its lane is leased, and nothing else counts: there is no counter that a crash could
//! leave wrong. Whoever changes a limit, and whoever starts tasks of a limited host (`tasks::claim`), holds the row of the
//! host, and takes it behind the rows of lanes.

use std::collections::{BTreeSet, HashMap};

use matome_model::source::HostUse;
use matome_model::task::LaneKind;

use crate::db::{Arg, Conn};
use crate::error::Result;
use crate::lanes;

const BEFORE: &str = "select host, host_limit from lanes where kind = $1 and object_id = $2 and host is not null";

const SET: &str = "update lanes set host = $3, host_limit = $4 where kind = $1 and object_id = $2";

/// Says which host the tasks of an object read from; `None`: none. What runs keeps its place until it ends.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn set(conn: &mut Conn<'_>, kind: LaneKind, object_id: i64, host: Option<&HostUse>) -> Result<()> {
    if lanes::lock_object(conn, kind, object_id).await?.is_empty() {
        if host.is_none() {
            return Ok(());
        }
        lanes::lock_or_create(conn, kind, object_id, "").await?;
    }
    let key = [kind.as_str().into(), object_id.into()];
    let mut limited = BTreeSet::new();
    for row in conn.fetch_all(BEFORE, &key).await? {
        if row.opt_int("host_limit")?.is_some() {
            limited.insert(row.text("host")?);
        }
    }
    let limit = host.and_then(|host| host.concurrent).map(i64::from);
    if let (Some(host), Some(_)) = (host, limit) {
        limited.insert(host.host.clone());
    }
    // In the order of their names, and before anything is changed that the others count.
    for host in &limited {
        conn.execute(LOCK, &[host.into()]).await?;
    }
    let args = [key[0].clone(), key[1].clone(), Arg::Text(host.map(|host| host.host.as_str())), limit.into()];
    conn.execute(SET, &args).await?;
    for host in &limited {
        conn.execute(SETTLE, &[host.into()]).await?;
        conn.execute(FORGET, &[host.into()]).await?;
    }
    Ok(())
}

/// An object is deleted: what it asked for holds no more, and what it still runs counts until it ends.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn forget_limit(conn: &mut Conn<'_>, kind: LaneKind, object_id: i64) -> Result<()> {
    let Some(row) = conn.fetch_optional(BEFORE, &[kind.as_str().into(), object_id.into()]).await? else {
        return Ok(());
    };
    let host = HostUse { host: row.text("host")?, concurrent: None };
    set(conn, kind, object_id, Some(&host)).await
}

// Makes the row if there is none; its value counts for nobody before SETTLE.
const LOCK: &str = "insert into hosts (host, concurrent) values ($1, 1)
on conflict (host) do update set concurrent = hosts.concurrent";

const SETTLE: &str = "update hosts
set concurrent = coalesce((select min(l.host_limit) from lanes l where l.host = $1 and l.host_limit is not null), 1)
where host = $1";

const FORGET: &str = "delete from hosts where host = $1
and not exists (select 1 from lanes l where l.host = $1 and l.host_limit is not null)";

const OF_LANE: &str = "select host from lanes where id = $1";

/// The host that tasks of a lane count for.
///
/// # Errors
/// When the database is gone.
pub async fn of_lane(conn: &mut Conn<'_>, lane_id: i64) -> Result<Option<String>> {
    match conn.fetch_optional(OF_LANE, &[lane_id.into()]).await? {
        Some(row) => row.opt_text("host"),
        None => Ok(None),
    }
}

const LOCK_LIMITED: (&str, &str) = (
    "select host, concurrent from hosts where host = any($1) order by host for update",
    "select host, concurrent from hosts where host in (select value from json_each($1))",
);

const READING: (&str, &str) = (
    "select host, count(*) as reading from lanes
where host = any($1) and host is not null and lease_worker is not null group by host",
    "select host, count(*) as reading from lanes
where host in (select value from json_each($1)) and host is not null and lease_worker is not null group by host",
);

/// Holds the rows of those of `hosts` that have a limit, until the transaction ends; returns how many tasks more each may
/// have. What others start meanwhile, waits.
pub(crate) async fn room(conn: &mut Conn<'_>, hosts: BTreeSet<String>) -> Result<HashMap<String, i64>> {
    let hosts: Vec<String> = hosts.into_iter().collect();
    let lock = conn.pick(LOCK_LIMITED.0, LOCK_LIMITED.1);
    let mut room = HashMap::new();
    for row in conn.fetch_all(lock, &[Arg::Texts(&hosts)]).await? {
        room.insert(row.text("host")?, row.int("concurrent")?);
    }
    if room.is_empty() {
        return Ok(room);
    }
    // A statement of its own behind the locks: its snapshot has all that earlier holders started.
    let reading = conn.pick(READING.0, READING.1);
    for row in conn.fetch_all(reading, &[Arg::Texts(&hosts)]).await? {
        if let Some(room) = room.get_mut(&row.text("host")?) {
            *room = (*room - row.int("reading")?).max(0);
        }
    }
    Ok(room)
}

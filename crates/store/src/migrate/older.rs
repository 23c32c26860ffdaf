//! Processes of older binaries that a contracting migration would break.
//!
//! They sign on in `workers` with the newest schema that they know. Whether one of them lives is told by its heartbeat
//! counter and this process's own clock, as everywhere. From the moment in which the migration has found none until its
//! transaction ends nobody signs on: whoever does, holds a lock that both know, and looks at the schema behind it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::db::{Conn, Db, Dialect};
use crate::error::Result;

/// Between two looks at the heartbeats.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks at which a counter must have stood still: after a pause of the observer itself, time alone proves nothing.
const STILL_LOOKS: u32 = 3;

/// A process of an older binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderMember {
    /// Its id.
    pub boot: Uuid,
    /// Where its heartbeat counter stood.
    pub beat_seq: i64,
    /// What it does.
    pub role: String,
    /// Name of its machine, or the one that it was given.
    pub host: String,
    /// Process id there.
    pub pid: i64,
    /// Version of its binary.
    pub version: String,
    /// Newest schema that it knows.
    pub schema_version: i64,
}

/// What was seen of older processes.
pub(super) struct Watched {
    /// Those whose heartbeat went on.
    pub(super) living: Vec<OlderMember>,
    /// Those whose heartbeat stood still, and where.
    pub(super) still: Vec<(Uuid, i64)>,
}

struct Seen {
    member: OlderMember,
    since: Instant,
    looks: u32,
    lives: bool,
}

const OLDER: &str = "select boot, beat_seq, role, host, pid, version, schema_version from workers
where gone_at is null and schema_version < $1 order by started_at, boot";

async fn older(conn: &mut Conn<'_>, min_binary: i64) -> Result<Vec<OlderMember>> {
    let rows = conn.fetch_all(OLDER, &[min_binary.into()]).await?;
    let member = |row: &crate::db::Row| {
        Ok(OlderMember {
            boot: row.uuid("boot")?,
            beat_seq: row.int("beat_seq")?,
            role: row.text("role")?,
            host: row.text("host")?,
            pid: row.int("pid")?,
            version: row.text("version")?,
            schema_version: row.int("schema_version")?,
        })
    };
    rows.iter().map(member).collect()
}

/// Watches the processes that are older than `min_binary` until each has shown that it lives, has gone, or has stood still
/// for `dead_after`.
pub(super) async fn watch(db: &Db, min_binary: i64, dead_after: Duration) -> Result<Watched> {
    let mut seen: HashMap<Uuid, Seen> = HashMap::new();
    loop {
        let members = older(&mut db.read().await?.conn(), min_binary).await?;
        seen.retain(|boot, _| members.iter().any(|member| member.boot == *boot));
        for member in members {
            let new = || Seen { member: member.clone(), since: Instant::now(), looks: 0, lives: false };
            let seen = seen.entry(member.boot).or_insert_with(new);
            seen.looks += 1;
            seen.lives |= member.beat_seq != seen.member.beat_seq;
        }
        let is_dead = |seen: &Seen| seen.looks > STILL_LOOKS && seen.since.elapsed() >= dead_after;
        if seen.values().all(|seen| seen.lives || is_dead(seen)) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (living, still): (Vec<Seen>, Vec<Seen>) = seen.into_values().partition(|seen| seen.lives);
    let mut living: Vec<OlderMember> = living.into_iter().map(|seen| seen.member).collect();
    living.sort_by(|one, other| (&one.role, &one.host, one.pid).cmp(&(&other.role, &other.host, other.pid)));
    Ok(Watched { living, still: still.iter().map(|seen| (seen.member.boot, seen.member.beat_seq)).collect() })
}

const STAY: &str = "select pg_advisory_xact_lock_shared(7305808869233)";
const CLOSE: &str = "select pg_advisory_xact_lock(7305808869233)";
const BURY: &str =
    "update workers set gone_at = now() where boot = $1 and beat_seq = $2 and schema_version < $3 and gone_at is null";

/// Keeps contracting migrations out until the end of the transaction. What signs on does so first, and looks at the schema
/// after it.
pub(super) async fn stay(conn: &mut Conn<'_>) -> Result<()> {
    if conn.dialect() == Dialect::Postgres {
        conn.fetch_all(STAY, &[]).await?;
    }
    Ok(())
}

/// Lets nobody sign on until the end of the transaction, declares those older than `min_binary` gone that are `dead`, and
/// returns the others. Always none on SQLite.
pub(super) async fn close(conn: &mut Conn<'_>, min_binary: i64, dead: &[(Uuid, i64)]) -> Result<Vec<OlderMember>> {
    if conn.dialect() == Dialect::Sqlite {
        return Ok(Vec::new());
    }
    conn.fetch_all(CLOSE, &[]).await?;
    for (boot, beat_seq) in dead {
        conn.execute(BURY, &[(*boot).into(), (*beat_seq).into(), min_binary.into()]).await?;
    }
    older(conn, min_binary).await
}

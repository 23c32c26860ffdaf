//! What was sent to a source: kept whole before it is confirmed, read by a task of its lane.
//!
//! A push comes in with the task that will read it in one transaction ([`accept`]), and each page that is made of it
//! notes in its own transaction how far it has been read. So whatever dies between, every record is stored exactly
//! once. With the last of its records the body goes; the row of a push that has a key stays for [`KEEP`], so that its
//! sender may ask again.

use chrono::TimeDelta;
use matome_model::clock::Timestamp;
use sha2::{Digest as _, Sha256};
use sqlx::AssertSqlSafe;

use crate::db::{Arg, Conn, Row};
use crate::error::Result;
use crate::tasks::{self, NewTask, Queued};
use crate::{counters, data_sources};

/// How long a key is known after its push was read.
pub const KEEP: TimeDelta = TimeDelta::days(7);
/// Pushes of a source that may wait to be read.
pub const MOST_WAITING: i64 = 100_000;
/// Bytes of them.
pub const MOST_WAITING_BYTES: i64 = 1 << 30;
/// Pushes that [`next`] gives at most.
const TOGETHER: i64 = 500;

/// What tells what comes under a known key from something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Its bytes: others are something else.
    Body,
    /// Nothing: it is the same, whatever it says now.
    Key,
}

/// Something that is sent to a source.
#[derive(Clone, Debug)]
pub struct NewPush {
    source_id: i64,
    key: Option<String>,
    identity_hash: String,
    format: &'static str,
    headers: Option<String>,
    body: Vec<u8>,
    record_count: u64,
}

impl NewPush {
    /// `key`: how its sender calls it, 1 to 255 characters; `format`: a word for that of the body; `record_count`: how
    /// many records are in it. Hashes the body.
    pub fn new(
        source_id: i64,
        key: Option<String>,
        identity: Identity,
        format: &'static str,
        body: Vec<u8>,
        record_count: u64,
    ) -> Self {
        let mut hash = Sha256::new();
        if key.is_some() && identity == Identity::Body {
            // The same bytes may be other records in another format.
            hash.update(format);
            hash.update([0]);
            hash.update(&body);
        }
        let identity_hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { source_id, key, identity_hash, format, headers: None, body, record_count }
    }

    /// With what its sender said in headers: a JSON object of texts. It tells no two pushes apart.
    pub fn with_headers(self, headers: Option<String>) -> Self {
        Self { headers, ..self }
    }
}

/// A push that was accepted, now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// Its id.
    pub id: i64,
    /// The task that was to read it when it came.
    pub task_id: i64,
    /// Records in it.
    pub record_count: i64,
    /// Whether all of it is stored or in quarantine.
    pub is_read: bool,
}

/// What became of something that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is kept, and a task waits.
    New(Push, Queued),
    /// It was accepted before, under the same key.
    Known(Push),
    /// Something else was accepted under its key.
    Other(Push),
    /// So much waits for the source already that it is not kept.
    Full {
        /// Pushes that wait.
        pushes: i64,
        /// Their bytes.
        bytes: i64,
    },
    /// There is no such source.
    NoSource,
}

const BY_KEY: &str = "select id, task_id, record_count, identity_hash, read_at from pushes
where source_id = $1 and idempotency_key = $2";

const INSERT: &str = "insert into pushes
    (source_id, stream, idempotency_key, identity_hash, format, body_bytes, record_count, headers, task_id,
     received_at)
values ($1, '', $2, $3, $4, $5, $6, $7, 0, $8)
returning id";

const INSERT_BODY: &str = "insert into push_bodies (push_id, body) values ($1, $2)";

const TASK_OF: &str = "update pushes set task_id = $2 where id = $1";

/// Keeps what was sent and queues a task that reads it, in the caller's transaction, which has nothing locked yet.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn accept(conn: &mut Conn<'_>, new: &NewPush, now: Timestamp) -> Result<Accepted> {
    // Nothing is kept for a source that is being deleted; and of two that come at once under one key one is first.
    if data_sources::find_for_update(conn, new.source_id).await?.is_none() {
        return Ok(Accepted::NoSource);
    }
    if let Some(key) = &new.key
        && let Some(row) = conn.fetch_optional(BY_KEY, &[new.source_id.into(), key.into()]).await?
    {
        let push = known(&row)?;
        let is_same = row.text("identity_hash")? == new.identity_hash;
        return Ok(if is_same { Accepted::Known(push) } else { Accepted::Other(push) });
    }
    let size = i64::try_from(new.body.len()).unwrap_or(i64::MAX);
    let waiting = waiting(conn, new.source_id).await?;
    if waiting.pushes >= MOST_WAITING || waiting.bytes.saturating_add(size) > MOST_WAITING_BYTES {
        return Ok(Accepted::Full { pushes: waiting.pushes, bytes: waiting.bytes });
    }
    let record_count = i64::try_from(new.record_count).unwrap_or(i64::MAX);
    let args: [Arg<'_>; 8] = [
        new.source_id.into(),
        new.key.as_deref().into(),
        (&new.identity_hash).into(),
        new.format.into(),
        size.into(),
        record_count.into(),
        new.headers.as_deref().into(),
        now.into(),
    ];
    let id = conn.fetch_one(INSERT, &args).await?.int("id")?;
    conn.execute(INSERT_BODY, &[id.into(), new.body.as_slice().into()]).await?;
    // Source, lane, counters: the order in which a page locks them.
    let task: Queued = tasks::enqueue(conn, &NewTask::pushed(new.source_id, "", now), now).await?.into();
    conn.execute(TASK_OF, &[id.into(), task.id.into()]).await?;
    counters::add(conn, counters::PUSHES, new.source_id, "", 1).await?;
    counters::add(conn, counters::PUSH_BYTES, new.source_id, "", size).await?;
    Ok(Accepted::New(Push { id, task_id: task.id, record_count, is_read: false }, task))
}

fn known(row: &Row) -> Result<Push> {
    Ok(Push {
        id: row.int("id")?,
        task_id: row.int("task_id")?,
        record_count: row.int("record_count")?,
        is_read: row.opt_time("read_at")?.is_some(),
    })
}

/// What waits to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Pushes.
    pub pushes: i64,
    /// Bytes of their bodies.
    pub bytes: i64,
}

/// What waits of one source.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn waiting(conn: &mut Conn<'_>, source_id: i64) -> Result<Waiting> {
    let pushes = counters::of_source(conn, counters::PUSHES, source_id).await?;
    Ok(Waiting { pushes, bytes: counters::of_source(conn, counters::PUSH_BYTES, source_id).await? })
}

/// What waits of all sources.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn all_waiting(conn: &mut Conn<'_>) -> Result<Waiting> {
    let pushes = counters::of_live_sources(conn, counters::PUSHES, None).await?;
    Ok(Waiting { pushes, bytes: counters::of_live_sources(conn, counters::PUSH_BYTES, None).await? })
}

/// A push that is to be read.
#[derive(Clone, Debug)]
pub struct Unread {
    /// Its id.
    pub id: i64,
    /// A word for the format of the body.
    pub format: String,
    /// What its sender said in headers: a JSON object of texts.
    pub headers: Option<String>,
    /// Records of it that are committed.
    pub records_read: u64,
    /// The records.
    pub body: Vec<u8>,
}

const SIZES: &str = "select id, body_bytes from pushes
where source_id = $1 and stream = $2 and read_at is null and id > $3
order by id limit $4";

const BODIES: &str = "select p.id, p.format, p.headers, p.records_read, b.body
from pushes p join push_bodies b on b.push_id = p.id
where p.read_at is null and {ids}
order by p.id";

/// The next pushes behind the id `after` that wait, up to `bytes` bytes together, but one at least when one waits.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn next(conn: &mut Conn<'_>, source_id: i64, stream: &str, after: i64, bytes: usize) -> Result<Vec<Unread>> {
    let room = i64::try_from(bytes).unwrap_or(i64::MAX);
    let (mut ids, mut size) = (Vec::new(), 0_i64);
    let args: [Arg<'_>; 4] = [source_id.into(), stream.into(), after.into(), TOGETHER.into()];
    for row in conn.fetch_all(SIZES, &args).await? {
        size = size.saturating_add(row.int("body_bytes")?);
        if !ids.is_empty() && size > room {
            break;
        }
        ids.push(row.int("id")?);
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // By their ids: with a lower one another may have been committed meanwhile.
    let sql = BODIES.replace("{ids}", &conn.any_of("p.id", 1));
    let rows = conn.fetch_all(AssertSqlSafe(sql), &[Arg::Ints(&ids)]).await?;
    let read = |row: &Row| {
        Ok(Unread {
            id: row.int("id")?,
            format: row.text("format")?,
            headers: row.opt_text("headers")?,
            records_read: u64::try_from(row.int("records_read")?).unwrap_or_default(),
            body: row.bytes("body")?,
        })
    };
    rows.iter().map(read).collect()
}

/// How far a page brings the pushes that it is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pushes of which nothing is left.
    pub whole: Vec<i64>,
    /// One that is read in part: its id, and how many of its records are behind.
    pub part: Option<(i64, u64)>,
}

const IN_PART: &str = "update pushes set records_read = $3 where id = $1 and source_id = $2 and read_at is null";

const WHOLE: &str = "update pushes set records_read = record_count, read_at = $1
where source_id = $2 and read_at is null and {ids}
returning id, body_bytes";

const FORGET_BODIES: &str = "delete from push_bodies where ";

/// Nobody can ask again for what has no key.
const FORGET_NAMELESS: &str = "delete from pushes where idempotency_key is null and ";

/// Notes how far a page has read, in its transaction. Saying the same again changes nothing. Returns how much less
/// waits now, for the counters.
pub(crate) async fn settle(
    conn: &mut Conn<'_>,
    source_id: i64,
    progress: &Progress,
    now: Timestamp,
) -> Result<Waiting> {
    if let Some((id, records)) = progress.part {
        let records = i64::try_from(records).unwrap_or(i64::MAX);
        conn.execute(IN_PART, &[id.into(), source_id.into(), records.into()]).await?;
    }
    let mut less = Waiting { pushes: 0, bytes: 0 };
    if progress.whole.is_empty() {
        return Ok(less);
    }
    let sql = WHOLE.replace("{ids}", &conn.any_of("id", 3));
    let args: [Arg<'_>; 3] = [now.into(), source_id.into(), Arg::Ints(&progress.whole)];
    let mut read = Vec::new();
    for row in conn.fetch_all(AssertSqlSafe(sql), &args).await? {
        read.push(row.int("id")?);
        less.pushes += 1;
        less.bytes += row.int("body_bytes")?;
    }
    for (sql, column) in [(FORGET_BODIES, "push_id"), (FORGET_NAMELESS, "id")] {
        let sql = format!("{sql}{}", conn.any_of(column, 1));
        conn.execute(AssertSqlSafe(sql), &[Arg::Ints(&read)]).await?;
    }
    Ok(less)
}

const FORGET: &str = "delete from pushes where id in
    (select id from pushes where read_at < $1 order by read_at limit $2)";

/// Forgets keys of pushes that were read longer than [`KEEP`] ago; returns how many.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn forget(conn: &mut Conn<'_>, now: Timestamp, limit: i64) -> Result<u64> {
    conn.execute(FORGET, &[(now - KEEP).into(), limit.into()]).await
}

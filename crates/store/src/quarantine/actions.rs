//! What people do with records in quarantine: replay and discard them.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use matome_model::canonical::QuarantineReason;
use matome_model::clock::Timestamp;
use matome_model::task::LaneKind;
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;

use crate::counters;
use crate::data_sources;
use crate::db::{Arg, Conn, Row};
use crate::error::Result;
use crate::inbox;
use crate::tasks::{self, NewTask, ONLY_INBOX, Queued};

/// Why a record cannot be replayed as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is being replayed already.
    Replaying,
    /// It was replayed; what came of it is in the row.
    Replayed,
    /// Only its beginning is kept.
    Cut {
        /// Bytes that are kept.
        kept: i64,
        /// Bytes that it had.
        length: i64,
    },
    /// Its bytes do not begin a JSON object, and its source has no rows that are read otherwise.
    NoObject,
    /// It is a record of the list of parents, of which none is stored.
    Parent,
}

/// What became of the wish to replay one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// There is no such record.
    Missing,
    /// It cannot be replayed as it is.
    Unfit(Unfit),
    /// It waits for this task.
    Accepted {
        /// The task.
        task_id: i64,
    },
}

/// What became of the wish to replay or discard many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Records that it was done to.
    pub done: u64,
    /// Records that were left: not fit for it, or not there.
    pub skipped: u64,
    /// The last record that was looked at.
    pub last_id: Option<i64>,
    /// Tasks that will read the replayed ones.
    pub tasks: Vec<Queued>,
}

/// Which records.
#[derive(Clone, Debug)]
pub enum Which {
    /// These.
    Ids(Vec<i64>),
    /// Those of a source, behind id `after`, at most `limit`.
    Matching {
        /// Their source.
        source_id: i64,
        /// Their reason, if it matters.
        reason: Option<String>,
        /// Their status: `held` or `replayed`.
        status: &'static str,
        /// The id behind which to begin.
        after: i64,
        /// How many at most.
        limit: i64,
    },
}

// The beginning is enough to see whether it can be an object.
const COLUMNS: &str =
    "id, source_id, stream, status, raw_length, length(raw) as kept, substr(raw, 1, 64) as head, reason";

const INSERT_KEPT: &str = "insert into inbox (source_id, stream, quarantine_id, raw, created_at)
select source_id, stream, id, raw, $2 from quarantine where id = $1";
const INSERT_CORRECTED: &str = "insert into inbox (source_id, stream, quarantine_id, raw, created_at)
select source_id, stream, id, $3, $2 from quarantine where id = $1";

struct Found {
    id: i64,
    source_id: i64,
    stream: String,
    unfit: Option<Unfit>,
}

/// `takes_rows`: whether bytes that begin no object may be a row of the source.
fn read(row: &Row, takes_rows: impl Fn(i64) -> bool) -> Result<Found> {
    let (kept, length) = (row.int("kept")?, row.int("raw_length")?);
    let head = row.bytes("head")?;
    let source_id = row.int("source_id")?;
    let begins = head.iter().find(|byte| !byte.is_ascii_whitespace());
    let unfit = match row.text("status")?.as_str() {
        "replaying" => Some(Unfit::Replaying),
        "replayed" => Some(Unfit::Replayed),
        _ if row.text("reason")? == QuarantineReason::Parent.as_str() => Some(Unfit::Parent),
        _ if length > kept => Some(Unfit::Cut { kept, length }),
        _ if begins != Some(&b'{') && !takes_rows(source_id) => Some(Unfit::NoObject),
        _ => None,
    };
    Ok(Found { id: row.int("id")?, source_id, stream: row.text("stream")?, unfit })
}

/// The chosen rows, in the order of their ids, locked until the transaction ends.
async fn find(conn: &mut Conn<'_>, which: &Which, of_rows: &[i64]) -> Result<Vec<Found>> {
    let lock = conn.pick("\nfor no key update", "");
    let rows = match which {
        Which::Ids(ids) => {
            let sql = format!("select {COLUMNS} from quarantine where {} order by id{lock}", conn.any_of("id", 1));
            conn.fetch_all(AssertSqlSafe(sql), &[Arg::Ints(ids)]).await?
        }
        Which::Matching { source_id, reason, status, after, limit } => {
            let and_reason = if reason.is_some() { " and reason = $5" } else { "" };
            let sql = format!(
                "select {COLUMNS} from quarantine where source_id = $1 and id > $2 and status = $4{and_reason}
order by id limit $3{lock}"
            );
            let mut args: Vec<Arg<'_>> = vec![(*source_id).into(), (*after).into(), (*limit).into(), (*status).into()];
            args.extend(reason.as_deref().map(Arg::from));
            conn.fetch_all(AssertSqlSafe(sql), &args).await?
        }
    };
    rows.iter().map(|row| read(row, |source_id| of_rows.contains(&source_id))).collect()
}

fn asked(which: &Which, found: usize) -> u64 {
    let asked = match which {
        Which::Ids(ids) => ids.len(),
        Which::Matching { .. } => found,
    };
    u64::try_from(asked).unwrap_or(u64::MAX)
}

/// The kept bytes of a record; `None` when it is not there.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn raw(conn: &mut Conn<'_>, id: i64) -> Result<Option<Vec<u8>>> {
    let sql = "select raw from quarantine where id = $1
and source_id not in (select id from data_sources where deleted_at is not null)";
    conn.fetch_optional(sql, &[id.into()]).await?.map(|row| row.bytes("raw")).transpose()
}

/// The sources that these records come from.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn sources_of(conn: &mut Conn<'_>, ids: &[i64]) -> Result<Vec<i64>> {
    let sql = format!("select distinct source_id from quarantine where {}", conn.any_of("id", 1));
    conn.fetch_all(AssertSqlSafe(sql), &[Arg::Ints(ids)]).await?.iter().map(|row| row.int("source_id")).collect()
}

/// Puts one record into the inbox, as it is kept or with corrected bytes, and queues the task that reads it. `of_rows`: sources whose
/// records need not be JSON.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn replay(
    conn: &mut Conn<'_>,
    id: i64,
    corrected: Option<&[u8]>,
    of_rows: &[i64],
    now: Timestamp,
) -> Result<Replay> {
    let Some(found) = find(conn, &Which::Ids(vec![id]), of_rows).await?.pop() else { return Ok(Replay::Missing) };
    match found.unfit {
        None => {}
        Some(Unfit::Cut { .. } | Unfit::NoObject) if corrected.is_some() => {}
        Some(unfit) => return Ok(Replay::Unfit(unfit)),
    }
    match corrected {
        None => conn.execute(INSERT_KEPT, &[id.into(), now.into()]).await?,
        Some(raw) => conn.execute(INSERT_CORRECTED, &[id.into(), now.into(), raw.into()]).await?,
    };
    let queued = queue(conn, found.source_id, &found.stream, &[id], now).await?;
    Ok(queued.map_or(Replay::Missing, |task| Replay::Accepted { task_id: task.id }))
}

/// As [`replay`], for many, as they are kept. What cannot be replayed so is left and counted.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn replay_many(conn: &mut Conn<'_>, which: &Which, of_rows: &[i64], now: Timestamp) -> Result<Done> {
    let found = find(conn, which, of_rows).await?;
    let asked = asked(which, found.len());
    let last_id = found.last().map(|found| found.id);
    let mut streams: BTreeMap<(i64, String), Vec<i64>> = BTreeMap::new();
    for found in found.into_iter().filter(|found| found.unfit.is_none()) {
        streams.entry((found.source_id, found.stream)).or_default().push(found.id);
    }
    let mut done = Done { last_id, ..Done::default() };
    for ((source_id, stream), ids) in streams {
        conn.execute(AssertSqlSafe(insert_kept(conn)), &[Arg::Ints(&ids), now.into()]).await?;
        if let Some(task) = queue(conn, source_id, &stream, &ids, now).await? {
            done.done += u64::try_from(ids.len()).unwrap_or(u64::MAX);
            done.tasks.push(task);
        }
    }
    done.skipped = asked - done.done;
    Ok(done)
}

/// Queues the task that reads what is in the inbox, and marks the rows; `None` when the source is being deleted.
async fn queue(
    conn: &mut Conn<'_>,
    source_id: i64,
    stream: &str,
    ids: &[i64],
    now: Timestamp,
) -> Result<Option<Queued>> {
    // Quarantine, source, lane: the order of a page, so that neither waits for the other.
    if data_sources::find_for_update(conn, source_id).await?.is_none() {
        let sql = format!("delete from inbox where {}", conn.any_of("quarantine_id", 1));
        conn.execute(AssertSqlSafe(sql), &[Arg::Ints(ids)]).await?;
        return Ok(None);
    }
    let new = NewTask {
        stream: stream.to_owned(),
        payload: RawValue::from_string(ONLY_INBOX.to_owned()).expect("it is JSON"),
        ..NewTask::manual(LaneKind::Source, source_id, now)
    };
    let task: Queued = tasks::enqueue(conn, &new, now).await?.into();
    mark(conn, ids, task.id).await?;
    Ok(Some(task))
}

/// Marks records that wait for a task.
async fn mark(conn: &mut Conn<'_>, ids: &[i64], task_id: i64) -> Result<()> {
    let sql = format!(
        "update quarantine set status = 'replaying', replay_task = $2, outcome = null, outcome_detail = null,
    outcome_detail_japanese = null,
    replayed_at = null where {}",
        conn.any_of("id", 1)
    );
    conn.execute(AssertSqlSafe(sql), &[Arg::Ints(ids), task_id.into()]).await.map(drop)
}

/// A record that is held, with its bytes.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its id.
    pub id: i64,
    /// One JSON object, or what was meant to be a record; `None` when it cannot be read again as it is kept.
    pub raw: Option<Vec<u8>>,
    /// Where it stood in its source.
    pub position: Box<RawValue>,
    /// Why it was put aside.
    pub reason: String,
}

const HIGHEST: &str =
    "select coalesce(max(id), 0) as id from quarantine where source_id = $1 and stream = $2 and last_seen_at >= $3";

/// The highest id in quarantine of a source stream that was seen at a time or later; 0 when there is none.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn highest(conn: &mut Conn<'_>, source_id: i64, stream: &str, since: Timestamp) -> Result<i64> {
    conn.fetch_one(HIGHEST, &[source_id.into(), stream.into(), since.into()]).await?.int("id")
}

/// The next records that are held of a source stream, behind one id and up to another, that were seen at a time or later: at
/// most about `bytes` of them. `takes_rows`: whether records of the source need not be JSON.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn held(
    conn: &mut Conn<'_>,
    (source_id, stream): (i64, &str),
    (after, up_to): (i64, i64),
    since: Timestamp,
    bytes: usize,
    takes_rows: bool,
) -> Result<Vec<Held>> {
    let sql = format!(
        "select {COLUMNS}, raw, position from quarantine
where source_id = $1 and stream = $2 and id > $3 and id <= $4 and status = 'held' and last_seen_at >= $5
order by id limit {}",
        inbox::PAGE_ROWS
    );
    let args: [Arg<'_>; 5] = [source_id.into(), stream.into(), after.into(), up_to.into(), since.into()];
    let mut rows = conn.fetch_stream(AssertSqlSafe(sql), &args)?;
    let (mut held, mut size) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        let found = read(&row, |_| takes_rows)?;
        let raw = row.bytes("raw")?;
        size += raw.len();
        held.push(Held {
            id: found.id,
            raw: found.unfit.is_none().then_some(raw),
            position: row.json("position")?,
            reason: row.text("reason")?,
        });
        if size >= bytes {
            break;
        }
    }
    Ok(held)
}

/// Puts records into the inbox for a task that runs, which reads it next.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn take_in(conn: &mut Conn<'_>, ids: &[i64], task_id: i64, now: Timestamp) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    conn.execute(AssertSqlSafe(insert_kept(conn)), &[Arg::Ints(ids), now.into()]).await?;
    mark(conn, ids, task_id).await
}

fn insert_kept(conn: &Conn<'_>) -> String {
    format!(
        "insert into inbox (source_id, stream, quarantine_id, raw, created_at)
select source_id, stream, id, raw, $2 from quarantine where {} order by id",
        conn.any_of("id", 1)
    )
}

/// Removes records from the quarantine for good, with their bytes; those that are being replayed are left.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn discard(conn: &mut Conn<'_>, which: &Which) -> Result<Done> {
    let found = find(conn, which, &[]).await?;
    let asked = asked(which, found.len());
    let last_id = found.last().map(|found| found.id);
    let removable = found.into_iter().filter(|found| found.unfit != Some(Unfit::Replaying));
    let mut ids = Vec::new();
    let mut removed: BTreeMap<(i64, String), i64> = BTreeMap::new();
    for found in removable {
        ids.push(found.id);
        *removed.entry((found.source_id, found.stream)).or_default() += 1;
    }
    let sql = format!("delete from quarantine where {}", conn.any_of("id", 1));
    conn.execute(AssertSqlSafe(sql), &[Arg::Ints(&ids)]).await?;
    for ((source_id, stream), rows) in removed {
        counters::add(conn, counters::QUARANTINE, source_id, &stream, -rows).await?;
    }
    let done = u64::try_from(ids.len()).unwrap_or(u64::MAX);
    Ok(Done { done, skipped: asked - done, last_id, tasks: Vec::new() })
}

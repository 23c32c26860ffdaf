//! Removing stored records in batches: what was asked for is a row of `removals` until the last of its records is
//! gone, so it answers at once and survives a crash.
//!
//! Each batch is one transaction with the counters and `checkpoints.removed_up_to`. A reset also holds its source: its
//! lanes are paused, and a task that runs already cannot begin or commit a page, since records that are on their way
//! out would pass for known ones.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use matome_model::clock::Timestamp;
use matome_model::source::SourceStatus;
use matome_model::task::LaneKind;
use sqlx::AssertSqlSafe;

use crate::db::{Arg, Conn, Row};
use crate::error::Result;
use crate::{acquired_data, counters, data_sources, lanes, source_bytes};

/// Which records of a source are to be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Acquired not before this time.
    pub from: Option<Timestamp>,
    /// Acquired before this time.
    pub before: Option<Timestamp>,
}

const INSERT: &str =
    "insert into removals (source_id, up_to_id, acquired_from, acquired_before, holds_source, created_at)
values ($1, $2, $3, $4, $5, $6) returning id";

/// Asks for the removal of the records that are stored now. Returns its id.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn request(conn: &mut Conn<'_>, source_id: i64, removal: &Removal, now: Timestamp) -> Result<i64> {
    insert(conn, source_id, removal, false, now).await
}

async fn insert(conn: &mut Conn<'_>, source_id: i64, which: &Removal, holds: bool, now: Timestamp) -> Result<i64> {
    let up_to = acquired_data::watermark(conn, source_id).await?;
    let args: [Arg<'_>; 6] =
        [source_id.into(), up_to.into(), which.from.into(), which.before.into(), holds.into(), now.into()];
    conn.fetch_one(INSERT, &args).await?.int("id")
}

// The page of a read that is under way finds that its checkpoint moved, and so does an attempt that ended its read.
const FORGET: &str = "update checkpoints set
    page_seq = page_seq + 1, state = '{}', read_ended = {false}, task_id = 0, updated_at = $2
where source_id = $1";

const ANY: &str = "select id from acquired_data where source_id = $1 limit 1";

/// What became of a wish to reset a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// There is no such source.
    Missing,
    /// The next read starts from the beginning.
    Done,
    /// The same, once the stored records are removed.
    Removing,
}

/// Forgets how far a source has been read; with `data` also removes its records. The caller has begun the transaction
/// with nothing locked.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn reset(conn: &mut Conn<'_>, source_id: i64, data: bool, now: Timestamp) -> Result<Reset> {
    // Source, lanes, checkpoints: the order in which a page locks them.
    if data_sources::find_for_update(conn, source_id).await?.is_none() {
        return Ok(Reset::Missing);
    }
    lanes::lock_or_create(conn, LaneKind::Source, source_id, "").await?;
    lanes::lock_object(conn, LaneKind::Source, source_id).await?;
    let forget = FORGET.replace("{false}", conn.pick("false", "0"));
    conn.execute(AssertSqlSafe(forget), &[source_id.into(), now.into()]).await?;
    if !data || conn.fetch_optional(ANY, &[source_id.into()]).await?.is_none() {
        return Ok(Reset::Done);
    }
    insert(conn, source_id, &Removal::default(), true, now).await?;
    lanes::set_paused(conn, LaneKind::Source, source_id, true, now).await?;
    Ok(Reset::Removing)
}

const HOLDS: &str = "select id from removals where source_id = $1 and holds_source limit 1";

/// Whether a reset of the source is still removing its records: until then nothing of it may be read.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn holds(conn: &mut Conn<'_>, source_id: i64) -> Result<bool> {
    Ok(conn.fetch_optional(HOLDS, &[source_id.into()]).await?.is_some())
}

const PENDING: &str = "select id from removals where source_id = $1 limit 1";

/// Whether records of the source are still to be removed.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn pending(conn: &mut Conn<'_>, source_id: i64) -> Result<bool> {
    Ok(conn.fetch_optional(PENDING, &[source_id.into()]).await?.is_some())
}

const NEXT: &str = "select r.id, r.source_id, r.up_to_id, r.acquired_from, r.acquired_before, r.holds_source, s.status
from removals r join data_sources s on s.id = r.source_id
where s.deleted_at is null and (not r.holds_source or not exists (
    select 1 from lanes l where l.kind = 'source' and l.object_id = r.source_id and l.lease_worker is not null))
order by r.id limit 1";

// The oldest first, read off the index of the source's records by time.
const REMOVE: &str = "delete from acquired_data where id in (
    select id from acquired_data
    where source_id = $1 and acquired_at >= $3 and acquired_at < $4 and id <= $2
    order by acquired_at, id limit $5
) returning id, stream{bytes}";

const END: &str = "delete from removals where id = $1";

/// Removes up to `limit` records of what was asked for first. Returns whether there may be more to do.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn remove_batch(conn: &mut Conn<'_>, limit: i64, now: Timestamp) -> Result<bool> {
    let Some(next) = conn.fetch_optional(NEXT, &[]).await? else { return Ok(false) };
    let (id, source_id) = (next.int("id")?, next.int("source_id")?);
    let args: [Arg<'_>; 5] = [
        source_id.into(),
        next.int("up_to_id")?.into(),
        next.opt_time("acquired_from")?.unwrap_or_else(|| new_year(1)).into(),
        next.opt_time("acquired_before")?.unwrap_or_else(|| new_year(9999)).into(),
        limit.into(),
    ];
    let bytes = source_bytes::removed_column(conn, source_id).await?;
    let removed = conn.fetch_all(AssertSqlSafe(REMOVE.replace("{bytes}", &bytes)), &args).await?;
    if !removed.is_empty() {
        count(conn, source_id, &removed).await?;
        return Ok(true);
    }
    let holds = next.bool("holds_source")?;
    let is_paused = next.text("status")? == SourceStatus::Inactive.as_str();
    conn.execute(END, &[id.into()]).await?;
    if holds && !self::holds(conn, source_id).await? {
        lanes::set_paused(conn, LaneKind::Source, source_id, is_paused, now).await?;
    }
    Ok(true)
}

/// The first moment of a year; all times that are stored lie between those of the years 1 and 9999.
fn new_year(year: i32) -> Timestamp {
    let day = NaiveDate::from_ymd_opt(year, 1, 1).expect("every year has a first of January");
    day.and_hms_opt(0, 0, 0).expect("every day has a midnight").and_utc()
}

const REMOVE_IDS: &str = "delete from acquired_data where source_id = $1 and {ids} returning id, stream{bytes}";

/// Removes these records of a source, as far as they are there; returns how many. The caller bounds their number.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn remove(conn: &mut Conn<'_>, source_id: i64, ids: &[i64]) -> Result<u64> {
    let removed = take_out(conn, source_id, ids).await?;
    count(conn, source_id, &removed).await?;
    Ok(u64::try_from(removed.len()).unwrap_or(u64::MAX))
}

/// Removes these records, as [`remove`] does, and leaves it to the caller to [`count`] what is gone.
pub(crate) async fn take_out(conn: &mut Conn<'_>, source_id: i64, ids: &[i64]) -> Result<Vec<Row>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let bytes = source_bytes::removed_column(conn, source_id).await?;
    let sql = REMOVE_IDS.replace("{ids}", &conn.any_of("id", 2)).replace("{bytes}", &bytes);
    conn.fetch_all(AssertSqlSafe(sql), &[source_id.into(), Arg::Ints(ids)]).await
}

const NOTE: &str = "update checkpoints set
    removed_up_to = case when removed_up_to < $3 then $3 else removed_up_to end
where source_id = $1 and stream = $2";

/// Checkpoint, then counter: the order in which a page locks them. The bytes last.
pub(crate) async fn count(conn: &mut Conn<'_>, source_id: i64, removed: &[Row]) -> Result<()> {
    let mut streams: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in removed {
        streams.entry(row.text("stream")?).or_default().push(row);
    }
    for (stream, rows) in streams {
        let mut highest = 0;
        for row in &rows {
            highest = highest.max(row.int("id")?);
        }
        conn.execute(NOTE, &[source_id.into(), (&stream).into(), highest.into()]).await?;
        let removed = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        counters::add(conn, counters::ACQUIRED_DATA, source_id, &stream, -removed).await?;
        source_bytes::take_off(conn, source_id, &stream, &rows).await?;
    }
    Ok(())
}

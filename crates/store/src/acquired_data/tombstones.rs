//! Keys that a source no longer has: a whole read notes which keys it gives, and what it did not give gets a tombstone.
//!
//! Noted are ids: of each key that a page has, the newest version that was stored before the read ([`SeenKeys`]); what the
//! read stores itself has a higher id. Ids make a compressed bitmap, a bit or two each where a source lies close together, at
//! most 16. Once it takes [`SPILL_BYTES`] it goes into `seen_versions` with the page and begins anew, so memory is bounded
//! whatever the number of keys. The last page also leaves a row of `sweeps`: from then on the read is over, its records are
//! stored, and whoever takes the task over goes on with the sweep.
//!
//! A sweep looks at the ids window by window ([`WINDOW`]), each with the part of the bitmaps that is in it, and walks through
//! the records of the source by the index of their times. It makes its tombstones in pages like all others.

use std::sync::{Mutex, PoisonError};

use matome_model::task::Fence;
use roaring::RoaringTreemap;
use sqlx::AssertSqlSafe;

use super::repeats::KeyedRead;
use super::{Page, as_u64};
use crate::checkpoints::CheckpointKey;
use crate::db::{Arg, Conn};
use crate::error::{Result, StoreError};
use crate::lease;
use crate::retention::Place;
use crate::source_bytes::LENGTH;

/// Memory of the ids that a read has seen, before they are written down.
pub(super) const SPILL_BYTES: usize = 4 << 20;
/// Ids that a sweep looks at together: 16 MiB when all of them are seen.
pub const WINDOW: i64 = 1 << 27;

/// What a page does about keys that its source no longer has.
#[derive(Clone, Debug, Default)]
pub struct Deletes {
    /// The page ends a whole read that could tell all its records apart: what it did not give is gone.
    pub begins_sweep: bool,
    /// Ids of newest versions whose keys are gone: each gets a tombstone.
    pub gone: Vec<i64>,
}

/// Keys that a read has given, as ids of the versions that were their newest before it.
#[derive(Debug, Default)]
pub struct SeenKeys {
    ids: RoaringTreemap,
}

impl SeenKeys {
    /// Whether it has given the key of the version with this id.
    pub fn has(&self, id: i64) -> bool {
        self.ids.contains(id.unsigned_abs())
    }

    pub(super) fn add(&mut self, ids: Vec<i64>) {
        self.ids.extend(ids.into_iter().map(i64::unsigned_abs));
    }

    pub(super) fn clear(&mut self) {
        self.ids.clear();
    }
}

/// A sweep that is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The task whose read it was.
    pub task_id: i64,
    /// Versions with higher ids are of the read itself, or younger.
    pub up_to_id: i64,
}

const INSERT_SEEN: &str = "insert into seen_versions (source_id, stream, ids) values ($1, $2, $3)";

const BEGIN: &str = "insert into sweeps (source_id, stream, task_id, up_to_id) values ($1, $2, $3, $4)
on conflict (source_id, stream) do update set task_id = excluded.task_id, up_to_id = excluded.up_to_id";

/// Writes down what a read has seen with this page, when it is much or the read ends; whether it did.
pub(super) async fn note(conn: &mut Conn<'_>, page: &Page, read: &Mutex<KeyedRead>, seen: &[i64]) -> Result<bool> {
    let begins_sweep = page.deletes.begins_sweep;
    let (mut ids, up_to_id) = {
        let read = read.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = &read.seen else { return Ok(false) };
        if !begins_sweep && before.ids.serialized_size() < SPILL_BYTES {
            return Ok(false);
        }
        (before.ids.clone(), read.attempt_from_id())
    };
    ids.extend(seen.iter().map(|id| id.unsigned_abs()));
    let mut bytes = Vec::with_capacity(ids.serialized_size());
    ids.serialize_into(&mut bytes).expect("a vector takes all bytes");
    let key = &page.checkpoint.key;
    conn.execute(INSERT_SEEN, &[key.source_id.into(), (&key.stream).into(), bytes.as_slice().into()]).await?;
    if begins_sweep {
        let args: [Arg<'_>; 4] = [key.source_id.into(), (&key.stream).into(), page.task_id.into(), up_to_id.into()];
        conn.execute(BEGIN, &args).await?;
    }
    Ok(true)
}

const PENDING: &str = "select task_id, up_to_id from sweeps where source_id = $1 and stream = $2";

/// The sweep that is to be done, if there is one.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn pending(conn: &mut Conn<'_>, key: &CheckpointKey) -> Result<Option<Sweep>> {
    let row = conn.fetch_optional(PENDING, &[key.source_id.into(), (&key.stream).into()]).await?;
    row.map(|row| Ok(Sweep { task_id: row.int("task_id")?, up_to_id: row.int("up_to_id")? })).transpose()
}

const SEEN: &str = "select id, ids from seen_versions where source_id = $1 and stream = $2 and id > $3
order by id limit 1";

/// The keys that the read has given, of ids above `from` and up to `to`.
///
/// # Errors
/// When the database refuses a statement or is gone, or has something else there.
pub async fn seen(conn: &mut Conn<'_>, key: &CheckpointKey, from: i64, to: i64) -> Result<SeenKeys> {
    let mut window = RoaringTreemap::new();
    window.insert_range(from.unsigned_abs() + 1..=to.unsigned_abs());
    let (mut seen, mut after) = (SeenKeys::default(), 0_i64);
    // One at a time: each may be as large as a bitmap may become.
    while let Some(row) = conn.fetch_optional(SEEN, &[key.source_id.into(), (&key.stream).into(), after.into()]).await?
    {
        after = row.int("id")?;
        let ids = RoaringTreemap::deserialize_from(row.bytes("ids")?.as_slice()).map_err(|err| {
            StoreError::Inconsistent { column: "seen_versions.ids".to_owned(), what: err.to_string() }
        })?;
        seen.ids |= ids & &window;
    }
    Ok(seen)
}

/// What one of the records of a source is to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where it is.
    pub place: Place,
    /// Its version.
    pub version: i64,
    /// It is the newest, and no tombstone.
    pub is_current: bool,
}

// Read off the index of the source's records by time, backwards. In a CASE, so that no plan makes a join of it: each is one
// look at the unique index.
const STANDING: &str = "select t.id, t.acquired_at, t.version, case when t.key_hash is null or t.is_deleted or exists (
    select 1 from acquired_data n
    where n.source_id = t.source_id and n.stream = t.stream and n.key_hash = t.key_hash and n.version > t.version
) then 0 else 1 end as is_current
from acquired_data t
where t.source_id = $1 and t.stream = $2 and (t.acquired_at, t.id) > ($3, $4)
order by t.acquired_at, t.id limit $5";

/// Up to `limit` records behind a place, the oldest first, each with whether it is what its key is now.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn standing(conn: &mut Conn<'_>, key: &CheckpointKey, after: Place, limit: i64) -> Result<Vec<Standing>> {
    let args: [Arg<'_>; 5] =
        [key.source_id.into(), (&key.stream).into(), after.acquired_at.into(), after.id.into(), limit.into()];
    let rows = conn.fetch_all(STANDING, &args).await?;
    let read = |row: &crate::db::Row| {
        let place = Place { acquired_at: row.time("acquired_at")?, id: row.int("id")? };
        Ok(Standing { place, version: row.int("version")?, is_current: row.int("is_current")? == 1 })
    };
    rows.iter().map(read).collect()
}

/// How many bytes each of these records has, by id; those that are gone are left out.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn lengths(conn: &mut Conn<'_>, ids: &[i64]) -> Result<Vec<(i64, usize)>> {
    let sql = format!(
        "select id, cast({LENGTH} as bigint) as bytes from acquired_data where {} order by id",
        conn.any_of("id", 1)
    );
    let rows = conn.fetch_all(AssertSqlSafe(sql), &[Arg::Ints(ids)]).await?;
    rows.iter().map(|row| Ok((row.int("id")?, usize::try_from(row.int("bytes")?).unwrap_or(0)))).collect()
}

// What was removed since, or has a newer version, gets none.
const INSERT: &str = "insert into acquired_data
(source_id, stream, raw_data, metadata, data_hash, acquired_at, key_hash, version, is_deleted)
select t.source_id, t.stream, t.raw_data, {metadata}, null, {at}, t.key_hash, t.version + 1, {true}
from acquired_data t
where t.source_id = $1 and t.stream = $2 and {ids} and t.key_hash is not null and not t.is_deleted and not exists (
    select 1 from acquired_data n
    where n.source_id = t.source_id and n.stream = t.stream and n.key_hash = t.key_hash and n.version > t.version)
order by t.id
returning id";

/// Makes the tombstones of a page; returns how many, and the highest id, 0 when there are none.
pub(super) async fn insert(conn: &mut Conn<'_>, page: &Page) -> Result<(u64, i64)> {
    let gone = &page.deletes.gone;
    if gone.is_empty() {
        return Ok((0, 0));
    }
    let key = &page.checkpoint.key;
    let sql = INSERT
        .replace("{metadata}", conn.pick("$3::jsonb", "$3"))
        .replace("{at}", conn.pick("$4::timestamptz", "$4"))
        .replace("{true}", conn.pick("true", "1"))
        .replace("{ids}", &conn.any_of("t.id", 5));
    let metadata = format!("{{\"task\":{}}}", page.task_id);
    let args: [Arg<'_>; 5] = [
        key.source_id.into(),
        (&key.stream).into(),
        Arg::Json(Some(&metadata)),
        page.acquired_at.into(),
        Arg::Ints(gone),
    ];
    let rows = conn.fetch_all(AssertSqlSafe(sql), &args).await?;
    let mut last_id = 0;
    for row in &rows {
        last_id = last_id.max(row.int("id")?);
    }
    Ok((as_u64(rows.len()), last_id))
}

const END: &str = "delete from sweeps where source_id = $1 and stream = $2";
const FORGET: &str = "delete from seen_versions where source_id = $1 and stream = $2";

/// Ends a sweep that is done. Under the fence: whoever took the task over still asks what its read has seen, and would take all keys
/// for gone.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is lost; when the database refuses a statement or is gone.
pub async fn end(conn: &mut Conn<'_>, fence: &Fence, key: &CheckpointKey) -> Result<()> {
    lease::peek(conn, fence).await?;
    forget(conn, key).await?;
    lease::lock(conn, fence).await
}

/// Forgets a sweep and what its read has seen: it is done, or a new read begins.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub(super) async fn forget(conn: &mut Conn<'_>, key: &CheckpointKey) -> Result<()> {
    for sql in [END, FORGET] {
        conn.execute(sql, &[key.source_id.into(), (&key.stream).into()]).await?;
    }
    Ok(())
}

//! Hash and identity of the records that the original application stored, page by page, before the first read of their
//! source: what makes a record that is read again known.
//!
//! The rows stay as they are but for `data_hash`, `key_hash` and `version`; where `data_hash` was another hash it is kept
//! in `adopted_hash`. A page commits under the lease of the task that works, and the next attempt goes on behind it.

use std::collections::HashMap;

use futures::TryStreamExt as _;
use matome_model::clock::Timestamp;
use matome_model::source::Dedupe;
use matome_model::task::Fence;
use serde_json::json;
use serde_json::value::RawValue;

use super::unusable;
use crate::acquired_data::{content_key, copy_key};
use crate::checkpoints::{self, CheckpointKey, LIVE};
use crate::db::{Arg, Conn};
use crate::error::Result;
use crate::lease;

/// Equal records of a source that get an identity; a read with more of them stores the rest again.
const MOST_COPIES: i64 = 10_000;

/// What is still to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Records up to here are done.
    pub done_id: i64,
    /// The last one.
    pub up_to_id: i64,
}

/// A record as it is stored.
#[derive(Clone, Debug)]
pub struct RawRecord {
    /// Its id.
    pub id: i64,
    /// Its JSON.
    pub raw_data: Box<RawValue>,
    /// What the original application had as its hash.
    pub data_hash: Option<String>,
}

/// A record with what was found out about it.
#[derive(Clone, Debug)]
pub struct Hashed {
    /// Its id.
    pub id: i64,
    /// SHA-256 of its canonical form; `None` for what has none, and can never be read again.
    pub hash: Option<[u8; 32]>,
    /// Its identity with [`Dedupe::Key`], when it has the key.
    pub key: Option<[u8; 16]>,
    /// What was in `data_hash`.
    pub found_hash: Option<String>,
}

/// A page of records of one source.
#[derive(Clone, Debug)]
pub struct FillPage {
    /// Proof that the worker holds the lane.
    pub fence: Fence,
    /// The source.
    pub source_id: i64,
    /// Revision of its config.
    pub config_rev: i64,
    /// What makes two records the same.
    pub dedupe: Dedupe,
    /// The records, by id.
    pub records: Vec<Hashed>,
    /// All up to here are done with this page.
    pub done_id: i64,
    /// Now.
    pub now: Timestamp,
}

const PENDING: &str =
    "select done_id, up_to_id from adoptions where kind = 'source' and object_id = $1 and done_id < up_to_id";

/// What is to be filled before the source may be read; `None` for nearly every source.
///
/// # Errors
/// When the database is gone.
pub async fn pending(conn: &mut Conn<'_>, source_id: i64) -> Result<Option<Pending>> {
    let row = conn.fetch_optional(PENDING, &[source_id.into()]).await?;
    row.map(|row| Ok(Pending { done_id: row.int("done_id")?, up_to_id: row.int("up_to_id")? })).transpose()
}

const NEXT: &str = "select id, raw_data, data_hash from acquired_data
where source_id = $1 and stream = '' and id > $2 and id <= $3 order by id limit $4";

/// The next records, by id, at most about `bytes` of them.
///
/// # Errors
/// When the database is gone.
pub async fn next(
    conn: &mut Conn<'_>,
    source_id: i64,
    pending: Pending,
    limit: i64,
    bytes: usize,
) -> Result<Vec<RawRecord>> {
    let args = [source_id.into(), pending.done_id.into(), pending.up_to_id.into(), limit.into()];
    // In order of ids whatever the statistics say: the other way sorts the whole source for each page.
    let mut records = Vec::new();
    let mut length = 0;
    let mut rows = conn.fetch_stream(NEXT, &args)?;
    while let Some(row) = rows.try_next().await? {
        let record =
            RawRecord { id: row.int("id")?, raw_data: row.json("raw_data")?, data_hash: row.opt_text("data_hash")? };
        length += record.raw_data.get().len();
        records.push(record);
        if length >= bytes {
            break;
        }
    }
    Ok(records)
}

/// Commits a page. To be called in [`crate::db::Db::write_page`].
///
/// # Errors
/// [`crate::error::StoreError::Fenced`] when the lease is lost; when the database is gone.
pub async fn commit(conn: &mut Conn<'_>, page: &FillPage) -> Result<()> {
    lease::peek(conn, &page.fence).await?;
    let identities = match page.dedupe {
        Dedupe::None => vec![(None, 1); page.records.len()],
        Dedupe::Hash => copies(conn, page, 1).await?,
        Dedupe::Rows => copies(conn, page, MOST_COPIES).await?,
        Dedupe::Key => versions(conn, page).await?,
    };
    let rows = page.records.iter().zip(identities).map(|(record, (key, version))| {
        let hash = record.hash.map(hex);
        // A hash that was ours already is not kept twice.
        let adopted = record.found_hash.as_ref().filter(|found| hash.as_ref() != Some(*found));
        let key = key.map(|key: [u8; 16]| hex(key));
        json!({ "id": record.id, "hash": hash, "key": key, "version": version, "adopted": adopted }).to_string()
    });
    let rows: Vec<String> = rows.collect();
    conn.execute(conn.pick(FILL_POSTGRES, FILL_SQLITE), &[page.source_id.into(), Arg::Texts(&rows)]).await?;

    // The lane last, with checkpoint and place.
    let key = CheckpointKey { source_id: page.source_id, stream: String::new(), purpose: LIVE.to_owned() };
    checkpoints::hold(conn, &page.fence, &key, page.config_rev, page.now).await?;
    conn.execute(STAND_AT_NEWEST, &[page.source_id.into()]).await?;
    conn.execute(DONE, &[page.source_id.into(), page.done_id.into()]).await?;
    let settled = conn.pick("true", "1");
    let sql = format!(
        "delete from adoptions where kind = 'source' and object_id = $1 and done_id >= up_to_id and settled = {settled}"
    );
    conn.execute(sqlx::AssertSqlSafe(sql), &[page.source_id.into()]).await.map(drop)
}

const FILL_POSTGRES: &str =
    "update acquired_data set data_hash = f.r ->> 'hash', key_hash = decode(f.r ->> 'key', 'hex'),
    version = (f.r ->> 'version')::integer, adopted_hash = f.r ->> 'adopted'
from (select t::jsonb as r from unnest($2::text[]) as t) f
where acquired_data.id = (f.r ->> 'id')::bigint and acquired_data.source_id = $1";
const FILL_SQLITE: &str = "update acquired_data set data_hash = f.r ->> 'hash', key_hash = unhex(f.r ->> 'key'),
    version = f.r ->> 'version', adopted_hash = f.r ->> 'adopted'
from (select value as r from json_each($2)) f
where acquired_data.id = f.r ->> 'id' and acquired_data.source_id = $1";

const STAND_AT_NEWEST: &str = "update checkpoints set last_record_id = case
    when removed_up_to > (select coalesce(max(d.id), 0) from acquired_data d where d.source_id = $1) then removed_up_to
    else (select coalesce(max(d.id), 0) from acquired_data d where d.source_id = $1) end
where source_id = $1 and stream = '' and purpose = 'live' and last_record_id = 0";
const DONE: &str = "update adoptions set done_id = $2 where kind = 'source' and object_id = $1";

type Identity = (Option<[u8; 16]>, i32);

// Only rows before this page: those of the page are counted in memory.
const COPIES_POSTGRES: &str = "select k.n, (select count(*) from (
    select 1 from acquired_data a
    where a.data_hash = k.hash and a.source_id = $1 and a.stream = '' and a.key_hash is not null and a.id < $3 limit $4
) c) as copies
from unnest($2::text[]) with ordinality as k (hash, n)";
const COPIES_SQLITE: &str = "select k.key + 1 as n, (select count(*) from (
    select 1 from acquired_data a
    where a.data_hash = k.value and a.source_id = $1 and a.stream = '' and a.key_hash is not null and a.id < $3 limit $4
) c) as copies
from json_each($2) k";

/// The first `most` records of each content have an identity.
async fn copies(conn: &mut Conn<'_>, page: &FillPage, most: i64) -> Result<Vec<Identity>> {
    let hashes: Vec<String> = page.records.iter().filter_map(|record| record.hash.map(hex)).collect();
    let Some(first) = page.records.first() else { return Ok(Vec::new()) };
    let args = [page.source_id.into(), Arg::Texts(&hashes), first.id.into(), most.into()];
    let mut seen: HashMap<String, i64> = HashMap::new();
    for row in conn.fetch_all(conn.pick(COPIES_POSTGRES, COPIES_SQLITE), &args).await? {
        let n = usize::try_from(row.int("n")? - 1).ok().and_then(|n| hashes.get(n));
        seen.insert(n.ok_or_else(|| unusable("a number that was not given"))?.clone(), row.int("copies")?);
    }
    let identity = |record: &Hashed| {
        let Some(hash) = record.hash else { return (None, 1) };
        let copies = seen.entry(hex(hash)).or_default();
        let copy = *copies;
        *copies += 1;
        let key = (copy < most).then(|| match u32::try_from(copy).unwrap_or(u32::MAX) {
            0 => content_key(&hash),
            n => copy_key(&hash, n),
        });
        (key, 1)
    };
    Ok(page.records.iter().map(identity).collect())
}

const NEWEST_POSTGRES: &str = "select k.n, found.version, found.data_hash
from unnest($2::text[]) with ordinality as k (key, n)
cross join lateral (
    select a.version, a.data_hash from acquired_data a
    where a.source_id = $1 and a.stream = '' and a.key_hash = decode(k.key, 'hex')
    order by a.source_id desc, a.stream desc, a.key_hash desc, a.version desc limit 1
) found";
const NEWEST_SQLITE: &str = "select k.key + 1 as n, a.version, a.data_hash from json_each($2) k
cross join acquired_data a indexed by acquired_data_key
on a.source_id = $1 and a.stream = '' and a.key_hash = unhex(k.value) and a.key_hash is not null
    and a.version = (select max(b.version) from acquired_data b indexed by acquired_data_key
        where b.source_id = $1 and b.stream = '' and b.key_hash = unhex(k.value) and b.key_hash is not null)";

/// Each change of a key's content is its next version; what says the same as the one before has none.
async fn versions(conn: &mut Conn<'_>, page: &FillPage) -> Result<Vec<Identity>> {
    let mut keys: Vec<String> = page.records.iter().filter_map(|record| record.key.map(hex)).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut newest: HashMap<String, (i32, Option<String>)> = HashMap::new();
    for row in
        conn.fetch_all(conn.pick(NEWEST_POSTGRES, NEWEST_SQLITE), &[page.source_id.into(), Arg::Texts(&keys)]).await?
    {
        let key = usize::try_from(row.int("n")? - 1).ok().and_then(|n| keys.get(n));
        let version = i32::try_from(row.int("version")?).unwrap_or(i32::MAX);
        let key = key.ok_or_else(|| unusable("a number that was not given"))?;
        newest.insert(key.clone(), (version, row.opt_text("data_hash")?));
    }
    let identity = |record: &Hashed| {
        let (Some(hash), Some(key)) = (record.hash, record.key) else { return (None, 1) };
        let hash = Some(hex(hash));
        let last = newest.entry(hex(key)).or_insert((0, None));
        if last.0 > 0 && last.1 == hash {
            return (None, 1);
        }
        *last = (last.0 + 1, hash);
        (Some(key), last.0)
    };
    Ok(page.records.iter().map(identity).collect())
}

fn hex<const N: usize>(bytes: [u8; N]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

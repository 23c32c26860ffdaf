//! Records that are stored already, looked at again: page by page in the order of their ids, without a source.
//!
//! Each is judged by its caller as if it had just been read. What is not what its source promises any more goes to quarantine
//! ([`RenewalPage::rejected`]). All others get the values, hash and identity that they would have, had they been read so from the
//! beginning; most have them. A page commits under the lease of the task that works, with a checkpoint of its own, and the
//! place of the source's reads stays where it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::TryStreamExt as _;
use matome_model::clock::Timestamp;
use matome_model::source::Dedupe;
use matome_model::task::{Fence, LaneKind};
use serde_json::json;
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;

use super::identity::Key;
use super::{as_u64, content_key, copy_key, encode_hex};
use crate::checkpoints::{self, Advance};
use crate::counters;
use crate::db::{Arg, Conn};
use crate::error::{Result, StoreError};
use crate::lease;
use crate::quarantine::{self, BadRecord};
use crate::removals;
use crate::source_bytes;
use crate::tasks;
use crate::triggers;

/// Equal records of a source that get an identity; a read with more of them stores the rest again.
const MOST_COPIES: i64 = 10_000;

/// The purpose of a checkpoint that goes through what is stored.
pub const REVALIDATION: &str = "revalidation";

/// The purpose of a checkpoint that goes through what is stored and leaves all of it as it is.
pub const REVALIDATION_REPORT: &str = "revalidation_report";

/// A record as it is stored.
#[derive(Clone, Debug)]
pub struct StoredRow {
    /// Its id.
    pub id: i64,
    /// Its JSON.
    pub raw_data: Box<RawValue>,
    /// Where it was read.
    pub metadata: Box<RawValue>,
    /// Its hash, or what the original application had as such.
    pub data_hash: Option<String>,
    /// Its identity.
    pub key_hash: Option<Key>,
    /// Its version.
    pub version: i64,
    /// It is a tombstone.
    pub is_deleted: bool,
}

/// Records of one source stream behind an id.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The source.
    pub source_id: i64,
    /// Its stream.
    pub stream: &'a str,
    /// Behind this id.
    pub after: i64,
    /// Up to this id.
    pub up_to: i64,
}

const NEXT: &str = "select id, raw_data, metadata, data_hash, key_hash, version, is_deleted from acquired_data
where source_id = $1 and stream = $2 and id > $3 and id <= $4 order by id limit $5";

/// The next records, by id, at most about `bytes` of them.
///
/// # Errors
/// When the database is gone, or has something else there.
pub async fn next(conn: &mut Conn<'_>, part: Part<'_>, limit: i64, bytes: usize) -> Result<Vec<StoredRow>> {
    let args = [part.source_id.into(), part.stream.into(), part.after.into(), part.up_to.into(), limit.into()];
    // In order of ids whatever the statistics say: the other way sorts the whole source for each page.
    let mut records = Vec::new();
    let mut length = 0;
    let mut rows = conn.fetch_stream(NEXT, &args)?;
    while let Some(row) = rows.try_next().await? {
        let key_hash = row.opt_bytes("key_hash")?.map(Key::try_from).transpose().map_err(|bytes| {
            let column = "acquired_data.key_hash".to_owned();
            StoreError::Inconsistent { column, what: format!("{} bytes", bytes.len()) }
        })?;
        let record = StoredRow {
            id: row.int("id")?,
            raw_data: row.json("raw_data")?,
            metadata: row.json("metadata")?,
            data_hash: row.opt_text("data_hash")?,
            key_hash,
            version: row.int("version")?,
            is_deleted: row.bool("is_deleted")?,
        };
        length += record.raw_data.get().len();
        records.push(record);
        if length >= bytes {
            break;
        }
    }
    Ok(records)
}

// One step on the index of the source's records by time. Ids grow with time, but for a clock that went back.
const FIRST_SINCE: &str = "select id from acquired_data
where source_id = $1 and stream = $2 and acquired_at >= $3 order by acquired_at, id limit 1";

/// The id of the first record that was acquired at a time or later.
///
/// # Errors
/// When the database is gone.
pub async fn first_since(conn: &mut Conn<'_>, source_id: i64, stream: &str, since: Timestamp) -> Result<Option<i64>> {
    let row = conn.fetch_optional(FIRST_SINCE, &[source_id.into(), stream.into(), since.into()]).await?;
    row.map(|row| row.int("id")).transpose()
}

/// What a stored record says, for its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its id.
    pub id: i64,
    /// SHA-256 of its canonical form; `None` for what has none, and for a tombstone.
    pub hash: Option<[u8; 32]>,
    /// Identity by its key, where its source has one.
    pub key: Option<Key>,
    /// It is a tombstone.
    pub is_deleted: bool,
}

/// `key_hash` and version.
pub(crate) type Identity = (Option<Key>, i32);

/// The identities of records of one source stream, in the order of their ids; all records before the first of them have
/// theirs.
pub(crate) async fn identities(
    conn: &mut Conn<'_>,
    source_id: i64,
    stream: &str,
    dedupe: Dedupe,
    contents: &[Content],
) -> Result<Vec<Identity>> {
    match dedupe {
        Dedupe::None => Ok(vec![(None, 1); contents.len()]),
        Dedupe::Hash => copies(conn, source_id, stream, contents, 1).await,
        Dedupe::Rows => copies(conn, source_id, stream, contents, MOST_COPIES).await,
        Dedupe::Key => versions(conn, source_id, stream, contents).await,
    }
}

// Only rows before these: they are counted in memory themselves.
const COPIES_POSTGRES: &str = "select k.n, (select count(*) from (
    select 1 from acquired_data a
    where a.data_hash = k.hash and a.source_id = $1 and a.stream = $2 and a.key_hash is not null and a.id < $4 limit $5
) c) as copies
from unnest($3::text[]) with ordinality as k (hash, n)";
const COPIES_SQLITE: &str = "select k.key + 1 as n, (select count(*) from (
    select 1 from acquired_data a
    where a.data_hash = k.value and a.source_id = $1 and a.stream = $2 and a.key_hash is not null and a.id < $4 limit $5
) c) as copies
from json_each($3) k";

/// The first `most` records of each content have an identity.
async fn copies(
    conn: &mut Conn<'_>,
    source_id: i64,
    stream: &str,
    contents: &[Content],
    most: i64,
) -> Result<Vec<Identity>> {
    let hashes: Vec<String> = contents.iter().filter_map(|content| content.hash.map(encode_hex)).collect();
    let Some(first) = contents.first() else { return Ok(Vec::new()) };
    let args: [Arg<'_>; 5] = [source_id.into(), stream.into(), Arg::Texts(&hashes), first.id.into(), most.into()];
    let mut seen: HashMap<String, i64> = HashMap::new();
    for row in conn.fetch_all(conn.pick(COPIES_POSTGRES, COPIES_SQLITE), &args).await? {
        seen.insert(given(&hashes, row.int("n")?)?.clone(), row.int("copies")?);
    }
    let identity = |content: &Content| {
        let Some(hash) = content.hash else { return (None, 1) };
        let copies = seen.entry(encode_hex(hash)).or_default();
        let copy = *copies;
        *copies += 1;
        let key = (copy < most).then(|| match u32::try_from(copy).unwrap_or(u32::MAX) {
            0 => content_key(&hash),
            n => copy_key(&hash, n),
        });
        (key, 1)
    };
    Ok(contents.iter().map(identity).collect())
}

const NEWEST_POSTGRES: &str = "select k.n, found.version, found.data_hash
from unnest($3::text[]) with ordinality as k (key, n)
cross join lateral (
    select a.version, a.data_hash from acquired_data a
    where a.source_id = $1 and a.stream = $2 and a.key_hash = decode(k.key, 'hex') and a.id < $4
    order by a.source_id desc, a.stream desc, a.key_hash desc, a.version desc limit 1
) found";
const NEWEST_SQLITE: &str = "select k.key + 1 as n, a.version, a.data_hash from json_each($3) k
cross join acquired_data a indexed by acquired_data_key
on a.source_id = $1 and a.stream = $2 and a.key_hash = unhex(k.value) and a.key_hash is not null
    and a.version = (select max(b.version) from acquired_data b indexed by acquired_data_key
        where b.source_id = $1 and b.stream = $2 and b.key_hash = unhex(k.value) and b.key_hash is not null
            and b.id < $4)";

/// Each change of a key's content is its next version; what says the same as the one before has none.
async fn versions(conn: &mut Conn<'_>, source_id: i64, stream: &str, contents: &[Content]) -> Result<Vec<Identity>> {
    let Some(first) = contents.first() else { return Ok(Vec::new()) };
    let mut keys: Vec<String> = contents.iter().filter_map(|content| content.key.map(encode_hex)).collect();
    keys.sort_unstable();
    keys.dedup();
    let args: [Arg<'_>; 4] = [source_id.into(), stream.into(), Arg::Texts(&keys), first.id.into()];
    let mut newest: HashMap<String, (i32, Option<String>)> = HashMap::new();
    for row in conn.fetch_all(conn.pick(NEWEST_POSTGRES, NEWEST_SQLITE), &args).await? {
        let version = i32::try_from(row.int("version")?).unwrap_or(i32::MAX);
        newest.insert(given(&keys, row.int("n")?)?.clone(), (version, row.opt_text("data_hash")?));
    }
    let identity = |content: &Content| {
        let Some(key) = content.key.filter(|_| content.hash.is_some() || content.is_deleted) else { return (None, 1) };
        let hash = content.hash.map(encode_hex);
        let last = newest.entry(encode_hex(key)).or_insert((0, None));
        if last.0 > 0 && last.1 == hash {
            return (None, 1);
        }
        *last = (last.0 + 1, hash);
        (Some(key), last.0)
    };
    Ok(contents.iter().map(identity).collect())
}

/// What a statement numbers from 1.
fn given(given: &[String], n: i64) -> Result<&String> {
    usize::try_from(n - 1).ok().and_then(|n| given.get(n)).ok_or_else(|| StoreError::Inconsistent {
        column: "acquired_data".to_owned(),
        what: "a number that was not given".to_owned(),
    })
}

/// What a stored record gets.
pub(crate) struct Renewed<'a> {
    pub(crate) id: i64,
    pub(crate) hash: Option<[u8; 32]>,
    pub(crate) identity: Identity,
    /// What was in `data_hash`, if it is to be kept beside it.
    pub(crate) adopted: Option<&'a String>,
    /// Its JSON, if that is another one.
    pub(crate) text: Option<&'a String>,
}

const WRITE_POSTGRES: &str =
    "update acquired_data set data_hash = f.r ->> 'hash', key_hash = decode(f.r ->> 'key', 'hex'),
    version = (f.r ->> 'version')::integer, adopted_hash = coalesce(f.r ->> 'adopted', adopted_hash),
    raw_data = coalesce((f.r ->> 'text')::jsonb, raw_data)
from (select t::jsonb as r from unnest($2::text[]) as t) f
where acquired_data.id = (f.r ->> 'id')::bigint and acquired_data.source_id = $1";
const WRITE_SQLITE: &str = "update acquired_data set data_hash = f.r ->> 'hash', key_hash = unhex(f.r ->> 'key'),
    version = f.r ->> 'version', adopted_hash = coalesce(f.r ->> 'adopted', adopted_hash),
    raw_data = coalesce(f.r ->> 'text', raw_data)
from (select value as r from json_each($2)) f
where acquired_data.id = f.r ->> 'id' and acquired_data.source_id = $1";

/// Gives records of a source what they get.
pub(crate) async fn write<'a>(
    conn: &mut Conn<'_>,
    source_id: i64,
    records: impl Iterator<Item = Renewed<'a>>,
) -> Result<()> {
    let row = |Renewed { id, hash, identity: (key, version), adopted, text }: Renewed<'_>| {
        let (hash, key) = (hash.map(encode_hex), key.map(encode_hex));
        json!({ "id": id, "hash": hash, "key": key, "version": version, "adopted": adopted, "text": text }).to_string()
    };
    let rows: Vec<String> = records.map(row).collect();
    conn.execute(conn.pick(WRITE_POSTGRES, WRITE_SQLITE), &[source_id.into(), Arg::Texts(&rows)]).await.map(drop)
}

/// A record that stays, with what it has now.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What it says.
    pub content: Content,
    /// Its canonical JSON, where that is no more what is stored.
    pub text: Option<String>,
    /// Its `data_hash`, `key_hash` and version as they are stored.
    pub found: (Option<String>, Option<Key>, i64),
}

impl Kept {
    /// Whether it may have to get something else than it has. Where equal records are counted only the count tells.
    fn is_doubtful(&self, dedupe: Dedupe) -> bool {
        let (found_hash, found_key, _) = &self.found;
        if self.content.is_deleted {
            return dedupe == Dedupe::Key && *found_key != self.content.key;
        }
        let expected = match dedupe {
            Dedupe::None => None,
            Dedupe::Key => self.content.key,
            Dedupe::Hash | Dedupe::Rows => self.content.hash.as_ref().map(content_key),
        };
        *found_key != expected || *found_hash != self.content.hash.map(encode_hex)
    }

    /// What tells it apart from others, and what did.
    fn keys(&self, dedupe: Dedupe) -> impl Iterator<Item = Key> {
        let new = match dedupe {
            Dedupe::None => None,
            Dedupe::Key => self.content.key,
            Dedupe::Hash | Dedupe::Rows => self.content.hash.as_ref().map(content_key),
        };
        new.into_iter().chain(self.found.1)
    }
}

/// What a page did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenewalCounts {
    /// Records that are as they were.
    pub unchanged: u64,
    /// Records with another content, identity or version.
    pub changed: u64,
    /// Records that went to quarantine.
    pub quarantined: u64,
}

/// Makes what the task shows out of what a page did.
#[derive(Clone)]
pub struct RenewalProgress(pub Arc<dyn Fn(RenewalCounts) -> Box<RawValue> + Send + Sync>);

impl std::fmt::Debug for RenewalProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RenewalProgress(..)")
    }
}

/// Stored records that were looked at.
#[derive(Clone, Debug)]
pub struct RenewalPage {
    /// Proof that the worker holds the lane.
    pub fence: Fence,
    /// The task.
    pub task_id: i64,
    /// What makes two records the same.
    pub dedupe: Dedupe,
    /// How its own checkpoint moves.
    pub checkpoint: Advance,
    /// Records that stay, in the order of their ids.
    pub kept: Vec<Kept>,
    /// Those that do not, by id.
    pub rejected: Vec<(i64, BadRecord)>,
    /// Now.
    pub now: Timestamp,
    /// What the task shows after it.
    pub progress: RenewalProgress,
}

/// Commits a page. To be called in [`crate::db::Db::write_page`].
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is lost, [`StoreError::CheckpointMoved`] when somebody reset the source; when the
/// database refuses a statement or is gone.
pub async fn commit(conn: &mut Conn<'_>, page: &RenewalPage) -> Result<RenewalCounts> {
    let (source_id, stream) = (page.checkpoint.key.source_id, page.checkpoint.key.stream.as_str());
    lease::peek(conn, &page.fence).await?;
    let ids: Vec<i64> = page.rejected.iter().map(|(id, _)| *id).collect();
    let removed = removals::take_out(conn, source_id, &ids).await?;
    let bad: Vec<BadRecord> = page.rejected.iter().map(|(_, bad)| bad.clone()).collect();
    let new_in_quarantine = quarantine::insert(conn, source_id, stream, page.task_id, page.now, &bad).await?;
    quarantine::hold_again(conn, source_id, stream, &bad).await?;
    let (changed, is_rewritten) = renew(conn, page).await?;
    let changed = as_u64(changed);
    let counts = RenewalCounts {
        unchanged: as_u64(page.kept.len()) - changed,
        changed,
        quarantined: as_u64(page.rejected.len()),
    };
    if counts.changed > 0 || counts.quarantined > 0 {
        triggers::note(conn, LaneKind::Source, source_id, page.now).await?;
    }

    lease::lock(conn, &page.fence).await?;
    // As a removal locks the checkpoints of the stream, all in one statement; its own is among them.
    removals::count(conn, source_id, &removed).await?;
    checkpoints::advance(conn, &page.checkpoint, 0, false, page.fence.lease_epoch, page.now).await?;
    let new_in_quarantine = i64::try_from(new_in_quarantine).unwrap_or(i64::MAX);
    counters::add(conn, counters::QUARANTINE, source_id, stream, new_in_quarantine).await?;
    if is_rewritten {
        source_bytes::forget(conn, source_id, stream).await?;
    }
    tasks::made_progress(conn, &page.fence, Some(&*(page.progress.0)(counts))).await?;
    Ok(counts)
}

/// Moves on the checkpoint of a task that looks at what is stored and changes nothing; `progress` is what the task shows.
///
/// # Errors
/// As [`commit`].
pub async fn pass(
    conn: &mut Conn<'_>,
    fence: &Fence,
    step: &Advance,
    progress: &RawValue,
    now: Timestamp,
) -> Result<()> {
    lease::lock(conn, fence).await?;
    checkpoints::advance(conn, step, 0, false, fence.lease_epoch, now).await?;
    tasks::made_progress(conn, fence, Some(progress)).await
}

/// How many of these records of one source stream, in the order of their ids, would get another content, identity or version, as
/// long as those before them keep what they have.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn count_changes(
    conn: &mut Conn<'_>,
    (source_id, stream): (i64, &str),
    dedupe: Dedupe,
    kept: &[Kept],
) -> Result<u64> {
    Ok(as_u64(changes(conn, source_id, stream, dedupe, kept).await?.len()))
}

/// Moves records of the quarantine into the inbox for a task that goes through them, with its checkpoint.
///
/// # Errors
/// As [`commit`].
pub async fn take_in(
    conn: &mut Conn<'_>,
    fence: &Fence,
    task_id: i64,
    step: &Advance,
    ids: &[i64],
    now: Timestamp,
) -> Result<()> {
    lease::peek(conn, fence).await?;
    quarantine::take_in(conn, ids, task_id, now).await?;
    lease::lock(conn, fence).await?;
    checkpoints::advance(conn, step, 0, false, fence.lease_epoch, now).await
}

/// The records that have something else than they should have, with what that is.
async fn changes<'k>(
    conn: &mut Conn<'_>,
    source_id: i64,
    stream: &str,
    dedupe: Dedupe,
    all: &'k [Kept],
) -> Result<Vec<(&'k Kept, Identity)>> {
    let doubtful = || all.iter().filter(|kept| kept.is_doubtful(dedupe));
    let affected: HashSet<Key> = doubtful().flat_map(|kept| kept.keys(dedupe)).collect();
    let is_meant = |kept: &&Kept| {
        (dedupe == Dedupe::Key || !kept.content.is_deleted)
            && (kept.is_doubtful(dedupe) || kept.keys(dedupe).any(|key| affected.contains(&key)))
    };
    let meant: Vec<&Kept> = all.iter().filter(is_meant).collect();
    let contents: Vec<Content> = meant.iter().map(|kept| kept.content).collect();
    let identities = identities(conn, source_id, stream, dedupe, &contents).await?;
    let differs = |(kept, identity): &(&Kept, Identity)| {
        let (hash, key, version) = &kept.found;
        *hash != kept.content.hash.map(encode_hex) || *key != identity.0 || *version != i64::from(identity.1)
    };
    Ok(meant.into_iter().zip(identities).filter(differs).collect())
}

/// Gives the records of a page what they should have; returns how many had something else, and whether any has another text.
async fn renew(conn: &mut Conn<'_>, page: &RenewalPage) -> Result<(usize, bool)> {
    let (source_id, stream) = (page.checkpoint.key.source_id, page.checkpoint.key.stream.as_str());
    let changed = changes(conn, source_id, stream, page.dedupe, &page.kept).await?;
    let Some(last) = page.kept.last().filter(|_| !changed.is_empty()) else { return Ok((0, false)) };

    // What comes later under one of these identities is looked at later, and told apart then.
    let keys: HashSet<Key> =
        changed.iter().flat_map(|(kept, identity)| identity.0.into_iter().chain(kept.found.1)).collect();
    let keys: Vec<String> = keys.into_iter().map(encode_hex).collect();
    let args: [Arg<'_>; 4] = [source_id.into(), stream.into(), Arg::Texts(&keys), last.content.id.into()];
    conn.execute(conn.pick(LATER_POSTGRES, LATER_SQLITE), &args).await?;
    // One takes the identity that another gives up.
    let ids: Vec<i64> = changed.iter().map(|(kept, _)| kept.content.id).collect();
    let sql = AssertSqlSafe(LET_GO.replace("{ids}", &conn.any_of("id", 2)));
    conn.execute(sql, &[source_id.into(), Arg::Ints(&ids)]).await?;
    let renewed = changed.iter().map(|(kept, identity)| Renewed {
        id: kept.content.id,
        hash: kept.content.hash,
        identity: *identity,
        adopted: None,
        text: kept.text.as_ref(),
    });
    write(conn, source_id, renewed).await?;
    Ok((changed.len(), changed.iter().any(|(kept, _)| kept.text.is_some())))
}

const LATER_POSTGRES: &str = "update acquired_data set key_hash = null, version = 1
where source_id = $1 and stream = $2 and key_hash in (select decode(k, 'hex') from unnest($3::text[]) as k) and id > $4";
const LATER_SQLITE: &str = "update acquired_data set key_hash = null, version = 1
where source_id = $1 and stream = $2 and key_hash in (select unhex(value) from json_each($3)) and id > $4";

const LET_GO: &str = "update acquired_data set key_hash = null, version = 1 where source_id = $1 and {ids}";

//! Records of a read that have the content of an older version of their key, while it is not known yet what they are.
//!
//! A source may give one key several contents in one read, on pages far apart: a log of changes does. A content that
//! the key had before is then either the beginning of the same sequence, read again, or a change back; only what comes
//! behind it tells, or the end of the read. Until then the record waits here, in the transaction of its page, so that
//! neither memory nor a crash decides. What is decided, and how, is in [`super::versions`].

use std::fmt::Write as _;

use roaring::RoaringTreemap;
use sqlx::AssertSqlSafe;

use super::identity::{Key, NO_SORT_POSTGRES};
use super::occurrences::SeenInPage;
use super::tombstones::SeenKeys;
use super::{Page, as_i64, encode_hex, tombstones};
use crate::checkpoints::{Checkpoint, CheckpointKey, Stand};
use crate::db::{Arg, Conn};
use crate::error::{Result, StoreError};

/// What a read of a stream whose records have keys knows of itself.
///
/// A version belongs to this read when its id says so: it was stored behind the start of the read by a page that is
/// not delivered again, or by this attempt. What was stored by pages that come again counts as old.
#[derive(Debug)]
pub struct KeyedRead {
    stand: Stand,
    /// Highest id when this attempt began.
    attempt_from_id: i64,
    /// Ids of versions that were the newest of their keys when this read met their content again; those of keys
    /// with one version are of no interest.
    met: RoaringTreemap,
    has_repeats: bool,
    /// The keys that it has given, of a whole read.
    pub(super) seen: Option<SeenKeys>,
}

/// A record that waits.
pub(super) struct Waiting {
    /// Its place in the page.
    pub(super) index: usize,
    pub(super) key: Key,
    /// Its place in what the read has of the key, from 1; each content once for equal neighbours.
    pub(super) seq: i64,
}

/// A key of which it is known now what its waiting records are.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) key: Key,
    /// How many of them there are.
    pub(super) records: u64,
    /// Those up to this place are stored already.
    pub(super) known: i64,
    /// Version of a record behind it, less its place.
    pub(super) offset: i64,
    /// The place of the last.
    pub(super) last: i64,
}

impl Settled {
    /// Records that become versions.
    pub(super) fn changes(&self) -> u64 {
        u64::try_from(self.last - self.known).unwrap_or(0).min(self.records)
    }
}

// One step back on the primary key. Ids are given out in growing order, so all that this attempt stores is above.
const HIGHEST_ID: &str = "select coalesce(max(id), 0) as id from acquired_data";

// Of reads that are over, and of pages that are delivered again.
const FORGET: &str = "delete from {table} where id in (
    select id from {table} where source_id = $1 and stream = $2 and (page_seq < $3 or page_seq >= $4) limit $5
)";

const MET: &str = "select ids from met_versions where source_id = $1 and stream = $2";

const ANY: &str = "select 1 as found from repeats where source_id = $1 and stream = $2 limit 1";

impl KeyedRead {
    /// The state at the start of an attempt, in the lease that does the reading; `None` when there is more to forget of
    /// earlier reads than one transaction should, and it has to be asked for again.
    ///
    /// # Errors
    /// When the database refuses a statement or is gone.
    pub async fn begin(conn: &mut Conn<'_>, key: &CheckpointKey, begun: &Checkpoint) -> Result<Option<Self>> {
        let stand = begun.stand;
        if !begun.read_ended {
            tombstones::forget(conn, key).await?;
        }
        let Some(met) = met_before(conn, key, &stand, &["repeats", "met_versions"]).await? else { return Ok(None) };
        let attempt_from_id = conn.fetch_one(HIGHEST_ID, &[]).await?.int("id")?;
        let has_repeats = any(conn, key).await?;
        Ok(Some(Self { stand, attempt_from_id, met, has_repeats, seen: None }))
    }

    /// The same for a read that gives all that its source has, in this attempt: it notes which keys it gives.
    #[must_use]
    pub fn of_all(self) -> Self {
        Self { seen: Some(SeenKeys::default()), ..self }
    }

    /// Highest id when this attempt began.
    pub(super) fn attempt_from_id(&self) -> i64 {
        self.attempt_from_id
    }

    /// Whether this read stored the version with this id.
    pub(super) fn has_stored(&self, id: i64) -> bool {
        id > self.attempt_from_id || id > self.stand.read_from_id && id <= self.stand.resume_from_id
    }

    pub(super) fn has_met(&self, id: i64) -> bool {
        self.met.contains(id.unsigned_abs())
    }

    /// Whether records wait: after the last page they have to be settled.
    pub fn has_repeats(&self) -> bool {
        self.has_repeats
    }

    /// Takes in a page that is committed.
    pub fn advance(&mut self, page: SeenInPage) {
        self.met.extend(page.met.into_iter().map(i64::unsigned_abs));
        self.has_repeats |= page.waits;
        if let Some(seen) = &mut self.seen {
            match page.is_noted {
                true => seen.clear(),
                false => seen.add(page.given),
            }
        }
    }
}

/// The ids that the pages of a read noted behind which it goes on; what others left in `tables` is forgotten. `None` when that is
/// more than one transaction should remove.
pub(super) async fn met_before(
    conn: &mut Conn<'_>,
    key: &CheckpointKey,
    stand: &Stand,
    tables: &[&str],
) -> Result<Option<RoaringTreemap>> {
    /// Rows of one transaction.
    const MOST: i64 = 1000;
    for table in tables {
        let args: [Arg<'_>; 5] = [
            key.source_id.into(),
            (&key.stream).into(),
            stand.read_from_page.into(),
            stand.resume_from_page.into(),
            MOST.into(),
        ];
        if conn.execute(AssertSqlSafe(FORGET.replace("{table}", table)), &args).await? == MOST.unsigned_abs() {
            return Ok(None);
        }
    }
    let mut met = RoaringTreemap::new();
    for row in conn.fetch_all(MET, &[key.source_id.into(), (&key.stream).into()]).await? {
        let ids = RoaringTreemap::deserialize_from(row.bytes("ids")?.as_slice());
        met |= ids
            .map_err(|err| StoreError::Inconsistent { column: "met_versions.ids".to_owned(), what: err.to_string() })?;
    }
    Ok(Some(met))
}

/// Whether records of a source stream wait for the end of their read.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn any(conn: &mut Conn<'_>, key: &CheckpointKey) -> Result<bool> {
    Ok(conn.fetch_optional(ANY, &[key.source_id.into(), (&key.stream).into()]).await?.is_some())
}

const NOTE_MET: &str = "insert into met_versions (source_id, stream, page_seq, ids) values ($1, $2, $3, $4)";

/// Notes which versions a page has met, for an attempt that goes on behind it.
pub(super) async fn note_met(conn: &mut Conn<'_>, page: &Page, ids: &[i64]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let key = &page.checkpoint.key;
    let ids: RoaringTreemap = ids.iter().map(|id| id.unsigned_abs()).collect();
    let mut bytes = Vec::with_capacity(ids.serialized_size());
    ids.serialize_into(&mut bytes).expect("a vector takes all bytes");
    let args: [Arg<'_>; 4] =
        [key.source_id.into(), (&key.stream).into(), page.checkpoint.page_seq.into(), bytes.as_slice().into()];
    conn.execute(NOTE_MET, &args).await.map(drop)
}

/// Rows of one statement: nine parameters each, far below what either database takes.
const CHUNK: usize = 200;

/// Keeps records until it is known what they are.
pub(super) async fn insert(conn: &mut Conn<'_>, page: &Page, waiting: &[Waiting]) -> Result<()> {
    let stream = &page.checkpoint.key;
    for chunk in waiting.chunks(CHUNK) {
        let mut sql = "insert into repeats
(source_id, stream, page_seq, key_hash, seq, raw_data, metadata, data_hash, length) values "
            .to_owned();
        let hashes: Vec<String> = chunk.iter().map(|one| encode_hex(page.records.get(one.index).hash)).collect();
        let mut args: Vec<Arg<'_>> =
            vec![stream.source_id.into(), (&stream.stream).into(), page.checkpoint.page_seq.into()];
        for (row, (one, hash)) in chunk.iter().zip(&hashes).enumerate() {
            let (comma, n) = (if row == 0 { "" } else { ", " }, 4 + 6 * row);
            write!(sql, "{comma}($1, $2, $3, ${n}, ${}, ${}, ${}, ${}, ${})", n + 1, n + 2, n + 3, n + 4, n + 5)
                .expect("text grows");
            let record = page.records.get(one.index);
            args.extend([
                Arg::Bytes(Some(&one.key)),
                one.seq.into(),
                Arg::Json(Some(record.text)),
                Arg::Json(Some(record.metadata)),
                hash.into(),
                as_i64(record.text.len()).into(),
            ]);
        }
        conn.execute(AssertSqlSafe(sql), &args).await?;
    }
    Ok(())
}

/// The place and content of a record.
pub(super) type Place = (i64, String);

const LAST_POSTGRES: &str = "select k.n, found.seq, found.data_hash
from unnest($3::text[]) with ordinality as k (value, n)
cross join lateral (
    select r.seq, r.data_hash from repeats r
    where r.source_id = $1 and r.stream = $2 and r.key_hash = decode(k.value, 'hex')
    order by r.source_id desc, r.stream desc, r.key_hash desc, r.seq desc limit 1
) found";

const LAST_SQLITE: &str = "select k.key + 1 as n, r.seq, r.data_hash
from json_each($3) k cross join repeats r on r.source_id = $1 and r.stream = $2 and r.key_hash = unhex(k.value)
    and r.seq = (select max(s.seq) from repeats s where s.source_id = $1 and s.stream = $2 and s.key_hash = unhex(k.value))";

/// Of each key the record that waits last.
pub(super) async fn last(conn: &mut Conn<'_>, page: &Page, keys: &[Key]) -> Result<Vec<Option<Place>>> {
    let mut found = vec![None; keys.len()];
    if keys.is_empty() {
        return Ok(found);
    }
    no_sort(conn).await?;
    let stream = &page.checkpoint.key;
    let keys: Vec<String> = keys.iter().map(encode_hex).collect();
    let sql = conn.pick(LAST_POSTGRES, LAST_SQLITE);
    for row in conn.fetch_all(sql, &[stream.source_id.into(), (&stream.stream).into(), Arg::Texts(&keys)]).await? {
        found[place(row.int("n")?)] = Some((row.int("seq")?, row.text("data_hash")?));
    }
    Ok(found)
}

const OF_KEY: &str = "select seq, data_hash from repeats
where source_id = $1 and stream = $2 and key_hash = $3 order by seq";

/// All that waits of a key, in its order.
pub(super) async fn of_key(conn: &mut Conn<'_>, page: &Page, key: &Key) -> Result<Vec<Place>> {
    let stream = &page.checkpoint.key;
    let args: [Arg<'_>; 3] = [stream.source_id.into(), (&stream.stream).into(), Arg::Bytes(Some(key))];
    let rows = conn.fetch_all(OF_KEY, &args).await?;
    rows.iter().map(|row| Ok((row.int("seq")?, row.text("data_hash")?))).collect()
}

// Key, then content: 32 and 64 hex digits. A content has its key in it, so few rows have the one and not the other.
const KNOWN_POSTGRES: &str = "select k.n
from unnest($3::text[]) with ordinality as k (value, n)
cross join lateral (
    select 1 from acquired_data a
    where a.data_hash = substr(k.value, 33) and a.source_id = $1 and a.stream = $2
        and a.key_hash = decode(substr(k.value, 1, 32), 'hex')
    limit 1
) found";

const KNOWN_SQLITE: &str = "select k.key + 1 as n from json_each($3) k where exists (
    select 1 from acquired_data a indexed by idx_acquired_data_hash
    where a.data_hash = substr(k.value, 33) and a.source_id = $1 and a.stream = $2
        and a.key_hash = unhex(substr(k.value, 1, 32)))";

/// Whether a version of the key has this content, for each pair.
pub(super) async fn known(conn: &mut Conn<'_>, page: &Page, pairs: &[(Key, String)]) -> Result<Vec<bool>> {
    let mut found = vec![false; pairs.len()];
    if pairs.is_empty() {
        return Ok(found);
    }
    no_sort(conn).await?;
    let stream = &page.checkpoint.key;
    let pairs: Vec<String> = pairs.iter().map(|(key, hash)| encode_hex(key) + hash).collect();
    let sql = conn.pick(KNOWN_POSTGRES, KNOWN_SQLITE);
    for row in conn.fetch_all(sql, &[stream.source_id.into(), (&stream.stream).into(), Arg::Texts(&pairs)]).await? {
        found[place(row.int("n")?)] = true;
    }
    Ok(found)
}

/// Keeps an unlucky plan out: each entry is one descent of an index.
async fn no_sort(conn: &mut Conn<'_>) -> Result<()> {
    match conn {
        Conn::Postgres(_) => conn.execute(NO_SORT_POSTGRES, &[]).await.map(drop),
        Conn::Sqlite(_) => Ok(()),
    }
}

fn place(n: i64) -> usize {
    usize::try_from(n - 1).expect("the statement numbers what it was given, from 1")
}

const NEXT: &str = "select key_hash, seq, data_hash, length from repeats
where source_id = $1 and stream = $2 order by source_id, stream, key_hash, seq limit $3";

/// How much a page may settle.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Records at most; a single key may have more.
    pub rows: usize,
    /// A page ends with the key that brings it to this many bytes.
    pub bytes: usize,
}

/// The next keys that have something waiting, each with all of it.
pub(super) async fn next(conn: &mut Conn<'_>, page: &Page, room: Room) -> Result<Vec<(Key, Vec<Place>)>> {
    let stream = &page.checkpoint.key;
    let rows =
        conn.fetch_all(NEXT, &[stream.source_id.into(), (&stream.stream).into(), as_i64(room.rows).into()]).await?;
    let mut keys: Vec<(Key, Vec<Place>)> = Vec::new();
    let (mut bytes, mut is_cut) = (0_usize, rows.len() >= room.rows);
    for row in &rows {
        let key = Key::try_from(row.bytes("key_hash")?).map_err(|bytes| StoreError::Inconsistent {
            column: "repeats.key_hash".to_owned(),
            what: format!("{} bytes", bytes.len()),
        })?;
        let place = (row.int("seq")?, row.text("data_hash")?);
        match keys.last_mut() {
            Some((last, places)) if *last == key => places.push(place),
            _ if bytes >= room.bytes => {
                is_cut = false;
                break;
            }
            _ => keys.push((key, vec![place])),
        }
        bytes = bytes.saturating_add(usize::try_from(row.int("length")?).unwrap_or(0));
    }
    // The last key may have more than was read.
    if is_cut {
        match &mut keys[..] {
            [(key, places)] => *places = of_key(conn, page, key).await?,
            _ => drop(keys.pop()),
        }
    }
    Ok(keys)
}

// Key (32 hex digits), the place up to which it is known, and what makes a version of a place (10 digits each).
const MOVE: &str = "insert into acquired_data
(source_id, stream, raw_data, metadata, data_hash, acquired_at, key_hash, version)
select r.source_id, r.stream, r.raw_data, r.metadata, r.data_hash, {at}, r.key_hash,
    cast(cast(substr(k.value, 43, 10) as bigint) + r.seq as integer)
from {keys} join repeats r on r.source_id = $1 and r.stream = $2
    and r.key_hash = {key} and r.seq > cast(substr(k.value, 33, 10) as bigint)
order by r.id
returning id";

const END: &str = "delete from repeats where source_id = $1 and stream = $2 and key_hash in (select {key} from {keys})";

/// Makes versions of what is new of these keys, and forgets the rest. Returns the highest id, 0 when nothing was new.
pub(super) async fn settle(conn: &mut Conn<'_>, page: &Page, settled: &[Settled]) -> Result<i64> {
    if settled.is_empty() {
        return Ok(0);
    }
    let stream = &page.checkpoint.key;
    let entries: Vec<String> =
        settled.iter().map(|one| format!("{}{:010}{:010}", encode_hex(one.key), one.known, one.offset)).collect();
    let fill = |sql: &str, conn: &Conn<'_>, n: u8| {
        let keys = conn.pick(format!("unnest(${n}::text[]) as k (value)"), format!("json_each(${n}) k"));
        sql.replace("{keys}", &keys)
            .replace("{key}", conn.pick("decode(substr(k.value, 1, 32), 'hex')", "unhex(substr(k.value, 1, 32))"))
            .replace("{at}", conn.pick("$3::timestamptz", "$3"))
    };
    let mut last_id = 0;
    if settled.iter().any(|one| one.changes() > 0) {
        let args: [Arg<'_>; 4] =
            [stream.source_id.into(), (&stream.stream).into(), page.acquired_at.into(), Arg::Texts(&entries)];
        let sql = fill(MOVE, conn, 4);
        for row in conn.fetch_all(AssertSqlSafe(sql), &args).await? {
            last_id = last_id.max(row.int("id")?);
        }
    }
    let args: [Arg<'_>; 3] = [stream.source_id.into(), (&stream.stream).into(), Arg::Texts(&entries)];
    let sql = fill(END, conn, 3);
    let removed = conn.execute(AssertSqlSafe(sql), &args).await?;
    debug_assert_eq!(removed, settled.iter().map(|one| one.records).sum::<u64>());
    Ok(last_id)
}

//! [`Dedupe::Key`](matome_model::source::Dedupe::Key): each change of a key's content is its next version.
//!
//! What a read gives of a key is a sequence of contents, equal neighbours once. As much of its beginning as the newest
//! versions that were stored before the read end with is known; the rest are new versions. So content that is there adds
//! nothing, content that comes back after another one is a version again, and the same sequence read again, or delivered
//! again after a crash, adds nothing, wherever pages begin and end.
//!
//! A page decides what it can: a content that no version of the key has ends the comparison, and all behind it is new.
//! A content that an older version has waits in [`repeats`] for that, or for the end of the read. A page that is no part
//! of a read is compared by itself.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use sqlx::Row as _;

use super::identity::{Key, NO_SORT_POSTGRES, New, Selection};
use super::repeats::{self, KeyedRead, Place, Room, Settled, Waiting};
use super::{Page, as_i64, as_u64, encode_hex};
use crate::db::Conn;
use crate::error::{Result, StoreError};

/// A stored version.
struct Stored {
    id: i64,
    version: i32,
    hash: String,
}

impl Stored {
    /// A version without a hash of its content is a tombstone: nothing is equal to it.
    fn is_tombstone(&self) -> bool {
        self.hash.is_empty()
    }
}

/// What a page has of one key.
struct Keyed {
    key: Key,
    /// Its contents in the page's order, equal neighbours once: the first record of each.
    sequence: Vec<usize>,
    /// The newest stored versions, the newest first: as many as the sequence is long.
    stored: Vec<Stored>,
}

/// A key of which it is not known yet whether this read changes it.
struct Open {
    keyed: Keyed,
    /// The record that waits last.
    last: Option<Place>,
    /// The read gave the newest content before anything that waits.
    has_met: bool,
    /// Whether a content is new to the key.
    is_changed: bool,
}

impl Open {
    fn newest(&self) -> &Stored {
        self.keyed.stored.first().expect("a key without versions is not open")
    }
}

// Plan-proof as the lookup of identities: each key is one descent of the unique index, then as many steps back on it
// as the page has contents of the key.
// Ids of an adopted database may have 32 bits.
const NEWEST_POSTGRES: &str = "select k.n, found.version, found.data_hash, found.id::bigint
from unnest($3::bytea[], $4::bigint[]) with ordinality as k (key_hash, depth, n)
cross join lateral (
    select a.version, coalesce(a.data_hash, '') as data_hash, a.id from acquired_data a
    where a.source_id = $1 and a.stream = $2 and a.key_hash = k.key_hash
    order by a.source_id desc, a.stream desc, a.key_hash desc, a.version desc
    limit k.depth
) found";

// Keys in one blob, 16 bytes each, and depths in one text, 8 digits each.
const NEWEST_SQLITE: &str = "with recursive k (n) as (select 1 union all select n + 1 from k where n < $5),
newest (n, version) as (
    select k.n, (
        select a.version from acquired_data a indexed by acquired_data_key
        where a.source_id = $1 and a.stream = $2 and a.key_hash = substr($3, k.n * 16 - 15, 16) and a.key_hash is not null
        order by a.version desc limit 1
    ) from k
)
select newest.n, a.version, coalesce(a.data_hash, ''), a.id
from newest cross join acquired_data a indexed by acquired_data_key
on a.source_id = $1 and a.stream = $2 and a.key_hash = substr($3, newest.n * 16 - 15, 16) and a.key_hash is not null
    and a.version > newest.version - cast(substr($4, newest.n * 8 - 7, 8) as integer)";

/// Picks the records that are new versions, in the page's order, and those of which it is not known yet.
pub(super) async fn select(conn: &mut Conn<'_>, page: &Page) -> Result<Selection> {
    let mut keyed = sequences(page)?;
    let asked: Vec<(Key, usize)> = keyed.iter().map(|one| (one.key, one.sequence.len())).collect();
    for (one, stored) in keyed.iter_mut().zip(look_up(conn, page, &asked).await?) {
        one.stored = stored;
    }
    let mut selection = Selection::default();
    match &page.keyed {
        None => {
            for one in &keyed {
                let hashes = hashes(page, &one.sequence);
                let known = overlap(&hashes, &one.stored);
                let newest = one.stored.first().map_or(0, |stored| stored.version);
                selection.add_versions(&one.key, newest, &one.sequence[known..]);
            }
        }
        Some(read) => compare(conn, page, read, keyed, &mut selection).await?,
    }
    selection.new.sort_unstable_by_key(|new| new.index);
    Ok(selection)
}

impl Selection {
    fn add_versions(&mut self, key: &Key, newest: i32, records: &[usize]) {
        self.new.extend((newest + 1..).zip(records).map(|(version, &index)| New { index, key: Some(*key), version }));
    }
}

fn sequences(page: &Page) -> Result<Vec<Keyed>> {
    let mut keyed: Vec<Keyed> = Vec::with_capacity(page.records.len());
    let mut places: HashMap<Key, usize> = HashMap::with_capacity(page.records.len());
    for (index, record) in page.records.iter().enumerate() {
        let Some(key) = record.key else {
            return Err(StoreError::Inconsistent {
                column: "acquired_data.key_hash".to_owned(),
                what: format!("record {index} of a page of a source with a key has none"),
            });
        };
        let place = *places.entry(key).or_insert(keyed.len());
        if place == keyed.len() {
            keyed.push(Keyed { key, sequence: Vec::with_capacity(1), stored: Vec::new() });
        }
        let sequence = &mut keyed[place].sequence;
        if sequence.last().is_none_or(|&last| page.records.get(last).hash != record.hash) {
            sequence.push(index);
        }
    }
    Ok(keyed)
}

fn hashes(page: &Page, records: &[usize]) -> Vec<String> {
    records.iter().map(|&index| encode_hex(page.records.get(index).hash)).collect()
}

/// Compares a page of a read with what was stored before the read.
async fn compare(
    conn: &mut Conn<'_>,
    page: &Page,
    read: &Mutex<KeyedRead>,
    keyed: Vec<Keyed>,
    selection: &mut Selection,
) -> Result<()> {
    let set_aside = look_up_set_aside(conn, page, read).await?;
    let (mut open, has_repeats) = {
        let read = read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.seen.is_some() {
            let newest = keyed.iter().filter_map(|one| one.stored.first());
            selection.seen.given = newest.chain(&set_aside).map(|stored| stored.id).collect();
        }
        let mut open = Vec::new();
        for one in keyed {
            match one.stored.first() {
                None => selection.add_versions(&one.key, 0, &one.sequence),
                // The read has changed the key already: what it says now follows that.
                Some(newest) if read.has_stored(newest.id) => {
                    let is_known = newest.hash == encode_hex(page.records.get(one.sequence[0]).hash);
                    selection.add_versions(&one.key, newest.version, &one.sequence[usize::from(is_known)..]);
                }
                Some(newest) => {
                    let has_met = read.has_met(newest.id);
                    open.push(Open { keyed: one, last: None, has_met, is_changed: false });
                }
            }
        }
        (open, read.has_repeats())
    };
    if has_repeats {
        let keys: Vec<Key> = open.iter().map(|one| one.keyed.key).collect();
        for (one, last) in open.iter_mut().zip(repeats::last(conn, page, &keys).await?) {
            one.last = last;
        }
    }
    open.retain_mut(|one| {
        let first = encode_hex(page.records.get(one.keyed.sequence[0]).hash);
        let said = one.last.as_ref().map_or(&one.newest().hash, |(_, hash)| hash);
        if first == *said {
            one.keyed.sequence.remove(0);
            let newest = one.newest();
            if one.last.is_none() && !one.has_met && newest.version > 1 {
                selection.seen.met.push(newest.id);
            }
            one.has_met |= one.last.is_none();
        }
        !one.keyed.sequence.is_empty()
    });
    find_changes(conn, page, &mut open).await?;

    let (settling, waiting): (Vec<Open>, Vec<Open>) =
        open.into_iter().partition(|one| one.is_changed || page.ends_read);
    for one in waiting {
        let first = one.last.as_ref().map_or(if one.has_met { 2 } else { 1 }, |(seq, _)| seq + 1);
        let records = (first..).zip(&one.keyed.sequence);
        selection.waiting.extend(records.map(|(seq, &index)| Waiting { index, key: one.keyed.key, seq }));
    }
    selection.seen.waits = !selection.waiting.is_empty();
    settle_open(conn, page, settling, selection).await
}

/// The newest versions of keys that the page has in quarantine only: the source has them, whatever is wrong with them.
async fn look_up_set_aside(conn: &mut Conn<'_>, page: &Page, read: &Mutex<KeyedRead>) -> Result<Vec<Stored>> {
    let is_whole = read.lock().unwrap_or_else(PoisonError::into_inner).seen.is_some();
    let keys = page.quarantined.iter().filter_map(|bad| bad.key).filter(|_| is_whole);
    let asked: Vec<(Key, usize)> = keys.map(|key| (key, 1)).collect();
    Ok(look_up(conn, page, &asked).await?.into_iter().flatten().collect())
}

/// Finds the keys of which the page has a content that none of their versions has.
async fn find_changes(conn: &mut Conn<'_>, page: &Page, open: &mut [Open]) -> Result<()> {
    let mut asked = Vec::new();
    let mut pairs = Vec::new();
    for (n, one) in open.iter_mut().enumerate() {
        if one.newest().is_tombstone() {
            // Whatever it says now, it was gone before.
            one.is_changed = true;
            continue;
        }
        let stored: HashSet<&str> = one.keyed.stored.iter().map(|stored| stored.hash.as_str()).collect();
        let unknown = hashes(page, &one.keyed.sequence).into_iter().filter(|hash| !stored.contains(hash.as_str()));
        if one.newest().version == 1 {
            let is_changed = unknown.count() > 0;
            one.is_changed = is_changed;
        } else {
            for hash in unknown {
                asked.push(n);
                pairs.push((one.keyed.key, hash));
            }
        }
    }
    for (n, is_known) in asked.into_iter().zip(repeats::known(conn, page, &pairs).await?) {
        open[n].is_changed |= !is_known;
    }
    Ok(())
}

/// Adds to a selection what is new of keys whose sequences are known as far as they count.
async fn settle_open(conn: &mut Conn<'_>, page: &Page, settling: Vec<Open>, selection: &mut Selection) -> Result<()> {
    // What the read has of each key: the newest content if it began with that, what waits, and this page.
    let mut sequences = Vec::with_capacity(settling.len());
    for one in &settling {
        let places = match &one.last {
            Some(_) => repeats::of_key(conn, page, &one.keyed.key).await?,
            None => Vec::new(),
        };
        let begins_met = places.first().map_or(one.has_met, |(seq, _)| *seq > 1);
        let mut sequence: Vec<String> = begins_met.then(|| one.newest().hash.clone()).into_iter().collect();
        sequence.extend(places.iter().map(|(_, hash)| hash.clone()));
        let before = sequence.len();
        sequence.extend(hashes(page, &one.keyed.sequence));
        sequences.push((sequence, before, places.len()));
    }
    // Most are no longer than what was looked up already.
    let deeper: Vec<usize> =
        (0..settling.len()).filter(|&n| sequences[n].0.len() > settling[n].keyed.stored.len().max(1)).collect();
    let asked: Vec<(Key, usize)> = deeper.iter().map(|&n| (settling[n].keyed.key, sequences[n].0.len())).collect();
    let mut looked_up: HashMap<usize, Vec<Stored>> =
        deeper.into_iter().zip(look_up(conn, page, &asked).await?).collect();
    for (n, (one, (sequence, before, waiting))) in settling.into_iter().zip(&sequences).enumerate() {
        let stored = looked_up.remove(&n);
        let stored = stored.as_ref().unwrap_or(&one.keyed.stored);
        let newest = one.newest().version;
        let known = overlap(sequence, stored);
        if *waiting > 0 {
            selection.settled.push(settled(&one.keyed.key, *waiting, *before, known, newest));
        }
        let new_before = before.saturating_sub(known);
        let first = known.saturating_sub(*before);
        let newest = newest.saturating_add(i32::try_from(new_before).unwrap_or(i32::MAX));
        selection.add_versions(&one.keyed.key, newest, &one.keyed.sequence[first..]);
    }
    Ok(())
}

/// `last`: the place of the last record that waits.
fn settled(key: &Key, waiting: usize, last: usize, known: usize, newest: i32) -> Settled {
    let known = as_i64(known.min(last));
    Settled { key: *key, records: as_u64(waiting), known, offset: i64::from(newest) - known, last: as_i64(last) }
}

/// Settles the next keys of a read that has ended.
pub(super) async fn settle_next(conn: &mut Conn<'_>, page: &Page, room: Room) -> Result<Selection> {
    let keys = repeats::next(conn, page, room).await?;
    let begins_met = |places: &[Place]| places.first().is_some_and(|(seq, _)| *seq > 1);
    let asked: Vec<(Key, usize)> =
        keys.iter().map(|(key, places)| (*key, places.len() + usize::from(begins_met(places)))).collect();
    let stored = look_up(conn, page, &asked).await?;
    let mut selection = Selection::default();
    for ((key, places), stored) in keys.iter().zip(stored) {
        let newest = stored.first();
        let met = newest.filter(|_| begins_met(places)).map(|newest| newest.hash.clone());
        let sequence: Vec<String> = met.into_iter().chain(places.iter().map(|(_, hash)| hash.clone())).collect();
        let (known, last) = (overlap(&sequence, &stored), places.last().map_or(0, |(seq, _)| *seq));
        // The version that it began with may have been removed since.
        let shift = usize::try_from(last).unwrap_or(0).saturating_sub(sequence.len());
        let newest = newest.map_or(0, |newest| newest.version);
        selection.settled.push(settled(key, places.len(), sequence.len() + shift, known + shift, newest));
    }
    Ok(selection)
}

/// The length of the longest beginning of `sequence` with which the stored versions, the newest first, end.
///
/// Follows Knuth, Morris and Pratt (1977): in time that is proportional to the lengths.
fn overlap(sequence: &[String], stored: &[Stored]) -> usize {
    // For each beginning of the sequence, the longest shorter one with which it ends.
    let mut borders = vec![0; sequence.len()];
    let mut length = 0;
    for n in 1..sequence.len() {
        while length > 0 && sequence[n] != sequence[length] {
            length = borders[length - 1];
        }
        length += usize::from(sequence[n] == sequence[length]);
        borders[n] = length;
    }
    let mut length = 0;
    for version in stored.iter().take(sequence.len()).rev() {
        while length > 0 && (length == sequence.len() || sequence[length] != version.hash) {
            length = borders[length - 1];
        }
        length += usize::from(sequence.get(length) == Some(&version.hash));
    }
    length
}

/// The newest stored versions of each key, the newest first, as many as are asked for.
async fn look_up(conn: &mut Conn<'_>, page: &Page, asked: &[(Key, usize)]) -> Result<Vec<Vec<Stored>>> {
    let mut found: Vec<Vec<Stored>> = Vec::with_capacity(asked.len());
    found.resize_with(asked.len(), Vec::new);
    if asked.is_empty() {
        return Ok(found);
    }
    let stream = &page.checkpoint.key;
    let mut place = |n: i64, stored: Stored| {
        let slot = usize::try_from(n - 1).ok().and_then(|n| found.get_mut(n));
        slot.expect("the statement numbers the keys that it was given").push(stored);
    };
    match conn {
        Conn::Postgres(conn) => {
            sqlx::query(NO_SORT_POSTGRES).execute(&mut **conn).await?;
            let keys: Vec<&[u8]> = asked.iter().map(|(key, _)| key.as_slice()).collect();
            let depths: Vec<i64> = asked.iter().map(|(_, depth)| as_i64(*depth)).collect();
            let query =
                sqlx::query(NEWEST_POSTGRES).bind(stream.source_id).bind(&stream.stream).bind(keys).bind(depths);
            for row in query.fetch_all(&mut **conn).await? {
                let stored = Stored { version: row.try_get(1)?, hash: row.try_get(2)?, id: row.try_get(3)? };
                place(row.try_get(0)?, stored);
            }
        }
        Conn::Sqlite(conn) => {
            let keys: Vec<u8> = asked.iter().flat_map(|(key, _)| *key).collect();
            let depths: String = asked.iter().map(|(_, depth)| format!("{depth:08}")).collect();
            let query = sqlx::query(NEWEST_SQLITE)
                .bind(stream.source_id)
                .bind(&stream.stream)
                .bind(keys)
                .bind(depths)
                .bind(as_i64(asked.len()));
            for row in query.fetch_all(&mut **conn).await.map_err(StoreError::from)? {
                let stored = Stored { version: row.try_get(1)?, hash: row.try_get(2)?, id: row.try_get(3)? };
                place(row.try_get(0)?, stored);
            }
        }
    }
    for stored in &mut found {
        stored.sort_unstable_by_key(|stored| std::cmp::Reverse(stored.version));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overlap_is_the_longest_beginning_that_the_stored_versions_end_with() {
        let texts = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        for (stored, sequence, expected) in [
            ("", "a", 0),
            ("a", "", 0),
            ("ab", "ab", 2),
            ("ab", "a", 0),
            ("ab", "b", 1),
            ("aba", "ab", 1),
            ("aba", "aba", 3),
            ("abab", "ababab", 4),
            ("ba", "aba", 1),
            ("xab", "xabc", 3),
            ("abcab", "abcabcab", 5),
            ("aabaab", "aabaac", 3),
        ] {
            let mut versions: Vec<Stored> = texts(stored)
                .into_iter()
                .zip(1..)
                .map(|(hash, version)| Stored { id: i64::from(version), version, hash })
                .collect();
            versions.reverse();
            assert_eq!(overlap(&texts(sequence), &versions), expected, "{stored} then {sequence}");
        }
    }
}

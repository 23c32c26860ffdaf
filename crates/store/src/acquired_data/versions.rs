//! [`Dedupe::Key`](matome_model::source::Dedupe::Key): each change of a key's content is its next version.
//!
//! Only the newest versions count: content that is there adds nothing, content that comes back after another one is
//! a version again. A key that a page has several times gives versions in the page's order; as much of that sequence
//! as the newest stored versions end with is already there, so that a page delivered twice adds nothing.

use std::collections::HashMap;

use sqlx::Row as _;

use super::identity::{Key, NO_SORT_POSTGRES, New};
use super::{Page, as_i64};
use crate::db::Conn;
use crate::error::{Result, StoreError};

/// What a page has of one key.
struct Keyed {
    key: Key,
    /// Its contents in the page's order, equal neighbours once: the first record of each.
    sequence: Vec<usize>,
    /// The newest stored versions, the newest first: number and hash.
    stored: Vec<(i32, String)>,
}

// Plan-proof as the lookup of identities: each key is one descent of the unique index, then as many steps back on it
// as the page has contents of the key.
const NEWEST_POSTGRES: &str = "select k.n, found.version, found.data_hash
from unnest($3::bytea[], $4::bigint[]) with ordinality as k (key_hash, depth, n)
cross join lateral (
    select a.version, coalesce(a.data_hash, '') as data_hash from acquired_data a
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
select newest.n, a.version, coalesce(a.data_hash, '') from newest cross join acquired_data a indexed by acquired_data_key
on a.source_id = $1 and a.stream = $2 and a.key_hash = substr($3, newest.n * 16 - 15, 16) and a.key_hash is not null
    and a.version > newest.version - cast(substr($4, newest.n * 8 - 7, 8) as integer)";

/// Picks the records that are new versions, in the page's order.
pub(super) async fn select(conn: &mut Conn<'_>, page: &Page) -> Result<Vec<New>> {
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
    look_up(conn, page, &mut keyed).await?;

    let mut new = Vec::with_capacity(keyed.len());
    for Keyed { key, sequence, stored } in &keyed {
        let newest = stored.first().map_or(0, |(version, _)| *version);
        let unknown = &sequence[overlap(page, sequence, stored)..];
        new.extend((newest + 1..).zip(unknown).map(|(version, &index)| New { index, key: Some(*key), version }));
    }
    new.sort_unstable_by_key(|new| new.index);
    Ok(new)
}

/// The longest beginning of `sequence` with which the stored versions end.
fn overlap(page: &Page, sequence: &[usize], stored: &[(i32, String)]) -> usize {
    let hashes: Vec<String> = sequence.iter().map(|&index| hex(page.records.get(index).hash)).collect();
    let ends_with = |length: &usize| hashes[..*length].iter().rev().eq(stored[..*length].iter().map(|(_, hash)| hash));
    (1..=sequence.len().min(stored.len())).rev().find(ends_with).unwrap_or(0)
}

fn hex(hash: &[u8; 32]) -> String {
    let mut text = Vec::with_capacity(64);
    super::insert::push_hex(&mut text, hash);
    String::from_utf8(text).expect("hex digits are ASCII")
}

async fn look_up(conn: &mut Conn<'_>, page: &Page, keyed: &mut [Keyed]) -> Result<()> {
    if keyed.is_empty() {
        return Ok(());
    }
    let stream = &page.checkpoint.key;
    let mut found: Vec<(i64, i32, String)> = Vec::with_capacity(keyed.len());
    match conn {
        Conn::Postgres(conn) => {
            sqlx::query(NO_SORT_POSTGRES).execute(&mut **conn).await?;
            let keys: Vec<&[u8]> = keyed.iter().map(|one| one.key.as_slice()).collect();
            let depths: Vec<i64> = keyed.iter().map(|one| as_i64(one.sequence.len())).collect();
            let query =
                sqlx::query(NEWEST_POSTGRES).bind(stream.source_id).bind(&stream.stream).bind(keys).bind(depths);
            for row in query.fetch_all(&mut **conn).await? {
                found.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
            }
        }
        Conn::Sqlite(conn) => {
            let keys: Vec<u8> = keyed.iter().flat_map(|one| one.key).collect();
            let depths: String = keyed.iter().map(|one| format!("{:08}", one.sequence.len())).collect();
            let query = sqlx::query(NEWEST_SQLITE)
                .bind(stream.source_id)
                .bind(&stream.stream)
                .bind(keys)
                .bind(depths)
                .bind(as_i64(keyed.len()));
            for row in query.fetch_all(&mut **conn).await.map_err(StoreError::from)? {
                found.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
            }
        }
    }
    for (n, version, hash) in found {
        let slot = usize::try_from(n - 1).ok().and_then(|n| keyed.get_mut(n));
        slot.expect("the statement numbers the keys that it was given").stored.push((version, hash));
    }
    for one in keyed {
        one.stored.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
    }
    Ok(())
}

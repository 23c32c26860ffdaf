//! Which records of a page are new: the identity that the dedupe mode gives them, looked up once per page.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use matome_model::source::Dedupe;
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;

use super::occurrences::{Occurrences, SeenInPage};
use super::repeats::{Settled, Waiting};
use super::{Page, as_i64, versions};
use crate::db::Conn;
use crate::error::{Result, StoreError};

/// Identity of a record in its source stream, as `key_hash` stores it.
pub(super) type Key = [u8; 16];

/// What becomes of the records of a page.
#[derive(Default)]
pub(super) struct Selection {
    /// The records to insert, in the page's order.
    pub(super) new: Vec<New>,
    /// Those of which it is not known yet.
    pub(super) waiting: Vec<Waiting>,
    /// Keys with records of earlier pages of which it was not known.
    pub(super) settled: Vec<Settled>,
    pub(super) seen: SeenInPage,
}

/// A record that is not stored yet.
pub(super) struct New {
    /// Its place in the page.
    pub(super) index: usize,
    /// Its identity; `None` when it has none.
    pub(super) key: Option<Key>,
    /// Its version, from 1.
    pub(super) version: i32,
}

/// A content of the page.
struct Content {
    key: Key,
    /// Its first record.
    index: usize,
    /// How often it is in the page.
    copies: u32,
    /// How often the read saw it before this page.
    seen: u32,
    /// Whether its copy 0 is stored.
    is_stored: bool,
}

// Plan-proof: whatever the statistics say, each key is one descent of the unique index. Any other plan has to
// sort, also the sequential scan that statistics of an emptied table suggest, and sorting is put out of bounds.
pub(super) const NO_SORT_POSTGRES: &str = "set local enable_sort = off";
// Ids of an adopted database may have 32 bits.
const LOOKUP_POSTGRES: &str = "select k.n, found.id::bigint
from unnest($3::bytea[]) with ordinality as k (key_hash, n)
cross join lateral (
    select a.id from acquired_data a
    where a.source_id = $1 and a.stream = $2 and a.key_hash = k.key_hash
    order by a.source_id, a.stream, a.key_hash, a.version
    limit 1
) found";

// All keys come in one blob, 16 bytes each, so that one statement serves any number of them. CROSS JOIN keeps
// the order of the join, and a plan without the index is an error.
const LOOKUP_SQLITE: &str = "with recursive k (n) as (select 1 union all select n + 1 from k where n < $4)
select k.n, a.id from k cross join acquired_data a indexed by acquired_data_key
on a.source_id = $1 and a.stream = $2 and a.key_hash = substr($3, k.n * 16 - 15, 16) and a.key_hash is not null";

/// Picks the records that are not stored yet under the page's dedupe mode.
pub(super) async fn select(conn: &mut Conn<'_>, page: &Page) -> Result<Selection> {
    let all = || page.records.iter().enumerate();
    match page.dedupe {
        Dedupe::None => {
            let new = all().map(|(index, _)| New { index, key: None, version: 1 }).collect();
            return Ok(Selection { new, ..Selection::default() });
        }
        Dedupe::Key => return versions::select(conn, page).await,
        Dedupe::Rows | Dedupe::Hash => {}
    }

    // Contents in the order of their first record; for each record its content and which copy in the page it is.
    let mut contents: Vec<Content> = Vec::with_capacity(page.records.len());
    let mut members: Vec<(usize, u32)> = Vec::with_capacity(page.records.len());
    let mut places: HashMap<Key, usize> = HashMap::with_capacity(page.records.len());
    for (index, record) in all() {
        let key = content_key(record.hash);
        let place = *places.entry(key).or_insert(contents.len());
        if place == contents.len() {
            contents.push(Content { key, index, copies: 0, seen: 0, is_stored: false });
        }
        let content = &mut contents[place];
        members.push((place, content.copies));
        content.copies += 1;
    }
    let found = lookup_contents(conn, page, &contents).await?;

    match (page.dedupe, &page.occurrences) {
        (Dedupe::Rows, Some(occurrences)) => {
            count_seen(conn, page, occurrences, &mut contents, &found).await?;
            let mut seen = SeenInPage::default();
            {
                let occurrences = locked(occurrences);
                for (content, copy_0) in contents.iter_mut().zip(&found) {
                    content.is_stored = copy_0.is_some();
                    seen.met.extend(copy_0.filter(|_| content.seen == 0));
                    let total = content.seen.saturating_add(content.copies);
                    if total > 1 {
                        seen.repeated.push((content.key, total));
                    }
                }
                if occurrences.is_first_load() {
                    let is_new = |content: &&Content| !content.is_stored;
                    seen.stored = contents.iter().filter(is_new).map(|content| content.key).collect();
                }
            }
            let (new, met) = select_copies(conn, page, &contents, &members).await?;
            seen.met.extend(met);
            Ok(Selection { new, seen, ..Selection::default() })
        }
        _ => {
            let is_new = |(content, id): (&Content, &Option<i64>)| {
                id.is_none().then_some(New { index: content.index, key: Some(content.key), version: 1 })
            };
            let new = contents.iter().zip(&found).filter_map(is_new).collect();
            Ok(Selection { new, ..Selection::default() })
        }
    }
}

/// The id of the stored copy 0 of each content; those that can not be stored are not looked up.
async fn lookup_contents(conn: &mut Conn<'_>, page: &Page, contents: &[Content]) -> Result<Vec<Option<i64>>> {
    let asked: Vec<usize> = match &page.occurrences {
        Some(occurrences) => {
            let occurrences = locked(occurrences);
            (0..contents.len()).filter(|&n| occurrences.may_be_stored(&contents[n].key)).collect()
        }
        None => (0..contents.len()).collect(),
    };
    let keys: Vec<Key> = asked.iter().map(|&n| contents[n].key).collect();
    let mut found = vec![None; contents.len()];
    for (n, id) in asked.into_iter().zip(lookup(conn, page, &keys).await?) {
        found[n] = id;
    }
    Ok(found)
}

fn locked(occurrences: &Mutex<Occurrences>) -> MutexGuard<'_, Occurrences> {
    occurrences.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A content of which copy `seen` and all below it were seen, and that of number `unseen`, if it is known, was not.
struct Search {
    content: usize,
    seen: u32,
    unseen: Option<u32>,
}

impl Search {
    /// The copy to look at next: further and further on, then halfway between; `None` when all is known.
    fn probe(&self) -> Option<u32> {
        match self.unseen {
            None => Some(self.seen.saturating_mul(2).max(1)),
            Some(unseen) if unseen > self.seen + 1 => Some(self.seen + (unseen - self.seen) / 2),
            Some(_) => None,
        }
    }
}

/// `rows`: how often the read saw each content before this page. Those that are not counted in memory are looked up,
/// one statement for all of them at a time; a content seen once, as most are, takes one.
async fn count_seen(
    conn: &mut Conn<'_>,
    page: &Page,
    occurrences: &Mutex<Occurrences>,
    contents: &mut [Content],
    copies_0: &[Option<i64>],
) -> Result<()> {
    let mut searches = Vec::new();
    {
        let occurrences = locked(occurrences);
        for (n, (content, copy_0)) in contents.iter_mut().zip(copies_0).enumerate() {
            if copy_0.is_some_and(|id| occurrences.has_seen(id)) {
                match occurrences.count(&content.key) {
                    Some(count) => content.seen = count,
                    None => searches.push(Search { content: n, seen: 0, unseen: None }),
                }
            }
        }
    }
    loop {
        let probes: Vec<(usize, u32)> =
            searches.iter().enumerate().filter_map(|(n, search)| Some((n, search.probe()?))).collect();
        if probes.is_empty() {
            break;
        }
        let hash = |search: usize| page.records.get(contents[searches[search].content].index).hash;
        let keys: Vec<Key> = probes.iter().map(|&(search, copy)| copy_key(hash(search), copy)).collect();
        let found = lookup(conn, page, &keys).await?;
        let occurrences = locked(occurrences);
        for ((search, copy), id) in probes.into_iter().zip(found) {
            match id.is_some_and(|id| occurrences.has_seen(id)) {
                true => searches[search].seen = copy,
                false => searches[search].unseen = Some(copy),
            }
        }
    }
    for search in searches {
        contents[search.content].seen = search.seen + 1;
    }
    Ok(())
}

/// `rows`: of each content, the copies that are not stored yet, and the ids of those that are. Copy 0 is looked up
/// already and not among the ids.
async fn select_copies(
    conn: &mut Conn<'_>,
    page: &Page,
    contents: &[Content],
    members: &[(usize, u32)],
) -> Result<(Vec<New>, Vec<i64>)> {
    let mut met = Vec::new();
    let mut new = Vec::with_capacity(members.len());
    let mut later = Vec::new();
    for (index, &(place, copy)) in members.iter().enumerate() {
        let content = &contents[place];
        match content.seen.saturating_add(copy) {
            0 if content.is_stored => {}
            0 => new.push(New { index, key: Some(content.key), version: 1 }),
            occurrence => later.push((index, copy_key(page.records.get(index).hash, occurrence))),
        }
    }
    if !later.is_empty() {
        let keys: Vec<Key> = later.iter().map(|(_, key)| *key).collect();
        let found = lookup(conn, page, &keys).await?;
        for ((index, key), id) in later.into_iter().zip(found) {
            match id {
                Some(id) => met.push(id),
                None => new.push(New { index, key: Some(key), version: 1 }),
            }
        }
        new.sort_unstable_by_key(|new| new.index);
    }
    Ok((new, met))
}

/// Identity of the first copy of a content.
pub(crate) fn content_key(hash: &[u8; 32]) -> Key {
    *hash.first_chunk().expect("16 is less than 32")
}

/// Identity of copy `n` of a content, from 1.
pub(crate) fn copy_key(hash: &[u8; 32], n: u32) -> Key {
    let digest = Sha256::new().chain_update(hash).chain_update(u64::from(n).to_be_bytes()).finalize();
    *digest.first_chunk().expect("16 is less than 32")
}

/// The id of the stored record of each key, in the order of `keys`.
async fn lookup(conn: &mut Conn<'_>, page: &Page, keys: &[Key]) -> Result<Vec<Option<i64>>> {
    let mut ids = vec![None; keys.len()];
    if keys.is_empty() {
        return Ok(ids);
    }
    let key = &page.checkpoint.key;
    let mut place = |n: i64, id: i64| {
        let slot = usize::try_from(n - 1).ok().and_then(|n| ids.get_mut(n));
        *slot.expect("the statement numbers the keys that it was given") = Some(id);
    };
    match conn {
        Conn::Postgres(conn) => {
            sqlx::query(NO_SORT_POSTGRES).execute(&mut **conn).await?;
            let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_slice()).collect();
            let query = sqlx::query(LOOKUP_POSTGRES).bind(key.source_id).bind(&key.stream).bind(keys);
            for row in query.fetch_all(&mut **conn).await? {
                place(row.try_get(0)?, row.try_get(1)?);
            }
        }
        Conn::Sqlite(conn) => {
            let query = sqlx::query(LOOKUP_SQLITE)
                .bind(key.source_id)
                .bind(&key.stream)
                .bind(keys.concat())
                .bind(as_i64(keys.len()));
            for row in query.fetch_all(&mut **conn).await.map_err(StoreError::from)? {
                place(row.try_get(0)?, row.try_get(1)?);
            }
        }
    }
    Ok(ids)
}

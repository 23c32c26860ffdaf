//! How often one read has seen each content, for [`matome_model::source::Dedupe::Rows`].
//!
//! `rows` has multiset semantics: a content that a read holds three times is stored three times, and reading
//! it again adds nothing. Copy n of a content (from 0) has an identity of its own, so a read must know, for
//! each record, how many equal ones came before it in the same read. Counting contents would take memory in
//! proportion to the rows; instead the database remembers for us:
//!
//! - Ids grow, and only this read writes the stream. So a copy found with an id **above the watermark**, the
//!   highest id when the attempt began, was stored by this read: the copy has been seen.
//! - A copy found **below** it is a row of an earlier read; whether this read has met it is one bit in a
//!   compressed bitmap of ids. Ids of one source lie close together: a bit or two each when read in full,
//!   at most 16.
//! - The copies that a read has seen are 0, 1, ... without a gap, so their number is found with a few lookups.
//!   The contents that come most often are counted in memory besides, a bounded number of them ([`Counts`]).
//!
//! The first read of a stream need not even look: see [`super::first_load`].
//!
//! A read that gives only what was never read before ([`Occurrences::see_all`]) has seen all that is stored, so every copy is a new one.
//!
//! A read that goes on after a crash has seen what it stored with the pages that are not delivered again ([`Stand`]), and the old rows
//! that those pages noted. What was stored by pages that come again counts as old: a read that starts again finds all as old rows.

use std::collections::HashMap;

use roaring::RoaringTreemap;

use super::first_load::FirstLoad;
use super::identity::Key;
use super::repeats;
use crate::checkpoints::{Checkpoint, CheckpointKey, Stand};
use crate::db::Conn;
use crate::error::Result;

// One step back on the primary key. Ids are given out in growing order, so all that this read stores is above.
const HIGHEST_ID: &str = "select coalesce(max(id), 0) as id from acquired_data";

// One step on the unique index of identities; any other plan would have to sort, whatever the statistics say.
const ANY: &str = "select id from acquired_data
where source_id = $1 and stream = $2 and key_hash is not null
order by source_id, stream, key_hash, version limit 1";

/// Contents that are counted in memory: with them the table is as full as it gets, about 6 MB.
const MOST_COUNTED: usize = (1 << 18) / 8 * 7;

/// What a read of one stream has seen so far.
#[derive(Debug)]
pub struct Occurrences {
    /// Highest id when this attempt began.
    watermark: i64,
    /// What the attempts before it stored, where it goes on with them.
    stand: Option<Stand>,
    /// Whether all that is stored counts as seen.
    sees_all: bool,
    /// Ids of old rows that this read has met.
    met: RoaringTreemap,
    /// Contents met at least twice, by the identity of their copy 0.
    counts: Counts,
    /// Where the stream held nothing when the read began, so that all it holds was stored by this read.
    first_load: Option<FirstLoad>,
}

/// What one page adds; applied when the page is committed, and only then.
#[derive(Clone, Debug, Default)]
pub struct SeenInPage {
    /// Copy 0 of the contents that the page stored, for a first load.
    pub(super) stored: Vec<Key>,
    /// Ids of stored rows whose content it has.
    pub(super) met: Vec<i64>,
    /// Records of it wait for the end of the read.
    pub(super) waits: bool,
    /// Newest versions of the keys that it has, of a whole read.
    pub(super) given: Vec<i64>,
    /// What a whole read has seen is written down.
    pub(super) is_noted: bool,
    pub(super) repeated: Vec<(Key, u32)>,
}

/// How often the contents were seen that came most often; what it does not know can be found in the database.
#[derive(Debug)]
struct Counts {
    by_key: HashMap<Key, u32>,
    most: usize,
}

impl Counts {
    fn set(&mut self, key: Key, count: u32) {
        if self.by_key.len() >= self.most && !self.by_key.contains_key(&key) {
            self.make_room();
            if self.by_key.len() >= self.most {
                return;
            }
        }
        self.by_key.insert(key, count);
    }

    /// Forgets the smaller half of the counts, and those that are equal to the largest of that half.
    fn make_room(&mut self) {
        let mut counts: Vec<u32> = self.by_key.values().copied().collect();
        if counts.is_empty() {
            return;
        }
        let middle = counts.len() / 2;
        let (_, &mut median, _) = counts.select_nth_unstable(middle);
        self.by_key.retain(|_, count| *count > median);
    }
}

impl Occurrences {
    /// The state at the start of an attempt, in the lease that does the reading; `None` when there is more to forget of earlier
    /// reads than one transaction should, and it has to be asked for again.
    ///
    /// # Errors
    /// When the database refuses the statement or is gone.
    pub async fn begin(conn: &mut Conn<'_>, key: &CheckpointKey, begun: &Checkpoint) -> Result<Option<Self>> {
        let Some(met) = repeats::met_before(conn, key, &begun.stand, &["met_versions"]).await? else { return Ok(None) };
        let watermark = conn.fetch_one(HIGHEST_ID, &[]).await?.int("id")?;
        let any = conn.fetch_optional(ANY, &[key.source_id.into(), (&key.stream).into()]).await?;
        let first_load = any.is_none().then(FirstLoad::default);
        let counts = Counts { by_key: HashMap::new(), most: MOST_COUNTED };
        Ok(Some(Self { watermark, stand: Some(begun.stand), sees_all: false, met, counts, first_load }))
    }

    /// The same with room for the counts of `most` contents: fewer take less memory and more lookups.
    #[must_use]
    pub fn counting(mut self, most: usize) -> Self {
        self.counts.most = most;
        self
    }

    /// Counts all that is stored as seen by this read: what it gives from now on is added, also where it is equal.
    pub fn see_all(&mut self) {
        self.sees_all = true;
    }

    /// Counts what the attempts before this one stored and met as old: all of it comes again.
    pub fn begin_anew(&mut self) {
        self.stand = None;
        self.met.clear();
        self.counts.by_key.clear();
    }

    /// Whether a content may be stored; `false` is certain, without a look into the database.
    pub(super) fn may_be_stored(&self, key: &Key) -> bool {
        self.first_load.as_ref().is_none_or(|first_load| first_load.may_hold(key))
    }

    /// Whether [`SeenInPage::stored`] is wanted.
    pub(super) fn is_first_load(&self) -> bool {
        self.first_load.is_some()
    }

    /// Whether this read has seen the copy that is stored with this id.
    pub(super) fn has_seen(&self, id: i64) -> bool {
        let is_of_before = |stand: Stand| id > stand.read_from_id && id <= stand.resume_from_id;
        self.sees_all
            || id > self.watermark
            || self.stand.is_some_and(is_of_before)
            || self.met.contains(id.unsigned_abs())
    }

    /// How often the content has been seen, if it is one of those that are counted.
    pub(super) fn count(&self, key: &Key) -> Option<u32> {
        self.counts.by_key.get(key).copied()
    }

    /// Takes in a page that is committed.
    pub fn advance(&mut self, page: SeenInPage) {
        self.met.extend(page.met.into_iter().map(i64::unsigned_abs));
        for (key, count) in page.repeated {
            self.counts.set(key, count);
        }
        if let Some(first_load) = &mut self.first_load {
            page.stored.iter().for_each(|key| first_load.add(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_contents_stay_counted_and_the_others_take_no_more_room() {
        let mut counts = Counts { by_key: HashMap::new(), most: 100 };
        let key = |n: u32| {
            let mut key = Key::default();
            key[..4].copy_from_slice(&n.to_be_bytes());
            key
        };
        for n in 0..10 {
            counts.set(key(n), 1000 + n);
        }
        for n in 10..100_000 {
            counts.set(key(n), 2 + n % 3);
            assert!(counts.by_key.len() <= 100);
        }
        assert!((0..10).all(|n| counts.by_key.get(&key(n)) == Some(&(1000 + n))));
        let mut none = Counts { by_key: HashMap::new(), most: 0 };
        none.set(key(1), 2);
        assert!(none.by_key.is_empty());
    }
}

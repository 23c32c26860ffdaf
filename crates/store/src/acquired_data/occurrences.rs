//! How often one read has seen each content, for [`matome_model::source::Dedupe::Rows`].
//!
//! `rows` has multiset semantics: a content that a read holds three times is stored three times, and reading
//! it again adds nothing. Copy n of a content (from 0) has an identity of its own, so a read must know, for
//! each record, how many equal ones came before it in the same read. Counting contents would take memory in
//! proportion to the rows; instead the database remembers for us:
//!
//! - Ids grow, and only this read writes the stream. So copy 0 of a content found with an id **above the
//!   watermark**, the highest id when the read began, was stored by this read: the content has been seen.
//! - Copy 0 found **below** it is a row of an earlier read; whether this read has met it is one bit in a
//!   compressed bitmap of ids. Ids of one source lie close together: a bit or two each when read in full,
//!   at most 16.
//! - Only contents seen at least twice in this read have an entry with their count: about 45 bytes each.
//!
//! The first read of a stream need not even look: see [`super::first_load`].
//!
//! A read that starts again after a crash takes a new watermark and finds all that was stored as old rows.

use std::collections::HashMap;

use roaring::RoaringTreemap;

use super::first_load::FirstLoad;
use super::identity::Key;
use crate::checkpoints::CheckpointKey;
use crate::db::Conn;
use crate::error::Result;

// One step back on the primary key. Ids are given out in growing order, so all that this read stores is above.
const HIGHEST_ID: &str = "select coalesce(max(id), 0) as id from acquired_data";

// One step on the unique index of identities; any other plan would have to sort, whatever the statistics say.
const ANY: &str = "select id from acquired_data
where source_id = $1 and stream = $2 and key_hash is not null
order by source_id, stream, key_hash, version limit 1";

/// What a read of one stream has seen so far.
#[derive(Debug)]
pub struct Occurrences {
    watermark: i64,
    /// Ids of old rows, copy 0 of their content, that this read has met.
    met: RoaringTreemap,
    /// Contents met at least twice, by the identity of their copy 0.
    repeated: HashMap<Key, u32>,
    /// Kept while the stream holds nothing but what this read stored.
    first_load: Option<FirstLoad>,
}

/// What one page adds; applied when the page is committed, and only then.
#[derive(Clone, Debug, Default)]
pub struct SeenInPage {
    /// Copy 0 of the contents that the page stored, for a first load.
    pub(super) stored: Vec<Key>,
    pub(super) met: Vec<i64>,
    pub(super) repeated: Vec<(Key, u32)>,
}

impl Occurrences {
    /// The state at the start of a read, in the lease that does the reading.
    ///
    /// # Errors
    /// When the database refuses the statement or is gone.
    pub async fn begin(conn: &mut Conn<'_>, key: &CheckpointKey) -> Result<Self> {
        let watermark = conn.fetch_one(HIGHEST_ID, &[]).await?.int("id")?;
        let any = conn.fetch_optional(ANY, &[key.source_id.into(), (&key.stream).into()]).await?;
        let first_load = any.is_none().then(FirstLoad::default);
        Ok(Self { watermark, met: RoaringTreemap::new(), repeated: HashMap::new(), first_load })
    }

    /// Whether a content may be stored; `false` is certain, without a look into the database.
    pub(super) fn may_be_stored(&self, key: &Key) -> bool {
        self.first_load.as_ref().is_none_or(|first_load| first_load.may_hold(key))
    }

    /// Whether [`SeenInPage::stored`] is wanted.
    pub(super) fn is_first_load(&self) -> bool {
        self.first_load.is_some()
    }

    /// How often the content has been seen, given its identity and the id of its copy 0, if that is stored.
    pub(super) fn seen(&self, key: &Key, copy_0: Option<i64>) -> u32 {
        match copy_0 {
            Some(id) if id > self.watermark || self.met.contains(id.unsigned_abs()) => {
                self.repeated.get(key).copied().unwrap_or(1)
            }
            _ => 0,
        }
    }

    /// Takes in a page that is committed.
    pub fn advance(&mut self, page: SeenInPage) {
        self.met.extend(page.met.into_iter().map(i64::unsigned_abs));
        self.repeated.extend(page.repeated);
        if let Some(first_load) = &mut self.first_load
            && !page.stored.iter().all(|key| first_load.add(key))
        {
            self.first_load = None;
        }
    }
}

//! Hash and identity of the records that the original application stored, page by page, before the first read of their
//! source: what makes a record that is read again known.
//!
//! The rows stay as they are but for `data_hash`, `key_hash` and `version`; where `data_hash` was another hash it is kept
//! in `adopted_hash`. A page commits under the lease of the task that works, and the next attempt goes on behind it.

use matome_model::clock::Timestamp;
use matome_model::source::Dedupe;
use matome_model::task::Fence;

use crate::acquired_data::encode_hex;
use crate::acquired_data::renewal::{self, Content, Part, Renewed, StoredRow};
use crate::checkpoints::{self, CheckpointKey, LIVE};
use crate::db::Conn;
use crate::error::Result;
use crate::lease;

/// What is still to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Records up to here are done.
    pub done_id: i64,
    /// The last one.
    pub up_to_id: i64,
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
) -> Result<Vec<StoredRow>> {
    let part = Part { source_id, stream: "", after: pending.done_id, up_to: pending.up_to_id };
    renewal::next(conn, part, limit, bytes).await
}

/// Commits a page. To be called in [`crate::db::Db::write_page`].
///
/// # Errors
/// [`crate::error::StoreError::Fenced`] when the lease is lost; when the database is gone.
pub async fn commit(conn: &mut Conn<'_>, page: &FillPage) -> Result<()> {
    lease::peek(conn, &page.fence).await?;
    let content = |record: &Hashed| Content { id: record.id, hash: record.hash, key: record.key, is_deleted: false };
    let contents: Vec<Content> = page.records.iter().map(content).collect();
    let identities = renewal::identities(conn, page.source_id, "", page.dedupe, &contents).await?;
    let filled = page.records.iter().zip(identities).map(|(record, identity)| {
        let hash = record.hash.map(encode_hex);
        // A hash that was ours already is not kept twice.
        let adopted = record.found_hash.as_ref().filter(|found| hash.as_ref() != Some(*found));
        Renewed { id: record.id, hash: record.hash, identity, adopted, text: None }
    });
    renewal::write(conn, page.source_id, filled).await?;

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

const STAND_AT_NEWEST: &str = "update checkpoints set last_record_id = case
    when removed_up_to > (select coalesce(max(d.id), 0) from acquired_data d where d.source_id = $1) then removed_up_to
    else (select coalesce(max(d.id), 0) from acquired_data d where d.source_id = $1) end
where source_id = $1 and stream = '' and purpose = 'live' and last_record_id = 0";
const DONE: &str = "update adoptions set done_id = $2 where kind = 'source' and object_id = $1";

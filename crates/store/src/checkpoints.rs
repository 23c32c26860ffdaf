//! How far a source stream has been read: moves on with each page, in the page's transaction.

use matome_model::clock::Timestamp;
use matome_model::task::Fence;
use serde_json::value::RawValue;

use crate::db::{Arg, Conn};
use crate::error::{Result, StoreError};
use crate::{lease, removals};

/// The purpose of ordinary reads.
pub const LIVE: &str = "live";

/// What a checkpoint belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointKey {
    /// `data_sources.id`.
    pub source_id: i64,
    /// Stream of the source, '' for a source with one.
    pub stream: String,
    /// [`LIVE`], or the id of a backfill.
    pub purpose: String,
}

/// A stored checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Pages committed so far.
    pub page_seq: i64,
    /// The connector's own state; `{}` before the first page.
    pub state: Box<RawValue>,
    /// Revision of the config that the state was made with.
    pub config_rev: i64,
    /// Highest `acquired_data.id` of the stream; 0 before the first record.
    pub last_record_id: i64,
    /// Lease under which it was last written.
    pub lease_epoch: i64,
    /// The task that reads has committed its last page: there is nothing left for it to do.
    pub read_ended: bool,
    /// The task that reads, or read last; 0 for none.
    pub task_id: i64,
    /// Where the read began and goes on.
    pub stand: Stand,
}

/// Where a read began, and from where on it is delivered when it is begun again: up to there its pages are its own, what
/// stands behind may come once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// Highest `acquired_data.id` when it began.
    pub read_from_id: i64,
    /// [`Checkpoint::page_seq`] when it began.
    pub read_from_page: i64,
    /// Highest id of the last page behind which it goes on exactly; that of its beginning if there is none.
    pub resume_from_id: i64,
    /// `page_seq` behind that page.
    pub resume_from_page: i64,
}

/// A step of a checkpoint, from the page before to this one.
#[derive(Clone, Debug)]
pub struct Advance {
    /// Which checkpoint.
    pub key: CheckpointKey,
    /// Pages committed before this one.
    pub page_seq: i64,
    /// Revision of the config that is being read.
    pub config_rev: i64,
    /// The connector's state after this page, as JSON text.
    pub state: String,
    /// Whether a read that goes on at this state is given nothing of this page, or of one before, again.
    pub is_exact: bool,
    /// Whether what the read gave before this page comes again: it counts from here on.
    pub begins_anew: bool,
}

const FIND: &str = "select page_seq, state, config_rev, last_record_id, lease_epoch, read_ended, task_id,
    read_from_id, read_from_page, resume_from_id, resume_from_page
from checkpoints
where source_id = $1 and stream = $2 and purpose = $3";

const BEGIN: &str = "insert into checkpoints
(source_id, stream, purpose, config_rev, lease_epoch, updated_at, task_id, state, read_ended,
    read_from_id, read_from_page, resume_from_id, resume_from_page)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
on conflict (source_id, stream, purpose) do update set
    config_rev = excluded.config_rev,
    lease_epoch = excluded.lease_epoch,
    updated_at = excluded.updated_at,
    task_id = excluded.task_id,
    state = excluded.state,
    read_ended = excluded.read_ended,
    read_from_id = excluded.read_from_id,
    read_from_page = excluded.read_from_page,
    resume_from_id = excluded.resume_from_id,
    resume_from_page = excluded.resume_from_page";

// For pages that are no part of a read: only the lease is noted.
const HOLD: &str = "insert into checkpoints (source_id, stream, purpose, config_rev, lease_epoch, updated_at)
values ($1, $2, $3, $4, $5, $6)
on conflict (source_id, stream, purpose) do update set
    lease_epoch = excluded.lease_epoch,
    updated_at = excluded.updated_at";

const ADVANCE: &str = "update checkpoints set
    page_seq = page_seq + 1,
    state = $6,
    last_record_id = case when last_record_id < $7 then $7 else last_record_id end,
    lease_epoch = $8,
    updated_at = $9,
    read_ended = $10,
    read_from_id = case when $12 then last_record_id else read_from_id end,
    read_from_page = case when $12 then page_seq else read_from_page end,
    resume_from_id = case when $11 and last_record_id < $7 then $7 when $11 or $12 then last_record_id else resume_from_id end,
    resume_from_page = case when $11 then page_seq + 1 when $12 then page_seq else resume_from_page end
where source_id = $1 and stream = $2 and purpose = $3 and page_seq = $4 and config_rev = $5";

// One step back on the primary key.
const HIGHEST_ID: &str = "select coalesce(max(id), 0) as id from acquired_data";

const WATERMARK: &str =
    "select coalesce(max(last_record_id), 0) as last_record_id from checkpoints where source_id = $1";

/// The checkpoint, if there is one.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn find(conn: &mut Conn<'_>, key: &CheckpointKey) -> Result<Option<Checkpoint>> {
    let args: [Arg<'_>; 3] = [key.source_id.into(), (&key.stream).into(), (&key.purpose).into()];
    conn.fetch_optional(FIND, &args).await?.map(from_row).transpose()
}

/// The checkpoint from which the read of task `task_id` starts, made when it is missing. A state of another config
/// revision is not used, nor is that of another task when `reset` is set: the state is `{}` then.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is lost, [`StoreError::CheckpointMoved`] while a reset removes the records of
/// the source; when the database refuses the statement or is gone.
pub async fn begin(
    conn: &mut Conn<'_>,
    fence: &Fence,
    key: &CheckpointKey,
    task_id: i64,
    config_rev: i64,
    reset: bool,
    now: Timestamp,
) -> Result<Checkpoint> {
    may_write(conn, fence, key).await?;
    let before = find(conn, key).await?;
    let is_same_task = before.as_ref().is_some_and(|before| before.task_id == task_id);
    let page_seq = before.as_ref().map_or(0, |before| before.page_seq);
    // A later attempt of the same task goes on where the one before stood, also when it was to begin anew.
    let kept = before.filter(|before| before.config_rev == config_rev && (!reset || is_same_task));
    let read_ended = kept.as_ref().is_some_and(|kept| kept.read_ended);
    let goes_on = kept.as_ref().filter(|kept| kept.state.get() != "{}" && (!read_ended || is_same_task));
    let stand = match goes_on {
        Some(kept) => kept.stand,
        None => {
            let id = conn.fetch_one(HIGHEST_ID, &[]).await?.int("id")?;
            Stand { read_from_id: id, read_from_page: page_seq, resume_from_id: id, resume_from_page: page_seq }
        }
    };
    let state = kept.as_ref().map_or("{}", |kept| kept.state.get());
    let args: [Arg<'_>; 13] = [
        key.source_id.into(),
        (&key.stream).into(),
        (&key.purpose).into(),
        config_rev.into(),
        fence.lease_epoch.into(),
        now.into(),
        task_id.into(),
        Arg::Json(Some(state)),
        (read_ended && is_same_task).into(),
        stand.read_from_id.into(),
        stand.read_from_page.into(),
        stand.resume_from_id.into(),
        stand.resume_from_page.into(),
    ];
    conn.execute(BEGIN, &args).await?;
    stored(conn, key).await
}

/// The checkpoint as it stands, made when it is missing: for pages that are no part of a read.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is lost, [`StoreError::CheckpointMoved`] while a reset removes the records of
/// the source; when the database refuses the statement or is gone.
pub async fn hold(
    conn: &mut Conn<'_>,
    fence: &Fence,
    key: &CheckpointKey,
    config_rev: i64,
    now: Timestamp,
) -> Result<Checkpoint> {
    may_write(conn, fence, key).await?;
    let args: [Arg<'_>; 6] = [
        key.source_id.into(),
        (&key.stream).into(),
        (&key.purpose).into(),
        config_rev.into(),
        fence.lease_epoch.into(),
        now.into(),
    ];
    conn.execute(HOLD, &args).await?;
    stored(conn, key).await
}

/// Whether the lease is held, and no reset is removing the records of the source.
async fn may_write(conn: &mut Conn<'_>, fence: &Fence, key: &CheckpointKey) -> Result<()> {
    lease::lock(conn, fence).await?;
    match removals::holds(conn, key.source_id).await? {
        true => Err(StoreError::CheckpointMoved { source_id: key.source_id, page_seq: 0 }),
        false => Ok(()),
    }
}

async fn stored(conn: &mut Conn<'_>, key: &CheckpointKey) -> Result<Checkpoint> {
    find(conn, key).await?.ok_or(StoreError::Database(sqlx::Error::RowNotFound))
}

/// Moves the checkpoint one page on, if it still is where the reader left it; `read_ended`: the page is the last.
///
/// # Errors
/// [`StoreError::CheckpointMoved`] otherwise; when the database refuses the statement or is gone.
pub(crate) async fn advance(
    conn: &mut Conn<'_>,
    step: &Advance,
    last_record_id: i64,
    read_ended: bool,
    lease_epoch: i64,
    now: Timestamp,
) -> Result<()> {
    let args: [Arg<'_>; 12] = [
        step.key.source_id.into(),
        (&step.key.stream).into(),
        (&step.key.purpose).into(),
        step.page_seq.into(),
        step.config_rev.into(),
        Arg::Json(Some(&step.state)),
        last_record_id.into(),
        lease_epoch.into(),
        now.into(),
        read_ended.into(),
        step.is_exact.into(),
        step.begins_anew.into(),
    ];
    match conn.execute(ADVANCE, &args).await? {
        1 => Ok(()),
        _ => Err(StoreError::CheckpointMoved { source_id: step.key.source_id, page_seq: step.page_seq }),
    }
}

/// Highest `last_record_id` of a source's streams; 0 when it has stored nothing.
pub(crate) async fn watermark(conn: &mut Conn<'_>, source_id: i64) -> Result<i64> {
    conn.fetch_one(WATERMARK, &[source_id.into()]).await?.int("last_record_id")
}

fn from_row(row: crate::db::Row) -> Result<Checkpoint> {
    Ok(Checkpoint {
        page_seq: row.int("page_seq")?,
        state: row.json("state")?,
        config_rev: row.int("config_rev")?,
        last_record_id: row.int("last_record_id")?,
        lease_epoch: row.int("lease_epoch")?,
        read_ended: row.bool("read_ended")?,
        task_id: row.int("task_id")?,
        stand: Stand {
            read_from_id: row.int("read_from_id")?,
            read_from_page: row.int("read_from_page")?,
            resume_from_id: row.int("resume_from_id")?,
            resume_from_page: row.int("resume_from_page")?,
        },
    })
}

//! Runs of aggregations: begun, published in one small transaction, kept as versions, given up.
//!
//! The rows of a run are written before ([`crate::aggregated_data`]); a publication changes which runs are shown and
//! never touches rows, so it takes the same short time however many rows there are.

use matome_model::clock::Timestamp;
use matome_model::task::{Fence, LaneKind};
use serde_json::value::RawValue;

use crate::db::Conn;
use crate::error::{Result, StoreError};
use crate::lease;
use crate::triggers;

/// What a run does with the rows that are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Its rows take the place of all.
    Replace,
    /// Its rows join them.
    Append,
    /// Its rows join them, and each takes the place of the row that has its key.
    Upsert,
}

impl Effect {
    /// The words in `aggregation_runs.mode`.
    pub const WORDS: &'static [&'static str] = &["replace", "append", "upsert"];

    /// The word in `aggregation_runs.mode`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Upsert => "upsert",
        }
    }
}

/// A run that begins.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Its aggregation.
    pub source_id: i64,
    /// The task that computes it.
    pub task_id: i64,
    /// What it does with the rows that are shown.
    pub effect: Effect,
    /// Lineage, a JSON array: see [`Publication::inputs`].
    pub inputs: Box<RawValue>,
    /// The parameters that it was given, a JSON object.
    pub params: Box<RawValue>,
}

/// How long versions are kept. The newest always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest runs, so many; `None`: see [`Retention::is_given`].
    pub runs: Option<i64>,
    /// Besides, runs published at this time or later.
    pub since: Option<Timestamp>,
}

impl Retention {
    /// Whether somebody asked for it. Appended runs stay for ever when nobody did, otherwise only as long as the others.
    fn is_given(&self) -> bool {
        self.runs.is_some() || self.since.is_some()
    }
}

/// A run that is complete and becomes visible.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Its aggregation.
    pub source_id: i64,
    /// The run.
    pub run_id: i64,
    /// As in [`NewRun`].
    pub effect: Effect,
    /// Its rows.
    pub rows: i64,
    /// Rows that it takes the place of, as [`crate::aggregated_data::insert_page`] counted them.
    pub superseded: i64,
    /// JSON array of the key's columns when its rows have a key.
    pub key: Option<String>,
    /// The physical plan.
    pub plan: String,
    /// Lineage, a JSON array: per input its table, id, watermark, rows and columns.
    pub inputs: Box<RawValue>,
    /// Which versions stay.
    pub retention: Retention,
    /// Time of the publication.
    pub now: Timestamp,
}

const ABANDON: &str = "update aggregation_runs set status = 'abandoned'
where source_id = $1 and status = 'building'";

const BEGIN: &str = "insert into aggregation_runs (source_id, task_id, status, mode, inputs, params, started_at)
values ($1, $2, 'building', $3, $4, $5, $6)
returning id";

const REPLACE_ALL: &str = "update aggregation_runs set status = 'superseded', replaced_by = $2
where source_id = $1 and status = 'current'";

const MAKE_CURRENT: &str = "update aggregation_runs
set status = 'current', row_count = $2, superseded_count = $3, superseded_stored = $3, plan = $4, inputs = $5,
    published_at = $6
where id = $1 and status = 'building'";

// Runs whose rows are gone do not come back.
const KEPT_FROM: &str = "select min(kept.id) as id from (
    select newest.id from (
        select r.id from aggregation_runs r
        where r.source_id = $1 and r.published_at is not null order by r.id desc limit $2
    ) newest
    union all
    select r.id from aggregation_runs r
    where r.source_id = $1 and r.published_at >= $3 and (r.status = 'current'
        or r.replaced_by > (select s.kept_from_run from aggregation_sources s where s.id = $1))
) kept";

const EXPIRING: &str = "select cast(coalesce(sum(r.row_count), 0) as bigint) as row_count from aggregation_runs r
where r.source_id = $1 and r.status = 'current' and r.id < $2";

const EXPIRE: &str = "update aggregation_runs set status = 'superseded', replaced_by = $3
where source_id = $1 and status = 'current' and id < $2";

const SHOW: &str = "update aggregation_sources set current_run_id = $2,
    visible_rows = case when $3 then 0 else visible_rows end + $4,
    kept_from_run = case when kept_from_run < $5 then $5 else kept_from_run end,
    key_columns = $6
where id = $1";

/// Runs whose record stays though their rows are gone.
const RECORDED_RUNS: i64 = 1_000;

// A few with each publication: more than it adds. The oldest first, so that what replaced a run outlives it.
const FORGET: &str = "delete from aggregation_runs where id in (
    select r.id from aggregation_runs r
    where r.source_id = $1 and r.rows_removed_at is not null and r.id <= (
        select n.id from aggregation_runs n where n.source_id = $1 order by n.id desc limit 1 offset $2)
    order by r.id limit 10)";

/// Begins a run. A run of the same aggregation that a crash left unfinished is given up: its rows were never
/// seen and are collected.
///
/// # Errors
/// [`crate::error::StoreError::Fenced`] when the lease is lost.
pub async fn begin(conn: &mut Conn<'_>, fence: &Fence, run: &NewRun, now: Timestamp) -> Result<i64> {
    lease::peek(conn, fence).await?;
    conn.execute(ABANDON, &[run.source_id.into()]).await?;
    let args = [
        run.source_id.into(),
        run.task_id.into(),
        run.effect.as_str().into(),
        (&*run.inputs).into(),
        (&*run.params).into(),
        now.into(),
    ];
    let row = conn.fetch_one(BEGIN, &args).await?;
    lease::lock(conn, fence).await?;
    row.int("id")
}

/// Makes a run visible, with its effect on the rows that were shown: readers see all before or all after.
///
/// # Errors
/// [`crate::error::StoreError::Fenced`] when the lease is lost.
pub async fn publish(conn: &mut Conn<'_>, fence: &Fence, run: &Publication) -> Result<()> {
    lease::peek(conn, fence).await?;
    let (source, id) = (run.source_id, run.run_id);
    let replaces = run.effect == Effect::Replace;
    if replaces {
        conn.execute(REPLACE_ALL, &[source.into(), id.into()]).await?;
    }
    let args = [
        id.into(),
        run.rows.into(),
        run.superseded.into(),
        run.plan.as_str().into(),
        (&*run.inputs).into(),
        run.now.into(),
    ];
    if conn.execute(MAKE_CURRENT, &args).await? != 1 {
        return Err(StoreError::Inconsistent {
            column: "aggregation_runs.status".to_owned(),
            what: format!("run {id} is not being built any more"),
        });
    }
    let runs = run.retention.runs.unwrap_or(1);
    let since = run.retention.since.unwrap_or(run.now);
    let mut kept_from = conn.fetch_one(KEPT_FROM, &[source.into(), runs.into(), since.into()]).await?.int("id")?;
    let mut added = run.rows - run.superseded;
    if run.effect == Effect::Append {
        if run.retention.is_given() {
            added -= conn.fetch_one(EXPIRING, &[source.into(), kept_from.into()]).await?.int("row_count")?;
            conn.execute(EXPIRE, &[source.into(), kept_from.into(), id.into()]).await?;
        }
        // Rows of the runs that stay are shown; an older version would need those that left.
        kept_from = id;
    }
    let args = [source.into(), id.into(), replaces.into(), added.into(), kept_from.into(), run.key.as_deref().into()];
    conn.execute(SHOW, &args).await?;
    conn.execute(FORGET, &[source.into(), RECORDED_RUNS.into()]).await?;
    triggers::note(conn, LaneKind::Aggregation, source, run.now).await?;
    // Source before lane: the order of the API's changes, so that neither waits for the other.
    lease::lock(conn, fence).await
}

/// What is shown of an aggregation, as far as its next run must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Rows.
    pub rows: i64,
    /// JSON array with the columns of the key under which they are stored.
    pub key: Option<String>,
}

const SHOWN: &str = "select visible_rows, key_columns from aggregation_sources where id = $1";

/// What is shown of an aggregation.
///
/// # Errors
/// When the aggregation is gone, or the database.
pub async fn shown(conn: &mut Conn<'_>, source_id: i64) -> Result<Shown> {
    let row = conn.fetch_one(SHOWN, &[source_id.into()]).await?;
    Ok(Shown { rows: row.int("visible_rows")?, key: row.opt_text("key_columns")? })
}

const IS_EMPTY: &str = "select count(*) as n from aggregation_runs
where id = $1 and published_at is not null and row_count = 0";

/// Whether a run was published without rows.
///
/// # Errors
/// When the database is gone.
pub async fn is_empty(conn: &mut Conn<'_>, run_id: i64) -> Result<bool> {
    Ok(conn.fetch_one(IS_EMPTY, &[run_id.into()]).await?.int("n")? == 1)
}

const PUBLISHED_BY: &str =
    "select r.id, r.row_count from aggregation_sources s join aggregation_runs r on r.id = s.current_run_id
where s.id = $1 and r.task_id = $2";

/// The run that a task has published, with its rows. The task holds its lane, so it can only be the newest one.
///
/// # Errors
/// When the database refuses it or is gone.
pub async fn published_by(conn: &mut Conn<'_>, source_id: i64, task_id: i64) -> Result<Option<(i64, i64)>> {
    let found = conn.fetch_optional(PUBLISHED_BY, &[source_id.into(), task_id.into()]).await?;
    found.map(|row| Ok((row.int("id")?, row.int("row_count")?))).transpose()
}

// A task that failed leaves its run behind. The last condition is the index's.
const UNFINISHED: &str = "select r.id from aggregation_runs r
where r.status = 'building' and not exists (select 1 from tasks t where t.id = r.task_id and t.status = 'running')
    and r.rows_removed_at is null and r.status <> 'current'
order by r.id limit 1";

const GIVE_UP: &str = "update aggregation_runs set status = 'abandoned' where id = $1 and status = 'building'
    and not exists (select 1 from tasks t where t.id = aggregation_runs.task_id and t.status = 'running')";

// Rows of one run at a time: each statement walks a short index.
const HIDDEN: &str = "select r.id from aggregation_runs r join aggregation_sources s on s.id = r.source_id
where r.rows_removed_at is null and r.status <> 'current'
    and (r.status = 'abandoned' or (r.status = 'superseded' and r.replaced_by <= s.kept_from_run))
order by r.id limit 1";

const REMOVE_ROWS: &str = "delete from aggregated_data where id in (
    select d.id from aggregated_data d where d.run_id = $1 limit $2)";

// What a run that was given up has marked is free for the next; a later run may have marked it already.
const UNMARK: &str = "update aggregated_data set superseded_by = null where superseded_by = $1 and id in (
    select d.id from aggregated_data d where d.superseded_by = $1 limit $2)
and exists (select 1 from aggregation_runs r where r.id = $1 and r.status = 'abandoned')";

// Asked anew, not concluded from the number of removed rows: another process may have removed the same ones.
const REMOVED: &str = "update aggregation_runs set rows_removed_at = $2
where id = $1 and not exists (select 1 from aggregated_data d where d.run_id = $1)
    and (status <> 'abandoned' or not exists (select 1 from aggregated_data d where d.superseded_by = $1))";

const LEFTOVERS: &str = "select r.id from aggregation_runs r join aggregation_sources s on s.id = r.source_id
where r.superseded_stored > 0 and r.published_at is not null and r.id <= s.kept_from_run
order by r.id limit 1";

const REMOVE_SUPERSEDED: &str = "delete from aggregated_data where id in (
    select d.id from aggregated_data d where d.superseded_by = $1 limit $2)";

const REMOVED_SUPERSEDED: &str = "update aggregation_runs set superseded_stored = case
    when exists (select 1 from aggregated_data d where d.superseded_by = $1) then superseded_stored - $2 else 0 end
where id = $1";

/// Something of a run that no version shows any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// A run that nobody builds any more.
    Unfinished(i64),
    /// A run whose rows can go.
    Hidden(i64),
    /// A run that superseded rows which can go.
    Superseding(i64),
}

/// Finds something to [`remove`]; only reads.
///
/// # Errors
/// When the database is gone.
pub async fn leftover(conn: &mut Conn<'_>) -> Result<Option<Leftover>> {
    type Found = fn(i64) -> Leftover;
    // Superseded rows before hidden ones: a row may be both, and then its superseding run counts it.
    let kinds: [(&'static str, Found); 3] =
        [(UNFINISHED, Leftover::Unfinished), (LEFTOVERS, Leftover::Superseding), (HIDDEN, Leftover::Hidden)];
    for (sql, found) in kinds {
        if let Some(run) = conn.fetch_optional(sql, &[]).await? {
            return Ok(Some(found(run.int("id")?)));
        }
    }
    Ok(None)
}

/// Removes at most `limit` rows of a leftover, or what else there is of it.
///
/// # Errors
/// When the database refuses it or is gone.
pub async fn remove(conn: &mut Conn<'_>, leftover: Leftover, limit: i64, now: Timestamp) -> Result<()> {
    let most = u64::try_from(limit).unwrap_or(0);
    match leftover {
        Leftover::Unfinished(id) => {
            conn.execute(GIVE_UP, &[id.into()]).await?;
        }
        Leftover::Hidden(id) => {
            let removed = conn.execute(REMOVE_ROWS, &[id.into(), limit.into()]).await?;
            if removed < most && conn.execute(UNMARK, &[id.into(), limit.into()]).await? < most {
                conn.execute(REMOVED, &[id.into(), now.into()]).await?;
            }
        }
        Leftover::Superseding(id) => {
            let removed = conn.execute(REMOVE_SUPERSEDED, &[id.into(), limit.into()]).await?;
            let removed = i64::try_from(removed).unwrap_or(i64::MAX);
            conn.execute(REMOVED_SUPERSEDED, &[id.into(), removed.into()]).await?;
        }
    }
    Ok(())
}

//! Records that wait to be read by a task of their source: replays from the quarantine.
//!
//! A row comes in with the mark in its quarantine row and the task that will read it, in one transaction, and goes in
//! the transaction of the page that it becomes part of. So whatever dies between, it is read exactly once.

use std::collections::HashSet;

use matome_model::clock::Timestamp;
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;

use crate::db::{Arg, Conn};
use crate::error::Result;
use crate::quarantine::{BadRecord, raw_hash, storable};

/// Records of one page at most: the outcome of each is written to its quarantine row.
pub const PAGE_ROWS: i64 = 500;

/// A record that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its id.
    pub id: i64,
    /// The quarantine row that it comes from.
    pub quarantine_id: i64,
    /// One JSON object; or the bytes that were put aside, which may be a row.
    pub raw: Vec<u8>,
    /// Where it stood in its source; `{}` when its quarantine row is gone.
    pub position: Box<RawValue>,
    /// Why it was put aside; empty when its quarantine row is gone.
    pub reason: String,
    /// Whether these are the bytes that were put aside, and not corrected ones.
    pub is_kept: bool,
}

/// Records of the inbox that a page takes up.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Each with its place in the page.
    pub records: Vec<TakenRecord>,
    /// Whether the read of the source had ended already: a page of replays does not change that.
    pub read_ended: bool,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct TakenRecord {
    /// See [`Waiting::id`].
    pub id: i64,
    /// See [`Waiting::quarantine_id`].
    pub quarantine_id: i64,
    /// Where it is in the page.
    pub place: Place,
}

/// What became of a record while its page was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A record of the page, by its index.
    Record(usize),
    /// A bad one, by its index.
    Quarantined(usize),
}

const IS_WAITING: &str = "select 1 as found from inbox where source_id = $1 and stream = $2 limit 1";

const SIZES: &str =
    "select id, length(raw) as size from inbox where source_id = $1 and stream = $2 order by id limit $3";

const NEXT: &str = "select i.id, i.quarantine_id, i.raw, q.position, q.reason,
    cast(case when q.raw = i.raw then 1 else 0 end as bigint) as is_kept
from inbox i left join quarantine q on q.id = i.quarantine_id
where i.source_id = $1 and i.stream = $2 and i.id <= $3
order by i.id";

const SETTLE: &str = "update quarantine set
    status = $2, outcome = $3, outcome_detail = $4, replayed_at = $5, detail = coalesce($6, detail),
    outcome_detail_japanese = $7, detail_japanese = coalesce($8, detail_japanese)
where id = $1 and status = 'replaying'";

const IDENTITY: &str = "select raw_hash, reason from quarantine where id = $1";

/// Whether something waits for a task of this source stream.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn is_waiting(conn: &mut Conn<'_>, source_id: i64, stream: &str) -> Result<bool> {
    Ok(conn.fetch_optional(IS_WAITING, &[source_id.into(), stream.into()]).await?.is_some())
}

/// What waits longest, up to [`PAGE_ROWS`] records of `bytes` bytes together, but one at least.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn next(conn: &mut Conn<'_>, source_id: i64, stream: &str, bytes: usize) -> Result<Vec<Waiting>> {
    let room = i64::try_from(bytes).unwrap_or(i64::MAX);
    let (mut last, mut size) = (0, 0);
    for row in conn.fetch_all(SIZES, &[source_id.into(), stream.into(), PAGE_ROWS.into()]).await? {
        size += row.int("size")?;
        if last > 0 && size > room {
            break;
        }
        last = row.int("id")?;
    }
    let rows = conn.fetch_all(NEXT, &[source_id.into(), stream.into(), last.into()]).await?;
    let read = |row: &crate::db::Row| {
        let empty = || RawValue::from_string("{}".to_owned()).expect("an empty object is JSON");
        Ok(Waiting {
            id: row.int("id")?,
            quarantine_id: row.int("quarantine_id")?,
            raw: row.bytes("raw")?,
            position: row.opt_json("position")?.unwrap_or_else(empty),
            reason: row.opt_text("reason")?.unwrap_or_default(),
            is_kept: row.int("is_kept")? == 1,
        })
    };
    rows.iter().map(read).collect()
}

/// Takes the records of a page out of the inbox and writes what came of each, in the page's transaction.
///
/// `new` are the indexes of the page's records that were not stored before.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub(crate) async fn settle(
    conn: &mut Conn<'_>,
    taken: &[TakenRecord],
    new: &HashSet<usize>,
    quarantined: &[BadRecord],
    now: Timestamp,
) -> Result<()> {
    let ids: Vec<i64> = taken.iter().map(|record| record.id).collect();
    let delete = format!("delete from inbox where {}", conn.any_of("id", 1));
    conn.execute(AssertSqlSafe(delete), &[Arg::Ints(&ids)]).await?;
    for record in taken {
        let (status, outcome, detail, said) = match record.place {
            Place::Record(index) if new.contains(&index) => ("replayed", "stored", None, None),
            Place::Record(_) => ("replayed", "duplicate", None, None),
            Place::Quarantined(index) => {
                let bad = &quarantined[index];
                let told = storable(&bad.detail);
                let before = conn.fetch_optional(IDENTITY, &[record.quarantine_id.into()]).await?;
                let is_same = match before {
                    Some(row) => {
                        row.text("reason")? == bad.reason.as_str() && row.text("raw_hash")? == raw_hash(&bad.raw)
                    }
                    None => false,
                };
                // The same bytes for the same reason are the same row; all else is a row of its own now.
                let (status, said) = if is_same { ("held", Some(told.clone())) } else { ("replayed", None) };
                let reason = bad.reason;
                (status, "quarantined", Some(told.map(|text| format!("{reason}: {text}"))), said)
            }
        };
        let [detail, said] = [&detail, &said].map(|words| words.as_ref());
        let args: [Arg<'_>; 8] = [
            record.quarantine_id.into(),
            status.into(),
            outcome.into(),
            detail.map(|words| words.english.as_str()).into(),
            now.into(),
            said.map(|words| words.english.as_str()).into(),
            detail.map(|words| words.japanese.as_str()).into(),
            said.map(|words| words.japanese.as_str()).into(),
        ];
        conn.execute(SETTLE, &args).await?;
    }
    Ok(())
}

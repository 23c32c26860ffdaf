//! Records that cannot be stored by value, or are not what their source promises: kept with their bytes, position and
//! reason.

mod actions;

use std::collections::HashMap;
use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use matome_model::canonical::QuarantineReason;
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use sha2::{Digest as _, Sha256};
use sqlx::AssertSqlSafe;

use crate::db::{Arg, Conn};
use crate::error::Result;

pub use actions::{
    Done, Held, Replay, Unfit, Which, discard, held, highest, raw, replay, replay_many, sources_of, take_in,
};

/// Bytes of a bad record that are kept; what is longer is cut, with its true length beside it.
pub const RAW_BYTES: usize = 1 << 20;

/// A record on its way into quarantine.
#[derive(Clone, Debug)]
pub struct BadRecord {
    /// Why.
    pub reason: QuarantineReason,
    /// What was found and where, for people.
    pub detail: Words,
    /// Where it stood in the source, as a JSON object.
    pub position: String,
    /// Its bytes, or the beginning of them.
    pub raw: Vec<u8>,
    /// Its length at the source, which may be more than `raw` has.
    pub raw_length: u64,
    /// Identity by its key, where that could be read all the same: the source has it.
    pub key: Option<[u8; 16]>,
}

/// Rows of one statement: eight parameters each, far below what either database takes.
const CHUNK: usize = 100;

/// Puts records of one page into quarantine; one that is there already is counted in its row.
/// Returns how many rows are new.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub(crate) async fn insert(
    conn: &mut Conn<'_>,
    source_id: i64,
    stream: &str,
    task_id: i64,
    now: Timestamp,
    records: &[BadRecord],
) -> Result<u64> {
    // One statement must not touch a row twice.
    let mut rows: Vec<(&BadRecord, String, i64)> = Vec::new();
    let mut places = HashMap::new();
    for record in records {
        let hash = raw_hash(&record.raw);
        let place = *places.entry((hash.clone(), record.reason.as_str().to_owned())).or_insert(rows.len());
        if place == rows.len() {
            rows.push((record, hash, 1));
        } else {
            rows[place].2 += 1;
        }
    }
    let mut new = 0;
    for chunk in rows.chunks(CHUNK) {
        let lengths: Vec<i64> =
            chunk.iter().map(|(record, ..)| i64::try_from(record.raw_length).unwrap_or(i64::MAX)).collect();
        let details: Vec<Words> = chunk.iter().map(|(record, ..)| storable(&record.detail)).collect();
        let mut args: Vec<Arg<'_>> = vec![source_id.into(), stream.into(), task_id.into(), now.into()];
        for ((record, hash, seen), (length, detail)) in chunk.iter().zip(lengths.iter().zip(&details)) {
            let kept = &record.raw[..record.raw.len().min(RAW_BYTES)];
            args.extend([
                record.reason.as_str().into(),
                detail.english.as_str().into(),
                detail.japanese.as_str().into(),
                Arg::Json(Some(&record.position)),
                kept.into(),
                (*length).into(),
                hash.into(),
                (*seen).into(),
            ]);
        }
        let found = conn.fetch_all(AssertSqlSafe(statement(chunk.len())), &args).await?;
        for row in found {
            // A row that was there before has been seen more often than in this page.
            let seen = places.get(&(row.text("raw_hash")?, row.text("reason")?)).map(|&place| rows[place].2);
            new += u64::from(seen == Some(row.int("seen")?));
        }
    }
    Ok(new)
}

const HOLD_AGAIN: &str = "update quarantine set status = 'held', outcome = null, outcome_detail = null,
    outcome_detail_japanese = null, replayed_at = null
where source_id = $1 and stream = $2 and status = 'replayed' and raw_hash in ({hashes})";

/// Holds those of these records again that were replayed once: they were stored then, and are not any more.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub(crate) async fn hold_again(conn: &mut Conn<'_>, source_id: i64, stream: &str, records: &[BadRecord]) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let hashes: Vec<String> = records.iter().map(|record| raw_hash(&record.raw)).collect();
    let given = conn.pick("select unnest($3::text[])", "select value from json_each($3)");
    let sql = AssertSqlSafe(HOLD_AGAIN.replace("{hashes}", given));
    conn.execute(sql, &[source_id.into(), stream.into(), Arg::Texts(&hashes)]).await.map(drop)
}

fn statement(rows: usize) -> String {
    let mut sql = "insert into quarantine
(source_id, stream, task_id, created_at, last_seen_at, reason, detail, detail_japanese, position, raw, raw_length, raw_hash, seen) values "
        .to_owned();
    for row in 0..rows {
        let n = 5 + row * 8;
        let comma = if row == 0 { "" } else { ", " };
        write!(
            sql,
            "{comma}($1, $2, $3, $4, $4, ${n}, ${}, ${}, ${}, ${}, ${}, ${}, ${})",
            n + 1,
            n + 2,
            n + 3,
            n + 4,
            n + 5,
            n + 6,
            n + 7
        )
        .expect("text grows");
    }
    sql.push_str(
        "
on conflict (source_id, stream, raw_hash, reason) do update set
    seen = quarantine.seen + excluded.seen,
    last_seen_at = excluded.last_seen_at,
    -- replayed once, and in quarantine for another reason then: here it is again
    status = case when quarantine.status = 'replayed' and quarantine.outcome = 'quarantined' then 'held'
        else quarantine.status end
returning raw_hash, reason, seen",
    );
    sql
}

/// NUL cannot be in a text of PostgreSQL.
pub(crate) fn storable(detail: &Words) -> Words {
    detail.clone().map(|text| text.replace('\0', "\u{2400}"))
}

/// What tells the bytes of a bad record from others.
pub(crate) fn raw_hash(raw: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(raw))
}

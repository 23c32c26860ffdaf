//! Invariants that need the stored bytes: what is kept is what its hash says.

use futures::TryStreamExt as _;
use matome_model::canonical::{Canonicaliser, Limits};
use sha2::{Digest as _, Sha256};

use super::Verdict;
use crate::db::{Conn, Row};
use crate::error::Result;
use crate::quarantine::RAW_BYTES;

/// How many rows are read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// All.
    Full,
    /// At most [`SAMPLE`], spread evenly over the ids.
    Sample,
}

const SAMPLE: i64 = 1_000;

/// A table whose rows carry a hash of their content.
pub(super) struct Content {
    pub(super) name: &'static str,
    /// In English and in Japanese.
    pub(super) rule: (&'static str, &'static str),
    all: &'static str,
    next: &'static str,
    ends: &'static str,
    mismatch: fn(&mut Canonicaliser, &Row) -> Result<Option<String>>,
}

// Rows of the original application may have no hash, or one of their own until they are filled.
pub(super) const RECORDS: Content = Content {
    name: "record_hash",
    rule: ("data_hash is the SHA-256 of a record's canonical form", "data_hash は、レコードの正準形の SHA-256 である"),
    all: "select id, raw_data, data_hash from acquired_data where data_hash is not null and not exists (
    select 1 from adoptions w where w.kind = 'source' and w.object_id = acquired_data.source_id
        and acquired_data.id > w.done_id and acquired_data.id <= w.up_to_id)",
    next: "select id, raw_data, data_hash from acquired_data where id >= $1 and data_hash is not null and not exists (
    select 1 from adoptions w where w.kind = 'source' and w.object_id = acquired_data.source_id
        and acquired_data.id > w.done_id and acquired_data.id <= w.up_to_id)
order by id limit 1",
    ends: "select min(id) as low, max(id) as high from acquired_data",
    mismatch: record,
};

pub(super) const QUARANTINE: Content = Content {
    name: "quarantine_bytes",
    rule: (
        "a record in quarantine has its bytes, or the beginning of them, as its hash says",
        "隔離されたレコードには、ハッシュのとおりのバイト列か、その先頭がある",
    ),
    all: "select id, raw, raw_length, raw_hash from quarantine",
    next: "select id, raw, raw_length, raw_hash from quarantine where id >= $1 order by id limit 1",
    ends: "select min(id) as low, max(id) as high from quarantine",
    mismatch: bad_record,
};

/// Reads rows and compares them with their hashes.
pub(super) async fn read(
    conn: &mut Conn<'_>,
    content: &Content,
    reading: Reading,
    verdict: &mut Verdict,
) -> Result<()> {
    // Whatever was stored passed its limits then; here only the hash counts.
    let mut canonicaliser = Canonicaliser::new(Limits::NONE);
    if let Reading::Full = reading {
        let mut rows = conn.fetch_stream(content.all, &[])?;
        while let Some(row) = rows.try_next().await? {
            verdict.extend((content.mismatch)(&mut canonicaliser, &row)?);
        }
        return Ok(());
    }
    let ends = conn.fetch_one(content.ends, &[]).await?;
    let (Some(low), Some(high)) = (ends.opt_int("low")?, ends.opt_int("high")?) else { return Ok(()) };
    let step = ((high - low) / SAMPLE).max(1);
    let mut from = low;
    while from <= high {
        let Some(row) = conn.fetch_optional(content.next, &[from.into()]).await? else { break };
        verdict.extend((content.mismatch)(&mut canonicaliser, &row)?);
        from = row.int("id")? + step;
    }
    Ok(())
}

impl Extend<String> for Verdict {
    fn extend<T: IntoIterator<Item = String>>(&mut self, places: T) {
        places.into_iter().for_each(|place| self.add(place));
    }
}

fn record(canonicaliser: &mut Canonicaliser, row: &Row) -> Result<Option<String>> {
    let id = row.int("id")?;
    let raw = match row.json("raw_data") {
        Ok(raw) => raw,
        Err(err) => return Ok(Some(format!("record {id}: {err}"))),
    };
    Ok(match canonicaliser.canonicalise(raw.get().as_bytes()) {
        Ok(canonical) if canonical.hash_hex() == row.text("data_hash")? => None,
        Ok(_) => Some(format!("record {id}")),
        Err(rejected) => Some(format!("record {id}: {rejected}")),
    })
}

fn bad_record(_: &mut Canonicaliser, row: &Row) -> Result<Option<String>> {
    let (id, raw) = (row.int("id")?, row.bytes("raw")?);
    let is_short = row.int("raw_length")? < i64::try_from(raw.len()).unwrap_or(i64::MAX);
    // Of a longer record the hash covers more than is kept.
    let is_whole = raw.len() < RAW_BYTES;
    let hash: String = Sha256::digest(&raw).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((is_short || (is_whole && hash != row.text("raw_hash")?)).then(|| format!("quarantine {id}")))
}

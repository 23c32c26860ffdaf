//! What retention looks at: the oldest records of a source, a few at a time.

use chrono::DateTime;
use matome_model::clock::Timestamp;
use serde_json::value::RawValue;

use crate::db::Conn;
use crate::error::Result;
use crate::source_bytes::LENGTH;

/// A source whose config speaks of retention.
#[derive(Clone, Debug)]
pub struct Retaining {
    /// Its id.
    pub source_id: i64,
    /// Its config as it is stored.
    pub config: Box<RawValue>,
}

const SOURCES: &str = "select id, config from data_sources where deleted_at is null and {has_retention} order by id";

/// The sources whose config has `retention`.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn sources(conn: &mut Conn<'_>) -> Result<Vec<Retaining>> {
    let has_retention =
        conn.pick("config ->> 'retention' is not null", "json_extract(config, '$.retention') is not null");
    let sql = sqlx::AssertSqlSafe(SOURCES.replace("{has_retention}", has_retention));
    let rows = conn.fetch_all(sql, &[]).await?;
    rows.iter().map(|row| Ok(Retaining { source_id: row.int("id")?, config: row.json("config")? })).collect()
}

/// A place in the records of a source, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// When the record there was acquired.
    pub acquired_at: Timestamp,
    /// Its id.
    pub id: i64,
}

impl Place {
    /// Before every record.
    #[must_use]
    pub fn start() -> Self {
        // Year 1: times before it are not stored.
        Self { acquired_at: DateTime::from_timestamp_micros(-62_135_596_800_000_000).unwrap_or_default(), id: 0 }
    }
}

/// One of the oldest records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Old {
    /// Where it is.
    pub place: Place,
    /// It is not what its key is now: there is a newer version, or it is a tombstone and no version before it is left, which
    /// would be the newest without it.
    pub is_superseded: bool,
    /// Bytes of the record, as [`source_bytes`](crate::source_bytes) counts them; 0 where they were not asked for.
    pub bytes: i64,
}

// Read off the index of the source's records by time, backwards; each version is one look at the unique index.
const OLDEST: &str = "select t.id, t.acquired_at, case when t.key_hash is not null and exists (
    select 1 from acquired_data n
    where n.source_id = t.source_id and n.stream = t.stream and n.key_hash = t.key_hash and n.version > t.version
) then 1 when t.is_deleted and not exists (
    select 1 from acquired_data n
    where n.source_id = t.source_id and n.stream = t.stream and n.key_hash = t.key_hash and n.version < t.version
) then 1 else 0 end as superseded, {bytes} as bytes
from acquired_data t
where t.source_id = $1 and (t.acquired_at, t.id) > ($2, $3)
order by t.acquired_at, t.id limit $4";

/// Up to `limit` records behind a place, the oldest first; with the length of each, which has to be read, if it matters.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn oldest(
    conn: &mut Conn<'_>,
    source_id: i64,
    after: Place,
    limit: i64,
    with_bytes: bool,
) -> Result<Vec<Old>> {
    let args = [source_id.into(), after.acquired_at.into(), after.id.into(), limit.into()];
    let sql = OLDEST.replace("{bytes}", &format!("cast({} as bigint)", if with_bytes { LENGTH } else { "0" }));
    let rows = conn.fetch_all(sqlx::AssertSqlSafe(sql), &args).await?;
    let old = |row: &crate::db::Row| {
        let place = Place { acquired_at: row.time("acquired_at")?, id: row.int("id")? };
        Ok(Old { place, is_superseded: row.int("superseded")? == 1, bytes: row.int("bytes")? })
    };
    rows.iter().map(old).collect()
}

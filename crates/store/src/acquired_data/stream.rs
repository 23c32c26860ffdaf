//! All records of a source as one stream, in no order, of one state of the database.
//!
//! PostgreSQL sends them as they come. With SQLite each row would change threads, and costs more on the way than in the file: there
//! SQL itself writes many records into one text, which changes threads once and is taken apart here.

use chrono::DateTime;
use data_encoding::HEXUPPER;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use matome_model::clock::Timestamp;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, Sqlite, SqliteConnection, Transaction};

use crate::db::Conn;
use crate::error::{Result, StoreError};

/// One raw record, for aggregation.
#[derive(Clone, Debug)]
pub struct StoredRecord {
    /// `acquired_data.id`.
    pub id: i64,
    /// When it was acquired.
    pub acquired_at: Timestamp,
    /// 64 hex digits; empty for rows of the original application that have none.
    pub data_hash: String,
    /// JSON text: canonical by value, spacing and key order as the database keeps them.
    pub raw_data: String,
    /// Its identity under the source's dedupe mode, 16 bytes; `None` when it has none.
    pub key: Option<Vec<u8>>,
    /// Version of its key, from 1.
    pub version: i64,
    /// It is a tombstone: from then on its source had the key no more. `raw_data` is that of the version before.
    pub is_deleted: bool,
}

// Aliases in full, because `{which}` compares with other versions of the same key.
// Ids of an adopted database may have 32 bits.
const FROM: &str = "from acquired_data t where t.source_id = $1 and t.id <= $2";
const POSTGRES: &str = "select cast(t.id as bigint), t.acquired_at, coalesce(t.data_hash, ''), t.raw_data::text, t.key_hash, t.version, t.is_deleted";

/// Records of one text.
const CHUNK_RECORDS: usize = 256;

/// What is longer does not go into a text with others, so that no text is beyond 16 MiB.
const CHUNK_RECORD_BYTES: usize = 64 << 10;

// Seven fields that have no space in them, then as many bytes of the record as the seventh says. A newer record of the index comes
// first, and $4 and $5 are the place of the last one of the chunk before.
const FIELDS: &str = "select group_concat(record, '') from (
    select t.id || ' ' || t.acquired_at || ' ' || coalesce(t.data_hash, '') || ' ' || coalesce(hex(t.key_hash), '') || ' ' || t.version
        || ' ' || t.is_deleted || ' ' || octet_length(t.raw_data) || ' '
        || case when octet_length(t.raw_data) <= {bytes} then t.raw_data else '' end as record";
const PLACE: &str = " and (t.acquired_at, t.id) < ($4, $5) order by t.acquired_at desc, t.id desc limit {records})";

const ONE: &str = "select raw_data from acquired_data where id = $1";

/// Holds for a record that has no newer version among those up to id `$2`, and is none of a key that is gone.
const NO_NEWER_UP_TO: &str = " and not t.is_deleted and (t.key_hash is null or not exists (
    select 1 from acquired_data n
    where n.source_id = t.source_id and n.stream = t.stream and n.key_hash = t.key_hash and n.version > t.version
        and n.id <= $2))";
/// Holds for a record that was the newest version of its key at the time `$3`, when the key was not gone.
const NEWEST_AT: &str = " and not t.is_deleted and t.acquired_at <= $3 and (t.key_hash is null or not exists (
    select 1 from acquired_data n
    where n.source_id = t.source_id and n.stream = t.stream and n.key_hash = t.key_hash and n.version > t.version
        and n.id <= $2 and n.acquired_at <= $3))";

/// Which versions of a key are wanted. A record without a key is a version of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// All of them, tombstones included.
    All,
    /// Of each key the newest, unless it is a tombstone.
    Newest,
    /// Of each key the one that was the newest at this time, unless that is a tombstone; nothing that was acquired later.
    AsOf(Timestamp),
}

/// All records of a source up to id `up_to_id`, in no order, as they come from the database.
///
/// # Errors
/// The stream carries them: when the database refuses the statement or is gone.
pub fn stream<'s>(conn: &'s mut Conn<'_>, source_id: i64, up_to_id: i64) -> BoxStream<'s, Result<StoredRecord>> {
    stream_versions(conn, source_id, up_to_id, Versions::All)
}

/// As [`stream`], of each key only the versions that are wanted.
///
/// # Errors
/// As [`stream`].
pub fn stream_versions<'s>(
    conn: &'s mut Conn<'_>,
    source_id: i64,
    up_to_id: i64,
    versions: Versions,
) -> BoxStream<'s, Result<StoredRecord>> {
    let (which, time) = match versions {
        Versions::All => ("", None),
        Versions::Newest => (NO_NEWER_UP_TO, None),
        Versions::AsOf(time) => (NEWEST_AT, Some(time)),
    };
    let wanted = Wanted { source_id, up_to_id, which, time };
    match conn {
        Conn::Postgres(conn) => from_postgres(conn, &wanted),
        Conn::Sqlite(conn) => from_sqlite(conn, wanted),
    }
}

/// What `$1` and `$2` stand for, and which of these records are wanted, with `$3`.
struct Wanted {
    source_id: i64,
    up_to_id: i64,
    which: &'static str,
    time: Option<Timestamp>,
}

fn from_postgres<'s>(conn: &'s mut PgConnection, wanted: &Wanted) -> BoxStream<'s, Result<StoredRecord>> {
    let Wanted { source_id, up_to_id, which, time } = *wanted;
    let query = sqlx::query(AssertSqlSafe(format!("{POSTGRES} {FROM}{which}"))).bind(source_id).bind(up_to_id);
    let query = if let Some(time) = time { query.bind(time) } else { query };
    query
        .fetch(conn)
        .map(|row| {
            let row = row?;
            Ok(StoredRecord {
                id: row.try_get(0)?,
                acquired_at: row.try_get(1)?,
                data_hash: row.try_get(2)?,
                raw_data: row.try_get(3)?,
                key: row.try_get(4)?,
                version: i64::from(row.try_get::<i32, _>(5)?),
                is_deleted: row.try_get(6)?,
            })
        })
        .boxed()
}

fn from_sqlite(conn: &mut SqliteConnection, wanted: Wanted) -> BoxStream<'_, Result<StoredRecord>> {
    let fields = FIELDS.replace("{bytes}", &CHUNK_RECORD_BYTES.to_string());
    let place = PLACE.replace("{records}", &CHUNK_RECORDS.to_string());
    let chunks = Chunks { sql: format!("{fields} {FROM}{}{place}", wanted.which), wanted };
    // Records that are removed between two chunks stay in what this transaction sees.
    let begun = stream::once(async move { Ok::<_, StoreError>((conn.begin().await?, chunks, (i64::MAX, i64::MAX))) });
    begun
        .map_ok(|state| {
            stream::try_unfold(state, |(mut snapshot, chunks, place)| async move {
                let Some((records, place)) = chunks.next(&mut snapshot, place).await? else {
                    return Ok::<_, StoreError>(None);
                };
                Ok(Some((stream::iter(records.into_iter().map(Ok)), (snapshot, chunks, place))))
            })
            .try_flatten()
        })
        .try_flatten()
        .boxed()
}

/// Newest first, records acquired at the same time by their id.
type Place = (i64, i64);

struct Chunks {
    sql: String,
    wanted: Wanted,
}

impl Chunks {
    /// The records behind `place`, and the place of the last of them; none when there are none.
    async fn next(
        &self,
        snapshot: &mut Transaction<'_, Sqlite>,
        place: Place,
    ) -> Result<Option<(Vec<StoredRecord>, Place)>> {
        let query = sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(self.sql.clone()));
        let Wanted { source_id, up_to_id, time, .. } = self.wanted;
        let time = time.map(|time| time.timestamp_micros());
        let query = query.bind(source_id).bind(up_to_id).bind(time).bind(place.0).bind(place.1);
        let Some(text) = query.fetch_one(&mut **snapshot).await? else {
            return Ok(None);
        };
        let mut records = Vec::with_capacity(CHUNK_RECORDS);
        let mut rest = text.as_str();
        let mut last = place;
        while !rest.is_empty() {
            let (mut record, bytes, behind) = split(rest).ok_or_else(|| StoreError::Inconsistent {
                column: "acquired_data".to_owned(),
                what: "a chunk of records that does not say what it should".to_owned(),
            })?;
            rest = behind;
            if record.raw_data.len() != bytes {
                record.raw_data = sqlx::query_scalar(ONE).bind(record.id).fetch_one(&mut **snapshot).await?;
            }
            last = last.min((record.acquired_at.timestamp_micros(), record.id));
            records.push(record);
        }
        Ok(Some((records, last)))
    }
}

/// The first record of a chunk, how many bytes it has, and what is behind it.
fn split(chunk: &str) -> Option<(StoredRecord, usize, &str)> {
    let mut fields = chunk.splitn(8, ' ');
    let id = fields.next()?.parse().ok()?;
    let acquired_at = DateTime::from_timestamp_micros(fields.next()?.parse().ok()?)?;
    let data_hash = fields.next()?.to_owned();
    let key = match fields.next()? {
        "" => None,
        key => Some(HEXUPPER.decode(key.as_bytes()).ok()?),
    };
    let version = fields.next()?.parse().ok()?;
    let is_deleted = fields.next()? != "0";
    let bytes: usize = fields.next()?.parse().ok()?;
    let (raw_data, behind) = fields.next()?.split_at_checked(if bytes > CHUNK_RECORD_BYTES { 0 } else { bytes })?;
    let raw_data = raw_data.to_owned();
    Some((StoredRecord { id, acquired_at, data_hash, raw_data, key, version, is_deleted }, bytes, behind))
}

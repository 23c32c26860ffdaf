//! How many bytes the records of a source take: the text of `raw_data` as the database has it, nothing around it.
//!
//! Only sources whose retention bounds them are counted. Each record is looked at once: [`count_next`] sums up the next
//! window of ids and goes on from there, and whoever removes records takes theirs off in the same transaction
//! ([`take_off`]). So a page that stores records costs nothing more, and no sweep reads all of a source.

use sqlx::AssertSqlSafe;

use crate::counters;
use crate::db::{Arg, Conn, Db, Row};
use crate::error::Result;

/// Ids that one statement looks at: those of other sources are passed over.
const WINDOW: i64 = 50_000;

/// The length of a record; the same text on both databases, so that what is added is what is taken off.
pub(crate) const LENGTH: &str = "octet_length(cast(raw_data as text))";

// What is stored up to `last_record_id` is all that ever will be.
const PLACES: &str = "select c.stream, max(c.last_record_id) as newest, coalesce(max(b.counted_up_to), 0) as counted,
    coalesce(max(b.row_count), 0) as row_count,
    coalesce(max(b.removals), 0) as removals,
    coalesce(max(n.row_count), 0) as stored
from checkpoints c
left join source_bytes b on b.source_id = c.source_id and b.stream = c.stream
left join counters n on n.table_name = $2 and n.source_id = c.source_id and n.stream = c.stream
where c.source_id = $1 group by c.stream order by c.stream";

const SUM: &str = "select count(*) as found, cast(coalesce(sum({length}), 0) as bigint) as bytes
from acquired_data where source_id = $1 and stream = $2 and id > $3 and id <= $4";

const BEGIN: &str =
    "insert into source_bytes (source_id, stream) values ($1, $2) on conflict (source_id, stream) do nothing";

const ADD: &str = "update source_bytes set counted_up_to = $5, row_count = row_count + $6, bytes = bytes + $7
where source_id = $1 and stream = $2 and counted_up_to = $3 and removals = $4";

const ANEW: &str = "update source_bytes set counted_up_to = 0, row_count = 0, bytes = 0, removals = removals + 1
where source_id = $1 and stream = $2";

/// How far the records of a source are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// All of them.
    All,
    /// Some are left: count on.
    Some,
    /// All, and there are not as many as there should be: somebody removed some and took nothing off. They are being
    /// counted anew.
    Anew,
}

/// Counts the next records of a source that are not counted yet.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub async fn count_next(db: &Db, source_id: i64) -> Result<Counted> {
    let mut reader = db.read().await?;
    let mut conn = reader.conn();
    for row in conn.fetch_all(PLACES, &[source_id.into(), counters::ACQUIRED_DATA.into()]).await? {
        let stream = row.text("stream")?;
        let (from, removals) = (row.int("counted")?, row.int("removals")?);
        if from >= row.int("newest")? {
            if row.int("row_count")? != row.int("stored")? {
                drop(reader);
                anew(db, source_id, stream).await?;
                return Ok(Counted::Anew);
            }
            continue;
        }
        let to = row.int("newest")?.min(from.saturating_add(WINDOW));
        let sql = AssertSqlSafe(SUM.replace("{length}", LENGTH));
        let sum = conn.fetch_one(sql, &[source_id.into(), (&stream).into(), from.into(), to.into()]).await?;
        let (found, bytes) = (sum.int("found")?, sum.int("bytes")?);
        drop(reader);
        // After a removal that came between, nothing is added, and the window is looked at again.
        let add = db.write(move |conn| {
            Box::pin(async move {
                conn.execute(BEGIN, &[source_id.into(), (&stream).into()]).await?;
                let args: [Arg<'_>; 7] = [
                    source_id.into(),
                    (&stream).into(),
                    from.into(),
                    removals.into(),
                    to.into(),
                    found.into(),
                    bytes.into(),
                ];
                conn.execute(ADD, &args).await
            })
        });
        add.await?;
        return Ok(Counted::Some);
    }
    Ok(Counted::All)
}

/// Has the records of a stream counted anew, if they are counted, in the transaction that makes some of them longer or shorter.
/// Last of its locks, as [`take_off`].
///
/// # Errors
/// When the database refuses the statement or is gone.
pub(crate) async fn forget(conn: &mut Conn<'_>, source_id: i64, stream: &str) -> Result<()> {
    conn.execute(ANEW, &[source_id.into(), stream.into()]).await.map(drop)
}

const TOTAL: &str = "select cast(coalesce(sum(bytes), 0) as bigint) as bytes from source_bytes where source_id = $1";

/// Bytes of the counted records of a source.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn total(conn: &mut Conn<'_>, source_id: i64) -> Result<i64> {
    conn.fetch_one(TOTAL, &[source_id.into()]).await?.int("bytes")
}

async fn anew(db: &Db, source_id: i64, stream: String) -> Result<()> {
    let begin = db.write(move |conn| {
        Box::pin(async move {
            conn.execute(BEGIN, &[source_id.into(), (&stream).into()]).await?;
            conn.execute(ANEW, &[source_id.into(), (&stream).into()]).await
        })
    });
    begin.await.map(drop)
}

const IS_COUNTED: &str = "select 1 as found from source_bytes where source_id = $1 limit 1";

/// What a `returning` that removes records must have besides `id` and `stream`: the bytes of each, if the source is counted.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub(crate) async fn removed_column(conn: &mut Conn<'_>, source_id: i64) -> Result<String> {
    let is_counted = conn.fetch_optional(IS_COUNTED, &[source_id.into()]).await?.is_some();
    Ok(match is_counted {
        true => format!(", cast({LENGTH} as bigint) as bytes"),
        false => ", cast(null as bigint) as bytes".to_owned(),
    })
}

const PLACE_POSTGRES: &str = "select counted_up_to from source_bytes where source_id = $1 and stream = $2 for update";
const PLACE_SQLITE: &str = "select counted_up_to from source_bytes where source_id = $1 and stream = $2";

const TAKE_OFF: &str = "update source_bytes set row_count = row_count - $3, bytes = bytes - $4, removals = removals + 1
where source_id = $1 and stream = $2";

/// Takes removed records of one stream off, in the transaction that removes them. Last of its locks: nobody who has this
/// one waits for another.
///
/// # Errors
/// When the database refuses a statement or is gone.
pub(crate) async fn take_off(conn: &mut Conn<'_>, source_id: i64, stream: &str, removed: &[&Row]) -> Result<()> {
    let sql = conn.pick(PLACE_POSTGRES, PLACE_SQLITE);
    let Some(place) = conn.fetch_optional(sql, &[source_id.into(), stream.into()]).await? else { return Ok(()) };
    let counted_up_to = place.int("counted_up_to")?;
    let (mut rows, mut bytes) = (0_i64, 0_i64);
    for row in removed {
        if row.int("id")? <= counted_up_to {
            let Some(length) = row.opt_int("bytes")? else {
                // The count began while they were being removed.
                return conn.execute(ANEW, &[source_id.into(), stream.into()]).await.map(drop);
            };
            rows += 1;
            bytes += length;
        }
    }
    conn.execute(TAKE_OFF, &[source_id.into(), stream.into(), rows.into(), bytes.into()]).await.map(drop)
}

//! How much of the range of ids is used, and widening it.

use crate::db::{Conn, Db, Dialect};
use crate::error::Result;

/// Tables whose rows come by the million.
const TABLES: &[&str] = &["acquired_data", "aggregated_data"];

/// The ids of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct IdRange {
    /// The table.
    pub table: &'static str,
    /// Whether its ids have 64 bits.
    pub is_wide: bool,
    /// The last id that was given.
    pub last: i64,
    /// The highest that there can be.
    pub most: i64,
    /// Rows, as the statistics guess.
    pub rows: i64,
    /// Bytes with all indexes: what a copy of it needs.
    pub bytes: i64,
}

impl IdRange {
    /// The share that is used, from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a share, for an alert")]
    pub fn used(&self) -> f64 {
        self.last as f64 / self.most.max(1) as f64
    }

    /// Whether it is time to widen it: half of it is used.
    pub fn is_scarce(&self) -> bool {
        self.last >= self.most / 2
    }

    /// Seconds that widening takes, about: the table is written anew and its indexes are built.
    pub fn widening_secs(&self) -> i64 {
        /// Bytes of table and indexes a second; 57 MiB a second were measured on two busy cores.
        const BYTES_A_SECOND: i64 = 40 << 20;
        self.bytes / BYTES_A_SECOND + 1
    }
}

const RANGE: &str = "select format_type(a.atttypid, null) as kind, c.reltuples::bigint as guess,
    pg_total_relation_size(c.oid) as bytes, coalesce(pg_sequence_last_value(s.seqrelid), 0) as last, s.seqmax as most
from pg_catalog.pg_class c
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'id'
left join pg_catalog.pg_sequence s on s.seqrelid = pg_get_serial_sequence(quote_ident($1), 'id')::regclass
where c.oid = to_regclass($1)";

/// The ranges of the large tables; none for SQLite, whose ids have 64 bits.
///
/// # Errors
/// When the database is gone.
pub async fn ranges(conn: &mut Conn<'_>) -> Result<Vec<IdRange>> {
    let mut ranges = Vec::new();
    if conn.dialect() == Dialect::Sqlite {
        return Ok(ranges);
    }
    for table in TABLES {
        let Some(row) = conn.fetch_optional(RANGE, &[(*table).into()]).await? else { continue };
        let kind = row.text("kind")?;
        let most = match kind.as_str() {
            "smallint" => i64::from(i16::MAX),
            "integer" => i64::from(i32::MAX),
            _ => i64::MAX,
        };
        ranges.push(IdRange {
            table,
            is_wide: kind == "bigint",
            last: row.int("last")?,
            most: row.opt_int("most")?.map_or(most, |sequence| sequence.min(most)),
            rows: row.int("guess")?.max(0),
            bytes: row.int("bytes")?,
        });
    }
    Ok(ranges)
}

/// Gives a table 64-bit ids: it is written anew, and nobody else can use it meanwhile.
///
/// # Errors
/// When the database is gone or full: then nothing was changed.
pub async fn widen(db: &Db, table: &'static str) -> Result<()> {
    db.write(move |conn| {
        Box::pin(async move {
            let sql = format!("select pg_get_serial_sequence('{table}', 'id') as sequence");
            let sequence = conn.fetch_one(sqlx::AssertSqlSafe(sql), &[]).await?.opt_text("sequence")?;
            conn.execute_script(format!("alter table {table} alter column id type bigint")).await?;
            if let Some(sequence) = sequence {
                conn.execute_script(format!("alter sequence {sequence} as bigint")).await?;
            }
            Ok(())
        })
    })
    .await
}

//! The insert itself: COPY BINARY on PostgreSQL, statements of many rows on SQLite.

use std::fmt::Write as _;

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, AssertSqlSafe, PgConnection, SqliteConnection};

use super::identity::New;
use super::{Page, encode_error};
use crate::db::Conn;
use crate::error::Result;

const COPY: &str = "copy acquired_data
(source_id, stream, raw_data, metadata, data_hash, acquired_at, key_hash, version)
from stdin binary";

// COPY BINARY takes a value of the column's own width only, and an adopted database may have ids of 32 bits.
const WIDTH: &str = "select a.attlen::integer from pg_catalog.pg_attribute a
where a.attrelid = 'acquired_data'::regclass and a.attname = 'source_id'";

// The sequence of this session: the last id that its COPY was given.
const LAST_ID: &str = "select currval(pg_get_serial_sequence('acquired_data', 'id'))";

/// Bytes that are encoded before they are sent.
const COPY_CHUNK: usize = 256 << 10;

/// Signature, flags, no extension.
const COPY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Microseconds from 1970, where we count from, to 2000, where PostgreSQL does.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Inserts the chosen records of a page; returns the highest id, 0 when there are none.
pub(super) async fn insert(conn: &mut Conn<'_>, page: &Page, new: &[New]) -> Result<i64> {
    if new.is_empty() {
        return Ok(0);
    }
    match conn {
        Conn::Postgres(conn) => copy(conn, page, new).await,
        Conn::Sqlite(conn) => insert_rows(conn, page, new).await,
    }
}

async fn copy(conn: &mut PgConnection, page: &Page, new: &[New]) -> Result<i64> {
    let key = &page.checkpoint.key;
    let mut before = Vec::new();
    before.extend_from_slice(&8_i16.to_be_bytes());
    let width: i32 = sqlx::query_scalar(WIDTH).fetch_one(&mut *conn).await?;
    let source_id = key.source_id.to_be_bytes();
    // An id that is there fits its column.
    field(&mut before, &source_id[8 - usize::try_from(width).unwrap_or(8).min(8)..]);
    field(&mut before, key.stream.as_bytes());
    let mut acquired_at = Vec::new();
    field(&mut acquired_at, &(page.acquired_at.timestamp_micros() - POSTGRES_EPOCH_MICROS).to_be_bytes());

    let mut copy = conn.copy_in_raw(COPY).await?;
    let mut buffer = Vec::with_capacity(COPY_CHUNK + (64 << 10));
    buffer.extend_from_slice(COPY_HEADER);
    for New { index, key, version } in new {
        let record = page.records.get(*index);
        buffer.extend_from_slice(&before);
        jsonb(&mut buffer, record.text);
        jsonb(&mut buffer, record.metadata);
        length(&mut buffer, 64);
        push_hex(&mut buffer, record.hash);
        buffer.extend_from_slice(&acquired_at);
        match key {
            Some(key) => field(&mut buffer, key),
            None => buffer.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
        field(&mut buffer, &version.to_be_bytes());
        if buffer.len() >= COPY_CHUNK {
            copy.send(buffer.as_slice()).await?;
            buffer.clear();
        }
    }
    buffer.extend_from_slice(&(-1_i16).to_be_bytes());
    copy.send(buffer.as_slice()).await?;
    copy.finish().await?;
    Ok(sqlx::query_scalar(LAST_ID).fetch_one(conn).await?)
}

fn length(out: &mut Vec<u8>, bytes: usize) {
    let bytes = i32::try_from(bytes).expect("records are limited far below 2 GiB");
    out.extend_from_slice(&bytes.to_be_bytes());
}

fn field(out: &mut Vec<u8>, value: &[u8]) {
    length(out, value.len());
    out.extend_from_slice(value);
}

/// A version byte, then the text.
fn jsonb(out: &mut Vec<u8>, text: &str) {
    length(out, text.len() + 1);
    out.push(1);
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn push_hex(out: &mut Vec<u8>, hash: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(hash.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
}

/// Rows of the longest statement; the rest goes in halves of it, so that few texts are prepared.
const LONGEST: usize = 256;

async fn insert_rows(conn: &mut SqliteConnection, page: &Page, new: &[New]) -> Result<i64> {
    let key = &page.checkpoint.key;
    let mut last_id = 0;
    let mut rest = new;
    while !rest.is_empty() {
        let rows = if rest.len() >= LONGEST { LONGEST } else { 1 << rest.len().ilog2() };
        let (chunk, others) = rest.split_at(rows);
        rest = others;
        let mut args = SqliteArguments::default();
        args.reserve(3 + 5 * rows, 0);
        args.add(key.source_id).map_err(encode_error)?;
        args.add(key.stream.as_str()).map_err(encode_error)?;
        args.add(page.acquired_at.timestamp_micros()).map_err(encode_error)?;
        for New { index, key, version } in chunk {
            let record = page.records.get(*index);
            args.add(record.text).map_err(encode_error)?;
            args.add(record.metadata).map_err(encode_error)?;
            let mut hash = Vec::with_capacity(64);
            push_hex(&mut hash, record.hash);
            args.add(String::from_utf8(hash).expect("hex digits are ASCII")).map_err(encode_error)?;
            args.add(key.as_ref().map(|key| key.to_vec())).map_err(encode_error)?;
            args.add(*version).map_err(encode_error)?;
        }
        let done = sqlx::query_with(AssertSqlSafe(statement(rows)), args).execute(&mut *conn).await?;
        last_id = done.last_insert_rowid();
    }
    Ok(last_id)
}

fn statement(rows: usize) -> String {
    let mut sql = String::with_capacity(170 + rows * 48);
    sql.push_str(
        "insert into acquired_data
(source_id, stream, acquired_at, raw_data, metadata, data_hash, key_hash, version) values ",
    );
    for row in 0..rows {
        let comma = if row == 0 { "" } else { ", " };
        let n = 4 + 5 * row;
        write!(sql, "{comma}($1, $2, $3, ${n}, ${}, ${}, ${}, ${})", n + 1, n + 2, n + 3, n + 4).expect("text grows");
    }
    sql
}

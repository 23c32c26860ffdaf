//! A whole database copied to the other kind: SQLite to PostgreSQL and back, every row under its id.
//!
//! The source is read in one snapshot, so others may work on it. It is read twice: first to find what the target cannot hold and to
//! take its fingerprint, then to copy. Nothing of the target is there before all of it is: on PostgreSQL the copy is one transaction,
//! an embedded database is made beside its place by the caller. In the end the target is read back and compared.

use std::collections::BTreeMap;
use std::path::Path;

use futures::TryStreamExt as _;
use matome_model::canonical::{Canonicaliser, Limits, Rejected};
use matome_model::clock::Timestamp;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use uuid::Uuid;

use crate::db::{Arg, Conn, Dialect, Row, Snapshot};
use crate::error::{Result, StoreError};
use crate::migrate::{self, Schema};
use crate::tasks;

/// What belongs to one installation and is not copied.
const OWN: &[&str] = &["schema_history", "instance", "workers", "backups", "source_bytes"];
/// Places that are named; the others are only counted.
const PLACES: usize = 20;
/// Bytes that are encoded before they are sent to PostgreSQL.
const CHUNK: usize = 256 << 10;
/// Rows and bytes of one transaction of the embedded target.
const BATCH_ROWS: usize = 5_000;
const BATCH_BYTES: usize = 8 << 20;

/// A value that the target cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unholdable {
    /// `table.column`.
    pub column: String,
    /// Which row, by its key.
    pub row: String,
    /// Why not.
    pub why: String,
}

/// Rows of a table that belong to one source, or to none.
pub type Group = (String, Option<i64>);

/// How many rows there are and what they say, whatever their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// Rows.
    pub rows: u64,
    /// The sum of their hashes.
    pub hash: u128,
}

/// The fingerprints of a database.
pub type Fingerprints = BTreeMap<Group, Fingerprint>;

/// What became of a copy.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The target has it all.
    Copied(Fingerprints),
    /// Nothing was written: the target cannot hold these.
    Unholdable(Vec<Unholdable>),
    /// Nothing was written: there are rows in the target.
    NotEmpty,
    /// Nothing was kept: what was read back from the target is not what was copied.
    Different(Vec<Group>),
}

/// Says how far a copy is: stage, rows done, rows in all.
pub type Told<'a> = &'a mut (dyn FnMut(&'static str, u64, u64) + Send);

/// Where a copy goes.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A new file.
    File(&'a Path),
    /// A PostgreSQL database, empty or migrated and without rows.
    Postgres(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Int { max: i64 },
    Float,
    Bool,
    Text { most: Option<i64> },
    Bytes,
    Json,
    Time,
    Uuid,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
struct Table {
    name: String,
    columns: Vec<Column>,
}

impl Table {
    fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    fn names(&self) -> String {
        self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn select(&self) -> String {
        let order = if self.has("id") { " order by id" } else { "" };
        format!("select {} from {}{order}", self.names(), self.name)
    }
}

/// A value on its way.
#[derive(Clone, Debug)]
enum Value {
    Null(Kind),
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
    Json(String),
    Time(Timestamp),
    Uuid(Uuid),
}

/// Copies all of `source` to `target`.
///
/// # Errors
/// [`StoreError::SchemaVersion`] when one of them is of another version; when a database is gone or full.
pub async fn copy(source: &mut Snapshot, target: Target<'_>, now: Timestamp, told: Told<'_>) -> Result<Outcome> {
    migrate::check_on(&mut source.conn()).await?;
    if source.conn().dialect() == Dialect::Postgres {
        // It waits while the other side works.
        source.conn().execute("set local idle_in_transaction_session_timeout = 0", &[]).await?;
    }
    match target {
        Target::Postgres(url) => {
            let options: PgConnectOptions =
                url.parse().map_err(|err: sqlx::Error| StoreError::DatabaseUrl { what: err.to_string() })?;
            let mut conn = options.application_name("matome-copy").options([("timezone", "UTC")]).connect().await?;
            let begin = "begin; set local idle_in_transaction_session_timeout = 0";
            Conn::Postgres(&mut conn).execute_script(begin.to_owned()).await?;
            // Dropped with its session, the transaction has not happened.
            let outcome = into(source, &mut Writer::Postgres(&mut conn), now, told).await?;
            let end = if matches!(outcome, Outcome::Copied(_)) { "commit" } else { "rollback" };
            Conn::Postgres(&mut conn).execute(end, &[]).await?;
            let _ = conn.close().await;
            Ok(outcome)
        }
        Target::File(file) => {
            // Whoever asks for it makes it durable in the end; until then nobody knows of it.
            crate::db::make_database_file(file)?;
            let options = SqliteConnectOptions::new()
                .filename(file)
                .auto_vacuum(SqliteAutoVacuum::Incremental)
                .journal_mode(SqliteJournalMode::Off)
                .synchronous(SqliteSynchronous::Off)
                .foreign_keys(true)
                .pragma("cache_size", "-65536")
                .pragma("temp_store", "file");
            let mut conn = options.connect().await.map_err(|err| crate::db::corrupt(file, &err))?;
            let outcome = into(source, &mut Writer::Sqlite(&mut conn), now, told).await?;
            let _ = conn.close().await;
            Ok(outcome)
        }
    }
}

enum Writer<'a> {
    Postgres(&'a mut PgConnection),
    Sqlite(&'a mut sqlx::SqliteConnection),
}

impl Writer<'_> {
    fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Postgres(conn) => Conn::Postgres(conn),
            Self::Sqlite(conn) => Conn::Sqlite(conn),
        }
    }
}

async fn into(source: &mut Snapshot, target: &mut Writer<'_>, now: Timestamp, told: Told<'_>) -> Result<Outcome> {
    let is_new = {
        let mut conn = target.conn();
        migrate::lock(&mut conn).await?;
        if crate::adoption::is_due(&mut conn).await? {
            return Ok(Outcome::NotEmpty);
        }
        let migrated = Schema::BUILT.run(&mut conn, &[], &[]).await?;
        if migrated.held_back.is_some() {
            return Ok(Outcome::NotEmpty);
        }
        migrated.from == 0
    };
    let tables = tables(source, target).await?;
    if !is_new {
        for table in tables.iter().map(|table| table.name.as_str()).chain(["workers"]) {
            let sql = AssertSqlSafe(format!("select 1 as found from {table} limit 1"));
            if target.conn().fetch_optional(sql, &[]).await?.is_some() {
                return Ok(Outcome::NotEmpty);
            }
        }
    }
    let total = total(source, &tables).await?;
    let (taken, bad) =
        examine(&mut source.conn(), &tables, target.conn().dialect(), &mut |n| told("checking", n, total)).await?;
    if !bad.is_empty() {
        return Ok(Outcome::Unholdable(bad));
    }
    let mut done = 0;
    for table in &tables {
        let mut conn = source.conn();
        let mut rows = conn.fetch_stream(AssertSqlSafe(table.select()), &[])?;
        let mut count = |n: u64| told("copying", done + n, total);
        let copied = match target {
            Writer::Postgres(conn) => copy_in(conn, table, &mut rows, &mut count).await?,
            Writer::Sqlite(conn) => insert(conn, table, &mut rows, &mut count).await?,
        };
        done += copied;
    }
    for table in tables.iter().filter(|table| table.has("id")) {
        go_on_behind(source, target, &table.name).await?;
    }
    let (found, _) =
        examine(&mut target.conn(), &tables, source.conn().dialect(), &mut |n| told("comparing", n, total)).await?;
    if found != taken {
        let all: std::collections::BTreeSet<&Group> = taken.keys().chain(found.keys()).collect();
        let differs = all.into_iter().filter(|group| taken.get(*group) != found.get(*group)).cloned().collect();
        return Ok(Outcome::Different(differs));
    }
    let mut conn = target.conn();
    // An installation of its own: no lease of the other holds in it.
    conn.execute("update instance set instance_id = $1", &[Uuid::new_v4().into()]).await?;
    tasks::void_leases(&mut conn, now).await?;
    if conn.dialect() == Dialect::Postgres {
        let analyse = tables.iter().map(|table| format!("analyze {};", table.name)).collect();
        conn.execute_script(analyse).await?;
    }
    Ok(Outcome::Copied(taken))
}

const COLUMNS_POSTGRES: &str = "select a.attname::text as name, t.typname::text as kind,
    case when t.typname = 'varchar' and a.atttypmod > 4 then a.atttypmod - 4 end as most
from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped order by a.attnum";

/// The tables with those columns that matome's schema has, and what each holds: as the side that is PostgreSQL says.
async fn tables(source: &mut Snapshot, target: &mut Writer<'_>) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for name in migrate::table_names().into_iter().filter(|name| !OWN.contains(&name.as_str())) {
        // The target is as this version makes it; an adopted source may have columns of its own.
        let wanted: Vec<String> = {
            let mut conn = target.conn();
            let sql = conn.pick(COLUMNS_POSTGRES, "select name from pragma_table_info($1) order by cid");
            let rows = conn.fetch_all(sql, &[(&name).into()]).await?;
            rows.iter().map(|row| row.text("name")).collect::<Result<_>>()?
        };
        let rows = match target.conn().dialect() {
            Dialect::Postgres => target.conn().fetch_all(COLUMNS_POSTGRES, &[(&name).into()]).await?,
            Dialect::Sqlite => source.conn().fetch_all(COLUMNS_POSTGRES, &[(&name).into()]).await?,
        };
        let mut columns = Vec::new();
        for row in rows {
            let column = row.text("name")?;
            if wanted.contains(&column) {
                let kind = kind(&row.text("kind")?, row.opt_int("most")?);
                let kind = kind.ok_or_else(|| unknown(&name, &column, &row))?;
                columns.push(Column { name: column, kind });
            }
        }
        tables.push(Table { name, columns });
    }
    Ok(tables)
}

fn unknown(table: &str, column: &str, row: &Row) -> StoreError {
    let what = format!("type {} cannot be copied", row.text("kind").unwrap_or_default());
    StoreError::Inconsistent { column: format!("{table}.{column}"), what }
}

fn kind(name: &str, most: Option<i64>) -> Option<Kind> {
    Some(match name {
        "int2" => Kind::Int { max: i64::from(i16::MAX) },
        "int4" => Kind::Int { max: i64::from(i32::MAX) },
        "int8" => Kind::Int { max: i64::MAX },
        "float8" => Kind::Float,
        "bool" => Kind::Bool,
        "text" | "varchar" => Kind::Text { most },
        "bytea" => Kind::Bytes,
        "jsonb" => Kind::Json,
        "timestamptz" => Kind::Time,
        "uuid" => Kind::Uuid,
        _ => return None,
    })
}

async fn total(source: &mut Snapshot, tables: &[Table]) -> Result<u64> {
    let mut total = 0;
    for table in tables {
        let sql = AssertSqlSafe(format!("select count(*) as n from {}", table.name));
        total += u64::try_from(source.conn().fetch_one(sql, &[]).await?.int("n")?).unwrap_or(0);
    }
    Ok(total)
}

/// Reads everything: its fingerprints, and what a database of `other` cannot hold.
async fn examine(
    conn: &mut Conn<'_>,
    tables: &[Table],
    other: Dialect,
    count: &mut (dyn FnMut(u64) + Send),
) -> Result<(Fingerprints, Vec<Unholdable>)> {
    let mut fingerprints = Fingerprints::new();
    let mut bad = Vec::new();
    let mut judge = Judge::new(other);
    let mut done = 0;
    for table in tables {
        times_in_range(conn, table, &mut bad).await?;
        if !bad.is_empty() {
            // Such a time cannot be read at all.
            continue;
        }
        let group_by = table.columns.iter().find(|column| column.name == "source_id").map(|column| column.name.clone());
        let mut rows = conn.fetch_stream(AssertSqlSafe(table.select()), &[])?;
        while let Some(row) = rows.try_next().await? {
            let mut hash = Sha256::new();
            for column in &table.columns {
                let judged = value(&row, column)
                    .map_err(|err| err.to_string())
                    .and_then(|value| judge.add(&mut hash, column, &value));
                if let Err(why) = judged
                    && bad.len() < PLACES
                {
                    bad.push(Unholdable {
                        column: format!("{}.{}", table.name, column.name),
                        row: place(&row, table),
                        why,
                    });
                }
            }
            let group = group_by.as_ref().and_then(|name| row.opt_int(name).ok().flatten());
            let entry = fingerprints.entry((table.name.clone(), group)).or_default();
            let hash: [u8; 32] = hash.finalize().into();
            entry.rows += 1;
            entry.hash = entry.hash.wrapping_add(u128::from_be_bytes(*hash.first_chunk().expect("16 is less than 32")));
            done += 1;
            if done % 1_000 == 0 {
                count(done);
            }
        }
    }
    Ok((fingerprints, bad))
}

/// PostgreSQL has times that nobody else has.
async fn times_in_range(conn: &mut Conn<'_>, table: &Table, bad: &mut Vec<Unholdable>) -> Result<()> {
    if conn.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    for column in table.columns.iter().filter(|column| column.kind == Kind::Time) {
        let (name, key) = (&column.name, if table.has("id") { "id" } else { "0" });
        let sql = format!(
            "select {key}::bigint as id, {name}::text as found from {} where not isfinite({name})
    or {name} not between '0001-01-01T00:00:00Z' and '9999-12-31T23:59:59Z' limit {PLACES}",
            table.name
        );
        for row in conn.fetch_all(AssertSqlSafe(sql), &[]).await? {
            bad.push(Unholdable {
                column: format!("{}.{name}", table.name),
                row: format!("id {}", row.int("id")?),
                why: format!("the time {} is out of range", row.text("found")?),
            });
        }
    }
    Ok(())
}

fn place(row: &Row, table: &Table) -> String {
    let keys = ["id", "source_id", "object_id", "aggregation_id"];
    let key = keys.into_iter().filter(|key| table.has(key)).find_map(|key| Some((key, row.opt_int(key).ok()??)));
    key.map_or_else(String::new, |(key, value)| format!("{key} {value}"))
}

fn value(row: &Row, column: &Column) -> Result<Value> {
    let name = column.name.as_str();
    let value = match column.kind {
        Kind::Int { .. } => row.opt_int(name)?.map(Value::Int),
        Kind::Float => row.opt_float(name)?.map(Value::Float),
        Kind::Bool => row.opt_bool(name)?.map(Value::Bool),
        Kind::Text { .. } => row.opt_text(name)?.map(Value::Text),
        Kind::Bytes => row.opt_bytes(name)?.map(Value::Bytes),
        Kind::Json => row.opt_json(name)?.map(|json| Value::Json(json.get().to_owned())),
        Kind::Time => row.opt_time(name)?.map(Value::Time),
        Kind::Uuid => row.opt_uuid(name)?.map(Value::Uuid),
    };
    Ok(value.unwrap_or(Value::Null(column.kind)))
}

/// Takes the fingerprint of values, and says which the other database cannot hold.
struct Judge {
    other: Dialect,
    canonicaliser: Canonicaliser,
}

impl Judge {
    fn new(other: Dialect) -> Self {
        let most = usize::MAX;
        let unlimited = Limits {
            depth: most,
            record_bytes: most,
            key_bytes: most,
            string_bytes: most,
            keys: most,
            number_digits: most,
        };
        let limits = match other {
            // What jsonb can hold.
            Dialect::Postgres => Limits {
                depth: 2_000,
                string_bytes: 255 << 20,
                key_bytes: 255 << 20,
                number_digits: 16_383,
                ..unlimited
            },
            Dialect::Sqlite => unlimited,
        };
        Self { other, canonicaliser: Canonicaliser::new(limits) }
    }

    fn add(&mut self, hash: &mut Sha256, column: &Column, value: &Value) -> Result<(), String> {
        let longest = match self.other {
            Dialect::Postgres => 255 << 20,
            Dialect::Sqlite => 900_000_000,
        };
        let long = |length: usize| match length > longest {
            true => Err(format!("{length} bytes are more than a value can have there")),
            false => Ok(()),
        };
        match value {
            Value::Null(_) => hash.update([0]),
            Value::Int(n) => {
                hash.update([1]);
                hash.update(n.to_be_bytes());
                if let Kind::Int { max } = column.kind
                    && self.other == Dialect::Postgres
                    && (*n > max || *n < -max - 1)
                {
                    return Err(format!("{n} is more than {max}, the most that the column holds there"));
                }
            }
            Value::Float(n) => {
                hash.update([2]);
                hash.update(n.to_bits().to_be_bytes());
            }
            Value::Bool(is) => hash.update([3, u8::from(*is)]),
            Value::Text(text) => {
                put(hash, 4, text.as_bytes());
                long(text.len())?;
                if self.other == Dialect::Postgres && text.contains('\0') {
                    return Err("PostgreSQL has no text with the character NUL".to_owned());
                }
                if let Kind::Text { most: Some(most) } = column.kind
                    && self.other == Dialect::Postgres
                    && i64::try_from(text.chars().count()).unwrap_or(i64::MAX) > most
                {
                    return Err(format!("the text has more than the {most} characters that the column holds there"));
                }
            }
            Value::Bytes(bytes) => {
                put(hash, 5, bytes);
                long(bytes.len())?;
            }
            Value::Json(json) => {
                long(json.len())?;
                // The canonical form is of objects; a member makes any value one.
                let wrapped = format!("{{\"v\":{json}}}");
                match self.canonicaliser.canonicalise(wrapped.as_bytes()) {
                    Ok(canonical) => put(hash, 6, canonical.text.as_bytes()),
                    Err(rejected) => return judge_rejected(self.other, hash, json, &rejected),
                }
            }
            Value::Time(time) => {
                hash.update([7]);
                hash.update(time.timestamp_micros().to_be_bytes());
            }
            Value::Uuid(uuid) => put(hash, 8, uuid.as_bytes()),
        }
        Ok(())
    }
}

/// JSON without a canonical form counts by its bytes.
fn judge_rejected(other: Dialect, hash: &mut Sha256, json: &str, rejected: &Rejected) -> Result<(), String> {
    put(hash, 6, json.as_bytes());
    match other {
        Dialect::Postgres => Err(format!("jsonb cannot hold it: {rejected}")),
        Dialect::Sqlite => Ok(()),
    }
}

fn put(hash: &mut Sha256, tag: u8, bytes: &[u8]) {
    hash.update([tag]);
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

type Rows<'s> = futures::stream::BoxStream<'s, Result<Row>>;
type Count<'a> = &'a mut (dyn FnMut(u64) + Send);

async fn copy_in(conn: &mut PgConnection, table: &Table, rows: &mut Rows<'_>, count: Count<'_>) -> Result<u64> {
    let sql = format!("copy {} ({}) from stdin", table.name, table.names());
    let mut copy = conn.copy_in_raw(&sql).await?;
    let mut buffer = Vec::with_capacity(CHUNK + (64 << 10));
    let mut done = 0;
    while let Some(row) = rows.try_next().await? {
        for (n, column) in table.columns.iter().enumerate() {
            if n > 0 {
                buffer.push(b'\t');
            }
            write_text(&mut buffer, &value(&row, column)?);
        }
        buffer.push(b'\n');
        done += 1;
        if buffer.len() >= CHUNK {
            copy.send(buffer.as_slice()).await?;
            buffer.clear();
            count(done);
        }
    }
    copy.send(buffer.as_slice()).await?;
    copy.finish().await?;
    Ok(done)
}

/// A value as COPY's text form has it.
fn write_text(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null(_) => out.extend_from_slice(b"\\N"),
        Value::Int(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Value::Float(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Value::Bool(is) => out.push(if *is { b't' } else { b'f' }),
        Value::Text(text) | Value::Json(text) => escaped(out, text),
        Value::Bytes(bytes) => {
            out.extend_from_slice(b"\\\\x");
            bytes.iter().for_each(|byte| out.extend_from_slice(format!("{byte:02x}").as_bytes()));
        }
        Value::Time(time) => out.extend_from_slice(time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string().as_bytes()),
        Value::Uuid(uuid) => out.extend_from_slice(uuid.to_string().as_bytes()),
    }
}

fn escaped(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => out.push(other),
        }
    }
}

async fn insert(
    conn: &mut sqlx::SqliteConnection,
    table: &Table,
    rows: &mut Rows<'_>,
    count: Count<'_>,
) -> Result<u64> {
    let mut conn = Conn::Sqlite(conn);
    let places: Vec<String> = (1..=table.columns.len()).map(|n| format!("${n}")).collect();
    let sql = format!("insert into {} ({}) values ({})", table.name, table.names(), places.join(", "));
    let (mut done, mut in_batch, mut bytes) = (0_u64, 0, 0);
    conn.execute("begin", &[]).await?;
    while let Some(row) = rows.try_next().await? {
        let values: Vec<Value> = table.columns.iter().map(|column| value(&row, column)).collect::<Result<_>>()?;
        bytes += values.iter().map(length).sum::<usize>();
        let args: Vec<Arg<'_>> = values.iter().map(arg).collect();
        conn.execute(AssertSqlSafe(sql.clone()), &args).await?;
        done += 1;
        in_batch += 1;
        if in_batch >= BATCH_ROWS || bytes >= BATCH_BYTES {
            conn.execute("commit", &[]).await?;
            conn.execute("begin", &[]).await?;
            (in_batch, bytes) = (0, 0);
            count(done);
        }
    }
    conn.execute("commit", &[]).await?;
    Ok(done)
}

fn length(value: &Value) -> usize {
    match value {
        Value::Text(text) | Value::Json(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 8,
    }
}

fn arg(value: &Value) -> Arg<'_> {
    match value {
        Value::Null(Kind::Int { .. }) => Arg::Int(None),
        Value::Null(Kind::Float) => Arg::Float(None),
        Value::Null(Kind::Bool) => Arg::Bool(None),
        Value::Null(Kind::Bytes) => Arg::Bytes(None),
        Value::Null(Kind::Json) => Arg::Json(None),
        Value::Null(Kind::Time) => Arg::Time(None),
        Value::Null(Kind::Uuid) => Arg::Uuid(None),
        Value::Null(Kind::Text { .. }) => Arg::Text(None),
        Value::Int(n) => Arg::Int(Some(*n)),
        Value::Float(n) => Arg::Float(Some(*n)),
        Value::Bool(is) => Arg::Bool(Some(*is)),
        Value::Text(text) => Arg::Text(Some(text)),
        Value::Bytes(bytes) => Arg::Bytes(Some(bytes)),
        Value::Json(json) => Arg::Json(Some(json)),
        Value::Time(time) => Arg::Time(Some(*time)),
        Value::Uuid(uuid) => Arg::Uuid(Some(*uuid)),
    }
}

/// New ids go on where those of the source would: an id that was removed there is not given again.
async fn go_on_behind(source: &mut Snapshot, target: &mut Writer<'_>, table: &str) -> Result<()> {
    let last = {
        let mut conn = source.conn();
        let sql = conn.pick(
            "select coalesce(pg_sequence_last_value(pg_get_serial_sequence($1, 'id')::regclass), 0) as last",
            "select coalesce((select seq from sqlite_sequence where name = $1), 0) as last",
        );
        let given = conn.fetch_one(sql, &[table.into()]).await?.int("last")?;
        let sql = AssertSqlSafe(format!("select coalesce(max(id), 0) as last from {table}"));
        given.max(conn.fetch_one(sql, &[]).await?.int("last")?)
    };
    if last == 0 {
        return Ok(());
    }
    let mut conn = target.conn();
    if conn.dialect() == Dialect::Postgres {
        let sql = "select setval(pg_get_serial_sequence($1, 'id'), $2)";
        conn.fetch_all(sql, &[table.into(), last.into()]).await?;
        return Ok(());
    }
    conn.execute("delete from sqlite_sequence where name = $1", &[table.into()]).await?;
    let sql = "insert into sqlite_sequence (name, seq) values ($1, $2)";
    conn.execute(sql, &[table.into(), last.into()]).await.map(drop)
}

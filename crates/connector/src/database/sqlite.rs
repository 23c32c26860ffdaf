//! Reading from an SQLite file. Types belong to values there, so the JSON of a row is made value by value.

mod written_over;

use std::time::Duration;

use futures::TryStreamExt as _;
use matome_model::canonical::write_string;
use matome_model::field_error::Words;
use matome_model::say;
use sqlx::sqlite::{SqliteColumn, SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Executor as _, Row as _, SqlSafeStr as _,
    Statement as _, TypeInfo as _, ValueRef as _,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use written_over::Watched;

use super::condition::{self, Dialect};
use super::config::{DatabaseConfig, Relation};
use super::fault::{Faults, quoted};
use super::incremental::Kind;
use super::order::{Column, Order, Part, Row};
use super::reader::{Sink, Stop};
use super::tables::Table;
use super::value::{write_bytes, write_text};
use crate::error::{ConnectorError, DatabaseFault};
use crate::file::FileRoots;

const PRIMARY_KEY: &str = "select name from pragma_table_info($1, $2) where pk > 0 order by pk";

// Each with each column of its primary key.
const TABLES: &str = "select m.name, k.name from sqlite_schema m
left join pragma_table_info(m.name) k on k.pk > 0
where m.type in ('table', 'view') and m.name not like 'sqlite\\_%' escape '\\'
order by m.name, k.pk";

/// Steps of SQLite's machine between two looks whether a statement may go on.
const STEPS: i32 = 100_000;
/// A longer record goes to quarantine (`model::canonical::Limits`), so no longer value is fetched.
const VALUE_LIMIT_BYTES: u64 = 8 << 20;

/// A file that is only read.
pub(super) struct Sqlite {
    /// Dropped first, so that a statement ends whose rows nobody takes any more.
    _ends: DropGuard,
    conn: SqliteConnection,
    relation: String,
    /// What its columns are declared as.
    types: Vec<(String, String)>,
    statement_timeout: Option<Duration>,
    /// Nothing for a file in WAL mode.
    watched: Option<Watched>,
}

impl Sqlite {
    /// Opens the file `path` beneath `roots`.
    pub(super) async fn open(
        config: &DatabaseConfig,
        path: &str,
        roots: &FileRoots,
        faults: &Faults,
    ) -> Result<Self, ConnectorError> {
        let path = roots.database(path)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .read_only(true)
            .create_if_missing(false)
            .busy_timeout(config.common.timeout)
            // What the schema of a foreign file calls may not do more than compute.
            .pragma("trusted_schema", "OFF")
            .pragma("query_only", "ON")
            .pragma("mmap_size", "0")
            .disable_statement_logging();
        let ended = CancellationToken::new();
        let begun = async {
            let mut conn = SqliteConnection::connect_with(&options).await?;
            let is_ended = ended.clone();
            conn.lock_handle().await?.set_progress_handler(STEPS, move || !is_ended.is_cancelled());
            let journal: String = sqlx::query_scalar("pragma journal_mode").fetch_one(&mut conn).await?;
            // One snapshot for all statements of a read, from the first of them on.
            sqlx::raw_sql("begin").execute(&mut conn).await?;
            let pages: i64 = sqlx::query_scalar("pragma page_count").fetch_one(&mut conn).await?;
            let page_bytes: i64 = sqlx::query_scalar("pragma page_size").fetch_one(&mut conn).await?;
            Ok((conn, journal, pages.unsigned_abs() * page_bytes.unsigned_abs()))
        };
        let (conn, journal, length) = begun.await.map_err(|error| faults.of(error))?;
        // In WAL mode some pages may stand beside the file, and those who write may move their changes into it at any time.
        let watched = (journal != "wal").then(|| Watched::begin(path));
        // Of a page that is cut off SQLite takes what is missing for zeros.
        if let Some(size) = watched.as_ref().and_then(Watched::size).filter(|size| *size < length) {
            let problem = damaged(&format!("{size} of {length} bytes are there"));
            return Err(faults.problem(DatabaseFault::Query, problem));
        }
        let relation = match &config.relation {
            Relation::Table { schema: None, table } => quoted(table),
            Relation::Table { schema: Some(schema), table } => format!("{}.{}", quoted(schema), quoted(table)),
            Relation::Query(query) => format!("(\n{query}\n)"),
        };
        Ok(Self {
            _ends: ended.drop_guard(),
            conn,
            relation,
            types: Vec::new(),
            statement_timeout: config.statement_timeout,
            watched,
        })
    }

    /// The names of the columns of what is read.
    pub(super) async fn columns(&mut self, faults: &Faults) -> Result<Vec<String>, ConnectorError> {
        let sql = format!("select * from {} as matome_row limit 0", self.relation);
        let statement = self.conn.prepare(AssertSqlSafe(sql).into_sql_str()).await.map_err(|error| faults.of(error))?;
        let column = |column: &SqliteColumn| (column.name().to_owned(), column.type_info().name().to_owned());
        self.types = statement.columns().iter().map(column).collect();
        Ok(self.types.iter().map(|(name, _)| name.clone()).collect())
    }

    /// The tables and views of the file.
    pub(super) async fn tables(&mut self, faults: &Faults) -> Result<Vec<Table>, ConnectorError> {
        let rows = sqlx::query_as::<_, (String, Option<String>)>(TABLES).fetch_all(&mut self.conn).await;
        let mut tables = Vec::new();
        for (name, key) in rows.map_err(|error| faults.of(error))? {
            Table::collect(&mut tables, None, name, key);
        }
        Ok(tables)
    }

    /// The columns of the primary key, in its order.
    pub(super) async fn primary_key(
        &mut self,
        relation: &Relation,
        faults: &Faults,
    ) -> Result<Vec<String>, ConnectorError> {
        let Relation::Table { schema, table } = relation else { return Ok(Vec::new()) };
        let names = sqlx::query_scalar(PRIMARY_KEY)
            .bind(table)
            .bind(schema.as_deref().unwrap_or("main"))
            .fetch_all(&mut self.conn);
        names.await.map_err(|error| faults.of(error))
    }

    /// These columns, with what their declared types say about the values.
    pub(super) fn typed(&self, names: &[String]) -> Vec<Column> {
        let declared = |name: &String| self.types.iter().find(|(known, _)| known == name).map(|(_, of)| of.clone());
        let column = |name: &String| {
            let of_type = declared(name).unwrap_or_default();
            let kind = if of_type == "INTEGER" { Kind::Integer } else { Kind::Other };
            Column { name: name.clone(), of_type, kind }
        };
        names.iter().map(column).collect()
    }

    /// The time now, as a Julian day: what times in text are compared with.
    pub(super) async fn now(&mut self, faults: &Faults) -> Result<String, ConnectorError> {
        let now = sqlx::query_scalar("select strftime('%Y-%m-%d %H:%M:%f', 'now')").fetch_one(&mut self.conn);
        now.await.map_err(|error| faults.of(error))
    }

    /// Gives every row of `part` to `sink`, as they come.
    pub(super) async fn rows(&mut self, order: &Order, part: &Part, began: &str, sink: &mut Sink) -> Result<(), Stop> {
        let faults = sink.faults.clone();
        let read = match self.statement_timeout {
            None => self.read(order, part, began, sink).await,
            // It ends itself with this connection.
            Some(patience) => match tokio::time::timeout(patience, self.read(order, part, began, sink)).await {
                Ok(read) => read,
                Err(_) => Err(faults.problem(DatabaseFault::Timeout, too_slow(patience)).into()),
            },
        };
        match (&read, self.watched.as_ref().and_then(Watched::change)) {
            (Err(Stop::Abandoned), _) | (_, None) => read,
            // What was read, and why no more could be, may be of parts that do not belong together.
            (_, Some(change)) => Err(sink.changed(change)),
        }
    }

    async fn read(&mut self, order: &Order, part: &Part, began: &str, sink: &mut Sink) -> Result<(), Stop> {
        let (sql, values) = statement(&self.relation, &self.types, order, part, began);
        let faults = sink.faults.clone();
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        for value in &values {
            query = match literal(value) {
                Literal::Integer(value) => query.bind(value),
                Literal::Real(value) => query.bind(value),
                Literal::Text(value) => query.bind(value),
                Literal::Blob(value) => query.bind(value),
            };
        }
        let mut rows = query.fetch(&mut self.conn);
        let mut json = Vec::new();
        while let Some(row) = rows.try_next().await.map_err(|error| faults.of(error))? {
            json.clear();
            let Taken { place, may_mark, not_fetched } =
                taken(&row, order, &mut json).map_err(|error| faults.of(error))?;
            drop(row);
            sink.row(Row { json: &json, size: json.len() as u64 + not_fetched, place, may_mark }).await?;
        }
        Ok(())
    }

    pub(super) async fn close(self) {
        let _ = self.conn.close().await;
    }
}

/// The statement for the rows of `part`, and the values of its parameters as SQL literals. Each row has: whether it may be a mark,
/// the bytes of values that are not fetched, the columns of the order, all columns.
fn statement(
    relation: &str,
    types: &[(String, String)],
    order: &Order,
    part: &Part,
    began: &str,
) -> (String, Vec<String>) {
    let mut literals = Literals::default();
    let may_mark = match (&order.cursor, order.columns.first()) {
        (Some(_), Some(cursor)) => {
            let (name, began) = (literals.column(cursor), literals.parameter(&format!("'{began}'"), cursor));
            format!(
                "case when typeof({name}) = 'text' then coalesce(julianday({name}) <= julianday({began}), 1) else 1 end"
            )
        }
        _ => "1".to_owned(),
    };
    let keys: String = order.columns.iter().map(|key| format!(", quote({})", literals.column(key))).collect();
    let (mut values, mut not_fetched) = (String::new(), Vec::new());
    for (name, of_type) in types {
        let name = quoted(name);
        let value = format!("matome_row.{name}");
        if matches!(of_type.as_str(), "INTEGER" | "REAL" | "NUMERIC" | "BOOLEAN") {
            values.push_str(&format!(", {value} as {name}"));
            continue;
        }
        // Of these two SQLite knows the length without the value.
        let is_long = format!("typeof({value}) in ('text', 'blob') and octet_length({value}) > {VALUE_LIMIT_BYTES}");
        values.push_str(&format!(", iif({is_long}, octet_length({value}) || ' bytes', {value}) as {name}"));
        not_fetched.push(format!("iif({is_long}, octet_length({value}), 0)"));
    }
    let (not_fetched, rows) = (sum(&not_fetched), condition::rows(order, part, &mut literals));
    let sql = format!("select {may_mark}, {not_fetched}{keys}{values} from {relation} as matome_row{rows}");
    (sql, literals.values)
}

/// The sum of terms, in parentheses within each other as rarely as can be: SQLite counts these.
fn sum(terms: &[String]) -> String {
    match terms {
        [] => "0".to_owned(),
        [term] => term.clone(),
        terms => {
            let (left, right) = terms.split_at(terms.len() / 2);
            format!("({} + {})", sum(left), sum(right))
        }
    }
}

/// The values of a statement's parameters.
#[derive(Default)]
struct Literals {
    values: Vec<String>,
}

impl Dialect for Literals {
    fn column(&self, column: &Column) -> String {
        format!("matome_row.{}", quoted(&column.name))
    }

    fn parameter(&mut self, value: &str, _: &Column) -> String {
        self.values.push(value.to_owned());
        format!("${}", self.values.len())
    }

    fn before(&mut self, value: &str, overlap: u64, column: &Column) -> String {
        match literal(value) {
            Literal::Integer(whole) => self.parameter(&whole.saturating_sub_unsigned(overlap).to_string(), column),
            _ => self.parameter(value, column),
        }
    }
}

/// What a row says beside its JSON.
struct Taken {
    place: Vec<Option<String>>,
    may_mark: bool,
    /// Bytes of values that were too long to be fetched.
    not_fetched: u64,
}

/// Writes the JSON of a row of [`statement`].
fn taken(row: &SqliteRow, order: &Order, json: &mut Vec<u8>) -> Result<Taken, sqlx::Error> {
    const BEFORE: usize = 2;
    let may_mark: bool = row.try_get_unchecked(0)?;
    let not_fetched = row.try_get_unchecked::<i64, _>(1)?.unsigned_abs();
    let values = BEFORE + order.columns.len();
    let mut place = Vec::with_capacity(order.columns.len());
    for at in BEFORE..values {
        let text: String = row.try_get_unchecked(at)?;
        place.push((text != "NULL").then_some(text));
    }
    json.push(b'{');
    for (at, column) in row.columns().iter().enumerate().skip(values) {
        if at > values {
            json.push(b',');
        }
        write_string(json, column.name());
        json.push(b':');
        write_value(row, at, json)?;
    }
    json.push(b'}');
    Ok(Taken { place, may_mark, not_fetched })
}

fn write_value(row: &SqliteRow, at: usize, json: &mut Vec<u8>) -> Result<(), sqlx::Error> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        json.extend_from_slice(b"null");
        return Ok(());
    }
    let of_type = value.type_info().name().to_owned();
    drop(value);
    match of_type.as_str() {
        "INTEGER" => json.extend_from_slice(row.try_get_unchecked::<i64, _>(at)?.to_string().as_bytes()),
        "REAL" => {
            let real: f64 = row.try_get_unchecked(at)?;
            // The shortest decimal that is this number; there is none for the infinities.
            let text = match real.is_finite() {
                true => format!("{real}"),
                false if real > 0.0 => "\"Infinity\"".to_owned(),
                false => "\"-Infinity\"".to_owned(),
            };
            json.extend_from_slice(text.as_bytes());
        }
        "TEXT" => write_text(json, row.try_get_unchecked(at)?),
        _ => write_bytes(json, row.try_get_unchecked(at)?),
    }
    Ok(())
}

enum Literal {
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// What `quote()` wrote, or a plain text or number of a config.
fn literal(text: &str) -> Literal {
    if let Some(inside) = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return Literal::Text(inside.replace("''", "'"));
    }
    if let Some(hex) = text.strip_prefix("X'").and_then(|rest| rest.strip_suffix('\'')) {
        let bytes =
            (0..hex.len() / 2).map(|at| hex.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()));
        if let Some(bytes) = bytes.collect() {
            return Literal::Blob(bytes);
        }
    }
    match (text.parse(), text.parse()) {
        (Ok(whole), _) => Literal::Integer(whole),
        (_, Ok(real)) => Literal::Real(real),
        _ => Literal::Text(text.to_owned()),
    }
}

/// What SQLite itself says.
pub(super) fn said(code: &str, message: &str) -> (DatabaseFault, Words) {
    // The lower byte is the kind, the rest says more about it.
    let kind = code.parse::<u32>().map_or(0, |code| code & 0xff);
    match kind {
        1 if message.starts_with("no such table") || message.starts_with("no such column") => (
            DatabaseFault::Missing,
            say!("the database does not have it: {message}", "データベースにありません: {message}"),
        ),
        5 | 6 => (
            DatabaseFault::Lost,
            say!("somebody else holds the database: {message}", "ほかの処理がデータベースを使っています: {message}"),
        ),
        8 => (
            DatabaseFault::Query,
            say!(
                "the query would write, and sources are only read: {message}",
                "クエリーが書き込もうとしていますが、データソースは読むだけです: {message}"
            ),
        ),
        10 => (
            DatabaseFault::Lost,
            say!(
                "the file can not be read on: {message} ({code}); is its disk or share there, and was the file cut off?",
                "ファイルの続きを読めません: {message} ({code})。ディスクや共有が使えるか、ファイルが途中で切れていないかを確かめてください"
            ),
        ),
        11 | 26 => (DatabaseFault::Query, damaged(message)),
        14 => (
            DatabaseFault::Query,
            say!(
                "the file can not be opened: {message}; one in WAL mode needs its `-wal` and `-shm` beside it, or a folder that can be written",
                "ファイルを開けません: {message}。WAL モードのものは `-wal` と `-shm` が隣にあるか、フォルダーに書き込める必要があります"
            ),
        ),
        1 => (
            DatabaseFault::Query,
            say!("the query is not accepted: {message}", "クエリーが受け付けられません: {message}"),
        ),
        _ => (
            DatabaseFault::Query,
            say!("the database says: {message} ({code})", "データベースのエラー: {message} ({code})"),
        ),
    }
}

fn too_slow(patience: Duration) -> Words {
    let secs = patience.as_secs();
    say!(
        "the statement took more than {secs} s (`statement_timeout_secs`) and was given up; see whether an index fits the order",
        "文が {secs} 秒 (`statement_timeout_secs`) を超えたので打ち切りました。順序に合う索引があるかを確かめてください"
    )
}

fn damaged(message: &str) -> Words {
    say!(
        "the file is damaged, cut off or no SQLite database: {message}; have it copied again, best by `sqlite3 FILE \".backup COPY\"`, and look at `path`",
        "ファイルが壊れているか途中で切れているか、SQLite のデータベースではありません: {message}。`sqlite3 FILE \".backup COPY\"` などでコピーし直し、`path` を確かめてください"
    )
}

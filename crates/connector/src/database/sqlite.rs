//! Reading from an SQLite file. Types belong to values there, so the JSON of a row is made value by value.

use futures::TryStreamExt as _;
use matome_model::canonical::write_string;
use matome_model::field_error::Words;
use matome_model::say;
use sqlx::sqlite::{SqliteColumn, SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Executor as _, Row as _, SqlSafeStr as _,
    Statement as _, TypeInfo as _, ValueRef as _,
};

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

/// A file that is only read.
pub(super) struct Sqlite {
    conn: SqliteConnection,
    relation: String,
    /// What its columns are declared as.
    types: Vec<(String, String)>,
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
            .filename(path)
            .read_only(true)
            .create_if_missing(false)
            .busy_timeout(config.common.timeout)
            // What the schema of a foreign file calls may not do more than compute.
            .pragma("trusted_schema", "OFF")
            .pragma("query_only", "ON")
            .pragma("mmap_size", "0")
            .disable_statement_logging();
        let begun = async {
            let mut conn = SqliteConnection::connect_with(&options).await?;
            // One snapshot for all statements of a read.
            sqlx::raw_sql("begin").execute(&mut conn).await?;
            Ok(conn)
        };
        let conn = begun.await.map_err(|error| faults.of(error))?;
        let relation = match &config.relation {
            Relation::Table { schema: None, table } => quoted(table),
            Relation::Table { schema: Some(schema), table } => format!("{}.{}", quoted(schema), quoted(table)),
            Relation::Query(query) => format!("(\n{query}\n)"),
        };
        Ok(Self { conn, relation, types: Vec::new() })
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
        let (sql, values) = statement(&self.relation, order, part, began);
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
            let (place, may_mark) = taken(&row, order, &mut json).map_err(|error| faults.of(error))?;
            drop(row);
            sink.row(Row { json: &json, size: json.len() as u64, place, may_mark }).await?;
        }
        Ok(())
    }

    pub(super) async fn close(self) {
        let _ = self.conn.close().await;
    }
}

/// The statement for the rows of `part`, and the values of its parameters as SQL literals.
fn statement(relation: &str, order: &Order, part: &Part, began: &str) -> (String, Vec<String>) {
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
    let rows = condition::rows(order, part, &mut literals);
    (format!("select {may_mark}{keys}, matome_row.* from {relation} as matome_row{rows}"), literals.values)
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

/// Writes the JSON of a row; returns its place, and whether it may be a mark.
fn taken(row: &SqliteRow, order: &Order, json: &mut Vec<u8>) -> Result<(Vec<Option<String>>, bool), sqlx::Error> {
    let may_mark: bool = row.try_get_unchecked(0)?;
    let keys = order.columns.len();
    let mut place = Vec::with_capacity(keys);
    for at in 1..=keys {
        let text: String = row.try_get_unchecked(at)?;
        place.push((text != "NULL").then_some(text));
    }
    json.push(b'{');
    for (at, column) in row.columns().iter().enumerate().skip(1 + keys) {
        if at > 1 + keys {
            json.push(b',');
        }
        write_string(json, column.name());
        json.push(b':');
        write_value(row, at, json)?;
    }
    json.push(b'}');
    Ok((place, may_mark))
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
        11 | 26 => (
            DatabaseFault::Query,
            say!(
                "the file is damaged or no SQLite database: {message}",
                "ファイルが壊れているか SQLite のデータベースではありません: {message}"
            ),
        ),
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

//! Reading from MySQL and MariaDB. Values come in the driver's binary form or as texts that the server made, whichever is exact.

mod fault;
mod form;
mod row;
mod statement;

use std::time::Duration;

use futures::TryStreamExt as _;
use matome_egress::Dialer;
use matome_model::say;
use secrecy::ExposeSecret as _;
use sqlx::mysql::{MySqlColumn, MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Either, Executor as _, Row as _, SqlSafeStr as _,
    Statement as _,
};

use super::config::{DatabaseConfig, Relation};
use super::fault::Faults;
use super::order::{Column, From, Order, Part, Row};
use super::reader::{Sink, Stop};
use super::relay::Relay;
use super::server::{Server, TlsMode};
use super::tables::Table;
use crate::error::{ConnectorError, DatabaseFault};
use crate::tls::Pem;

pub(super) use fault::said;
use form::Form;
pub(super) use row::as_each_form;

/// Everything that shapes a value, or ends a read that takes its time, is said, whatever server and user have by default.
const SETTINGS: &[(&str, &str)] = &[
    // Dates that are none are values too; no mode of texts or dates beside.
    ("sql_mode", "'ALLOW_INVALID_DATES'"),
    // A table is read to its end.
    ("sql_select_limit", "18446744073709551615"),
    ("sql_auto_is_null", "0"),
    ("group_concat_max_len", "16777216"),
    // Texts are ordered by more than their beginning; no `varchar` is longer.
    ("max_sort_length", "65535"),
    // While pages are committed here, nothing is taken from there.
    ("net_write_timeout", "604800"),
    ("wait_timeout", "604800"),
];

/// The same for what only MariaDB has.
const SETTINGS_OF_MARIADB: &[(&str, &str)] =
    &[("idle_transaction_timeout", "0"), ("idle_readonly_transaction_timeout", "0")];

// One snapshot for all statements of a read, and no way to write.
const BEGIN: &str = "start transaction with consistent snapshot, read only";

const TYPES: &str = "select column_name, data_type from information_schema.columns
where table_schema = coalesce(?, database()) and table_name = ?";

// MariaDB knows JSON only as a text with this condition.
const JSON_OF_MARIADB: &str = "select constraint_name from information_schema.check_constraints
where constraint_schema = coalesce(?, database()) and table_name = ? and level = 'Column'
    and check_clause = concat('json_valid(`', constraint_name, '`)')";

// Each with each column of its primary key; what the user may not read is not there.
const TABLES: &str = "select if(t.table_schema = database(), null, t.table_schema), t.table_name, k.column_name
from information_schema.tables t
left join information_schema.statistics k
    on k.table_schema = t.table_schema and k.table_name = t.table_name and k.index_name = 'PRIMARY'
where t.table_schema not in ('information_schema', 'mysql', 'performance_schema', 'sys')
order by t.table_schema <> database(), t.table_schema, t.table_name, k.seq_in_index";

const PRIMARY_KEY: &str = "select column_name from information_schema.statistics
where table_schema = coalesce(?, database()) and table_name = ? and index_name = 'PRIMARY'
order by seq_in_index";

/// A read-only transaction on a server.
pub(super) struct Mysql {
    conn: MySqlConnection,
    is_mariadb: bool,
    /// `schema` and `table`, of a table.
    table: Option<(Option<String>, String)>,
    /// What is read, as it stands behind `from`.
    relation: String,
    columns: Vec<(String, Form)>,
    _relay: Relay,
}

impl Mysql {
    /// Connects, and begins.
    pub(super) async fn open(
        config: &DatabaseConfig,
        server: &Server,
        dialer: &Dialer,
        certificates: Pem,
        faults: &Faults,
    ) -> Result<Self, ConnectorError> {
        const SOCKET: &str = "mysqld.sock";
        let patience = config.common.timeout;
        let relay = Relay::dial(server, dialer, SOCKET, patience, faults).await?;
        let options = options(server, certificates).socket(relay.dir().join(SOCKET));
        let connecting = async {
            let mut conn = MySqlConnection::connect_with(&options).await.map_err(|error| faults.of_greeting(error))?;
            let is_mariadb = begin(&mut conn, config).await.map_err(|error| faults.of(error))?;
            Ok((conn, is_mariadb))
        };
        let (conn, is_mariadb) =
            tokio::time::timeout(patience, connecting).await.unwrap_or_else(|_| Err(faults.slow(patience)))?;
        let (table, relation) = match &config.relation {
            Relation::Table { schema, table } => {
                let name = match schema {
                    None => quoted(table),
                    Some(schema) => format!("{}.{}", quoted(schema), quoted(table)),
                };
                (Some((schema.clone(), table.clone())), name)
            }
            // On the first line, so that the server's errors count the lines of the query; the break ends a comment.
            Relation::Query(query) => (None, format!("({query}\n)")),
        };
        Ok(Self { conn, is_mariadb, table, relation, columns: Vec::new(), _relay: relay })
    }

    /// The names of the columns of what is read.
    pub(super) async fn columns(&mut self, faults: &Faults) -> Result<Vec<String>, ConnectorError> {
        let sql = format!("select * from {} as matome_row limit 0", self.relation);
        let asked = self.conn.prepare(AssertSqlSafe(sql).into_sql_str()).await;
        let statement = asked.map_err(|error| faults.of(error))?;
        if let Some(Either::Right(count @ 1..)) = statement.parameters() {
            let problem = say!(
                "the query has {count} `?` for values that are not there; write the values themselves",
                "クエリーに、値の入らない `?` が {count} 個あります。値をそのまま書いてください"
            );
            return Err(faults.problem(DatabaseFault::Query, problem));
        }
        let column = |column: &MySqlColumn| (column.name().to_owned(), Form::of_result(column));
        self.columns = statement.columns().iter().map(column).collect();
        for (name, data_type) in self.table_types().await.map_err(|error| faults.of(error))? {
            for (_, form) in self.columns.iter_mut().filter(|(known, _)| *known == name) {
                *form = form.of_table(&data_type);
            }
        }
        Ok(self.columns.iter().map(|(name, _)| name.clone()).collect())
    }

    /// What the server says about the types of a table's columns beyond the description of a result.
    async fn table_types(&mut self) -> Result<Vec<(String, String)>, sqlx::Error> {
        let Some((schema, table)) = &self.table else { return Ok(Vec::new()) };
        let rows = sqlx::query(TYPES).bind(schema).bind(table).fetch_all(&mut self.conn).await?;
        let mut types = rows
            .iter()
            .map(|row| Ok((row::text(row, 0)?.unwrap_or_default(), row::text(row, 1)?.unwrap_or_default())))
            .collect::<Result<Vec<_>, sqlx::Error>>()?;
        if self.is_mariadb {
            let rows = sqlx::query(JSON_OF_MARIADB).bind(schema).bind(table).fetch_all(&mut self.conn).await?;
            for row in &rows {
                types.push((row::text(row, 0)?.unwrap_or_default(), "json".to_owned()));
            }
        }
        Ok(types)
    }

    /// The tables and views that the user may read.
    pub(super) async fn tables(&mut self, faults: &Faults) -> Result<Vec<Table>, ConnectorError> {
        let asked = sqlx::query(TABLES).fetch_all(&mut self.conn).await;
        let mut tables = Vec::new();
        for row in &asked.map_err(|error| faults.of(error))? {
            let text = |at| row::text(row, at).map_err(|error| faults.of(error));
            let (schema, name, key) = (text(0)?, text(1)?.unwrap_or_default(), text(2)?);
            Table::collect(&mut tables, schema, name, key);
        }
        Ok(tables)
    }

    /// The columns of the primary key, in its order; none of a view or a query, or where they have no exact order.
    pub(super) async fn primary_key(&mut self, faults: &Faults) -> Result<Vec<String>, ConnectorError> {
        let Some((schema, table)) = &self.table else { return Ok(Vec::new()) };
        let asked = sqlx::query(PRIMARY_KEY).bind(schema).bind(table).fetch_all(&mut self.conn).await;
        let names = asked.and_then(|rows| rows.iter().map(|row| row::text(row, 0)).collect::<Result<Vec<_>, _>>());
        let names: Vec<String> = names.map_err(|error| faults.of(error))?.into_iter().flatten().collect();
        Ok(if names.iter().any(|name| self.form(name).is_long()) { Vec::new() } else { names })
    }

    fn form(&self, name: &str) -> Form {
        statement::form(&self.columns, name)
    }

    /// These columns, with what their types are.
    pub(super) fn typed(&self, names: &[String], faults: &Faults) -> Result<Vec<Column>, ConnectorError> {
        let typed = |name: &String| {
            let form = self.form(name);
            let of_type = form.word();
            if form.is_long() {
                let problem = say!(
                    "`{name}` is of the type `{of_type}`, and the server orders such values by their beginning only; choose \
                     another column, or cut it in a `query`",
                    "`{name}` の型は `{of_type}` で、サーバーはその先頭部分だけで並べます。別の列を選ぶか、`query` で切り詰めてください"
                );
                return Err(faults.problem(DatabaseFault::Query, problem));
            }
            Ok(Column { name: name.clone(), of_type: of_type.to_owned(), kind: form.kind() })
        };
        names.iter().map(typed).collect()
    }

    /// The time at which this statement begins.
    pub(super) async fn now(&mut self, faults: &Faults) -> Result<String, ConnectorError> {
        let asked = sqlx::query("select cast(now(6) as char)").fetch_one(&mut self.conn).await;
        let now = asked.and_then(|row| row::text(&row, 0));
        now.map(Option::unwrap_or_default).map_err(|error| faults.of(error))
    }

    /// Gives every row of `part` to `sink`, as they come.
    pub(super) async fn rows(&mut self, order: &Order, part: &Part, began: &str, sink: &mut Sink) -> Result<(), Stop> {
        let faults = sink.faults.clone();
        if let (Part::Valued(From::Cursor(value, _)), Some(cursor)) = (part, order.columns.first()) {
            self.check(value, cursor, &faults).await?;
        }
        let (sql, values) = statement::rows(&self.relation, &self.columns, order, part, began);
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        for value in values {
            query = query.bind(value);
        }
        let mut rows = query.fetch(&mut self.conn);
        let mut json = Vec::new();
        while let Some(row) = rows.try_next().await.map_err(|error| faults.of(error))? {
            json.clear();
            let taken = row::taken(&row, &self.columns, order, &mut json).map_err(|error| faults.of(error))?;
            drop(row);
            // What the server cut is longer than what there is, whatever its escapes make of it.
            let size = taken.cut_from.map_or(json.len() as u64, |size| size.max(json.len() as u64 + 1));
            sink.row(Row { json: &json, size, place: taken.place, may_mark: taken.may_mark }).await?;
        }
        Ok(())
    }

    /// Whether the server takes all of a value as one of its column: it would compare with the part that it understands.
    async fn check(&mut self, value: &str, cursor: &Column, faults: &Faults) -> Result<(), ConnectorError> {
        let parameter = self.form(&cursor.name).parameter(value);
        // Kept, because to close a statement is one more command, and warnings are those of the last.
        let sql = AssertSqlSafe(format!("select {parameter} is null"));
        let is_null: bool =
            sqlx::query_scalar(sql).bind(value).fetch_one(&mut self.conn).await.map_err(|error| faults.of(error))?;
        let warnings = sqlx::raw_sql("show warnings").fetch_all(&mut self.conn).await;
        let warning = match warnings.map_err(|error| faults.of(error))?.first() {
            Some(row) => row.try_get_unchecked(2).map_err(|error| faults.of(error))?,
            None if is_null => "NULL".to_owned(),
            None => return Ok(()),
        };
        let (name, of_type) = (&cursor.name, &cursor.of_type);
        let problem = say!(
            "`{value}` is no value of `{name}`, which is of the type `{of_type}`: {warning}; write `incremental.start` as the \
             server does, times in UTC without a zone",
            "`{value}` は型 `{of_type}` の `{name}` の値ではありません: {warning}。`incremental.start` はサーバーの表記で、\
             時刻は UTC でタイムゾーンを付けずに書いてください"
        );
        Err(faults.problem(DatabaseFault::Query, problem))
    }

    /// Ends the session in an orderly way.
    pub(super) async fn close(self) {
        // Everything was read; what goes wrong now changes nothing.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.conn.close()).await;
    }
}

/// An identifier as MySQL takes it exactly.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn options(server: &Server, certificates: Pem) -> MySqlConnectOptions {
    let mut options = MySqlConnectOptions::new()
        .host(&server.host)
        .port(server.port)
        .database(&server.database)
        .username(&server.user)
        .charset("utf8mb4")
        .timezone("+00:00".to_owned())
        // `sql_mode` is said as a whole.
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .ssl_ca_from_pem(certificates.authorities)
        .disable_statement_logging();
    if let Some((cert, key)) = certificates.own {
        options = options.ssl_client_cert_from_pem(cert).ssl_client_key_from_pem(key);
    }
    // The driver would hash an empty one, and servers want nothing then.
    if let Some(password) = server.password.as_ref().filter(|password| !password.expose_secret().is_empty()) {
        options = options.password(password.expose_secret());
    }
    options.ssl_mode(match server.tls.mode {
        TlsMode::VerifyFull => MySqlSslMode::VerifyIdentity,
        TlsMode::Require => MySqlSslMode::Required,
        TlsMode::Disable => MySqlSslMode::Disabled,
    })
}

/// Settles what the session does; returns whether the server is a MariaDB.
async fn begin(conn: &mut MySqlConnection, config: &DatabaseConfig) -> Result<bool, sqlx::Error> {
    let version = row::text(&sqlx::query("select version()").fetch_one(&mut *conn).await?, 0)?.unwrap_or_default();
    let is_mariadb = version.contains("MariaDB");
    let mut settings: Vec<(&str, String)> = SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    if is_mariadb {
        settings.extend(SETTINGS_OF_MARIADB.iter().map(|(name, value)| (*name, (*value).to_owned())));
    }
    settings.push(("lock_wait_timeout", config.common.timeout.as_secs().to_string()));
    settings.extend(config.statement_timeout.map(|timeout| match is_mariadb {
        true => ("max_statement_time", timeout.as_secs().to_string()),
        false => ("max_execution_time", timeout.as_millis().to_string()),
    }));
    let set: Vec<String> = settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    sqlx::raw_sql(AssertSqlSafe(format!("set session {}", set.join(", session ")))).execute(&mut *conn).await?;
    for (name, value) in &config.options {
        if name == "role" {
            let sql = format!("set role {}", quoted(value));
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await?;
        } else {
            // The name is one of ours; what is no number, the server refuses.
            let query = sqlx::query(AssertSqlSafe(format!("set session {name} = ?")));
            match value.parse::<u64>() {
                Ok(number) => query.bind(number).execute(&mut *conn).await?,
                Err(_) => query.bind(value).execute(&mut *conn).await?,
            };
        }
    }
    sqlx::raw_sql("set session transaction isolation level repeatable read").execute(&mut *conn).await?;
    sqlx::raw_sql(BEGIN).execute(conn).await?;
    Ok(is_mariadb)
}

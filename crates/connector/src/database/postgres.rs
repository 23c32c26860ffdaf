//! Reading from PostgreSQL. The server itself makes the JSON of a row, so no value passes through a type of ours.

use std::time::Duration;

use futures::TryStreamExt as _;
use matome_egress::Dialer;
use secrecy::ExposeSecret as _;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgColumn, PgConnectOptions, PgConnection, PgRow, PgSslMode};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Executor as _, Row as _, SqlSafeStr as _,
    Statement as _, ValueRef as _,
};

use super::condition::{self, Dialect};
use super::config::{DatabaseConfig, Relation};
use super::fault::{Faults, quoted};
use super::incremental::Kind;
use super::order::{Column, Order, Part, Row};
use super::reader::{Sink, Stop};
use super::relay::Relay;
use super::server::{Server, TlsMode};
use super::tables::Table;
use crate::error::ConnectorError;
use crate::tls::Pem;

/// A longer record goes to quarantine (`model::canonical::Limits`), so no more of it than its beginning is fetched.
const ROW_LIMIT_BYTES: u64 = 8 << 20;

/// Everything that shapes the text of a value is said, whatever server, database and role have by default.
const SETTINGS: &[(&str, &str)] = &[
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "iso_8601"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "3"),
    ("xmlbinary", "base64"),
    ("standard_conforming_strings", "on"),
    // While pages are committed here, nothing is asked there.
    ("idle_in_transaction_session_timeout", "0"),
];

// A server that works on a statement for nobody notices it then; the setting is there from version 14 on.
const NOTICE_A_LOST_CLIENT: &str = "select set_config('client_connection_check_interval', '10s', true)
where current_setting('server_version_num')::int >= 140000";

// One snapshot for all statements of a read, and no way to write.
const BEGIN: &str = "begin transaction isolation level repeatable read, read only";

const PRIMARY_KEY: &str = "select a.attname::text
from pg_index i
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
where i.indrelid = $1::text::regclass and i.indisprimary
order by array_position(i.indkey::int2[], a.attnum)";

// Each with each column of its primary key. Partitions are read through their table.
const TABLES: &str =
    "select case when pg_table_is_visible(c.oid) then null else n.nspname::text end, c.relname::text, a.attname::text
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_index i on i.indrelid = c.oid and i.indisprimary
left join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
    and n.nspname <> 'information_schema' and left(n.nspname::text, 3) <> 'pg_'
    and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')
order by 1 nulls first, 2, array_position(i.indkey::int2[], a.attnum)";

const TYPES: &str = "select format_type(o.oid, null)
from unnest($1::oid[]) with ordinality as o (oid, n)
order by o.n";

/// A read-only transaction on a server.
pub(super) struct Postgres {
    conn: PgConnection,
    /// What is read, as it stands behind `from`.
    relation: String,
    /// The numbers of its columns' types.
    types: Vec<(String, Oid)>,
    _relay: Relay,
}

impl Postgres {
    /// Connects, and begins.
    pub(super) async fn open(
        config: &DatabaseConfig,
        server: &Server,
        dialer: &Dialer,
        certificates: Pem,
        faults: &Faults,
    ) -> Result<Self, ConnectorError> {
        let patience = config.common.timeout;
        let relay = Relay::dial(server, dialer, &format!(".s.PGSQL.{}", server.port), patience, faults).await?;
        let options = options(server, certificates, &relay);
        let connecting = async {
            let mut conn = PgConnection::connect_with(&options).await?;
            begin(&mut conn, config).await?;
            Ok(conn)
        };
        let conn = match tokio::time::timeout(patience, connecting).await {
            Err(_) => return Err(faults.slow(patience)),
            Ok(conn) => conn.map_err(|error| faults.of(error))?,
        };
        let relation = match &config.relation {
            Relation::Table { schema: None, table } => quoted(table),
            Relation::Table { schema: Some(schema), table } => format!("{}.{}", quoted(schema), quoted(table)),
            // The line break ends a comment that the query may end with.
            Relation::Query(query) => format!("(\n{query}\n)"),
        };
        Ok(Self { conn, relation, types: Vec::new(), _relay: relay })
    }

    /// The names of the columns of what is read.
    pub(super) async fn columns(&mut self, faults: &Faults) -> Result<Vec<String>, ConnectorError> {
        const BEFORE: &str = "select * from (\n";
        let sql = format!("select * from {} as matome_row limit 0", self.relation);
        let asked = self.conn.prepare(AssertSqlSafe(sql).into_sql_str()).await;
        let statement = asked.map_err(|error| faults.of_query(error, BEFORE.len()))?;
        let column = |column: &PgColumn| (column.name().to_owned(), column.type_info().oid().unwrap_or(Oid(0)));
        self.types = statement.columns().iter().map(column).collect();
        Ok(self.types.iter().map(|(name, _)| name.clone()).collect())
    }

    /// The tables and views that the user may read.
    pub(super) async fn tables(&mut self, faults: &Faults) -> Result<Vec<Table>, ConnectorError> {
        let rows = sqlx::query_as::<_, (Option<String>, String, Option<String>)>(TABLES).persistent(false);
        let mut tables = Vec::new();
        for (schema, name, key) in rows.fetch_all(&mut self.conn).await.map_err(|error| faults.of(error))? {
            Table::collect(&mut tables, schema, name, key);
        }
        Ok(tables)
    }

    /// The columns of the primary key, in its order; none of a view or a query.
    pub(super) async fn primary_key(&mut self, faults: &Faults) -> Result<Vec<String>, ConnectorError> {
        let names = sqlx::query_scalar(PRIMARY_KEY).bind(&self.relation).persistent(false).fetch_all(&mut self.conn);
        names.await.map_err(|error| faults.of(error))
    }

    /// These columns, with what their types are.
    pub(super) async fn typed(&mut self, names: &[String], faults: &Faults) -> Result<Vec<Column>, ConnectorError> {
        let oid = |name: &String| self.types.iter().find(|(known, _)| known == name).map_or(Oid(0), |(_, oid)| *oid);
        let oids: Vec<Oid> = names.iter().map(oid).collect();
        let types: Vec<String> = sqlx::query_scalar(TYPES)
            .bind(oids)
            .persistent(false)
            .fetch_all(&mut self.conn)
            .await
            .map_err(|error| faults.of(error))?;
        Ok(names.iter().zip(types).map(|(name, of_type)| typed(name.clone(), of_type)).collect())
    }

    /// The time at which this transaction began.
    pub(super) async fn now(&mut self, faults: &Faults) -> Result<String, ConnectorError> {
        let now = sqlx::query_scalar("select now()::text").persistent(false).fetch_one(&mut self.conn);
        now.await.map_err(|error| faults.of(error))
    }

    /// Gives every row of `part` to `sink`, as they come.
    pub(super) async fn rows(&mut self, order: &Order, part: &Part, began: &str, sink: &mut Sink) -> Result<(), Stop> {
        let (sql, values) = statement(&self.relation, order, part, began);
        let faults = sink.faults.clone();
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        for value in values {
            query = query.bind(value);
        }
        let mut rows = query.fetch(&mut self.conn);
        while let Some(row) = rows.try_next().await.map_err(|error| faults.of(error))? {
            let row = taken(&row, order).map_err(|error| faults.of(error))?;
            sink.row(row).await?;
        }
        Ok(())
    }

    /// Ends the session in an orderly way.
    pub(super) async fn close(self) {
        // Everything was read; what goes wrong now changes nothing.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.conn.close()).await;
    }
}

fn options(server: &Server, certificates: Pem, relay: &Relay) -> PgConnectOptions {
    // Each of these is said, because the driver would take what is not said from the environment of this process.
    let mut options = PgConnectOptions::new_without_pgpass()
        .socket(relay.dir())
        .host(&server.host)
        .port(server.port)
        .database(&server.database)
        .username(&server.user)
        .password(server.password.as_ref().map_or("", |password| password.expose_secret()))
        .application_name("matome")
        .extra_float_digits(None)
        .ssl_root_cert_from_pem(certificates.authorities)
        .disable_statement_logging();
    if let Some((cert, key)) = certificates.own {
        options = options.ssl_client_cert_from_pem(cert).ssl_client_key_from_pem(key);
    }
    options.ssl_mode(match server.tls.mode {
        TlsMode::VerifyFull => PgSslMode::VerifyFull,
        TlsMode::Require => PgSslMode::Require,
        TlsMode::Disable => PgSslMode::Disable,
    })
}

async fn begin(conn: &mut PgConnection, config: &DatabaseConfig) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(BEGIN).execute(&mut *conn).await?;
    let mut settings: Vec<(&str, String)> = SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    settings.push(("lock_timeout", millis(config.common.timeout)));
    settings.extend(config.statement_timeout.map(|timeout| ("statement_timeout", millis(timeout))));
    settings.extend(config.options.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let calls: Vec<String> =
        (0..settings.len()).map(|at| format!("set_config(${}, ${}, true)", 2 * at + 1, 2 * at + 2)).collect();
    let mut query = sqlx::query(AssertSqlSafe(format!("select {}", calls.join(", ")))).persistent(false);
    for (name, value) in settings {
        query = query.bind(name.to_owned()).bind(value);
    }
    query.fetch_all(&mut *conn).await?;
    sqlx::query(NOTICE_A_LOST_CLIENT).persistent(false).fetch_all(conn).await?;
    Ok(())
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

fn typed(name: String, of_type: String) -> Column {
    let kind = match of_type.as_str() {
        "smallint" | "integer" | "bigint" => Kind::Integer,
        "date" | "timestamp without time zone" | "timestamp with time zone" => Kind::Time,
        _ => Kind::Other,
    };
    Column { name, of_type, kind }
}

/// The statement for the rows of `part`, and the values of its parameters.
fn statement(relation: &str, order: &Order, part: &Part, began: &str) -> (String, Vec<String>) {
    let mut words = Words::default();
    let (mut place, mut keys) = (String::new(), String::new());
    for (at, key) in order.columns.iter().enumerate() {
        place.push_str(&format!(",\n    {}::text as matome_{at}", words.column(key)));
        keys.push_str(&format!(", matome_{at}"));
    }
    // Only a time may lie behind the beginning of the read.
    let may_mark = match (&order.cursor, order.columns.first()) {
        (Some(_), Some(cursor)) if cursor.kind == Kind::Time => {
            let began = words.typed(began, "timestamptz");
            format!("coalesce({} <= {began}::{}, false)", words.column(cursor), cursor.of_type)
        }
        _ => "true".to_owned(),
    };
    let rows = condition::rows(order, part, &mut words);
    // `offset 0` keeps the JSON of a row from being made several times.
    let sql = format!(
        "select case when octet_length(matome_json) > {ROW_LIMIT_BYTES} then left(matome_json, 65536) else matome_json end,
    octet_length(matome_json), matome_may_mark{keys}
from (
    select row_to_json(matome_row.*)::text as matome_json, {may_mark} as matome_may_mark{place}
    from (
select * from {relation} as matome_row{rows}
    ) as matome_row
    offset 0
) as matome_row"
    );
    (sql, words.values)
}

/// The values of a statement's parameters.
#[derive(Default)]
struct Words {
    values: Vec<String>,
}

impl Words {
    fn typed(&mut self, value: &str, of_type: &str) -> String {
        self.values.push(value.to_owned());
        // As text, because the driver sends values in binary form and names their types.
        format!("${}::text::{of_type}", self.values.len())
    }
}

impl Dialect for Words {
    fn column(&self, column: &Column) -> String {
        format!("matome_row.{}", quoted(&column.name))
    }

    fn parameter(&mut self, value: &str, column: &Column) -> String {
        self.typed(value, &column.of_type)
    }

    fn before(&mut self, value: &str, overlap: u64, column: &Column) -> String {
        match column.kind {
            Kind::Integer => {
                let whole: Option<i64> = value.trim().parse().ok();
                let lower = whole.map(|whole| whole.saturating_sub_unsigned(overlap).to_string());
                self.typed(lower.as_deref().unwrap_or(value), "bigint")
            }
            Kind::Time => format!("{} - interval '{overlap} seconds'", self.parameter(value, column)),
            Kind::Other => self.parameter(value, column),
        }
    }
}

fn taken<'r>(row: &'r PgRow, order: &Order) -> Result<Row<'r>, sqlx::Error> {
    let bytes = |at: usize| -> Result<Option<&'r [u8]>, sqlx::Error> {
        let value = row.try_get_raw(at)?;
        if value.is_null() { Ok(None) } else { value.as_bytes().map(Some).map_err(sqlx::Error::Decode) }
    };
    let size: i32 = row.try_get(1)?;
    let mut place = Vec::with_capacity(order.columns.len());
    for at in 0..order.columns.len() {
        place.push(bytes(3 + at)?.map(|text| String::from_utf8_lossy(text).into_owned()));
    }
    Ok(Row { json: bytes(0)?.unwrap_or_default(), size: size.unsigned_abs().into(), may_mark: row.try_get(2)?, place })
}

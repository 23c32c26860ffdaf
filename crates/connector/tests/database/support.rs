//! Configs for the test server, and reads with them.

use std::path::Path;

use matome_connector::{Batch, Connector, ConnectorError, FileRoots, Item, ReadRequest, Registry, validate_config};
use matome_egress::{HttpClient, Policy};
use matome_model::canonical::Canonicaliser;
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use url::Url;
use uuid::Uuid;

pub use crate::reading::read_until;
use crate::servers::Server;

/// A schema of its own on the test server.
pub struct Bed {
    pub url: String,
    pub schema: String,
}

impl Bed {
    pub async fn new(script: &str) -> Self {
        let server = std::env::var("MATOME_TEST_DATABASE_URL")
            .expect("MATOME_TEST_DATABASE_URL is set: run `scripts/test`, or `scripts/with-postgres cargo test ...`");
        let schema = format!("t_{}", Uuid::new_v4().simple());
        let url = format!("{server}?options=-c%20search_path%3D{schema}");
        let bed = Self { schema, url };
        bed.run(&format!("create schema {}", bed.schema)).await;
        bed.run(script).await;
        bed
    }

    pub async fn run(&self, script: &str) {
        let mut conn = PgConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(script.to_owned())).execute(&mut conn).await.unwrap();
    }

    /// Runs a statement in a transaction that stays open until what is returned is dropped.
    pub async fn hold(&self, sql: &'static str) -> PgConnection {
        let mut conn = PgConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql("begin").execute(&mut conn).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        conn
    }

    /// The texts of the first column of a query's rows.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let mut conn = PgConnection::connect(&self.url).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&mut conn).await.unwrap()
    }

    /// The config of a source in this schema; `options` wins.
    pub fn config(&self, options: Value) -> Value {
        let url = Url::parse(&self.url).unwrap();
        let config = json!({
            "engine": "postgres", "host": url.host_str(), "port": url.port(), "database": &url.path()[1..],
            "user": url.username(), "password": url.password(), "tls": {"mode": "disable"},
            "options": {"search_path": self.schema, "application_name": self.schema},
        });
        with_options(config, options)
    }

    pub fn connector(&self, options: Value) -> Box<dyn Connector> {
        connector(&self.config(options))
    }
}

impl Server for Bed {
    fn connector(&self, options: Value) -> Box<dyn Connector> {
        self.connector(options)
    }

    async fn run(&self, script: &str) {
        self.run(script).await;
    }

    async fn sessions(&self) -> Vec<String> {
        let sql = format!("select pid::text from pg_stat_activity where application_name = '{}'", self.schema);
        self.texts(&sql).await
    }

    async fn end(&self, session: &str) {
        assert_eq!(self.texts(&format!("select pg_terminate_backend({session})::text")).await, ["true"]);
    }
}

/// `config` with these options in it, and without those that are null.
pub fn with_options(mut config: Value, mut options: Value) -> Value {
    let config_options = config.as_object_mut().unwrap();
    config_options.append(options.as_object_mut().unwrap());
    config_options.retain(|_, value| !value.is_null());
    config
}

/// A connector that reaches this machine.
pub fn connector(config: &Value) -> Box<dyn Connector> {
    connector_beneath(Path::new("."), config)
}

pub fn registry(root: &Path) -> Registry {
    let client = HttpClient::new(Policy::new(["127.0.0.1", "127.0.0.2"].map(|rule| rule.parse().unwrap())));
    Registry::new(FileRoots::open([root]).unwrap(), client, Clock::system())
}

pub fn connector_beneath(root: &Path, config: &Value) -> Box<dyn Connector> {
    registry(root).open(SourceType::Database, &config.to_string()).unwrap_or_else(|err| panic!("{config}: {err}"))
}

pub async fn read(connector: &dyn Connector, request: ReadRequest) -> Vec<Batch> {
    let (batches, error) = read_until(connector, request).await;
    assert!(error.is_none(), "{error:?}");
    batches
}

/// A request for pages of so many rows, behind `batch`.
pub fn behind(batch: Option<&Batch>, max_items: usize) -> ReadRequest {
    ReadRequest { checkpoint: batch.map(|batch| batch.checkpoint.clone()), max_items, ..ReadRequest::default() }
}

/// What a read of everything says went wrong.
pub async fn error_of(connector: &dyn Connector) -> ConnectorError {
    read_until(connector, ReadRequest::default()).await.1.expect("the read fails")
}

/// The canonical texts of records, in the order of the read.
pub fn texts(batches: &[Batch]) -> Vec<String> {
    let mut canonical = Canonicaliser::default();
    let items = batches.iter().flat_map(|batch| &batch.items);
    items
        .map(|item| match item {
            Item::Record { raw, .. } => match canonical.canonicalise(raw) {
                Ok(record) => record.text.to_owned(),
                Err(rejected) => format!("{}: {rejected:?}", String::from_utf8_lossy(raw)),
            },
            Item::Rejected { reason, .. } => reason.as_str().to_owned(),
        })
        .collect()
}

/// The value of one field in each record.
pub fn field(batches: &[Batch], name: &str) -> Vec<i64> {
    let parsed = texts(batches).into_iter().map(|text| serde_json::from_str::<Value>(&text).unwrap());
    parsed.map(|record| record[name].as_i64().unwrap()).collect()
}

/// An error with its causes, in both languages.
pub fn told(error: &ConnectorError) -> String {
    let words = error.words();
    let causes: Vec<String> = error.causes().iter().map(|cause| cause.english.clone()).collect();
    format!("{} / {} / {}", words.english, words.japanese, causes.join(": "))
}

/// What a checkpoint says.
pub fn state(batch: &Batch) -> Value {
    serde_json::from_str(RawValue::get(&batch.checkpoint)).unwrap()
}

/// The field errors of a config.
pub fn faults(config: &Value) -> Vec<(String, String)> {
    let errors = validate_config(SourceType::Database, &config.to_string()).map(|_| ()).unwrap_err();
    errors.into_iter().map(|error| (error.path.join("."), error.message.english)).collect()
}

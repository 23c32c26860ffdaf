//! A database of its own on the test server.

use matome_connector::Connector;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection};
use url::Url;
use uuid::Uuid;

use crate::servers::Server;
use crate::support::{connector, with_options};

pub struct Bed {
    pub url: Url,
    pub name: String,
}

impl Bed {
    pub async fn new(script: &str) -> Self {
        let server = std::env::var("MATOME_TEST_MYSQL_URL").expect(
            "MATOME_TEST_MYSQL_URL is set: run `scripts/test`, or `scripts/with-postgres scripts/with-mariadb cargo test ...`",
        );
        let mut url = Url::parse(&server).unwrap();
        let name = format!("t_{}", Uuid::new_v4().simple());
        let mut conn = MySqlConnection::connect(url.as_str()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("create database {name}"))).execute(&mut conn).await.unwrap();
        url.set_path(&name);
        let bed = Self { url, name };
        bed.run(script).await;
        bed
    }

    pub async fn connection(&self) -> MySqlConnection {
        let mut conn = MySqlConnection::connect(self.url.as_str()).await.unwrap();
        // What tables may hold, whatever the server lets in by itself.
        let lax = "set session sql_mode = 'ALLOW_INVALID_DATES'";
        sqlx::raw_sql(lax).execute(&mut conn).await.unwrap();
        conn
    }

    pub async fn run(&self, script: &str) {
        if !script.is_empty() {
            let mut conn = self.connection().await;
            sqlx::raw_sql(AssertSqlSafe(script.to_owned())).execute(&mut conn).await.unwrap();
        }
    }

    /// Runs a statement in a session that stays until what is returned is dropped.
    pub async fn hold(&self, sql: &'static str) -> MySqlConnection {
        let mut conn = self.connection().await;
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        conn
    }

    /// The config of a source in this database; `options` wins.
    pub fn config(&self, options: Value) -> Value {
        let config = json!({
            "engine": "mysql", "host": self.url.host_str(), "port": self.url.port(), "database": self.name,
            "user": self.url.username(), "password": self.url.password(), "tls": {"mode": "disable"},
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
        let mut conn = self.connection().await;
        let sql = "select cast(id as char) from information_schema.processlist where db = ? and id <> connection_id()";
        sqlx::query_scalar(sql).bind(&self.name).fetch_all(&mut conn).await.unwrap()
    }

    async fn end(&self, session: &str) {
        self.run(&format!("kill connection {session}")).await;
    }
}

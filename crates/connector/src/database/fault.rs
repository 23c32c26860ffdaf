//! What databases and their drivers complain about, with what to do, in both languages. No message has a secret.

use std::sync::Arc;
use std::time::Duration;

use matome_egress::{EgressError, TlsFault};
use matome_model::field_error::Words;
use matome_model::say;
use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::{PgDatabaseError, PgErrorPosition};

use super::config::{DatabaseConfig, Place, Relation};
use crate::error::{ConnectorError, DatabaseFault};
use crate::record::Position;

/// Makes errors of one source.
#[derive(Clone)]
pub(super) struct Faults {
    document: Arc<str>,
    user: Arc<str>,
    database: Arc<str>,
    query: Option<Arc<str>>,
    lock_timeout: Duration,
}

impl Faults {
    pub(super) fn new(config: &DatabaseConfig) -> Self {
        let (user, database) = match &config.place {
            Place::Server(server) => (server.user.as_str(), server.database.as_str()),
            Place::File(path) => ("", path.as_str()),
        };
        let query = match &config.relation {
            Relation::Query(query) => Some(query.as_str().into()),
            Relation::Table { .. } => None,
        };
        Self {
            document: config.document().into(),
            user: user.into(),
            database: database.into(),
            query,
            lock_timeout: config.common.timeout,
        }
    }

    /// Who reads.
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// The database that is read.
    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// How long is waited for a lock.
    pub(super) fn lock_timeout(&self) -> Duration {
        self.lock_timeout
    }

    /// Where the record of this number is; 0 before the first.
    pub(super) fn at(&self, record: u64) -> Position {
        Position { document: self.document.clone(), request: None, line: None, record, headers: None }
    }

    /// No connection.
    pub(super) fn unreached(&self, source: EgressError) -> ConnectorError {
        ConnectorError::Unreached { position: Box::new(self.at(0)), source }
    }

    /// The server accepted the connection and said nothing more.
    pub(super) fn slow(&self, patience: Duration) -> ConnectorError {
        let secs = patience.as_secs();
        let problem = say!(
            "the server took the connection and did not answer within {secs} s (`timeout_secs`)",
            "サーバーに接続しましたが、{secs} 秒以内 (`timeout_secs`) に応答がありませんでした"
        );
        self.problem(DatabaseFault::Lost, problem)
    }

    /// What this source itself finds wrong.
    pub(super) fn problem(&self, fault: DatabaseFault, problem: Words) -> ConnectorError {
        ConnectorError::Database { position: Box::new(self.at(0)), fault, problem, source: None }
    }

    /// What is read is no longer what the rows were of that came.
    pub(super) fn changed(&self, records: u64, change: (&'static str, &'static str)) -> ConnectorError {
        ConnectorError::Changed { document: self.document.to_string(), records, change, is_stale: false }
    }

    /// What the driver says.
    pub(super) fn of(&self, error: sqlx::Error) -> ConnectorError {
        self.of_query(error, None)
    }

    /// What the driver says about the greeting of a server that speaks first, and about what follows up to the login.
    pub(super) fn of_greeting(&self, error: sqlx::Error) -> ConnectorError {
        const LONGEST: u64 = 64 << 10;
        let problem = match &error {
            // The driver encrypts no password by itself.
            sqlx::Error::Configuration(text) if text.to_string().contains("RSA") => Words::new(
                "the server takes the password of this user over TLS only; set `tls.mode` to `verify-full` or `require`",
                "サーバーはこのユーザーのパスワードを TLS でしか受け取りません。`tls.mode` を `verify-full` か `require` にしてください",
            ),
            sqlx::Error::Protocol(text) if text.contains("plugin") => say!(
                "the user logs in by a means that is not supported: {text}; give it a password of the kind \
                 `mysql_native_password` or `caching_sha2_password`",
                "対応していないログイン方法です: {text}。`mysql_native_password` か `caching_sha2_password` のパスワードを\
                 設定してください"
            ),
            error if is_longer_than(error, LONGEST) => another_protocol(),
            _ => return self.of(error),
        };
        let fault = match &error {
            sqlx::Error::Configuration(_) => DatabaseFault::Tls,
            sqlx::Error::Protocol(_) => DatabaseFault::Auth,
            _ => DatabaseFault::Query,
        };
        ConnectorError::Database { position: Box::new(self.at(0)), fault, problem, source: Some(error) }
    }

    /// What the driver says about a statement; `before`: characters of it in front of the query of the config.
    pub(super) fn of_query(&self, error: sqlx::Error, before: impl Into<Option<usize>>) -> ConnectorError {
        if let Some(tls) = TlsFault::of(&error) {
            let fault = if tls.may_pass() { DatabaseFault::Lost } else { DatabaseFault::Tls };
            let problem = match tls {
                // The driver verifies by itself.
                TlsFault::Authority => Words::new(
                    "the server shows the certificate of an authority (`CA:TRUE`) as its own, which is accepted from no database; have one made for the server (`CA:FALSE`, as `openssl req -x509 -addext subjectAltName=DNS:HOST -addext basicConstraints=critical,CA:FALSE` does), and give that, or the authority's, as `tls.ca_file`",
                    "サーバーが認証局の証明書 (`CA:TRUE`) を自分の証明書として使っています。データベースではこれを受け入れられません。サーバー用の証明書 (`CA:FALSE`、`openssl req -x509 -addext subjectAltName=DNS:HOST -addext basicConstraints=critical,CA:FALSE` など) を作り、それか認証局の証明書を `tls.ca_file` に指定してください",
                ),
                tls => tls.words(),
            };
            let position = Box::new(self.at(0));
            return ConnectorError::Database { position, fault, problem, source: Some(error) };
        }
        let (fault, problem, source) = match error {
            sqlx::Error::Database(said) => {
                let (fault, problem) = self.said(&*said, before.into());
                (fault, problem, None)
            }
            sqlx::Error::Tls(source) if source.to_string().contains("does not support TLS") => {
                let problem = Words::new(
                    "the server does not speak TLS; if nobody can listen on the way to it, set `tls.mode` to `disable`",
                    "サーバーが TLS に対応していません。経路を盗聴される心配がなければ `tls.mode` を `disable` にしてください",
                );
                (DatabaseFault::Tls, problem, None)
            }
            error @ sqlx::Error::Tls(_) => {
                (DatabaseFault::Tls, Words::new("TLS failed", "TLS が失敗しました"), Some(error))
            }
            error if is_of_another_protocol(&error) => (DatabaseFault::Query, another_protocol(), Some(error)),
            error @ sqlx::Error::Io(_) => {
                let problem = Words::new("the connection was lost", "接続が切れました");
                (DatabaseFault::Lost, problem, Some(error))
            }
            error => (DatabaseFault::Query, Words::new("the read failed", "読み取りに失敗しました"), Some(error)),
        };
        ConnectorError::Database { position: Box::new(self.at(0)), fault, problem, source }
    }

    /// What a database itself says.
    fn said(&self, error: &dyn DatabaseError, before: Option<usize>) -> (DatabaseFault, Words) {
        let code = error.code().unwrap_or_default().into_owned();
        if let Some(mysql) = error.try_downcast_ref::<MySqlDatabaseError>() {
            return super::mysql::said(self, mysql);
        }
        let Some(postgres) = error.try_downcast_ref::<PgDatabaseError>() else {
            return super::sqlite::said(&code, error.message());
        };
        let mut message = postgres.message().to_owned();
        for more in [postgres.detail(), postgres.hint()].into_iter().flatten() {
            message.push_str(&format!(" ({more})"));
        }
        let (user, database) = (&self.user, &self.database);
        match code.as_str() {
            "28P01" | "28000" => (
                DatabaseFault::Auth,
                say!(
                    "the server refuses the user `{user}`: {message}; look at `user` and `password`",
                    "サーバーがユーザー `{user}` を拒否しました: {message}。`user` と `password` を確かめてください"
                ),
            ),
            "3D000" => (
                DatabaseFault::Missing,
                say!(
                    "the server has no database `{database}`: {message}",
                    "サーバーにデータベース `{database}` がありません: {message}"
                ),
            ),
            "42P01" | "3F000" | "42703" => {
                let at = self.place(postgres, before);
                (
                    DatabaseFault::Missing,
                    say!(
                        "the server does not find it{at}: {message}; names are compared exactly, and a table outside of the search path needs its schema",
                        "サーバーで見つかりません{at}: {message}。名前は完全に一致する必要があり、検索パスの外のテーブルにはスキーマが要ります"
                    ),
                )
            }
            "42501" => (
                DatabaseFault::Auth,
                say!(
                    "the user `{user}` may not read it: {message}; grant `select`",
                    "ユーザー `{user}` には読む権限がありません: {message}。`select` の権限を与えてください"
                ),
            ),
            "25006" => (
                DatabaseFault::Query,
                say!(
                    "the query would write, and sources are only read: {message}",
                    "クエリーが書き込もうとしていますが、データソースは読むだけです: {message}"
                ),
            ),
            "57014" => (
                DatabaseFault::Timeout,
                say!(
                    "the server gave the statement up: {message}; see `statement_timeout_secs`, and whether an index fits the order",
                    "サーバーが文を打ち切りました: {message}。`statement_timeout_secs` と、順序に合う索引があるかを確かめてください"
                ),
            ),
            "55P03" => {
                let secs = self.lock_timeout.as_secs();
                (
                    DatabaseFault::Lost,
                    say!(
                        "somebody holds a lock on it for longer than {secs} s (`timeout_secs`): {message}",
                        "ほかの処理が {secs} 秒 (`timeout_secs`) を超えてロックしています: {message}"
                    ),
                )
            }
            code if matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58" | "XX")) => (
                DatabaseFault::Lost,
                say!("the server can not go on: {message} ({code})", "サーバーが続けられません: {message} ({code})"),
            ),
            code if matches!(code.get(..2), Some("42" | "0A" | "26" | "34")) => {
                let at = self.place(postgres, before);
                (
                    DatabaseFault::Query,
                    say!(
                        "the server does not accept the query{at}: {message}",
                        "サーバーがクエリーを受け付けません{at}: {message}"
                    ),
                )
            }
            "22021" => (
                DatabaseFault::Query,
                say!(
                    "a text of the database is in no encoding that it knows: {message}; say which one it is with a `query`, such as select convert_from(convert(name::bytea, 'LATIN1', 'UTF8'), 'UTF8') as name",
                    "データベースの文字列に、エンコーディングの分からないものがあります: {message}。`query` で指定してください (例: select convert_from(convert(name::bytea, 'LATIN1', 'UTF8'), 'UTF8') as name)"
                ),
            ),
            code => (
                DatabaseFault::Query,
                say!("the server says: {message} ({code})", "サーバーのエラー: {message} ({code})"),
            ),
        }
    }

    /// ` at line 2, column 5`, where in the query of the config an error is.
    fn place(&self, error: &PgDatabaseError, before: Option<usize>) -> String {
        let (Some(query), Some(before), Some(PgErrorPosition::Original(position))) =
            (&self.query, before, error.position())
        else {
            return String::new();
        };
        let Some(at) = position.checked_sub(before + 1).filter(|at| *at <= query.chars().count()) else {
            return String::new();
        };
        let read: String = query.chars().take(at).collect();
        let line = read.matches('\n').count() + 1;
        let column = read.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!(" (`query` {line}:{column})")
    }
}

/// An identifier as PostgreSQL and SQLite take it exactly.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Messages of these protocols begin with their length; what begins with text seems to be longer than any.
fn is_of_another_protocol(error: &sqlx::Error) -> bool {
    const LONGEST: u64 = 1 << 30;
    matches!(error, sqlx::Error::Protocol(_)) || is_longer_than(error, LONGEST)
}

/// Whether the connection ended in the middle of a message that should have been so long.
fn is_longer_than(error: &sqlx::Error, longest: u64) -> bool {
    let sqlx::Error::Io(error) = error else { return false };
    let text = error.to_string();
    let length = text.strip_prefix("expected to read ").and_then(|rest| rest.split(' ').next());
    length.and_then(|length| length.parse().ok()).is_some_and(|length: u64| length > longest)
}

fn another_protocol() -> Words {
    Words::new(
        "what answers there does not speak the protocol of this database; look at `host`, `port` and `engine`",
        "応答した相手はこのデータベースのプロトコルを話しません。`host`、`port`、`engine` を確かめてください",
    )
}

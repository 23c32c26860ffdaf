//! The options of a `database` source.

use std::collections::BTreeMap;
use std::time::Duration;

use matome_model::field_error::Words;
use matome_model::source::{Dedupe, HostUse};
use serde_json::Value;

use super::incremental::{Incremental, Nulls};
use super::server::{self, Server};
use crate::config::{CommonConfig, FieldError, Fields, parse_common};

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    Mysql,
    /// SQLite.
    Sqlite,
}

impl Engine {
    pub(crate) const WORDS: [(&str, Self); 5] = [
        ("postgres", Self::Postgres),
        ("postgresql", Self::Postgres),
        ("mysql", Self::Mysql),
        ("mariadb", Self::Mysql),
        ("sqlite", Self::Sqlite),
    ];

    /// The word in configs, and the scheme of its addresses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
            Self::Sqlite => "sqlite",
        }
    }

    /// The engine of a server whose address has this scheme.
    pub(super) fn of_scheme(scheme: &str) -> Option<Self> {
        let engine = Self::WORDS.iter().find(|(word, _)| *word == scheme).map(|(_, engine)| *engine);
        engine.filter(|engine| *engine != Self::Sqlite)
    }

    pub(super) fn default_port(self) -> u16 {
        if self == Self::Mysql { 3306 } else { 5432 }
    }

    /// The settings that `options` may name.
    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &["search_path", "role", "work_mem", "application_name"],
            Self::Mysql => &["role", "sort_buffer_size", "join_buffer_size", "group_concat_max_len"],
            Self::Sqlite => &[],
        }
    }
}

/// Where the database is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A server.
    Server(Server),
    /// `path`: an SQLite file beneath a file root.
    File(String),
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `table`, in `schema` if there is one: names exactly as the database has them.
    Table {
        /// `schema`.
        schema: Option<String>,
        /// `table`.
        table: String,
    },
    /// `query`: one statement that only reads.
    Query(String),
}

/// A `database` source.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `engine`: `postgres`, `mysql` or `sqlite`.
    pub engine: Engine,
    /// Where it is.
    pub place: Place,
    /// `table` or `query`.
    pub relation: Relation,
    /// `incremental`: reads only what is new.
    pub incremental: Option<Incremental>,
    /// `statement_timeout_secs`: how long a statement may take, the transfer of its rows included; 1 to 604800. Default:
    /// what the server has for the user.
    pub statement_timeout: Option<Duration>,
    /// `options`: settings of the session.
    pub options: BTreeMap<String, String>,
    /// Options of every source.
    pub common: CommonConfig,
}

impl DatabaseConfig {
    /// What is read, as records name it: no user, no password.
    pub(super) fn document(&self) -> String {
        let base = match &self.place {
            Place::Server(server) => {
                let (engine, port, database) = (self.engine.as_str(), server.port, &server.database);
                let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.clone() };
                format!("{engine}://{host}:{port}/{database}")
            }
            Place::File(path) => path.clone(),
        };
        match &self.relation {
            Relation::Table { schema: None, table } => format!("{base}#{table}"),
            Relation::Table { schema: Some(schema), table } => format!("{base}#{schema}.{table}"),
            Relation::Query(_) => base,
        }
    }

    /// The host of its server.
    pub fn host(&self) -> Option<HostUse> {
        match &self.place {
            Place::Server(server) => Some(HostUse { host: server.host.clone(), concurrent: None }),
            Place::File(_) => None,
        }
    }

    /// Whether a read that was interrupted goes on where it stopped, whatever the table is.
    pub fn goes_on(&self) -> bool {
        self.incremental.is_some() && self.common.dedupe != Dedupe::Rows
    }
}

/// Checks the options of a `database` source.
pub(crate) fn parse(mut fields: Fields) -> Result<DatabaseConfig, Vec<FieldError>> {
    let is_incremental = fields.has("incremental");
    // `rows` needs to see all of a table each time.
    let common = parse_common(&mut fields, if is_incremental { Dedupe::Hash } else { Dedupe::Rows });
    if is_incremental && common.dedupe == Dedupe::Rows {
        let words = Words::new(
            "An incremental read does not see all rows, so it can not count equal ones. Use `key` (best), `hash` or `none`.",
            "差分の読み取りでは全行を見ないため、同じ行を数えられません。`key` (推奨)、`hash`、`none` のどれかにしてください。",
        );
        fields.fail("dedupe", words);
    }
    let url = fields.has("url").then(|| server::url(&mut fields)).flatten();
    let has_engine = fields.has("engine");
    let engine = fields.choice("engine", &Engine::WORDS);
    let engine = match (engine, &url) {
        (Some(engine), Some((other, _))) if engine != *other => {
            let words = Words::new("It is another one than that of `url`.", "`url` のものと異なります。");
            fields.fail("engine", words);
            None
        }
        (None, _) if has_engine => None,
        (None, None) if fields.has("path") => Some(Engine::Sqlite),
        (None, None) => {
            let words = Words::new(
                "Say which database it is: `postgres`, `mysql` or `sqlite`.",
                "データベースの種類を指定してください: `postgres`、`mysql`、`sqlite` のどれか。",
            );
            fields.fail("engine", words);
            None
        }
        (engine, url) => engine.or(url.as_ref().map(|(engine, _)| *engine)),
    };
    let place = match engine {
        Some(Engine::Sqlite) => file(&mut fields).map(Place::File),
        Some(engine) => server::parse(&mut fields, engine, url.map(|(_, url)| url)).map(Place::Server),
        None => None,
    };
    let relation = relation(&mut fields);
    if let (Some(Engine::Sqlite), Some(Relation::Query(query))) = (engine, &relation)
        && query.contains(';')
    {
        // The driver would run what stands behind it as a further statement, which could attach another file.
        let words = Words::new(
            "A query is one statement without `;`. In a text write `char(59)` for it.",
            "クエリーは `;` を含まない1つの文です。文字列の中では `char(59)` と書いてください。",
        );
        fields.fail("query", words);
    }
    let incremental = Incremental::parse(&mut fields, common.dedupe);
    if incremental.as_ref().is_some_and(|incremental| incremental.start.is_some()) {
        common.deletes.refuse_beside(&mut fields, "start");
    }
    if incremental.as_ref().is_some_and(|incremental| incremental.nulls == Nulls::Skip) {
        common.deletes.refuse_beside(&mut fields, "nulls");
    }
    let statement_timeout = fields.integer("statement_timeout_secs", 1, 7 * 86_400).map(Duration::from_secs);
    let options = options(&mut fields, engine);
    if engine.is_none() {
        // Without it nobody knows which of the other options there are.
        fields.forget_rest();
    }
    fields.finish()?;
    // What is missing here has left an error, so that `finish` has returned already.
    let (Some(engine), Some(place), Some(relation)) = (engine, place, relation) else { return Err(Vec::new()) };
    Ok(DatabaseConfig { engine, place, relation, incremental, statement_timeout, options, common })
}

fn file(fields: &mut Fields) -> Option<String> {
    let path = fields.required_string("path")?;
    if path.split('/').any(|part| part == "..") {
        fields.fail("path", Words::new("The path may not contain `..`.", "パスに `..` は使えません。"));
    } else if path.contains('\0') {
        fields.fail("path", no_nul());
    }
    Some(path)
}

fn relation(fields: &mut Fields) -> Option<Relation> {
    let (has_table, has_query) = (fields.has("table"), fields.has("query"));
    let (table, schema, query) = (fields.string("table"), fields.string("schema"), fields.string("query"));
    for (name, value) in [("table", &table), ("schema", &schema), ("query", &query)] {
        if value.as_deref().is_some_and(|value| value.contains('\0')) {
            fields.fail(name, no_nul());
        }
    }
    match (has_table, has_query) {
        (true, true) => {
            let words =
                Words::new("Give `table` or `query`, not both.", "`table` か `query` の一方だけにしてください。");
            fields.fail("query", words);
        }
        (false, false) => {
            let words = Words::new(
                "Say what to read: the name of a table or view, or a `query`.",
                "何を読むかを指定してください: テーブルかビューの名前、または `query`。",
            );
            fields.fail("table", words);
        }
        (false, true) if schema.is_some() => {
            let words = Words::new(
                "It goes with `table`. In a query write `schema.table`.",
                "`table` と一緒に使います。クエリーの中では `schema.table` と書いてください。",
            );
            fields.fail("schema", words);
        }
        _ => {}
    }
    if let Some(query) = query {
        let query = query.trim_end_matches(|c: char| c.is_whitespace() || c == ';').to_owned();
        if query.is_empty() {
            fields.fail("query", Words::blank());
        }
        return Some(Relation::Query(query));
    }
    let table = table?;
    Some(match (schema, table.split_once('.')) {
        (None, Some((schema, table))) => Relation::Table { schema: Some(schema.to_owned()), table: table.to_owned() },
        (schema, _) => Relation::Table { schema, table },
    })
}

fn options(fields: &mut Fields, engine: Option<Engine>) -> BTreeMap<String, String> {
    let known = match engine {
        Some(Engine::Sqlite) => return BTreeMap::new(),
        Some(engine) => engine.options(),
        None => {
            fields.raw("options");
            return BTreeMap::new();
        }
    };
    let mut options = BTreeMap::new();
    let Some(mut own) = fields.nested("options") else { return options };
    for name in known {
        if let Some(value) = own.value(name) {
            match value {
                Value::String(text) if !text.contains('\0') => drop(options.insert((*name).to_owned(), text)),
                Value::Number(number) => drop(options.insert((*name).to_owned(), number.to_string())),
                _ => own.fail(name, Words::no_string()),
            }
        }
    }
    fields.absorb(own);
    options
}

pub(super) fn no_nul() -> Words {
    Words::new("It may not contain the NUL character.", "NUL 文字は使えません。")
}

//! Which tables there are, for those who have not said which one they mean, or meant one that is not there.

use std::sync::Arc;

use matome_egress::Dialer;
use matome_model::field_error::{FieldError, Words};
use matome_model::say;
use matome_model::source::SourceType;
use serde_json::{Map, Value, json};

use super::config::{DatabaseConfig, Relation};
use super::fault::Faults;
use super::session::Session;
use crate::config::{ParsedConfig, validate_config};
use crate::error::{ConnectorError, DatabaseFault};
use crate::file::FileRoots;
use crate::probe::{Finding, Proposal, change_rank};
use crate::record::ReadStats;

/// More of them are not listed.
pub(super) const MOST_TABLES: usize = 500;
/// Names in a message.
const NAMED: usize = 20;

/// A table or view that may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its schema, where its name alone does not find it.
    pub schema: Option<String>,
    /// Its name.
    pub name: String,
    /// The columns of its primary key, in their order; none of a view.
    pub key: Vec<String>,
}

impl Table {
    /// As the option `table` has it.
    pub fn written(&self) -> String {
        match &self.schema {
            None => self.name.clone(),
            Some(schema) => format!("{schema}.{}", self.name),
        }
    }

    /// Adds a table, or one more column of its key to the last one.
    pub(super) fn collect(tables: &mut Vec<Self>, schema: Option<String>, name: String, key: Option<String>) {
        match tables.last_mut() {
            Some(last) if last.schema == schema && last.name == name => last.key.extend(key),
            _ => tables.push(Self { schema, name, key: key.into_iter().collect() }),
        }
    }
}

/// Whether a config says what of its database is read.
pub(crate) fn names_relation(config: &str) -> bool {
    let given: Map<String, Value> = serde_json::from_str(config).unwrap_or_default();
    given.contains_key("table") || given.contains_key("query")
}

/// What is wrong with a config that need not say what is read.
pub(crate) fn validate_without_relation(config: &str) -> Result<(), Vec<FieldError>> {
    let mut errors = match validate_config(SourceType::Database, config) {
        Ok(parsed) if parsed.is_draft() => vec![FieldError::new(&["url"], Words::required())],
        Ok(_) => Vec::new(),
        Err(errors) => errors,
    };
    if !names_relation(config) {
        errors.retain(|error| error.path != ["table"]);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The tables of the database that `config` names, which need not say what of it is read.
pub(crate) async fn list(roots: Arc<FileRoots>, dialer: Dialer, config: &str) -> Result<Vec<Table>, ConnectorError> {
    let mut whole: Map<String, Value> = serde_json::from_str(config).unwrap_or_default();
    whole.remove("table");
    whole.remove("schema");
    whole.insert("query".to_owned(), "select 1".into());
    let parsed = parsed(&Value::Object(whole).to_string())?;
    let faults = Faults::new(&parsed);
    let mut session = Session::open(&parsed, &roots, &dialer, &faults).await?;
    let tables = session.tables(&faults).await?;
    session.close().await;
    if tables.is_empty() {
        let problem = Words::new(
            "the database has no table that may be read: create one, or grant `select`",
            "読めるテーブルがデータベースにありません。テーブルを作るか、`select` の権限を与えてください",
        );
        return Err(faults.problem(DatabaseFault::Missing, problem));
    }
    Ok(tables)
}

/// What tells the rows of the table that `config` names apart, and which of them changed.
pub(crate) async fn propose(roots: Arc<FileRoots>, dialer: Dialer, config: &str) -> Result<Proposal, ConnectorError> {
    let given: Map<String, Value> = serde_json::from_str(config).unwrap_or_default();
    let parsed = parsed(config)?;
    let faults = Faults::new(&parsed);
    let mut session = Session::open(&parsed, &roots, &dialer, &faults).await?;
    let columns = match session.columns(&faults).await {
        Ok(columns) => columns,
        Err(error) => return Err(with_tables(error, &parsed, &roots, &dialer, &faults).await),
    };
    let key = match &parsed.relation {
        Relation::Table { .. } => session.primary_key(&faults).await?,
        Relation::Query(_) => Vec::new(),
    };
    session.close().await;
    let mut findings = Vec::new();
    if !given.contains_key("key") && !given.contains_key("dedupe") {
        findings.push(of_key(&key));
    }
    if !given.contains_key("incremental") {
        findings.push(of_changes(&columns));
    }
    let options = findings.iter().filter_map(|found| Some((found.option.to_owned(), found.value.clone()?)));
    Ok(Proposal { options: options.collect(), findings, stats: ReadStats::default() })
}

fn parsed(config: &str) -> Result<Box<DatabaseConfig>, ConnectorError> {
    match validate_config(SourceType::Database, config).map_err(ConnectorError::Config)? {
        ParsedConfig::Database(parsed) => Ok(parsed),
        _ => Err(ConnectorError::Draft),
    }
}

fn of_key(key: &[String]) -> Finding {
    // A dot goes deeper in `key`.
    let paths: Vec<String> = key.iter().map(|name| name.replace('\\', "\\\\").replace('.', "\\.")).collect();
    let (value, words) = match &paths[..] {
        [] => (
            None,
            Words::new(
                "there is no primary key: rows are told apart by their content",
                "主キーがありません。行は内容で区別します",
            ),
        ),
        [only] => (Some(json!(only)), say!("`{only}` is the primary key", "`{only}` が主キーです")),
        several => {
            let names = several.join("`, `");
            (Some(json!(several)), say!("`{names}` are the primary key", "`{names}` が主キーです"))
        }
    };
    Finding { option: "key", value, words }
}

/// Not proposed: a row that is deleted, or changes without its time, would not be seen.
fn of_changes(columns: &[String]) -> Finding {
    let ranked = columns.iter().filter_map(|name| Some((change_rank(name)?, name))).min();
    let words = match ranked {
        Some((_, name)) => say!(
            "`{name}` may say when a row changed: if every change moves it, incremental.cursor={name} reads only rows that changed",
            "`{name}` が行の変わった時を示すようです。変更のたびに進むなら、incremental.cursor={name} で変わった行だけを読めます"
        ),
        None => Words::new(
            "no column says when a row changed: every read asks for all rows",
            "行がいつ変わったかを示す列がありません。毎回すべての行を読みます",
        ),
    };
    Finding { option: "incremental", value: None, words }
}

/// An error over a table that is not there, with the names of those that are.
pub(super) async fn with_tables(
    error: ConnectorError,
    config: &DatabaseConfig,
    roots: &FileRoots,
    dialer: &Dialer,
    faults: &Faults,
) -> ConnectorError {
    let (ConnectorError::Database { fault: DatabaseFault::Missing, .. }, Relation::Table { schema, table }) =
        (&error, &config.relation)
    else {
        return error;
    };
    // The transaction of the statement that failed takes no other one.
    let listed = async { Session::open(config, roots, dialer, faults).await?.tables(faults).await };
    let Ok(tables) = listed.await else { return error };
    let wanted = Table { schema: schema.clone(), name: table.clone(), key: Vec::new() }.written();
    let ConnectorError::Database { position, fault, problem, source } = error else { return error };
    let problem = Words::joined([problem, there_are(&wanted, &tables)]);
    ConnectorError::Database { position, fault, problem, source }
}

fn there_are(wanted: &str, tables: &[Table]) -> Words {
    let mut names: Vec<(usize, String)> = tables
        .iter()
        .map(|table| {
            (strsim::damerau_levenshtein(&table.written().to_lowercase(), &wanted.to_lowercase()), table.written())
        })
        .collect();
    if names.is_empty() {
        return Words::new("there is no table that may be read", "読めるテーブルはありません");
    }
    // The nearest first: of many only those are of use.
    names.sort();
    let more = names.len().saturating_sub(NAMED);
    let known: Vec<String> = names.iter().take(NAMED).map(|(_, name)| format!("`{name}`")).collect();
    let known = known.join(", ");
    match more {
        0 => say!("there are {known}", "あるもの: {known}"),
        more => say!("there are {known} and {more} more", "あるもの: {known} ほか {more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first() {
        let table = |name: &str| Table { schema: None, name: name.to_owned(), key: Vec::new() };
        let tables: Vec<Table> = ["customers", "orders", "Order"].map(table).into();
        assert_eq!(there_are("order", &tables).english, "there are `Order`, `orders`, `customers`");
        let many: Vec<Table> = (0..30).map(|n| table(&format!("t{n:02}"))).collect();
        assert!(there_are("t29", &many).english.ends_with("and 10 more"));
        assert!(there_are("t29", &[]).english.contains("no table"));
    }

    #[test]
    fn a_config_that_is_to_be_completed_need_not_say_what_is_read() {
        assert!(validate_without_relation(r#"{"path":"a.db"}"#).is_ok());
        for wrong in ["{}", r#"{"path":"a.db","table":""}"#, r#"{"table":"t"}"#, r#"{"path":"a.db","nope":1}"#] {
            assert!(validate_without_relation(wrong).is_err(), "{wrong}");
        }
    }
}

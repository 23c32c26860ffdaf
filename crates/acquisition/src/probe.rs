//! Looking at a source before it is one: what its options may be, and the first records that come with them.

use std::time::Duration;

use matome_connector::{Finding, Registry, Table};
use matome_model::field_error::Words;
use matome_model::inference::{ColumnType, Inference, InferenceError, for_each_field};
use matome_model::language::Language;
use matome_model::say;
use matome_model::source::SourceType;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::patience;
use crate::sample::{Sample, SampleError, SampleStats, sample};

/// What is proposed for a source.
#[derive(Debug, Serialize)]
pub struct Probe {
    /// The type of the source.
    pub source_type: &'static str,
    /// Options to be added to the config that was given. With a `path` among them, that is in the place of its `url`.
    pub proposed: Map<String, Value>,
    /// What was found, one by one.
    pub findings: Vec<Found>,
    /// The columns that the records of the sample make.
    pub columns: Vec<Column>,
    /// The first records that a source with these options gives.
    pub sample: Sample,
    /// The tables of a database, where the config does not say which one is read. With one it is proposed; of several none is read.
    pub tables: Vec<TableFound>,
    /// Why this is likely not what is meant, in English until [`Probe::spoken`].
    pub doubts: Vec<String>,
    #[serde(skip)]
    doubted: Vec<Words>,
    /// What the guesses cost, the sample apart.
    pub stats: SampleStats,
}

/// One thing that was found, or looked for in vain.
#[derive(Debug, Serialize)]
pub struct Found {
    /// The option that it is about.
    pub option: &'static str,
    /// What is proposed for it; null when it stays as it is.
    pub value: Option<Value>,
    /// What was seen, in English until [`Probe::spoken`].
    pub message: String,
    #[serde(skip)]
    finding: Finding,
}

/// A table or view that could be read.
#[derive(Debug, Serialize)]
pub struct TableFound {
    /// What the option `table` is to be.
    pub table: String,
    /// The columns of its primary key.
    pub key: Vec<String>,
}

impl From<&Table> for TableFound {
    fn from(table: &Table) -> Self {
        Self { table: table.written(), key: table.key.clone() }
    }
}

/// A column of the sample.
#[derive(Debug, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type: `boolean`, `integer`, `decimal(9, 2)`, `text`, `list` or `object`.
    #[serde(rename = "type")]
    pub column_type: String,
    /// Records of the sample that have null there, or nothing.
    pub nulls: usize,
}

impl Probe {
    /// The same with what is for people in `language`.
    #[must_use]
    pub fn spoken(mut self, language: Language) -> Self {
        for found in &mut self.findings {
            found.finding.words.text(language).clone_into(&mut found.message);
        }
        self.doubts = self.doubted.iter().map(|doubt| doubt.text(language).to_owned()).collect();
        Self { sample: self.sample.spoken(language), ..self }
    }
}

/// Proposes what `config`, with its secrets in place, leaves open, and reads at most `count` records with it. Without a `source_type`
/// what is at its address says whether it is an API or a file.
///
/// # Errors
/// As [`sample`]; `limit` is for both together.
pub async fn probe(
    registry: &Registry,
    source_type: Option<SourceType>,
    config: &str,
    count: usize,
    limit: Duration,
) -> Result<Probe, SampleError> {
    let config = &patience::within(config, limit);
    let look = async {
        let (source_type, config, chosen) = match source_type {
            Some(source_type) => (source_type, config.to_owned(), None),
            None => registry.choose(config).await?,
        };
        let tables = match source_type {
            SourceType::Database => registry.tables(&config).await?.unwrap_or_default(),
            _ => Vec::new(),
        };
        if tables.len() > 1 {
            return Ok(of_tables(&tables));
        }
        let only = tables.first().map(Table::written);
        let config = match &only {
            Some(table) => with_option(&config, "table", table.as_str().into()),
            None => config,
        };
        // What is left of the time is for the sample.
        let proposal = registry.probe(source_type, &config, limit / 2).await?;
        let mut whole: Map<String, Value> = serde_json::from_str(&config).unwrap_or_default();
        whole.extend(proposal.options.clone());
        let mut proposed = proposal.options;
        let tables = tables.iter().map(TableFound::from).collect();
        let table = only.map(|table| {
            proposed.insert("table".to_owned(), table.as_str().into());
            let words = Words::new("the only one there is", "これだけがあります");
            Finding { option: "table", value: Some(table.into()), words }
        });
        if source_type == SourceType::File && chosen.is_some() {
            proposed.extend(whole.get_key_value("path").map(|(name, path)| (name.clone(), path.clone())));
        }
        let whole = Value::Object(whole).to_string();
        let sample = sample(registry, source_type, &whole, None, None, count, limit).await?;
        let columns = columns(&sample);
        let doubted = doubts(&sample, source_type);
        let findings = chosen.into_iter().chain(table).chain(proposal.findings).map(Found::from);
        let stats = SampleStats { requests: proposal.stats.requests, bytes: proposal.stats.bytes };
        let (source_type, findings) = (source_type.as_str(), findings.collect());
        let doubts = doubted.iter().map(|doubt| doubt.english.clone()).collect();
        Ok(Probe { source_type, proposed, findings, columns, sample, tables, doubts, doubted, stats })
    };
    tokio::time::timeout(limit, look).await.unwrap_or(Err(SampleError::TimedOut { limit }))
}

impl From<Finding> for Found {
    fn from(finding: Finding) -> Self {
        let (option, value, message) = (finding.option, finding.value.clone(), finding.words.english.clone());
        Self { option, value, message, finding }
    }
}

fn with_option(config: &str, name: &str, value: Value) -> String {
    let mut config: Map<String, Value> = serde_json::from_str(config).unwrap_or_default();
    config.insert(name.to_owned(), value);
    Value::Object(config).to_string()
}

/// Nobody but the user knows which of them is meant.
fn of_tables(tables: &[Table]) -> Probe {
    let count = tables.len();
    let words = say!(
        "there are {count} tables: say which one",
        "テーブルが {count} 個あります。どれを読むかを指定してください"
    );
    Probe {
        source_type: SourceType::Database.as_str(),
        proposed: Map::new(),
        findings: vec![Finding { option: "table", value: None, words }.into()],
        columns: Vec::new(),
        sample: Sample::none(),
        tables: tables.iter().map(TableFound::from).collect(),
        doubts: Vec::new(),
        doubted: Vec::new(),
        stats: SampleStats::default(),
    }
}

/// Members of an object that says that something went wrong.
const OF_ERRORS: &[&str] = &[
    "error",
    "errors",
    "error_description",
    "error_code",
    "message",
    "detail",
    "code",
    "status",
    "success",
    "ok",
    "title",
    "type",
    "request_id",
    "requestId",
    "documentation_url",
    "timestamp",
    "path",
];

/// Why what was found is likely not what somebody wants to store.
fn doubts(sample: &Sample, source_type: SourceType) -> Vec<Words> {
    let mut doubts = Vec::new();
    match (sample.records.len(), sample.quarantined.len()) {
        // A table says what its columns are.
        (0, 0) if source_type == SourceType::Database => {}
        (0, 0) => doubts.push(Words::new(
            "no record is in it: whether it would be read right can not be told",
            "レコードが1件もありません。正しく読めるかどうか分かりません",
        )),
        (0, bad) => doubts.push(say!(
            "not one record of it could be stored: all {bad} of the sample would go to quarantine",
            "保存できるレコードがありません。見本の {bad} 件すべてが隔離されます"
        )),
        _ => {}
    }
    if source_type == SourceType::Api
        && let [only] = &sample.records[..]
        && let Ok(only) = serde_json::from_str::<Map<String, Value>>(only.get())
        && let Some(error) = ["error", "errors"].into_iter().find(|name| says_something(only.get(*name)))
        && only.keys().all(|name| OF_ERRORS.contains(&name.as_str()))
    {
        doubts.push(say!(
            "the only record has `{error}`: the server seems to say that something is wrong",
            "ただ一つのレコードに `{error}` があります。サーバーが誤りを伝えているようです"
        ));
    }
    doubts
}

fn says_something(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    }
}

/// The columns of a sample; none of one whose records can not be a table.
fn columns(sample: &Sample) -> Vec<Column> {
    let mut inference = Inference::default();
    let mut filled = std::collections::HashMap::<String, usize>::new();
    for record in &sample.records {
        let counted = for_each_field::<InferenceError>(record.get(), |name, value| {
            if value != "null" {
                *filled.entry(name.into_owned()).or_default() += 1;
            }
            Ok(())
        });
        if counted.is_err() || inference.record(record.get()).is_err() {
            return Vec::new();
        }
    }
    let nulls = |name: &str| sample.records.len() - filled.get(name).copied().unwrap_or_default();
    let columns = inference.columns().into_iter();
    columns.map(|(name, of)| Column { nulls: nulls(&name), name, column_type: word(&of) }).collect()
}

fn word(of: &ColumnType) -> String {
    match of {
        ColumnType::Boolean => "boolean".to_owned(),
        ColumnType::Integer => "integer".to_owned(),
        ColumnType::Decimal { precision, scale } => format!("decimal({precision}, {scale})"),
        ColumnType::Text => "text".to_owned(),
        ColumnType::List(_) => "list".to_owned(),
        ColumnType::Struct(_) => "object".to_owned(),
    }
}

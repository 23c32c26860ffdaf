//! What `source add NAME ADDRESS` does before it adds: it has the server look at the API or the files, and shows what was found.

use matome_model::field_error::Words;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::console::Console;
use crate::failure::{Exit, Failure, said};
use crate::message::Message;
use crate::output::{aligned, cells};

const PROBE: &str = "/api/acquisition/probe/";
/// Records that are shown.
const RECORDS: usize = 5;
/// Columns of them: more would not fit beside each other.
const COLUMNS: usize = 6;
/// Characters of a value.
const CELL: usize = 24;

#[derive(Deserialize)]
struct Answer {
    source_type: Option<String>,
    #[serde(default)]
    proposed: Map<String, Value>,
    #[serde(default)]
    findings: Vec<Finding>,
    #[serde(default)]
    columns: Vec<Column>,
    sample: Option<Sample>,
    #[serde(default)]
    doubts: Vec<String>,
    #[serde(default)]
    tables: Vec<Table>,
    error: Option<Trouble>,
}

#[derive(Deserialize)]
struct Finding {
    option: String,
    value: Option<Value>,
    message: String,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    column_type: String,
    nulls: u64,
}

#[derive(Deserialize)]
struct Sample {
    records: Vec<Box<RawValue>>,
    quarantined: Vec<Rejected>,
}

#[derive(Deserialize)]
struct Rejected {
    detail: String,
}

#[derive(Deserialize)]
struct Table {
    table: String,
    key: Vec<String>,
}

/// Why a trial, of a source that is or is not yet, gave nothing.
#[derive(Deserialize)]
pub struct Trouble {
    message: String,
    causes: Vec<String>,
    #[serde(default)]
    help: Option<String>,
}

impl Trouble {
    /// As an error, with what to do about it and, behind that, what else may be done.
    pub fn failure(self, otherwise: Option<Message>) -> Failure {
        let Self { message, causes, help } = self;
        let helps = help.map(|help| Words::from(said(help))).into_iter().chain(otherwise.map(Words::from));
        let helps: Vec<Words> = helps.collect();
        let failure = Failure::new(Exit::Failed, said(message));
        let failure = if causes.is_empty() { failure } else { failure.why(said(causes.join(": "))) };
        if helps.is_empty() { failure } else { failure.help(Words::joined(helps)) }
    }
}

/// Completes the config of `body` with what is proposed for it, once the user agrees. `is_either`: what is there says whether it is an
/// API or a file.
pub async fn complete(
    client: &Client,
    console: &Console,
    body: &mut Value,
    is_either: bool,
    yes: bool,
) -> Result<(), Failure> {
    let name = body["name"].as_str().unwrap_or_default().to_owned();
    let (is_file, is_database) = (body["source_type"] == "file", body["source_type"] == "database");
    let at = |option: &str| body["config"][option].as_str().map(str::to_owned);
    let place = if is_file { at("path") } else { at("url").or_else(|| at("path")) };
    let place = place.unwrap_or_default();
    let mut asked = json!({ "config": body["config"], "records": RECORDS });
    if !is_either {
        asked["source_type"] = body["source_type"].clone();
    }
    let answer = client.post(PROBE, asked.to_string()).await?.into_json()?;
    let answer: Answer = serde_json::from_str(answer.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
    let without_look = match is_file {
        true => Message::AddFileWithoutLook { name: name.clone(), path: place.clone() },
        false if is_database => Message::AddTable { name: name.clone(), table: "TABLE".to_owned() },
        false => Message::AddWithoutLook { name: name.clone(), url: place.clone() },
    };
    if let Some(trouble) = answer.error {
        return Err(trouble.failure(Some(without_look)));
    }
    console.notice(Message::LookedAt { place });
    show(console, &answer);
    if let [first, _, ..] = &answer.tables[..] {
        let help = Message::AddTable { name, table: first.table.clone() };
        return Err(Failure::new(Exit::Usage, Message::ChooseTable).help(help));
    }
    if yes && !answer.doubts.is_empty() {
        // Nobody looks at what is shown: what is likely wrong must not be read every hour from now on.
        let why = said(answer.doubts.join("; "));
        return Err(Failure::new(Exit::Failed, Message::ProposalDoubted).why(why).help(without_look));
    }
    for doubt in &answer.doubts {
        console.notice(Message::Doubt { doubt: doubt.clone() });
    }
    console.notice(Message::ChangeProposal { name: name.clone() });
    console.confirm(Message::AddSource { name }, yes)?;
    if let Some(config) = body["config"].as_object_mut() {
        if answer.proposed.contains_key("path") {
            config.remove("url");
        }
        config.extend(answer.proposed);
    }
    if let Some(source_type) = answer.source_type {
        body["source_type"] = source_type.into();
    }
    Ok(())
}

fn show(console: &Console, answer: &Answer) {
    let width = answer.findings.iter().map(|finding| finding.option.len()).max().unwrap_or_default();
    for Finding { option, value, message } in &answer.findings {
        let value = match value {
            Some(Value::String(text)) => format!("{text}: "),
            Some(value) => format!("{value}: "),
            None => String::new(),
        };
        eprintln!("  {option:width$}  {value}{message}");
    }
    if answer.tables.len() > 1 {
        let lines = answer.tables.iter().map(|Table { table, key }| vec![table.clone(), key.join(", ")]).collect();
        eprintln!("{}", aligned(console.language, &["table".to_owned(), "primary key".to_owned()], lines));
    }
    let types = answer.columns.iter().map(|Column { name, column_type, nulls }| {
        let nulls = if *nulls > 0 { "?" } else { "" };
        format!("{name} {column_type}{nulls}")
    });
    let types: Vec<String> = types.collect();
    if !types.is_empty() {
        console.notice(Message::ColumnsAre { columns: types.join(", ") });
    }
    let Some(sample) = &answer.sample else { return };
    for Rejected { detail } in &sample.quarantined {
        console.notice(Message::WouldBeQuarantined { detail: detail.clone() });
    }
    let (headings, lines) = cells(&sample.records, &[]);
    let short = |text: String| match text.char_indices().nth(CELL) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    };
    let lines: Vec<Vec<String>> =
        lines.into_iter().map(|line| line.into_iter().take(COLUMNS).map(short).collect()).collect();
    if !lines.is_empty() {
        let headings: Vec<String> = headings.into_iter().take(COLUMNS).collect();
        eprintln!("{}", aligned(console.language, &headings, lines));
    }
}

//! `matome quarantine ...`

use std::fs::File;
use std::io::{self, Write as _};

use serde_json::{Value, json};

use super::{find, list, text_or_file, wait};
use crate::cli::{Format, OutputArgs, QuarantineCommand, QuarantineTarget, WhichQuarantined};
use crate::client::Client;
use crate::commands::source::SOURCES;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Column, Row, print_row, print_rows};

const QUARANTINE: &str = "/api/acquisition/quarantine/";
/// Ids that one request may name.
const MAX_IDS: usize = 1_000;

const COLUMNS: &[Column] = &[
    ("id", &["id"]),
    ("source", &["source"]),
    ("reason", &["reason"]),
    ("status", &["status"]),
    ("outcome", &["outcome"]),
    ("seen", &["seen"]),
    ("detail", &["detail"]),
];

pub async fn run(command: QuarantineCommand, console: &Console) -> Result<(), Failure> {
    match command {
        QuarantineCommand::List { client, source, reason, status, limit } => {
            let output = client.output.clone();
            let client = Client::connect(&client, console, false).await?;
            let source = match &source {
                Some(name) => Some(find(&client, SOURCES, name).await?),
                None => None,
            };
            let mut query = Vec::new();
            query.extend(source.as_deref().map(|id| ("source", id)));
            query.extend(reason.as_deref().map(|code| ("reason", code)));
            query.extend(status.as_deref().map(|word| ("status", word)));
            let rows = list(&client, QUARANTINE, &query, limit).await?;
            if rows.is_empty() && output.output == Format::Table {
                console.notice(Message::NothingQuarantined);
            }
            print_rows(console, &output, &rows, COLUMNS)?;
            client.close().await;
        }
        QuarantineCommand::Show(target) => {
            let client = Client::connect(&target.client, console, false).await?;
            let row = show(&client, &target).await?;
            print_row(console, &target.client.output, &row)?;
            client.close().await;
        }
        QuarantineCommand::Raw { target, to } => {
            let client = Client::connect(&target.client, console, false).await?;
            let path = format!("{QUARANTINE}{}/raw/", target.id);
            match to {
                None => client.bytes(&path, &mut io::stdout().lock()).await?,
                Some(file) => {
                    let failed = |err: io::Error| {
                        let file = file.display().to_string();
                        Failure::new(Exit::Failed, Message::CannotWrite { file }).because(&err).help(Message::CheckRoom)
                    };
                    // Nothing is left behind when there is no such record.
                    let mut bytes = Vec::new();
                    client.bytes(&path, &mut bytes).await?;
                    let mut out = File::create(&file).map_err(failed)?;
                    out.write_all(&bytes).and_then(|()| out.sync_all()).map_err(failed)?;
                }
            }
            client.close().await;
        }
        QuarantineCommand::Replay { client, which, raw, wait, .. } => {
            let output = client.output.clone();
            let client = Client::connect(&client, console, wait).await?;
            let result = match which.ids.as_slice() {
                [id] => replay_one(&client, console, *id, raw, wait, &output).await,
                _ if raw.is_some() || wait => {
                    Err(Failure::new(Exit::Usage, Message::OneRecordOnly).help(Message::GiveOneId))
                }
                _ => many(&client, console, &which, None, "replay", &output).await,
            };
            client.close().await;
            result?;
        }
        QuarantineCommand::Discard { client, which, status, yes } => {
            let output = client.output.clone();
            let question = match &which.source {
                Some(name) => Message::DiscardOfSource { name: name.clone() },
                None => Message::DiscardRecords { n: which.ids.len().to_string() },
            };
            let client = Client::connect(&client, console, false).await?;
            console.confirm(question, yes)?;
            let result = many(&client, console, &which, status.as_deref(), "discard", &output).await;
            client.close().await;
            result?;
        }
    }
    Ok(())
}

async fn show(client: &Client, target: &QuarantineTarget) -> Result<Row, Failure> {
    client.get(&format!("{QUARANTINE}{}/", target.id)).await?.into_json()
}

async fn replay_one(
    client: &Client,
    console: &Console,
    id: u64,
    raw: Option<String>,
    wait: bool,
    output: &OutputArgs,
) -> Result<(), Failure> {
    let body = match raw {
        Some(text) => json!({ "raw": text_or_file(&text)? }),
        None => json!({}),
    };
    let path = format!("{QUARANTINE}{id}/replay/");
    let start = wait::Start { path: &path, name: &format!("quarantine {id}"), options: &body };
    if !wait {
        return wait::run(client, console, start, wait::Waiting { wait: false, strict: false }, output).await;
    }
    wait::finish(client, console, start).await?;
    let row = client.get(&format!("{QUARANTINE}{id}/")).await?.into_json()?;
    print_row(console, output, &row)
}

/// Does it to many, request by request, and prints the sums.
async fn many(
    client: &Client,
    console: &Console,
    which: &WhichQuarantined,
    status: Option<&str>,
    action: &str,
    output: &OutputArgs,
) -> Result<(), Failure> {
    let path = format!("{QUARANTINE}{action}/");
    let mut sums = Sums::default();
    if let Some(name) = &which.source {
        let source: i64 = find(client, SOURCES, name).await?.parse().unwrap_or_default();
        let mut body = json!({ "source": source });
        body.as_object_mut().into_iter().for_each(|body| {
            body.extend(which.reason.clone().map(|reason| ("reason".to_owned(), reason.into())));
            body.extend(status.map(|status| ("status".to_owned(), status.into())));
        });
        while let Some(after) = sums.add(&client.post(&path, body.to_string()).await?.into_json()?)? {
            body["after"] = after.into();
        }
    } else {
        for ids in which.ids.chunks(MAX_IDS) {
            sums.add(&client.post(&path, json!({ "ids": ids }).to_string()).await?.into_json()?)?;
        }
    }
    if sums.skipped > 0 {
        let n = sums.skipped.to_string();
        console.notice(if action == "replay" { Message::NotReplayed { n } } else { Message::NotDiscarded { n } });
    }
    let row = serde_json::value::to_raw_value(&json!({
        "done": sums.done, "skipped": sums.skipped, "tasks": sums.tasks,
    }));
    print_row(console, output, &row.map_err(|err| Failure::from_error(Exit::Failed, &err))?)
}

#[derive(Default)]
struct Sums {
    done: u64,
    skipped: u64,
    tasks: Vec<Value>,
}

impl Sums {
    /// Adds an answer; returns where the next request goes on.
    fn add(&mut self, answer: &Row) -> Result<Option<i64>, Failure> {
        #[derive(serde::Deserialize)]
        struct Done {
            done: u64,
            skipped: u64,
            after: Option<i64>,
            tasks: Vec<Value>,
        }
        let answer: Done = serde_json::from_str(answer.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
        self.done += answer.done;
        self.skipped += answer.skipped;
        self.tasks.extend(answer.tasks.into_iter().filter(|task| !self.tasks.contains(task)).collect::<Vec<_>>());
        Ok(answer.after)
    }
}

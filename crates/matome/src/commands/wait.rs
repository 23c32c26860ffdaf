//! Waiting for a task, with progress for people.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use matome_model::field_error::Words;
use serde::Deserialize;

use crate::cli::OutputArgs;
use crate::client::Client;
use crate::console::Console;
use crate::failure::{Exit, Failure, said};
use crate::message::Message;
use crate::output::{Row, print_row, value_at};

/// How often the task is looked at.
const INTERVAL: Duration = Duration::from_millis(200);
/// How often it is looked whether anybody would run it.
const WORKERS_INTERVAL: Duration = Duration::from_secs(5);

/// How long a command stays with the task it started.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Until its end.
    pub wait: bool,
    /// Quarantined records are a partial success.
    pub strict: bool,
}

/// What is started.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// A `run/` action.
    pub path: &'a str,
    /// Of what, for people.
    pub name: &'a str,
    /// Options of the run, a JSON object.
    pub options: &'a serde_json::Value,
}

/// Starts a task; waits for its end when asked to; prints it.
pub async fn run(
    client: &Client,
    console: &Console,
    start: Start<'_>,
    waiting: Waiting,
    output: &OutputArgs,
) -> Result<(), Failure> {
    let name = start.name;
    let answer = client.post(start.path, start.options.to_string()).await?;
    let location = answer.location.clone();
    let started = answer.into_json()?;
    if !waiting.wait {
        return print_row(console, output, &started);
    }
    let location =
        location.ok_or_else(|| Failure::new(Exit::Failed, Message::AnswerWithout { what: "`Location`".to_owned() }))?;
    let path = location.find("/api/").map_or(location.as_str(), |at| &location[at..]).to_owned();
    let task = until_ended(client, console, &path, name).await?;
    print_row(console, output, &task)?;
    outcome(console, name, &task, waiting.strict)
}

/// Starts a task and waits for its end, printing nothing of it.
pub async fn finish(client: &Client, console: &Console, start: Start<'_>) -> Result<(), Failure> {
    let answer = client.post(start.path, start.options.to_string()).await?;
    let location = answer.location.clone();
    answer.into_json()?;
    let location =
        location.ok_or_else(|| Failure::new(Exit::Failed, Message::AnswerWithout { what: "`Location`".to_owned() }))?;
    let path = location.find("/api/").map_or(location.as_str(), |at| &location[at..]);
    let task = until_ended(client, console, path, start.name).await?;
    outcome(console, start.name, &task, false)
}

async fn until_ended(client: &Client, console: &Console, path: &str, name: &str) -> Result<Row, Failure> {
    let mut progress = console.progress(name, "records", None);
    let mut looked: Option<Instant> = None;
    loop {
        let task = client.get(path).await?.into_json()?;
        let field = |path: &[&str]| value_at(task.get(), path);
        let status = field(&["status"]).unwrap_or_default();
        if status == "pending"
            && looked.is_none_or(|at| at.elapsed() >= WORKERS_INTERVAL)
            && let Some(id) = field(&["id"]).and_then(|id| id.parse().ok())
        {
            looked = Some(Instant::now());
            client.work_on(id).await?;
        }
        let read = |at: &str| field(&[at, "read"]).and_then(|n| n.parse().ok()).unwrap_or(0);
        if matches!(status.as_str(), "succeeded" | "failed" | "cancelled") {
            progress.end(read("result"), &status);
            return Ok(task);
        }
        let waits_for_retry = status == "pending" && field(&["attempt"]).is_some_and(|n| n != "0");
        let state = match field(&["error", "message"]) {
            Some(error) if waits_for_retry => console.text(Message::WaitsForRetry { error }),
            _ => status,
        };
        progress.at(read("progress"), &state);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What judging anew would do, as the result of a task tells it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Report {
    unchanged: u64,
    changed: u64,
    quarantined: u64,
    replayed: u64,
    reasons: BTreeMap<String, u64>,
    examples: Vec<Example>,
}

/// A record that would go to quarantine.
#[derive(Debug, Deserialize)]
struct Example {
    id: i64,
    detail: Words,
}

/// Examples that are told; the others are in the result.
const TOLD: usize = 3;

fn report(task: &Row) -> Option<Report> {
    #[derive(Deserialize)]
    struct Task {
        result: Reported,
    }
    #[derive(Deserialize)]
    struct Reported {
        report: Report,
    }
    serde_json::from_str::<Task>(task.get()).ok().map(|task| task.result.report)
}

fn tell(console: &Console, name: String, report: &Report, strict: bool) -> Result<(), Failure> {
    for Example { id, detail } in report.examples.iter().take(TOLD) {
        console.notice(Message::WouldGo { id: id.to_string(), detail: console.text(detail.clone()) });
    }
    let reasons: Vec<String> = report.reasons.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let told = Message::WouldBecome {
        unchanged: report.unchanged.to_string(),
        changed: report.changed.to_string(),
        quarantined: format!("{}{reasons}", report.quarantined),
        replayed: report.replayed.to_string(),
    };
    if strict && report.quarantined > 0 {
        return Err(Failure::new(Exit::Partial, told).help(Message::ApplyIt { name }));
    }
    console.notice(told);
    console.notice(Message::ApplyIt { name });
    Ok(())
}

fn outcome(console: &Console, name: &str, task: &Row, strict: bool) -> Result<(), Failure> {
    let field = |path: &[&str]| value_at(task.get(), path);
    let (id, name) = (field(&["id"]).unwrap_or_default(), name.to_owned());
    match field(&["status"]).as_deref() {
        Some("succeeded") => {
            if field(&["result", "deletes_withheld"]).is_some_and(|why| !why.is_empty()) {
                console.notice(Message::DeletesWithheld);
            }
            if let Some(report) = report(task) {
                return tell(console, name, &report, strict);
            }
            if let Some(n) = field(&["result", "quarantined"]).filter(|n| n != "0") {
                let told = Message::Quarantined { n };
                if strict {
                    return Err(Failure::new(Exit::Partial, told));
                }
                console.notice(told);
            }
            Ok(())
        }
        Some("cancelled") => {
            Err(Failure::new(Exit::Failed, Message::TaskCancelled { id: id.clone(), name })
                .help(Message::SeeTask { id }))
        }
        _ => {
            let causes = field(&["error", "causes"]).and_then(|text| serde_json::from_str::<Vec<String>>(&text).ok());
            let message = field(&["error", "message"]).or_else(|| field(&["error"])).unwrap_or_default();
            let why = std::iter::once(message).chain(causes.unwrap_or_default()).collect::<Vec<_>>().join(": ");
            Err(Failure::new(Exit::Failed, Message::TaskFailed { id: id.clone(), name })
                .why(said(why))
                .help(Message::SeeTask { id }))
        }
    }
}

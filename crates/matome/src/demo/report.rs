//! Running what the demo defined, and telling what happened. Every figure comes from the API.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::client::Client;
use crate::commands::aggregate::AGGREGATIONS;
use crate::commands::source::SOURCES;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Row, value_at};

use super::setup::Plan;

/// A task is looked at this often.
const INTERVAL: Duration = Duration::from_millis(25);
/// The first round waits for a task's first attempt at most so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the first attempt of something ended.
#[derive(Debug)]
pub struct Line {
    name: String,
    id: String,
    task_path: String,
    task: Row,
    rows: String,
}

/// What the first round did.
#[derive(Debug)]
pub struct Outcome {
    sources: Vec<Line>,
    aggregations: Vec<Line>,
    quarantined: String,
}

/// What the banner says besides the lines.
#[derive(Debug)]
pub struct Banner<'a> {
    pub address: SocketAddr,
    pub data_dir: &'a Path,
    pub token: &'a str,
    pub took: Duration,
}

/// Reads every source, then computes every aggregation; waits for the first attempt of each.
pub async fn first_round(client: &Client, plan: &Plan) -> Result<Outcome, Failure> {
    let sources = round(client, SOURCES, "/api/acquisition/data/", &plan.sources).await?;
    let aggregations = round(client, AGGREGATIONS, "/api/aggregation/data/", &plan.aggregations).await?;
    let quarantined = count(client, "/api/acquisition/quarantine/?page_size=1").await?;
    Ok(Outcome { sources, aggregations, quarantined })
}

async fn round(client: &Client, path: &str, data: &str, plan: &[(String, String)]) -> Result<Vec<Line>, Failure> {
    let mut tasks = Vec::new();
    for (_, id) in plan {
        let answer = client.post(&format!("{path}{id}/run/"), "{}".to_owned()).await?;
        let location = answer.location.clone();
        answer.into_json()?;
        let location = location
            .ok_or_else(|| Failure::new(Exit::Failed, Message::AnswerWithout { what: "`Location`".to_owned() }))?;
        tasks.push(location.find("/api/").map_or(location.as_str(), |at| &location[at..]).to_owned());
    }
    let mut lines = Vec::new();
    for ((name, id), task_path) in plan.iter().zip(tasks) {
        let task = first_attempt(client, &task_path).await?;
        let rows = count(client, &format!("{data}?source={id}&page_size=1")).await?;
        lines.push(Line { name: name.clone(), id: id.clone(), task_path, task, rows });
    }
    Ok(lines)
}

async fn first_attempt(client: &Client, path: &str) -> Result<Row, Failure> {
    let attempt = async {
        loop {
            let task = client.get(path).await?.into_json()?;
            let is_retry = field(&task, &["error", "message"]).is_some();
            if is_retry || !matches!(field(&task, &["status"]).as_deref(), Some("pending" | "running")) {
                return Ok(task);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::time::timeout(PATIENCE, attempt).await.map_err(|_| {
        let secs = PATIENCE.as_secs().to_string();
        Failure::new(Exit::Failed, Message::DidNotEnd { path: path.to_owned(), secs })
    })?
}

/// Waits for what was in retry and says when it arrives.
pub async fn late_arrivals(client: &Client, outcome: &Outcome) -> Result<(), Failure> {
    for line in outcome.sources.iter().chain(&outcome.aggregations) {
        let mut status = field(&line.task, &["status"]);
        if !matches!(status.as_deref(), Some("pending" | "running")) {
            continue;
        }
        let mut task = None;
        while matches!(status.as_deref(), Some("pending" | "running")) {
            tokio::time::sleep(INTERVAL * 8).await;
            let now = client.get(&line.task_path).await?.into_json()?;
            status = field(&now, &["status"]);
            task = Some(now);
        }
        let rows = count(client, &format!("/api/acquisition/data/?source={}&page_size=1", line.id)).await?;
        if let Some(task) = task {
            let later = Line { task, rows, name: line.name.clone(), id: line.id.clone(), task_path: String::new() };
            println!("{}", describe(&later, "records", Style::of_stdout()));
        }
    }
    Ok(())
}

/// Prints everything, aligned.
pub fn print(banner: &Banner<'_>, outcome: &Outcome) {
    let style = Style::of_stdout();
    let base = format!("http://{}", banner.address);
    let row = |label: &str, text: String| println!("  {label:<12}{text}");
    println!("\n{}\n", style.bold("matome demo"));
    row("API", format!("{base}/api/acquisition/   {base}/api/aggregation/"));
    row("docs", format!("{base}/api/docs/   {base}/api/redoc/"));
    row("metrics", format!("{base}/metrics"));
    row("storage", format!("SQLite in {}", super::shown(&banner.data_dir.join("matome.db"))));
    row("queue", "in the same database; workers in this process".to_owned());
    row("token", banner.token.to_owned());
    println!("\n{}", style.bold("Sources"));
    outcome.sources.iter().for_each(|line| println!("{}", describe(line, "records", style)));
    println!("\n{}", style.bold("Aggregations"));
    outcome.aggregations.iter().for_each(|line| println!("{}", describe(line, "rows", style)));
    println!("\n{}", style.bold("Quarantine"));
    println!("  {} records could not be stored as they are and are kept with their bytes:", outcome.quarantined);
    let curl = |path: &str| format!("  curl -s -H 'Authorization: Bearer {}' '{base}{path}'", banner.token);
    println!("{}", curl("/api/acquisition/quarantine/"));
    println!("\n{}", style.bold("Try it"));
    if let Some(line) = outcome.aggregations.first() {
        println!("{}", curl(&format!("/api/aggregation/data/?source={}", line.id)));
    }
    println!(
        "\nReady in {:.1} s. Everything is read again each minute. Ctrl-C stops; run it again and it goes on with its data.",
        banner.took.as_secs_f64()
    );
}

fn describe(line: &Line, unit: &str, style: Style) -> String {
    let status = field(&line.task, &["status"]).unwrap_or_default();
    let (mark, note) = match status.as_str() {
        "succeeded" => (style.green("✓"), note_of_success(&line.task)),
        "pending" | "running" => {
            let error = field(&line.task, &["error", "message"]).unwrap_or_default();
            let at = field(&line.task, &["run_at"]).unwrap_or_default();
            (style.yellow("↻"), format!("waits for a retry at {at}: {error}"))
        }
        _ => (style.red("✗"), field(&line.task, &["error", "message"]).unwrap_or_default()),
    };
    format!("  {mark} {:<18} {:>7} {unit:<8} {:>7}   {note}", line.name, line.rows, duration(&line.task))
}

fn note_of_success(task: &Row) -> String {
    let count = |name: &str| field(task, &["result", name]).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let mut notes = Vec::new();
    for (name, text) in [("stored", "new"), ("duplicate", "known already"), ("quarantined", "in quarantine")] {
        if count(name) > 0 {
            notes.push(format!("{} {text}", count(name)));
        }
    }
    match (count("not_modified"), count("requests")) {
        (0, _) => {}
        (1, 0) => notes.push("its file has not changed".to_owned()),
        (files, 0) => notes.push(format!("{files} files have not changed")),
        (pages, all) => notes.push(format!("{pages} of {all} pages not modified")),
    }
    notes.join(", ")
}

/// From start to end of the attempt, as the task row says.
fn duration(task: &Row) -> String {
    let at = |name: &str| field(task, &[name]).and_then(|text| chrono::DateTime::parse_from_rfc3339(&text).ok());
    match (at("started_at"), at("finished_at")) {
        (Some(start), Some(end)) => format!("{} ms", (end - start).num_milliseconds()),
        _ => "-".to_owned(),
    }
}

fn field(row: &Row, path: &[&str]) -> Option<String> {
    value_at(row.get(), path)
}

async fn count(client: &Client, path: &str) -> Result<String, Failure> {
    let body = client.get(path).await?.into_json()?;
    Ok(field(&body, &["count"]).unwrap_or_default())
}

/// Colours, where people look.
#[derive(Clone, Copy, Debug)]
struct Style(bool);

impl Style {
    fn of_stdout() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }
    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
    fn green(self, text: &str) -> String {
        self.paint("32", text)
    }
    fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }
    fn red(self, text: &str) -> String {
        self.paint("31", text)
    }
}

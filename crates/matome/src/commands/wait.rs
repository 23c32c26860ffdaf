//! Waiting for a task, with progress for people.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Format;
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::output::{Row, print_row, value_at};

/// How often the task is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// How long a command stays with the task it started.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Until its end.
    pub wait: bool,
    /// Quarantined records are a partial success.
    pub strict: bool,
}

/// Starts `path` (a `run/` action); waits for the task's end when asked to; prints the task.
pub async fn run(client: &Client, path: &str, name: &str, waiting: Waiting, format: Format) -> Result<(), Failure> {
    let answer = client.post(path, "{}".to_owned()).await?;
    let location = answer.location.clone();
    let started = answer.into_json()?;
    if !waiting.wait {
        return super::printed(print_row(format, &started));
    }
    let location =
        location.ok_or_else(|| Failure::new(Exit::Failed, "the server did not say which task it started"))?;
    let path = location.find("/api/").map_or(location.as_str(), |at| &location[at..]).to_owned();
    let task = until_ended(client, &path, name).await?;
    super::printed(print_row(format, &task))?;
    outcome(name, &task, waiting.strict)
}

async fn until_ended(client: &Client, path: &str, name: &str) -> Result<Row, Failure> {
    let bar = bar(name);
    loop {
        let task = client.get(path).await?.into_json()?;
        let field = |path: &[&str]| value_at(task.get(), path);
        let status = field(&["status"]).unwrap_or_default();
        if matches!(status.as_str(), "succeeded" | "failed" | "cancelled") {
            bar.finish_and_clear();
            return Ok(task);
        }
        let read = field(&["progress", "read"]).and_then(|n| n.parse().ok()).unwrap_or(0);
        bar.set_position(read);
        let waits_for_retry = status == "pending" && field(&["attempt"]).is_some_and(|n| n != "0");
        bar.set_message(match field(&["error", "message"]) {
            Some(error) if waits_for_retry => format!("waiting to try again: {error}"),
            _ => status,
        });
        bar.tick();
        tokio::time::sleep(INTERVAL).await;
    }
}

fn bar(name: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {prefix}  {pos} records  {per_sec}  {elapsed}  {msg}")
        .expect("the template is a constant that is tried by every run");
    ProgressBar::new_spinner().with_style(style).with_prefix(name.to_owned())
}

fn outcome(name: &str, task: &Row, strict: bool) -> Result<(), Failure> {
    let field = |path: &[&str]| value_at(task.get(), path);
    let id = field(&["id"]).unwrap_or_default();
    match field(&["status"]).as_deref() {
        Some("succeeded") => {
            if let Some(n) = field(&["result", "quarantined"]).filter(|n| n != "0") {
                let told = format!("{n} records went to quarantine; see /api/acquisition/quarantine/");
                if strict {
                    return Err(Failure::new(Exit::Partial, told));
                }
                eprintln!("{told}");
            }
            Ok(())
        }
        Some("cancelled") => Err(Failure::new(Exit::Failed, format!("task {id} of `{name}` was cancelled"))),
        _ => {
            let causes = field(&["error", "causes"]).and_then(|text| serde_json::from_str::<Vec<String>>(&text).ok());
            let message = field(&["error", "message"]).or_else(|| field(&["error"])).unwrap_or_default();
            let why = std::iter::once(message).chain(causes.unwrap_or_default()).collect::<Vec<_>>().join(": ");
            Err(Failure::new(Exit::Failed, format!("task {id} of `{name}` failed: {why}"))
                .help(format!("`matome task show {id}` has the details, `matome task retry {id}` runs it again")))
        }
    }
}

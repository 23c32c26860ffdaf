//! The commands, one module per noun: clients of the API, and `db`, which looks at the database itself.

pub mod aggregate;
pub mod data;
pub mod db;
pub mod source;
pub mod task;
pub mod token;
mod wait;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use serde_json::value::RawValue;

use crate::cli::{DeleteTarget, RunTarget, Target};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::output::{Row, print_row, value_at};

/// Rows of a list, page by page, at most `limit`.
pub async fn list(client: &Client, path: &str, query: &[(&str, &str)], limit: usize) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    let mut page = 1;
    while rows.len() < limit {
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        pairs.extend_pairs(query).append_pair("page_size", "100").append_pair("page", &page.to_string());
        let body = client.get(&format!("{path}?{}", pairs.finish())).await?.into_json()?;
        let body: Page = serde_json::from_str(body.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
        rows.extend(body.results);
        if body.next.is_none() {
            break;
        }
        page += 1;
    }
    rows.truncate(limit);
    Ok(rows)
}

/// A page of a list, as DRF sends it.
#[derive(serde::Deserialize)]
struct Page {
    next: Option<String>,
    results: Vec<Box<RawValue>>,
}

/// The id of the row that `name` means: an exact name first, then an id.
async fn find(client: &Client, path: &str, name: &str) -> Result<String, Failure> {
    let rows = list(client, path, &[("name", name)], 1).await?;
    if let Some(id) = rows.first().and_then(|row| value_at(row.get(), &["id"])) {
        return Ok(id);
    }
    if name.parse::<u64>().is_ok() && client.get(&format!("{path}{name}/")).await?.status == 200 {
        return Ok(name.to_owned());
    }
    let noun = if path.contains("aggregation") { "aggregation" } else { "source" };
    let command = if path.contains("aggregation") { "aggregate" } else { "source" };
    Err(Failure::new(Exit::NotFound, format!("there is no {noun} `{name}`"))
        .help(format!("`matome {command} list` shows those that are there")))
}

/// Shows the row that a command names.
async fn show(target: &Target, path: &str) -> Result<(), Failure> {
    let client = Client::connect(&target.client, false).await?;
    let id = find(&client, path, &target.name).await?;
    let row = client.get(&format!("{path}{id}/")).await?.into_json()?;
    printed(print_row(target.client.output, &row))?;
    client.close().await;
    Ok(())
}

/// Starts a task of the row that a command names, and waits for it when asked to.
async fn run(run: &RunTarget, path: &str) -> Result<(), Failure> {
    let target = &run.target;
    let client = Client::connect(&target.client, run.wait).await?;
    let id = find(&client, path, &target.name).await?;
    let waiting = wait::Waiting { wait: run.wait, strict: run.strict };
    let result = wait::run(&client, &format!("{path}{id}/run/"), &target.name, waiting, target.client.output).await;
    client.close().await;
    result
}

/// Deletes the row that a command names, after asking. `noun` is what it is, `content` what goes with it.
async fn delete(delete: &DeleteTarget, path: &str, noun: &str, content: &str) -> Result<(), Failure> {
    let name = &delete.target.name;
    let client = Client::connect(&delete.target.client, false).await?;
    let id = find(&client, path, name).await?;
    confirm(&format!("delete {noun} `{name}` with all its {content}"), delete.yes)?;
    client.send("DELETE", &format!("{path}{id}/"), None).await?.into_json()?;
    eprintln!("deleted {noun} `{name}`");
    client.close().await;
    Ok(())
}

/// `@FILE` is the content of a file; anything else is itself.
fn text_or_file(text: &str) -> Result<String, Failure> {
    match text.strip_prefix('@') {
        None => Ok(text.to_owned()),
        Some(file) => std::fs::read_to_string(file)
            .map_err(|err| Failure::from_error(Exit::Usage, &err))
            .map_err(|failure| Failure { message: format!("cannot read `{file}`: {}", failure.message), ..failure }),
    }
}

/// Asks before something is destroyed. Without a terminal it does not ask, it refuses.
fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, format!("{question}: not confirmed")).help("say so with --yes"));
    }
    eprint!("{question}? [y/N] ");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    match read {
        Ok(_) if answer.trim().eq_ignore_ascii_case("y") => Ok(()),
        _ => Err(Failure::new(Exit::Interrupted, "nothing was deleted")),
    }
}

fn printed(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        // `matome ... | head` ends reading early; that is no failure of ours.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|err| Failure::from_error(Exit::Failed, &err)),
    }
}

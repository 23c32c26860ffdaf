//! The commands, one module per noun: clients of the API, and `db`, which looks at the database itself.

pub mod aggregate;
pub mod completions;
pub mod config;
pub mod data;
pub mod db;
pub mod doctor;
pub mod healthcheck;
mod probe;
mod push;
pub mod quarantine;
pub mod schedule;
pub mod source;
pub mod task;
pub mod token;
mod wait;

use serde_json::value::RawValue;

use crate::cli::{DeleteTarget, RunTarget, Target};
use crate::client::Client;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Row, print_row, value_at};

/// Rows of a list, page by page, at most `limit`.
pub async fn list(client: &Client, path: &str, query: &[(&str, &str)], limit: usize) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    let mut next = pairs.extend_pairs(query).append_pair("page_size", "100").finish();
    while rows.len() < limit {
        let body = client.get(&format!("{path}?{next}")).await?.into_json()?;
        let body: Page = serde_json::from_str(body.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
        rows.extend(body.results);
        // Whatever host the link names: only what it asks for matters.
        match body.next.as_deref().and_then(|link| link.split_once('?')) {
            Some((_, query)) => next = query.to_owned(),
            None => break,
        }
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
    let (name, command) = (name.to_owned(), if path.contains("aggregation") { "aggregate" } else { "source" });
    let what = match command {
        "source" => Message::NoSource { name },
        _ => Message::NoAggregation { name },
    };
    Err(Failure::new(Exit::NotFound, what).help(Message::SeeList { command: command.to_owned() }))
}

/// The config of what is at `path` with `options` set in it and `without` left out. Secrets read back as marks; sent as such they stay.
async fn changed_config(
    client: &Client,
    path: &str,
    options: &[String],
    without: &[String],
) -> Result<serde_json::Value, Failure> {
    let row = client.get(path).await?.into_json()?;
    let mut row: serde_json::Value =
        serde_json::from_str(row.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
    let mut config = row["config"].take();
    if let Some(config) = config.as_object_mut() {
        config.retain(|key, _| !without.contains(key));
    }
    source::set_all(&mut config, options)?;
    Ok(config)
}

/// Shows the row that a command names.
async fn show(target: &Target, console: &Console, path: &str) -> Result<(), Failure> {
    let client = Client::connect(&target.client, console, false).await?;
    let id = find(&client, path, &target.name).await?;
    let row = client.get(&format!("{path}{id}/")).await?.into_json()?;
    print_row(console, &target.client.output, &row)?;
    client.close().await;
    Ok(())
}

/// Starts a task of the row that a command names, by an action of its with `options`, and waits for it when asked to.
async fn run(
    run: &RunTarget,
    console: &Console,
    path: &str,
    action: &str,
    options: &serde_json::Value,
) -> Result<(), Failure> {
    let target = &run.target;
    let client = Client::connect(&target.client, console, run.wait).await?;
    let id = find(&client, path, &target.name).await?;
    let waiting = wait::Waiting { wait: run.wait, strict: run.strict };
    let path = format!("{path}{id}/{action}/");
    let start = wait::Start { path: &path, name: &target.name, options };
    let result = wait::run(&client, console, start, waiting, &target.client.output).await;
    client.close().await;
    result
}

/// Deletes the source or aggregation that a command names, after asking.
async fn delete(delete: &DeleteTarget, console: &Console, path: &str) -> Result<(), Failure> {
    let name = || delete.target.name.clone();
    let (question, done) = match path {
        source::SOURCES => (Message::DeleteSource { name: name() }, Message::DeletedSource { name: name() }),
        _ => (Message::DeleteAggregation { name: name() }, Message::DeletedAggregation { name: name() }),
    };
    let client = Client::connect(&delete.target.client, console, false).await?;
    let id = find(&client, path, &delete.target.name).await?;
    console.confirm(question, delete.yes)?;
    client.send("DELETE", &format!("{path}{id}/"), None).await?.into_json()?;
    console.notice(done);
    client.close().await;
    Ok(())
}

/// `@FILE` is the content of a file; anything else is itself.
fn text_or_file(text: &str) -> Result<String, Failure> {
    match text.strip_prefix('@') {
        None => Ok(text.to_owned()),
        Some(file) => std::fs::read_to_string(file).map_err(|err| {
            let what = Message::CannotRead { file: file.to_owned() };
            Failure::new(Exit::Usage, what).because(&err).help(Message::CheckFile)
        }),
    }
}

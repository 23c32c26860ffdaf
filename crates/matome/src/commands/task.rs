//! `matome task ...`

use serde_json::json;

use super::{find, list};
use crate::cli::{ClientArgs, Format, TaskCommand, TaskTarget};
use crate::client::{Answer, Client};
use crate::commands::aggregate::AGGREGATIONS;
use crate::commands::source::SOURCES;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Column, print_row, print_rows};

const COLUMNS: &[Column] = &[
    ("id", &["id"]),
    ("source", &["source"]),
    ("status", &["status"]),
    ("attempt", &["attempt"]),
    ("started", &["started_at"]),
    ("finished", &["finished_at"]),
    ("result", &["result"]),
    ("error", &["error", "message"]),
];

const LANES: &[Column] = &[
    ("kind", &["kind"]),
    ("name", &["name"]),
    ("state", &["state"]),
    ("task", &["task"]),
    ("worker", &["worker", "host"]),
    ("pid", &["worker", "pid"]),
    ("since", &["leased_at"]),
    ("next", &["next_run_at"]),
    ("not before", &["not_before"]),
    ("failed", &["fail_streak"]),
    ("host", &["host"]),
    ("host limit", &["host_limit"]),
    ("host running", &["host_running"]),
];

pub async fn run(command: TaskCommand, console: &Console) -> Result<(), Failure> {
    match command {
        TaskCommand::List { client, queue, status, source, limit } => {
            let output = client.output.clone();
            let client = Client::connect(&client, console, false).await?;
            let source = match &source {
                None => None,
                Some(name) if queue == "aggregation" => Some(find(&client, AGGREGATIONS, name).await?),
                Some(name) => Some(find(&client, SOURCES, name).await?),
            };
            let mut query = Vec::new();
            query.extend(status.as_deref().map(|word| ("status", word)));
            query.extend(source.as_deref().map(|id| ("source", id)));
            let rows = list(&client, &format!("/api/{queue}/tasks/"), &query, limit).await?;
            if rows.is_empty() && output.output == Format::Table {
                console.notice(Message::NoTasks);
            }
            print_rows(console, &output, &rows, COLUMNS)?;
            client.close().await;
            Ok(())
        }
        TaskCommand::Lanes { client, kind, state, limit } => {
            let output = client.output.clone();
            let client = Client::connect(&client, console, false).await?;
            let mut query = Vec::new();
            query.extend(kind.as_deref().map(|kind| ("kind", kind)));
            query.extend(state.as_deref().map(|state| ("state", state)));
            let rows = list(&client, "/api/lanes/", &query, limit).await?;
            print_rows(console, &output, &rows, LANES)?;
            client.close().await;
            Ok(())
        }
        TaskCommand::Show(target) => act(&target, console, "GET", "").await,
        TaskCommand::Cancel(target) => act(&target, console, "POST", "cancel/").await,
        TaskCommand::Retry { client, id: Some(id), .. } => {
            act(&TaskTarget { client, id }, console, "POST", "retry/").await
        }
        TaskCommand::Retry { client, id: None, queue, source, .. } => {
            retry_failed(&client, console, &queue, source.as_deref()).await
        }
    }
}

/// Runs again what failed last, however much it is.
async fn retry_failed(args: &ClientArgs, console: &Console, queue: &str, source: Option<&str>) -> Result<(), Failure> {
    let client = Client::connect(args, console, false).await?;
    let source = match source {
        None => None,
        Some(name) => Some(find(&client, if queue == "aggregation" { AGGREGATIONS } else { SOURCES }, name).await?),
    };
    let body = json!({ "source": source.and_then(|id| id.parse::<i64>().ok()) }).to_string();
    let mut retried = 0;
    loop {
        let answer = client.post(&format!("/api/{queue}/tasks/retry/"), body.clone()).await?.into_json()?;
        let answer: serde_json::Value = serde_json::from_str(answer.get()).unwrap_or_default();
        retried += answer["retried"].as_u64().unwrap_or_default();
        if answer["more"] != true {
            break;
        }
    }
    let row = serde_json::value::to_raw_value(&json!({ "retried": retried })).expect("a count is JSON");
    print_row(console, &args.output, &row)?;
    client.close().await;
    Ok(())
}

/// Ids are unique over both queues, so the task is looked for in one and then the other.
async fn act(target: &TaskTarget, console: &Console, method: &str, action: &str) -> Result<(), Failure> {
    let client = Client::connect(&target.client, console, false).await?;
    let body = (method == "POST").then(|| "{}".to_owned());
    let path = |queue: &str| format!("/api/{queue}/tasks/{}/{action}", target.id);
    let mut answer: Answer = client.send(method, &path("acquisition"), body.clone()).await?;
    if answer.status == 404 {
        answer = client.send(method, &path("aggregation"), body).await?;
    }
    if answer.status == 404 {
        return Err(
            Failure::new(Exit::NotFound, Message::NoTask { id: target.id.to_string() }).help(Message::SeeTaskLists)
        );
    }
    let row = answer.into_json()?;
    print_row(console, &target.client.output, &row)?;
    client.close().await;
    Ok(())
}

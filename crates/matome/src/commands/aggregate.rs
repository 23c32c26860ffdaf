//! `matome aggregate ...`

use serde_json::{Value, json};

use super::source::set_all;
use super::{changed_config, find, list, schedule, text_or_file};
use crate::cli::{AggregateCommand, Format};
use crate::client::Client;
use crate::console::Console;
use crate::failure::{Exit, Failure, said};
use crate::message::Message;
use crate::output::{Column, Row, in_order, print_row, print_rows, value_at};

pub const AGGREGATIONS: &str = "/api/aggregation/sources/";

const COLUMNS: &[Column] = &[
    ("id", &["id"]),
    ("name", &["name"]),
    ("status", &["status"]),
    ("updated", &["updated_at"]),
    ("sql", &["config", "sql"]),
];

const RUNS: &[Column] = &[
    ("id", &["id"]),
    ("status", &["status"]),
    ("mode", &["mode"]),
    ("rows", &["rows"]),
    ("kept", &["kept"]),
    ("task", &["task"]),
    ("started", &["started_at"]),
    ("published", &["published_at"]),
];

pub async fn run(command: AggregateCommand, console: &Console) -> Result<(), Failure> {
    match command {
        AggregateCommand::Add {
            client,
            name,
            sql,
            every,
            cron,
            timezone,
            mode,
            key,
            after,
            after_aggregation,
            options,
            description,
        } => {
            let mut config = json!({ "sql": text_or_file(&sql)? });
            if let Some(secs) = every {
                config["refresh_interval_secs"] = secs.into();
            }
            schedule::set(&mut config, cron, timezone);
            if let Some(mode) = mode {
                config["mode"] = mode.into();
            }
            if !key.is_empty() {
                config["key"] = key.into();
            }
            for (list, names) in [("sources", after), ("aggregations", after_aggregation)] {
                if !names.is_empty() {
                    config["after"][list] = names.into();
                }
            }
            set_all(&mut config, &options)?;
            let mut body = json!({ "name": name, "config": config });
            if let Some(text) = description {
                body["description"] = text.into();
            }
            let output = client.output.clone();
            let client = Client::connect_or_make(&client, console, false).await?;
            let row = client.post(AGGREGATIONS, body.to_string()).await?.into_json()?;
            print_row(console, &output, &row)?;
            client.close().await;
        }
        AggregateCommand::List { client, search } => {
            let output = client.output.clone();
            let client = Client::connect(&client, console, false).await?;
            let query: Vec<_> = search.as_deref().map(|text| ("search", text)).into_iter().collect();
            let rows = list(&client, AGGREGATIONS, &query, usize::MAX).await?;
            if rows.is_empty() && output.output == Format::Table {
                console.notice(Message::NoAggregations);
            }
            print_rows(console, &output, &rows, COLUMNS)?;
            client.close().await;
        }
        AggregateCommand::Show(target) => super::show(&target, console, AGGREGATIONS).await?,
        AggregateCommand::Set { target, sql, options, without, description } => {
            let client = Client::connect(&target.client, console, false).await?;
            let id = find(&client, AGGREGATIONS, &target.name).await?;
            let path = format!("{AGGREGATIONS}{id}/");
            let mut body = json!({});
            if sql.is_some() || !options.is_empty() || !without.is_empty() {
                body["config"] = changed_config(&client, &path, &options, &without).await?;
            }
            if let Some(sql) = sql {
                body["config"]["sql"] = text_or_file(&sql)?.into();
            }
            if let Some(text) = description {
                body["description"] = text.into();
            }
            let row = client.send("PATCH", &path, Some(body.to_string())).await?.into_json()?;
            print_row(console, &target.client.output, &row)?;
            client.close().await;
        }
        AggregateCommand::Run { run, replace, params } => {
            let mut options = json!({});
            if replace {
                options["replace"] = true.into();
            }
            if !params.is_empty() {
                options["params"] = given(&params)?;
            }
            if let Some(priority) = &run.priority {
                options["priority"] = priority.as_str().into();
            }
            super::run(&run, console, AGGREGATIONS, "run", &options).await?;
        }
        AggregateCommand::Runs { client, name, limit } => {
            let output = client.output.clone();
            let client = Client::connect(&client, console, false).await?;
            let id = find(&client, AGGREGATIONS, &name).await?;
            let rows = list(&client, "/api/aggregation/runs/", &[("source", &id)], limit).await?;
            if rows.is_empty() && output.output == Format::Table {
                console.notice(Message::NoRuns { name });
            }
            print_rows(console, &output, &rows, RUNS)?;
            client.close().await;
        }
        AggregateCommand::Preview { client, name, sql, params } => {
            let output = client.output.clone();
            let mut body = match sql {
                Some(sql) => json!({ "config": { "sql": text_or_file(&sql)? } }),
                None => json!({}),
            };
            if !params.is_empty() {
                body["params"] = given(&params)?;
            }
            let client = Client::connect(&client, console, false).await?;
            let id = find(&client, AGGREGATIONS, &name).await?;
            let path = format!("{AGGREGATIONS}{id}/preview/");
            let answer = client.post(&path, body.to_string()).await?.into_json()?;
            if value_at(answer.get(), &["ok"]).as_deref() != Some("true") {
                let why = value_at(answer.get(), &["error", "message"]).unwrap_or_default();
                return Err(Failure::new(Exit::Failed, Message::PreviewFailed { name })
                    .why(said(why))
                    .help(Message::CorrectSql));
            }
            let preview: Preview =
                serde_json::from_str(answer.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
            let names: Vec<String> = preview.columns.into_iter().map(|column| column.name).collect();
            let rows: Vec<Row> = preview.rows.iter().map(|row| in_order(row, &names)).collect();
            print_rows(console, &output, &rows, &[])?;
            client.close().await;
        }
        AggregateCommand::Delete(delete) => super::delete(&delete, console, AGGREGATIONS).await?,
    }
    Ok(())
}

/// Values of parameters by name, as text: the server knows their types.
fn given(params: &[String]) -> Result<Value, Failure> {
    let pair = |param: &String| match param.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.into())),
        None => Err(Failure::new(Exit::Usage, Message::NoKeyValue { option: param.clone() }).help(Message::WriteParam)),
    };
    params.iter().map(pair).collect::<Result<serde_json::Map<_, _>, _>>().map(Value::Object)
}

/// What `preview/` answers, as far as it is printed.
#[derive(serde::Deserialize)]
struct Preview {
    rows: Vec<Row>,
    columns: Vec<PreviewColumn>,
}

#[derive(serde::Deserialize)]
struct PreviewColumn {
    name: String,
}

//! `matome source ...`

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::probe::Trouble;
use super::{changed_config, find, list, schedule, text_or_file};
use crate::cli::{ClientArgs, Format, Place, SourceCommand, Target};
use crate::client::Client;
use crate::console::Console;
use crate::database_url;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Column, print_row, print_rows};

pub const SOURCES: &str = "/api/acquisition/sources/";

const CONNECTORS: &str = "/api/acquisition/connectors/";

/// Options that say what texts become: what is stored can be made so, too.
const OF_TYPES: &str = "types";

/// Options that make values out of bytes: what is stored was made by those that it was read with.
const OF_VALUES: &[&str] = &[
    "format",
    "encoding",
    "delimiter",
    "quote",
    "header",
    "columns",
    "unit",
    "line_breaks",
    "trim",
    "records",
    "sheet",
    "header_row",
];

const OPTION_COLUMNS: &[Column] = &[("name", &["name"]), ("default", &["default"]), ("meaning", &["description"])];

const COLUMNS: &[Column] = &[
    ("id", &["id"]),
    ("name", &["name"]),
    ("type", &["source_type"]),
    ("status", &["status"]),
    ("interval", &["fetch_interval"]),
    ("last fetched", &["last_fetched_at"]),
];

pub async fn run(command: SourceCommand, console: &Console) -> Result<(), Failure> {
    match command {
        SourceCommand::Add {
            client,
            name,
            address,
            yes,
            source_type,
            place,
            config,
            options,
            interval,
            cron,
            timezone,
            description,
        } => {
            let is_to_be_looked_at = address.is_some();
            // What is there says which of the two it is.
            let is_either = source_type.is_none() && address.as_deref().is_some_and(is_web_address);
            let place = match address {
                Some(address) if is_address(&address) && source_type.as_deref() != Some("file") => {
                    Place { url: Some(address), ..place }
                }
                Some(path) => Place { path: Some(path), ..place },
                None => place,
            };
            let mut body = definition(name, source_type, place, config, &options, interval, description)?;
            schedule::set(&mut body["config"], cron, timezone);
            let output = client.output.clone();
            let client = Client::connect_or_make(&client, console, false).await?;
            if is_to_be_looked_at && ["api", "file", "database"].iter().any(|known| body["source_type"] == *known) {
                super::probe::complete(&client, console, &mut body, is_either, yes).await?;
            }
            let row = client.post(SOURCES, body.to_string()).await?.into_json()?;
            print_row(console, &output, &row)?;
            client.close().await;
        }
        SourceCommand::List { client, search, status } => {
            let output = client.output.clone();
            let client = Client::connect(&client, console, false).await?;
            let mut query = Vec::new();
            query.extend(search.as_deref().map(|text| ("search", text)));
            query.extend(status.as_deref().map(|word| ("status", word)));
            let rows = list(&client, SOURCES, &query, usize::MAX).await?;
            if rows.is_empty() && output.output == Format::Table {
                console.notice(Message::NoSources);
            }
            print_rows(console, &output, &rows, COLUMNS)?;
            client.close().await;
        }
        SourceCommand::Show(target) => super::show(&target, console, SOURCES).await?,
        SourceCommand::Set { target, options, without, interval, description, on_change } => {
            let client = Client::connect(&target.client, console, false).await?;
            let id = find(&client, SOURCES, &target.name).await?;
            let path = format!("{SOURCES}{id}/");
            let mut body = json!({});
            if !options.is_empty() || !without.is_empty() {
                body["config"] = changed_config(&client, &path, &options, &without).await?;
            }
            for (field, value) in [("description", description), ("on_change", on_change)] {
                if let Some(value) = value {
                    body[field] = value.into();
                }
            }
            if let Some(secs) = interval {
                body["fetch_interval"] = secs.into();
            }
            let row = client.send("PATCH", &path, Some(body.to_string())).await?.into_json()?;
            let changed = options.iter().filter_map(|option| option.split_once('=')).map(|(key, _)| key);
            let changed: Vec<&str> = changed.chain(without.iter().map(String::as_str)).collect();
            let has_types = changed.iter().any(|key| key.split('.').next() == Some(OF_TYPES));
            let changed: Vec<String> = changed
                .into_iter()
                .filter(|key| OF_VALUES.contains(&key.split('.').next().unwrap_or(key)))
                .map(|key| format!("`{key}`"))
                .collect();
            let removes = body["on_change"] == "reset";
            if !removes && target.client.output.output == Format::Table {
                let name = || target.name.clone();
                if !changed.is_empty() {
                    console.notice(Message::StoredAsRead { name: name(), options: changed.join(", ") });
                }
                if has_types {
                    console.notice(Message::StoredAsTyped { name: name() });
                }
            }
            print_row(console, &target.client.output, &row)?;
            client.close().await;
        }
        SourceCommand::Run { run, full, confirm_deletes } => {
            let mut options = json!({});
            for (option, asked) in [("full", full), ("confirm_deletes", confirm_deletes)] {
                if asked {
                    options[option] = true.into();
                }
            }
            if let Some(priority) = &run.priority {
                options["priority"] = priority.as_str().into();
            }
            super::run(&run, console, SOURCES, "run", &options).await?;
        }
        SourceCommand::Revalidate { run, apply, since } => {
            let mut options = json!({ "apply": apply });
            for (option, given) in [("since", &since), ("priority", &run.priority)] {
                if let Some(text) = given {
                    options[option] = text.as_str().into();
                }
            }
            if run.target.client.output.output == Format::Table {
                console.notice(Message::JudgedNotRead { name: run.target.name.clone() });
            }
            super::run(&run, console, SOURCES, "revalidate", &options).await?;
        }
        SourceCommand::Pause(target) => act(&target, console, "pause").await?,
        SourceCommand::Resume(target) => act(&target, console, "resume").await?,
        SourceCommand::Reset { target, data, yes } => {
            let client = Client::connect(&target.client, console, false).await?;
            let id = find(&client, SOURCES, &target.name).await?;
            if data {
                console.confirm(Message::RemoveRecords { name: target.name.clone() }, yes)?;
            }
            let body = json!({ "data": data }).to_string();
            let row = client.post(&format!("{SOURCES}{id}/reset/"), body).await?.into_json()?;
            print_row(console, &target.client.output, &row)?;
            client.close().await;
        }
        SourceCommand::Test { target, records } => {
            let client = Client::connect(&target.client, console, false).await?;
            let id = find(&client, SOURCES, &target.name).await?;
            let body = json!({ "records": records });
            let row = client.post(&format!("{SOURCES}{id}/test/"), body.to_string()).await?.into_json()?;
            client.close().await;
            let Tried { error } =
                serde_json::from_str(row.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
            // Programs get the whole answer; for people the error says it all.
            if error.is_none() || target.client.output.output != Format::Table {
                print_row(console, &target.client.output, &row)?;
            }
            if let Some(trouble) = error {
                return Err(trouble.failure(None));
            }
        }
        SourceCommand::Push { target, file, format, idempotency_key } => {
            super::push::run(&target, &file, format.as_deref(), idempotency_key, console).await?;
        }
        SourceCommand::Schema { target, accept } => {
            let client = Client::connect(&target.client, console, false).await?;
            let id = find(&client, SOURCES, &target.name).await?;
            let path = format!("{SOURCES}{id}/schema/");
            let answer = match accept {
                true => client.post(&format!("{path}accept/"), "{}".to_owned()).await?,
                false => client.get(&path).await?,
            };
            print_row(console, &target.client.output, &answer.into_json()?)?;
            client.close().await;
        }
        SourceCommand::Options { client, source_type } => options(&client, &source_type, console).await?,
        SourceCommand::Gaps(target) => {
            let client = Client::connect(&target.client, console, false).await?;
            let id = find(&client, SOURCES, &target.name).await?;
            let row = client.get(&format!("{SOURCES}{id}/gaps/")).await?.into_json()?;
            print_row(console, &target.client.output, &row)?;
            client.close().await;
        }
        SourceCommand::Delete(delete) => super::delete(&delete, console, SOURCES).await?,
    }
    Ok(())
}

/// Has an action without options done to a source, and shows the source.
async fn act(target: &Target, console: &Console, action: &str) -> Result<(), Failure> {
    let client = Client::connect(&target.client, console, false).await?;
    let id = find(&client, SOURCES, &target.name).await?;
    let row = client.post(&format!("{SOURCES}{id}/{action}/"), "{}".to_owned()).await?.into_json()?;
    print_row(console, &target.client.output, &row)?;
    client.close().await;
    Ok(())
}

/// Shows the options of a type: a line each or, as JSON, their schema.
async fn options(client: &ClientArgs, source_type: &str, console: &Console) -> Result<(), Failure> {
    let output = client.output.clone();
    let client = Client::connect(client, console, false).await?;
    let answer = client.get(CONNECTORS).await?.into_json()?;
    client.close().await;
    let answer: Connectors =
        serde_json::from_str(answer.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
    let types = answer.results.iter().map(|connector| connector.source_type.as_str()).collect::<Vec<_>>().join(", ");
    let Some(found) = answer.results.into_iter().find(|connector| connector.source_type == source_type) else {
        let failure = Failure::new(Exit::NotFound, Message::NoSuchType { source_type: source_type.to_owned() });
        return Err(failure.help(Message::TypesAre { types }));
    };
    if output.output != Format::Table && output.output != Format::Csv {
        return print_row(console, &output, &found.config_schema);
    }
    let schema: Value =
        serde_json::from_str(found.config_schema.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
    let is_required =
        |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
    let rows = schema["properties"].as_object().into_iter().flatten().map(|(name, option)| {
        let usual = if is_required(name) { json!("required") } else { option["default"].clone() };
        let row = json!({ "name": name, "default": usual, "description": option["description"] });
        serde_json::value::to_raw_value(&row).map_err(|err| Failure::from_error(Exit::Failed, &err))
    });
    print_rows(console, &output, &rows.collect::<Result<Vec<_>, _>>()?, OPTION_COLUMNS)
}

/// What `test/` answers, as far as it decides how the command ends.
#[derive(Deserialize)]
struct Tried {
    error: Option<Trouble>,
}

#[derive(Deserialize)]
struct Connectors {
    results: Vec<Connector>,
}

#[derive(Deserialize)]
struct Connector {
    source_type: String,
    config_schema: Box<RawValue>,
}

fn definition(
    name: String,
    source_type: Option<String>,
    place: Place,
    config: Option<String>,
    options: &[String],
    interval: Option<u32>,
    description: Option<String>,
) -> Result<Value, Failure> {
    let mut config: Value = match config {
        None => json!({}),
        Some(text) => serde_json::from_str(&text_or_file(&text)?).map_err(|err| {
            Failure::new(Exit::Usage, Message::ConfigNoJson).because(&err).help(Message::WriteConfigJson)
        })?,
    };
    let implied = set_place(&mut config, place);
    let source_type = source_type
        .or(implied.map(str::to_owned))
        .ok_or_else(|| Failure::new(Exit::Usage, Message::NoSourceType).help(Message::GiveSourceType))?;
    set_all(&mut config, options)?;
    // It needs no option, and a config without any is a draft.
    if source_type == "push" && config == json!({}) {
        config["format"] = "auto".into();
    }
    let mut body = json!({ "name": name, "source_type": source_type, "config": config });
    if let Some(secs) = interval {
        body["fetch_interval"] = secs.into();
    }
    if let Some(text) = description {
        body["description"] = text.into();
    }
    Ok(body)
}

/// Whether what is to be looked at is an address, and no path: those of files are paths, too.
fn is_address(text: &str) -> bool {
    let is_of_files = ["s3://", "gs://", "az://", "sftp://"].iter().any(|scheme| begins_with(text, scheme));
    (text.contains("://") && !is_of_files) || database_url::options(text).is_some()
}

fn is_web_address(text: &str) -> bool {
    begins_with(text, "http://") || begins_with(text, "https://")
}

fn begins_with(text: &str, scheme: &str) -> bool {
    text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// Sets the options that say where records are; returns the type that they imply.
fn set_place(config: &mut Value, place: Place) -> Option<&'static str> {
    let Place { path, url, table, query } = place;
    let of_database = url.as_deref().and_then(database_url::options);
    let is_socket = |url: &String| ["ws://", "wss://"].iter().any(|scheme| url.trim_start().starts_with(scheme));
    let of_url = |url: &String| if is_socket(url) { "websocket" } else { "api" };
    let implied = match table.is_some() || query.is_some() || of_database.is_some() {
        true => Some("database"),
        false if path.is_some() => Some("file"),
        false => url.as_ref().map(of_url),
    };
    let given = [("path", path), ("table", table), ("query", query)];
    let mut options: Map<String, Value> =
        given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect();
    match (of_database, url) {
        (Some(of_database), _) => options.extend(of_database),
        (None, Some(url)) => drop(options.insert("url".to_owned(), url.into())),
        (None, None) => {}
    }
    for (key, value) in options {
        config[key] = value;
    }
    implied
}

/// Sets each `KEY=VALUE` of the flags `--set` in a config.
pub fn set_all(config: &mut Value, options: &[String]) -> Result<(), Failure> {
    for option in options {
        let (key, value) = option.split_once('=').ok_or_else(|| {
            Failure::new(Exit::Usage, Message::NoKeyValue { option: option.clone() }).help(Message::WriteKeyValue)
        })?;
        set(config, key, value)?;
    }
    Ok(())
}

/// Sets `a.b.c` in a config; the value is JSON when it reads as JSON, else text.
fn set(config: &mut Value, key: &str, value: &str) -> Result<(), Failure> {
    let mut at = config;
    for part in key.split('.') {
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
        at = at
            .as_object_mut()
            .ok_or_else(|| {
                Failure::new(Exit::Usage, Message::BeneathNoObject { key: key.to_owned() })
                    .help(Message::SetObjectFirst)
            })?
            .entry(part)
            .or_insert(Value::Null);
    }
    *at = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_that_of_what_is_given() {
        let implied = |path: Option<&str>, url: Option<&str>, table: Option<&str>, query: Option<&str>| {
            let text = |text: Option<&str>| text.map(str::to_owned);
            let mut config = json!({});
            let place = Place { path: text(path), url: text(url), table: text(table), query: text(query) };
            (set_place(&mut config, place), config)
        };
        let orders = Some("orders");
        for (found, wanted) in [
            (implied(Some("a.csv"), None, None, None), (Some("file"), json!({"path": "a.csv"}))),
            (implied(None, Some("https://h/x"), None, None), (Some("api"), json!({"url": "https://h/x"}))),
            (implied(None, Some("wss://h/x"), None, None), (Some("websocket"), json!({"url": "wss://h/x"}))),
            (
                implied(None, Some("mysql://u:p@h/d"), orders, None),
                (Some("database"), json!({"url": "mysql://u@h/d", "password": "p", "table": "orders"})),
            ),
            (
                implied(Some("shop.db"), None, None, Some("select 1 as one")),
                (Some("database"), json!({"path": "shop.db", "query": "select 1 as one"})),
            ),
            (
                implied(None, Some("sqlite:shop.db"), orders, None),
                (Some("database"), json!({"engine": "sqlite", "path": "shop.db", "table": "orders"})),
            ),
            (implied(None, None, None, None), (None, json!({}))),
        ] {
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn set_takes_json_and_plain_text_and_goes_deeper_at_dots() {
        let mut config = json!({});
        set(&mut config, "encoding", "shift_jis").unwrap();
        set(&mut config, "pagination.type", "page_number").unwrap();
        set(&mut config, "header", "false").unwrap();
        assert_eq!(config, json!({"encoding":"shift_jis","pagination":{"type":"page_number"},"header":false}));
    }
}

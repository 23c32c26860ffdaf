//! `matome data ...`

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::value::RawValue;

use super::{find, list};
use crate::cli::{DataCommand, Format, WhichData};
use crate::client::Client;
use crate::commands::aggregate::AGGREGATIONS;
use crate::commands::source::SOURCES;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Column, Row, print_row, print_rows, printed, value_at};

const ACQUIRED: &[Column] = &[("id", &["id"]), ("acquired", &["acquired_at"]), ("raw data", &["raw_data"])];
const ACQUIRED_OR_DELETED: &[Column] =
    &[("id", &["id"]), ("acquired", &["acquired_at"]), ("deleted", &["deleted"]), ("raw data", &["raw_data"])];
const AGGREGATED: &[Column] = &[("id", &["id"]), ("aggregated", &["aggregated_at"]), ("data", &["data"])];

pub async fn run(command: DataCommand, console: &Console) -> Result<(), Failure> {
    match command {
        DataCommand::Query { client, which, runs, versions, limit } => {
            let output = client.output.clone();
            let client = Client::connect(&client, console, false).await?;
            let which = resolve(&client, &which).await?;
            let run = runs.query();
            let mut query = vec![("source", which.id.as_str())];
            query.extend(run.as_ref().map(|(name, id)| (*name, id.as_str())));
            query.extend(versions.query());
            let rows = list(&client, which.data, &query, limit).await?;
            if rows.is_empty() && output.output == Format::Table {
                console.notice(Message::NoRows);
            }
            print_rows(console, &output, &rows, with_tombstones(&rows, which.columns, ACQUIRED_OR_DELETED))?;
            client.close().await;
        }
        DataCommand::Export { client, which, runs, versions, to } => {
            let format = client.output.output;
            let client = Client::connect(&client, console, false).await?;
            let which = resolve(&client, &which).await?;
            let query = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(versions.query())
                .extend_pairs(runs.query())
                .finish();
            let path = format!("{}{}/export/?{query}", which.sources, which.id);
            let export = Export { client: &client, path, name: which.name, format, console };
            match &to {
                None => drop(export.write(&mut io::stdout().lock()).await?),
                Some(file) => export.write_file(file).await?,
            }
            client.close().await;
        }
        DataCommand::Delete { client, source, before, since, record, yes } => {
            let output = client.output.clone();
            let client = Client::connect(&client, console, false).await?;
            match (source, record) {
                (Some(name), _) if before.is_some() || since.is_some() => {
                    let id = find(&client, SOURCES, &name).await?;
                    let bounds = [("acquired_at__gte", ">= ", &since), ("acquired_at__lt", "< ", &before)];
                    let bounds =
                        || bounds.iter().filter_map(|(key, sign, time)| Some((*key, *sign, (*time).as_deref()?)));
                    let which = bounds().map(|(_, sign, time)| format!("{sign}{time}")).collect::<Vec<_>>().join(", ");
                    console.confirm(Message::RemoveSomeRecords { name, which }, yes)?;
                    let mut query = url::form_urlencoded::Serializer::new(String::new());
                    query.append_pair("source", &id).extend_pairs(bounds().map(|(key, _, time)| (key, time)));
                    let row =
                        client.send("DELETE", &format!("{RECORDS}?{}", query.finish()), None).await?.into_json()?;
                    console.notice(Message::Removing);
                    print_row(console, &output, &row)?;
                }
                (_, Some(id)) => {
                    console.confirm(Message::RemoveRecord { id: id.to_string() }, yes)?;
                    client.send("DELETE", &format!("{RECORDS}{id}/"), None).await?.into_json()?;
                }
                _ => return Err(Failure::new(Exit::Usage, Message::NoRecordsNamed).help(Message::GiveRecords)),
            }
            client.close().await;
        }
        DataCommand::History(target) => {
            let client = Client::connect(&target.client, console, false).await?;
            let rows = list(&client, &format!("{RECORDS}{}/history/", target.id), &[], usize::MAX).await?;
            let columns = with_tombstones(&rows, VERSIONS, VERSIONS_OR_DELETED);
            print_rows(console, &target.client.output, &rows, columns)?;
            client.close().await;
        }
        DataCommand::Diff { target, against } => {
            let output = &target.client.output;
            let client = Client::connect(&target.client, console, false).await?;
            let query = against.map(|id| format!("?against={id}")).unwrap_or_default();
            let diff = client.get(&format!("{RECORDS}{}/diff/{query}", target.id)).await?.into_json()?;
            match output.output {
                // The changes are what is looked for; the frame around them is for programs.
                Format::Table | Format::Csv | Format::Ndjson => {
                    print_rows(console, output, &changes(&diff)?, CHANGES)?;
                }
                Format::Json | Format::Yaml => print_row(console, output, &diff)?,
            }
            client.close().await;
        }
    }
    Ok(())
}

const RECORDS: &str = "/api/acquisition/data/";
const VERSIONS: &[Column] =
    &[("id", &["id"]), ("version", &["version"]), ("acquired", &["acquired_at"]), ("raw data", &["raw_data"])];
const VERSIONS_OR_DELETED: &[Column] = &[
    ("id", &["id"]),
    ("version", &["version"]),
    ("acquired", &["acquired_at"]),
    ("deleted", &["deleted"]),
    ("raw data", &["raw_data"]),
];
const CHANGES: &[Column] = &[("path", &["path"]), ("change", &["change"]), ("old", &["old"]), ("new", &["new"])];

/// The columns of these rows: those that tell tombstones from records where there is one.
fn with_tombstones(rows: &[Row], columns: &'static [Column], or_deleted: &'static [Column]) -> &'static [Column] {
    let is_tombstone = |row: &Row| value_at(row.get(), &["deleted"]).as_deref() == Some("true");
    if rows.iter().any(is_tombstone) { or_deleted } else { columns }
}

/// The rows of a comparison.
fn changes(diff: &Row) -> Result<Vec<Row>, Failure> {
    #[derive(serde::Deserialize)]
    struct Diff {
        changes: Vec<Box<RawValue>>,
    }
    let diff: Diff = serde_json::from_str(diff.get()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
    Ok(diff.changes)
}

/// Whose data a command is about.
struct Resolved {
    sources: &'static str,
    data: &'static str,
    name: String,
    id: String,
    columns: &'static [Column],
}

async fn resolve(client: &Client, which: &WhichData) -> Result<Resolved, Failure> {
    match (&which.source, &which.aggregation) {
        (_, Some(name)) => Ok(Resolved {
            sources: AGGREGATIONS,
            data: "/api/aggregation/data/",
            id: find(client, AGGREGATIONS, name).await?,
            name: name.clone(),
            columns: AGGREGATED,
        }),
        (Some(name), None) => Ok(Resolved {
            sources: SOURCES,
            data: "/api/acquisition/data/",
            id: find(client, SOURCES, name).await?,
            name: name.clone(),
            columns: ACQUIRED,
        }),
        (None, None) => Err(Failure::new(Exit::Usage, Message::NeitherGiven).help(Message::GiveOneOfThem)),
    }
}

/// An export under way.
struct Export<'a> {
    client: &'a Client,
    path: String,
    name: String,
    format: Format,
    console: &'a Console,
}

impl Export<'_> {
    /// A file appears under its name only when it is whole.
    async fn write_file(&self, file: &Path) -> Result<(), Failure> {
        let shown = file.display().to_string();
        let failed = |err: io::Error| {
            Failure::new(Exit::Failed, Message::CannotWrite { file: shown.clone() })
                .because(&err)
                .help(Message::CheckRoom)
        };
        let mut part = file.as_os_str().to_owned();
        part.push(".part");
        let mut out = BufWriter::new(File::create(&part).map_err(failed)?);
        let rows = self.write(&mut out).await?;
        out.into_inner().map_err(|err| failed(err.into_error()))?.sync_all().map_err(failed)?;
        std::fs::rename(&part, file).map_err(failed)?;
        self.console.notice(Message::Wrote { rows: rows.to_string(), file: shown.clone() });
        Ok(())
    }

    /// Writes the records themselves as they arrive.
    async fn write(&self, out: &mut impl Write) -> Result<u64, Failure> {
        let mut progress = self.console.progress(&self.name, "rows", None);
        let mut written = 0u64;
        let mut is_open = true;
        let mut csv_headings: Option<Vec<String>> = None;
        let write = |line: &str| {
            let record =
                RawValue::from_string(line.to_owned()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
            if is_open {
                is_open = still_open(write_record(out, self.format, &record, written, &mut csv_headings))?;
            }
            written += 1;
            progress.at(written, "running");
            Ok(is_open)
        };
        self.client.lines(&self.path, write).await?;
        if is_open && self.format == Format::Json {
            is_open = still_open(out.write_all(if written == 0 { b"[]\n" } else { b"\n]\n" }))?;
        }
        if is_open {
            still_open(out.flush())?;
        }
        progress.end(written, "succeeded");
        Ok(written)
    }
}

/// Whether the reader of a pipe is still there; `matome ... | head` ends reading early, which is no failure.
fn still_open(result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => printed(other).map(|()| true),
    }
}

fn write_record(
    out: &mut impl Write,
    format: Format,
    record: &Row,
    n: u64,
    csv_headings: &mut Option<Vec<String>>,
) -> io::Result<()> {
    match format {
        // Without a form of its own a table makes no sense for an export.
        Format::Ndjson | Format::Table => writeln!(out, "{}", record.get()),
        Format::Json => write!(out, "{}  {}", if n == 0 { "[\n" } else { ",\n" }, record.get()),
        Format::Yaml => crate::output::yaml::write_item(out, record),
        Format::Csv => {
            let rows = std::slice::from_ref(record);
            let headings = match csv_headings {
                Some(headings) => headings,
                None => {
                    let (headings, _) = crate::output::cells(rows, &[]);
                    crate::output::write_csv_line(out, &headings)?;
                    csv_headings.insert(headings)
                }
            };
            let line: Vec<String> =
                headings.iter().map(|name| value_at(record.get(), &[name]).unwrap_or_default()).collect();
            crate::output::write_csv_line(out, &line)
        }
    }
}

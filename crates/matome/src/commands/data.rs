//! `matome data ...`

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::value::RawValue;

use super::{find, list, printed};
use crate::cli::{DataCommand, Format, WhichData};
use crate::client::Client;
use crate::commands::aggregate::AGGREGATIONS;
use crate::commands::source::SOURCES;
use crate::failure::{Exit, Failure};
use crate::output::{Column, Row, print_rows, value_at};

const ACQUIRED: &[Column] = &[("id", &["id"]), ("acquired", &["acquired_at"]), ("raw data", &["raw_data"])];
const AGGREGATED: &[Column] = &[("id", &["id"]), ("aggregated", &["aggregated_at"]), ("data", &["data"])];

pub async fn run(command: DataCommand) -> Result<(), Failure> {
    match command {
        DataCommand::Query { client, which, limit } => {
            let format = client.output;
            let client = Client::connect(&client, false).await?;
            let which = resolve(&client, &which).await?;
            let rows = list(&client, which.data, &[("source", &which.id)], limit).await?;
            if rows.is_empty() && format == Format::Table {
                eprintln!("No rows yet. A source is read by: matome source run NAME --wait");
            }
            printed(print_rows(format, &rows, which.columns))?;
            client.close().await;
        }
        DataCommand::Export { client, which, to } => {
            let format = client.output;
            let client = Client::connect(&client, false).await?;
            let which = resolve(&client, &which).await?;
            let path = format!("{}{}/export/", which.sources, which.id);
            match &to {
                None => drop(export(&client, &path, format, &mut io::stdout().lock()).await?),
                Some(file) => export_to_file(&client, &path, format, file).await?,
            }
            client.close().await;
        }
    }
    Ok(())
}

/// Whose data a command is about.
struct Resolved {
    sources: &'static str,
    data: &'static str,
    id: String,
    columns: &'static [Column],
}

async fn resolve(client: &Client, which: &WhichData) -> Result<Resolved, Failure> {
    match (&which.source, &which.aggregation) {
        (_, Some(name)) => Ok(Resolved {
            sources: AGGREGATIONS,
            data: "/api/aggregation/data/",
            id: find(client, AGGREGATIONS, name).await?,
            columns: AGGREGATED,
        }),
        (Some(name), None) => Ok(Resolved {
            sources: SOURCES,
            data: "/api/acquisition/data/",
            id: find(client, SOURCES, name).await?,
            columns: ACQUIRED,
        }),
        (None, None) => Err(Failure::new(Exit::Usage, "neither --source nor --aggregation is given")),
    }
}

/// A file appears under its name only when it is whole.
async fn export_to_file(client: &Client, path: &str, format: Format, file: &Path) -> Result<(), Failure> {
    let failed = |err: io::Error| Failure::new(Exit::Failed, format!("cannot write `{}`: {err}", file.display()));
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let mut out = BufWriter::new(File::create(&part).map_err(failed)?);
    let rows = export(client, path, format, &mut out).await?;
    out.into_inner().map_err(|err| failed(err.into_error()))?.sync_all().map_err(failed)?;
    std::fs::rename(&part, file).map_err(failed)?;
    eprintln!("wrote {rows} rows to `{}`", file.display());
    Ok(())
}

/// Writes the records themselves as they arrive.
async fn export(client: &Client, path: &str, format: Format, out: &mut impl Write) -> Result<u64, Failure> {
    let failed = |err: io::Error| Failure::from_error(Exit::Failed, &err);
    let mut written = 0u64;
    let mut csv_headings: Option<Vec<String>> = None;
    let write = |line: &str| {
        let record = RawValue::from_string(line.to_owned()).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
        write_record(out, format, &record, written, &mut csv_headings).map_err(failed)?;
        written += 1;
        Ok(())
    };
    client.lines(path, write).await?;
    if format == Format::Json {
        out.write_all(if written == 0 { b"[]\n" } else { b"\n]\n" }).map_err(failed)?;
    }
    out.flush().map_err(failed)?;
    Ok(written)
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

//! `matome db ...`

use matome_store::check::{Verdict, check};
use matome_store::db::Snapshot;
use serde_json::json;
use serde_json::value::to_raw_value;

use crate::cli::{DbCommand, Format, StorageArgs};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Column, Row, print_rows};

const COLUMNS: &[Column] =
    &[("invariant", &["invariant"]), ("status", &["status"]), ("what", &["what"]), ("where", &["where"])];

pub async fn run(command: DbCommand, console: &Console) -> Result<(), Failure> {
    let DbCommand::Check { storage, full, output } = command;
    let verdicts = check(&mut snapshot(&storage).await?, full).await?;
    let rows: Vec<Row> = verdicts.iter().map(|verdict| row(verdict, output.output)).collect();
    print_rows(console, &output, &rows, COLUMNS)?;
    match verdicts.iter().filter(|verdict| !verdict.holds()).count() {
        0 => Ok(()),
        broken => Err({
            let (broken, all) = (broken.to_string(), verdicts.len().to_string());
            Failure::new(Exit::Failed, Message::InvariantsBroken { broken, all }).help(Message::ReportInvariants)
        }),
    }
}

async fn snapshot(storage: &StorageArgs) -> Result<Snapshot, Failure> {
    if let Some(url) = &storage.database_url {
        return Ok(Snapshot::of_postgres(url).await?);
    }
    let file = storage.data_dir.join("matome.db");
    if !file.exists() {
        let dir = storage.data_dir.display().to_string();
        return Err(Failure::new(Exit::Config, Message::NoDatabase { dir }).help(Message::NameDatabase));
    }
    Ok(Snapshot::of_file(&file).await?)
}

fn row(verdict: &Verdict, output: Format) -> Row {
    let status = if verdict.holds() { "ok" } else { "violated" };
    let places = match (output, verdict.violations.saturating_sub(verdict.places.len() as u64)) {
        (Format::Json | Format::Ndjson | Format::Yaml, _) => json!(verdict.places),
        (_, 0) => json!(verdict.places.join("; ")),
        (_, more) => json!(format!("{}; and {more} more", verdict.places.join("; "))),
    };
    let row = json!({
        "invariant": verdict.invariant,
        "status": status,
        "what": verdict.rule,
        "count": verdict.violations,
        "where": places,
    });
    to_raw_value(&row).expect("text and numbers are JSON")
}

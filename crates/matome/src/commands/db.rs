//! `matome db ...`

mod backup;
mod copy;
mod manifest;
mod restore;

use matome_model::language::Language;
use matome_model::say;
use matome_store::check::{Verdict, check};
use matome_store::db::Snapshot;
use serde_json::json;
use serde_json::value::to_raw_value;

use crate::cli::{DbCommand, Format, OutputArgs, StorageArgs};
use crate::console::Console;
use crate::failure::{Exit, Failure, of_postgres};
use crate::message::Message;
use crate::output::{Column, Row, print_rows};

const COLUMNS: &[Column] =
    &[("invariant", &["invariant"]), ("status", &["status"]), ("what", &["what"]), ("where", &["where"])];

pub async fn run(command: DbCommand, console: &Console) -> Result<(), Failure> {
    match command {
        DbCommand::Check { storage, full, output } => run_check(&storage, console, full, &output).await,
        DbCommand::Backup { storage, to, with_key, force, output } => {
            let plan = backup::Plan { to: &to, with_key, force };
            backup::run(&storage, console, &plan, &output).await
        }
        DbCommand::NoteBackup { storage } => {
            backup::note(&storage, None).await?;
            console.notice(Message::BackupNoted);
            Ok(())
        }
        DbCommand::Restore { storage, from, force, output } => {
            restore::run(&storage, console, &from, force, &output).await
        }
        DbCommand::Copy { from, to, output } => copy::run(&from, &to, console, &output).await,
    }
}

async fn run_check(storage: &StorageArgs, console: &Console, full: bool, output: &OutputArgs) -> Result<(), Failure> {
    let verdicts = check(&mut snapshot(storage).await?, full).await?;
    let rows: Vec<Row> = verdicts.iter().map(|verdict| row(verdict, output.output, console.language)).collect();
    print_rows(console, output, &rows, COLUMNS)?;
    match broken(&verdicts) {
        None => Ok(()),
        Some(failure) => Err(failure),
    }
}

/// What a check found, when it found something.
fn broken(verdicts: &[Verdict]) -> Option<Failure> {
    let broken = verdicts.iter().filter(|verdict| !verdict.holds()).count();
    let message = Message::InvariantsBroken { broken: broken.to_string(), all: verdicts.len().to_string() };
    (broken > 0).then(|| Failure::new(Exit::Failed, message).help(Message::ReportInvariants))
}

async fn snapshot(storage: &StorageArgs) -> Result<Snapshot, Failure> {
    if let Some(url) = &storage.database_url {
        return Snapshot::of_postgres(url).await.map_err(|err| of_postgres(err, url));
    }
    let file = storage.data_dir.join("matome.db");
    if !file.exists() {
        let dir = storage.data_dir.display().to_string();
        return Err(Failure::new(Exit::Config, Message::NoDatabase { dir }).help(Message::NameDatabase));
    }
    Ok(Snapshot::of_file(&file).await?)
}

fn row(verdict: &Verdict, output: Format, language: Language) -> Row {
    let status = if verdict.holds() { "ok" } else { "violated" };
    let places = match (output, verdict.violations.saturating_sub(verdict.places.len() as u64)) {
        (Format::Json | Format::Ndjson | Format::Yaml, _) => json!(verdict.places),
        (_, 0) => json!(verdict.places.join("; ")),
        (_, more) => {
            let more = say!("and {more} more", "ほか {more} 件");
            json!(format!("{}; {}", verdict.places.join("; "), more.text(language)))
        }
    };
    let row = json!({
        "invariant": verdict.invariant,
        "status": status,
        "what": verdict.rule.text(language),
        "count": verdict.violations,
        "where": places,
    });
    to_raw_value(&row).expect("text and numbers are JSON")
}

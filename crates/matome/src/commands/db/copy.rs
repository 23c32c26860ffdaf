//! `matome db copy`: all of a database into one of the other kind.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use matome_model::clock::Clock;
use matome_model::field_error::Words;
use matome_store::check::check;
use matome_store::copy::{Fingerprints, Outcome, Target, copy};
use matome_store::db::{DataDir, Snapshot};
use matome_store::secrets;
use serde_json::json;
use serde_json::value::to_raw_value;

use super::backup::sync_dir;
use super::manifest::DATABASE;
use super::restore::Stage;
use crate::cli::OutputArgs;
use crate::console::{Console, Progress};
use crate::failure::{Exit, Failure, of_postgres};
use crate::message::Message;
use crate::output::{Column, Row, print_rows};

const COLUMNS: &[Column] = &[("table", &["table"]), ("source", &["source"]), ("rows", &["rows"]), ("hash", &["hash"])];

/// One end of a copy.
enum End {
    /// The directory of an embedded database.
    Dir(PathBuf),
    Postgres(String),
}

impl End {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || Failure::new(Exit::Usage, Message::NoEnd { text: hidden(text) }).help(Message::WriteEnd);
        if ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(Self::Postgres(text.to_owned()));
        }
        let path = text.strip_prefix("sqlite:").ok_or_else(wrong)?;
        let path = Path::new(path.strip_prefix("//").unwrap_or(path));
        match path.file_name() {
            None => Err(wrong()),
            Some(name) if name == DATABASE => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                Ok(Self::Dir(parent.unwrap_or(Path::new(".")).to_owned()))
            }
            Some(_) if path.is_file() => Err(wrong()),
            Some(_) => Ok(Self::Dir(path.to_owned())),
        }
    }
}

/// An address without what may be a password.
fn hidden(text: &str) -> String {
    text.split_once('@').map_or_else(|| text.to_owned(), |(_, host)| format!("...@{host}"))
}

pub async fn run(from: &str, to: &str, console: &Console, output: &OutputArgs) -> Result<(), Failure> {
    let (source, target) = (End::parse(from)?, End::parse(to)?);
    if let (End::Dir(_), End::Dir(_)) = (&source, &target) {
        return Err(Failure::new(Exit::Usage, Message::BothEmbedded).help(Message::UseBackup));
    }
    let mut snapshot = match &source {
        End::Postgres(url) => Snapshot::of_postgres(url).await.map_err(|err| of_postgres(err, url))?,
        End::Dir(dir) => {
            let file = dir.join(DATABASE);
            if !file.exists() {
                let what = Message::NoDatabase { dir: dir.display().to_string() };
                return Err(Failure::new(Exit::Config, what).help(Message::WriteEnd));
            }
            Snapshot::of_file(&file).await?
        }
    };
    let copied = match &target {
        End::Postgres(url) => into_postgres(&mut snapshot, url, console).await?,
        End::Dir(dir) => into_dir(&mut snapshot, dir, console).await?,
    };
    let sealed = secrets::count_of_other_keys(&mut snapshot.conn(), None).await?;
    let rows: Vec<Row> = copied
        .iter()
        .map(|((table, source), print)| {
            let row =
                json!({ "table": table, "source": source, "rows": print.rows, "hash": format!("{:032x}", print.hash) });
            to_raw_value(&row).expect("text and numbers are JSON")
        })
        .collect();
    print_rows(console, output, &rows, COLUMNS)?;
    let all: u64 = copied.values().map(|print| print.rows).sum();
    console.notice(Message::CopiedAll { rows: all.to_string() });
    if sealed > 0 {
        console.notice(Message::KeyNotCopied { n: sealed.to_string() });
    }
    Ok(())
}

/// Copies into a PostgreSQL database, and checks it.
pub(super) async fn into_postgres(
    source: &mut Snapshot,
    url: &str,
    console: &Console,
) -> Result<Fingerprints, Failure> {
    let copied = whole(into(source, Target::Postgres(url), console).await?)?;
    checked(&mut Snapshot::of_postgres(url).await.map_err(|err| of_postgres(err, url))?).await?;
    Ok(copied)
}

/// Copies into a new file, and checks it. It is durable in the end.
pub(super) async fn into_file(source: &mut Snapshot, file: &Path, console: &Console) -> Result<Fingerprints, Failure> {
    let copied = whole(into(source, Target::File(file), console).await?)?;
    checked(&mut Snapshot::of_file(file).await?).await?;
    matome_store::backup::settle(file).await?;
    File::open(file).and_then(|file| file.sync_all()).map_err(|err| failed(file, &err))?;
    Ok(copied)
}

async fn into_dir(source: &mut Snapshot, dir: &Path, console: &Console) -> Result<Fingerprints, Failure> {
    let held = DataDir::acquire(dir)?;
    let file = dir.join(DATABASE);
    if file.exists() {
        let dir = dir.display().to_string();
        return Err(Failure::new(Exit::Conflict, Message::DatabaseThere { dir }).help(Message::GiveOtherDir));
    }
    let stage = Stage::make(dir)?;
    let ready = stage.path().join(DATABASE);
    let copied = into_file(source, &ready, console).await?;
    fs::rename(&ready, &file).and_then(|()| sync_dir(held.path())).map_err(|err| failed(&file, &err))?;
    Ok(copied)
}

fn failed(file: &Path, err: &io::Error) -> Failure {
    Failure::new(Exit::Failed, Message::CannotWrite { file: file.display().to_string() })
        .because(err)
        .help(Message::CheckRoom)
}

async fn into(source: &mut Snapshot, target: Target<'_>, console: &Console) -> Result<Outcome, Failure> {
    let (console, mut stage, mut progress) = (*console, "", None::<Progress>);
    let mut told = move |now: &'static str, done: u64, total: u64| {
        if now != stage {
            if let Some(ended) = progress.take() {
                ended.end(total, stage);
            }
            stage = now;
        }
        progress.get_or_insert_with(|| console.progress("copy", "rows", Some(total))).at(done, now);
    };
    // The source was reached before.
    let failure = |err| match target {
        Target::Postgres(url) => of_postgres(err, url),
        Target::File(_) => Failure::from(err),
    };
    copy(source, target, Clock::system().now(), &mut told).await.map_err(failure)
}

fn whole(outcome: Outcome) -> Result<Fingerprints, Failure> {
    match outcome {
        Outcome::Copied(fingerprints) => Ok(fingerprints),
        Outcome::NotEmpty => Err(Failure::new(Exit::Conflict, Message::TargetNotEmpty).help(Message::GiveEmptyTarget)),
        Outcome::Unholdable(bad) => {
            let lines =
                bad.iter().map(|bad| format!("\n  {} ({}): {}", bad.column, bad.row, bad.why)).collect::<String>();
            let why = Words::new(lines.clone(), lines);
            Err(Failure::new(Exit::Config, Message::TargetCannotHold).why(why).help(Message::CorrectRows))
        }
        Outcome::Different(groups) => {
            let line = |(table, source): &(String, Option<i64>)| match source {
                Some(source) => format!("{table} (source {source})"),
                None => table.clone(),
            };
            let lines = groups.iter().map(line).collect::<Vec<_>>().join(", ");
            let why = Words::new(lines.clone(), lines);
            Err(Failure::new(Exit::Failed, Message::CopyDiffers).why(why).help(Message::ReportDefect))
        }
    }
}

async fn checked(snapshot: &mut Snapshot) -> Result<(), Failure> {
    match super::broken(&check(snapshot, false).await?) {
        None => Ok(()),
        Some(failure) => Err(failure),
    }
}

//! `matome doctor`: looks for what is wrong, or soon will be, with settings, data directory, database and machine. It
//! changes nothing and works beside a running server.

mod database;
mod deployment;
mod directory;
mod machine;

use matome_model::field_error::Words;
use serde_json::json;
use serde_json::value::to_raw_value;

use crate::app;
use crate::cli::{DoctorArgs, Format, ServeArgs};
use crate::config::Config;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::output::{Column, Row, print_rows};

const COLUMNS: &[Column] = &[("id", &["id"]), ("severity", &["severity"]), ("what", &["what"]), ("fix", &["fix"])];

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Ok,
    /// Worth knowing.
    Note,
    /// Works, and may not for long or not safely.
    Warning,
    /// Does not work.
    Error,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What one check found.
#[derive(Debug)]
pub struct Finding {
    /// Stable: M and three digits.
    pub id: &'static str,
    pub severity: Severity,
    pub what: Words,
    /// What to do, when there is something.
    pub fix: Option<Words>,
}

impl Finding {
    pub fn ok(id: &'static str, what: impl Into<Words>) -> Self {
        Self { id, severity: Severity::Ok, what: what.into(), fix: None }
    }

    pub fn new(id: &'static str, severity: Severity, what: impl Into<Words>, fix: impl Into<Words>) -> Self {
        Self { id, severity, what: what.into(), fix: Some(fix.into()) }
    }

    /// From a failure: what and why, and its help.
    pub fn of_failure(id: &'static str, failure: Failure) -> Self {
        let what = match failure.why {
            None => failure.what,
            Some(why) => Words::new(
                format!("{}: {}", failure.what.english, why.english),
                format!("{}: {}", failure.what.japanese, why.japanese),
            ),
        };
        Self { id, severity: Severity::Error, what, fix: failure.help.map(|help| *help) }
    }
}

pub async fn run(args: DoctorArgs, config: &Config, console: &Console) -> Result<(), Failure> {
    let mut findings = settings(&args.settings, config);
    findings.extend(directory::look(&args.settings));
    findings.extend(database::look(&args.settings).await);
    findings.extend(machine::look(&args.settings).await);
    if args.deploy {
        findings.extend(deployment::look(&args.settings, config).await);
    }
    let rows: Vec<Row> = findings.iter().map(|finding| row(finding, console, args.output.output)).collect();
    print_rows(console, &args.output, &rows, COLUMNS)?;
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => Ok(()),
        (0, warnings) if args.strict => Err(Failure::new(Exit::Differences, warns(warnings)).help(Message::SeeFixes)),
        (0, warnings) => {
            console.notice(warns(warnings));
            Ok(())
        }
        (errors, _) => {
            let what = match errors {
                1 => Message::DoctorFailsOnce,
                n => Message::DoctorFails { n: n.to_string() },
            };
            Err(Failure::new(Exit::Failed, what).help(Message::SeeFixes))
        }
    }
}

fn warns(warnings: usize) -> Message {
    match warnings {
        1 => Message::DoctorWarnsOnce,
        n => Message::DoctorWarns { n: n.to_string() },
    }
}

fn row(finding: &Finding, console: &Console, format: Format) -> Row {
    let text = |words: &Words| words.text(console.language).to_owned();
    let none = if format == Format::Table { Some(String::new()) } else { None };
    let row = json!({
        "id": finding.id,
        "severity": finding.severity.as_str(),
        "what": text(&finding.what),
        "fix": finding.fix.as_ref().map(text).or(none),
    });
    to_raw_value(&row).expect("text is JSON")
}

/// M001 to M009: the settings themselves. That they can be read is known when we are here.
fn settings(args: &ServeArgs, config: &Config) -> Vec<Finding> {
    let files: Vec<String> = config.files.iter().map(|file| file.display().to_string()).collect();
    let files = if files.is_empty() { "-".to_owned() } else { files.join(", ") };
    let mut findings = vec![Finding::ok("M001", Message::SettingsRead { files })];
    for (name, why) in &config.without_effect {
        let what = Message::HasNoEffect { name: (*name).to_owned() };
        findings.push(Finding::new("M002", Severity::Note, what, why.clone()));
    }
    if args.listen.bind.ip().is_loopback() {
        findings.push(Finding::ok("M003", Message::BindLoopback { address: args.listen.bind.to_string() }));
    } else {
        let what = Message::BindOutside { address: args.listen.bind.to_string() };
        findings.push(Finding::new("M003", Severity::Warning, what, Message::UseTlsProxy));
    }
    if args.listen.allowed_hosts.iter().any(|host| host == "*") {
        findings.push(Finding::new("M004", Severity::Warning, Message::AnyHost, Message::NameHosts));
    }
    match app::registry(&args.reach, matome_model::clock::Clock::system()) {
        Ok(_) => findings.push(Finding::ok("M005", Message::ReachGood { n: args.reach.file_roots.len().to_string() })),
        Err(failure) => findings.push(Finding::of_failure("M005", failure)),
    }
    findings
}

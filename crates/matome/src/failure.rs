//! What a command says when it fails: what, why, what to do; and its exit code.

use matome_model::field_error::{Words, chain};
use matome_model::language::Language;
use matome_store::db::postgres_place;
use matome_store::error::StoreError;

use crate::message::Message;

/// Exit codes; the table is in `matome --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    Config = 3,
    Forbidden = 4,
    NotFound = 5,
    Conflict = 6,
    Unreachable = 7,
    Partial = 8,
    Differences = 9,
    Interrupted = 130,
    Terminated = 143,
}

/// An error on its way to stderr.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// What failed.
    pub what: Words,
    /// Why, as far as known: the chain of causes, outermost first. Texts of libraries are English.
    pub why: Option<Box<Words>>,
    /// What to do about it.
    pub help: Option<Box<Words>>,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<Words>) -> Self {
        Self { exit, what: what.into(), why: None, help: None }
    }

    pub fn help(mut self, help: impl Into<Words>) -> Self {
        self.help = Some(Box::new(help.into()));
        self
    }

    pub fn why(mut self, why: impl Into<Words>) -> Self {
        self.why = Some(Box::new(why.into()));
        self
    }

    /// With an error and its whole chain of causes as the reason.
    pub fn because(self, err: &(dyn std::error::Error + 'static)) -> Self {
        self.why(said(in_one_line(err)))
    }

    /// What should not fail: the error itself is all that can be said.
    pub fn from_error(exit: Exit, err: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(exit, Message::Failed).because(err)
    }

    /// The text for people, in up to three parts.
    pub fn text(&self, language: Language) -> String {
        let label = |label: Message| Words::from(label).text(language).to_owned();
        let mut text = format!("{}: {}", label(Message::Error), self.what.text(language));
        for (part, name) in [(&self.why, Message::Cause), (&self.help, Message::Help)] {
            if let Some(words) = part {
                text.push_str(&format!("\n{}: {}", label(name), words.text(language)));
            }
        }
        text
    }
}

/// What a library says; it speaks one language.
pub fn said(text: impl Into<String>) -> Message {
    Message::Said { text: text.into() }
}

fn in_one_line(err: &(dyn std::error::Error + 'static)) -> String {
    let texts: Vec<String> = chain(Some(err)).into_iter().map(|words| words.english).collect();
    without_source_line(&texts.join(": ")).to_owned()
}

/// sqlx ends what PostgreSQL says with the number of a line of PostgreSQL's own source: nobody can look there.
fn without_source_line(text: &str) -> &str {
    match text.rsplit_once(" at line ") {
        Some((said, line)) if !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit()) => said,
        _ => text,
    }
}

/// Why the PostgreSQL of `url` cannot be used, with where that is.
pub fn of_postgres(err: StoreError, url: &str) -> Failure {
    let is_about_server =
        matches!(err, StoreError::Unreachable(_) | StoreError::CommitUnknown(_) | StoreError::Refused(_));
    let failure = Failure::from(err);
    match postgres_place(url).filter(|_| is_about_server) {
        None => failure,
        Some(place) => {
            let why = failure.why.as_ref().map(|why| format!(": {}", why.english)).unwrap_or_default();
            failure.why(said(format!("`{place}`{why}")))
        }
    }
}

impl From<StoreError> for Failure {
    fn from(err: StoreError) -> Self {
        let shown = |path: &std::path::Path| path.display().to_string();
        let causes = std::error::Error::source(&err).map(|cause| said(in_one_line(cause)));
        let (exit, what, why, help) = match &err {
            StoreError::InUse { path } => {
                (Exit::Conflict, Message::DirInUse { dir: shown(path) }, None, Message::StopOther)
            }
            StoreError::SchemaVersion { found, wanted } => {
                let what = Message::OtherSchema { found: found.to_string(), wanted: wanted.clone() };
                let help = if *found == 0 { Message::MigrateFirst } else { Message::MigrateOrUpdate };
                (Exit::Config, what, None, help)
            }
            StoreError::DatabaseUrl { what } => {
                (Exit::Config, Message::NoDatabaseUrl, Some(said(what)), Message::WriteDatabaseUrl)
            }
            StoreError::DataDir { path, what, source } => (
                Exit::Config,
                Message::CannotUse { path: shown(path) },
                Some(said(format!("{what}: {source}"))),
                Message::CheckDataDir,
            ),
            StoreError::MasterKey { path, source } => {
                // The only error that is ours; what the operating system says stays as it is.
                let is_no_key = source.kind() == std::io::ErrorKind::InvalidData;
                let why = if is_no_key { Some(Message::NoKeyInFile) } else { causes };
                (Exit::Config, Message::KeyUnusable { file: shown(path) }, why, Message::MakeKey)
            }
            StoreError::Corrupt { path, what } => {
                (Exit::Config, Message::Corrupt { path: shown(path) }, Some(said(what)), Message::RestoreBackup)
            }
            StoreError::TablesHeld(_) => (Exit::Conflict, Message::TablesInUse, causes, Message::StopApplication),
            StoreError::DiskFull(_) => (Exit::Failed, Message::DiskFull, causes, Message::FreeSpace),
            StoreError::Unreachable(_) | StoreError::CommitUnknown(_) => {
                (Exit::Unreachable, Message::DatabaseGone, causes, Message::CheckDatabase)
            }
            StoreError::Refused(_) => (Exit::Config, Message::DatabaseRefuses, causes, Message::CheckDatabaseUser),
            StoreError::Secret { path, what } => {
                (Exit::Config, Message::SecretUnreadable { path: path.clone() }, Some(said(what)), Message::GiveKey)
            }
            other => (Exit::Failed, Message::StoreFailed, Some(said(in_one_line(other))), Message::ReportDefect),
        };
        let failure = Self::new(exit, what).help(help);
        match why {
            Some(why) => failure.why(why),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgresql_says_has_no_line_of_its_source() {
        for (text, shown) in [
            ("no pg_hba.conf entry at line 334", "no pg_hba.conf entry"),
            ("syntax error at line 3 of the query", "syntax error at line 3 of the query"),
            ("stopped at line ", "stopped at line "),
            ("Connection refused", "Connection refused"),
        ] {
            assert_eq!(without_source_line(text), shown);
        }
    }

    #[test]
    fn a_server_that_cannot_be_used_is_named_without_user_and_password() {
        let refused = || StoreError::Unreachable(std::io::Error::other("refused").into());
        for (url, place) in [
            ("postgres://me:hush@db.example:5433/shop", "`db.example:5433/shop`: "),
            ("postgres://me:hush@[::1]:5433/shop?sslmode=disable", "`[::1]:5433/shop`: "),
            ("postgres://me:hush@db.example:5433", "`db.example:5433/me`: "),
        ] {
            let why = of_postgres(refused(), url).why.expect("a reason").english;
            assert!(why.starts_with(place) && why.ends_with("refused") && !why.contains("hush"), "{why}");
        }
    }
}

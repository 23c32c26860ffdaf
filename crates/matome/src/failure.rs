//! What a command says when it fails: what, why, what to do; and its exit code.

use std::fmt::Write as _;

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
    Interrupted = 130,
}

/// An error on its way to stderr.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub help: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// An error with its whole chain of causes on one line.
    pub fn from_error(exit: Exit, err: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = err.to_string();
        let mut cause = err.source();
        while let Some(err) = cause {
            let _ = write!(message, ": {err}");
            cause = err.source();
        }
        Self::new(exit, message)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

impl From<matome_store::error::StoreError> for Failure {
    fn from(err: matome_store::error::StoreError) -> Self {
        use matome_store::error::StoreError;
        let (exit, help) = match &err {
            StoreError::InUse { .. } => (Exit::Conflict, "stop that process, or give another --data-dir"),
            StoreError::SchemaVersion { found: 0, .. } => {
                (Exit::Config, "run `matome migrate` with the same DATABASE_URL")
            }
            StoreError::SchemaVersion { .. } => {
                (Exit::Config, "run `matome migrate` if the database is older, or a newer matome if it is newer")
            }
            StoreError::DatabaseUrl { .. } => (Exit::Config, "write postgres://user:password@host/name"),
            StoreError::DataDir { .. } => (Exit::Config, "check that --data-dir can be made and written by this user"),
            StoreError::Corrupt { .. } => {
                (Exit::Config, "restore the file from a backup; it was left exactly as it is")
            }
            StoreError::DiskFull(_) => (Exit::Failed, "free some space; nothing was lost"),
            StoreError::Unreachable(_) | StoreError::CommitUnknown(_) => {
                (Exit::Unreachable, "check that the database runs and that DATABASE_URL is right")
            }
            StoreError::Secret { .. } => {
                (Exit::Config, "give the key that the secrets were written with: DIR/master.key or MASTER_KEY_FILE")
            }
            _ => (Exit::Failed, "this is a defect of matome: please report it with this text"),
        };
        Self::from_error(exit, &err).help(help)
    }
}

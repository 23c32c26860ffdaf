//! What can go wrong with a query, in words that say what to do.

use std::io;
use std::path::PathBuf;

use matome_model::engine::{Failure, FailureCode};

/// Why there is no result, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The SQL cannot be accepted, whatever the data. `hint` may be empty.
    #[error("{reason}{}", remedy(hint))]
    Refused {
        /// What is wrong.
        reason: String,
        /// What the user can do.
        hint: String,
    },
    /// The SQL is sound, but these data break it. `hint` may be empty.
    #[error("{reason}{}", remedy(hint))]
    Query {
        /// What happened.
        reason: String,
        /// What the user can do.
        hint: String,
    },
    /// The query passed a limit of time, memory, temporary files, rows or bytes.
    #[error("{reason}{}", remedy(hint))]
    Limit {
        /// Which limit.
        code: FailureCode,
        /// What happened.
        reason: String,
        /// What the user can do.
        hint: String,
    },
    /// The child process ended in the middle of its work.
    #[error("the SQL engine {how}{}{}", remedy(hint), said(stderr))]
    Crashed {
        /// `was killed by signal 9`, `ended with code 1`.
        how: String,
        /// What the user can do.
        hint: String,
        /// The last that it wrote to stderr.
        stderr: String,
    },
    /// The child cannot be started.
    #[error("the SQL engine `{program}` cannot be started")]
    Start {
        /// The executable.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A table's rows cannot be handed to the child.
    #[error("rows cannot be written to `{path}`")]
    Spool {
        /// The file.
        path: PathBuf,
        /// Why not; a full disk, mostly.
        #[source]
        source: io::Error,
    },
    /// A fault of the engine, or of the messages with it.
    #[error("the SQL engine failed: {reason}")]
    Engine {
        /// What happened.
        reason: String,
    },
}

fn remedy(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!(" ({hint})") }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it wrote: {stderr}") }
}

const MORE_MEMORY: &str =
    "the query needs more memory than it may have: filter or aggregate before joining, use shorter strings";

impl EngineError {
    /// Whether the same request may succeed later without anybody's doing.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Query { .. } | Self::Limit { .. } | Self::Engine { .. } => false,
            Self::Crashed { .. } | Self::Start { .. } | Self::Spool { .. } => true,
        }
    }

    /// What the user can do, when that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { hint, .. }
            | Self::Query { hint, .. }
            | Self::Limit { hint, .. }
            | Self::Crashed { hint, .. } => Some(hint.as_str()).filter(|hint| !hint.is_empty()),
            Self::Start { .. } | Self::Spool { .. } | Self::Engine { .. } => None,
        }
    }

    pub(super) fn time_limit(seconds: u64) -> Self {
        Self::Limit {
            code: FailureCode::TimeLimit,
            reason: format!("the query did not end within {seconds} s"),
            hint: "read fewer rows, check that every join has a condition, or raise `timeout_secs`".to_owned(),
        }
    }

    pub(super) fn memory_limit(resident: u64) -> Self {
        Self::Limit {
            code: FailureCode::MemoryLimit,
            reason: format!("the query's process held {} MiB of memory and was ended", resident >> 20),
            hint: MORE_MEMORY.to_owned(),
        }
    }

    pub(super) fn from_failure(failure: Failure) -> Self {
        let Failure { code, message: reason, hint } = failure;
        match code {
            FailureCode::Refused => Self::Refused { reason, hint },
            FailureCode::Query => Self::Query { reason, hint },
            FailureCode::MemoryLimit
            | FailureCode::SpillLimit
            | FailureCode::RowLimit
            | FailureCode::ByteLimit
            | FailureCode::TimeLimit => Self::Limit { code, reason, hint },
            FailureCode::Input | FailureCode::Protocol | FailureCode::Internal => Self::Engine { reason },
        }
    }
}

/// What the end of a process in the middle of its work means.
pub(super) fn ended(signal: Option<i32>, code: Option<i32>, stderr: String) -> EngineError {
    // Numbers of Linux on all processors that Rust runs on but MIPS and SPARC.
    const SIGABRT: i32 = 6;
    const SIGKILL: i32 = 9;
    const SIGSEGV: i32 = 11;
    const SIGXCPU: i32 = 24;
    const SIGXFSZ: i32 = 25;
    let limit =
        |code, reason: &str, hint: &str| EngineError::Limit { code, reason: reason.to_owned(), hint: hint.to_owned() };
    let crashed = |how: String, hint: &str| EngineError::Crashed { how, hint: hint.to_owned(), stderr: stderr.clone() };
    match (signal, code) {
        (Some(SIGABRT), _) if stderr.contains("memory allocation of") => {
            limit(FailureCode::MemoryLimit, "the query ran out of memory", MORE_MEMORY)
        }
        (Some(SIGABRT | SIGSEGV), _) if stderr.contains("overflowed its stack") => {
            crashed("overflowed its stack".to_owned(), "shorten or split the longest expression")
        }
        (Some(SIGKILL), _) => crashed(
            "was killed from outside".to_owned(),
            "the machine may have run out of memory: run fewer aggregations at a time, or lower their memory limit",
        ),
        (Some(SIGXCPU), _) => limit(
            FailureCode::TimeLimit,
            "the query used up its processor time",
            "read fewer rows, or raise `timeout_secs`",
        ),
        (Some(SIGXFSZ), _) => limit(
            FailureCode::SpillLimit,
            "a temporary file of the query grew past its limit",
            "sort and group fewer rows or columns",
        ),
        (Some(signal), _) => crashed(format!("was ended by signal {signal}"), ""),
        (None, code) => crashed(format!("ended with code {}", code.unwrap_or(-1)), ""),
    }
}

//! What can go wrong with a query, in words that say what to do.

use std::io;
use std::path::PathBuf;

use matome_model::engine::{Failure, FailureCode};
use matome_model::field_error::Words;

/// Why there is no result, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The SQL cannot be accepted, whatever the data. `hint` may be empty.
    #[error("{reason}{}", remedy(&hint.english))]
    Refused {
        /// What is wrong.
        reason: Box<Words>,
        /// What the user can do.
        hint: Box<Words>,
    },
    /// The SQL is sound, but these data break it. `hint` may be empty.
    #[error("{reason}{}", remedy(&hint.english))]
    Query {
        /// What happened.
        reason: Box<Words>,
        /// What the user can do.
        hint: Box<Words>,
    },
    /// The query passed a limit of time, memory, temporary files, rows or bytes.
    #[error("{reason}{}", remedy(&hint.english))]
    Limit {
        /// Which limit.
        code: FailureCode,
        /// What happened.
        reason: Box<Words>,
        /// What the user can do.
        hint: Box<Words>,
    },
    /// The child process ended in the middle of its work.
    #[error("the SQL engine {how}{}{}", remedy(&hint.english), said(stderr))]
    Crashed {
        /// `was killed by signal 9`, `ended with code 1`.
        how: Box<Words>,
        /// What the user can do.
        hint: Box<Words>,
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

const MORE_MEMORY: (&str, &str) = (
    "the query needs more memory than it may have: filter or aggregate before joining, use shorter strings",
    "クエリのメモリーが上限を超えました。結合の前に絞り込みや集計をするか、短い文字列を使ってください",
);

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
            | Self::Crashed { hint, .. } => Some(hint.english.as_str()).filter(|hint| !hint.is_empty()),
            Self::Start { .. } | Self::Spool { .. } | Self::Engine { .. } => None,
        }
    }

    /// What it says, in both languages.
    #[must_use]
    pub fn words(&self) -> Words {
        let with_remedy = |what: &str, hint: &Words| match hint.japanese.as_str() {
            "" => what.to_owned(),
            hint => format!("{what} ({hint})"),
        };
        let japanese = match self {
            Self::Refused { reason, hint } | Self::Query { reason, hint } | Self::Limit { reason, hint, .. } => {
                with_remedy(&reason.japanese, hint)
            }
            Self::Crashed { how, hint, stderr } => {
                let said = if stderr.is_empty() { String::new() } else { format!("。出力: {stderr}") };
                format!("{}{said}", with_remedy(&format!("SQLエンジンが{}", how.japanese), hint))
            }
            Self::Start { program, source } => {
                format!("SQLエンジン`{}`を起動できません: {source}", program.display())
            }
            Self::Spool { path, source } => format!("`{}`に行を書けません: {source}", path.display()),
            Self::Engine { reason } => format!("SQLエンジンが失敗しました: {reason}"),
        };
        Words::new(self.to_string(), japanese)
    }

    pub(super) fn time_limit(seconds: u64) -> Self {
        Self::from_failure(Failure::time_limit(seconds))
    }

    pub(super) fn memory_limit(resident: u64) -> Self {
        Self::Limit {
            code: FailureCode::MemoryLimit,
            reason: Box::new(Words::new(
                format!("the query's process held {} MiB of memory and was ended", resident >> 20),
                format!("クエリのプロセスが{} MiBのメモリーを使ったので、終了させました", resident >> 20),
            )),
            hint: Box::new(MORE_MEMORY.into()),
        }
    }

    pub(super) fn from_failure(failure: Failure) -> Self {
        let Failure { code, message, hint } = failure;
        let (reason, hint) = (Box::new(message), Box::new(hint));
        match code {
            FailureCode::Refused => Self::Refused { reason, hint },
            FailureCode::Query => Self::Query { reason, hint },
            FailureCode::MemoryLimit
            | FailureCode::SpillLimit
            | FailureCode::RowLimit
            | FailureCode::ByteLimit
            | FailureCode::TimeLimit => Self::Limit { code, reason, hint },
            FailureCode::Input | FailureCode::Protocol | FailureCode::Internal => {
                Self::Engine { reason: reason.english }
            }
        }
    }
}

const REPORT: (&str, &str) = (
    "write the query in another way; this is a fault of the engine, please report it",
    "クエリを別の書き方にしてください。エンジンの不具合なので、お知らせください",
);

/// What the end of a process in the middle of its work means.
pub(super) fn ended(signal: Option<i32>, code: Option<i32>, stderr: String) -> EngineError {
    // Numbers of Linux on all processors that Rust runs on but MIPS and SPARC.
    const SIGABRT: i32 = 6;
    const SIGKILL: i32 = 9;
    const SIGSEGV: i32 = 11;
    const SIGXCPU: i32 = 24;
    const SIGXFSZ: i32 = 25;
    type Both<'a> = (&'a str, &'a str);
    let limit = |code, reason: Both<'_>, hint: Both<'_>| EngineError::Limit {
        code,
        reason: Box::new(reason.into()),
        hint: Box::new(hint.into()),
    };
    let crashed = |how: Words, hint: Both<'_>| EngineError::Crashed {
        how: Box::new(how),
        hint: Box::new(hint.into()),
        stderr: stderr.clone(),
    };
    match (signal, code) {
        (Some(SIGABRT), _) if stderr.contains("memory allocation of") => limit(
            FailureCode::MemoryLimit,
            ("the query ran out of memory", "クエリのメモリーが足りなくなりました"),
            MORE_MEMORY,
        ),
        (Some(SIGABRT | SIGSEGV), _) if stderr.contains("overflowed its stack") => {
            let how = Words::new("overflowed its stack", "スタックを使い切りました");
            crashed(how, ("shorten or split the longest expression", "最も長い式を短くするか分けてください"))
        }
        (Some(SIGKILL), _) => crashed(
            Words::new("was killed from outside", "外から終了させられました"),
            (
                "the machine may have run out of memory: run fewer aggregations at a time, or lower their memory limit",
                "マシンのメモリーが足りなかったのかもしれません。同時に実行する集約を減らすか、メモリーの上限を下げてください",
            ),
        ),
        (Some(SIGXCPU), _) => limit(
            FailureCode::TimeLimit,
            ("the query used up its processor time", "クエリがプロセッサー時間を使い切りました"),
            ("read fewer rows, or raise `timeout_secs`", "読む行を減らすか、`timeout_secs`を増やしてください"),
        ),
        (Some(SIGXFSZ), _) => limit(
            FailureCode::SpillLimit,
            ("a temporary file of the query grew past its limit", "クエリの一時ファイルが上限を超えました"),
            ("sort and group fewer rows or columns", "整列やグループ化をする行か列を減らしてください"),
        ),
        (Some(signal), _) => {
            let how = Words::new(format!("was ended by signal {signal}"), format!("シグナル{signal}で終了しました"));
            crashed(how, REPORT)
        }
        (None, code) => {
            let code = code.unwrap_or(-1);
            let how = Words::new(format!("ended with code {code}"), format!("コード{code}で終了しました"));
            crashed(how, REPORT)
        }
    }
}

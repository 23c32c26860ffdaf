//! What can go wrong while reading, where it was, and what the worker should do about it.

mod japanese;
mod remedy;

use std::time::Duration;

use matome_egress::EgressError;
use matome_model::field_error::{Words, chain};

use crate::record::{DocumentError, Position};

/// The longest wait that a `Retry-After` can ask for.
pub(crate) const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What the worker should do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Try again; after exactly this time if the source named one, else after the usual backoff.
    Retry {
        /// What the source asked for, at most a day.
        after: Option<Duration>,
    },
    /// Trying again would end the same way.
    Fail,
}

/// What kind of trouble a database made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseFault {
    /// The user may not, or is not who they say.
    Auth,
    /// TLS did not come about, or the server is not who it says.
    Tls,
    /// There is no such database, table or column.
    Missing,
    /// The query, or how it is to be read, is wrong.
    Query,
    /// A statement took too long.
    Timeout,
    /// The connection broke, or the server can not go on now.
    Lost,
}

/// What kind of trouble a place of files elsewhere made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceFault {
    /// Who asks is not who they say, or may not.
    Auth,
    /// The other side is not who it should be.
    Identity,
    /// There is no such document.
    Missing,
    /// It is longer than what is fetched, or than what is listed.
    TooLong,
    /// What the place answers makes no sense, or says that the config is wrong.
    Answer,
    /// The connection broke, or the other side can not go on now.
    Lost,
}

/// A read that can not go on.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The source has no config that could run.
    #[error("the source is a draft: its config does not say yet what to read")]
    Draft,
    /// Records are sent to the source.
    #[error(
        "there is nothing to read: records are sent to this source with `matome source push NAME FILE` \
         (POST `records/`)"
    )]
    Pushed,
    /// The config is wrong; the fields are in the order of the config.
    #[error("the config is not valid: {}", crate::config::in_one_line(.0))]
    Config(Vec<crate::FieldError>),
    /// Files can not be read at all.
    #[error(
        "`{path}` can not be read: no file root is configured; start matome with `--file-root DIR` (or `FILE_ROOTS`)"
    )]
    NoFileRoot {
        /// The path as configured.
        path: String,
    },
    /// A path that leads out of the file roots, by its name or through a symbolic link.
    #[error("`{path}` is not beneath a file root ({roots}); move it there or add `--file-root DIR`")]
    OutsideRoots {
        /// The path.
        path: String,
        /// The roots, comma-separated.
        roots: String,
    },
    /// Nothing has this name.
    #[error("no file matches `{path}` beneath the file roots ({roots})")]
    NoMatch {
        /// The path or pattern as configured.
        path: String,
        /// The roots, comma-separated.
        roots: String,
    },
    /// A directory where one file is meant.
    #[error("`{path}` is a directory; name a file in it")]
    Directory {
        /// The path as configured.
        path: String,
    },
    /// A directory that has nothing to read.
    #[error(
        "the directory `{path}` has no file {}; name its files with a pattern such as `{}/*.txt`",
        if extensions.is_empty() { "to read".to_owned() } else { format!("with the extension {extensions}") },
        path.trim_end_matches('/')
    )]
    EmptyDirectory {
        /// The path as configured.
        path: String,
        /// What was looked for, comma-separated; empty if any name would do.
        extensions: String,
    },
    /// A directory whose files do not say by their names how they are read.
    #[error(
        "no name in the directory `{path}` tells a format; name its files with a pattern such as `{}/*.txt`",
        path.trim_end_matches('/')
    )]
    NoFormat {
        /// The path as configured.
        path: String,
    },
    /// A pipe, a device.
    #[error("`{path}` is not a regular file")]
    NotRegular {
        /// The path.
        path: String,
    },
    /// More files than a pattern may match.
    #[error("`{path}` matches more than {limit} files; narrow the pattern")]
    TooManyFiles {
        /// The pattern.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// A file that is too long to be meant, such as one with holes.
    #[error("`{path}` has {size} bytes, more than the limit of {limit}; split it")]
    FileTooLarge {
        /// The path.
        path: String,
        /// Its size as it is on disk.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A file could not be opened or read.
    #[error("{position}: {action} failed")]
    Io {
        /// Where.
        position: Box<Position>,
        /// What was being done.
        action: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file is no longer what a checkpoint was made of.
    #[error(
        "`{document}` changed ({}), so that its read can not go on behind record {records}; what came is stored, and the next read takes the file as it is then. Write files under another name and rename them when they are whole",
        change.0
    )]
    Changed {
        /// The file.
        document: String,
        /// Its records that came.
        records: u64,
        /// How, in English and in Japanese.
        change: (&'static str, &'static str),
        /// Whether the next attempt begins anew by itself: nothing was read yet that it would read again.
        is_stale: bool,
    },
    /// A certificate or a key that a config names is none.
    #[error("{position}: {problem}")]
    Certificates {
        /// Where they are for.
        position: Box<Position>,
        /// What is wrong.
        problem: Words,
    },
    /// A document that can not be taken apart.
    #[error("{position}: {problem}")]
    Document {
        /// Where.
        position: Box<Position>,
        /// What is wrong there.
        problem: Words,
    },
    /// A place elsewhere does not give what was asked for.
    #[error("{position}: {problem}")]
    Place {
        /// What was asked for.
        position: Box<Position>,
        /// What kind of trouble it is.
        fault: PlaceFault,
        /// What is wrong, and what to do.
        problem: Words,
    },
    /// A request failed below HTTP.
    #[error("{position}: the request failed")]
    Egress {
        /// Which request.
        position: Box<Position>,
        /// Why.
        #[source]
        source: EgressError,
    },
    /// No connection to a database.
    #[error("{position}: there is no connection")]
    Unreached {
        /// Which database.
        position: Box<Position>,
        /// Why.
        #[source]
        source: EgressError,
    },
    /// A database, or its driver, refused something.
    #[error("{position}: {problem}")]
    Database {
        /// Which database, and what of it.
        position: Box<Position>,
        /// What kind of trouble it is.
        fault: DatabaseFault,
        /// What is wrong, and what to do.
        problem: Words,
        /// What the driver says, where it is not the database that speaks.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// An answer that is no success.
    #[error("{position}: the server answered {status}")]
    Status {
        /// Which request.
        position: Box<Position>,
        /// The status with its usual words.
        status: matome_egress::StatusCode,
        /// What `Retry-After` asked for, at most a day.
        retry_after: Option<Duration>,
    },
    /// Pages that lead in a circle.
    #[error("{position}: the pages repeat: {problem}")]
    Loop {
        /// The page that came again.
        position: Box<Position>,
        /// How it showed.
        problem: Words,
    },
    /// An answer that says by the rules of its source that it is none.
    #[error("{position}: the server says {message}")]
    Answer {
        /// Which request.
        position: Box<Position>,
        /// What it says.
        message: Words,
        /// What the rule asks for: to try again, after this time if the source named one.
        retry: Option<Option<Duration>>,
    },
    /// No access token was given out.
    #[error("{position}: there is no access token: {problem}")]
    Token {
        /// The address that gives out tokens.
        position: Box<Position>,
        /// What was wrong.
        problem: Words,
    },
    /// A secret that changes with its use could not be read or kept.
    #[error(
        "{position}: the refresh token could not be read, or the one that follows it not be kept; if the next try is refused, \
         grant access anew and set `auth.refresh_token`"
    )]
    Unkept {
        /// The address that gives out tokens.
        position: Box<Position>,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The source said that nothing may be asked for until later.
    #[error("{position}: the source takes no more requests for {} s", wait.as_secs())]
    Spent {
        /// Which request.
        position: Box<Position>,
        /// How long.
        wait: Duration,
    },
    /// A source that declared rising cursors gave a lower one.
    #[error(
        "{position}: the cursor went back from `{before}` to `{now}`, though `incremental.order` says that it rises; remove `order`, or have the source sort"
    )]
    Regress {
        /// Which record.
        position: Box<Position>,
        /// The cursor of the record before.
        before: String,
        /// Its own.
        now: String,
    },
    /// No record has a cursor.
    #[error(
        "no record has {kind} at `{path}` (`incremental.cursor`), so there is nothing to go on from; what was read is stored"
    )]
    NoCursor {
        /// Where it was looked for.
        path: String,
        /// What was looked for.
        kind: &'static str,
    },
    /// The source ended the connection.
    #[error("{position}: the source closed the connection{}", closed(*code, reason))]
    Closed {
        /// Which connection.
        position: Box<Position>,
        /// The code of a WebSocket (RFC 6455, section 7.4), if it gave one.
        code: Option<u16>,
        /// What it says about it.
        reason: String,
    },
    /// The source ended each of several connections soon, by a code which says that it does not want them.
    #[error(
        "{position}: the source closes each connection soon after it stands{}, {times} times in a row; look at `auth`, \
         `secrets` and what `subscribe` asks for",
        closed(*code, reason)
    )]
    TurnedAway {
        /// The last connection.
        position: Box<Position>,
        /// The code of its end.
        code: Option<u16>,
        /// What the source says about it.
        reason: String,
        /// How many there were.
        times: u32,
    },
    /// A connection on which nothing comes.
    #[error(
        "{position}: nothing came for {} s (`heartbeat.silence_secs`), so the connection was given up",
        silence.as_secs()
    )]
    Silent {
        /// Which connection.
        position: Box<Position>,
        /// How long.
        silence: Duration,
    },
    /// A WebSocket that broke, or sent what no WebSocket sends.
    #[error("{position}: the WebSocket broke")]
    Frames {
        /// Which connection.
        position: Box<Position>,
        /// How.
        #[source]
        source: Box<tokio_tungstenite::tungstenite::Error>,
    },
    /// An answer that begins no stream.
    #[error(
        "{position}: {} was asked for, {came} came; check `url`",
        if *is_events { "a stream of events (`text/event-stream`)" } else { "a WebSocket" }
    )]
    NoStream {
        /// Which connection.
        position: Box<Position>,
        /// Whether events were asked for.
        is_events: bool,
        /// What came instead.
        came: Words,
    },
    /// More bytes than one read may bring.
    #[error("{position}: the read has brought more than {limit} bytes; split the source")]
    TooMuch {
        /// Which page.
        position: Box<Position>,
        /// The limit.
        limit: u64,
    },
    /// A checkpoint that this version did not write.
    #[error("the checkpoint can not be read; save a change of the source's config to read it anew")]
    Checkpoint(#[source] serde_json::Error),
    /// The place where what was sent is kept does not answer.
    #[error("what was sent to the source can not be read from the database")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The caller cancelled the read.
    #[error("the read was cancelled")]
    Cancelled,
    /// The thread that reads files ended without a word.
    #[error("reading ended unexpectedly")]
    Broken,
}

impl ConnectorError {
    /// What it says, in both languages.
    pub fn words(&self) -> Words {
        Words::new(self.to_string(), japanese::of(self))
    }

    /// Why, outermost first; systems and libraries speak English.
    pub fn causes(&self) -> Vec<Words> {
        let mut causes = chain(std::error::Error::source(self));
        if let (Self::Egress { source, .. } | Self::Unreached { source, .. }, Some(first)) = (self, causes.first_mut())
        {
            *first = source.words();
        }
        causes
    }

    /// What to do about it, in both languages, where what it says does not.
    pub fn remedy(&self) -> Option<Words> {
        remedy::of(self)
    }

    /// Whether there is no such document, or no more.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            Self::Place { fault, .. } => *fault == PlaceFault::Missing,
            _ => false,
        }
    }

    /// An error of reading, or the one that it carries from whoever brings the bytes.
    pub(crate) fn io(position: Position, action: &'static str, source: std::io::Error) -> Self {
        match source.downcast::<Self>() {
            Ok(carried) => carried,
            Err(source) => Self::Io { position: Box::new(position), action, source },
        }
    }

    /// Whether the egress policy refused the address.
    pub fn is_denied(&self) -> bool {
        let (Self::Egress { source, .. } | Self::Unreached { source, .. }) = self else { return false };
        matches!(source, EgressError::Denied { .. })
    }

    /// Whether TLS did not come about.
    pub fn is_of_tls(&self) -> bool {
        match self {
            Self::Egress { source, .. } => {
                matches!(source, EgressError::Handshake { .. } | EgressError::Certificates { .. } | EgressError::Tls(_))
            }
            Self::Certificates { .. } | Self::Database { fault: DatabaseFault::Tls, .. } => true,
            _ => false,
        }
    }

    /// What the worker should do.
    pub fn advice(&self) -> Advice {
        let retry = Advice::Retry { after: None };
        match self {
            Self::Status { status, retry_after, .. } => match status.as_u16() {
                408 | 425 | 429 | 500..=599 => Advice::Retry { after: *retry_after },
                _ => Advice::Fail,
            },
            Self::Database { fault: DatabaseFault::Timeout | DatabaseFault::Lost, .. }
            | Self::Place { fault: PlaceFault::Lost, .. } => retry,
            Self::Egress { source, .. } | Self::Unreached { source, .. } => match source {
                EgressError::Closed { wait, .. } => Advice::Retry { after: Some(*wait) },
                EgressError::Handshake { fault, .. } if fault.may_pass() => retry,
                EgressError::Resolve { .. }
                | EgressError::Connection { .. }
                | EgressError::Dial { .. }
                | EgressError::Unanswered { .. }
                | EgressError::Timeout { .. }
                | EgressError::Slow { .. } => retry,
                EgressError::Denied { .. }
                | EgressError::Url { .. }
                | EgressError::Redirects { .. }
                | EgressError::TooLarge { .. }
                | EgressError::Encoding { .. }
                | EgressError::Handshake { .. }
                | EgressError::Certificates { .. }
                | EgressError::Client(_)
                | EgressError::Tls(_) => Advice::Fail,
            },
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound
                | std::io::ErrorKind::PermissionDenied
                | std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::InvalidInput
                | std::io::ErrorKind::UnexpectedEof => Advice::Fail,
                _ => retry,
            },
            Self::Answer { retry: Some(after), .. } => Advice::Retry { after: *after },
            Self::Spent { wait, .. } => Advice::Retry { after: Some(*wait) },
            Self::Changed { is_stale: true, .. }
            | Self::Store(_)
            | Self::Unkept { .. }
            | Self::Cancelled
            | Self::Broken
            | Self::Closed { .. }
            | Self::Silent { .. }
            | Self::Frames { .. } => retry,
            Self::Draft
            | Self::Pushed
            | Self::Config(_)
            | Self::NoFileRoot { .. }
            | Self::OutsideRoots { .. }
            | Self::NoMatch { .. }
            | Self::Directory { .. }
            | Self::EmptyDirectory { .. }
            | Self::NoFormat { .. }
            | Self::NotRegular { .. }
            | Self::TooManyFiles { .. }
            | Self::FileTooLarge { .. }
            | Self::Changed { .. }
            | Self::Certificates { .. }
            | Self::Document { .. }
            | Self::Place { .. }
            | Self::Database { .. }
            | Self::Loop { .. }
            | Self::Answer { retry: None, .. }
            | Self::Token { .. }
            | Self::Regress { .. }
            | Self::NoCursor { .. }
            | Self::TooMuch { .. }
            | Self::TurnedAway { .. }
            | Self::NoStream { .. }
            | Self::Checkpoint(_) => Advice::Fail,
        }
    }

    /// Where it happened, as far as there is a place.
    pub fn position(&self) -> Option<&Position> {
        match self {
            Self::Io { position, .. }
            | Self::Certificates { position, .. }
            | Self::Document { position, .. }
            | Self::Place { position, .. }
            | Self::Egress { position, .. }
            | Self::Unreached { position, .. }
            | Self::Database { position, .. }
            | Self::Status { position, .. }
            | Self::Loop { position, .. }
            | Self::Answer { position, .. }
            | Self::Token { position, .. }
            | Self::Unkept { position, .. }
            | Self::Spent { position, .. }
            | Self::Regress { position, .. }
            | Self::Closed { position, .. }
            | Self::TurnedAway { position, .. }
            | Self::Silent { position, .. }
            | Self::Frames { position, .. }
            | Self::NoStream { position, .. }
            | Self::TooMuch { position, .. } => Some(position),
            _ => None,
        }
    }

    pub(crate) fn document(position: Position, error: DocumentError) -> Self {
        let position = Box::new(Position { line: error.line, ..position });
        Self::Document { position, problem: error.problem }
    }
}

/// The code and the reason of the end of a WebSocket, as far as there are any.
fn closed(code: Option<u16>, reason: &str) -> String {
    match (code, reason) {
        (None, _) => String::new(),
        (Some(code), "") => format!(" (code {code})"),
        (Some(code), reason) => format!(" (code {code}: {reason})"),
    }
}

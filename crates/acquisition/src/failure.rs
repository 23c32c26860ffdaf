//! What a worker is told about a read that could not go on.

use matome_connector::{Advice, ConnectorError, DatabaseFault, PlaceFault};
use matome_model::say;
use matome_tasks::{Advice as TaskAdvice, TaskError};

use crate::prepare::Refused;

/// The error with its position, cause chain, and what to do about it.
pub(crate) fn from_connector(err: &ConnectorError) -> TaskError {
    let advice = match err.advice() {
        Advice::Retry { after } => TaskAdvice::Retry { after },
        Advice::Fail => TaskAdvice::Fail,
    };
    // Plain numbers and text always make JSON.
    let position = err.position().and_then(|position| serde_json::value::to_raw_value(position).ok());
    TaskError { causes: err.causes(), ..TaskError::new(advice, reason(err), err.words()) }.at(position)
}

/// A page of which nothing may be stored: the read stops before it, until record, source or rules change.
pub(crate) fn from_refused(refused: Refused) -> TaskError {
    let position = serde_json::value::to_raw_value(&refused.position).ok();
    TaskError::fail(refused.reason, refused.message).at(position)
}

/// More of a read is bad than its source may have.
pub(crate) fn too_many_bad(quarantined: u64, read: u64) -> TaskError {
    TaskError::fail(
        "quarantine_limit",
        say!(
            "{quarantined} of {read} records went to quarantine, more than `quarantine` of the source allows; look at \
             their reasons, and correct the source, its config or the limit",
            "{read} 件のうち {quarantined} 件が隔離され、データソースの `quarantine` が許す数を超えました。理由を確かめて、\
             データソース、その config、または上限を直してください"
        ),
    )
}

/// A short code for the kind of failure.
fn reason(err: &ConnectorError) -> &'static str {
    match err {
        ConnectorError::Draft => "draft",
        ConnectorError::Pushed => "pushed",
        ConnectorError::Config(_) => "config",
        ConnectorError::NoFileRoot { .. } | ConnectorError::OutsideRoots { .. } => "file_roots",
        ConnectorError::NoMatch { .. } | ConnectorError::EmptyDirectory { .. } | ConnectorError::NoFormat { .. } => {
            "no_file"
        }
        ConnectorError::Directory { .. }
        | ConnectorError::NotRegular { .. }
        | ConnectorError::TooManyFiles { .. }
        | ConnectorError::FileTooLarge { .. }
        | ConnectorError::Io { .. } => "file",
        ConnectorError::Changed { .. } => "file_changed",
        ConnectorError::Document { .. } => "document",
        ConnectorError::Place { fault, .. } => match fault {
            PlaceFault::Auth => "auth",
            PlaceFault::Identity => "identity",
            PlaceFault::Missing => "no_file",
            PlaceFault::TooLong | PlaceFault::Answer => "file",
            PlaceFault::Lost => "connection",
        },
        ConnectorError::Egress { .. } | ConnectorError::Unreached { .. } if err.is_denied() => "denied",
        ConnectorError::Egress { .. } | ConnectorError::Certificates { .. } if err.is_of_tls() => "tls",
        ConnectorError::Unreached { .. } => "unreached",
        ConnectorError::Database { fault, .. } => match fault {
            DatabaseFault::Auth => "auth",
            DatabaseFault::Tls => "tls",
            DatabaseFault::Missing => "not_found",
            DatabaseFault::Query => "query",
            DatabaseFault::Timeout => "timeout",
            DatabaseFault::Lost => "connection",
        },
        ConnectorError::Egress { .. } => "request",
        ConnectorError::Certificates { .. } => "tls",
        ConnectorError::Status { status, .. } => match status.as_u16() {
            401 | 403 => "auth",
            _ => "http_status",
        },
        ConnectorError::Loop { .. } => "pagination_loop",
        ConnectorError::Answer { .. } => "api_error",
        ConnectorError::Token { .. } | ConnectorError::Unkept { .. } => "auth",
        ConnectorError::Spent { .. } => "rate",
        ConnectorError::Regress { .. } => "cursor_regress",
        ConnectorError::NoCursor { .. } => "cursor",
        ConnectorError::TooMuch { .. } => "read_limit",
        ConnectorError::Closed { .. } | ConnectorError::Frames { .. } => "connection",
        ConnectorError::TurnedAway { .. } => "refused",
        ConnectorError::Silent { .. } => "silence",
        ConnectorError::NoStream { .. } => "no_stream",
        ConnectorError::Checkpoint(_) => "checkpoint",
        ConnectorError::Store(_) => "database",
        ConnectorError::Cancelled => "interrupted",
        ConnectorError::Broken => "broken",
    }
}

//! Answers of `test` and `preview`: a trial that fails is an answer, too.

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use crate::endpoint::json_answer;
use crate::state::TrialError;

#[derive(Serialize)]
struct Trial<T> {
    ok: bool,
    #[serde(flatten)]
    result: Option<T>,
    error: Option<TrialError>,
}

/// 200 with the result or with why there is none.
pub(crate) fn answer<T: Serialize>(tried: Result<T, TrialError>) -> Response {
    let trial = match tried {
        Ok(result) => Trial { ok: true, result: Some(result), error: None },
        Err(error) => Trial { ok: false, result: None, error: Some(error) },
    };
    json_answer(StatusCode::OK, &trial)
}

//! Answers of `test` and `preview`: a trial that fails is an answer, too.

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use crate::endpoint::json_answer;
use crate::message::Language;
use crate::state::TrialError;

#[derive(Serialize)]
struct Trial<T> {
    ok: bool,
    #[serde(flatten)]
    result: Option<T>,
    error: Option<TrialError>,
}

/// As [`answer`], in the client's language where the error is known in it.
pub(crate) fn answer_in<T: Serialize>(language: Language, tried: Result<T, TrialError>) -> Response {
    answer(tried.map_err(|mut error| {
        if let (Language::Japanese, Some(japanese)) = (language, error.japanese.take()) {
            error.message = japanese;
        }
        error
    }))
}

/// 200 with the result or with why there is none.
pub(crate) fn answer<T: Serialize>(tried: Result<T, TrialError>) -> Response {
    let trial = match tried {
        Ok(result) => Trial { ok: true, result: Some(result), error: None },
        Err(error) => Trial { ok: false, result: None, error: Some(error) },
    };
    json_answer(StatusCode::OK, &trial)
}

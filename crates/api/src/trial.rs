//! Answers of `test` and `preview`: a trial that fails is an answer, too.

use axum::response::Response;
use http::StatusCode;
use matome_acquisition::SampleError;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::endpoint::json_answer;
use crate::message::Language;
use crate::state::TrialError;

#[derive(Serialize)]
struct Trial<T> {
    ok: bool,
    #[serde(flatten)]
    result: Option<T>,
    error: Option<Shown>,
}

/// A [`TrialError`] in one language.
#[derive(Serialize)]
struct Shown {
    message: String,
    causes: Vec<String>,
    position: Option<Box<RawValue>>,
    help: Option<String>,
}

impl From<SampleError> for TrialError {
    fn from(err: SampleError) -> Self {
        let (message, causes) = err.told();
        let position = err.position().and_then(|position| serde_json::value::to_raw_value(position).ok());
        Self { message, causes, position, help: err.remedy().map(Box::new) }
    }
}

/// 200 with the result, or with why there is none in the client's language.
pub(crate) fn answer<T: Serialize>(language: Language, tried: Result<T, TrialError>) -> Response {
    let trial = match tried {
        Ok(result) => Trial { ok: true, result: Some(result), error: None },
        Err(TrialError { message, causes, position, help }) => {
            let causes = causes.iter().map(|cause| cause.text(language).to_owned()).collect();
            let help = help.map(|help| help.text(language).to_owned());
            let error = Shown { message: message.text(language).to_owned(), causes, position, help };
            Trial { ok: false, result: None, error: Some(error) }
        }
    };
    json_answer(StatusCode::OK, &trial)
}

//! Looking at an API, at files or at a database before a source is made of them: `/api/acquisition/probe/`.

use axum::response::Response;
use http::Method;
use matome_acquisition::probe;
use matome_connector::{secret_paths, validate_for_choice, validate_for_probe};
use matome_model::field_error::Words;
use matome_model::source::SourceType;
use serde_json::{Value, json};

use crate::auth::Permission::Write;
use crate::body::{Fields, Given};
use crate::config;
use crate::endpoint::{Call, Endpoint};
use crate::error::Result;
use crate::message::{Message, language_of};
use crate::openapi::{Answer, OperationDoc, reference, view as described};
use crate::trial;

/// Records of the sample.
const RECORDS: i64 = 10;
/// Records that it may be asked for.
const MAX_RECORDS: i64 = 100;

pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::json("/api/acquisition/probe/", "Data Source Probe").on(Method::POST, Write, probe_source).doc(
            OperationDoc::new(
                "acquisition_probe",
                "Look at an API, at files or at a database and propose what the config of a source leaves open, with its first records; makes nothing.",
                200,
                Answer::One("SourceProbe"),
            )
            .taking("SourceProbeRequest"),
        ),
    ]
}

/// What the OpenAPI document says of bodies and answers; `trial` adds what every trial has.
pub(crate) fn schemas(trial: impl Fn(Value) -> Value) -> Value {
    let text = json!({"type": "string"});
    let object = json!({"type": "object", "additionalProperties": true});
    let count = json!({"type": "integer", "minimum": 0});
    json!({
        "SourceProbeRequest": {
            "type": "object",
            "properties": {
                "source_type": {
                    "type": "string", "enum": ["api", "file", "database"],
                    "description": "By default what is at `url` says whether it is an API or a file, and a `path` is that of files.",
                },
                "config": {
                    "type": "object", "additionalProperties": true,
                    "description": "A config with at least `url`, of files and SQLite `path`; of a database it need not say which table; what it says is kept, and secrets in it are not stored.",
                },
                "records": {"type": "integer", "minimum": 0, "maximum": MAX_RECORDS, "default": RECORDS},
            },
            "required": ["config"],
        },
        "SourceProbe": trial(json!({
            "source_type": {"type": "string", "enum": ["api", "file", "database"]},
            "proposed": {
                "type": "object", "additionalProperties": true,
                "description": "Options to be added to the config that was given. Where `url` turned out to be a file, `path` has it, and `url` is to be left out.",
            },
            "findings": {"type": "array", "items": described(json!({
                "option": text, "value": {"description": "What is proposed; null when the option stays as it is."},
                "message": text,
            }))},
            "columns": {"type": "array", "items": described(json!({"name": text, "type": text, "nulls": count}))},
            "sample": reference("SourceSample"),
            "tables": {
                "type": "array", "items": described(json!({"table": text, "key": {"type": "array", "items": text}})),
                "description": "Where the config of a database does not say what is read: its tables with their primary keys. One is proposed; of several none is read, and the sample is empty.",
            },
            "doubts": {
                "type": "array", "items": text,
                "description": "Why this is likely not what is meant: no record in the sample, none that could be stored, an error of the server.",
            },
            "stats": object,
        })),
    })
}

async fn probe_source(call: Call) -> Result<Response> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, false);
    let source_type = fields.choice("source_type", false, SourceType::parse).or_nullable(None);
    let given = fields.object("config");
    let count = fields.integer("records", MAX_RECORDS).or(RECORDS);
    let mut errors = fields.errors;
    if !matches!(source_type, None | Some(SourceType::Api | SourceType::File | SourceType::Database)) {
        errors.add(&["source_type"], Message::Said(not_looked_at()));
    }
    match &given {
        Given::Absent | Given::Null => errors.add(&["config"], Message::Required),
        Given::Value(config) => {
            let faults = |text: &str| match source_type {
                Some(source_type) => validate_for_probe(source_type, text).err().unwrap_or_default(),
                None => validate_for_choice(text).err().unwrap_or_default(),
            };
            config::check(config, secret_paths(config.get()), &[], None, faults, &mut errors);
        }
    }
    errors.into_result()?;
    let Given::Value(config) = given else { return Err(crate::error::ApiError::field("config", Message::Required)) };
    let (language, limit) = (language_of(&call.headers), call.state.settings.trial_limit);
    let count = usize::try_from(count).unwrap_or_default();
    let tried = probe(&call.state.registry, source_type, config.get(), count, limit).await;
    Ok(trial::answer(language, tried.map(|found| found.spoken(language)).map_err(Into::into)))
}

fn not_looked_at() -> Words {
    Words::new(
        "Only sources of the types \"api\", \"file\" and \"database\" can be looked at before they are made; of the others `test` shows the first records.",
        "作る前に調べられるのは \"api\"、\"file\"、\"database\" 型のデータソースだけです。ほかの型は `test` が最初のレコードを示します。",
    )
}

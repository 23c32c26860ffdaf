//! `after`: what an aggregation runs after.

use matome_model::field_error::{FieldError, Words};
use matome_store::triggers::After;
use serde_json::Value;

use super::{kind_of, whole_number};

/// Names in each list.
const MAX_NAMES: usize = 100;

/// Longest time from the news to the run, in seconds.
const MAX_DEBOUNCE_SECS: u64 = 86_400;

const DEBOUNCE_SECS: i64 = 5;

const KEYS: [&str; 3] = ["sources", "aggregations", "debounce_secs"];

/// Reads the option; faults carry the path beneath `after`.
pub(super) fn parse(value: &Value) -> Result<Option<After>, Vec<FieldError>> {
    let options = match value {
        Value::Null => return Ok(None),
        Value::Object(options) => options,
        other => return Err(vec![FieldError::new(&["after"], Words::no_object(kind_of(other)))]),
    };
    let mut after = After { debounce_secs: DEBOUNCE_SECS, ..After::default() };
    let mut errors = Vec::new();
    for (key, value) in options {
        let outcome = match key.as_str() {
            "sources" => names(value).map(|names| after.sources = names),
            "aggregations" => names(value).map(|names| after.aggregations = names),
            "debounce_secs" => match value.as_u64() {
                Some(0) => {
                    after.debounce_secs = 0;
                    Ok(())
                }
                _ => whole_number(value, MAX_DEBOUNCE_SECS)
                    .map(|secs| after.debounce_secs = i64::try_from(secs).unwrap_or(i64::MAX)),
            },
            _ => Err(Words::unknown_option(None, &KEYS)),
        };
        if let Err(message) = outcome {
            errors.push(FieldError::new(&["after", key], message));
        }
    }
    if errors.is_empty() && after.sources.is_empty() && after.aggregations.is_empty() {
        errors.push(FieldError::new(&["after"], nothing_named()));
    }
    if errors.is_empty() { Ok(Some(after)) } else { Err(errors) }
}

fn names(value: &Value) -> Result<Vec<String>, Words> {
    let list = match value {
        Value::Array(list) if list.len() <= MAX_NAMES => list,
        _ => return Err(form()),
    };
    let mut names: Vec<String> = Vec::with_capacity(list.len());
    for name in list {
        match name.as_str() {
            Some(name) if !name.trim().is_empty() && !names.iter().any(|other| other == name) => {
                names.push(name.to_owned());
            }
            _ => return Err(form()),
        }
    }
    Ok(names)
}

fn form() -> Words {
    Words::new(
        format!("Expected a list of at most {MAX_NAMES} different names, such as [\"orders\"]."),
        format!("名前を{MAX_NAMES}個以下、重複なく並べてください (例: [\"orders\"])。"),
    )
}

fn nothing_named() -> Words {
    Words::new(
        "Name at least one source or aggregation, as in {\"sources\": [\"orders\"]}, or leave the option out.",
        "{\"sources\": [\"orders\"]}のように、データソースか集約を一つ以上指定してください。不要なら省いてください。",
    )
}

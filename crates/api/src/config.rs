//! Configs of sources and aggregations on their way in: secrets taken out, the rest validated.

use std::collections::BTreeMap;

use matome_connector::KEPT_SECRET;
use matome_model::field_error::FieldError;
use matome_store::secrets::{PLACEHOLDER, is_placeholder, leaf, with_leaf};
use secrecy::SecretString;
use serde_json::value::{RawValue, to_raw_value};

use crate::error::FieldErrors;
use crate::message::Message;

/// A config ready to be stored.
#[derive(Debug)]
pub(crate) struct Checked {
    /// With placeholders for secrets.
    pub(crate) stored: Box<RawValue>,
    /// New values of secrets, by JSON pointer.
    pub(crate) secrets: Vec<(String, SecretString)>,
    /// JSON pointers of all its secrets, new and kept.
    pub(crate) secret_paths: Vec<String>,
}

/// Takes secrets out of `config` and validates it; faults go to `errors` under `config`.
///
/// `kept` are the JSON pointers of the secrets that are stored already. A schedule that names no time zone gets
/// `time_zone`, so that the config says what holds wherever it is read.
pub(crate) fn check(
    config: &RawValue,
    secret_paths: Vec<String>,
    kept: &[String],
    time_zone: Option<&str>,
    validate: impl FnOnce(&str) -> Vec<FieldError>,
    errors: &mut FieldErrors,
) -> Checked {
    let mut stored = time_zone.and_then(|zone| with_zone(config, zone)).unwrap_or_else(|| config.to_owned());
    let mut secrets = Vec::new();
    for path in &secret_paths {
        let Some(value) = leaf(config, path) else { continue };
        if is_placeholder(value) {
            if !kept.contains(path) {
                let mut keys = vec!["config".to_owned()];
                keys.extend(path.split('/').skip(1).map(str::to_owned));
                errors.add(&keys, Message::SecretUnknown);
            }
        } else if let Ok(secret) = serde_json::from_str::<String>(value.get()) {
            stored = with_leaf(&stored, path, PLACEHOLDER).unwrap_or(stored);
            secrets.push((path.clone(), SecretString::from(secret)));
        }
    }
    // Secrets are validated as they came; a kept one was valid when it came.
    let validated = filled_in(config, &secret_paths);
    add_faults(errors, validate(validated.get()));
    Checked { stored, secrets, secret_paths }
}

/// `config` with a zone for its cron expression, if it has one and names no zone.
pub(crate) fn with_zone(config: &RawValue, zone: &str) -> Option<Box<RawValue>> {
    type Object = BTreeMap<String, Box<RawValue>>;
    let mut object: Object = serde_json::from_str(config.get()).ok()?;
    let schedule = object.get_mut("schedule")?;
    let mut fields: Object = serde_json::from_str(schedule.get()).ok()?;
    let is_given = |name: &str| fields.get(name).is_some_and(|value| value.get() != "null");
    if !is_given("cron") || is_given("timezone") {
        return None;
    }
    fields.insert("timezone".to_owned(), to_raw_value(zone).ok()?);
    *schedule = to_raw_value(&fields).ok()?;
    to_raw_value(&object).ok()
}

/// Puts what is wrong with a config at its fields under `config`.
pub(crate) fn add_faults(errors: &mut FieldErrors, faults: Vec<FieldError>) {
    for fault in faults {
        let keys: Vec<String> = std::iter::once("config".to_owned()).chain(fault.path).collect();
        errors.add(&keys, Message::Said(fault.message));
    }
}

/// `config` with some text in place of each placeholder, for validation alone.
pub(crate) fn filled_in(config: &RawValue, secret_paths: &[String]) -> Box<RawValue> {
    let mut filled = config.to_owned();
    for path in secret_paths {
        if leaf(&filled, path).is_some_and(is_placeholder) {
            filled = with_leaf(&filled, path, &format!("\"{KEPT_SECRET}\"")).unwrap_or(filled);
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cron_expression_without_a_zone_gets_one_and_nothing_else_changes() {
        for (config, wanted) in [
            (
                r#"{"path":"a","schedule":{"cron":"@daily"},"n":1.50}"#,
                Some(r#"{"n":1.50,"path":"a","schedule":{"cron":"@daily","timezone":"Asia/Tokyo"}}"#),
            ),
            (
                r#"{"schedule":{"timezone":null,"cron":"@daily"}}"#,
                Some(r#"{"schedule":{"cron":"@daily","timezone":"Asia/Tokyo"}}"#),
            ),
            (r#"{"schedule":{"timezone":"UTC","cron":"@daily"}}"#, None),
            (r#"{"schedule":{"jitter_secs":1}}"#, None),
            (r#"{"schedule":[1]}"#, None),
            ("{}", None),
        ] {
            let raw = RawValue::from_string(config.to_owned()).unwrap();
            let zoned = with_zone(&raw, "Asia/Tokyo");
            assert_eq!(zoned.as_deref().map(RawValue::get), wanted, "{config}");
        }
    }
}

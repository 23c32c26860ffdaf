//! The `config` of an aggregation: what a user writes, checked.

use matome_model::engine::MAX_SQL_BYTES;
use matome_model::field_error::{FieldError, Words};
use serde_json::{Map, Value};

/// Longest time a run may take, in seconds.
const MAX_TIMEOUT_SECS: u64 = 86_400;

const KEYS: [&str; 5] = ["sql", "labels", "timeout_secs", "refresh_interval_secs", "mode"];

/// A checked `config`. `{}`, or one with labels alone, is a draft: it can be stored, but not run.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregationConfig {
    /// The query, DataFusion's dialect of SQL; one statement that starts with `select`, `with` or `values`. `None` in a draft.
    ///
    /// Example: `select status, count(*) as n from orders group by status`.
    pub sql: Option<String>,
    /// The user's own words about it; matome does not read them.
    pub labels: Map<String, Value>,
    /// Seconds that a run may take, 1 to 86,400. Default 300.
    pub timeout_secs: u64,
    /// Seconds from one scheduled run to the next, at least 1. `None`, the default: by hand only.
    pub refresh_interval_secs: Option<u64>,
    /// What a run does with the rows of the run before.
    pub mode: Mode,
}

/// What a run does with the rows of the run before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `replace`: the new rows take their place, all at once.
    #[default]
    Replace,
}

impl Default for AggregationConfig {
    fn default() -> Self {
        Self { sql: None, labels: Map::new(), timeout_secs: 300, refresh_interval_secs: None, mode: Mode::Replace }
    }
}

impl AggregationConfig {
    /// Reads `config`, a JSON object. The SQL itself is not looked at: see `Engine::validate`.
    ///
    /// # Errors
    /// Every fault, each with the path of the value.
    pub fn parse(config: &Value) -> Result<Self, Vec<FieldError>> {
        let Value::Object(config) = config else {
            return Err(vec![FieldError::new(&[], Words::no_object(kind_of(config)))]);
        };
        let mut parsed = Self::default();
        let mut errors = Vec::new();
        for (key, value) in config {
            let outcome = match key.as_str() {
                "sql" => sql(value).map(|sql| parsed.sql = Some(sql)),
                "labels" => labels(value).map(|labels| parsed.labels = labels),
                "timeout_secs" => seconds(value, MAX_TIMEOUT_SECS).map(|seconds| parsed.timeout_secs = seconds),
                "refresh_interval_secs" if value.is_null() => Ok(()),
                "refresh_interval_secs" => {
                    seconds(value, u64::from(u32::MAX)).map(|seconds| parsed.refresh_interval_secs = Some(seconds))
                }
                "mode" => mode(value).map(|mode| parsed.mode = mode),
                _ => Err(Words::unknown_option(None, &KEYS)),
            };
            if let Err(message) = outcome {
                errors.push(FieldError::new(&[key], message));
            }
        }
        if errors.is_empty() { Ok(parsed) } else { Err(errors) }
    }

    /// Whether there is nothing to run yet.
    #[must_use]
    pub fn is_draft(&self) -> bool {
        self.sql.is_none()
    }
}

fn sql(value: &Value) -> Result<String, Words> {
    match value {
        Value::String(sql) if sql.trim().is_empty() => Err(Words::new(
            "This field may not be blank. Leave it out for a draft.",
            "この項目は空にできません。下書きにするには省いてください。",
        )),
        Value::String(sql) if sql.len() > MAX_SQL_BYTES => {
            let bytes = sql.len();
            Err(Words::new(
                format!("Ensure this field has no more than {MAX_SQL_BYTES} bytes (it has {bytes})."),
                format!("この項目は{MAX_SQL_BYTES}バイト以下にしてください (今は{bytes}バイト)。"),
            ))
        }
        Value::String(sql) => Ok(sql.clone()),
        Value::Null => Err(Words::null()),
        _ => Err(Words::no_string()),
    }
}

fn labels(value: &Value) -> Result<Map<String, Value>, Words> {
    value.as_object().cloned().ok_or_else(|| Words::no_object(kind_of(value)))
}

fn seconds(value: &Value, most: u64) -> Result<u64, Words> {
    match value {
        Value::Null => Err(Words::null()),
        Value::Number(number) if number.is_f64() => Err(Words::no_integer()),
        Value::Number(number) => match number.as_u64() {
            Some(seconds) if seconds > most => Err(Words::too_large(most)),
            Some(seconds) if seconds >= 1 => Ok(seconds),
            _ => Err(Words::too_small(1)),
        },
        _ => Err(Words::no_integer()),
    }
}

/// The word that Django REST framework has for a type of JSON.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

fn mode(value: &Value) -> Result<Mode, Words> {
    match value.as_str() {
        Some("replace") => Ok(Mode::Replace),
        Some(other) => Err(Words::no_choice(other, &["replace"])),
        None => Err(Words::no_choice(&value.to_string(), &["replace"])),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn smallest_config_has_defaults() {
        let config = AggregationConfig::parse(&json!({"sql": "select 1"})).unwrap();
        assert_eq!(config, AggregationConfig { sql: Some("select 1".to_owned()), ..AggregationConfig::default() });
        assert!(!config.is_draft());
    }

    #[test]
    fn empty_config_and_labels_alone_are_drafts() {
        assert!(AggregationConfig::parse(&json!({})).unwrap().is_draft());
        let labels = AggregationConfig::parse(&json!({"labels": {"team": ["a"]}})).unwrap();
        assert!(labels.is_draft());
        assert_eq!(labels.labels["team"], json!(["a"]));
    }

    #[test]
    fn every_fault_is_named_with_its_path() {
        let config = json!({"sql": 1, "labels": [], "timeout_secs": 0, "refresh_interval_secs": 1.5, "mode": "append", "query": ""});
        let errors = AggregationConfig::parse(&config).unwrap_err();
        let paths: Vec<&str> = errors.iter().map(|error| error.path[0].as_str()).collect();
        assert_eq!(paths.len(), 6, "{errors:?}");
        for key in ["sql", "labels", "timeout_secs", "refresh_interval_secs", "mode", "query"] {
            assert!(paths.contains(&key), "{key}");
        }
        assert!(AggregationConfig::parse(&json!({"sql": " \n"})).is_err());
        assert!(AggregationConfig::parse(&json!([])).is_err());
    }

    #[test]
    fn limits_are_inclusive() {
        for (config, good) in [
            (json!({"timeout_secs": 1}), true),
            (json!({"timeout_secs": 86_400}), true),
            (json!({"timeout_secs": 86_401}), false),
            (json!({"refresh_interval_secs": 1}), true),
            (json!({"refresh_interval_secs": 0}), false),
            (json!({"sql": "x".repeat(MAX_SQL_BYTES)}), true),
            (json!({"sql": "x".repeat(MAX_SQL_BYTES + 1)}), false),
        ] {
            assert_eq!(
                AggregationConfig::parse(&config).is_ok(),
                good,
                "{}",
                &config.to_string()[..40.min(config.to_string().len())]
            );
        }
    }
}

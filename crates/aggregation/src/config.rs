//! The `config` of an aggregation: what a user writes, checked.

mod after;
mod params;

use matome_model::engine::MAX_SQL_BYTES;
use matome_model::field_error::{FieldError, Words, kind_of};
use matome_model::schedule::{ScheduleOptions, interval_beside_cron};
use matome_model::task::{Priority, Share};
use matome_store::triggers::After;
use serde_json::{Map, Value};

pub use params::{Declared, Params, bind};

/// Longest time a query may take, in seconds.
const MAX_TIMEOUT_SECS: u64 = 86_400;

/// Longest time a task may take, in seconds.
const MAX_DEADLINE_SECS: u64 = 7 * 86_400;

/// Columns of a key at most.
const MAX_KEY_COLUMNS: usize = 16;

/// Versions that may be kept.
const MAX_KEPT_RUNS: u64 = 10_000;

/// Days that versions may be kept.
const MAX_KEPT_DAYS: u64 = 36_500;

const KEYS: [&str; 14] = [
    "sql",
    "params",
    "labels",
    "timeout_secs",
    "deadline_secs",
    "refresh_interval_secs",
    "schedule",
    "priority",
    "weight",
    "after",
    "mode",
    "key",
    "keep_runs",
    "keep_days",
];

/// A checked `config`. `{}`, or one with labels alone, is a draft: it can be stored, but not run.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregationConfig {
    /// The query, DataFusion's dialect of SQL; one statement that starts with `select`, `with` or `values`. `None` in a draft.
    ///
    /// Example: `select status, count(*) as n from orders group by status`.
    pub sql: Option<String>,
    /// Values that whoever starts a run gives to the query, which has them as `$name`.
    ///
    /// Example: `{"since": {"type": "timestamp", "default": "2026-01-01"}}`.
    pub params: Params,
    /// The user's own words about it; matome does not read them.
    pub labels: Map<String, Value>,
    /// Seconds that the query may take, 1 to 86,400. Default 300.
    pub timeout_secs: u64,
    /// Seconds that a whole task may take, its inputs and the storing of its rows included, 1 to 604,800; then it fails.
    pub deadline_secs: Option<u64>,
    /// Seconds from one scheduled run to the next, at least 1. `None`, the default: by hand only.
    pub refresh_interval_secs: Option<u64>,
    /// `cron` with `timezone`, `misfire`, `overlap`, `jitter_secs`; `cron` takes the place of `refresh_interval_secs`.
    pub schedule: ScheduleOptions,
    /// `priority` and `weight`: how much of the workers' time it gets beside others.
    pub share: Share,
    /// What it runs after, besides or instead of a schedule.
    ///
    /// Example: `{"sources": ["orders"], "aggregations": ["daily"], "debounce_secs": 5}`.
    pub after: Option<After>,
    /// What a run does with the rows that are shown.
    pub mode: Mode,
    /// Columns of the result whose values together say which row is which; for `upsert` only, at most 16.
    ///
    /// Example: `["store", "day"]`.
    pub key: Vec<String>,
    /// How many of the newest runs stay readable, the shown one among them: 1 to 10,000. Default 1; with `append` all.
    pub keep_runs: Option<u32>,
    /// Runs of the last so many days stay readable besides, 1 to 36,500.
    pub keep_days: Option<u32>,
}

/// What a run does with the rows that are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `replace`: the new rows take their place, all at once.
    #[default]
    Replace,
    /// `append`: the new rows join them.
    Append,
    /// `upsert`: the new rows join them, and each takes the place of the row that has its `key`.
    Upsert,
}

impl Default for AggregationConfig {
    fn default() -> Self {
        Self {
            sql: None,
            params: Params::new(),
            labels: Map::new(),
            timeout_secs: 300,
            deadline_secs: None,
            refresh_interval_secs: None,
            schedule: ScheduleOptions::default(),
            share: Share::default(),
            after: None,
            mode: Mode::Replace,
            key: Vec::new(),
            keep_runs: None,
            keep_days: None,
        }
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
                "timeout_secs" => whole_number(value, MAX_TIMEOUT_SECS).map(|seconds| parsed.timeout_secs = seconds),
                "deadline_secs" => {
                    whole_number(value, MAX_DEADLINE_SECS).map(|seconds| parsed.deadline_secs = Some(seconds))
                }
                "refresh_interval_secs" if value.is_null() => Ok(()),
                "refresh_interval_secs" => {
                    whole_number(value, u64::from(u32::MAX)).map(|seconds| parsed.refresh_interval_secs = Some(seconds))
                }
                "schedule" => {
                    match ScheduleOptions::parse(value) {
                        Ok(schedule) => parsed.schedule = schedule,
                        Err(faults) => errors.extend(faults),
                    }
                    Ok(())
                }
                "priority" => priority(value).map(|priority| parsed.share.priority = priority),
                "weight" => whole_number(value, u64::from(Share::MAX_WEIGHT))
                    .map(|weight| parsed.share.weight = u32::try_from(weight).unwrap_or(Share::MAX_WEIGHT)),
                "after" => {
                    match after::parse(value) {
                        Ok(after) => parsed.after = after,
                        Err(faults) => errors.extend(faults),
                    }
                    Ok(())
                }
                "params" => {
                    match params::parse(value) {
                        Ok(params) => parsed.params = params,
                        Err(faults) => errors.extend(faults),
                    }
                    Ok(())
                }
                "mode" => mode(value).map(|mode| parsed.mode = mode),
                "key" => key_columns(value).map(|key| parsed.key = key),
                "keep_runs" => kept(value, MAX_KEPT_RUNS).map(|runs| parsed.keep_runs = runs),
                "keep_days" => kept(value, MAX_KEPT_DAYS).map(|days| parsed.keep_days = days),
                _ => Err(Words::unknown_option(None, &KEYS)),
            };
            if let Err(message) = outcome {
                errors.push(FieldError::new(&[key], message));
            }
        }
        let has_key = config.get("key").is_some_and(|key| !key.is_null());
        if parsed.mode == Mode::Upsert && !has_key {
            errors.push(FieldError::new(&["key"], key_needed()));
        }
        if parsed.mode != Mode::Upsert && has_key && config.get("mode").is_none_or(|word| mode(word).is_ok()) {
            errors.push(FieldError::new(&["key"], key_unused()));
        }
        if parsed.schedule.cron.is_some() && parsed.refresh_interval_secs.is_some() {
            errors.push(FieldError::new(&["refresh_interval_secs"], interval_beside_cron()));
        }
        let runs_by_itself =
            parsed.refresh_interval_secs.is_some() || parsed.schedule.cron.is_some() || parsed.after.is_some();
        if runs_by_itself {
            let given = parsed.params.iter().filter(|(_, declared)| declared.default.is_none());
            errors
                .extend(given.map(|(name, _)| FieldError::new(&["params", name, "default"], params::default_needed())));
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

fn whole_number(value: &Value, most: u64) -> Result<u64, Words> {
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

fn priority(value: &Value) -> Result<Priority, Words> {
    let words: Vec<&str> = Priority::ALL.iter().map(|priority| priority.as_str()).collect();
    let given = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Priority::parse(&given).ok_or_else(|| Words::no_choice(&given, &words))
}

const MODES: [&str; 3] = ["replace", "append", "upsert"];

fn mode(value: &Value) -> Result<Mode, Words> {
    match value.as_str() {
        Some("replace") => Ok(Mode::Replace),
        Some("append") => Ok(Mode::Append),
        Some("upsert") => Ok(Mode::Upsert),
        Some(other) => Err(Words::no_choice(other, &MODES)),
        None => Err(Words::no_choice(&value.to_string(), &MODES)),
    }
}

fn key_columns(value: &Value) -> Result<Vec<String>, Words> {
    let names = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(names) => names,
        _ => return Err(key_form()),
    };
    if names.is_empty() || names.len() > MAX_KEY_COLUMNS {
        return Err(key_form());
    }
    let mut key: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        match name.as_str() {
            Some(name) if !name.is_empty() && !key.iter().any(|other| other == name) => key.push(name.to_owned()),
            _ => return Err(key_form()),
        }
    }
    Ok(key)
}

fn key_form() -> Words {
    Words::new(
        format!(
            "Expected a list of 1 to {MAX_KEY_COLUMNS} different column names of the result, such as [\"store\", \"day\"]."
        ),
        format!("結果の列名を1から{MAX_KEY_COLUMNS}個、重複なく並べてください (例: [\"store\", \"day\"])。"),
    )
}

fn key_needed() -> Words {
    Words::new(
        "`upsert` needs a key: the columns of the result that say which row is which, such as [\"store\", \"day\"].",
        "`upsert`にはキーが必要です。どの行かを表す結果の列名を指定してください (例: [\"store\", \"day\"])。",
    )
}

fn key_unused() -> Words {
    Words::new(
        "A key is for `\"mode\": \"upsert\"`; leave it out otherwise.",
        "キーは`\"mode\": \"upsert\"`のときだけ使います。それ以外では省いてください。",
    )
}

fn kept(value: &Value, most: u64) -> Result<Option<u32>, Words> {
    if value.is_null() {
        return Ok(None);
    }
    whole_number(value, most).map(|n| u32::try_from(n).ok())
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
        let config = json!({"sql": 1, "labels": [], "timeout_secs": 0, "deadline_secs": 604_801, "refresh_interval_secs": 1.5, "mode": "merge", "query": ""});
        let errors = AggregationConfig::parse(&config).unwrap_err();
        let paths: Vec<&str> = errors.iter().map(|error| error.path[0].as_str()).collect();
        assert_eq!(paths.len(), 7, "{errors:?}");
        for key in ["sql", "labels", "timeout_secs", "deadline_secs", "refresh_interval_secs", "mode", "query"] {
            assert!(paths.contains(&key), "{key}");
        }
        assert!(AggregationConfig::parse(&json!({"sql": " \n"})).is_err());
        assert!(AggregationConfig::parse(&json!([])).is_err());
    }

    #[test]
    fn after_names_what_it_waits_for() {
        let after = |after: serde_json::Value| {
            AggregationConfig::parse(&json!({"sql": "x", "after": after})).map(|config| config.after.unwrap())
        };
        let parsed = after(json!({"sources": ["a"], "aggregations": ["b", "c"]})).unwrap();
        assert_eq!((parsed.sources.len(), parsed.aggregations.len(), parsed.debounce_secs), (1, 2, 5));
        assert_eq!(after(json!({"sources": ["a"], "debounce_secs": 0})).unwrap().debounce_secs, 0);
        for (wrong, path) in [
            (json!([]), "after"),
            (json!({}), "after"),
            (json!({"sources": []}), "after"),
            (json!({"sources": "a"}), "after.sources"),
            (json!({"sources": ["a", "a"]}), "after.sources"),
            (json!({"aggregations": [1]}), "after.aggregations"),
            (json!({"sources": ["a"], "debounce_secs": -1}), "after.debounce_secs"),
            (json!({"sources": ["a"], "debounce_secs": 86_401}), "after.debounce_secs"),
            (json!({"sources": ["a"], "delay": 1}), "after.delay"),
        ] {
            let errors = after(wrong.clone()).unwrap_err();
            assert_eq!(errors.iter().map(|error| error.path.join(".")).collect::<Vec<_>>(), [path], "{wrong}");
        }
    }

    #[test]
    fn key_belongs_to_upsert_and_names_columns() {
        let upsert = AggregationConfig::parse(&json!({"sql": "x", "mode": "upsert", "key": ["a", "b"]})).unwrap();
        assert_eq!((upsert.mode, upsert.key), (Mode::Upsert, vec!["a".to_owned(), "b".to_owned()]));
        let append = AggregationConfig::parse(&json!({"sql": "x", "mode": "append", "keep_runs": 3})).unwrap();
        assert_eq!((append.mode, append.keep_runs), (Mode::Append, Some(3)));
        for wrong in [
            json!({"mode": "upsert"}),
            json!({"mode": "upsert", "key": []}),
            json!({"mode": "upsert", "key": "a"}),
            json!({"mode": "upsert", "key": ["a", "a"]}),
            json!({"mode": "upsert", "key": ["a", 1]}),
            json!({"mode": "upsert", "key": [""]}),
            json!({"key": ["a"]}),
            json!({"mode": "append", "key": ["a"]}),
        ] {
            let errors = AggregationConfig::parse(&wrong).unwrap_err();
            assert_eq!(errors.iter().map(|error| error.path.join(".")).collect::<Vec<_>>(), ["key"], "{wrong}");
        }
    }

    #[test]
    fn cron_and_an_interval_exclude_each_other() {
        let with = |more: Value| {
            let mut config = json!({"sql": "select 1", "schedule": {"cron": "@hourly"}});
            config.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
            AggregationConfig::parse(&config)
        };
        assert!(with(json!({})).unwrap().schedule.cron.is_some());
        assert!(with(json!({"refresh_interval_secs": null})).is_ok());
        let errors = with(json!({"refresh_interval_secs": 60})).unwrap_err();
        assert_eq!(errors[0].path, ["refresh_interval_secs"]);
        assert_eq!(with(json!({"schedule": {"cron": "x"}})).unwrap_err()[0].path, ["schedule", "cron"]);
    }

    #[test]
    fn limits_are_inclusive() {
        for (config, good) in [
            (json!({"timeout_secs": 1}), true),
            (json!({"timeout_secs": 86_400}), true),
            (json!({"timeout_secs": 86_401}), false),
            (json!({"refresh_interval_secs": 1}), true),
            (json!({"refresh_interval_secs": 0}), false),
            (json!({"keep_runs": 10_000}), true),
            (json!({"keep_runs": 10_001}), false),
            (json!({"keep_runs": 0}), false),
            (json!({"keep_days": 36_500}), true),
            (json!({"keep_days": 36_501}), false),
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

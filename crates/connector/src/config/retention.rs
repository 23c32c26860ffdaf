//! How long records are kept: `retention`.

use chrono::TimeDelta;
use matome_model::field_error::Words;
use matome_model::source::Dedupe;
use serde_json::Value;

use super::Fields;

/// Longest age: a hundred years.
pub(crate) const MOST_DAYS: u64 = 36_500;
pub(crate) const MOST_RECORDS: u64 = 1_000_000_000_000;
pub(crate) const MOST_BYTES: u64 = 1_000_000_000_000_000;

/// `retention`: which records are removed in the background. At least one of the three limits is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `max_age_days`: records that were acquired longer ago are removed; 1 to 36500.
    pub max_age: Option<TimeDelta>,
    /// `max_records`: of more records the oldest are removed; 1 to 10^12.
    pub max_records: Option<u64>,
    /// `max_bytes`: while `raw_data` of the records takes more, the oldest are removed; 1 to 10^15.
    pub max_bytes: Option<u64>,
    /// `keep_newest`: the newest version of a key is never removed; only with a `key`, default true.
    pub keep_newest: bool,
}

/// Takes the option.
pub(super) fn parse(fields: &mut Fields, dedupe: Dedupe) -> Option<Retention> {
    let mut inside = fields.nested("retention")?;
    let has_limit = ["max_age_days", "max_records", "max_bytes"].iter().any(|name| inside.has(name));
    let max_age = inside.integer("max_age_days", 1, MOST_DAYS);
    let max_records = inside.integer("max_records", 1, MOST_RECORDS);
    let max_bytes = inside.integer("max_bytes", 1, MOST_BYTES);
    let keep_newest = match inside.has("keep_newest").then(|| inside.value("keep_newest")).flatten() {
        None => dedupe == Dedupe::Key,
        Some(Value::Bool(keep)) if dedupe == Dedupe::Key => keep,
        Some(Value::Bool(_)) => {
            let words = Words::new(
                "This option is for sources with a `key` only.",
                "このオプションは `key` のあるデータソースだけのものです。",
            );
            inside.fail("keep_newest", words);
            false
        }
        Some(_) => {
            inside.fail("keep_newest", Words::new("Give true or false.", "true か false を指定してください。"));
            false
        }
    };
    if !has_limit {
        inside.fail(
            "max_age_days",
            Words::new(
                "Give one or more of `max_age_days`, `max_records` and `max_bytes`.",
                "`max_age_days`、`max_records`、`max_bytes` の一つ以上を指定してください。",
            ),
        );
    }
    fields.absorb(inside);
    let max_age = max_age.and_then(|days| i64::try_from(days).ok()).map(TimeDelta::days);
    let is_limited = max_age.is_some() || max_records.is_some() || max_bytes.is_some();
    is_limited.then_some(Retention { max_age, max_records, max_bytes, keep_newest })
}

/// What a stored config says of retention; secrets do not matter for that. `None` also when it says it wrongly.
pub fn retention_of(config: &str) -> Option<Retention> {
    let mut fields = Fields::parse(config).ok()?;
    let (dedupe, _) = super::identity::parse(&mut fields, Dedupe::Hash);
    let retention = parse(&mut fields, dedupe);
    fields.forget_rest();
    fields.finish().ok().and(retention)
}

#[cfg(test)]
mod tests {
    use matome_model::source::SourceType;

    use super::*;
    use crate::config::tests::errors;

    #[test]
    fn limits_are_read_from_configs_with_secrets_too() {
        let of = |options: &str| retention_of(&format!(r#"{{"url":"x","auth":{{"$secret":true}},{options}}}"#));
        let days = |days| Some(TimeDelta::days(days));
        let kept =
            |max_age, max_records, keep_newest| Some(Retention { max_age, max_records, max_bytes: None, keep_newest });
        assert_eq!(of(r#""retention":{"max_age_days":30}"#), kept(days(30), None, false));
        assert_eq!(of(r#""key":"id","retention":{"max_records":5}"#), kept(None, Some(5), true));
        assert_eq!(
            of(r#""key":"id","retention":{"max_records":5,"max_age_days":1,"keep_newest":false}"#),
            kept(days(1), Some(5), false)
        );
        assert_eq!(
            of(r#""retention":{"max_bytes":1000000}"#),
            Some(Retention { max_age: None, max_records: None, max_bytes: Some(1_000_000), keep_newest: false })
        );
        assert_eq!(of(r#""retention":{"max_records":0}"#), None);
        assert_eq!(of(r#""labels":{}"#), None);
    }

    #[test]
    fn each_wrong_limit_is_told_at_its_field() {
        for (options, path, part) in [
            (r#""retention":{}"#, "retention.max_age_days", "one or more"),
            (r#""retention":5"#, "retention", "dictionary"),
            (r#""retention":{"max_age_days":0}"#, "retention.max_age_days", "greater than or equal to 1"),
            (r#""retention":{"max_age_days":1.5}"#, "retention.max_age_days", "integer"),
            (r#""retention":{"max_records":-1}"#, "retention.max_records", "greater than or equal to 1"),
            (r#""retention":{"max_bytes":"1 GB"}"#, "retention.max_bytes", "integer"),
            (r#""retention":{"max_record":1}"#, "retention.max_record", "max_records"),
            (r#""retention":{"max_records":1,"keep_newest":true}"#, "retention.keep_newest", "`key` only"),
            (r#""key":"id","retention":{"max_records":1,"keep_newest":1}"#, "retention.keep_newest", "true or false"),
        ] {
            let errors = errors(SourceType::File, &format!(r#"{{"path":"a.csv",{options}}}"#));
            assert!(errors.iter().any(|(at, text)| at == path && text.contains(part)), "{options}: {errors:?}");
        }
    }
}

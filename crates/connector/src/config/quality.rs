//! `validation`, `drift` and `quarantine`: what records of a source must be, and what happens to those that are not.

use std::sync::Arc;

use matome_model::drift::DriftPolicy;
use matome_model::validation::{Policy, Rule, Rules, Validation};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{FieldError, Fields, Words, kind_of};

/// Rules of one source at most.
pub(crate) const MAX_RULES: usize = 200;

/// What records must be.
#[derive(Clone, Debug, Default)]
pub struct Quality {
    /// `validation`: `{"schema", "rules", "policy"}`.
    pub validation: Option<Arc<Validation>>,
    /// `drift`: what happens to records that the stored schema does not describe.
    pub drift: DriftPolicy,
    /// `quarantine`: how much of a read may be bad.
    pub limit: QuarantineLimit,
}

/// How many bad records a read may have before its task fails. What it found until then is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QuarantineLimit {
    /// `max_records`: records at most.
    pub max_records: Option<u64>,
    /// `max_ratio`: share of the records read at most, above 0 up to 1; looked at from the 100th record on.
    pub max_ratio: Option<f64>,
}

pub(crate) fn parse_quality(fields: &mut Fields) -> Quality {
    let validation = fields.nested("validation").and_then(|mut nested| {
        let validation = parse_validation(&mut nested);
        fields.absorb(nested);
        validation
    });
    let words: Vec<(&str, DriftPolicy)> = DriftPolicy::ALL.iter().map(|policy| (policy.as_str(), *policy)).collect();
    let drift = fields.choice("drift", &words).unwrap_or_default();
    let limit = fields.nested("quarantine").map(|mut nested| {
        let max_records = nested.integer("max_records", 0, i64::MAX.unsigned_abs());
        let max_ratio = nested.value("max_ratio").and_then(|value| {
            let ratio = value.as_f64().filter(|ratio| *ratio > 0.0 && *ratio <= 1.0);
            if ratio.is_none() {
                let message = Words::new("A number above 0, up to 1, is required.", "0より大きく1以下の数が必要です。");
                nested.fail("max_ratio", message);
            }
            ratio
        });
        fields.absorb(nested);
        QuarantineLimit { max_records, max_ratio }
    });
    Quality { validation: validation.map(Arc::new), drift, limit: limit.unwrap_or_default() }
}

fn parse_validation(fields: &mut Fields) -> Option<Validation> {
    let policies: Vec<(&str, Policy)> = Policy::ALL.iter().map(|policy| (policy.as_str(), *policy)).collect();
    let policy = fields.choice("policy", &policies).unwrap_or(Policy::Quarantine);
    let rules = fields.raw("rules").map(|rules| parse_rules(fields, &rules)).unwrap_or_default();
    let schema = fields.raw("schema");
    match Validation::new(schema.as_deref().map(RawValue::get), Rules(rules), policy) {
        Ok(validation) => Some(validation),
        Err(errors) => {
            fields.fail_all(errors.into_iter().map(|error| below("schema", error)));
            None
        }
    }
}

fn below(name: &str, error: FieldError) -> FieldError {
    FieldError { path: std::iter::once(name.to_owned()).chain(error.path).collect(), ..error }
}

fn parse_rules(fields: &mut Fields, rules: &RawValue) -> Vec<Rule> {
    let Ok(items) = serde_json::from_str::<Vec<Box<RawValue>>>(rules.get()) else {
        let message = Words::new(
            format!("Expected a list of rules but got type \"{}\".", kind_of(rules)),
            format!("\"{}\" 型のデータではなく、ルールのリストを送ってください。", kind_of(rules)),
        );
        fields.fail("rules", message);
        return Vec::new();
    };
    if items.len() > MAX_RULES {
        let message = Words::new(
            format!("Ensure this list has no more than {MAX_RULES} rules. A `schema` says more in one place."),
            format!("ルールは{MAX_RULES}個までにしてください。それ以上は `schema` に書けます。"),
        );
        fields.fail("rules", message);
        return Vec::new();
    }
    let mut parsed = Vec::with_capacity(items.len());
    for (n, item) in items.iter().enumerate() {
        match Fields::item(item).map_err(|error| vec![error]).and_then(parse_rule) {
            Ok(rule) => parsed.push(rule),
            Err(errors) => {
                let place = |error| below("rules", below(&n.to_string(), error));
                fields.fail_all(errors.into_iter().map(place));
            }
        }
    }
    parsed
}

fn parse_rule(mut fields: Fields) -> Result<Rule, Vec<FieldError>> {
    let name = fields.required_string("field").unwrap_or_default();
    let mut rule = Rule::new(&name);
    for (name, set) in [("required", Rule::required as fn(Rule, bool) -> Rule), ("unique", Rule::unique)] {
        match fields.value(name) {
            Some(Value::Bool(yes)) => rule = set(rule, yes),
            Some(_) => {
                fields.fail(name, Words::new("Must be `true` or `false`.", "`true` か `false` にしてください。"))
            }
            None => {}
        }
    }
    let pattern = fields.string("pattern");
    let (min, max) = (fields.raw("min"), fields.raw("max"));
    type Set = fn(Rule, &str) -> Result<Rule, Words>;
    let settings: [(&str, Option<&str>, Set); 3] = [
        ("min", min.as_deref().map(RawValue::get), Rule::min),
        ("max", max.as_deref().map(RawValue::get), Rule::max),
        ("pattern", pattern.as_deref(), Rule::pattern),
    ];
    let mut faults = Vec::new();
    for (name, given, set) in settings {
        let Some(given) = given else { continue };
        match set(rule, given) {
            Ok(stricter) => rule = stricter,
            Err(message) => {
                faults.push((name, message));
                rule = Rule::new("");
            }
        }
    }
    if faults.is_empty() && rule.is_empty() {
        let message = Words::new(
            "Say what the field must be: `required`, `unique`, `min`, `max` or `pattern`.",
            "`required`、`unique`、`min`、`max`、`pattern` のどれかを指定してください。",
        );
        fields.fail("field", message);
    }
    for (name, message) in faults {
        fields.fail(name, message);
    }
    fields.finish().map(|()| rule)
}

#[cfg(test)]
mod tests {
    use matome_model::source::SourceType;

    use super::super::tests::errors;
    use super::super::validate_config;

    #[test]
    fn what_records_must_be_is_checked_when_it_is_written() {
        let config = r##"{"path":"a.csv","drift":"never","quarantine":{"max_ratio":1.5,"max_recs":1},"validation":{
            "policy":"drop","schema":{"properties":{"a":{"type":"text"}},"$ref":"https://example.com/s"},
            "rules":[{"field":"a","min":"x"},{"field":"b","pattern":"("},{"min":1},{"field":"c"},{"field":"d","uniq":true},
            {"field":"e","required":1},{"field":"f","min":2,"max":1},7]}}"##;
        let mut places: Vec<String> = errors(SourceType::File, config).into_iter().map(|(place, _)| place).collect();
        places.sort();
        assert_eq!(
            places,
            [
                "drift",
                "quarantine.max_ratio",
                "quarantine.max_recs",
                "validation.policy",
                "validation.rules.0.min",
                "validation.rules.1.pattern",
                "validation.rules.2.field",
                "validation.rules.3.field",
                "validation.rules.4.field",
                "validation.rules.4.uniq",
                "validation.rules.5.field",
                "validation.rules.5.required",
                "validation.rules.6.max",
                "validation.rules.7",
                "validation.schema.$ref",
                "validation.schema.properties.a.type",
            ]
        );
        assert_eq!(errors(SourceType::File, r#"{"path":"a.csv","validation":[]}"#)[0].0, "validation");
        assert_eq!(errors(SourceType::File, r#"{"path":"a.csv","validation":{"rules":{}}}"#)[0].0, "validation.rules");
        assert_eq!(
            errors(SourceType::File, r#"{"path":"a.csv","validation":{"schema":[]}}"#)[0].0,
            "validation.schema"
        );
    }

    #[test]
    fn numbers_of_rules_keep_their_digits() {
        let config = r#"{"path":"a.csv","validation":{"rules":[{"field":"n","min":12345678901234567890.5,
            "max":12345678901234567890.6}]}}"#;
        assert!(validate_config(SourceType::File, config).is_ok());
        let config = config.replace("890.6", "890.4");
        assert_eq!(errors(SourceType::File, &config)[0].0, "validation.rules.0.max");
    }
}

//! `params`: values that whoever starts a run gives to its SQL.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use matome_model::clock::iso8601;
use matome_model::engine::{Parameter, ParameterType};
use matome_model::field_error::{FieldError, Words};
use serde_json::{Map, Value};

use super::kind_of;

/// Parameters of one aggregation.
const MAX_PARAMS: usize = 64;

/// Characters of a name.
const MAX_NAME: usize = 64;

/// Bytes of a text.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// Digits of a decimal, as the engine has them.
const MAX_DIGITS: usize = 76;

const KEYS: [&str; 2] = ["type", "default"];

/// A parameter that a config declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// What its values are.
    pub kind: ParameterType,
    /// Its value when none is given; `None`: it must be given.
    pub default: Option<Parameter>,
}

/// The parameters of an aggregation by name, without the `$` that they have in SQL.
pub type Params = BTreeMap<String, Declared>;

/// Reads the option; faults carry the path beneath `params`.
pub(super) fn parse(value: &Value) -> Result<Params, Vec<FieldError>> {
    let options = match value {
        Value::Null => return Ok(Params::new()),
        Value::Object(options) => options,
        other => return Err(vec![FieldError::new(&["params"], Words::no_object(kind_of(other)))]),
    };
    if options.len() > MAX_PARAMS {
        return Err(vec![FieldError::new(&["params"], Words::too_large(MAX_PARAMS))]);
    }
    let mut params = Params::new();
    let mut errors = Vec::new();
    for (name, value) in options {
        if !is_name(name) {
            errors.push(FieldError::new(&["params", name], name_form()));
            continue;
        }
        match declared(name, value) {
            Ok(declared) => drop(params.insert(name.clone(), declared)),
            Err(faults) => errors.extend(faults),
        }
    }
    if errors.is_empty() { Ok(params) } else { Err(errors) }
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn declared(name: &str, value: &Value) -> Result<Declared, Vec<FieldError>> {
    let Value::Object(options) = value else {
        return Err(vec![FieldError::new(&["params", name], Words::no_object(kind_of(value)))]);
    };
    let mut errors: Vec<FieldError> = options
        .keys()
        .filter(|key| !KEYS.contains(&key.as_str()))
        .map(|key| FieldError::new(&["params", name, key], Words::unknown_option(None, &KEYS)))
        .collect();
    let kind = match options.get("type") {
        None => Err(Words::required()),
        Some(Value::String(word)) => {
            ParameterType::parse(word).ok_or_else(|| Words::no_choice(word, ParameterType::WORDS))
        }
        Some(other) => Err(Words::no_choice(&other.to_string(), ParameterType::WORDS)),
    };
    let kind = match kind {
        Ok(kind) => kind,
        Err(message) => {
            errors.push(FieldError::new(&["params", name, "type"], message));
            return Err(errors);
        }
    };
    let default = options.get("default").map(|value| read(kind, value)).transpose();
    match default {
        Ok(default) if errors.is_empty() => Ok(Declared { kind, default }),
        Ok(_) => Err(errors),
        Err(message) => {
            errors.push(FieldError::new(&["params", name, "default"], message));
            Err(errors)
        }
    }
}

/// The values of a run: what is given, else the defaults.
///
/// # Errors
/// Each wrong, unknown or missing one, with its path beneath `params`.
pub fn bind(params: &Params, given: &Map<String, Value>) -> Result<BTreeMap<String, Parameter>, Vec<FieldError>> {
    let names: Vec<&str> = params.keys().map(String::as_str).collect();
    let mut errors: Vec<FieldError> = given
        .keys()
        .filter(|name| !params.contains_key(*name))
        .map(|name| FieldError::new(&["params", name], unknown(&names)))
        .collect();
    let mut bound = BTreeMap::new();
    for (name, declared) in params {
        let value = match (given.get(name), &declared.default) {
            (Some(value), _) => read(declared.kind, value),
            (None, Some(default)) => Ok(default.clone()),
            (None, None) => Err(Words::required()),
        };
        match value {
            Ok(value) => drop(bound.insert(name.clone(), value)),
            Err(message) => errors.push(FieldError::new(&["params", name], message)),
        }
    }
    if errors.is_empty() { Ok(bound) } else { Err(errors) }
}

/// A value of JSON as one of `kind`; text is taken for every type, as the command line gives it.
fn read(kind: ParameterType, value: &Value) -> Result<Parameter, Words> {
    let value = match (kind, value) {
        (_, Value::Null) => None,
        (ParameterType::Text, Value::String(text)) if text.contains('\0') => return Err(form(kind)),
        (ParameterType::Text, Value::String(text)) if text.len() > MAX_TEXT_BYTES => {
            return Err(Words::too_large(MAX_TEXT_BYTES));
        }
        (_, Value::String(text)) => Some(canonical(kind, text.trim(), text).ok_or_else(|| form(kind))?),
        (ParameterType::Integer | ParameterType::Decimal, Value::Number(number)) => {
            let text = number.to_string();
            // A number with a point has passed through a float; where that may have cost a digit, text is asked for.
            if number.is_f64() && text.bytes().filter(u8::is_ascii_digit).count() > 15 {
                return Err(digits());
            }
            Some(canonical(kind, &text, &text).ok_or_else(|| form(kind))?)
        }
        (ParameterType::Boolean, Value::Bool(value)) => Some(value.to_string()),
        _ => return Err(form(kind)),
    };
    Ok(Parameter { kind, value })
}

/// The one way to write a value; `None` when it is none of its type.
fn canonical(kind: ParameterType, text: &str, whole: &str) -> Option<String> {
    match kind {
        ParameterType::Text => Some(whole.to_owned()),
        ParameterType::Integer => text.parse::<i64>().ok().map(|n| n.to_string()),
        ParameterType::Boolean => matches!(text, "true" | "false").then(|| text.to_owned()),
        ParameterType::Date => Some(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.format("%Y-%m-%d").to_string()),
        ParameterType::Timestamp => timestamp(text).map(iso8601),
        ParameterType::Decimal => decimal(text),
    }
}

/// ISO 8601, UTC where it names no zone, or a date alone; within the years that have four digits.
fn timestamp(text: &str) -> Option<DateTime<Utc>> {
    let naive = || {
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
            .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
            .map(|time| time.and_utc())
    };
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc)).ok().or_else(naive)?;
    (1..=9999).contains(&chrono::Datelike::year(&time)).then_some(time)
}

fn decimal(text: &str) -> Option<String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = !whole.is_empty() && all_digits(whole) && all_digits(fraction) && !digits.ends_with('.');
    let whole = whole.trim_start_matches('0');
    if !is_number || whole.len() + fraction.len() > MAX_DIGITS {
        return None;
    }
    let sign = if text.starts_with('-') { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

fn form(kind: ParameterType) -> Words {
    let (english, japanese, example) = match kind {
        ParameterType::Timestamp => ("a time", "時刻", "\"2026-01-31T09:00:00Z\""),
        ParameterType::Date => ("a date", "日付", "\"2026-01-31\""),
        ParameterType::Integer => ("a whole number within 64 bits", "64ビット以内の整数", "42"),
        ParameterType::Decimal => ("a decimal number of at most 76 digits", "76桁以内の十進数", "\"12.50\""),
        ParameterType::Boolean => ("true or false", "trueまたはfalse", "true"),
        ParameterType::Text => ("text without NUL characters", "NUL文字を含まない文字列", "\"paid\""),
    };
    Words::new(
        format!("Expected {english}, such as {example}."),
        format!("{japanese}を指定してください (例: {example})。"),
    )
}

fn digits() -> Words {
    Words::new(
        "A number with so many digits must be given as text, in quotes, to keep them all.",
        "桁の多い数は、すべての桁を保つために、引用符で囲んだ文字列で指定してください。",
    )
}

fn name_form() -> Words {
    Words::new(
        format!(
            "A name has 1 to {MAX_NAME} letters a-z, digits and `_`, and starts with no digit; in SQL it is `$name`."
        ),
        format!("名前は英字、数字、`_`からなる1から{MAX_NAME}文字で、数字では始まりません。SQLでは`$name`と書きます。"),
    )
}

fn unknown(names: &[&str]) -> Words {
    if names.is_empty() {
        return Words::new(
            "This aggregation has no parameters; declare them in `params` of its config.",
            "この集約にはパラメーターがありません。設定の`params`で宣言してください。",
        );
    }
    Words::unknown_option(None, names)
}

/// What is wrong with a parameter without default where nobody can give a value.
pub(super) fn default_needed() -> Words {
    Words::new(
        "It needs a `default`: runs by schedule or after others are given no value.",
        "`default`が必要です。予定された実行や、他の後の実行には値を渡せません。",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(kind: &str, value: Value) -> Result<String, String> {
        let params = parse(&json!({ "p": { "type": kind } })).unwrap();
        let Value::Object(given) = json!({ "p": value }) else { unreachable!() };
        let bound = bind(&params, &given).map_err(|errors| errors[0].message.english.clone())?;
        Ok(bound["p"].value.clone().unwrap_or_else(|| "null".to_owned()))
    }

    #[test]
    fn values_are_read_from_json_and_from_text() {
        for (kind, given, expected) in [
            ("integer", json!(42), "42"),
            ("integer", json!("-7"), "-7"),
            ("decimal", json!(1.5), "1.5"),
            ("decimal", json!("0012345678901234567890.120"), "12345678901234567890.120"),
            ("boolean", json!(true), "true"),
            ("boolean", json!("false"), "false"),
            ("date", json!("2026-01-31"), "2026-01-31"),
            ("timestamp", json!("2026-01-31"), "2026-01-31T00:00:00Z"),
            ("timestamp", json!("2026-01-31T09:00:00+09:00"), "2026-01-31T00:00:00Z"),
            ("text", json!(" it's; -- '"), " it's; -- '"),
            ("text", Value::Null, "null"),
        ] {
            let read = value(kind, given.clone()).unwrap();
            assert!(read.starts_with(expected.trim_end_matches('Z')), "{kind} {given}: {read}");
        }
    }

    #[test]
    fn wrong_values_are_told_with_an_example() {
        for (kind, given) in [
            ("integer", json!(1.5)),
            ("integer", json!("9223372036854775808")),
            ("integer", json!(true)),
            ("decimal", json!(0.1234567890123456)),
            ("decimal", json!("1e5")),
            ("decimal", json!("9".repeat(77))),
            ("decimal", json!(".")),
            ("boolean", json!("yes")),
            ("date", json!("2026-02-30")),
            ("timestamp", json!("soon")),
            ("timestamp", json!(1)),
            ("text", json!(1)),
            ("text", json!("a\0b")),
        ] {
            assert!(value(kind, given.clone()).is_err(), "{kind} {given}");
        }
        assert!(value("date", json!("x")).unwrap_err().contains("2026-01-31"));
    }

    #[test]
    fn missing_and_unknown_values_are_told_with_their_path() {
        let params = parse(&json!({ "a": { "type": "integer" }, "b": { "type": "text", "default": "x" } })).unwrap();
        let Value::Object(given) = json!({ "c": 1 }) else { unreachable!() };
        let errors = bind(&params, &given).unwrap_err();
        let paths: Vec<String> = errors.iter().map(|error| error.path.join(".")).collect();
        assert_eq!(paths, ["params.c", "params.a"]);
        for (wrong, path) in [
            (json!({ "1a": { "type": "text" } }), "params.1a"),
            (json!({ "a b": { "type": "text" } }), "params.a b"),
            (json!({ "a": "text" }), "params.a"),
            (json!({ "a": {} }), "params.a.type"),
            (json!({ "a": { "type": "money" } }), "params.a.type"),
            (json!({ "a": { "type": "text", "size": 1 } }), "params.a.size"),
            (json!({ "a": { "type": "date", "default": "x" } }), "params.a.default"),
            (json!([]), "params"),
        ] {
            assert_eq!(parse(&wrong).unwrap_err()[0].path.join("."), path, "{wrong}");
        }
    }
}

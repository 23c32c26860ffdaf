//! Whether a record is what its source promises: a JSON Schema (2020-12) and rules for single fields.
//!
//! Numbers are judged by their digits, never as floats: a whole number of 20 digits is compared as it is written, `0.3`
//! is a multiple of `0.1`. Patterns run in linear time, a schema that would never end is refused when it is compiled, and
//! one that takes too many steps for a record is a violation of that record.
//!
//! [`Validation`] is made once per source config, a [`Judge`] once per read.

mod evaluate;
mod pattern;
mod rules;
mod schema;
pub(crate) mod value;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::field_error::{FieldError, Words};
use crate::say;
use crate::source::words;

use rules::UniqueValues;
pub use rules::{Rule, Rules, TooManyValues};
use schema::Schema;
use value::Json;

words! {
    /// What happens to a record that breaks the schema or a rule of its source.
    Policy {
        /// It goes to quarantine.
        Quarantine = "quarantine",
        /// Its whole page is refused, and the task fails.
        RejectBatch = "reject_batch",
        /// It is stored, with warnings in its metadata.
        Warn = "warn",
    }
}

/// What records of a source must be.
#[derive(Debug)]
pub struct Validation {
    schema: Option<Schema>,
    rules: Rules,
    /// What happens to a record that is not.
    pub policy: Policy,
}

impl Validation {
    /// From the JSON text of a schema, if there is one, and rules.
    ///
    /// # Errors
    /// Everything that is wrong with the schema, each fault at its place in the schema.
    pub fn new(schema: Option<&str>, rules: Rules, policy: Policy) -> Result<Self, Vec<FieldError>> {
        Ok(Self { schema: schema.map(Schema::compile).transpose()?, rules, policy })
    }
}

/// One way in which a record is not what its source promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer of the value (RFC 6901); empty for the record itself.
    pub pointer: String,
    /// The keyword of the schema, or the word of the rule.
    pub keyword: &'static str,
    /// What is wrong, for people.
    pub problem: Words,
    /// Whether a rule was broken; else the schema.
    pub is_rule: bool,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().english)
    }
}

impl Violation {
    /// What it says, in both languages.
    #[must_use]
    pub fn words(&self) -> Words {
        let Words { english, japanese } = &self.problem;
        let (what, in_japanese) = if self.is_rule { ("rule", "規則") } else { ("schema", "スキーマ") };
        let (place, place_in_japanese) = match self.pointer.as_str() {
            "" => ("the record", "レコード"),
            pointer => (pointer, pointer),
        };
        let keyword = self.keyword;
        say!(
            "{place}: {english} ({what}, `{keyword}`)",
            "{place_in_japanese}: {japanese} ({in_japanese}の `{keyword}`)"
        )
    }
}

/// Judges the records of one read, in their order.
#[derive(Debug)]
pub struct Judge {
    validation: Arc<Validation>,
    policy: Policy,
    /// None: each record is judged by itself.
    unique: Option<UniqueValues>,
}

impl Judge {
    /// A judge that has seen nothing. `repeats_count`: a record that comes twice in one read is two facts (as under
    /// `dedupe: rows`); otherwise it does not clash with itself over a unique value.
    #[must_use]
    pub fn new(validation: Arc<Validation>, repeats_count: bool) -> Self {
        Self { policy: validation.policy, validation, unique: Some(UniqueValues::new(repeats_count)) }
    }

    /// The same judge of records that are not those of one read: the rules `unique` hold for one read, and are left out.
    #[must_use]
    pub fn of_single_records(self) -> Self {
        Self { unique: None, ..self }
    }

    /// The same judge with another policy.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// What happens to a record that is not what its source promises.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// What is wrong with a record, given as its canonical text and the hash of that: nothing when it is valid.
    ///
    /// # Errors
    /// [`TooManyValues`] when the rules `unique` have to remember more values than memory is meant for.
    pub fn judge(&mut self, canonical: &str, hash: &[u8; 32]) -> Result<Vec<Violation>, TooManyValues> {
        let validation = Arc::clone(&self.validation);
        let record = Json::parse(canonical);
        let mut found = match &validation.schema {
            Some(schema) => evaluate::violations(schema, &record),
            None => Vec::new(),
        };
        validation.rules.violations(&record, hash, self.unique.as_mut(), &mut found)?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonicaliser;

    fn told(schema: &str, record: &str) -> Vec<String> {
        let validation = Validation::new(Some(schema), Rules::default(), Policy::Quarantine).unwrap();
        let mut judge = Judge::new(Arc::new(validation), true);
        let mut canonicaliser = Canonicaliser::default();
        let canonical = canonicaliser.canonicalise(record.as_bytes()).unwrap();
        judge.judge(canonical.text, &canonical.hash).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_violation_names_place_value_and_keyword() {
        let schema = r#"{"type":"object","required":["id","items"],"additionalProperties":false,
            "properties":{"id":{"type":"integer"},"items":{"items":{"properties":{"n/m":{"minimum":1}}}}}}"#;
        assert_eq!(
            told(schema, r#"{"id":"7","x":1,"items":[{"n/m":1},{"n/m":0.5}]}"#),
            [
                "/id: is of type string, not integer (schema, `type`)",
                "/items/1/n~1m: 0.5 is less than 1 (schema, `minimum`)",
                "/x: 1 is not allowed here (schema, `additionalProperties`)",
            ]
        );
        assert_eq!(told(schema, r#"{"id":1}"#), ["the record: `items` is missing (schema, `required`)"]);
    }

    #[test]
    fn numbers_are_judged_by_their_digits() {
        let schema = r#"{"properties":{"n":{"maximum":12345678901234567890,"multipleOf":0.1}}}"#;
        assert_eq!(told(schema, r#"{"n":12345678901234567890}"#).len(), 0);
        assert_eq!(told(schema, r#"{"n":12345678901234567891}"#).len(), 1);
        assert_eq!(told(schema, r#"{"n":12345678901234567889.95}"#).len(), 1);
        assert_eq!(told(schema, r#"{"n":0.3}"#).len(), 0);
        let schema = r#"{"properties":{"n":{"const":0.1000000000000000000001},"t":{"type":"integer"}}}"#;
        assert_eq!(told(schema, r#"{"n":0.1}"#).len(), 1);
        assert_eq!(told(schema, r#"{"n":0.10000000000000000000010,"t":1e30}"#).len(), 0);
        assert_eq!(told(schema, r#"{"t":9007199254740993.5}"#).len(), 1);
    }

    #[test]
    fn a_broken_schema_is_told_at_its_places() {
        let schema = r##"{"$schema":"http://json-schema.org/draft-07/schema#","requird":["a"],"$ref":"other.json",
            "properties":{"a":{"type":"text","minimum":"1"},"b":{"pattern":"(?=x)","minLength":-1},"c":[],
            "d":{"$id":"x","items":{"$ref":"#/$defs/none"}},"e":{"$dynamicRef":"#x"}}}"##;
        let errors = Validation::new(Some(schema), Rules::default(), Policy::Warn).unwrap_err();
        let mut places: Vec<String> = errors.iter().map(|error| error.path.join(".")).collect();
        places.sort();
        assert_eq!(
            places,
            [
                "$ref",
                "$schema",
                "properties.a.minimum",
                "properties.a.type",
                "properties.b.minLength",
                "properties.b.pattern",
                "properties.c",
                "properties.d.$id",
                "properties.d.items.$ref",
                "properties.e.$dynamicRef",
                "requird",
            ]
        );
        let requird = errors.iter().find(|error| error.path == ["requird"]).unwrap();
        assert!(requird.message.english.contains("Did you mean `required`?"), "{requird}");
        assert!(errors.iter().all(|error| error.message.japanese != error.message.english));
        for no_schema in ["[]", "{", "1"] {
            assert!(Validation::new(Some(no_schema), Rules::default(), Policy::Warn).is_err(), "{no_schema}");
        }
    }

    #[test]
    fn a_schema_that_would_never_end_is_refused_and_a_recursive_one_is_not() {
        for circle in [
            r##"{"$ref":"#"}"##,
            r##"{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"}]},"b":{"not":{"$ref":"#/$defs/a"}}},"$ref":"#/$defs/a"}"##,
        ] {
            let errors = Validation::new(Some(circle), Rules::default(), Policy::Warn).unwrap_err();
            assert!(errors[0].message.english.contains("refers to itself"), "{errors:?}");
        }
        let tree = r##"{"properties":{"v":{"type":"integer"},"next":{"$ref":"#"}}}"##;
        assert_eq!(told(tree, r#"{"v":1,"next":{"next":{"v":"x"}}}"#).len(), 1);
    }

    #[test]
    fn a_schema_that_fans_out_gives_up_on_the_record_in_time() {
        let schema = r##"{"$defs":{"a":{"anyOf":[
            {"allOf":[{"properties":{"x":{"$ref":"#/$defs/a"}}},{"required":["z"]}]},
            {"allOf":[{"properties":{"x":{"$ref":"#/$defs/a"}}},{"required":["y"]}]}]}},"$ref":"#/$defs/a"}"##;
        let nested = |levels| format!("{}1{}", "{\"x\":".repeat(levels), "}".repeat(levels));
        let told = told(schema, &nested(40));
        assert!(told.len() == 1 && told[0].contains("too many steps"), "{told:?}");
        let deep = r##"{"properties":{"x":{"allOf":[{"allOf":[{"$ref":"#"}]}]}}}"##;
        let told = self::told(deep, &nested(120));
        assert!(told.len() == 1 && told[0].contains("nested too deeply"), "{told:?}");
    }
}

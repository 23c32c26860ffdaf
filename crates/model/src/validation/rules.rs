//! Rules for single fields: the short way to say what most schemas are for.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::Violation;
use super::evaluate::unmatched;
use super::pattern::Pattern;
use super::schema::pointer;
use super::value::{Json, compare};
use crate::canonical::{NumberError, canonical_number};
use crate::field_error::Words;
use crate::say;

/// Values that the rules `unique` of one read remember at most, all fields together: about 50 MB.
const MAX_VALUES: usize = 1_000_000;

/// What one field must be.
///
/// A field that is missing or null satisfies everything but `required`.
#[derive(Debug)]
pub struct Rule {
    path: Vec<String>,
    required: bool,
    unique: bool,
    min: Option<String>,
    max: Option<String>,
    pattern: Option<Pattern>,
}

impl Rule {
    /// A rule for the field `field`: a name, or a JSON pointer (`/address/zip`), that asks for nothing yet.
    #[must_use]
    pub fn new(field: &str) -> Self {
        let path = match field.strip_prefix('/') {
            Some(steps) => steps.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect(),
            None => vec![field.to_owned()],
        };
        Self { path, required: false, unique: false, min: None, max: None, pattern: None }
    }

    /// It must be there and not be null.
    #[must_use]
    pub fn required(mut self, yes: bool) -> Self {
        self.required = yes;
        self
    }

    /// No other record of the same read has its value.
    #[must_use]
    pub fn unique(mut self, yes: bool) -> Self {
        self.unique = yes;
        self
    }

    /// It is a number, not below `digits`, a JSON number.
    ///
    /// # Errors
    /// When `digits` is no number.
    pub fn min(mut self, digits: &str) -> Result<Self, Words> {
        self.min = Some(number(digits)?);
        Ok(self)
    }

    /// It is a number, not above `digits`, a JSON number.
    ///
    /// # Errors
    /// When `digits` is no number, or below the minimum.
    pub fn max(mut self, digits: &str) -> Result<Self, Words> {
        let max = number(digits)?;
        if let Some(min) = &self.min
            && compare(&max, min).is_lt()
        {
            return Err(Words::too_small(min));
        }
        self.max = Some(max);
        Ok(self)
    }

    /// It is a string in which `pattern` is found.
    ///
    /// # Errors
    /// When `pattern` is no pattern, or one that could not run in linear time.
    pub fn pattern(mut self, pattern: &str) -> Result<Self, Words> {
        self.pattern = Some(Pattern::compile(pattern)?);
        Ok(self)
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.required && !self.unique && self.min.is_none() && self.max.is_none() && self.pattern.is_none()
    }
}

fn number(digits: &str) -> Result<String, Words> {
    canonical_number(digits, 1_000)
        .map_err(|_: NumberError| Words::new("A valid number is required.", "有効な数値を入力してください。"))
}

/// The rules of a source.
#[derive(Debug, Default)]
pub struct Rules(pub Vec<Rule>);

/// The rules `unique` met more different values than they may remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub struct TooManyValues;

impl TooManyValues {
    /// What it says, in both languages.
    #[must_use]
    pub fn words(self) -> Words {
        say!(
            "the rules `unique` met more than {MAX_VALUES} values in one read, the most they remember; drop the rule, or \
             read the source in parts",
            "規則 `unique` が一度の読み取りで覚えられる {MAX_VALUES} 個より多くの値に出会いました。規則を外すか、\
             データソースを分けて読んでください"
        )
    }
}

/// What a read has seen of the fields that must be unique.
#[derive(Debug)]
pub(super) struct UniqueValues {
    repeats_count: bool,
    /// Value, and the record that had it first; both by hash.
    seen: HashMap<[u8; 16], [u8; 16]>,
    most: usize,
}

impl UniqueValues {
    pub(super) fn new(repeats_count: bool) -> Self {
        Self { repeats_count, seen: HashMap::new(), most: MAX_VALUES }
    }

    /// Whether another record had the value before.
    fn has(&mut self, rule: usize, value: &Json<'_>, record: [u8; 16]) -> Result<bool, TooManyValues> {
        let mut text = rule.to_be_bytes().to_vec();
        value.write(&mut text);
        let hash = *Sha256::digest(&text).first_chunk().expect("16 is less than 32");
        if let Some(first) = self.seen.get(&hash) {
            return Ok(self.repeats_count || *first != record);
        }
        if self.seen.len() >= self.most {
            return Err(TooManyValues);
        }
        self.seen.insert(hash, record);
        Ok(false)
    }
}

impl Rules {
    pub(super) fn violations(
        &self,
        record: &Json<'_>,
        hash: &[u8; 32],
        mut unique: Option<&mut UniqueValues>,
        found: &mut Vec<Violation>,
    ) -> Result<(), TooManyValues> {
        for (n, rule) in self.0.iter().enumerate() {
            let value = rule.path.iter().try_fold(record, |value, step| value.step(step));
            let mut fail = |keyword, problem: Words| {
                found.push(Violation { pointer: pointer(&rule.path), keyword, problem, is_rule: true });
            };
            let value = match value {
                None if rule.required => {
                    fail("required", ("is missing", "がありません").into());
                    continue;
                }
                Some(Json::Null) if rule.required => {
                    fail("required", ("is null", "が null です").into());
                    continue;
                }
                None | Some(Json::Null) => continue,
                Some(value) => value,
            };
            let bounds =
                [("min", &rule.min, ("less", "より小さい値です")), ("max", &rule.max, ("greater", "より大きい値です"))];
            for (keyword, limit, (relation, in_japanese)) in bounds {
                let Some(limit) = limit else { continue };
                match value {
                    Json::Number(digits) => {
                        let order = compare(digits, limit);
                        if if keyword == "min" { order.is_lt() } else { order.is_gt() } {
                            let told = say!("{digits} is {relation} than {limit}", "{digits} は {limit} {in_japanese}");
                            fail(keyword, told);
                        }
                    }
                    Json::String(_) => {
                        let value = value.shown();
                        fail(keyword, say!("{value} is a string, not a number", "{value} は数値ではなく文字列です"));
                    }
                    other => {
                        let kind = other.kind();
                        fail(keyword, say!("is of type {kind}, not a number", "型が {kind} で、数値ではありません"));
                    }
                }
            }
            match (&rule.pattern, value) {
                (None, _) => {}
                (Some(pattern), Json::String(text)) if pattern.is_match(text) => {}
                (Some(_), Json::String(_)) => fail("pattern", unmatched(value)),
                (Some(_), other) => {
                    let kind = other.kind();
                    fail("pattern", say!("is of type {kind}, not a string", "型が {kind} で、文字列ではありません"));
                }
            }
            let record = *hash.first_chunk().expect("16 is less than 32");
            if let Some(unique) = unique.as_mut().filter(|_| rule.unique)
                && unique.has(n, value, record)?
            {
                let value = value.shown();
                let told = say!(
                    "{value} was in an earlier record of this read",
                    "{value} はこの読み取りの前のレコードにもありました"
                );
                fail("unique", told);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonicaliser;

    fn told(rules: &Rules, unique: &mut UniqueValues, record: &str) -> Vec<(String, &'static str)> {
        let mut canonicaliser = Canonicaliser::default();
        let canonical = canonicaliser.canonicalise(record.as_bytes()).unwrap();
        let mut found = Vec::new();
        rules.violations(&Json::parse(canonical.text), &canonical.hash, Some(unique), &mut found).unwrap();
        found.into_iter().map(|violation| (violation.pointer, violation.keyword)).collect()
    }

    #[test]
    fn rules_say_what_is_broken_and_null_breaks_required_alone() {
        let rules = Rules(vec![
            Rule::new("id").required(true),
            Rule::new("age").min("0").unwrap().max("1.5e2").unwrap(),
            Rule::new("/address/zip").pattern("^[0-9]{3}$").unwrap(),
        ]);
        let mut unique = UniqueValues::new(true);
        let mut told = |record: &str| told(&rules, &mut unique, record);
        assert_eq!(told(r#"{"id":1,"age":150,"address":{"zip":"123"}}"#), []);
        assert_eq!(told(r#"{"id":0,"age":null,"address":{}}"#), []);
        assert_eq!(told(r#"{"id":null}"#), [("/id".to_owned(), "required")]);
        assert_eq!(
            told(r#"{"age":150.00000000000000000001,"address":{"zip":"1234"}}"#),
            [("/id".to_owned(), "required"), ("/age".to_owned(), "max"), ("/address/zip".to_owned(), "pattern")]
        );
        assert_eq!(told(r#"{"id":1,"age":"7","address":{"zip":123}}"#).len(), 3);
        assert!(Rule::new("x").min("1").unwrap().max("0").is_err());
        assert!(Rule::new("x").min("one").is_err());
        assert!(Rule::new("x").pattern("(").is_err());
    }

    #[test]
    fn a_value_is_unique_among_the_records_of_a_read() {
        let rules = Rules(vec![Rule::new("id").unique(true), Rule::new("code").unique(true)]);
        for repeats_count in [true, false] {
            let mut unique = UniqueValues::new(repeats_count);
            let mut told = |record: &str| told(&rules, &mut unique, record);
            assert_eq!(told(r#"{"id":1,"code":"1"}"#), []);
            assert_eq!(told(r#"{"id":"1","code":1}"#), []);
            assert_eq!(told(r#"{"id":1.0,"code":"x"}"#), [("/id".to_owned(), "unique")]);
            assert_eq!(told(r#"{"id":null}"#), []);
            assert_eq!(told(r#"{}"#), []);
            let again = told(r#"{"code":"1","id":1}"#);
            assert_eq!(again.len(), if repeats_count { 2 } else { 0 });
        }
    }

    #[test]
    fn memory_for_unique_values_has_an_end() {
        let rules = Rules(vec![Rule::new("id").unique(true)]);
        let mut unique = UniqueValues { most: 2, ..UniqueValues::new(true) };
        for (n, expected) in [(1, Ok(())), (2, Ok(())), (1, Ok(())), (3, Err(TooManyValues))] {
            let text = format!("{{\"id\":{n}}}");
            let mut found = Vec::new();
            let judged = rules.violations(&Json::parse(&text), &[n; 32], Some(&mut unique), &mut found);
            assert_eq!(judged, expected, "{n}");
        }
    }
}

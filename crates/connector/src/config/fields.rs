//! Takes a JSON object apart field by field and keeps every error at its path.
//!
//! serde stops at the first error, and loses the path inside of tagged enums; a form needs all errors at their fields.

use std::collections::BTreeMap;

use matome_model::field_error::{self, Words};
use matome_model::schedule::ScheduleOptions;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{FieldError, kind_of};

/// An object whose fields are taken one by one; what nobody took is an unknown option.
pub(crate) struct Fields {
    path: Vec<String>,
    left: BTreeMap<String, Box<RawValue>>,
    known: Vec<String>,
    errors: Vec<FieldError>,
}

impl Fields {
    /// Starts with the text of a whole config.
    pub(crate) fn parse(config: &str) -> Result<Self, Vec<FieldError>> {
        let fail = |message| vec![FieldError { path: Vec::new(), message }];
        let raw: &RawValue = serde_json::from_str(config).map_err(|error| fail(not_valid(&error)))?;
        Self::of(raw, Vec::new()).map_err(|error| vec![error])
    }

    fn of(raw: &RawValue, path: Vec<String>) -> Result<Self, FieldError> {
        match serde_json::from_str(raw.get()) {
            Ok(left) => Ok(Self { path, left, known: Vec::new(), errors: Vec::new() }),
            Err(_) => {
                let message = match raw.get() {
                    "null" => Words::null(),
                    _ => Words::no_object(kind_of(raw)),
                };
                Err(FieldError { path, message })
            }
        }
    }

    /// An object of a list; its errors are told from the object on.
    pub(crate) fn item(raw: &RawValue) -> Result<Self, FieldError> {
        Self::of(raw, Vec::new())
    }

    /// Does not name an option to whoever asks for one that is not known, although it is taken.
    pub(crate) fn unlist(&mut self, name: &str) {
        self.known.retain(|known| known != name);
    }

    /// Whether nothing is left to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Notes what is wrong with the field `name`.
    pub(crate) fn fail(&mut self, name: &str, message: Words) {
        let mut path = self.path.clone();
        path.push(name.to_owned());
        self.errors.push(FieldError { path, message });
    }

    /// Notes faults found beneath this object.
    pub(crate) fn fail_all(&mut self, errors: impl Iterator<Item = FieldError>) {
        let path = &self.path;
        self.errors.extend(errors.map(|error| FieldError { path: [path.as_slice(), &error.path].concat(), ..error }));
    }

    /// Notes what is wrong with the object itself.
    pub(crate) fn fail_here(&mut self, message: Words) {
        self.errors.push(FieldError { path: self.path.clone(), message });
    }

    /// The names that are not taken yet.
    pub(crate) fn names(&self) -> Vec<String> {
        self.left.keys().cloned().collect()
    }

    /// Notes what is wrong with `key` in the object `name`.
    pub(crate) fn fail_inside(&mut self, name: &str, key: &str, message: Words) {
        let mut path = self.path.clone();
        path.extend([name.to_owned(), key.to_owned()]);
        self.errors.push(FieldError { path, message });
    }

    /// Notes that `name` is missing.
    pub(crate) fn require(&mut self, name: &str) {
        self.fail(name, Words::required());
    }

    /// Whether `name` is there and not taken yet.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// The field as it came.
    pub(crate) fn raw(&mut self, name: &str) -> Option<Box<RawValue>> {
        self.known.push(name.to_owned());
        self.left.remove(name)
    }

    /// The field as a value; null is an error.
    pub(crate) fn value(&mut self, name: &str) -> Option<Value> {
        let raw = self.raw(name)?;
        match serde_json::from_str(raw.get()) {
            Ok(Value::Null) => self.fail(name, Words::null()),
            Ok(value) => return Some(value),
            Err(error) => self.fail(name, not_valid(&error)),
        }
        None
    }

    /// A string that is not blank.
    pub(crate) fn string(&mut self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::String(text) if text.trim().is_empty() => self.fail(name, Words::blank()),
            Value::String(text) => return Some(text),
            _ => self.fail(name, Words::no_string()),
        }
        None
    }

    /// A string that must be there.
    pub(crate) fn required_string(&mut self, name: &str) -> Option<String> {
        if !self.has(name) {
            self.known.push(name.to_owned());
            self.require(name);
            return None;
        }
        self.string(name)
    }

    /// A string that must be there but may be empty.
    pub(crate) fn required_text(&mut self, name: &str) -> Option<String> {
        if !self.has(name) {
            return self.required_string(name);
        }
        match self.value(name)? {
            Value::String(text) => Some(text),
            _ => {
                self.fail(name, Words::no_string());
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(crate) fn integer(&mut self, name: &str, least: u64, most: u64) -> Option<u64> {
        let value = self.value(name)?;
        match (value.as_u64(), &value) {
            (Some(number), _) if number > most => {
                self.fail(name, Words::too_large(most));
            }
            (Some(number), _) if number >= least => return Some(number),
            (None, Value::Number(number)) if number.is_f64() => self.fail(name, Words::no_integer()),
            (_, Value::Number(_)) => {
                self.fail(name, Words::too_small(least));
            }
            _ => self.fail(name, Words::no_integer()),
        }
        None
    }

    /// One of several words.
    pub(crate) fn choice<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let value = self.value(name)?;
        let word = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if let Some((_, choice)) = words.iter().find(|(known, _)| value.is_string() && *known == word) {
            return Some(*choice);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.fail(name, Words::no_choice(&word, &known));
        None
    }

    /// A string or a number, as text; a number as it is written.
    pub(crate) fn scalar(&mut self, name: &str) -> Option<String> {
        let raw = self.raw(name)?;
        match raw.get().as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => return Some(raw.get().to_owned()),
            Some(b'n') => self.fail(name, Words::null()),
            Some(b'"') => match serde_json::from_str::<String>(raw.get()) {
                Ok(text) if text.trim().is_empty() => self.fail(name, Words::blank()),
                Ok(text) => return Some(text),
                Err(error) => self.fail(name, not_valid(&error)),
            },
            _ => self.fail(name, Words::no_string()),
        }
        None
    }

    /// The objects of an array, at most 100; give each back with [`Fields::absorb`].
    pub(crate) fn list(&mut self, name: &str) -> Vec<Fields> {
        let Some(raw) = self.raw(name) else { return Vec::new() };
        let items: Vec<Box<RawValue>> = match serde_json::from_str(raw.get()) {
            Ok(items) => items,
            Err(_) => {
                let words = Words::new("Expected a list of objects.", "オブジェクトの配列を指定してください。");
                self.fail(name, words);
                return Vec::new();
            }
        };
        if items.len() > 100 {
            let words = Words::new("At most 100 are possible.", "100個までです。");
            self.fail(name, words);
            return Vec::new();
        }
        let mut list = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let mut path = self.path.clone();
            path.extend([name.to_owned(), at.to_string()]);
            match Self::of(item, path) {
                Ok(fields) => list.push(fields),
                Err(error) => self.errors.push(error),
            }
        }
        list
    }

    /// A string that parses into something whose error says what is wrong.
    pub(crate) fn parsed<T: std::str::FromStr<Err: Into<Words>>>(&mut self, name: &str) -> Option<T> {
        let text = self.string(name)?;
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.fail(name, error.into());
                None
            }
        }
    }

    /// An object of names and scalars, as text, in the order of the names.
    pub(crate) fn texts(&mut self, name: &str) -> Vec<(String, String)> {
        let mut texts = Vec::new();
        let Some(value) = self.value(name) else { return texts };
        let Value::Object(entries) = value else {
            self.fail(name, Words::no_object(field_error::kind_of(&value)));
            return texts;
        };
        for (key, value) in entries {
            match value {
                Value::String(text) => texts.push((key, text)),
                Value::Number(_) | Value::Bool(_) => texts.push((key, value.to_string())),
                _ => self.fail_inside(name, &key, Words::no_string()),
            }
        }
        texts
    }

    /// The options of `schedule`.
    pub(crate) fn schedule(&mut self) -> ScheduleOptions {
        let Some(value) = self.value("schedule") else { return ScheduleOptions::default() };
        ScheduleOptions::parse(&value).unwrap_or_else(|errors| {
            self.errors.extend(errors);
            ScheduleOptions::default()
        })
    }

    /// An object inside; give it back with [`Fields::absorb`].
    pub(crate) fn nested(&mut self, name: &str) -> Option<Fields> {
        let raw = self.raw(name)?;
        let mut path = self.path.clone();
        path.push(name.to_owned());
        match Self::of(&raw, path) {
            Ok(fields) => Some(fields),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    /// Takes over the errors of an object inside.
    pub(crate) fn absorb(&mut self, nested: Fields) {
        if let Err(errors) = nested.finish() {
            self.errors.extend(errors);
        }
    }

    /// Forgets what is left: after an error that makes the rest meaningless.
    pub(crate) fn forget_rest(&mut self) {
        self.left.clear();
    }

    /// Ends with every error, among them one for each field that nobody took.
    pub(crate) fn finish(mut self) -> Result<(), Vec<FieldError>> {
        for name in std::mem::take(&mut self.left).into_keys() {
            let known = std::mem::take(&mut self.known);
            let closest = known.iter().map(|known| (strsim::damerau_levenshtein(known, &name), known)).min();
            let nearest = closest.filter(|(distance, _)| *distance <= 2).map(|(_, known)| known.as_str());
            let names: Vec<&str> = known.iter().map(String::as_str).collect();
            self.fail(&name, Words::unknown_option(nearest, &names));
            self.known = known;
        }
        if self.errors.is_empty() { Ok(()) } else { Err(self.errors) }
    }
}

fn not_valid(error: &serde_json::Error) -> Words {
    Words::new(format!("Not valid here: {error}."), format!("ここでは使えない値です: {error}"))
}

//! Reading the JSON body of a request field by field, as Django REST framework's serializers do.

use std::collections::BTreeMap;

use http::{HeaderMap, header};
use matome_model::canonical::{Canonicaliser, Limits};
use serde_json::value::RawValue;

use crate::error::{ApiError, FieldErrors, Result};
use crate::message::Message;

/// Bytes that a body may have.
pub const BODY_LIMIT: usize = 4 << 20;

/// The top-level fields of a body, values as they are written.
#[derive(Debug, Default)]
pub struct Body(BTreeMap<String, Box<RawValue>>);

impl Body {
    /// Reads a JSON object; no body at all is an empty object.
    ///
    /// # Errors
    /// 415 for another media type, 400 for what is no JSON object.
    pub fn parse(headers: &HeaderMap, bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = given.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::UnsupportedMediaType(given.to_owned()));
        }
        let bad = |what: String| ApiError::BadRequest(Message::BadJson { what });
        let raw: &RawValue = serde_json::from_slice(bytes).map_err(|err| bad(err.to_string()))?;
        if !raw.get().starts_with('{') {
            return Err(ApiError::field("non_field_errors", Message::BodyNoObject { kind: kind_of(raw) }));
        }
        serde_json::from_str(raw.get()).map(Self).map_err(|err| bad(err.to_string()))
    }
}

/// What a body says about one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given<T> {
    /// Nothing.
    Absent,
    /// `null`, where that means something.
    Null,
    /// A value.
    Value(T),
}

impl<T> Given<T> {
    /// The value, or what is there already.
    pub fn or(self, current: T) -> T {
        match self {
            Self::Value(value) => value,
            Self::Absent | Self::Null => current,
        }
    }

    /// As [`Given::or`], where null is a value.
    pub fn or_nullable(self, current: Option<T>) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Null => None,
            Self::Absent => current,
        }
    }
}

/// Takes fields from a body and collects what is wrong with them.
#[derive(Debug)]
pub struct Fields<'b> {
    body: &'b Body,
    /// PATCH: nothing is required.
    partial: bool,
    /// What is wrong so far.
    pub errors: FieldErrors,
}

impl<'b> Fields<'b> {
    /// Reads `body`; with `partial` no field is required.
    pub fn new(body: &'b Body, partial: bool) -> Self {
        Self { body, partial, errors: FieldErrors::default() }
    }

    fn fail<T>(&mut self, name: &str, message: Message) -> Given<T> {
        self.errors.add(&[name], message);
        Given::Absent
    }

    /// The raw value; null is an error unless `nullable`.
    fn raw(&mut self, name: &str, required: bool, nullable: bool) -> Given<&'b RawValue> {
        match self.body.0.get(name) {
            None if required && !self.partial => self.fail(name, Message::Required),
            None => Given::Absent,
            Some(raw) if raw.get() == "null" => {
                if nullable {
                    Given::Null
                } else {
                    self.fail(name, Message::MayNotBeNull)
                }
            }
            Some(raw) => Given::Value(raw),
        }
    }

    /// Text of at least one character that is no space, at most `limit` characters.
    pub fn name(&mut self, name: &str, limit: usize) -> Given<String> {
        match self.raw(name, true, false) {
            Given::Value(raw) => match self.string(name, raw) {
                Some(text) if text.is_empty() => self.fail(name, Message::MayNotBeBlank),
                Some(text) if text.chars().count() > limit => self.fail(name, Message::TooLong { characters: limit }),
                Some(text) => Given::Value(text),
                None => Given::Absent,
            },
            Given::Null | Given::Absent => Given::Absent,
        }
    }

    /// Any text, or null.
    pub fn text_or_null(&mut self, name: &str) -> Given<String> {
        match self.raw(name, false, true) {
            Given::Value(raw) => self.string(name, raw).map_or(Given::Absent, Given::Value),
            Given::Null => Given::Null,
            Given::Absent => Given::Absent,
        }
    }

    fn string(&mut self, name: &str, raw: &RawValue) -> Option<String> {
        let text = match raw.get().as_bytes().first() {
            Some(b'"') => serde_json::from_str::<String>(raw.get()).ok(),
            // As DRF: a number is taken as its digits.
            Some(b'-' | b'0'..=b'9') => Some(raw.get().to_owned()),
            _ => None,
        };
        let Some(text) = text else {
            self.errors.add(&[name], Message::NoString);
            return None;
        };
        if text.contains('\0') {
            self.errors.add(&[name], Message::NulCharacter);
            return None;
        }
        Some(text.trim().to_owned())
    }

    /// Any text exactly as it is.
    pub fn verbatim(&mut self, name: &str) -> Given<String> {
        match self.raw(name, false, false) {
            Given::Value(raw) => match serde_json::from_str(raw.get()) {
                Ok(text) => Given::Value(text),
                Err(_) => self.fail(name, Message::NoString),
            },
            Given::Null | Given::Absent => Given::Absent,
        }
    }

    /// A list of ids, one to `most` of them.
    pub fn ids(&mut self, name: &str, most: usize) -> Given<Vec<i64>> {
        match self.raw(name, false, false) {
            Given::Value(raw) => match serde_json::from_str::<Vec<i64>>(raw.get()) {
                Ok(ids) if !ids.is_empty() && ids.len() <= most && ids.iter().all(|id| *id > 0) => Given::Value(ids),
                _ => self.fail(name, Message::NoIds { most }),
            },
            Given::Null | Given::Absent => Given::Absent,
        }
    }

    /// One of some words.
    pub fn choice<T>(&mut self, name: &str, required: bool, parse: fn(&str) -> Option<T>) -> Given<T> {
        match self.raw(name, required, false) {
            Given::Value(raw) => {
                let word = serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned());
                match parse(&word) {
                    Some(value) => Given::Value(value),
                    None => self.fail(name, Message::NoChoice { given: word }),
                }
            }
            Given::Null | Given::Absent => Given::Absent,
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, name: &str) -> Given<bool> {
        match self.raw(name, false, false) {
            Given::Value(raw) => match raw.get() {
                "true" => Given::Value(true),
                "false" => Given::Value(false),
                _ => self.fail(name, Message::NoBoolean),
            },
            Given::Null | Given::Absent => Given::Absent,
        }
    }

    /// A whole number between 0 and `most`; text of digits is taken, as DRF does.
    pub fn integer(&mut self, name: &str, most: i64) -> Given<i64> {
        self.whole_number(name, most, false)
    }

    /// The same, or null.
    pub fn integer_or_null(&mut self, name: &str, most: i64) -> Given<i64> {
        self.whole_number(name, most, true)
    }

    fn whole_number(&mut self, name: &str, most: i64, nullable: bool) -> Given<i64> {
        match self.raw(name, false, nullable) {
            Given::Value(raw) => {
                let text = match raw.get().as_bytes().first() {
                    Some(b'"') => serde_json::from_str::<String>(raw.get()).unwrap_or_default(),
                    _ => raw.get().to_owned(),
                };
                let text = text.trim();
                let whole = text.split_once('.').map_or(text, |(whole, fraction)| {
                    if !fraction.is_empty() && fraction.bytes().all(|b| b == b'0') { whole } else { "" }
                });
                let digits = whole.strip_prefix('-').unwrap_or(whole);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return self.fail(name, Message::NoInteger);
                }
                if whole.starts_with('-') && digits.bytes().any(|b| b != b'0') {
                    return self.fail(name, Message::TooSmall { least: 0 });
                }
                match digits.parse::<i64>() {
                    Ok(value) if value <= most => Given::Value(value),
                    _ => self.fail(name, Message::TooLarge { most }),
                }
            }
            Given::Null => Given::Null,
            Given::Absent => Given::Absent,
        }
    }

    /// A JSON object in canonical form, by exact value.
    pub fn object(&mut self, name: &str) -> Given<Box<RawValue>> {
        match self.raw(name, false, false) {
            Given::Value(raw) => {
                if !raw.get().starts_with('{') {
                    return self.fail(name, Message::NoObject { kind: kind_of(raw) });
                }
                let limits = Limits { record_bytes: 2 * BODY_LIMIT, keys: usize::MAX, ..Limits::default() };
                match Canonicaliser::new(limits).canonicalise(raw.get().as_bytes()) {
                    Ok(canonical) => Given::Value(
                        RawValue::from_string(canonical.text.to_owned()).expect("the canonical form is JSON"),
                    ),
                    Err(rejected) => self.fail(name, Message::BadConfig { what: rejected.to_string() }),
                }
            }
            Given::Null | Given::Absent => Given::Absent,
        }
    }
}

/// Python's word for a type of JSON, as DRF's messages have it.
fn kind_of(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'{') => "dict",
        Some(b'[') => "list",
        Some(b'"') => "str",
        Some(b't' | b'f') => "bool",
        Some(b'n') => "NoneType",
        _ if value.get().contains(['.', 'e', 'E']) => "float",
        _ => "int",
    }
}

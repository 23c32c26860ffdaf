//! Which columns a set of JSON records has, and of which type: the narrowest one that keeps every value.
//!
//! | all values that are not null are | column |
//! |---|---|
//! | booleans | boolean |
//! | numbers, whole, within 64 bits signed | integer |
//! | numbers otherwise, at most 76 digits for the longest whole and the longest fraction part together | decimal of exactly that precision and scale |
//! | strings | text |
//! | arrays | list of what their items are together |
//! | objects | struct of the fields that any of them has |
//! | anything else, or kinds mixed | text: strings as they are, numbers in canonical form, the rest as canonical JSON |
//! | none at all | text |
//!
//! Nothing is rounded: numbers are read as text, never as floats. So `0.1` makes an exact decimal, and only numbers too long
//! for one become text. A column that is an object without any field, one with more than [`MAX_FIELDS`] fields (a map with
//! data as keys), or one deeper than [`MAX_DEPTH`] is text too. Fields are sorted by name, so the order of records and of
//! their keys does not matter.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::canonical::{NumberError, canonical_number};

/// Fields of a nested object beyond which its column is text.
pub const MAX_FIELDS: usize = 256;

/// Columns of a table; more are an error.
pub const MAX_COLUMNS: usize = 2_000;

/// Objects and arrays within each other, beyond which the inner ones are text.
pub const MAX_DEPTH: usize = 16;

/// Digits of a decimal column.
pub const MAX_DECIMAL_DIGITS: u8 = 76;

/// The type of a column. Every column may be null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// `true` or `false`.
    Boolean,
    /// 64 bits, signed.
    Integer,
    /// An exact decimal.
    Decimal {
        /// Digits in all, 1 to 76.
        precision: u8,
        /// Digits of the fraction, at most `precision`.
        scale: u8,
    },
    /// UTF-8.
    Text,
    /// An array.
    List(Box<ColumnType>),
    /// An object, its fields sorted by name.
    Struct(Vec<(String, ColumnType)>),
}

/// Records that cannot be a table.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// Not one JSON object.
    #[error("a record is not a JSON object")]
    Json(#[source] serde_json::Error),
    /// A number that the canonical form does not allow.
    #[error("a number of a record cannot be read: {0:?}")]
    Number(NumberError),
    /// More than [`MAX_COLUMNS`] fields in the records together.
    #[error("the records have more than {MAX_COLUMNS} different fields")]
    TooManyColumns,
}

/// The columns of the records seen so far.
///
/// ```
/// use matome_model::inference::{ColumnType, Inference};
/// let mut inference = Inference::default();
/// inference.record(r#"{"n": 1}"#)?;
/// inference.record(r#"{"n": 2.50}"#)?;
/// assert_eq!(inference.columns(), [("n".to_owned(), ColumnType::Decimal { precision: 2, scale: 1 })]);
/// # Ok::<(), matome_model::inference::InferenceError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Inference {
    fields: BTreeMap<String, Seen>,
}

impl Inference {
    /// Takes one record into account.
    ///
    /// # Errors
    /// When it is not one JSON object, or the table would have too many columns.
    pub fn record(&mut self, json: &str) -> Result<(), InferenceError> {
        for_each_field(json, |key, value| {
            if let Some(seen) = self.fields.get_mut(key.as_ref()) {
                return seen.value(value, 1);
            }
            if self.fields.len() == MAX_COLUMNS {
                return Err(InferenceError::TooManyColumns);
            }
            self.fields.entry(key.into_owned()).or_default().value(value, 1)
        })
    }

    /// Takes into account what another one has seen: the columns are those of all records together.
    ///
    /// # Errors
    /// When the table would have too many columns.
    pub fn merge(&mut self, other: Self) -> Result<(), InferenceError> {
        for (name, seen) in other.fields {
            if self.fields.len() == MAX_COLUMNS && !self.fields.contains_key(&name) {
                return Err(InferenceError::TooManyColumns);
            }
            self.fields.entry(name).or_default().merge(seen);
        }
        Ok(())
    }

    /// The columns, sorted by name.
    #[must_use]
    pub fn columns(&self) -> Vec<(String, ColumnType)> {
        self.fields.iter().map(|(name, seen)| (name.clone(), seen.column())).collect()
    }
}

/// What the values of one column were.
#[derive(Clone, Debug, Default)]
struct Seen {
    boolean: bool,
    text: bool,
    number: Option<Digits>,
    list: Option<Box<Seen>>,
    object: Option<BTreeMap<String, Seen>>,
    /// Mixed for good; the rest is no longer looked at.
    widened: bool,
}

#[derive(Clone, Copy, Debug)]
struct Digits {
    fits_i64: bool,
    whole: u32,
    fraction: u32,
}

impl Seen {
    fn value(&mut self, json: &str, depth: usize) -> Result<(), InferenceError> {
        if self.widened {
            return Ok(());
        }
        match json.as_bytes().first() {
            None | Some(b'n') => return Ok(()),
            Some(b't' | b'f') => self.boolean = true,
            Some(b'"') => self.text = true,
            Some(b'[') if depth < MAX_DEPTH => {
                let items = self.list.get_or_insert_default();
                for_each_item(json, |item| items.value(item, depth + 1))?;
            }
            Some(b'{') if depth < MAX_DEPTH => self.fields(json, depth)?,
            Some(b'[' | b'{') => self.widened = true,
            Some(_) => self.number(json)?,
        }
        self.settle();
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        self.widened |= other.widened;
        self.boolean |= other.boolean;
        self.text |= other.text;
        if let Some(digits) = other.number {
            self.number = Some(self.number.map_or(digits, |own| own.widest(digits)));
        }
        if let Some(items) = other.list {
            self.list.get_or_insert_default().merge(*items);
        }
        if let Some(others) = other.object {
            let fields = self.object.get_or_insert_default();
            for (name, seen) in others {
                fields.entry(name).or_default().merge(seen);
            }
            self.widened |= fields.len() > MAX_FIELDS;
        }
        self.settle();
    }

    /// Kinds that are mixed are text, of which nothing more has to be known.
    fn settle(&mut self) {
        let kinds = usize::from(self.boolean)
            + usize::from(self.text)
            + usize::from(self.number.is_some())
            + usize::from(self.list.is_some())
            + usize::from(self.object.is_some());
        if kinds > 1 {
            self.widened = true;
        }
        if self.widened {
            self.list = None;
            self.object = None;
        }
    }

    fn fields(&mut self, json: &str, depth: usize) -> Result<(), InferenceError> {
        let fields = self.object.get_or_insert_default();
        for_each_field(json, |key, value| {
            if let Some(seen) = fields.get_mut(key.as_ref()) {
                return seen.value(value, depth + 1);
            }
            if fields.len() == MAX_FIELDS {
                self.widened = true;
                return Ok(());
            }
            fields.entry(key.into_owned()).or_default().value(value, depth + 1)
        })
    }

    fn number(&mut self, json: &str) -> Result<(), InferenceError> {
        let digits = Digits::of(json)?;
        self.number = Some(self.number.map_or(digits, |before| before.widest(digits)));
        Ok(())
    }

    fn column(&self) -> ColumnType {
        if self.widened {
            return ColumnType::Text;
        }
        if self.boolean {
            return ColumnType::Boolean;
        }
        if let Some(digits) = self.number {
            return digits.column();
        }
        if let Some(items) = &self.list {
            return ColumnType::List(Box::new(items.column()));
        }
        match &self.object {
            Some(fields) if !fields.is_empty() => {
                ColumnType::Struct(fields.iter().map(|(name, seen)| (name.clone(), seen.column())).collect())
            }
            _ => ColumnType::Text,
        }
    }
}

impl Digits {
    fn of(json: &str) -> Result<Self, InferenceError> {
        if let Ok(whole) = json.parse::<i64>() {
            let digits = whole.unsigned_abs().checked_ilog10().map_or(1, |log| log + 1);
            return Ok(Self { fits_i64: true, whole: digits, fraction: 0 });
        }
        let text = canonical_number(json, usize::MAX).map_err(InferenceError::Number)?;
        let digits = text.strip_prefix('-').unwrap_or(&text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let whole = if whole == "0" && !fraction.is_empty() { "" } else { whole };
        let count = |part: &str| u32::try_from(part.len()).unwrap_or(u32::MAX);
        Ok(Self { fits_i64: text.parse::<i64>().is_ok(), whole: count(whole), fraction: count(fraction) })
    }

    /// What holds the numbers of both.
    fn widest(self, other: Self) -> Self {
        Self {
            fits_i64: self.fits_i64 && other.fits_i64,
            whole: self.whole.max(other.whole),
            fraction: self.fraction.max(other.fraction),
        }
    }

    fn column(self) -> ColumnType {
        if self.fits_i64 {
            return ColumnType::Integer;
        }
        let narrow = |digits: u32| u8::try_from(digits).ok().filter(|digits| *digits <= MAX_DECIMAL_DIGITS);
        match (narrow(self.whole.saturating_add(self.fraction)), narrow(self.fraction)) {
            (Some(precision), Some(scale)) => ColumnType::Decimal { precision, scale },
            _ => ColumnType::Text,
        }
    }
}

/// Calls `each` with every key of the object `json` and the JSON text of its value, in their order.
///
/// # Errors
/// When `json` is not one object, or the first that `each` returns.
pub fn for_each_field<E: From<InferenceError>>(
    json: &str,
    each: impl FnMut(Cow<'_, str>, &str) -> Result<(), E>,
) -> Result<(), E> {
    struct Fields<F>(F);
    impl<'de, E, F: FnMut(Cow<'_, str>, &str) -> Result<(), E>> Visitor<'de> for Fields<F> {
        type Value = Result<(), E>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut outcome = Ok(());
            while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
                let value: &'de RawValue = map.next_value()?;
                if outcome.is_ok() {
                    outcome = (self.0)(key, value.get());
                }
            }
            Ok(outcome)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let outcome = deserializer.deserialize_map(Fields(each)).map_err(InferenceError::Json)?;
    deserializer.end().map_err(InferenceError::Json)?;
    outcome
}

/// Calls `each` with the JSON text of every item of the array `json`, in their order.
///
/// # Errors
/// When `json` is not one array, or the first that `each` returns.
pub fn for_each_item<E: From<InferenceError>>(json: &str, each: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
    struct Items<F>(F);
    impl<'de, E, F: FnMut(&str) -> Result<(), E>> Visitor<'de> for Items<F> {
        type Value = Result<(), E>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut outcome = Ok(());
            while let Some(item) = seq.next_element::<&'de RawValue>()? {
                if outcome.is_ok() {
                    outcome = (self.0)(item.get());
                }
            }
            Ok(outcome)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_seq(Items(each)).map_err(InferenceError::Json)?
}

/// A key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: &[&str]) -> ColumnType {
        let mut inference = Inference::default();
        for value in values {
            inference.record(&format!("{{\"x\": {value}}}")).unwrap();
        }
        inference.columns().remove(0).1
    }

    fn decimal(precision: u8, scale: u8) -> ColumnType {
        ColumnType::Decimal { precision, scale }
    }

    #[test]
    fn numbers_widen_from_integer_to_decimal_to_text() {
        assert_eq!(column(&["1", "-9223372036854775808", "9223372036854775807"]), ColumnType::Integer);
        assert_eq!(column(&["9223372036854775808"]), decimal(19, 0));
        assert_eq!(column(&["123", "0.005"]), decimal(6, 3));
        assert_eq!(column(&["1.0", "2e3"]), ColumnType::Integer);
        assert_eq!(column(&["0.1"]), decimal(1, 1));
        assert_eq!(column(&["1e37", "0.01"]), decimal(40, 2));
        assert_eq!(column(&["1e70", "1e-10"]), ColumnType::Text);
    }

    #[test]
    fn kinds_mixed_are_text() {
        for mixed in [["1", "\"a\""], ["true", "0"], ["{\"a\":1}", "1"], ["[1]", "{\"a\":1}"], ["[1]", "\"\""]] {
            assert_eq!(column(&mixed), ColumnType::Text, "{mixed:?}");
        }
    }

    #[test]
    fn null_decides_nothing() {
        assert_eq!(column(&["null"]), ColumnType::Text);
        assert_eq!(column(&["null", "3", "null"]), ColumnType::Integer);
        assert_eq!(column(&["[]"]), ColumnType::List(Box::new(ColumnType::Text)));
        assert_eq!(column(&["{}"]), ColumnType::Text);
    }

    #[test]
    fn nested_values_merge_field_by_field() {
        let merged = column(&[r#"{"b": [1, null], "a": "x"}"#, r#"{"c": true, "b": [2.5]}"#]);
        let fields = vec![
            ("a".to_owned(), ColumnType::Text),
            ("b".to_owned(), ColumnType::List(Box::new(decimal(2, 1)))),
            ("c".to_owned(), ColumnType::Boolean),
        ];
        assert_eq!(merged, ColumnType::Struct(fields));
    }

    #[test]
    fn too_deep_and_too_wide_are_text() {
        let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
        let mut column_type = column(&[&deep]);
        let mut levels = 0;
        while let ColumnType::List(item) = column_type {
            column_type = *item;
            levels += 1;
        }
        assert_eq!((column_type, levels), (ColumnType::Text, MAX_DEPTH - 1));

        let wide: Vec<String> = (0..=MAX_FIELDS).map(|i| format!("\"k{i}\":1")).collect();
        assert_eq!(column(&[&format!("{{{}}}", wide.join(","))]), ColumnType::Text);
    }

    #[test]
    fn columns_past_the_limit_are_an_error() {
        let fields = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"k{i}\":1")).collect::<Vec<_>>().join(","));
        assert!(Inference::default().record(&fields(MAX_COLUMNS)).is_ok());
        assert!(matches!(Inference::default().record(&fields(MAX_COLUMNS + 1)), Err(InferenceError::TooManyColumns)));
    }

    #[test]
    fn parts_that_are_merged_have_the_columns_of_the_whole() {
        let wide = |from: usize| {
            let fields: Vec<String> = (from..from + MAX_FIELDS / 2 + 1).map(|i| format!("\"k{i}\":1")).collect();
            format!(r#"{{"wide":{{{}}}}}"#, fields.join(","))
        };
        let records = [
            r#"{"n":1,"o":{"a":1,"l":[1]},"m":1,"t":"x","late":null}"#,
            r#"{"n":0.25,"o":{"a":2.5,"l":[null,"x"]},"m":"x","b":true}"#,
            r#"{"n":123456789012345678901234567890,"o":{"b":[]},"m":[1],"late":false}"#,
            r#"{"n":null,"o":null,"t":null}"#,
            r"{}",
            &wide(0),
            &wide(MAX_FIELDS / 2),
        ];
        let seen = |records: &[&str]| {
            let mut inference = Inference::default();
            records.iter().for_each(|record| inference.record(record).unwrap());
            inference
        };
        for cut in 0..=records.len() {
            let mut merged = seen(&records[..cut]);
            merged.merge(seen(&records[cut..])).unwrap();
            assert_eq!(merged.columns(), seen(&records).columns(), "{cut}");
        }
        let many = |from: usize| {
            let fields: Vec<String> = (from..from + MAX_COLUMNS).map(|i| format!("\"k{i}\":1")).collect();
            seen(&[&format!("{{{}}}", fields.join(","))])
        };
        assert!(many(0).merge(many(0)).is_ok());
        assert!(matches!(many(0).merge(many(1)), Err(InferenceError::TooManyColumns)));
    }

    #[test]
    fn escaped_key_is_one_column_with_its_plain_form() {
        let mut inference = Inference::default();
        inference.record(r#"{"\u0061": 1}"#).unwrap();
        inference.record(r#"{"a": 2}"#).unwrap();
        assert_eq!(inference.columns(), [("a".to_owned(), ColumnType::Integer)]);
    }
}

//! The key of a record: the values at one or more field paths, and the identity that they make.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::canonical::write_string;
use crate::field_error::Words;
use crate::say;

/// Paths that one key may have.
pub const MAX_PATHS: usize = 16;

/// Names from the record to one value: `id`, `address.code`, or `$.id` as paths into a document are written. A dot that belongs to a
/// name is written `\.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath {
    text: String,
    /// Each name as the canonical form writes it, without its quotes.
    names: Vec<Vec<u8>>,
}

/// A text that is no [`FieldPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldPathError {
    /// Two dots in a row, or one at an end.
    #[error("a name is empty")]
    EmptyName,
    /// No record has a NUL in a key.
    #[error("a name has the character NUL")]
    Nul,
}

impl FromStr for FieldPath {
    type Err = FieldPathError;

    fn from_str(text: &str) -> Result<Self, FieldPathError> {
        let mut names = vec![String::new()];
        let mut chars = text.strip_prefix("$.").unwrap_or(text).chars().peekable();
        while let Some(next) = chars.next() {
            match (next, chars.peek()) {
                ('\0', _) => return Err(FieldPathError::Nul),
                ('\\', Some(&escaped @ ('.' | '\\'))) => {
                    chars.next();
                    names.last_mut().expect("there is a first name").push(escaped);
                }
                ('.', _) => names.push(String::new()),
                (other, _) => names.last_mut().expect("there is a first name").push(other),
            }
        }
        if names.iter().any(String::is_empty) {
            return Err(FieldPathError::EmptyName);
        }
        let canonical = |name: String| {
            let mut quoted = Vec::with_capacity(name.len() + 2);
            write_string(&mut quoted, &name);
            quoted[1..quoted.len() - 1].to_vec()
        };
        Ok(Self { text: text.to_owned(), names: names.into_iter().map(canonical).collect() })
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FieldPath {
    /// The text of the value there in a canonical record; `None` when there is none.
    #[must_use]
    pub fn value_in<'a>(&self, record: &'a str) -> Option<&'a str> {
        let bytes = record.as_bytes();
        let mut from = 0;
        for name in &self.names {
            from = member(bytes, from, name)?;
        }
        Some(&record[from..value_end(bytes, from)])
    }
}

/// What tells the records of a source apart: the values at some paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordKey {
    paths: Vec<FieldPath>,
}

/// A record whose key cannot tell it apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub struct KeyError {
    /// The path.
    pub path: String,
    /// `missing`, `null`, `an object`, `an array`.
    pub found: &'static str,
}

impl KeyError {
    /// What it says, in both languages.
    #[must_use]
    pub fn words(&self) -> Words {
        let Self { path, found } = self;
        let in_japanese = match *found {
            "missing" => "がありません",
            "null" => "が null です",
            "an array" => "が配列です",
            _ => "がオブジェクトです",
        };
        say!("the key `{path}` is {found}", "キー `{path}` {in_japanese}")
    }
}

impl RecordKey {
    /// A key of these paths, in this order.
    #[must_use]
    pub fn new(paths: Vec<FieldPath>) -> Self {
        Self { paths }
    }

    /// The identity of a record, given its canonical text: the first 16 bytes of the SHA-256 of the array of its key
    /// values in canonical form. So `1` and `1.0` are the same key, and `"1"` is another.
    ///
    /// # Errors
    /// When a value is missing, null, an object or an array.
    pub fn identity(&self, record: &str) -> Result<[u8; 16], KeyError> {
        let mut hash = Sha256::new();
        for (n, path) in self.paths.iter().enumerate() {
            let value = path.value_in(record).unwrap_or_default();
            let found = match value.as_bytes().first() {
                None => "missing",
                Some(b'n') => "null",
                Some(b'{') => "an object",
                Some(b'[') => "an array",
                Some(_) => {
                    hash.update(if n == 0 { "[" } else { "," });
                    hash.update(value);
                    continue;
                }
            };
            return Err(KeyError { path: path.to_string(), found });
        }
        hash.update("]");
        Ok(*hash.finalize().first_chunk().expect("16 is less than 32"))
    }
}

/// Where the value of member `name` of the object at `from` starts. Canonical text has no spaces and writes each
/// name in one way, so names are compared byte by byte.
fn member(record: &[u8], from: usize, name: &[u8]) -> Option<usize> {
    if record.get(from) != Some(&b'{') {
        return None;
    }
    let mut at = from + 1;
    while record.get(at) == Some(&b'"') {
        let key_end = value_end(record, at);
        let value = key_end + 1;
        if &record[at + 1..key_end - 1] == name {
            return Some(value);
        }
        at = value_end(record, value) + 1;
    }
    None
}

/// Behind the value that starts at `from`.
fn value_end(record: &[u8], from: usize) -> usize {
    let mut at = from;
    let mut depth = 0_usize;
    while let Some(&byte) = record.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while record.get(at).is_some_and(|&byte| byte != b'"') {
                    at += if record[at] == b'\\' { 2 } else { 1 };
                }
                if depth == 0 {
                    return at + 1;
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonicaliser;

    fn key(paths: &[&str]) -> RecordKey {
        RecordKey::new(paths.iter().map(|path| path.parse().unwrap()).collect())
    }

    fn identity(paths: &[&str], record: &str) -> Result<[u8; 16], KeyError> {
        let mut canonicaliser = Canonicaliser::default();
        key(paths).identity(canonicaliser.canonicalise(record.as_bytes()).unwrap().text)
    }

    #[test]
    fn values_are_found_whatever_stands_around_them() {
        let record = r#"{"a":{"b":[1,{"id":"no"}],"id":"x,}\"]"},"id":-12.5,"z":"\\","日本":true}"#;
        for (path, value) in [
            ("id", Some("-12.5")),
            ("a.id", Some(r#""x,}\"]""#)),
            ("a.b", Some(r#"[1,{"id":"no"}]"#)),
            ("z", Some(r#""\\""#)),
            ("日本", Some("true")),
            ("b", None),
            ("id.id", None),
            ("a.b.id", None),
        ] {
            assert_eq!(path.parse::<FieldPath>().unwrap().value_in(record), value, "{path}");
        }
    }

    #[test]
    fn names_with_dots_and_escapes_are_written_with_a_backslash() {
        let record = r#"{"a.b":1,"a\"b\n":2,"a\\b":3}"#;
        for (path, value) in [(r"a\.b", "1"), ("a\"b\n", "2"), (r"a\\b", "3"), (r"a\b", "3")] {
            assert_eq!(path.parse::<FieldPath>().unwrap().value_in(record), Some(value), "{path}");
        }
        for path in ["", ".", "a.", ".a", "a..b"] {
            assert_eq!(path.parse::<FieldPath>(), Err(FieldPathError::EmptyName), "{path}");
        }
    }

    #[test]
    fn keys_are_equal_by_value_and_type() {
        let of = |value: &str| identity(&["k"], &format!(r#"{{"k":{value}}}"#)).unwrap();
        for same in ["1", "1.0", "1e0", "10e-1", "1.000"] {
            assert_eq!(of(same), of("1"), "{same}");
        }
        assert_eq!(of("-0"), of("0"));
        assert_eq!(of(r#""\u0061""#), of(r#""a""#));
        let different =
            ["1", "\"1\"", "\"1.0\"", "true", "\"true\"", "false", "0", "\"\"", "\" 1\"", "\"é\"", "\"e\u{301}\""];
        for (n, one) in different.iter().enumerate() {
            for other in &different[n + 1..] {
                assert_ne!(of(one), of(other), "{one} {other}");
            }
        }
    }

    #[test]
    fn values_of_several_paths_do_not_run_together() {
        let of = |record: &str| identity(&["a", "b.c"], record).unwrap();
        assert_eq!(of(r#"{"a":1,"b":{"c":2},"x":1}"#), of(r#"{"b":{"c":2.0},"a":1}"#));
        assert_ne!(of(r#"{"a":"1\",\"2","b":{"c":"3"}}"#), of(r#"{"a":"1","b":{"c":"2\",\"3"}}"#));
        assert_ne!(of(r#"{"a":1,"b":{"c":2}}"#), of(r#"{"a":2,"b":{"c":1}}"#));
    }

    #[test]
    fn a_path_may_begin_at_the_record_as_those_into_a_document_do() {
        let record = r#"{"$":{"id":2},"id":1}"#;
        assert_eq!(identity(&["$.id"], record), identity(&["id"], record));
        assert_eq!(identity(&["$.$.id"], record), identity(&["id"], r#"{"id":2}"#));
        assert_eq!("$.".parse::<FieldPath>(), Err(FieldPathError::EmptyName));
    }

    #[test]
    fn what_tells_nothing_apart_is_no_key() {
        for (record, found) in [
            ("{}", "missing"),
            (r#"{"k":null}"#, "null"),
            (r#"{"k":{"a":1}}"#, "an object"),
            (r#"{"k":[]}"#, "an array"),
        ] {
            assert_eq!(identity(&["k"], record), Err(KeyError { path: "k".to_owned(), found }), "{record}");
        }
        let err = identity(&["k", "a.b"], r#"{"k":1,"a":"b"}"#).unwrap_err();
        assert_eq!(err.to_string(), "the key `a.b` is missing");
    }
}

//! The identity of a result row under an aggregation's `key`.

use std::collections::HashMap;

use matome_model::field_error::Words;
use matome_store::aggregated_data::KEY_HASH_CHARS;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// The columns that say which row is which.
#[derive(Debug)]
pub(crate) struct Key {
    columns: Vec<String>,
}

/// A row whose identity cannot be said, or is not its own.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// The result has no such column.
    #[error("the result has no column `{column}`, which `key` names; it has: {found}")]
    NoColumn {
        /// As `key` has it.
        column: String,
        /// What there is.
        found: String,
    },
    /// A column of the key is null.
    #[error(
        "row {row} of the result has no value in `{column}`, which belongs to `key`: leave such rows out with \
        `where {column} is not null`, or give a value with `coalesce`"
    )]
    NoValue {
        /// Counted from 1.
        row: u64,
        /// The column.
        column: String,
    },
    /// Two rows of one result have the same key.
    #[error(
        "two rows of the result have the key {key}: group by the columns of `key`, or add one that tells them apart"
    )]
    Twice {
        /// Columns with their values.
        key: String,
    },
}

impl KeyError {
    /// What it says, in both languages.
    pub(crate) fn words(&self) -> Words {
        let japanese = match self {
            Self::NoColumn { column, found } => {
                format!("`key` が示す列 `{column}` が結果にありません。あるのは {found} です")
            }
            Self::NoValue { row, column } => format!(
                "結果の {row} 行目の `{column}` に値がありませんが、この列は `key` の一部です。`where {column} is not null` で\
                 そのような行を除くか、`coalesce` で値を与えてください"
            ),
            Self::Twice { key } => format!(
                "結果の二つの行が同じキー {key} を持っています。`key` の列でグループ化するか、行を見分ける列を加えてください"
            ),
        };
        Words::new(self.to_string(), japanese)
    }
}

impl Key {
    pub(crate) fn new(columns: &[String]) -> Self {
        Self { columns: columns.to_vec() }
    }

    /// How the key is stored with an aggregation: a JSON array of names.
    pub(crate) fn stored(&self) -> String {
        serde_json::to_string(&self.columns).expect("names are JSON")
    }

    /// Checks that a result with these columns has the key's.
    pub(crate) fn check(&self, columns: &[(String, String)]) -> Result<(), KeyError> {
        match self.columns.iter().find(|wanted| !columns.iter().any(|(name, _)| name == *wanted)) {
            None => Ok(()),
            Some(missing) => {
                let found: Vec<String> = columns.iter().map(|(name, _)| format!("`{name}`")).collect();
                Err(KeyError::NoColumn { column: missing.clone(), found: found.join(", ") })
            }
        }
    }

    /// The hash of each row's key, in their order; `before` rows of the result came earlier.
    ///
    /// `rows` are canonical texts of JSON objects, so equal values are equal texts.
    pub(crate) fn hashes(&self, rows: &[String], before: u64) -> Result<Vec<String>, KeyError> {
        let mut seen = HashMap::with_capacity(rows.len());
        let mut hashes = Vec::with_capacity(rows.len());
        for (n, row) in rows.iter().enumerate() {
            let values = self.values(row, before + n as u64 + 1)?;
            let hash = hash(&values);
            if seen.insert(hash.clone(), ()).is_some() {
                return Err(self.twice(&values));
            }
            hashes.push(hash);
        }
        Ok(hashes)
    }

    /// The error for the row that has `hash`, whose key was met before.
    pub(crate) fn met_before(&self, rows: &[String], hashes: &[String], met: &str) -> Option<KeyError> {
        let at = hashes.iter().position(|hash| hash == met)?;
        Some(self.twice(&self.values(rows.get(at)?, 0).ok()?))
    }

    fn values<'r>(&self, row: &'r str, number: u64) -> Result<Vec<&'r str>, KeyError> {
        let object: HashMap<std::borrow::Cow<'r, str>, &'r RawValue> =
            serde_json::from_str(row).expect("canonical rows are JSON objects");
        let value = |column: &String| match object.get(column.as_str()).map(|value| value.get()) {
            None | Some("null") => Err(KeyError::NoValue { row: number, column: column.clone() }),
            Some(value) => Ok(value),
        };
        self.columns.iter().map(value).collect()
    }

    fn twice(&self, values: &[&str]) -> KeyError {
        let pairs: Vec<String> =
            self.columns.iter().zip(values).map(|(column, value)| format!("{column} = {}", cut(value))).collect();
        KeyError::Twice { key: format!("({})", pairs.join(", ")) }
    }
}

fn hash(values: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for value in values {
        hasher.update(value.as_bytes());
        // No canonical value holds a line feed, so no two lists of values look alike.
        hasher.update(b"\n");
    }
    let digest: [u8; 32] = hasher.finalize().into();
    let mut text = String::with_capacity(KEY_HASH_CHARS);
    for byte in &digest[..KEY_HASH_CHARS / 2] {
        text.push(char::from_digit(u32::from(byte >> 4), 16).expect("four bits are a digit"));
        text.push(char::from_digit(u32::from(byte & 15), 16).expect("four bits are a digit"));
    }
    text
}

/// A value as an error quotes it.
fn cut(value: &str) -> String {
    const CHARS: usize = 100;
    match value.char_indices().nth(CHARS) {
        None => value.to_owned(),
        Some((end, _)) => format!("{}…", &value[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(columns: &[&str]) -> Key {
        Key::new(&columns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    fn rows(rows: &[&str]) -> Vec<String> {
        rows.iter().map(|row| (*row).to_owned()).collect()
    }

    #[test]
    fn equal_values_of_all_columns_are_one_key() {
        let hashes =
            key(&["a", "b"]).hashes(&rows(&[r#"{"a":1,"b":"x","n":1}"#, r#"{"a":1,"b":"y","n":2}"#]), 0).unwrap();
        assert_eq!(hashes.iter().map(String::len).collect::<Vec<_>>(), [KEY_HASH_CHARS, KEY_HASH_CHARS]);
        assert_ne!(hashes[0], hashes[1]);
        let again = key(&["a", "b"]).hashes(&rows(&[r#"{"a":1,"b":"y","n":9}"#]), 0).unwrap();
        assert_eq!(again[0], hashes[1]);
        // A number is not the text of it, and values do not run into each other.
        let alike =
            key(&["a", "b"]).hashes(&rows(&[r#"{"a":"1","b":"x"}"#, r#"{"a":12,"b":3}"#, r#"{"a":1,"b":23}"#]), 0);
        assert_eq!(alike.unwrap().len(), 3);
    }

    #[test]
    fn key_that_stands_twice_is_named() {
        let twice = rows(&[r#"{"a":1,"b":"x"}"#, r#"{"a":2,"b":"x"}"#, r#"{"a":1,"b":"x"}"#]);
        let err = key(&["a", "b"]).hashes(&twice, 0).unwrap_err();
        assert_eq!(err, KeyError::Twice { key: "(a = 1, b = \"x\")".to_owned() });
        let of_b = key(&["b"]);
        let hashes = of_b.hashes(&twice[..1], 0).unwrap();
        assert!(of_b.met_before(&twice, &hashes, &hashes[0]).unwrap().to_string().contains("(b = \"x\")"));
    }

    #[test]
    fn key_without_a_value_names_row_and_column() {
        for row in [r#"{"a":null}"#, r#"{"b":1}"#] {
            let err = key(&["a"]).hashes(&rows(&[row]), 7).unwrap_err();
            assert_eq!(err, KeyError::NoValue { row: 8, column: "a".to_owned() });
        }
        assert!(
            key(&["a"]).check(&[("b".to_owned(), "Int64".to_owned())]).unwrap_err().to_string().contains("it has: `b`")
        );
    }
}

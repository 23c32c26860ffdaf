//! The options of CSV, and the types of columns.

use std::collections::HashMap;

use matome_model::field_error::Words;
use serde_json::Value;

use crate::config::Fields;

/// Where the names of CSV columns come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// The first row.
    FirstRow,
    /// There are none: `column_1`, `column_2`, ...
    Numbered,
    /// The config.
    Named(Vec<String>),
}

/// What the text of a CSV field becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// A string, as it is.
    String,
    /// A JSON number without fraction; empty is null.
    Integer,
    /// A JSON number; empty is null.
    Number,
    /// `true` or `false` (any case) as a JSON boolean; empty is null.
    Boolean,
    /// JSON text of any kind; empty is null.
    Json,
}

/// The types of all columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnTypes {
    /// These, and strings for the others.
    Declared(HashMap<String, ColumnType>),
    /// Each field on its own: numbers and booleans that would be written back exactly so; everything else a string.
    Infer,
}

/// The options of CSV.
#[derive(Clone, Debug)]
pub struct CsvConfig {
    /// `delimiter`: one ASCII character; default `,` (a tab for `.tsv`).
    pub delimiter: u8,
    /// `quote`: whether a field may stand in double quotes (default); if not, they are text.
    pub quote: bool,
    /// `header`: true (default), false, or a list of names.
    pub header: Header,
    /// `header_row`: the line with the names, or with the first row, from 1; lines above it are passed over.
    pub header_row: u64,
    /// `comment`: lines that begin with it are passed over; default: none are.
    pub comment: Option<u8>,
    /// `types`: an object of column names and types, or `"infer"`; default: all strings.
    pub types: ColumnTypes,
}

impl CsvConfig {
    /// Takes its options. `delimiter`: the one that is meant when none is given.
    pub(super) fn parse(fields: &mut Fields, delimiter: u8) -> Self {
        let delimiter = sign(fields, "delimiter").unwrap_or(delimiter);
        let quote = super::flag(fields, "quote", true);
        let header = header(fields).unwrap_or(Header::FirstRow);
        let types = types(fields).unwrap_or_else(|| ColumnTypes::Declared(HashMap::new()));
        let header_row = fields.integer("header_row", 1, 1 << 20).unwrap_or(1);
        let comment = sign(fields, "comment");
        Self { delimiter, quote, header, header_row, comment, types }
    }
}

impl ColumnType {
    /// The words of a config.
    pub(crate) const WORDS: [(&'static str, Self); 5] = [
        ("string", Self::String),
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("json", Self::Json),
    ];
}

/// An option that is one character.
fn sign(fields: &mut Fields, name: &str) -> Option<u8> {
    // Not `string`: a tab or a space would count as blank.
    let value = fields.value(name)?;
    match value.as_str().map(str::as_bytes) {
        Some([byte]) if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n' | 0) => Some(*byte),
        _ => {
            fields.fail(
                name,
                Words::new(
                    "Give one ASCII character that is neither a quote nor a line break, for example \";\" or \"\\t\".",
                    "引用符でも改行でもない ASCII 文字を1つ指定してください。例: \";\" や \"\\t\"。",
                ),
            );
            None
        }
    }
}

fn header(fields: &mut Fields) -> Option<Header> {
    let value = fields.value("header")?;
    match value {
        Value::Bool(true) => return Some(Header::FirstRow),
        Value::Bool(false) => return Some(Header::Numbered),
        Value::Array(names) if names.len() > super::super::csv::COLUMN_LIMIT => {
            let most = super::super::csv::COLUMN_LIMIT;
            fields.fail(
                "header",
                Words::new(
                    format!("Ensure this list has at most {most} names."),
                    format!("名前は{most}個以下にしてください。"),
                ),
            );
        }
        Value::Array(names) if !names.is_empty() => {
            let texts: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
            match texts {
                Some(names) => match super::super::csv::repeated(&names) {
                    None if names.iter().all(|name| !name.is_empty()) => return Some(Header::Named(names)),
                    None => fields
                        .fail("header", Words::new("A name may not be blank.", "名前を空にすることはできません。")),
                    Some(name) => fields.fail(
                        "header",
                        Words::new(
                            format!("The name \"{name}\" is there twice."),
                            format!("名前 \"{name}\" が2回あります。"),
                        ),
                    ),
                },
                None => fields.fail("header", Words::new("The names must be strings.", "名前は文字列にしてください。")),
            }
        }
        _ => fields.fail(
            "header",
            Words::new("Give true, false or a list of names.", "true か false、または名前のリストを指定してください。"),
        ),
    }
    None
}

fn types(fields: &mut Fields) -> Option<ColumnTypes> {
    let value = fields.value("types")?;
    match value {
        Value::String(word) if word == "infer" => Some(ColumnTypes::Infer),
        Value::Object(entries) => {
            let mut types = HashMap::new();
            for (column, word) in entries {
                let known = ColumnType::WORDS.iter().find(|(known, _)| word.as_str() == Some(known));
                let known = match known {
                    Some((_, kind)) => *kind,
                    None => {
                        fields.fail(
                            "types",
                            Words::new(
                                format!("The type {word} of \"{column}\" is not a valid choice. Choices are `string`, `integer`, `number`, `boolean`, `json`."),
                                format!("\"{column}\" の型 {word} は有効な選択肢ではありません。選択肢: `string`, `integer`, `number`, `boolean`, `json`。"),
                            ),
                        );
                        continue;
                    }
                };
                types.insert(column, known);
            }
            Some(ColumnTypes::Declared(types))
        }
        _ => {
            fields.fail(
                "types",
                Words::new(
                    "Give an object of columns and types, or \"infer\".",
                    "列と型のオブジェクト、または \"infer\" を指定してください。",
                ),
            );
            None
        }
    }
}

//! The CSV reader against a second one, which has the whole text at once.

use matome_connector::Item;
use matome_model::canonical::QuarantineReason as Reason;
use serde_json::Value;

/// What must become of a row.
#[derive(Debug, PartialEq)]
enum Row {
    Values(Vec<String>),
    /// Its raw bytes.
    Rejected(Reason, Vec<u8>),
}

/// Each row is a record with its exact values, or is rejected with its exact bytes.
pub fn csv(bytes: &[u8]) {
    for (names, options) in [(&["a"][..], r#""header":["a"]"#), (&["a", "b"], r#""header":["a","b"]"#)] {
        let config = super::config(&format!(r#"{{"path":"a.csv",{options}}}"#));
        let found: Vec<Row> = super::items(&config, bytes).into_iter().map(|item| row(item, names)).collect();
        assert_eq!(found, rows(bytes, names.len()), "{} columns", names.len());
    }
}

fn row(item: Item, names: &[&str]) -> Row {
    match item {
        Item::Rejected { raw, reason, .. } => Row::Rejected(reason, raw),
        Item::Record { raw, .. } => {
            let object: Value = serde_json::from_slice(&raw).unwrap();
            assert_eq!(object.as_object().unwrap().len(), names.len());
            Row::Values(names.iter().map(|name| object[name].as_str().unwrap().to_owned()).collect())
        }
    }
}

/// The rows of a text, by RFC 4180: field by field, looking as far ahead as it takes.
fn rows(bytes: &[u8], columns: usize) -> Vec<Row> {
    let is_end = |byte: u8| byte == b'\n' || byte == b'\r';
    let mut rows = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let (mut fields, mut is_broken) = (Vec::new(), false);
        let end = loop {
            // A field, to the byte behind it.
            let mut field = Vec::new();
            if bytes.get(at) == Some(&b'"') {
                at += 1;
                loop {
                    match bytes.get(at) {
                        None => {
                            is_broken = true;
                            break;
                        }
                        Some(b'"') if bytes.get(at + 1) == Some(&b'"') => {
                            field.push(b'"');
                            at += 2;
                        }
                        Some(b'"') => {
                            at += 1;
                            break;
                        }
                        Some(byte) => {
                            field.push(*byte);
                            at += 1;
                        }
                    }
                }
                is_broken |= bytes.get(at).is_some_and(|byte| *byte != b',' && !is_end(*byte));
            } else {
                while let Some(byte) = bytes.get(at).filter(|byte| **byte != b',' && !is_end(**byte)) {
                    is_broken |= *byte == b'"';
                    field.push(*byte);
                    at += 1;
                    if is_broken {
                        break;
                    }
                }
            }
            fields.push(field);
            if is_broken {
                at = (at..bytes.len()).find(|at| is_end(bytes[*at])).unwrap_or(bytes.len());
            }
            match bytes.get(at) {
                Some(b',') => at += 1,
                _ => break at,
            }
        };
        // CR LF is one end.
        at = if bytes[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        let raw = &bytes[start..end];
        if raw.is_empty() && columns != 1 {
            continue;
        }
        let texts: Option<Vec<String>> = fields.iter().map(|field| String::from_utf8(field.clone()).ok()).collect();
        rows.push(match texts {
            _ if is_broken => Row::Rejected(Reason::CsvQuote, raw.to_vec()),
            _ if fields.len() != columns => Row::Rejected(Reason::CsvWidth, raw.to_vec()),
            None => Row::Rejected(Reason::InvalidUtf8, raw.to_vec()),
            Some(texts) => Row::Values(texts),
        });
    }
    rows
}

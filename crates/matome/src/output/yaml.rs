//! Rows as YAML 1.2: block style, numbers as they are written (a YAML library would take them through a float), texts in
//! JSON's quotes, which YAML shares.

use std::io::{self, Write};

use serde_json::value::RawValue;

use super::{Row, fields};

/// Writes a row as an item of a sequence.
pub fn write_item(out: &mut impl Write, row: &Row) -> io::Result<()> {
    write!(out, "- ")?;
    write_value(out, row, 1, true)
}

/// Writes a row as a document of its own.
pub fn write_document(out: &mut impl Write, row: &Row) -> io::Result<()> {
    write_value(out, row, 0, true)
}

/// `is_inline`: the first line of a block goes on behind what stands on the line already.
fn write_value(out: &mut impl Write, value: &RawValue, depth: usize, is_inline: bool) -> io::Result<()> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            let members = fields(text);
            if members.is_empty() {
                return writeln!(out, "{{}}");
            }
            for (n, (name, member)) in members.iter().enumerate() {
                indent(out, depth, n == 0 && is_inline)?;
                write!(out, "{}:", key(name))?;
                write_nested(out, member, depth)?;
            }
            Ok(())
        }
        Some(b'[') => {
            let items: Vec<Box<RawValue>> = serde_json::from_str(text).unwrap_or_default();
            if items.is_empty() {
                return writeln!(out, "[]");
            }
            for (n, item) in items.iter().enumerate() {
                indent(out, depth, n == 0 && is_inline)?;
                write!(out, "- ")?;
                write_value(out, item, depth + 1, true)?;
            }
            Ok(())
        }
        Some(b'"') => writeln!(out, "{}", quoted(&serde_json::from_str::<String>(text).unwrap_or_default())),
        _ => writeln!(out, "{text}"),
    }
}

/// A member's value: behind its name when it is one word, on lines of its own beneath it otherwise.
fn write_nested(out: &mut impl Write, value: &RawValue, depth: usize) -> io::Result<()> {
    let text = value.get();
    let is_block = text.starts_with(['{', '[']) && !matches!(compact(text).as_str(), "{}" | "[]");
    if is_block {
        writeln!(out)?;
        return write_value(out, value, depth + 1, false);
    }
    write!(out, " ")?;
    write_value(out, value, depth, true)
}

/// The first three characters that are no white space: enough to tell an empty object or list.
fn compact(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_whitespace()).take(3).collect()
}

fn indent(out: &mut impl Write, depth: usize, is_there: bool) -> io::Result<()> {
    if is_there { Ok(()) } else { write!(out, "{:width$}", "", width = depth * 2) }
}

/// A name that every reader of YAML takes for text stays as it is.
fn key(name: &str) -> String {
    let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&name.to_ascii_lowercase().as_str());
    if is_word { name.to_owned() } else { quoted(name) }
}

/// JSON's quotes; the line ends that only some readers of YAML know are escaped too.
fn quoted(text: &str) -> String {
    let json = serde_json::to_string(text).expect("text is JSON");
    let escape = |c: char| match c {
        '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    };
    json.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(json: &str) -> Row {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn a_reader_of_yaml_gets_what_the_json_says() {
        let json = r#"{"id":7,"name":"受注 \u2028 \ud83d\ude00: \"x\"","no":true,"empty":{},"none":[],"config":{"path":"a\tb","list":[1,[2,{"k":null}],{"a":{"b":-1.5}}]}}"#;
        let mut text = Vec::new();
        write_item(&mut text, &row(json)).unwrap();
        write_item(&mut text, &row("{\"a\":\"007\"}")).unwrap();
        let text = String::from_utf8(text).unwrap();
        let read: serde_json::Value = yaml_serde::from_str(&text).unwrap_or_else(|err| panic!("{err}\n{text}"));
        let expected: serde_json::Value = serde_json::from_str(&format!("[{json},{{\"a\":\"007\"}}]")).unwrap();
        assert_eq!(read, expected, "{text}");
    }

    #[test]
    fn numbers_keep_every_digit() {
        let mut text = Vec::new();
        write_document(&mut text, &row(r#"{"total":12345678901234567890.10,"m":[1e400]}"#)).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "total: 12345678901234567890.10\nm:\n  - 1e400\n");
    }
}

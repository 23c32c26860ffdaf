//! Which format bytes are.

use matome_model::field_error::Words;
use matome_model::say;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::config::Format;
use super::super::text::guess;
use super::head::Head;
use crate::probe::{closed, find};

/// Lines that are looked at.
const LINES: usize = 100;

/// What the beginning of a file says.
pub(super) enum Kind {
    /// It is of this format.
    Said(Format),
    /// It is text, and of no format that says so itself.
    Rows,
    /// It is nothing that is known.
    Unknown(Words),
}

/// The word of a config for a format.
pub(super) fn word(format: Format, delimiter: u8) -> &'static str {
    if format == Format::Csv && delimiter == b'\t' { "tsv" } else { format.as_str() }
}

/// What `head` says; `implied` is what its name does.
pub(super) fn look(head: &Head, encoding: Option<&str>, implied: Option<Format>) -> Kind {
    if head.is_workbook || head.bytes.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        return Kind::Said(Format::Excel);
    }
    if head.bytes.starts_with(b"PAR1") {
        return Kind::Said(Format::Parquet);
    }
    if head.bytes.starts_with(b"Obj\x01") {
        return Kind::Said(Format::Avro);
    }
    let declared = encoding.and_then(|label| encoding_rs::Encoding::for_label(label.as_bytes()));
    let (text, _, _) = declared.unwrap_or_else(|| guess(&head.bytes, head.is_whole).encoding).decode(&head.bytes);
    if text.trim().is_empty() {
        return match implied {
            Some(_) => Kind::Rows,
            None => Kind::Unknown(Words::new(
                "there is nothing in it that could tell its format; set `format`",
                "形式の手がかりになるものがありません。`format` を指定してください",
            )),
        };
    }
    if text.contains('\0') {
        return Kind::Unknown(Words::new(
            "it is no text, and no other format that is known; set `format` or name another file",
            "テキストでも、ほかの既知の形式でもありません。`format` を指定するか、別のファイルを指定してください",
        ));
    }
    of_text(&text, head.is_whole, implied)
}

fn of_text(text: &str, is_whole: bool, implied: Option<Format>) -> Kind {
    let text = text.trim_start();
    match text.as_bytes().first() {
        Some(b'{') if is_lines(text, is_whole, implied) => Kind::Said(Format::Ndjson),
        Some(b'{' | b'[') if is_json(text, is_whole) => Kind::Said(Format::Json),
        Some(b'<') if is_page(text) => Kind::Unknown(say!(
            "it is a page for people (HTML); name what the page shows",
            "人が読むためのページ (HTML) です。ページが示すデータを指定してください"
        )),
        Some(b'<') if implied != Some(Format::Csv) => Kind::Said(Format::Xml),
        _ => Kind::Rows,
    }
}

fn is_page(text: &str) -> bool {
    let start: String = text.chars().take(14).collect::<String>().to_ascii_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html")
}

/// Whether each line is an object.
fn is_lines(text: &str, is_whole: bool, implied: Option<Format>) -> bool {
    // Of a text that is cut the last line may be, too.
    let (whole, rest) = if is_whole { (text, "") } else { text.rsplit_once('\n').unwrap_or(("", text)) };
    let mut lines = whole.lines().map(str::trim).filter(|line| !line.is_empty()).take(LINES).peekable();
    let Some(first) = lines.next() else { return false };
    let is_object = |line: &str| line.starts_with('{') && serde_json::from_str::<&RawValue>(line).is_ok();
    if lines.peek().is_some() || !rest.trim().is_empty() || implied == Some(Format::Ndjson) {
        return is_object(first) && lines.all(is_object);
    }
    // One line is a document as well. One that has a list of records is meant so, and so is one that is called so.
    let has_records = |body: Value| find(&body, None).has_list();
    implied.is_none() && serde_json::from_str(first).is_ok_and(|body| !has_records(body)) && text.ends_with('\n')
}

fn is_json(text: &str, is_whole: bool) -> bool {
    let whole = if is_whole { text.as_bytes().to_vec() } else { closed(text.as_bytes().to_vec()) };
    serde_json::from_slice::<&RawValue>(&whole).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_its_format_or_is_rows() {
        let kind = |text: &str, is_whole, implied| match of_text(text, is_whole, implied) {
            Kind::Said(format) => format.as_str(),
            Kind::Rows => "rows",
            Kind::Unknown(_) => "unknown",
        };
        for (text, wanted) in [
            ("{\"a\":1}\n{\"a\":2}\n", "ndjson"),
            ("\n {\"a\":1}\r\n\r\n{\"a\":2}", "ndjson"),
            ("{\"a\":1}\n", "ndjson"),
            ("{\"a\":1}", "json"),
            ("{\"items\":[{\"a\":1}]}\n", "json"),
            ("{\n \"a\": 1\n}\n", "json"),
            ("[{\"a\":1}]", "json"),
            ("[1,2\n3,4\n", "rows"),
            ("{\"a\":1}\nnot json\n", "rows"),
            ("<?xml version='1.0'?><a/>", "xml"),
            ("<!DOCTYPE html><html>", "unknown"),
            ("a,b\n1,2\n", "rows"),
        ] {
            assert_eq!(kind(text, true, None), wanted, "{text:?}");
        }
        assert_eq!(kind("{\"a\":1}\n{\"a\":", false, None), "ndjson", "the last line is cut");
        assert_eq!(kind("[{\"a\":1},{\"a\":", false, None), "json");
        assert_eq!(kind("{\"a\":1}\n", true, Some(Format::Json)), "json");
        assert_eq!(kind("<b>,c\n1,2\n", true, Some(Format::Csv)), "rows");
    }
}

//! Rows of columns with a width against cutting each line.

use matome_connector::Item;
use matome_model::canonical::QuarantineReason as Reason;
use serde_json::Value;

/// Each line of three characters is a record with both of its columns, and every other that is not empty is rejected with its
/// exact bytes.
pub fn fixed(bytes: &[u8]) {
    let config = super::config(
        r#"{"path":"a","format":"fixed","trim":false,"columns":[{"name":"a","width":1},{"name":"b","width":2}]}"#,
    );
    let found = super::items(&config, bytes).into_iter().map(|item| match item {
        Item::Rejected { raw, reason, position, .. } => (position.line.unwrap(), Err((reason, raw))),
        Item::Record { raw, position } => {
            let object: Value = serde_json::from_slice(&raw).unwrap();
            let text = |name: &str| object[name].as_str().unwrap().to_owned();
            (position.line.unwrap(), Ok(format!("{}{}", text("a"), text("b"))))
        }
    });
    let lines = bytes.split(|byte| *byte == b'\n').zip(1..).filter_map(|(line, number)| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let row = match std::str::from_utf8(line) {
            _ if line.is_empty() => return None,
            Err(_) => Err((Reason::InvalidUtf8, line.to_vec())),
            Ok(text) if text.chars().count() == 3 => Ok(text.to_owned()),
            Ok(_) => Err((Reason::CsvWidth, line.to_vec())),
        };
        Some((number, row))
    });
    assert_eq!(found.collect::<Vec<_>>(), lines.collect::<Vec<_>>());
}

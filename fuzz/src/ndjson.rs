//! The line reader against splitting at line ends.

use matome_connector::Item;

/// Each line that is not blank is one record, byte for byte, at its line.
pub fn ndjson(bytes: &[u8]) {
    let config = super::config(r#"{"path":"a.ndjson"}"#);
    let found: Vec<(u64, Vec<u8>)> = super::items(&config, bytes)
        .into_iter()
        .map(|item| match item {
            Item::Record { raw, position } => (position.line.unwrap(), raw),
            Item::Rejected { reason, detail, .. } => panic!("{reason}: {detail}"),
        })
        .collect();
    let lines = bytes.split(|byte| *byte == b'\n').zip(1..).filter_map(|(line, number)| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // A byte order mark is a sign of the encoding, wherever files were joined.
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let is_blank = line.iter().all(|byte| matches!(byte, b' ' | b'\t'));
        (!is_blank).then(|| (number, line.to_vec()))
    });
    assert_eq!(found, lines.collect::<Vec<_>>());
}

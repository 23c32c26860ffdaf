//! Documents of formats, codecs and archives that have no second reader here: what holds whatever is in them.

use matome_connector::Item;
use matome_connector::file::read_bytes;
use serde_json::Value;

/// What was found, counted from 1, each record a JSON object.
fn read(config: &str, bytes: &[u8]) -> Vec<Item> {
    let (items, error) = read_bytes(super::config(config), bytes.to_vec());
    let mut records = std::collections::HashMap::new();
    for item in &items {
        let position = item.position();
        let record: &mut u64 = records.entry(position.document.clone()).or_default();
        *record += 1;
        assert_eq!(position.record, *record, "records are counted");
        if let Item::Record { raw, .. } = item {
            assert!(serde_json::from_slice::<Value>(raw).unwrap().is_object());
        }
    }
    // An error that says nothing helps nobody.
    assert!(error.is_none_or(|error| !error.to_string().is_empty()));
    items
}

/// Elements are objects, and what is rejected is a part of the document as it is.
pub fn xml(bytes: &[u8]) {
    for item in read(r#"{"path":"a.xml","encoding":"utf-8","compression":"none"}"#, bytes) {
        if let Item::Rejected { raw, .. } = item {
            assert!(bytes.windows(raw.len().max(1)).any(|part| part == raw), "{}", raw.escape_ascii());
        }
    }
    read(r#"{"path":"a.xml","records":"r"}"#, bytes);
}

/// No codec and no archive panics, and what comes out of one are lines.
pub fn packed(bytes: &[u8]) {
    for item in read(r#"{"path":"a","format":"csv","header":["a"],"quote":false}"#, bytes) {
        let raw = item.raw();
        assert!(!raw.contains(&b'\n'), "{}", raw.escape_ascii());
    }
}

/// Blocks are read or refused, without a panic, and records are objects.
pub fn avro(bytes: &[u8]) {
    read(r#"{"path":"a.avro","compression":"none"}"#, bytes);
}

/// Parquet and workbooks are read or refused, without a panic.
pub fn tables(bytes: &[u8]) {
    for format in ["parquet", "excel"] {
        read(&format!(r#"{{"path":"a","format":"{format}"}}"#), bytes);
    }
}

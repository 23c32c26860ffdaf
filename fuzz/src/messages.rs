//! From a message of a stream to its records.

use matome_connector::websocket::{WebsocketConfig, records_of};
use matome_connector::{Item, ParsedConfig, validate_config};
use matome_model::source::SourceType;
use serde_json::Value;

fn config(options: &str) -> WebsocketConfig {
    let text = format!(r#"{{"url":"wss://h/",{options}}}"#);
    match validate_config(SourceType::Websocket, &text).unwrap() {
        ParsedConfig::Websocket(config) => *config,
        other => panic!("{other:?} is no config of a stream"),
    }
}

/// Records and what is rejected are parts of the message, nothing of which is passed over unless it is said; a cursor is a number
/// or a text; a text is kept whole.
pub fn messages(bytes: &[u8]) {
    let resume = r#""resume":{"cursor":"$.id","param":"after"}"#;
    for options in [
        format!(r#""format":"json",{resume}"#),
        format!(r#""format":"json","records":"$.a",{resume}"#),
        format!(r#""format":"ndjson",{resume}"#),
    ] {
        let (items, cursor, is_passed_over) = records_of(&config(&options), bytes.to_vec());
        for item in &items {
            let raw = item.raw();
            assert!(bytes.windows(raw.len().max(1)).any(|part| part == raw), "{options}: {}", raw.escape_ascii());
        }
        if let Some(cursor) = cursor {
            let cursor: Value = serde_json::from_str(cursor.get()).unwrap();
            assert!(cursor.is_string() || cursor.is_number(), "{options}: {cursor}");
        }
        let is_empty = bytes.iter().all(u8::is_ascii_whitespace) || serde_json::from_slice::<Vec<Value>>(bytes).is_ok();
        assert!(
            !items.is_empty() || is_passed_over || is_empty || options.contains("$.a"),
            "{options}: nothing is said of it"
        );
    }
    let (items, _, _) = records_of(&config(r#""format":"text""#), bytes.to_vec());
    let [item] = &items[..] else { panic!("{items:?} of one text") };
    match (item, std::str::from_utf8(bytes)) {
        (Item::Record { raw, .. }, Ok(text)) => {
            assert_eq!(serde_json::from_slice::<Value>(raw).unwrap()["text"], Value::from(text));
        }
        (Item::Rejected { raw, .. }, Err(_)) => assert_eq!(raw, bytes),
        (item, _) => panic!("{item:?}"),
    }
}

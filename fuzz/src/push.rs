//! What strangers send: bodies, and the signatures over them.

use std::sync::Arc;

use chrono::DateTime;
use matome_connector::file::{DocumentConfig, Format};
use matome_connector::push::{Body, PushConfig, Webhook, examine, inflate};
use matome_connector::{Item, ParsedConfig, validate_config};
use matome_model::source::SourceType;

fn config(text: &str) -> PushConfig {
    match validate_config(SourceType::Push, text).unwrap() {
        ParsedConfig::Push(config) => *config,
        other => panic!("{other:?} is no config of a push source"),
    }
}

fn records(document: &Arc<DocumentConfig>, bytes: &[u8], skip: u64) -> Vec<Item> {
    let mut body = Body::new(document.clone(), "push".into(), bytes.to_vec(), skip);
    let mut records = Vec::new();
    while !body.is_done() {
        records.extend(body.take(3, 1000));
    }
    records
}

/// What is accepted gives as many records as was said, all of them again when it is read from the middle on; and a body is never
/// inflated past its limit.
pub fn bodies(bytes: &[u8]) {
    let config = config(r#"{"format":"auto"}"#);
    for format in [Format::Json, Format::Ndjson, Format::Csv] {
        let document = config.document(format);
        let Ok(count) = examine(&document, bytes) else { continue };
        let all = records(&document, bytes, 0);
        assert_eq!(all.len() as u64, count, "{format:?}");
        let middle = count / 2;
        assert_eq!(records(&document, bytes, middle), all[usize::try_from(middle).unwrap()..], "{format:?}");
    }
    if let Ok(inflated) = inflate(bytes, 1000) {
        assert!(inflated.len() <= 1000);
    }
}

/// The schemes whose signature is over the body, with the time of the example in the corpus.
const SCHEMES: [(&str, &str, i64); 3] = [
    ("standard-webhooks", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1_614_265_330),
    ("github", "It's a Secret to Everybody", 0),
    ("stripe", "whsec_test_secret", 1_492_774_577),
];

/// Whoever is accepted is refused with any other body. Headers stand one a line before an empty one, the body behind it.
pub fn signatures(bytes: &[u8]) {
    let at = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let body = bytes.get(at + 2..).unwrap_or_default();
    let headers: Vec<(&str, &str)> = head.lines().filter_map(|line| line.split_once(": ")).collect();
    let header =
        |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
    for (scheme, secret, time) in SCHEMES {
        let options = serde_json::json!({"webhook": {"scheme": scheme, "secret": secret}});
        let webhook: Webhook = config(&options.to_string()).webhook.unwrap();
        let now = DateTime::from_timestamp(time, 0).unwrap();
        let Ok(delivery) = webhook.verify(header, body, now) else { continue };
        assert!(delivery.key.is_some_and(|key| key.len() <= 255 && key.starts_with("webhook:")), "{scheme}");
        for place in 0..=body.len() {
            let mut other = body.to_vec();
            other.insert(place, b' ');
            assert!(webhook.verify(header, &other, now).is_err(), "{scheme}: a space at {place}");
        }
        assert!(body.is_empty() || webhook.verify(header, &body[1..], now).is_err(), "{scheme}: cut off");
    }
}

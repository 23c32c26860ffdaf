//! From a message to its records.

use std::sync::Arc;

use matome_model::canonical::QuarantineReason;
use matome_model::field_error::Words;
use matome_model::say;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::config::{MessageFormat, WebsocketConfig};
use crate::json::{JsonPath, Splitter};
use crate::record::{Found, Item, Parse, Position};

/// How much of a message over the limit is kept.
pub(super) const KEPT_BYTES: usize = 64 * 1024;

/// What came in one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// Its bytes; the beginning when `size` is more.
    pub(super) body: Vec<u8>,
    /// How long it is.
    pub(super) size: usize,
    /// The type of an event.
    pub(super) event: Option<String>,
    /// The id that stands since this event.
    pub(super) id: Option<String>,
}

impl Message {
    pub(super) fn new(body: Vec<u8>) -> Self {
        Self { size: body.len(), body, event: None, id: None }
    }
}

/// What a message has.
#[derive(Default)]
pub(super) struct Decoded {
    pub(super) items: Vec<Item>,
    /// Its cursor, or the id of its event, as JSON.
    pub(super) token: Option<Box<RawValue>>,
    /// It has nothing where the records are.
    pub(super) is_passed_over: bool,
}

/// Where a message came: at which address, on which connection of the read, as which one on it.
pub(super) struct Place {
    pub(super) document: Arc<str>,
    pub(super) connection: u64,
    pub(super) message: u64,
}

impl Place {
    pub(super) fn position(&self) -> Position {
        Position {
            document: self.document.clone(),
            request: Some(self.connection),
            line: None,
            record: self.message,
            headers: None,
        }
    }
}

/// Takes a message apart.
pub(super) fn decode(config: &WebsocketConfig, message: Message, place: &Place) -> Decoded {
    let cursor = config.resume.as_ref().map(|resume| &resume.cursor);
    let id = message.id.as_deref().filter(|_| cursor.is_none());
    let token = id.map(|id| raw(serde_json::Value::from(id).to_string()));
    let mut decoded = Decoded { token, ..Decoded::default() };
    let is_wanted = config.events.is_empty()
        || config.events.iter().any(|wanted| message.event.as_deref().unwrap_or("message") == wanted);
    // An event without data only says the id.
    if !is_wanted || config.is_events && message.size == 0 {
        decoded.is_passed_over = true;
        return decoded;
    }
    if message.size > config.max_message_bytes {
        decoded.token = decoded.token.or_else(|| cursor.and_then(|path| pick(&message.body, path)));
        let (size, limit) = (message.size, config.max_message_bytes);
        let detail = say!(
            "message of {size} bytes is longer than the limit of {limit} (`max_message_bytes`)",
            "{size} バイトのメッセージは上限の {limit} バイトを超えています (`max_message_bytes`)"
        );
        decoded.items.push(rejected(message.body, QuarantineReason::RecordLimit, detail, place));
        return decoded;
    }
    match config.format {
        MessageFormat::Json => json(config, message.body, cursor, place, &mut decoded),
        MessageFormat::Ndjson => {
            let lines = message.body.split(|&byte| byte == b'\n');
            for line in lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                if let Some(token) = cursor.and_then(|path| pick(line, path)) {
                    decoded.token = Some(token);
                }
                decoded.items.push(Item::Record { raw: line.to_vec(), position: place.position() });
            }
        }
        MessageFormat::Text => match String::from_utf8(message.body) {
            Ok(text) => {
                let mut record = serde_json::Map::new();
                record.insert("text".to_owned(), text.into());
                if config.is_events {
                    record.insert("event".to_owned(), message.event.unwrap_or_else(|| "message".to_owned()).into());
                    record.insert("id".to_owned(), message.id.into());
                }
                let raw = serde_json::Value::Object(record).to_string().into_bytes();
                decoded.items.push(Item::Record { raw, position: place.position() });
            }
            Err(error) => {
                let detail = Words::new("the message is no UTF-8", "メッセージが UTF-8 ではありません");
                let (reason, body) = (QuarantineReason::InvalidUtf8, error.into_bytes());
                decoded.items.push(rejected(body, reason, detail, place));
            }
        },
    }
    decoded
}

fn json(config: &WebsocketConfig, body: Vec<u8>, cursor: Option<&JsonPath>, place: &Place, decoded: &mut Decoded) {
    let captures: Vec<&JsonPath> = cursor.into_iter().collect();
    let mut splitter = Splitter::new(config.records.clone(), &captures);
    let mut found = Found::new(place.document.clone(), Some(place.connection), 0);
    let split = splitter.feed(&body, &mut found).and_then(|()| splitter.finish(&mut found));
    if cursor.is_some() {
        let captured = splitter.captured(0).map(<[u8]>::to_vec);
        decoded.token = captured.and_then(|value| scalar(&value));
    }
    match split {
        Ok(()) => {
            // All records of a message stand where it does.
            for item in found.take(usize::MAX, usize::MAX) {
                decoded.items.push(match item {
                    Item::Record { raw, .. } => Item::Record { raw, position: place.position() },
                    Item::Rejected { raw, reason, detail, .. } => {
                        Item::Rejected { raw, reason, detail, position: place.position(), fields: None }
                    }
                });
            }
        }
        // A document that is whole and has nothing there: an acknowledgement, a heartbeat of the source.
        Err(_) if splitter.is_whole() => decoded.is_passed_over = true,
        Err(error) => {
            let reason = match (std::str::from_utf8(&body), serde_json::from_slice::<IgnoredAny>(&body)) {
                (Err(_), _) => QuarantineReason::InvalidUtf8,
                (_, Ok(_)) => QuarantineReason::NotObject,
                (_, Err(_)) => QuarantineReason::InvalidJson,
            };
            decoded.items.push(rejected(body, reason, error.problem, place));
        }
    }
}

/// The value at `path`, if it can be a cursor.
fn pick(text: &[u8], path: &JsonPath) -> Option<Box<RawValue>> {
    scalar(&Splitter::pick(text, &[path]).pop()??)
}

/// A number or a text of a sensible length.
fn scalar(json: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(json).ok().filter(|text| text.len() <= 1024)?;
    let is_scalar = matches!(text.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'));
    is_scalar.then(|| RawValue::from_string(text.to_owned()).ok()).flatten()
}

pub(super) fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("it was written as JSON")
}

pub(super) fn rejected(mut raw: Vec<u8>, reason: QuarantineReason, detail: Words, place: &Place) -> Item {
    raw.truncate(KEPT_BYTES);
    Item::Rejected { raw, reason, detail, position: place.position(), fields: None }
}

//! From a batch as it was read to the records of a page: canonical form, hash, metadata, quarantine.

use std::fmt::Write as _;
use std::sync::Arc;

use matome_connector::{Batch, Item, Position, ReadStats};
use matome_model::canonical::{Canonical, Canonicaliser, Limits, QuarantineReason, write_string};
use matome_model::record_key::RecordKey;
use matome_store::acquired_data::Records;
use matome_store::quarantine::BadRecord;

/// A batch that is ready to be stored.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) records: Records,
    pub(crate) quarantined: Vec<BadRecord>,
    /// The connector's state after it, as JSON text.
    pub(crate) checkpoint: String,
    pub(crate) stats: ReadStats,
}

impl Prepared {
    /// Whether it has neither records nor bad ones.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.quarantined.is_empty()
    }

    /// Takes over the checkpoint of a batch without records that came next.
    pub(crate) fn follow(&mut self, next: Self) {
        self.checkpoint = next.checkpoint;
        self.stats.requests += next.stats.requests;
        self.stats.not_modified += next.stats.not_modified;
        self.stats.bytes += next.stats.bytes;
    }
}

/// Prepares the batches of one read, in buffers that it keeps.
pub(crate) struct Preparer {
    canonicaliser: Canonicaliser,
    /// What tells records apart, where that is a key of theirs.
    key: Option<RecordKey>,
    task_id: i64,
    /// `{"document":"..."` of the document that was met last: most records share it with the one before.
    opening: Option<(Arc<str>, String)>,
}

impl Preparer {
    pub(crate) fn new(task_id: i64, limits: Limits, key: Option<RecordKey>) -> Self {
        Self { canonicaliser: Canonicaliser::new(limits), key, task_id, opening: None }
    }

    pub(crate) fn prepare(&mut self, batch: Batch) -> Prepared {
        let bytes = batch.items.iter().map(|item| item.raw().len()).sum();
        let mut records = Records::with_capacity(batch.items.len(), bytes);
        let mut quarantined = Vec::new();
        for item in batch.items {
            let (raw, position, rejection) = match item {
                Item::Rejected { raw, reason, detail, position } => (raw, position, (reason, detail)),
                Item::Record { raw, position } => match accept(&mut self.canonicaliser, self.key.as_ref(), &raw) {
                    Ok((canonical, key)) => {
                        let opening = opening(&mut self.opening, &position.document);
                        records.push(canonical.text, canonical.hash, key, |out| {
                            out.push_str(opening);
                            push_place(out, &position);
                            write!(out, ",\"task\":{}}}", self.task_id).expect("text grows");
                        });
                        continue;
                    }
                    Err(rejection) => (raw, position, rejection),
                },
            };
            let (reason, detail) = rejection;
            let raw_length = u64::try_from(raw.len()).unwrap_or(u64::MAX);
            let mut place = opening(&mut self.opening, &position.document).to_owned();
            push_place(&mut place, &position);
            place.push('}');
            quarantined.push(BadRecord { reason, detail, position: place, raw, raw_length });
        }
        Prepared { records, quarantined, checkpoint: batch.checkpoint.get().to_owned(), stats: batch.stats }
    }
}

/// Why a record cannot be stored, in a word and in a sentence.
type Rejection = (QuarantineReason, String);

/// A record that can be stored, with its key; or why it cannot.
fn accept<'a>(
    canonicaliser: &'a mut Canonicaliser,
    key: Option<&RecordKey>,
    raw: &[u8],
) -> Result<(Canonical<'a>, Option<[u8; 16]>), Rejection> {
    let canonical = canonicaliser.canonicalise(raw).map_err(|rejected| (rejected.reason, rejected.to_string()))?;
    let reason = QuarantineReason::Key;
    match key.map(|key| key.identity(canonical.text)).transpose() {
        Ok(key) => Ok((canonical, key)),
        Err(err) => Err((reason, format!("{err}; {}", reason.remedy()))),
    }
}

fn opening<'a>(last: &'a mut Option<(Arc<str>, String)>, document: &Arc<str>) -> &'a str {
    if !last.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, document)) {
        let mut text = b"{\"document\":".to_vec();
        // NUL cannot be in a file name or an address, and PostgreSQL could not store it.
        write_string(&mut text, &document.replace('\0', "\u{2400}"));
        let text = String::from_utf8(text).expect("JSON of UTF-8 is UTF-8");
        *last = Some((document.clone(), text));
    }
    last.as_ref().map_or("", |(_, text)| text)
}

/// Where in the document, keys in canonical order: the line where there are lines, else the record.
fn push_place(out: &mut String, position: &Position) {
    let written = match position.line {
        Some(line) => write!(out, ",\"line\":{line}"),
        None => write!(out, ",\"record\":{}", position.record),
    };
    written.expect("text grows");
    if let Some(request) = position.request {
        write!(out, ",\"request\":{request}").expect("text grows");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn position(document: &str, line: Option<u64>, request: Option<u64>) -> Position {
        Position { document: document.into(), request, line, record: 5 }
    }

    fn prepare(items: Vec<Item>) -> Prepared {
        let checkpoint = RawValue::from_string("{}".to_owned()).unwrap();
        let batch = Batch { items, checkpoint, stats: ReadStats::default() };
        Preparer::new(7, Limits::default(), None).prepare(batch)
    }

    #[test]
    fn records_say_where_they_came_from_in_canonical_json() {
        let record = |position| Item::Record { raw: br#"{"b":1.0, "a":"x"}"#.to_vec(), position };
        let prepared = prepare(vec![
            record(position("a \"b\".csv", Some(12), None)),
            record(position("http://h/p?page=2", None, Some(3))),
        ]);
        let found: Vec<_> = prepared.records.iter().map(|record| (record.text, record.metadata)).collect();
        let text = r#"{"a":"x","b":1}"#;
        assert_eq!(
            found,
            [
                (text, r#"{"document":"a \"b\".csv","line":12,"task":7}"#),
                (text, r#"{"document":"http://h/p?page=2","record":5,"request":3,"task":7}"#),
            ]
        );
        let mut canonicaliser = Canonicaliser::default();
        for (_, metadata) in found {
            assert_eq!(canonicaliser.canonicalise(metadata.as_bytes()).unwrap().text, metadata);
        }
    }

    #[test]
    fn what_cannot_be_stored_keeps_its_bytes_position_and_reason() {
        let prepared = prepare(vec![
            Item::Record { raw: b"{\"a\":\"\\u0000\"}".to_vec(), position: position("f", Some(1), None) },
            Item::Record { raw: b"{}".to_vec(), position: position("f", Some(2), None) },
            Item::Rejected {
                raw: b"a,b,\xff".to_vec(),
                reason: QuarantineReason::CsvWidth,
                detail: "row has 3 fields".to_owned(),
                position: position("f", Some(3), None),
            },
        ]);
        assert_eq!(prepared.records.len(), 1);
        let [nul, width] = &prepared.quarantined[..] else { panic!("{:?}", prepared.quarantined) };
        assert_eq!((nul.reason, nul.raw.as_slice()), (QuarantineReason::NulCharacter, &b"{\"a\":\"\\u0000\"}"[..]));
        assert_eq!(nul.position, r#"{"document":"f","line":1}"#);
        assert!(nul.detail.contains("at byte 6"), "{}", nul.detail);
        assert_eq!((width.reason, width.raw.as_slice()), (QuarantineReason::CsvWidth, &b"a,b,\xff"[..]));
        assert_eq!(width.position, r#"{"document":"f","line":3}"#);
    }
}

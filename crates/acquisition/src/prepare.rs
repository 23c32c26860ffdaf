//! From a batch as it was read to the records of a page: canonical form, hash, metadata, quarantine.

use std::fmt::Write as _;
use std::sync::Arc;

use matome_connector::{Batch, Item, Position, ReadStats};
use matome_model::canonical::{Canonical, Canonicaliser, Limits, QuarantineReason, write_string};
use matome_model::drift::{Difference, DriftPolicy, Look, Watch};
use matome_model::field_error::Words;
use matome_model::record_key::RecordKey;
use matome_model::say;
use matome_model::validation::{Judge, Policy, Violation};
use matome_store::acquired_data::Records;
use matome_store::acquired_data::SchemaStep;
use matome_store::quarantine::BadRecord;
use matome_store::source_schemas::NewVersion;

/// A batch that is ready to be stored.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) records: Records,
    pub(crate) quarantined: Vec<BadRecord>,
    /// The connector's state after it, as JSON text.
    pub(crate) checkpoint: String,
    /// A read that goes on at it is given nothing of this again.
    pub(crate) is_exact: bool,
    /// What its read gave before it comes again.
    pub(crate) begins_anew: bool,
    /// Its records are other ones than those that are stored, also where they are equal.
    pub(crate) is_addition: bool,
    pub(crate) told: Told,
    /// What its records bring to the schema of the source.
    pub(crate) schema: SchemaStep,
}

/// What the counts of a task are told of a page besides what became of its records.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    pub(crate) stats: ReadStats,
    /// Records that break the schema or a rule and are stored all the same.
    pub(crate) warned: u64,
    /// What the source gave at once is a page to people, however many of these are stored as one.
    pub(crate) pages: u64,
}

/// Warnings that the metadata of one record has room for.
const WARNINGS: usize = 8;

/// Why nothing of a page may be stored.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The record over which it was refused.
    pub(crate) position: Position,
    /// A short code.
    pub(crate) reason: &'static str,
    pub(crate) message: Words,
}

impl Prepared {
    /// Whether it has neither records nor bad ones.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.quarantined.is_empty()
    }
}

/// Prepares the batches of one read, in buffers that it keeps.
pub(crate) struct Preparer {
    canonicaliser: Canonicaliser,
    /// What tells records apart, where that is a key of theirs.
    key: Option<RecordKey>,
    task_id: i64,
    /// `{"document":"..."` of the document, with the headers it came with, that was met last: most records share it with the one before.
    opening: Option<(Arc<str>, String)>,
    judge: Option<Judge>,
    schema: Option<StoredSchema>,
}

/// The schema of a source stream while it is read.
pub(crate) struct StoredSchema {
    pub(crate) watch: Watch,
    /// 0 before the first record.
    pub(crate) version: i64,
    pub(crate) settled: bool,
    /// How often it was to be learned anew.
    pub(crate) accepts: i64,
}

impl Preparer {
    /// `judge`: what decides whether records are what their source promises, if it promises something.
    pub(crate) fn new(task_id: i64, limits: Limits, key: Option<RecordKey>, judge: Option<Judge>) -> Self {
        Self { canonicaliser: Canonicaliser::new(limits), key, task_id, opening: None, judge, schema: None }
    }

    /// Whether a record may keep a whole page from being stored: what is one page is told to people then.
    pub(crate) fn refuses_pages(&self) -> bool {
        self.judge.as_ref().is_some_and(|judge| judge.policy() == Policy::RejectBatch)
            || self.schema.as_ref().is_some_and(|schema| schema.watch.policy() == DriftPolicy::Freeze)
    }

    /// Measures records by the schema of their source from now on.
    pub(crate) fn measured_by(self, schema: StoredSchema) -> Self {
        Self { schema: Some(schema), ..self }
    }

    /// Counts the page as one, and says what it brings to the schema; call it once its records are there.
    pub(crate) fn end(&mut self, page: &mut Prepared) {
        page.told.pages = u64::from(!page.is_empty());
        let Some(schema) = &mut self.schema else { return };
        page.schema.settles = !schema.settled && !page.is_empty();
        page.schema.accepts = schema.accepts;
        let Some((shape, changes)) = schema.watch.take_changes() else { return };
        schema.version += 1;
        page.schema.new = Some(NewVersion {
            version: schema.version,
            fields: shape.to_json(),
            changes: serde_json::to_string(&changes).expect("texts are JSON"),
            settled: schema.settled,
            accepts: schema.accepts,
        });
    }

    /// A page to which [`Preparer::record`] adds; nothing is known of its checkpoint.
    pub(crate) fn begin(&self, records: usize, bytes: usize) -> Prepared {
        Prepared {
            records: Records::with_capacity(records, bytes),
            quarantined: Vec::new(),
            checkpoint: String::new(),
            is_exact: false,
            begins_anew: false,
            is_addition: false,
            told: Told::default(),
            schema: SchemaStep::default(),
        }
    }

    /// # Errors
    /// [`Refused`] when the source's policy refuses the whole batch, or there is no telling what to do with it.
    pub(crate) fn prepare(&mut self, batch: Batch) -> Result<Prepared, Box<Refused>> {
        let bytes = batch.items.iter().map(|item| item.raw().len()).sum();
        let mut page = self.begin(batch.items.len(), bytes);
        for item in batch.items {
            match item {
                Item::Record { raw, position } => self.record(&mut page, raw, position, None)?,
                rejected @ Item::Rejected { .. } => self.reject(&mut page, rejected),
            }
        }
        batch.checkpoint.get().clone_into(&mut page.checkpoint);
        (page.is_exact, page.begins_anew) = (batch.is_exact, batch.begins_anew);
        page.is_addition = batch.is_addition;
        page.told.stats = batch.stats;
        self.end(&mut page);
        Ok(page)
    }

    /// Adds one record to a page, to its records or to those that go to quarantine. `replay_of`: the quarantine row that
    /// it comes from.
    ///
    /// # Errors
    /// As [`Preparer::prepare`].
    pub(crate) fn record(
        &mut self,
        page: &mut Prepared,
        raw: Vec<u8>,
        position: Position,
        replay_of: Option<i64>,
    ) -> Result<(), Box<Refused>> {
        let (canonical, key) = match accept(&mut self.canonicaliser, self.key.as_ref(), &raw) {
            Ok(accepted) => accepted,
            Err(rejection) => {
                self.quarantine(page, raw, &position, rejection, None);
                return Ok(());
            }
        };
        let found = match &mut self.judge {
            None => Vec::new(),
            Some(judge) => match judge.judge(canonical.text, &canonical.hash) {
                Ok(found) => found,
                Err(err) => {
                    return Err(Box::new(Refused { position, reason: "unique_limit", message: err.words() }));
                }
            },
        };
        match self.judge.as_ref().filter(|_| !found.is_empty()).map(Judge::policy) {
            Some(Policy::RejectBatch) => return Err(Box::new(Refused::by_policy(position, &found))),
            Some(Policy::Quarantine) => {
                self.quarantine(page, raw, &position, rejection(&found), key);
                return Ok(());
            }
            Some(Policy::Warn) | None => {}
        }
        // Last of all: what is not stored teaches nothing.
        if let Some(schema) = &mut self.schema
            && let Look::Differs(differences) = schema.watch.look(canonical.text)
        {
            if schema.watch.policy() == DriftPolicy::Freeze {
                return Err(Box::new(Refused::by_drift(position, &differences)));
            }
            let detail = QuarantineReason::Drift.told(&drifted(&differences));
            self.quarantine(page, raw, &position, (QuarantineReason::Drift, detail), key);
            return Ok(());
        }
        page.told.warned += u64::from(!found.is_empty());
        let opening = opening(&mut self.opening, &position);
        page.records.push(canonical.text, canonical.hash, key, |out| {
            out.push_str(opening);
            push_place(out, &position, replay_of);
            write!(out, ",\"task\":{}", self.task_id).expect("text grows");
            push_warnings(out, &found);
            out.push('}');
        });
        Ok(())
    }

    /// Adds what its reader could not make a record of; a record is none.
    pub(crate) fn reject(&mut self, page: &mut Prepared, item: Item) {
        let Item::Rejected { raw, reason, detail, position, fields } = item else { return };
        self.quarantine(page, raw, &position, (reason, detail), None);
        if let (Some(fields), Some(bad)) = (fields, page.quarantined.last_mut()) {
            // What the row is read again with.
            // PostgreSQL could not store NUL.
            let fields: Vec<String> = fields.iter().map(|name| name.replace('\0', "\u{2400}")).collect();
            let fields = serde_json::to_string(&fields).expect("texts are JSON");
            bad.position.truncate(bad.position.len() - 1);
            write!(bad.position, ",\"fields\":{fields}}}").expect("text grows");
        }
    }

    /// `key`: the identity of the record, where its key could be read.
    fn quarantine(
        &mut self,
        page: &mut Prepared,
        raw: Vec<u8>,
        position: &Position,
        (reason, detail): Rejection,
        key: Option<[u8; 16]>,
    ) {
        let raw_length = u64::try_from(raw.len()).unwrap_or(u64::MAX);
        let mut place = opening(&mut self.opening, position).to_owned();
        push_place(&mut place, position, None);
        place.push('}');
        page.quarantined.push(BadRecord { reason, detail, position: place, raw, raw_length, key });
    }
}

impl Refused {
    fn by_drift(position: Position, differences: &[Difference]) -> Self {
        let Words { english, japanese } = drifted(differences);
        let message = say!(
            "a record has what the frozen schema of its source has not: {english}; correct the source, or accept the new \
             schema with `matome source schema NAME --accept` (POST `schema/accept/`) and run again",
            "固定したスキーマにないものがレコードにあります: {japanese}。データソースを直すか、\
             `matome source schema NAME --accept` (POST `schema/accept/`) で新しいスキーマを受け入れてから、もう一度実行して\
             ください"
        );
        Self { position, reason: "drift", message }
    }

    fn by_policy(position: Position, found: &[Violation]) -> Self {
        let Words { english, japanese } = told(found);
        let message = say!(
            "a record is not what its source promises, and the policy `reject_batch` stores nothing of its page: {english}",
            "レコードがデータソースの約束と違います。方針 `reject_batch` により、このページは何も保存されません: {japanese}"
        );
        Self { position, reason: "rejected", message }
    }
}

fn drifted(differences: &[Difference]) -> Words {
    Words::joined(differences.iter().take(WARNINGS).map(Difference::words))
}

/// Why a record goes to quarantine that breaks the schema or rules.
fn rejection(found: &[Violation]) -> Rejection {
    let by_schema = found.iter().any(|violation| !violation.is_rule);
    let reason = if by_schema { QuarantineReason::Schema } else { QuarantineReason::Rule };
    (reason, reason.told(&told(found)))
}

fn told(found: &[Violation]) -> Words {
    Words::joined(found.iter().take(WARNINGS).map(Violation::words))
}

/// The last member of a record's metadata; nothing when there are none.
fn push_warnings(out: &mut String, found: &[Violation]) {
    for (n, violation) in found.iter().take(WARNINGS).enumerate() {
        out.push_str(if n == 0 { ",\"warnings\":[" } else { "," });
        let mut text = Vec::new();
        write_string(&mut text, &violation.to_string());
        out.push_str(&String::from_utf8(text).expect("JSON of UTF-8 is UTF-8"));
    }
    if !found.is_empty() {
        out.push(']');
    }
}

/// Why a record cannot be stored, in a word and in a sentence.
type Rejection = (QuarantineReason, Words);

/// A record that can be stored, with its key; or why it cannot.
fn accept<'a>(
    canonicaliser: &'a mut Canonicaliser,
    key: Option<&RecordKey>,
    raw: &[u8],
) -> Result<(Canonical<'a>, Option<[u8; 16]>), Rejection> {
    let canonical = canonicaliser.canonicalise(raw).map_err(|rejected| (rejected.reason, rejected.words()))?;
    let reason = QuarantineReason::Key;
    match key.map(|key| key.identity(canonical.text)).transpose() {
        Ok(key) => Ok((canonical, key)),
        Err(err) => Err((reason, reason.told(&err.words()))),
    }
}

fn opening<'a>(last: &'a mut Option<(Arc<str>, String)>, Position { document, headers, .. }: &Position) -> &'a str {
    if !last.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, document)) {
        let mut text = b"{\"document\":".to_vec();
        // NUL cannot be in a file name or an address, and PostgreSQL could not store it.
        write_string(&mut text, &document.replace('\0', "\u{2400}"));
        let mut text = String::from_utf8(text).expect("JSON of UTF-8 is UTF-8");
        // One document comes with one set of headers.
        if let Some(headers) = headers {
            text.push_str(",\"headers\":");
            text.push_str(headers);
        }
        *last = Some((document.clone(), text));
    }
    last.as_ref().map_or("", |(_, text)| text)
}

/// Where in the document, keys in canonical order: the line where there are lines, else the record.
fn push_place(out: &mut String, position: &Position, replay_of: Option<i64>) {
    let written = match position.line {
        Some(line) => write!(out, ",\"line\":{line}"),
        None => write!(out, ",\"record\":{}", position.record),
    };
    written.expect("text grows");
    if let Some(replay_of) = replay_of {
        write!(out, ",\"replay_of\":{replay_of}").expect("text grows");
    }
    if let Some(request) = position.request {
        write!(out, ",\"request\":{request}").expect("text grows");
    }
}

#[cfg(test)]
mod tests {
    use matome_model::validation::{Rule, Rules, Validation};
    use serde_json::value::RawValue;

    use super::*;

    fn position(document: &str, line: Option<u64>, request: Option<u64>) -> Position {
        Position { document: document.into(), request, line, record: 5, headers: None }
    }

    fn batch(items: Vec<Item>) -> Batch {
        let checkpoint = RawValue::from_string("{}".to_owned()).unwrap();
        Batch {
            items,
            checkpoint,
            is_exact: false,
            begins_anew: false,
            is_addition: false,
            stats: ReadStats::default(),
        }
    }

    fn prepare(items: Vec<Item>) -> Prepared {
        Preparer::new(7, Limits::default(), None, None).prepare(batch(items)).unwrap()
    }

    fn judged(policy: Policy, records: &[&str]) -> Result<Prepared, Box<Refused>> {
        let rules = Rules(vec![Rule::new("id").required(true).unique(true)]);
        let schema = r#"{"properties":{"n":{"minimum":0}}}"#;
        let validation = Arc::new(Validation::new(Some(schema), rules, policy).unwrap());
        let mut preparer = Preparer::new(7, Limits::default(), None, Some(Judge::new(validation, true)));
        let item = |(n, text): (usize, &&str)| Item::Record {
            raw: text.as_bytes().to_vec(),
            position: position("f", Some(n as u64 + 1), None),
        };
        preparer.prepare(batch(records.iter().enumerate().map(item).collect()))
    }

    const MIXED: &[&str] = &[r#"{"id":1}"#, r#"{"id":2,"n":-1}"#, r#"{"id":1}"#, r#"{"n":-2}"#, r#"{"id":3,"n":0}"#];

    #[test]
    fn what_breaks_schema_or_rules_goes_to_quarantine() {
        let prepared = judged(Policy::Quarantine, MIXED).unwrap();
        assert_eq!((prepared.records.len(), prepared.told.warned), (2, 0));
        let found: Vec<_> =
            prepared.quarantined.iter().map(|bad| (bad.reason.as_str(), bad.detail.english.as_str())).collect();
        assert_eq!(
            found,
            [
                ("schema", "/n: -1 is less than 0 (schema, `minimum`); correct the record or the schema of the source"),
                (
                    "rule",
                    "/id: 1 was in an earlier record of this read (rule, `unique`); correct the record or the rules of \
                     the source"
                ),
                (
                    "schema",
                    "/n: -2 is less than 0 (schema, `minimum`); /id: is missing (rule, `required`); correct the record \
                     or the schema of the source"
                ),
            ]
        );
        assert_eq!(prepared.quarantined[0].raw, MIXED[1].as_bytes());
    }

    #[test]
    fn what_is_only_warned_of_is_stored_with_its_warnings() {
        let prepared = judged(Policy::Warn, MIXED).unwrap();
        assert_eq!((prepared.records.len(), prepared.quarantined.len(), prepared.told.warned), (5, 0, 3));
        let metadata: Vec<&str> = prepared.records.iter().map(|record| record.metadata).collect();
        assert_eq!(metadata[0], r#"{"document":"f","line":1,"task":7}"#);
        assert_eq!(
            metadata[1],
            r#"{"document":"f","line":2,"task":7,"warnings":["/n: -1 is less than 0 (schema, `minimum`)"]}"#
        );
        let mut canonicaliser = Canonicaliser::default();
        for text in metadata {
            assert_eq!(canonicaliser.canonicalise(text.as_bytes()).unwrap().text, text);
        }
    }

    #[test]
    fn one_record_refuses_its_whole_batch() {
        let refused = judged(Policy::RejectBatch, MIXED).unwrap_err();
        assert_eq!((refused.reason, refused.position.line), ("rejected", Some(2)));
        assert!(refused.message.english.ends_with("/n: -1 is less than 0 (schema, `minimum`)"), "{}", refused.message);
        assert!(judged(Policy::RejectBatch, &MIXED[..1]).is_ok());
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
                detail: Words::quoted("row has 3 fields"),
                position: position("f", Some(3), None),
                fields: Some(["a".to_owned(), "b".to_owned()].into()),
            },
        ]);
        assert_eq!(prepared.records.len(), 1);
        let [nul, width] = &prepared.quarantined[..] else { panic!("{:?}", prepared.quarantined) };
        assert_eq!((nul.reason, nul.raw.as_slice()), (QuarantineReason::NulCharacter, &b"{\"a\":\"\\u0000\"}"[..]));
        assert_eq!(nul.position, r#"{"document":"f","line":1}"#);
        assert!(nul.detail.english.contains("at byte 6"), "{}", nul.detail);
        assert_eq!((width.reason, width.raw.as_slice()), (QuarantineReason::CsvWidth, &b"a,b,\xff"[..]));
        assert_eq!(width.position, r#"{"document":"f","line":3,"fields":["a","b"]}"#);
    }
}

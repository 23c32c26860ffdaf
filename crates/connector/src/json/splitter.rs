//! Finds the records of a JSON document while it streams by, holding one record at most.
//!
//! Only the structure on the way to the records is parsed; what is inside a record is left to the canonical form,
//! and what is beside the path is passed over. Nothing here recurses, so nesting costs no stack.

use matome_model::canonical::QuarantineReason;

use super::path::{JsonPath, Step};
use crate::record::{DocumentError, Found, Parse};

/// A record longer than this is rejected; so much of one is held at most.
pub(crate) const RECORD_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// How much of a rejected record is kept.
pub(crate) const KEPT_BYTES: usize = 64 * 1024;
/// Names on the way to the records, and captured links.
const SMALL_LIMIT_BYTES: usize = 64 * 1024;

/// How far a path is matched at some place: so many steps, or not at all.
type Match = Option<usize>;

struct Frame {
    is_object: bool,
    records: Match,
    capture: Match,
    index: u64,
    /// Each element is a record.
    expands: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    InKey { escaped: bool },
    Colon,
    AfterValue,
    Scan,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Skip,
    Record,
    Capture,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Container,
    String,
    Literal,
}

struct Scan {
    target: Target,
    shape: Shape,
    depth: u64,
    in_string: bool,
    escaped: bool,
    size: usize,
    /// Of a record that the captured value may be inside of.
    capture: Match,
}

/// Splits one document. A fresh one is needed for the next.
pub(crate) struct Splitter {
    records: Option<JsonPath>,
    capture: Vec<Step>,
    wants_capture: bool,
    captured: Option<Vec<u8>>,
    stack: Vec<Frame>,
    state: State,
    key: Vec<u8>,
    key_matches: (Match, Match),
    scan: Scan,
    held: Vec<u8>,
    line: u64,
    found_path: bool,
    started: bool,
}

impl Splitter {
    /// Yields what `records` selects (an array at its end is taken apart), and captures the value at `capture`.
    pub(crate) fn new(records: JsonPath, capture: Option<&JsonPath>) -> Self {
        let steps = capture.map(|path| path.steps.clone());
        Self::with(Some(records), steps)
    }

    fn with(records: Option<JsonPath>, capture: Option<Vec<Step>>) -> Self {
        Self {
            records,
            wants_capture: capture.is_some(),
            capture: capture.unwrap_or_default(),
            captured: None,
            stack: Vec::new(),
            state: State::Value,
            key: Vec::new(),
            key_matches: (None, None),
            scan: Scan {
                target: Target::Skip,
                shape: Shape::Literal,
                depth: 0,
                in_string: false,
                escaped: false,
                size: 0,
                capture: None,
            },
            held: Vec::new(),
            line: 1,
            found_path: false,
            started: false,
        }
    }

    /// The JSON text of the captured value, if the document has it.
    pub(crate) fn captured(&self) -> Option<&[u8]> {
        self.captured.as_deref()
    }

    fn error(&self, problem: impl Into<String>) -> DocumentError {
        DocumentError::new(self.line, problem)
    }

    fn unexpected(&self, byte: u8, wanted: &str) -> DocumentError {
        self.error(format!("not valid JSON: `{}` where {wanted} should be", char::from(byte).escape_default()))
    }

    /// How far both paths are matched by the value that starts now.
    fn matches_here(&self) -> (Match, Match, bool) {
        let last = self.records.as_ref().and_then(|path| path.steps.last());
        let ends_in_wildcard = matches!(last, Some(Step::Wildcard));
        match self.stack.last() {
            None => (self.records.as_ref().map(|_| 0), self.wants_capture.then_some(0), false),
            Some(frame) if frame.is_object => {
                let (records, capture) = self.key_matches;
                (records, capture, false)
            }
            Some(frame) => {
                let steps = self.records.as_ref().map_or(&[][..], |path| &path.steps);
                if frame.expands {
                    return (Some(steps.len()), None, true);
                }
                let records = frame.records.filter(|&at| match steps.get(at) {
                    Some(Step::Wildcard) => true,
                    Some(Step::Index(index)) => *index == frame.index,
                    _ => false,
                });
                (records.map(|at| at + 1), None, ends_in_wildcard)
            }
        }
    }

    fn match_key(&mut self) -> Result<(), DocumentError> {
        let name: std::borrow::Cow<'_, str> = if self.key.contains(&b'\\') {
            let mut quoted = vec![b'"'];
            quoted.extend_from_slice(&self.key);
            quoted.push(b'"');
            let name = serde_json::from_slice::<String>(&quoted);
            name.map_err(|_| self.error("not valid JSON: a name is malformed"))?.into()
        } else {
            let name = std::str::from_utf8(&self.key);
            name.map_err(|_| self.error("a name is not valid UTF-8"))?.into()
        };
        let step = |steps: &[Step], at: usize| matches!(steps.get(at), Some(Step::Member(wanted)) if *wanted == name);
        let frame = self.stack.last().expect("a key is only read inside an object");
        let records = self.records.as_ref().map_or(&[][..], |path| &path.steps);
        self.key_matches = (
            frame.records.filter(|&at| step(records, at)).map(|at| at + 1),
            frame.capture.filter(|&at| step(&self.capture, at)).map(|at| at + 1),
        );
        Ok(())
    }

    /// Decides what to do with the value that starts with `byte`.
    fn start_value(&mut self, byte: u8) -> Result<(), DocumentError> {
        if matches!(byte, b'}' | b']' | b',' | b':') {
            return Err(self.unexpected(byte, "a value"));
        }
        if self.stack.is_empty() && !matches!(byte, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') {
            return Err(self.unexpected(byte, "a document"));
        }
        let (records, capture, is_element) = self.matches_here();
        let steps = self.records.as_ref().map_or(0, |path| path.steps.len());
        let container = matches!(byte, b'{' | b'[');
        if self.records.is_some() && records == Some(steps) {
            self.found_path = true;
            if byte == b'[' && !is_element {
                self.push(false, None, capture, true);
            } else if byte == b'n' && !is_element {
                // `null` where the records should be: there are none.
                self.begin_scan(Target::Skip, byte, None);
            } else {
                self.begin_scan(Target::Record, byte, capture);
            }
            return Ok(());
        }
        let wildcard_next = records.is_some_and(|at| {
            self.records.as_ref().is_some_and(|path| matches!(path.steps.get(at), Some(Step::Wildcard)))
        });
        if wildcard_next {
            self.found_path = true;
            if !matches!(byte, b'[' | b'n') {
                let path = self.records.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(self.error(format!("what `{path}` takes apart is not an array")));
            }
        }
        if self.wants_capture && capture == Some(self.capture.len()) {
            self.begin_scan(Target::Capture, byte, None);
        } else if container && (records.is_some() || capture.is_some()) {
            self.push(byte == b'{', records, capture, false);
        } else {
            self.begin_scan(Target::Skip, byte, None);
        }
        Ok(())
    }

    fn push(&mut self, is_object: bool, records: Match, capture: Match, expands: bool) {
        self.stack.push(Frame { is_object, records, capture, index: 0, expands });
        self.state = if is_object { State::KeyOrEnd } else { State::ValueOrEnd };
    }

    fn begin_scan(&mut self, target: Target, byte: u8, capture: Match) {
        let shape = match byte {
            b'{' | b'[' => Shape::Container,
            b'"' => Shape::String,
            _ => Shape::Literal,
        };
        self.held.clear();
        self.scan = Scan { target, shape, depth: 0, in_string: false, escaped: false, size: 0, capture };
        self.state = State::Scan;
    }

    /// Consumes bytes of the scanned value; returns how many, and whether it has ended.
    fn scan_bytes(&mut self, bytes: &[u8]) -> (usize, bool) {
        let scan = &mut self.scan;
        let mut ended = None;
        for (at, &byte) in bytes.iter().enumerate() {
            if scan.in_string {
                match byte {
                    _ if scan.escaped => scan.escaped = false,
                    b'\\' => scan.escaped = true,
                    b'"' => {
                        scan.in_string = false;
                        if scan.shape == Shape::String {
                            ended = Some(at + 1);
                            break;
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match (byte, scan.shape) {
                (b'"', Shape::Container | Shape::String) => scan.in_string = true,
                (b'{' | b'[', Shape::Container) => scan.depth += 1,
                (b'}' | b']', Shape::Container) => {
                    scan.depth -= 1;
                    if scan.depth == 0 {
                        ended = Some(at + 1);
                        break;
                    }
                }
                (b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n', Shape::Literal) => {
                    ended = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let used = ended.unwrap_or(bytes.len());
        let piece = &bytes[..used];
        scan.size += used;
        if scan.target != Target::Skip {
            if scan.size <= RECORD_LIMIT_BYTES {
                self.held.extend_from_slice(piece);
            } else if self.held.len() > KEPT_BYTES {
                self.held.truncate(KEPT_BYTES);
                self.held.shrink_to_fit();
            } else {
                let room = KEPT_BYTES - self.held.len();
                self.held.extend_from_slice(&piece[..room.min(used)]);
            }
        }
        self.line += piece.iter().filter(|&&byte| byte == b'\n').count() as u64;
        (used, ended.is_some())
    }

    fn end_scan(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        self.state = if self.stack.is_empty() { State::Done } else { State::AfterValue };
        // A document may be one line; the number of the record says more.
        let line = None;
        match self.scan.target {
            Target::Skip => {}
            Target::Record if self.scan.size > RECORD_LIMIT_BYTES => {
                let detail =
                    format!("record of {} bytes is longer than the limit of {RECORD_LIMIT_BYTES}", self.scan.size);
                found.rejected(line, &self.held, QuarantineReason::RecordLimit, detail);
            }
            Target::Record => {
                if let Some(at) = self.scan.capture.filter(|_| self.wants_capture) {
                    let mut inner = Self::with(None, Some(self.capture[at..].to_vec()));
                    // A record that is no valid JSON goes to quarantine; then it has no link either.
                    if inner.feed(&self.held, found).is_ok() && inner.captured.is_some() {
                        self.captured = inner.captured;
                    }
                }
                found.record(line, std::mem::take(&mut self.held));
            }
            Target::Capture => {
                if self.scan.size > SMALL_LIMIT_BYTES {
                    return Err(self.error("the link to the next page is too long"));
                }
                self.captured = Some(std::mem::take(&mut self.held));
            }
        }
        Ok(())
    }

    fn pop(&mut self) {
        self.stack.pop();
        self.state = if self.stack.is_empty() { State::Done } else { State::AfterValue };
    }

    /// One byte of structure. Values are not consumed here, only recognised.
    fn structure(&mut self, byte: u8) -> Result<bool, DocumentError> {
        if let State::InKey { escaped } = self.state {
            match byte {
                b'"' if !escaped => {
                    self.match_key()?;
                    self.state = State::Colon;
                }
                _ if self.key.len() >= SMALL_LIMIT_BYTES => return Err(self.error("a name is too long")),
                _ => {
                    self.key.push(byte);
                    self.state = State::InKey { escaped: byte == b'\\' && !escaped };
                }
            }
            return Ok(true);
        }
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            self.line += u64::from(byte == b'\n');
            return Ok(true);
        }
        if !self.started && matches!(byte, 0xef | 0xbb | 0xbf) {
            // The byte order mark, which some servers send.
            return Ok(true);
        }
        self.started = true;
        match (self.state, byte) {
            (State::ValueOrEnd, b']') | (State::KeyOrEnd, b'}') => self.pop(),
            (State::Value | State::ValueOrEnd, _) => {
                self.start_value(byte)?;
                // A container on the way is entered, a scanned value still has all its bytes to come.
                return Ok(self.state != State::Scan);
            }
            (State::Key | State::KeyOrEnd, b'"') => {
                self.key.clear();
                self.state = State::InKey { escaped: false };
            }
            (State::Key | State::KeyOrEnd, _) => return Err(self.unexpected(byte, "a name in quotes")),
            (State::Colon, b':') => self.state = State::Value,
            (State::Colon, _) => return Err(self.unexpected(byte, "`:`")),
            (State::AfterValue, _) => {
                let frame = self.stack.last_mut().expect("what follows a value is inside something");
                match (byte, frame.is_object) {
                    (b',', true) => self.state = State::Key,
                    (b',', false) => {
                        frame.index += 1;
                        self.state = State::Value;
                    }
                    (b'}', true) | (b']', false) => self.pop(),
                    (_, true) => return Err(self.unexpected(byte, "`,` or `}`")),
                    (_, false) => return Err(self.unexpected(byte, "`,` or `]`")),
                }
            }
            (State::Done, _) => {
                return Err(
                    self.error("there is more after the end of the document; is it `ndjson`, one document a line?")
                );
            }
            (State::Scan | State::InKey { .. }, _) => unreachable!("handled before"),
        }
        Ok(true)
    }
}

impl Parse for Splitter {
    fn feed(&mut self, mut bytes: &[u8], found: &mut Found) -> Result<(), DocumentError> {
        while let Some(&byte) = bytes.first() {
            if self.state == State::Scan {
                let (used, ended) = self.scan_bytes(bytes);
                bytes = &bytes[used..];
                if ended {
                    self.end_scan(found)?;
                }
            } else if self.structure(byte)? {
                bytes = &bytes[1..];
            }
        }
        Ok(())
    }

    fn finish(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        if self.state == State::Scan && self.stack.is_empty() && self.scan.shape == Shape::Literal {
            self.end_scan(found)?;
        }
        if self.state != State::Done {
            return Err(self.error(if self.started { "the document ends early" } else { "the document is empty" }));
        }
        match &self.records {
            Some(path) if !self.found_path => {
                Err(DocumentError { line: None, problem: format!("the document has nothing at `{path}` (`records`)") })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Item;

    fn split_in(
        records: &str,
        next: Option<&str>,
        document: &[u8],
        step: usize,
    ) -> Result<(Vec<String>, Option<String>), String> {
        let next: Option<JsonPath> = next.map(|path| path.parse().unwrap());
        let mut splitter = Splitter::new(records.parse().unwrap(), next.as_ref());
        let mut found = Found::new("d".into(), None, 0);
        let mut run = || {
            for piece in document.chunks(step) {
                splitter.feed(piece, &mut found)?;
            }
            splitter.finish(&mut found)
        };
        run().map_err(|error: DocumentError| error.problem)?;
        let captured = splitter.captured().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let items = found.take(usize::MAX, usize::MAX).into_iter();
        Ok((items.map(|item: Item| String::from_utf8_lossy(item.raw()).into_owned()).collect(), captured))
    }

    /// Every cut of the document gives the same.
    fn split(records: &str, next: Option<&str>, document: &str) -> Result<(Vec<String>, Option<String>), String> {
        let whole = split_in(records, next, document.as_bytes(), usize::MAX);
        for step in [1, 2, 3, 7] {
            assert_eq!(split_in(records, next, document.as_bytes(), step), whole, "{document} by {step}");
        }
        whole
    }

    fn records(path: &str, document: &str) -> Vec<String> {
        split(path, None, document).unwrap().0
    }

    #[test]
    fn an_array_is_taken_apart_and_an_object_is_one_record() {
        let two = ["{\"a\": 1}", "{\"b\":[1,{}]}"];
        assert_eq!(records("$", " [ {\"a\": 1} ,{\"b\":[1,{}]}] "), two);
        assert_eq!(records("$[*]", "[{\"a\": 1},{\"b\":[1,{}]}]\n"), two);
        assert_eq!(records("$", "{\"a\":1e400}"), ["{\"a\":1e400}"]);
        assert_eq!(records("$", "\u{feff}[]"), [""; 0]);
        assert_eq!(records("$", "[[1],2,\"x\\\"]\",null]"), ["[1]", "2", "\"x\\\"]\"", "null"]);
    }

    #[test]
    fn paths_lead_to_the_records_past_everything_else() {
        let document = r#"{"skip":[{"results":[9]}],"a":{"x":"}","results":[{"n":1},{"n":2}],"y":{}},"z":"\"]"}"#;
        assert_eq!(records("$.a.results", document), [r#"{"n":1}"#, r#"{"n":2}"#]);
        assert_eq!(records("$.a.results[*]", document), [r#"{"n":1}"#, r#"{"n":2}"#]);
        assert_eq!(records("$['a'].results[1]", document), [r#"{"n":2}"#]);
        assert_eq!(records("$.a", r#"{"a":{"n":1}}"#), [r#"{"n":1}"#]);
        assert_eq!(
            records("$.a[*].b", r#"{"a":[{"b":[{"n":1},{"n":2}]},{"c":0},{"b":{"n":3}}]}"#),
            [r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#]
        );
        assert_eq!(records("$.データ", r#"{"\u30c7ータ":[{}]}"#), ["{}"]);
        assert_eq!(records("$.a", r#"{"a":null}"#), [""; 0]);
    }

    #[test]
    fn the_next_link_is_captured_before_behind_and_around_the_records() {
        for document in [r#"{"next":"/p2","results":[{"next":"no"}]}"#, r#"{"results":[{"next":"no"}],"next":"/p2"}"#] {
            let (records, next) = split("$.results", Some("$.next"), document).unwrap();
            assert_eq!((records.len(), next.as_deref()), (1, Some("\"/p2\"")));
        }
        let (records, next) = split("$", Some("$.paging.next"), r#"{"id":1,"paging":{"next":null}}"#).unwrap();
        assert_eq!((records.len(), next.as_deref()), (1, Some("null")));
        assert_eq!(split("$.results", Some("$.next"), r#"{"results":[]}"#).unwrap(), (vec![], None));
    }

    #[test]
    fn broken_documents_say_what_is_wrong() {
        for (path, document, says) in [
            ("$", "", "empty"),
            ("$", "[{}", "ends early"),
            ("$", "<html>", "a document"),
            ("$", "[{},]", "a value"),
            ("$", "[{} {}]", "`,` or `]`"),
            ("$", "{}\n{}", "ndjson"),
            ("$.a", r#"{"b":1}"#, "`$.a`"),
            ("$.a[*]", r#"{"a":{"b":1}}"#, "not an array"),
            ("$.a", r#"{a:1}"#, "a name in quotes"),
            ("$.a", r#"{"a" 1}"#, "`:`"),
        ] {
            let error = split(path, None, document).unwrap_err();
            assert!(error.contains(says), "{document}: {error}");
        }
    }

    #[test]
    fn a_broken_record_does_not_take_its_neighbours_along() {
        assert_eq!(records("$", r#"[{"a":1],{"b":nope},{"c":3}]"#), [r#"{"a":1]"#, r#"{"b":nope}"#, r#"{"c":3}"#]);
    }

    #[test]
    fn a_record_at_the_limit_passes_and_one_past_it_is_rejected() {
        let record = |size: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(size - 8));
        let document = format!("[{},{},{{}}]", record(RECORD_LIMIT_BYTES), record(RECORD_LIMIT_BYTES + 1));
        let mut splitter = Splitter::new(JsonPath::root(), None);
        let mut found = Found::new("d".into(), None, 0);
        for piece in document.as_bytes().chunks(65_536) {
            splitter.feed(piece, &mut found).unwrap();
        }
        splitter.finish(&mut found).unwrap();
        let items = found.take(9, usize::MAX);
        assert!(matches!(&items[0], Item::Record { raw, .. } if raw.len() == RECORD_LIMIT_BYTES));
        assert!(
            matches!(&items[1], Item::Rejected { raw, reason: QuarantineReason::RecordLimit, .. } if raw.len() == KEPT_BYTES)
        );
        assert!(matches!(&items[2], Item::Record { raw, .. } if raw == b"{}"));
    }
}

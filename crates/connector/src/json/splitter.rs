//! Finds the records of a JSON document while it streams by, holding one record at most.
//!
//! Only the structure on the way to the records is parsed; what is inside a record is left to the canonical form,
//! and what is beside the path is passed over. Nothing here recurses, so nesting costs no stack.

use matome_model::canonical::QuarantineReason;
use matome_model::field_error::Words;
use matome_model::say;

use super::form::{Formed, Former, RecordForm};
use super::path::{JsonPath, Step};
use crate::record::{DocumentError, Found, Parse};

/// A record longer than this is rejected; so much of one is held at most.
pub(crate) const RECORD_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// How much of a rejected record is kept.
pub(crate) const KEPT_BYTES: usize = 64 * 1024;
/// Names on the way to the records, and captured values.
const SMALL_LIMIT_BYTES: usize = 64 * 1024;

/// How far a path is matched at some place: so many steps, or not at all.
type Match = Option<usize>;

struct Frame {
    is_object: bool,
    records: Match,
    captures: Vec<Match>,
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
    /// How far each capture is matched by the value itself.
    captures: Vec<Match>,
}

/// A value besides the records that is wanted.
struct Capture {
    path: String,
    steps: Vec<Step>,
    value: Option<Vec<u8>>,
}

/// Splits one document. A fresh one is needed for the next.
pub(crate) struct Splitter {
    records: Option<JsonPath>,
    captures: Vec<Capture>,
    former: Former,
    /// The capture that has the names of columns.
    header: Option<usize>,
    /// The name under which the record stands that is being read.
    name: Option<Vec<u8>>,
    stack: Vec<Frame>,
    state: State,
    key: Vec<u8>,
    key_matches: (Match, Vec<Match>),
    scan: Scan,
    held: Vec<u8>,
    line: u64,
    found_path: bool,
    started: bool,
}

impl Splitter {
    /// Yields what `records` selects (an array at its end is taken apart), and captures the values at `captures`,
    /// which are paths of members only.
    pub(crate) fn new(records: JsonPath, captures: &[&JsonPath]) -> Self {
        let capture = |path: &&JsonPath| Capture { path: path.to_string(), steps: path.steps.clone(), value: None };
        Self::with(Some(records), captures.iter().map(capture).collect())
    }

    /// The same, with records that are made in this form.
    pub(crate) fn forming(mut self, form: &RecordForm) -> Self {
        self.former = Former::new(form.clone());
        if let Some((path, steps)) = self.former.path() {
            self.header = Some(self.captures.len());
            self.captures.push(Capture { path: path.to_string(), steps: steps.to_vec(), value: None });
        }
        self
    }

    /// The values that one JSON text has at `paths`, which are paths of members only; none of a broken text.
    pub(crate) fn pick(text: &[u8], paths: &[&JsonPath]) -> Vec<Option<Vec<u8>>> {
        let capture = |path: &&JsonPath| Capture { path: path.to_string(), steps: path.steps.clone(), value: None };
        let mut splitter = Self::with(None, paths.iter().map(capture).collect());
        let mut found = Found::new("".into(), None, 0);
        match splitter.feed(text, &mut found).and_then(|()| splitter.finish(&mut found)) {
            Ok(()) => splitter.captures.into_iter().map(|capture| capture.value).collect(),
            Err(_) => vec![None; paths.len()],
        }
    }

    fn with(records: Option<JsonPath>, captures: Vec<Capture>) -> Self {
        Self {
            records,
            captures,
            former: Former::default(),
            header: None,
            name: None,
            stack: Vec::new(),
            state: State::Value,
            key: Vec::new(),
            key_matches: (None, Vec::new()),
            scan: Scan {
                target: Target::Skip,
                shape: Shape::Literal,
                depth: 0,
                in_string: false,
                escaped: false,
                size: 0,
                captures: Vec::new(),
            },
            held: Vec::new(),
            line: 1,
            found_path: false,
            started: false,
        }
    }

    /// The JSON text of a captured value, if the document has it; by its place in the list of captures.
    pub(crate) fn captured(&self, index: usize) -> Option<&[u8]> {
        self.captures.get(index)?.value.as_deref()
    }

    /// Whether the document has been read to its end.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == State::Done
    }

    fn error(&self, problem: impl Into<Words>) -> DocumentError {
        DocumentError::new(self.line, problem)
    }

    fn unexpected(&self, byte: u8, wanted: (&str, &str)) -> DocumentError {
        let (wanted, in_japanese) = wanted;
        let byte = char::from(byte).escape_default();
        self.error(say!(
            "not valid JSON: `{byte}` where {wanted} should be",
            "JSON として正しくありません: {in_japanese}があるはずの場所に `{byte}` があります"
        ))
    }

    /// How far both paths are matched by the value that starts now.
    fn matches_here(&mut self) -> (Match, Vec<Match>, bool) {
        let last = self.records.as_ref().and_then(|path| path.steps.last());
        let ends_in_wildcard = matches!(last, Some(Step::Wildcard | Step::Any));
        match self.stack.last() {
            None => (self.records.as_ref().map(|_| 0), vec![Some(0); self.captures.len()], false),
            Some(frame) if frame.is_object => {
                let (records, captures) = std::mem::take(&mut self.key_matches);
                let steps = self.records.as_ref().map(|path| path.steps.len());
                (records, captures, ends_in_wildcard && records.is_some() && records == steps)
            }
            Some(frame) => {
                let steps = self.records.as_ref().map_or(&[][..], |path| &path.steps);
                if frame.expands {
                    return (Some(steps.len()), Vec::new(), true);
                }
                let records = frame.records.filter(|&at| match steps.get(at) {
                    Some(Step::Wildcard | Step::Any) => true,
                    Some(Step::Index(index)) => *index == frame.index,
                    _ => false,
                });
                (records.map(|at| at + 1), Vec::new(), ends_in_wildcard)
            }
        }
    }

    fn match_key(&mut self) -> Result<(), DocumentError> {
        let name: std::borrow::Cow<'_, str> = if self.key.contains(&b'\\') {
            let mut quoted = vec![b'"'];
            quoted.extend_from_slice(&self.key);
            quoted.push(b'"');
            let name = serde_json::from_slice::<String>(&quoted);
            name.map_err(|_| {
                self.error(("not valid JSON: a name is malformed", "JSON として正しくありません: 名前の形が不正です"))
            })?
            .into()
        } else {
            let name = std::str::from_utf8(&self.key);
            name.map_err(|_| self.error(("a name is not valid UTF-8", "名前が UTF-8 として正しくありません")))?.into()
        };
        let step = |steps: &[Step], at: usize| matches!(steps.get(at), Some(Step::Member(wanted)) if *wanted == name);
        let frame = self.stack.last().expect("a key is only read inside an object");
        let records = self.records.as_ref().map_or(&[][..], |path| &path.steps);
        let captures = frame.captures.iter().zip(&self.captures);
        self.key_matches = (
            frame.records.filter(|&at| step(records, at) || records.get(at) == Some(&Step::Any)).map(|at| at + 1),
            captures.map(|(match_, capture)| match_.filter(|&at| step(&capture.steps, at)).map(|at| at + 1)).collect(),
        );
        Ok(())
    }

    /// Decides what to do with the value that starts with `byte`.
    fn start_value(&mut self, byte: u8) -> Result<(), DocumentError> {
        if matches!(byte, b'}' | b']' | b',' | b':') {
            return Err(self.unexpected(byte, ("a value", "値")));
        }
        if self.stack.is_empty() && !matches!(byte, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') {
            return Err(self.unexpected(byte, ("a document", "文書")));
        }
        let (records, captures, is_element) = self.matches_here();
        let steps = self.records.as_ref().map_or(0, |path| path.steps.len());
        let container = matches!(byte, b'{' | b'[');
        if self.records.is_some() && records == Some(steps) {
            self.found_path = true;
            if byte == b'[' && !is_element {
                self.push(false, None, Vec::new(), true);
            } else if byte == b'n' && !is_element {
                // `null` where the records should be: there are none.
                self.begin_scan(Target::Skip, byte, Vec::new());
            } else {
                let is_member = is_element && self.stack.last().is_some_and(|frame| frame.is_object);
                self.name = (is_member && self.former.wants_name()).then(|| self.key.clone());
                self.begin_scan(Target::Record, byte, captures);
            }
            return Ok(());
        }
        let next = records.and_then(|at| self.records.as_ref()?.steps.get(at));
        if let Some(wildcard @ (Step::Wildcard | Step::Any)) = next {
            let is_taken_apart = matches!(byte, b'[' | b'n') || *wildcard == Step::Any && byte == b'{';
            self.found_path = true;
            if !is_taken_apart {
                let path = self.records.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(self.error(say!(
                    "what `{path}` takes apart is not an array",
                    "`{path}` が取り出すものが配列ではありません"
                )));
            }
        }
        let is_captured =
            captures.iter().zip(&self.captures).any(|(match_, capture)| *match_ == Some(capture.steps.len()));
        if is_captured && records.is_none() {
            self.begin_scan(Target::Capture, byte, captures);
        } else if container && (records.is_some() || captures.iter().any(Option::is_some)) {
            self.push(byte == b'{', records, captures, false);
        } else {
            self.begin_scan(Target::Skip, byte, Vec::new());
        }
        Ok(())
    }

    fn push(&mut self, is_object: bool, records: Match, captures: Vec<Match>, expands: bool) {
        self.stack.push(Frame { is_object, records, captures, index: 0, expands });
        self.state = if is_object { State::KeyOrEnd } else { State::ValueOrEnd };
    }

    fn begin_scan(&mut self, target: Target, byte: u8, captures: Vec<Match>) {
        let shape = match byte {
            b'{' | b'[' => Shape::Container,
            b'"' => Shape::String,
            _ => Shape::Literal,
        };
        self.held.clear();
        self.scan = Scan { target, shape, depth: 0, in_string: false, escaped: false, size: 0, captures };
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
                let size = self.scan.size;
                let detail = say!(
                    "record of {size} bytes is longer than the limit of {RECORD_LIMIT_BYTES}",
                    "{size} バイトのレコードは上限の {RECORD_LIMIT_BYTES} バイトを超えています"
                );
                found.rejected(line, &self.held, QuarantineReason::RecordLimit, detail);
            }
            Target::Record => {
                self.capture_inside(found)?;
                let header = self.header.and_then(|at| self.captures[at].value.as_deref());
                match self.former.form(std::mem::take(&mut self.held), self.name.as_deref(), header)? {
                    Formed::Record(raw) => found.record(line, raw),
                    Formed::Rejected(raw, detail) => found.rejected(line, &raw, QuarantineReason::CsvWidth, detail),
                    Formed::Names => {}
                }
            }
            Target::Capture => {
                self.capture_inside(found)?;
                self.held.clear();
            }
        }
        Ok(())
    }

    /// Takes what is captured out of the value that has just ended: itself, or something inside of it.
    fn capture_inside(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        let matches = std::mem::take(&mut self.scan.captures);
        if matches.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut inner = Self::with(None, Vec::new());
        let mut outer = Vec::new();
        for (index, at) in matches.into_iter().enumerate() {
            let (Some(at), Some(capture)) = (at, self.captures.get_mut(index)) else { continue };
            if at < capture.steps.len() {
                outer.push(index);
                let (path, steps) = (capture.path.clone(), capture.steps[at..].to_vec());
                inner.captures.push(Capture { path, steps, value: None });
            } else if self.scan.size > SMALL_LIMIT_BYTES {
                let path = &capture.path;
                let problem = say!("what it has at `{path}` is too long", "`{path}` にあるものが長すぎます");
                return Err(DocumentError::new(self.line, problem));
            } else {
                capture.value = Some(self.held.clone());
            }
        }
        // What is no valid JSON goes to quarantine as a record; then it has nothing to capture either.
        if !outer.is_empty() && inner.feed(&self.held, found).is_ok() {
            for (index, capture) in outer.into_iter().zip(inner.captures) {
                if capture.value.is_some() {
                    self.captures[index].value = capture.value;
                }
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
                _ if self.key.len() >= SMALL_LIMIT_BYTES => {
                    return Err(self.error(("a name is too long", "名前が長すぎます")));
                }
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
            (State::Key | State::KeyOrEnd, _) => {
                return Err(self.unexpected(byte, ("a name in quotes", "引用符で囲んだ名前")));
            }
            (State::Colon, b':') => self.state = State::Value,
            (State::Colon, _) => return Err(self.unexpected(byte, ("`:`", " `:` "))),
            (State::AfterValue, _) => {
                let frame = self.stack.last_mut().expect("what follows a value is inside something");
                match (byte, frame.is_object) {
                    (b',', true) => self.state = State::Key,
                    (b',', false) => {
                        frame.index += 1;
                        self.state = State::Value;
                    }
                    (b'}', true) | (b']', false) => self.pop(),
                    (_, true) => return Err(self.unexpected(byte, ("`,` or `}`", "`,` か `}` "))),
                    (_, false) => return Err(self.unexpected(byte, ("`,` or `]`", "`,` か `]` "))),
                }
            }
            (State::Done, _) => {
                return Err(self.error((
                    "there is more after the end of the document; is it `ndjson`, one document a line?",
                    "文書の終わりのあとに続きがあります。1 行に 1 文書の `ndjson` ではありませんか",
                )));
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
            return Err(self.error(if self.started {
                ("the document ends early", "文書が途中で終わっています")
            } else {
                ("the document is empty", "文書が空です")
            }));
        }
        match &self.records {
            Some(path) if !self.found_path => Err(DocumentError::anywhere(say!(
                "the document has nothing at `{path}` (`records`)",
                "文書の `{path}` (`records`) に何もありません"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Names;
    use crate::record::Item;

    fn split_in(
        records: &str,
        next: Option<&str>,
        document: &[u8],
        step: usize,
    ) -> Result<(Vec<String>, Option<String>), String> {
        let next: Option<JsonPath> = next.map(|path| path.parse().unwrap());
        let mut splitter = Splitter::new(records.parse().unwrap(), &next.iter().collect::<Vec<_>>());
        let mut found = Found::new("d".into(), None, 0);
        let mut run = || {
            for piece in document.chunks(step) {
                splitter.feed(piece, &mut found)?;
            }
            splitter.finish(&mut found)
        };
        run().map_err(|error: DocumentError| error.problem.english)?;
        let captured = splitter.captured(0).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
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

    fn formed(records: &str, form: &RecordForm, document: &str) -> Result<Vec<String>, String> {
        let mut splitter = Splitter::new(records.parse().unwrap(), &[]).forming(form);
        let mut found = Found::new("d".into(), None, 0);
        let run = document.as_bytes().chunks(3).try_for_each(|piece| splitter.feed(piece, &mut found));
        run.and_then(|()| splitter.finish(&mut found)).map_err(|error| error.problem.english)?;
        let text = |item: Item| match item {
            Item::Rejected { raw, .. } => format!("rejected {}", String::from_utf8_lossy(&raw)),
            Item::Record { raw, .. } => String::from_utf8(raw).unwrap(),
        };
        Ok(found.take(usize::MAX, usize::MAX).into_iter().map(text).collect())
    }

    #[test]
    fn members_of_an_object_are_records_with_their_names_if_wanted() {
        let document = r#"{"more":1,"byId":{"17":{"n":1},"a\"b":{ },"x":[1,[2]],"y":null}}"#;
        let plain = RecordForm::default();
        assert_eq!(formed("$.byId.*", &plain, document).unwrap(), [r#"{"n":1}"#, "{ }", "[1,[2]]", "null"]);
        let named = RecordForm { name_as: Some("id".to_owned()), ..RecordForm::default() };
        let expected = [r#"{"id":"17","n":1}"#, r#"{"id":"a\"b" }"#, "[1,[2]]", "null"];
        assert_eq!(formed("$.byId.*", &named, document).unwrap(), expected);
        assert_eq!(formed("$.byId.*", &named, r#"{"byId":[{"n":1}]}"#).unwrap(), [r#"{"n":1}"#], "an empty map of PHP");
        assert_eq!(formed("$.*.rows", &plain, r#"{"a":{"rows":[1,2]},"b":{"rows":[3]}}"#).unwrap(), ["1", "2", "3"]);
        assert_eq!(formed("$.a.*.b", &plain, r#"{"a":[{"b":1},{"b":2}]}"#).unwrap(), ["1", "2"]);
        assert!(formed("$.a[*]", &plain, r#"{"a":{"b":1}}"#).unwrap_err().contains("is not an array"));
    }

    #[test]
    fn lists_of_values_become_objects_by_the_names_beside_them() {
        let header = |names| RecordForm { header: Some(names), name_as: None };
        let at = |path: &str| header(Names::At(path.parse().unwrap()));
        let document = r#"{"columns":["a","b"],"rows":[[1,"x"],[1.50],[1,2,3],{"a":1}]}"#;
        let expected = [r#"{"a":1,"b":"x"}"#, r#"{"a":1.50}"#, "rejected [1,2,3]", r#"{"a":1}"#];
        assert_eq!(formed("$.rows", &at("$.columns"), document).unwrap(), expected);
        let document = r#"{"schema":{"fields":[{"name":"a","type":"INT"},{"name":"b"}]},"rows":[[1,[2]]]}"#;
        assert_eq!(formed("$.rows", &at("$.schema.fields[*].name"), document).unwrap(), [r#"{"a":1,"b":[2]}"#]);
        let given = header(Names::Given(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(formed("$", &given, "[[1,2],[3,4]]").unwrap(), [r#"{"a":1,"b":2}"#, r#"{"a":3,"b":4}"#]);
        let first = header(Names::First);
        assert_eq!(
            formed("$.values", &first, r#"{"values":[["x",2026],["y",1]]}"#).unwrap(),
            [r#"{"x":"y","2026":1}"#]
        );
        for document in [
            r#"{"rows":[[1]],"columns":["a"]}"#,
            r#"{"columns":["a","a"],"rows":[[1]]}"#,
            r#"{"columns":7,"rows":[[1]]}"#,
        ] {
            let error = formed("$.rows", &at("$.columns"), document).unwrap_err();
            assert!(error.contains("no names of columns at `$.columns` before the records"), "{error}");
        }
        assert!(formed("$.rows", &at("$.columns"), r#"{"rows":[]}"#).unwrap().is_empty());
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
    fn several_values_are_captured_even_inside_of_each_other() {
        let paths: Vec<JsonPath> =
            ["$.error", "$.error.message", "$.meta.next", "$.none"].map(|path| path.parse().unwrap()).into();
        let paths: Vec<&JsonPath> = paths.iter().collect();
        let document = br#"{"meta":{"next":7,"x":[{"next":8}]},"error":{"message":"no \"key\""},"rows":[{"error":1}]}"#;
        let expected = [Some("{\"message\":\"no \\\"key\\\"\"}"), Some("\"no \\\"key\\\"\""), Some("7"), None];
        for step in [1, 5, 1000] {
            let mut splitter = Splitter::new("$.rows".parse().unwrap(), &paths);
            let mut found = Found::new("d".into(), None, 0);
            for piece in document.chunks(step) {
                splitter.feed(piece, &mut found).unwrap();
            }
            splitter.finish(&mut found).unwrap();
            let captured = (0..4).map(|at| splitter.captured(at).map(|text| std::str::from_utf8(text).unwrap()));
            assert_eq!(captured.collect::<Vec<_>>(), expected);
        }
        let picked = Splitter::pick(document, &paths);
        assert_eq!(
            picked.iter().map(|text| text.as_ref().map(|text| std::str::from_utf8(text).unwrap())).collect::<Vec<_>>(),
            expected
        );
        assert_eq!(Splitter::pick(b"{\"error\":", &paths), [None, None, None, None]);
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
        let mut splitter = Splitter::new(JsonPath::root(), &[]);
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

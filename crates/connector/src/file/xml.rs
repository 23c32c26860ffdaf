//! XML, element by element: each one at the path of the records becomes an object, and never more than one is held.
//!
//! Nothing is loaded and nothing is expanded: a document type is passed over, and of entities only the five of XML itself and
//! numbers of characters are known.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

use matome_model::canonical::{QuarantineReason, write_string};
use matome_model::field_error::Words;
use matome_model::say;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::compression::{CHUNK_BYTES, Input};
use super::lines::{KEPT_BYTES, LINE_LIMIT_BYTES};
use super::text::{MARK, Stream, is_marked, restore};
use crate::record::{Broken, DocumentError, Found, Pull};

/// Elements within each other that a record may have: as many as objects, one for each.
const DEPTH_LIMIT: usize = 120;
/// How much a reader finds before it hands over.
const STEP_EVENTS: usize = 1000;

/// Where the records of a document are: the names of elements from its root on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmlPath {
    /// `None` is any.
    steps: Vec<Option<String>>,
}

impl XmlPath {
    /// Each child of the root.
    pub(super) fn children() -> Self {
        Self { steps: vec![None, None] }
    }

    fn matches(&self, path: &[String]) -> bool {
        let fits = |(step, name): (&Option<String>, &String)| match step {
            None => true,
            // With its prefix as it is written, or without.
            Some(step) => step == name || name.rsplit_once(':').is_some_and(|(_, local)| local == step),
        };
        path.len() == self.steps.len() && self.steps.iter().zip(path).all(fits)
    }
}

impl std::str::FromStr for XmlPath {
    type Err = Words;

    fn from_str(text: &str) -> Result<Self, Words> {
        let parts: Vec<&str> = text.strip_prefix('/').unwrap_or(text).split('/').collect();
        let is_name = |part: &&str| {
            !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || "<>&\"'$[]@()=".contains(c))
        };
        if !parts.iter().all(is_name) {
            return Err(Words::new(
                "Give the names of elements from the root to the records, for example `catalog/book`; `*` is any.",
                "ルートからレコードまでの要素の名前を指定してください。例: `catalog/book`。`*` はどれでも合います。",
            ));
        }
        Ok(Self { steps: parts.into_iter().map(|part| (part != "*").then(|| part.to_owned())).collect() })
    }
}

/// An element whose end has not come.
#[derive(Default)]
struct Element {
    name: String,
    /// The JSON of attributes and children by name, in the order of their first.
    members: Vec<(String, Vec<Vec<u8>>)>,
    places: HashMap<String, usize>,
    has_children: bool,
    /// What stands between children.
    texts: Vec<String>,
    text: String,
}

impl Element {
    fn add(&mut self, name: String, value: Vec<u8>) {
        let place = *self.places.entry(name.clone()).or_insert(self.members.len());
        if place == self.members.len() {
            self.members.push((name, Vec::new()));
        }
        self.members[place].1.push(value);
    }

    fn end_text(&mut self) {
        if !self.text.is_empty() {
            self.texts.push(std::mem::take(&mut self.text));
        }
    }

    /// A string, if it is nothing but text and no record; else an object.
    fn json(mut self, is_record: bool) -> Vec<u8> {
        self.end_text();
        // What only puts children on lines of their own is no text.
        if self.has_children {
            self.texts.retain(|text| !text.chars().all(|c| matches!(c, ' ' | '\t' | '\r' | '\n')));
        }
        let mut out = Vec::new();
        if self.members.is_empty() && !is_record {
            write_string(&mut out, &self.texts.concat());
            return out;
        }
        if !self.texts.is_empty() {
            let texts = self.texts.iter().map(|text| {
                let mut json = Vec::new();
                write_string(&mut json, text);
                json
            });
            self.members.push(("#text".to_owned(), texts.collect()));
        }
        for (index, (name, values)) in self.members.iter().enumerate() {
            out.push(if index == 0 { b'{' } else { b',' });
            write_string(&mut out, name);
            out.push(b':');
            match values.as_slice() {
                [value] => out.extend_from_slice(value),
                values => {
                    out.push(b'[');
                    out.extend_from_slice(&values.join(&b","[..]));
                    out.push(b']');
                }
            }
        }
        if self.members.is_empty() {
            out.push(b'{');
        }
        out.push(b'}');
        out
    }
}

/// A record on its way.
struct Record {
    line: u64,
    stack: Vec<Element>,
    /// Elements that are open in it, also those that are not kept any more.
    depth: usize,
    problem: Option<(QuarantineReason, Words)>,
}

impl Record {
    fn fail(&mut self, reason: QuarantineReason, problem: Words) {
        if self.problem.is_none() {
            self.problem = Some((reason, problem));
            self.stack.clear();
        }
    }

    fn start(&mut self, start: &BytesStart<'_>) {
        self.depth += 1;
        if self.problem.is_some() {
            return;
        }
        if self.stack.len() >= DEPTH_LIMIT {
            let problem = say!(
                "more than {DEPTH_LIMIT} elements lie within each other",
                "要素が {DEPTH_LIMIT} より深く重なっています"
            );
            return self.fail(QuarantineReason::Depth, problem);
        }
        let mut element = Element { name: start.name().as_ref().to_owned(), ..Element::default() };
        for attribute in start.attributes() {
            let value = attribute.map_err(|error| error.to_string()).and_then(|attribute| {
                let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
                Ok((format!("@{}", attribute.key.as_ref()), value.into_owned()))
            });
            match value {
                Ok((name, value)) => {
                    let mut json = Vec::new();
                    write_string(&mut json, &value);
                    element.add(name, json);
                }
                Err(error) => {
                    let name = &element.name;
                    let problem = say!(
                        "an attribute of `{name}` can not be read: {error}",
                        "`{name}` の属性を読めません: {error}"
                    );
                    return self.fail(QuarantineReason::InvalidXml, problem);
                }
            }
        }
        if let Some(parent) = self.stack.last_mut() {
            parent.end_text();
            parent.has_children = true;
        }
        self.stack.push(element);
    }

    /// Ends an element; the object, when it was the record itself.
    fn end(&mut self) -> Option<Vec<u8>> {
        self.depth -= 1;
        let element = self.stack.pop()?;
        if self.depth == 0 {
            return Some(element.json(true));
        }
        if let Some(parent) = self.stack.last_mut() {
            let name = element.name.clone();
            parent.add(name, element.json(false));
        }
        None
    }

    fn text(&mut self, text: &str) {
        if let Some(element) = self.stack.last_mut() {
            element.text.push_str(text);
        }
    }

    fn reference(&mut self, reference: &quick_xml::events::BytesRef<'_>) {
        let name = reference.xml10_content();
        let resolved = match reference.resolve_char_ref() {
            Ok(Some(character)) => Some(character),
            Ok(None) => match name.as_ref() {
                "lt" => Some('<'),
                "gt" => Some('>'),
                "amp" => Some('&'),
                "apos" => Some('\''),
                "quot" => Some('"'),
                _ => None,
            },
            Err(_) => None,
        };
        match resolved {
            Some(character) => self.text(character.encode_utf8(&mut [0; 4])),
            None => {
                let problem = say!(
                    "`&{name};` is no entity of XML itself, and no other is expanded",
                    "`&{name};` は XML 自身の実体ではなく、ほかの実体は展開しません"
                );
                self.fail(QuarantineReason::InvalidXml, problem);
            }
        }
    }
}

/// Takes the elements of a document apart.
pub(super) struct Xml<'d> {
    path: XmlPath,
    reader: Reader<Source<'d>>,
    buffer: Vec<u8>,
    /// The names of what is open around the records.
    open: Vec<String>,
    record: Option<Record>,
    has_root: bool,
}

impl<'d> Xml<'d> {
    pub(super) fn new(path: XmlPath, input: Input<'d>, stream: Stream, start: Vec<u8>) -> Self {
        let mut reader = Reader::from_reader(Source::new(input, stream, start));
        reader.config_mut().check_end_names = true;
        Self { path, reader, buffer: Vec::new(), open: Vec::new(), record: None, has_root: false }
    }

    fn begin(&mut self, start: &BytesStart<'_>, line: u64) {
        match &mut self.record {
            Some(record) => record.start(start),
            None => {
                self.has_root = true;
                self.open.push(start.name().as_ref().to_owned());
                if self.path.matches(&self.open) {
                    let mut record = Record { line, stack: Vec::new(), depth: 0, problem: None };
                    record.start(start);
                    self.record = Some(record);
                }
            }
        }
    }

    fn end(&mut self, found: &mut Found) {
        let Some(record) = &mut self.record else {
            self.open.pop();
            return;
        };
        let object = record.end();
        if record.depth > 0 {
            return;
        }
        self.open.pop();
        let Some(record) = self.record.take() else { return };
        let source = &*self.reader.get_mut();
        let encoding = source.stream.encoding();
        let line = Some(record.line);
        let kept = || restore(&source.held, encoding);
        match (object, record.problem) {
            (_, Some((reason, detail))) => found.rejected(line, &kept(), reason, detail),
            _ if source.is_marked => {
                let name = encoding.name();
                let detail = say!("the record is not valid {name}", "レコードが {name} として正しくありません");
                found.rejected(line, &kept(), QuarantineReason::Encoding, detail);
            }
            (Some(object), None) => found.record(line, object),
            (None, None) => {}
        }
    }

    fn error(&mut self, error: quick_xml::Error) -> Broken {
        let line = self.reader.get_mut().line;
        match error {
            quick_xml::Error::Io(error) => match std::sync::Arc::try_unwrap(error) {
                Ok(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                    let problem = say!(
                        "a text, a tag or a comment is longer than {LINE_LIMIT_BYTES} bytes",
                        "テキスト、タグ、コメントのどれかが {LINE_LIMIT_BYTES} バイトを超えています"
                    );
                    DocumentError::new(line, problem).into()
                }
                Ok(error) => error.into(),
                Err(shared) => io::Error::new(shared.kind(), shared.to_string()).into(),
            },
            error => {
                DocumentError::new(line, say!("not well-formed XML: {error}", "整形式の XML ではありません: {error}"))
                    .into()
            }
        }
    }
}

impl Pull for Xml<'_> {
    fn next(&mut self, found: &mut Found) -> Result<bool, Broken> {
        for _ in 0..STEP_EVENTS {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let source = self.reader.get_mut();
            source.token = 0;
            let line = source.line;
            if self.record.is_none() {
                source.hold_anew();
            }
            let event = match self.reader.read_event_into(&mut buffer) {
                Ok(event) => event,
                Err(error) => return Err(self.error(error)),
            };
            match event {
                Event::Start(start) => self.begin(&start, line),
                Event::Empty(start) => {
                    self.begin(&start, line);
                    self.end(found);
                }
                Event::End(_) => self.end(found),
                Event::Text(text) => {
                    if let Some(record) = &mut self.record {
                        record.text(&text.xml10_content());
                    }
                }
                Event::CData(text) => {
                    if let Some(record) = &mut self.record {
                        record.text(&text.xml10_content());
                    }
                }
                Event::GeneralRef(reference) => {
                    if let Some(record) = &mut self.record {
                        record.reference(&reference);
                    }
                }
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
                Event::Eof => return self.ended(),
            }
            self.buffer = buffer;
            let size = self.reader.get_mut().held_size;
            if let Some(record) = self.record.as_mut().filter(|_| size > LINE_LIMIT_BYTES) {
                let problem = say!(
                    "record is longer than the limit of {LINE_LIMIT_BYTES} bytes",
                    "レコードが上限の {LINE_LIMIT_BYTES} バイトを超えています"
                );
                record.fail(QuarantineReason::RecordLimit, problem);
            }
        }
        Ok(true)
    }
}

impl Xml<'_> {
    fn ended(&mut self) -> Result<bool, Broken> {
        let line = self.reader.get_mut().line;
        if !self.open.is_empty() {
            let name = self.open.join("/");
            let problem = say!("the document ends inside of `{name}`", "文書が `{name}` の途中で終わっています");
            return Err(DocumentError::new(line, problem).into());
        }
        if !self.has_root {
            let problem = ("there is no element in it, so it is no XML", "要素が一つもないので、XML ではありません");
            return Err(DocumentError::new(line, problem).into());
        }
        Ok(false)
    }
}

/// The text of a document for the parser, and the record that it is at as it was.
struct Source<'d> {
    input: Input<'d>,
    stream: Stream,
    /// Decoded, with marks.
    piece: Vec<u8>,
    /// The same with a character in the place of each mark, since the parser takes nothing but UTF-8.
    clean: Vec<u8>,
    at: usize,
    ended: bool,
    line: u64,
    held: Vec<u8>,
    held_size: usize,
    /// Whether bytes in it mean nothing.
    is_marked: bool,
    /// Bytes since the last event.
    token: usize,
}

impl<'d> Source<'d> {
    fn new(input: Input<'d>, stream: Stream, start: Vec<u8>) -> Self {
        let mut source = Self {
            input,
            stream,
            piece: Vec::new(),
            clean: Vec::new(),
            at: 0,
            ended: false,
            line: 1,
            held: Vec::new(),
            held_size: 0,
            is_marked: false,
            token: 0,
        };
        source.decode(&start, false);
        source
    }

    fn decode(&mut self, bytes: &[u8], last: bool) {
        self.piece = self.stream.decode(bytes, last);
        self.clean.clear();
        self.clean.extend_from_slice(&self.piece);
        let mut rest = self.clean.as_mut_slice();
        while let Some(at) = rest.iter().position(|byte| *byte == MARK) {
            let end = (at + 3).min(rest.len());
            rest[at..end].copy_from_slice(&"\u{fffd}".as_bytes()[..end - at]);
            rest = &mut rest[end..];
        }
        self.at = 0;
    }

    fn hold_anew(&mut self) {
        self.held.clear();
        self.held_size = 0;
        self.is_marked = false;
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.clean.len() && !self.ended {
            let mut buffer = vec![0; CHUNK_BYTES];
            let read = self.input.read(&mut buffer)?;
            self.ended = read == 0;
            self.decode(&buffer[..read], self.ended);
        }
        // The parser holds a token whole.
        if self.token > LINE_LIMIT_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(&self.clean[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        let taken = &self.piece[self.at..self.at + amount];
        self.line += taken.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.held_size += amount;
        self.is_marked |= is_marked(taken);
        let room = KEPT_BYTES.saturating_sub(self.held.len());
        self.held.extend_from_slice(&taken[..amount.min(room)]);
        self.token += amount;
        self.at += amount;
    }
}

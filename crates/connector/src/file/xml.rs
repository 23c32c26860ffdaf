//! XML, element by element: each one at the path of the records becomes an object, and never more than one is held.
//!
//! Nothing is loaded and nothing is expanded: a document type is passed over, and of entities only the five of XML itself and
//! numbers of characters are known.

mod element;
mod source;
mod tokens;

use encoding_rs::Encoding;
use matome_model::canonical::QuarantineReason;
use matome_model::field_error::Words;
use matome_model::say;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::lines::LINE_LIMIT_BYTES;
use super::text::restore;
use crate::record::{DocumentError, Found, Parse};
use element::Record;
use source::Source;

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

    /// The root itself.
    pub(super) fn root() -> Self {
        Self { steps: vec![None] }
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

/// Takes the elements of a document apart.
pub(super) struct Xml {
    path: XmlPath,
    /// What the text was in.
    encoding: &'static Encoding,
    reader: Reader<Source>,
    buffer: Vec<u8>,
    /// The names of what is open around the records.
    open: Vec<String>,
    record: Option<Record>,
    has_root: bool,
}

impl Xml {
    /// Of a text that was in `encoding` and comes decoded, with marks for what means nothing.
    pub(super) fn new(path: XmlPath, encoding: &'static Encoding) -> Self {
        let mut reader = Reader::from_reader(Source::default());
        reader.config_mut().check_end_names = true;
        Self { path, encoding, reader, buffer: Vec::new(), open: Vec::new(), record: None, has_root: false }
    }

    fn begin(&mut self, start: &BytesStart<'_>, line: u64) {
        match &mut self.record {
            Some(record) => record.start(start),
            None => {
                self.has_root = true;
                self.open.push(start.name().as_ref().to_owned());
                if self.path.matches(&self.open) {
                    let mut record = Record::new(line);
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
        let encoding = self.encoding;
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

    /// Reads the tokens that are whole.
    fn read(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        while self.reader.get_mut().has_token() {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let source = self.reader.get_mut();
            let line = source.line();
            if self.record.is_none() {
                source.hold_anew();
            }
            let event = match self.reader.read_event_into(&mut buffer) {
                Ok(event) => event,
                Err(error) => {
                    let problem = say!("not well-formed XML: {error}", "整形式の XML ではありません: {error}");
                    return Err(DocumentError::new(self.reader.get_mut().line(), problem));
                }
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
                // There is more, which the parser does not take for anything.
                Event::Eof => {
                    let problem = (
                        "not well-formed XML: a tag does not end",
                        "整形式の XML ではありません: 終わらないタグがあります",
                    );
                    return Err(DocumentError::new(line, problem));
                }
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
        Ok(())
    }
}

impl Parse for Xml {
    fn feed(&mut self, text: &[u8], found: &mut Found) -> Result<(), DocumentError> {
        self.reader.get_mut().add(text);
        self.read(found)?;
        let source = self.reader.get_mut();
        if source.waiting() > LINE_LIMIT_BYTES {
            let problem = say!(
                "a text, a tag or a comment is longer than {LINE_LIMIT_BYTES} bytes",
                "テキスト、タグ、コメントのどれかが {LINE_LIMIT_BYTES} バイトを超えています"
            );
            return Err(DocumentError::new(source.line(), problem));
        }
        Ok(())
    }

    fn finish(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        self.reader.get_mut().end();
        self.read(found)?;
        let line = self.reader.get_mut().line();
        if !self.open.is_empty() {
            let name = self.open.join("/");
            let problem = say!("the document ends inside of `{name}`", "文書が `{name}` の途中で終わっています");
            return Err(DocumentError::new(line, problem));
        }
        if !self.has_root {
            let problem = ("there is no element in it, so it is no XML", "要素が一つもないので、XML ではありません");
            return Err(DocumentError::new(line, problem));
        }
        Ok(())
    }
}

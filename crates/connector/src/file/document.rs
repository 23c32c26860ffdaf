//! Takes one document apart as its bytes come: decoded if need be, then by the parser of its format.

use std::sync::Arc;

use encoding_rs::{Encoding, UTF_8};
use matome_model::canonical::QuarantineReason;
use matome_model::say;

use super::config::{DocumentConfig, Format};
use super::csv::Csv;
use super::fixed::Fixed;
use super::lines::Lines;
use super::text::{Charset, DECLARATION_BYTES, Decoding, Told, is_marked, restore, tells_enough};
use super::xml::Xml;
use crate::json::Splitter;
use crate::record::{Boundary, DocumentError, Found, Item, Parse};

/// One document under way.
pub(crate) struct Document {
    config: Arc<DocumentConfig>,
    /// The beginning, until it tells the encoding.
    start: Vec<u8>,
    /// There from then on.
    parts: Option<Parts>,
}

/// A parser, and how the bytes reach it.
struct Parts {
    parser: Box<dyn Parse>,
    decoding: Decoding,
    /// How long the byte order mark is.
    mark: u64,
    /// Whether the parser leaves the marks of what means nothing in records.
    has_marks: bool,
}

impl Document {
    pub(crate) fn new(config: Arc<DocumentConfig>) -> Self {
        Self { config, start: Vec::new(), parts: None }
    }

    /// Takes the next piece; the first must not end inside of a byte order mark. `last`: there are no more. What is
    /// found before an error is there.
    pub(crate) fn feed(&mut self, bytes: &[u8], last: bool, found: &mut Found) -> Result<(), DocumentError> {
        if let Some(parts) = &mut self.parts {
            return parts.feed(bytes, last, found);
        }
        self.start.extend_from_slice(bytes);
        let is_enough = match self.config.format {
            Format::Xml => self.start.len() >= DECLARATION_BYTES,
            _ => self.config.encoding != Charset::Detected || tells_enough(&self.start),
        };
        if !last && !is_enough {
            return Ok(());
        }
        let start = std::mem::take(&mut self.start);
        let Told { decoding, mark, guess } = Told::by(&self.config, &start, last);
        if let Some((guess, rival)) = guess.and_then(|guess| guess.rival.map(|rival| (guess, rival))) {
            let (file, guessed, rival) = (&found.here(None).document, guess.encoding.name(), rival.name());
            tracing::warn!(
                file = %file,
                "the encoding of `{file}` was taken for {guessed}, and {rival} fits nearly as well: say which it is with `encoding`"
            );
        }
        let parser = parser_of(&self.config, decoding.of_parser(self.config.format));
        if !matches!(decoding, Decoding::Stream(_)) {
            found.text_starts(mark as u64);
        }
        let has_marks = self.config.format != Format::Xml;
        self.parts.insert(Parts { parser, decoding, mark: mark as u64, has_marks }).feed(&start[mark..], last, found)
    }

    /// Goes on at `to`, behind the byte `before`, with what [`Document::feed`] has seen of the beginning. False: no record begins
    /// there.
    pub(super) fn jump(&mut self, to: Boundary, before: u8, found: &mut Found) -> bool {
        let Some(parts) = &mut self.parts else { return false };
        if matches!(parts.decoding, Decoding::Stream(_)) || !parts.parser.knows_columns() {
            return false;
        }
        found.text_starts(parts.mark);
        let Some(offset) = to.offset.checked_sub(parts.mark) else { return false };
        parts.parser.jump(Boundary { offset, ..to }, before)
    }

    /// Whether what all records depend on has come: the encoding and the names of columns.
    pub(super) fn knows_columns(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| parts.parser.knows_columns())
    }
}

impl Parts {
    fn feed(&mut self, bytes: &[u8], last: bool, found: &mut Found) -> Result<(), DocumentError> {
        let fed = match &mut self.decoding {
            Decoding::Utf8 | Decoding::Records(_) => self.parser.feed(bytes, found),
            Decoding::Stream(stream) => {
                let text = stream.decode(bytes, last);
                self.parser.feed(&text, found)
            }
        };
        let fed = fed.and_then(|()| if last { self.parser.finish(found) } else { Ok(()) });
        if let (Decoding::Stream(stream), true) = (&self.decoding, self.has_marks) {
            let encoding = stream.encoding();
            found.change_waiting(|item| keep_undecoded(item, encoding));
        }
        fed
    }
}

/// A record with bytes that mean nothing in its encoding goes to quarantine as it was.
fn keep_undecoded(item: &mut Item, encoding: &'static Encoding) {
    if !is_marked(item.raw()) {
        return;
    }
    let raw = restore(item.raw(), encoding);
    let position = item.position().clone();
    let fields = match item {
        Item::Rejected { fields, .. } => fields.take(),
        Item::Record { .. } => None,
    };
    let (reason, detail) = match item {
        Item::Rejected { reason, detail, .. } if *reason != QuarantineReason::InvalidUtf8 => (*reason, detail.clone()),
        _ => {
            let name = encoding.name();
            let detail = say!("the record is not valid {name}", "レコードが {name} として正しくありません");
            (QuarantineReason::Encoding, detail)
        }
    };
    *item = Item::Rejected { raw, reason, detail, position, fields };
}

/// The parser of a text; `encoding` is that of records whose document is read as ASCII, of XML that of the document. Others ask for
/// their bytes themselves.
pub(super) fn parser_of(config: &DocumentConfig, encoding: Option<&'static Encoding>) -> Box<dyn Parse> {
    match config.format {
        Format::Ndjson => Box::new(Lines::new(encoding)),
        Format::Json => Box::new(Splitter::new(config.records.clone(), &[]).forming(&config.form)),
        Format::Xml => Box::new(Xml::new(config.xml.clone(), encoding.unwrap_or(UTF_8))),
        Format::Csv | Format::Parquet | Format::Avro | Format::Excel => {
            Box::new(Csv::new(config.csv.clone(), encoding))
        }
        Format::Fixed => Box::new(Fixed::new(config.fixed.clone(), encoding)),
    }
}

//! Takes one document apart as its bytes come: decoded if need be, then by the parser of its format.

use std::sync::Arc;

use encoding_rs::Encoding;
use matome_model::canonical::QuarantineReason;
use matome_model::say;

use super::config::{DocumentConfig, Format};
use super::csv::Csv;
use super::fixed::Fixed;
use super::lines::Lines;
use super::text::{Charset, Decoding, is_marked, restore, tells_enough};
use crate::json::Splitter;
use crate::record::{DocumentError, Found, Item, Parse};

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
        if self.config.encoding == Charset::Detected && !last && !tells_enough(&self.start) {
            return Ok(());
        }
        let start = std::mem::take(&mut self.start);
        let (decoding, mark) = Decoding::of(&self.config, &start);
        let parser = parser_of(&self.config, decoding.of_records());
        self.parts.insert(Parts { parser, decoding }).feed(&start[mark..], last, found)
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
        if let Decoding::Stream(stream) = &self.decoding {
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
    let (reason, detail) = match item {
        Item::Rejected { reason, detail, .. } if *reason != QuarantineReason::InvalidUtf8 => (*reason, detail.clone()),
        _ => {
            let name = encoding.name();
            let detail = say!("the record is not valid {name}", "レコードが {name} として正しくありません");
            (QuarantineReason::Encoding, detail)
        }
    };
    *item = Item::Rejected { raw, reason, detail, position };
}

/// The parser of a text; `encoding` is that of records whose document is read as ASCII. Others ask for their bytes themselves.
pub(super) fn parser_of(config: &DocumentConfig, encoding: Option<&'static Encoding>) -> Box<dyn Parse> {
    match config.format {
        Format::Ndjson => Box::new(Lines::new(encoding)),
        Format::Json => Box::new(Splitter::new(config.records.clone(), &[])),
        Format::Csv | Format::Xml | Format::Parquet | Format::Excel => Box::new(Csv::new(config.csv.clone(), encoding)),
        Format::Fixed => Box::new(Fixed::new(config.fixed.clone(), encoding)),
    }
}

//! Takes one document apart as its bytes come: decoded if need be, then by the parser of its format.

use std::sync::Arc;

use encoding_rs::Encoding;
use matome_model::say;

use super::config::{DocumentConfig, Format};
use super::csv::Csv;
use super::lines::Lines;
use super::text::{Decoding, decode_piece};
use crate::json::Splitter;
use crate::record::{DocumentError, Found, Parse};

/// One document under way.
pub(crate) struct Document {
    config: Arc<DocumentConfig>,
    /// There from the first bytes on, which may say how it is encoded.
    parts: Option<Parts>,
}

/// A parser, and how the bytes reach it.
struct Parts {
    parser: Box<dyn Parse>,
    decoding: Decoding,
}

impl Document {
    pub(crate) fn new(config: Arc<DocumentConfig>) -> Self {
        Self { config, parts: None }
    }

    /// Takes the next piece; the first must not end inside of a byte order mark. `last`: there are no more. What is
    /// found before an error is there.
    pub(crate) fn feed(&mut self, bytes: &[u8], last: bool, found: &mut Found) -> Result<(), DocumentError> {
        let config = &self.config;
        let mut mark = 0;
        let Parts { parser, decoding } = self.parts.get_or_insert_with(|| {
            let (decoding, length) = Decoding::of(config, bytes);
            mark = length;
            Parts { parser: parser_of(config, decoding.of_records()), decoding }
        });
        let mut bytes = &bytes[mark..];
        let text;
        if let Decoding::Stream(decoder) = decoding {
            let name = decoder.encoding().name();
            text = decode_piece(decoder, bytes, last).map_err(|()| {
                DocumentError::anywhere(say!(
                    "the text is not valid {name}",
                    "テキストが {name} として正しくありません"
                ))
            })?;
            bytes = &text;
        }
        parser.feed(bytes, found)?;
        if last { parser.finish(found) } else { Ok(()) }
    }
}

/// The parser of a format; `encoding` is that of records whose document is read as ASCII.
pub(super) fn parser_of(config: &DocumentConfig, encoding: Option<&'static Encoding>) -> Box<dyn Parse> {
    match config.format {
        Format::Ndjson => Box::new(Lines::new(encoding)),
        Format::Json => Box::new(Splitter::new(config.records.clone(), &[])),
        Format::Csv => Box::new(Csv::new(config.csv.clone(), encoding)),
    }
}

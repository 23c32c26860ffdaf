//! The bytes that were sent: inflated within bounds, looked through before they are kept, and taken apart later.

use std::io::{self, Read as _};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use matome_model::canonical::QuarantineReason;
use matome_model::field_error::Words;
use matome_model::say;

use crate::file::{Charset, Document, DocumentConfig, Format};
use crate::record::{DocumentError, Found, Item};

/// How much is taken apart at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Why a body cannot be inflated.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// It is no gzip, or broken.
    #[error("the body is not valid gzip")]
    Broken(#[source] io::Error),
    /// It becomes more than so many bytes.
    #[error("the body inflates to more than {0} bytes")]
    TooLarge(usize),
}

/// What is inside of a gzip body, at most `limit` bytes; never holds more.
///
/// # Errors
/// When it is broken, or more than that.
pub fn inflate(bytes: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
    let mut inflated = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(bytes).take(most).read_to_end(&mut inflated).map_err(InflateError::Broken)?;
    if inflated.len() > limit { Err(InflateError::TooLarge(limit)) } else { Ok(inflated) }
}

/// Why a body is not taken: what is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadBody(pub Words);

impl BadBody {
    fn new(error: DocumentError, record: u64) -> Self {
        let Words { english, japanese } = error.problem;
        let words = match error.line {
            Some(line) => say!(
                "Line {line}, behind {record} records: {english}. Nothing of it was stored; correct it and send it again.",
                "{line} 行目 ({record} 件のレコードのあと): {japanese}。何も保存していません。直してから送り直してください。"
            ),
            None => say!(
                "Behind {record} records: {english}. Nothing of it was stored; correct it and send it again.",
                "{record} 件のレコードのあと: {japanese}。何も保存していません。直してから送り直してください。"
            ),
        };
        Self(words)
    }
}

/// Looks through a body: how many records there are, bad ones included. What only breaks a record is left to the
/// quarantine; what breaks the whole is refused.
///
/// # Errors
/// When nothing is in it, or it cannot be taken apart to its end.
pub fn examine(config: &Arc<DocumentConfig>, body: &[u8]) -> Result<u64, BadBody> {
    let Some(start) = body.iter().position(|byte| !byte.is_ascii_whitespace()) else {
        return Err(BadBody(Words::new(
            "The body is empty. Send records; `[]` says that there are none.",
            "本文が空です。レコードを送ってください。一件もないことは `[]` で表します。",
        )));
    };
    let start = body.get(start..).unwrap_or_default();
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    if config.format == Format::Ndjson
        && config.encoding == Charset::Declared(encoding_rs::UTF_8)
        && let Some(first) = start.first().filter(|byte| **byte != b'{')
    {
        let first = char::from(*first).escape_default();
        return Err(BadBody(say!(
            "The first line begins with `{first}`; NDJSON has one JSON object a line. Send NDJSON, or say another \
             Content-Type.",
            "最初の行が `{first}` で始まっています。NDJSON は 1 行に JSON オブジェクト一つです。NDJSON を送るか、別の \
             Content-Type を指定してください。"
        )));
    }
    let mut document = Document::new(config.clone());
    let mut found = Found::new("".into(), None, 0);
    let mut pieces = body.chunks(PIECE_BYTES).peekable();
    while let Some(piece) = pieces.next() {
        let fed = document.feed(piece, pieces.peek().is_none(), &mut found);
        found.clear();
        fed.map_err(|error| BadBody::new(error, found.count()))?;
    }
    Ok(found.count())
}

/// One body on its way to be stored.
pub struct Body {
    format: Format,
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
    document: Document,
    found: Found,
}

impl Body {
    /// `name`: what its records call it; `skip`: how many records at its start are passed over.
    pub fn new(config: Arc<DocumentConfig>, name: Arc<str>, bytes: Vec<u8>, skip: u64) -> Self {
        let (format, found) = (config.format, Found::new(name, None, skip));
        Self { format, bytes, at: 0, ended: false, document: Document::new(config), found }
    }

    /// With what its sender said in headers, a JSON object in canonical form, which goes with each record.
    pub fn with_headers(mut self, headers: Option<Arc<str>>) -> Self {
        self.found.tell_headers(headers);
        self
    }

    /// The next records, up to so many or so many bytes; none when there are no more.
    ///
    /// What cannot be taken apart, which happens only when the config has changed since it was looked through, is one
    /// bad record.
    pub fn take(&mut self, max_items: usize, max_bytes: usize) -> Vec<Item> {
        loop {
            if let Some(items) = self.found.take_full(max_items, max_bytes) {
                return items;
            }
            if self.ended {
                return self.found.take(max_items, max_bytes);
            }
            let end = self.bytes.len().min(self.at + PIECE_BYTES);
            self.ended = end == self.bytes.len();
            let piece = self.bytes.get(self.at..end).unwrap_or_default();
            if let Err(error) = self.document.feed(piece, self.ended, &mut self.found) {
                let reason = match self.format {
                    Format::Csv | Format::Fixed => QuarantineReason::CsvWidth,
                    Format::Xml => QuarantineReason::InvalidXml,
                    Format::Json | Format::Ndjson | Format::Parquet | Format::Avro | Format::Excel => {
                        QuarantineReason::InvalidJson
                    }
                };
                self.found.rejected(error.line, &self.bytes, reason, reason.told(&error.problem));
                self.ended = true;
            }
            self.at = end;
        }
    }

    /// Whether nothing more comes.
    pub fn is_done(&self) -> bool {
        self.ended && self.found.is_empty()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("bytes", &self.bytes.len()).field("at", &self.at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use matome_model::source::SourceType;

    use super::*;
    use crate::{ParsedConfig, validate_config};

    fn document(options: &str, format: Format) -> Arc<DocumentConfig> {
        match validate_config(SourceType::Push, options).unwrap() {
            ParsedConfig::Push(config) => config.document(format),
            other => panic!("{other:?}"),
        }
    }

    fn auto(format: Format) -> Arc<DocumentConfig> {
        document(r#"{"format":"auto"}"#, format)
    }

    #[test]
    fn a_body_is_counted_or_refused_with_its_line_and_a_remedy() {
        for (format, body, count) in [
            (Format::Json, "{\"a\":1}", 1),
            (Format::Json, "\u{feff}[{\"a\":1},\n{\"a\":2}]\n", 2),
            (Format::Json, "[]", 0),
            (Format::Ndjson, "\n{\"a\":1}\n\nnot json\n", 2),
            (Format::Csv, "a,b\n1,2\n1\n", 2),
            (Format::Csv, "a,b\n", 0),
        ] {
            assert_eq!(examine(&auto(format), body.as_bytes()), Ok(count), "{body}");
        }
        for (format, body, says) in [
            (Format::Json, "", "empty"),
            (Format::Json, " \r\n", "empty"),
            (Format::Json, "a,b\n1,2\n", "Line 1, behind 0 records"),
            (Format::Json, "[{\"a\":1},\n{\"a\":2}", "Line 2, behind 2 records: the document ends early"),
            (Format::Ndjson, "[{\"a\":1}]", "one JSON object a line"),
            (Format::Csv, "a,a\n1,2\n", "`a` twice"),
        ] {
            let BadBody(told) = examine(&auto(format), body.as_bytes()).unwrap_err();
            assert!(told.english.contains(says), "{body}: {told}");
        }
        let nested = document(r#"{"records":"$.items"}"#, Format::Json);
        assert_eq!(examine(&nested, b"{\"items\":[{},{}]}"), Ok(2));
        assert!(examine(&nested, b"{\"rows\":[]}").unwrap_err().0.english.contains("`$.items`"));
    }

    #[test]
    fn gzip_is_inflated_up_to_the_limit_and_a_bomb_is_never_held() {
        let zip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(inflate(&zip(b"{}"), 2).unwrap(), b"{}");
        let bomb = zip(&vec![b' '; 8 << 20]);
        assert!(matches!(inflate(&bomb, 1000), Err(InflateError::TooLarge(1000))));
        let whole = zip(&[b'x'; 1000]);
        assert!(matches!(inflate(&whole[..whole.len() - 5], 2000), Err(InflateError::Broken(_))));
        assert!(matches!(inflate(b"{}", 2000), Err(InflateError::Broken(_))));
    }

    #[test]
    fn a_body_goes_on_behind_the_records_that_were_read() {
        let text: String = (0..5_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        let mut body = Body::new(auto(Format::Ndjson), "push 7".into(), text.into_bytes(), 1_500);
        let mut records = Vec::new();
        while !body.is_done() {
            let items = body.take(1_000, usize::MAX);
            assert!(items.len() <= 1_000);
            records.extend(items.iter().map(|item| item.position().record));
        }
        assert_eq!(records, (1_501..=5_000).collect::<Vec<u64>>());
    }

    #[test]
    fn what_the_config_does_not_take_apart_any_more_is_one_bad_record() {
        let mut body = Body::new(auto(Format::Json), "push 7".into(), b"[{\"a\":1} 2]".to_vec(), 0);
        let items = body.take(10, usize::MAX);
        assert!(body.is_done());
        let [Item::Record { .. }, Item::Rejected { reason, raw, .. }] = &items[..] else { panic!("{items:?}") };
        assert_eq!((*reason, raw.as_slice()), (QuarantineReason::InvalidJson, &b"[{\"a\":1} 2]"[..]));
    }
}

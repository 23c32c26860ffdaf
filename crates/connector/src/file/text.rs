//! From bytes in some encoding to UTF-8; byte order marks; what the encoding of a text is when nobody says.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Decoder, DecoderResult, Encoding, ISO_2022_JP, UTF_8, UTF_16BE, UTF_16LE};

use super::config::{DocumentConfig, Format};

/// How far a text is looked through for something that tells its encoding.
pub(super) const LOOK_BYTES: usize = 1024 * 1024;
/// An XML declaration that says the encoding ends within so many bytes.
pub(super) const DECLARATION_BYTES: usize = 1024;
/// How much of it is looked at once there is something to see.
const SEEN_BYTES: usize = 64 * 1024;
/// Stands for a byte that means nothing in its encoding; it comes in no UTF-8, so that a record with it is told from others.
/// Two bytes behind it say which byte it was.
pub(super) const MARK: u8 = 0xff;

/// What the encoding of a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// What a text looks like.
    Detected,
    /// This one, unless a byte order mark says otherwise.
    Declared(&'static Encoding),
}

/// How text becomes UTF-8.
pub(super) enum Decoding {
    /// It is.
    Utf8,
    /// Record by record.
    Records(&'static Encoding),
    /// The whole stream, where bytes of a character can look like a line break, a quote or a delimiter.
    Stream(Box<Stream>),
}

impl Decoding {
    /// The decoding of a document that begins with `start`, and the length of its byte order mark.
    pub(super) fn of(config: &DocumentConfig, start: &[u8]) -> (Self, usize) {
        if config.format == Format::Xml {
            let (encoding, mark) = of_xml(config, start);
            return (Self::Stream(Box::new(Stream::new(encoding))), mark);
        }
        let declared = || match config.encoding {
            Charset::Declared(encoding) => encoding,
            Charset::Detected => detect(start),
        };
        let (encoding, mark) = Encoding::for_bom(start).unwrap_or_else(|| (declared(), 0));
        if encoding == UTF_8 {
            return (Self::Utf8, mark);
        }
        let shifts = [UTF_16LE, UTF_16BE, ISO_2022_JP].contains(&encoding);
        // Second bytes of Shift_JIS, Big5, GBK and GB18030 reach down to 0x30, never to a comma or a quote.
        let ambiguous = !encoding.is_single_byte() && (0x30..0x7f).contains(&config.csv.delimiter);
        let whole = match config.format {
            Format::Ndjson | Format::Fixed => shifts,
            Format::Csv => shifts || ambiguous,
            Format::Json | Format::Xml | Format::Parquet | Format::Avro | Format::Excel => true,
        };
        match whole {
            true => (Self::Stream(Box::new(Stream::new(encoding))), mark),
            false => (Self::Records(encoding), mark),
        }
    }

    /// The encoding that a parser has to decode records from; that of XML writes in it what it rejects.
    pub(super) fn of_parser(&self, format: Format) -> Option<&'static Encoding> {
        match self {
            Self::Records(encoding) => Some(encoding),
            Self::Stream(stream) if format == Format::Xml => Some(stream.encoding()),
            _ => None,
        }
    }
}

/// Whether what was read of a text is enough to tell its encoding.
pub(super) fn tells_enough(start: &[u8]) -> bool {
    let plain = start.iter().position(|byte| !byte.is_ascii() || matches!(byte, 0 | 0x1b)).unwrap_or(start.len());
    start.len() - plain >= SEEN_BYTES || start.len() >= LOOK_BYTES
}

/// What a text without a byte order mark looks like, by its beginning. Plain ASCII is UTF-8.
pub(super) fn detect(start: &[u8]) -> &'static Encoding {
    // The detector is made for pages of the web, which are never UTF-16 without a mark. Text of any language has many
    // characters below U+0100 there: spaces, digits, line breaks, delimiters.
    let count = |odd: usize| start.iter().skip(odd).step_by(2).take(4096).filter(|byte| **byte == 0).count();
    let (even, odd, pairs) = (count(0), count(1), (start.len() / 2).min(4096));
    if pairs > 0 && even.max(odd) * 10 >= pairs && even.min(odd) * 20 <= even.max(odd) {
        return if odd > even { UTF_16LE } else { UTF_16BE };
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(start, false);
    detector.guess(None, Utf8Detection::Allow)
}

/// The encoding of an XML document that begins with `start`, and the length of its byte order mark.
pub(super) fn of_xml(config: &DocumentConfig, start: &[u8]) -> (&'static Encoding, usize) {
    let declared = || match config.encoding {
        Charset::Declared(encoding) => encoding,
        Charset::Detected if start.starts_with(b"<\0") => UTF_16LE,
        Charset::Detected if start.starts_with(b"\0<") => UTF_16BE,
        Charset::Detected => declaration(start).unwrap_or(UTF_8),
    };
    Encoding::for_bom(start).unwrap_or_else(|| (declared(), 0))
}

/// What `<?xml encoding="..."?>` says.
fn declaration(start: &[u8]) -> Option<&'static Encoding> {
    let end = start.windows(2).take(256).position(|pair| pair == b"?>")?;
    let text = std::str::from_utf8(start.get(..end)?).ok()?.strip_prefix("<?xml")?;
    let (_, value) = text.split_once("encoding")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let label = value.trim_start_matches(['"', '\'']).split(['"', '\'']).next()?;
    Encoding::for_label_no_replacement(label.as_bytes())
}

/// Decodes a text that comes in pieces.
pub(super) struct Stream {
    decoder: Decoder,
    /// The last bytes that were taken, to tell which of them were malformed.
    recent: Vec<u8>,
}

impl Stream {
    pub(super) fn new(encoding: &'static Encoding) -> Self {
        Self { decoder: encoding.new_decoder_without_bom_handling(), recent: Vec::new() }
    }

    pub(super) fn encoding(&self) -> &'static Encoding {
        self.decoder.encoding()
    }

    /// The next piece as UTF-8, with a mark for each byte that means nothing.
    pub(super) fn decode(&mut self, mut bytes: &[u8], last: bool) -> Vec<u8> {
        let mut text = vec![0; bytes.len().saturating_mul(3).saturating_add(16)];
        let mut written = 0;
        loop {
            let (result, read, wrote) =
                self.decoder.decode_to_utf8_without_replacement(bytes, &mut text[written..], last);
            self.recent.extend_from_slice(&bytes[read.saturating_sub(8)..read]);
            self.recent.drain(..self.recent.len().saturating_sub(8));
            bytes = &bytes[read..];
            written += wrote;
            match result {
                DecoderResult::InputEmpty => break,
                DecoderResult::OutputFull => text.resize(text.len() * 2, 0),
                DecoderResult::Malformed(length, behind) => {
                    let end = self.recent.len().saturating_sub(usize::from(behind));
                    let start = end.saturating_sub(usize::from(length));
                    let marks: Vec<u8> = self.recent[start..end].iter().flat_map(|byte| mark(*byte)).collect();
                    text.truncate(written);
                    text.extend(marks);
                    written = text.len();
                    text.resize(written + bytes.len().saturating_mul(3) + 16, 0);
                }
            }
        }
        text.truncate(written);
        text
    }
}

/// Three bytes for one: the mark, and both halves of the byte as what would go on a character.
fn mark(byte: u8) -> [u8; 3] {
    [MARK, 0x80 | byte >> 4, 0x80 | byte & 0x0f]
}

/// Whether a decoded text has bytes that meant nothing.
pub(super) fn is_marked(text: &[u8]) -> bool {
    text.contains(&MARK)
}

/// A decoded text as it was in its encoding, the bytes that meant nothing among it.
pub(super) fn restore(mut text: &[u8], encoding: &'static Encoding) -> Vec<u8> {
    let mut raw = Vec::with_capacity(text.len());
    let encode = |raw: &mut Vec<u8>, piece: &[u8]| {
        // It was decoded, so it is UTF-8; only a record that was cut off may end inside of a character.
        let piece = String::from_utf8_lossy(piece);
        match encoding {
            _ if encoding == UTF_16LE => raw.extend(piece.encode_utf16().flat_map(u16::to_le_bytes)),
            _ if encoding == UTF_16BE => raw.extend(piece.encode_utf16().flat_map(u16::to_be_bytes)),
            _ => raw.extend_from_slice(&encoding.encode(&piece).0),
        }
    };
    while let Some(at) = text.iter().position(|byte| *byte == MARK) {
        encode(&mut raw, &text[..at]);
        let [high, low] = [1, 2].map(|n| text.get(at + n).copied().unwrap_or_default() & 0x0f);
        raw.push(high << 4 | low);
        text = text.get(at + 3..).unwrap_or_default();
    }
    encode(&mut raw, text);
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, to: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(to).collect()
    }

    #[test]
    fn what_means_nothing_is_marked_and_comes_back_wherever_the_pieces_end() {
        let mut lone = utf16("東京,", u16::to_le_bytes);
        lone.extend(b"\x00\xd8");
        lone.extend(utf16("x\n大阪", u16::to_le_bytes));
        lone.push(0x30);
        let cases: [(&Encoding, &[u8]); 5] = [
            (UTF_16LE, &lone),
            (encoding_rs::SHIFT_JIS, b"\x93\x8c\x8b\x9e|\x81\xff|\x93\x8c\x81"),
            (encoding_rs::EUC_JP, b"\xc5\xec\xb5\xfe\xffx\x8f\xa1"),
            (ISO_2022_JP, b"\x1b$BEl5~\x1b(Ba\x80b\x1b$BEl\x1b(B\n"),
            (UTF_16BE, b"\xdc\x00\x00a\xd8\x00"),
        ];
        for (encoding, bytes) in cases {
            for length in [1, 2, 3, bytes.len()] {
                let mut stream = Stream::new(encoding);
                let mut text = Vec::new();
                let mut pieces = bytes.chunks(length).peekable();
                while let Some(piece) = pieces.next() {
                    text.extend(stream.decode(piece, pieces.peek().is_none()));
                }
                assert!(is_marked(&text), "{} by {length}", encoding.name());
                assert_eq!(restore(&text, encoding), bytes, "{} by {length}", encoding.name());
            }
        }
    }

    #[test]
    fn texts_are_detected_by_what_they_look_like() {
        let japanese = "名前,住所,備考\nソース表,東京都千代田区,能登のソースは十分です。\n".repeat(3);
        let french = "nom,ville\nÉlodie,Orléans\nFrançois,Besançon\nJérôme,Fécamp — 5 €\n".repeat(3);
        for encoding in [encoding_rs::SHIFT_JIS, encoding_rs::EUC_JP, ISO_2022_JP, UTF_8] {
            let (bytes, _, failed) = encoding.encode(&japanese);
            assert!(!failed);
            assert_eq!(detect(&bytes), encoding);
        }
        assert_eq!(detect(&encoding_rs::WINDOWS_1252.encode(&french).0), encoding_rs::WINDOWS_1252);
        for text in [japanese.as_str(), french.as_str(), "a,b\n1,2\n"] {
            assert_eq!(detect(&utf16(text, u16::to_le_bytes)), UTF_16LE, "{text}");
            assert_eq!(detect(&utf16(text, u16::to_be_bytes)), UTF_16BE, "{text}");
        }
        assert_eq!(detect(b"plain\n"), UTF_8);
        assert_eq!(detect(b""), UTF_8);
        // A block of NUL in a log is no UTF-16.
        assert_eq!(detect(&[b"{\"a\":1}\n".as_slice(), &[0; 512]].concat()), UTF_8);
    }
}

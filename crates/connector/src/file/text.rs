//! From bytes in some encoding to UTF-8; byte order marks.

mod detection;

use encoding_rs::{Decoder, DecoderResult, Encoding, ISO_2022_JP, UTF_8, UTF_16BE, UTF_16LE};

use super::config::{DocumentConfig, Format};
pub(super) use detection::{Guess, guess, japanese};

/// How far a text is looked through for something that tells its encoding.
pub(super) const LOOK_BYTES: usize = 1024 * 1024;
/// An XML declaration that says the encoding ends within so many bytes.
pub(super) const DECLARATION_BYTES: usize = 1024;
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
    /// The decoding of a document in `encoding`.
    pub(super) fn of(config: &DocumentConfig, encoding: &'static Encoding) -> Self {
        if config.format == Format::Xml {
            return Self::Stream(Box::new(Stream::new(encoding)));
        }
        if encoding == UTF_8 {
            return Self::Utf8;
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
            true => Self::Stream(Box::new(Stream::new(encoding))),
            false => Self::Records(encoding),
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

/// What the beginning of a document says of its encoding.
pub(super) struct Told {
    pub(super) decoding: Decoding,
    /// How long its byte order mark is.
    pub(super) mark: usize,
    /// How its encoding was guessed, if it was.
    pub(super) guess: Option<Guess>,
}

impl Told {
    /// Of a document that begins with `start`; `is_whole`: that is all of it.
    pub(super) fn by(config: &DocumentConfig, start: &[u8], is_whole: bool) -> Self {
        let (encoding, mark, guess) = match (config.format, Encoding::for_bom(start), config.encoding) {
            (Format::Xml, ..) => {
                let (encoding, mark) = of_xml(config, start);
                (encoding, mark, None)
            }
            (_, Some((encoding, mark)), _) => (encoding, mark, None),
            (_, None, Charset::Declared(encoding)) => (encoding, 0, None),
            (_, None, Charset::Detected) => {
                let guess = guess(start, is_whole);
                (guess.encoding, 0, Some(guess))
            }
        };
        Self { decoding: Decoding::of(config, encoding), mark, guess }
    }
}

/// Whether what was read of a text is enough to tell its encoding.
pub(super) fn tells_enough(start: &[u8]) -> bool {
    let plain = start.iter().position(|byte| !byte.is_ascii() || matches!(byte, 0 | 0x1b)).unwrap_or(start.len());
    start.len() - plain >= detection::SEEN_BYTES || start.len() >= LOOK_BYTES
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
}

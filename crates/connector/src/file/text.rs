//! From bytes in some encoding to UTF-8; byte order marks.

use encoding_rs::{Decoder, DecoderResult, Encoding};

use super::config::{DocumentConfig, Format};

/// How text becomes UTF-8.
pub(super) enum Decoding {
    /// It is.
    Utf8,
    /// Record by record, so that a malformed one goes to quarantine alone.
    Records(&'static Encoding),
    /// The whole stream, where bytes of a character can look like a line break, a quote or a delimiter.
    Stream(Box<Decoder>),
}

impl Decoding {
    /// The decoding of a document that begins with `start`, and the length of its byte order mark.
    pub(super) fn of(config: &DocumentConfig, start: &[u8]) -> (Self, usize) {
        let (encoding, mark) = Encoding::for_bom(start).unwrap_or((config.encoding, 0));
        if encoding == encoding_rs::UTF_8 {
            return (Self::Utf8, mark);
        }
        let shifts = [encoding_rs::UTF_16LE, encoding_rs::UTF_16BE, encoding_rs::ISO_2022_JP].contains(&encoding);
        // Second bytes of Shift_JIS, Big5, GBK and GB18030 reach down to 0x30, never to a comma or a quote.
        let ambiguous = !encoding.is_single_byte() && (0x30..0x7f).contains(&config.csv.delimiter);
        let whole = match config.format {
            Format::Ndjson => shifts,
            Format::Csv => shifts || ambiguous,
            Format::Json => true,
        };
        match whole {
            true => (Self::Stream(Box::new(encoding.new_decoder_without_bom_handling())), mark),
            false => (Self::Records(encoding), mark),
        }
    }

    /// The encoding that a parser has to decode records from.
    pub(super) fn of_records(&self) -> Option<&'static Encoding> {
        match self {
            Self::Records(encoding) => Some(encoding),
            _ => None,
        }
    }
}

/// Decodes a piece of a stream, or says that it is malformed.
pub(super) fn decode_piece(decoder: &mut Decoder, mut bytes: &[u8], last: bool) -> Result<Vec<u8>, ()> {
    let capacity = decoder.max_utf8_buffer_length_without_replacement(bytes.len()).ok_or(())?;
    let mut text = vec![0; capacity];
    let mut written = 0;
    loop {
        let (result, read, wrote) = decoder.decode_to_utf8_without_replacement(bytes, &mut text[written..], last);
        bytes = &bytes[read..];
        written += wrote;
        match result {
            DecoderResult::InputEmpty => break,
            DecoderResult::OutputFull => text.resize(text.len() * 2 + 16, 0),
            DecoderResult::Malformed(..) => return Err(()),
        }
    }
    text.truncate(written);
    Ok(text)
}

//! From the bytes on disk to the bytes of a format: decompression within limits, encodings, byte order marks.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use encoding_rs::{Decoder, DecoderResult, Encoding};
use flate2::bufread::MultiGzDecoder;

use super::config::{Compression, DocumentConfig, Format};

/// How much is read at once.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
/// Output beyond this share of the input is a bomb, not data.
const RATIO_LIMIT: u64 = 200;
/// Small files may compress better than the ratio says.
const RATIO_GRACE_BYTES: u64 = 1024 * 1024;

/// A file as it is read: counted, and decompressed if it is compressed.
pub(super) struct Input {
    inner: Box<dyn Read>,
    taken: Rc<Cell<u64>>,
    made: u64,
    compressed: bool,
}

struct Counted {
    file: File,
    taken: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.taken.set(self.taken.get() + read as u64);
        Ok(read)
    }
}

impl Input {
    pub(super) fn new(file: File, compression: Compression) -> io::Result<Self> {
        let taken = Rc::new(Cell::new(0));
        let mut counted = Counted { file, taken: taken.clone() };
        let mut magic = Vec::with_capacity(2);
        counted.by_ref().take(2).read_to_end(&mut magic)?;
        let compressed = match compression {
            Compression::Auto => magic == [0x1f, 0x8b],
            Compression::Gzip => true,
            Compression::None => false,
        };
        let whole = io::Cursor::new(magic).chain(counted);
        let inner: Box<dyn Read> = match compressed {
            true => Box::new(MultiGzDecoder::new(BufReader::with_capacity(CHUNK_BYTES, whole))),
            false => Box::new(whole),
        };
        Ok(Self { inner, taken, made: 0, compressed })
    }

    /// Bytes taken from the disk so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken.get()
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.compressed
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.made += read as u64;
        if self.compressed && self.made > RATIO_GRACE_BYTES && self.made > self.taken.get().saturating_mul(RATIO_LIMIT)
        {
            let message = format!("it inflates to more than {RATIO_LIMIT} times its size");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(read)
    }
}

/// Reads until `buffer` is full or the input ends.
pub(super) fn fill(input: &mut Input, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

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

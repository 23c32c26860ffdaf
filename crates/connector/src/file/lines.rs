//! NDJSON: one JSON object a line.

use encoding_rs::Encoding;
use matome_model::canonical::QuarantineReason;
use matome_model::say;

use crate::record::{Boundary, DocumentError, Found, Parse};

/// A longer line is rejected; so much of one is held at most.
pub(super) const LINE_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// How much of a rejected line is kept.
pub(super) const KEPT_BYTES: usize = 64 * 1024;
/// The byte order mark, which may come again where files were joined.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// What is known of a line beside its bytes.
#[derive(Clone, Copy)]
pub(super) struct Line {
    /// How long it is without its end.
    pub(super) size: usize,
    /// Its number, from 1.
    pub(super) number: u64,
    /// Where the next one begins; nowhere if it has no end.
    pub(super) end: Option<Boundary>,
}

/// Splits lines at LF or CR LF; the last one needs no end.
pub(super) struct LineBuffer {
    held: Vec<u8>,
    /// Bytes of the line so far; more than are held when it is over the limit.
    size: usize,
    /// Where it begins.
    start: Boundary,
}

impl Default for LineBuffer {
    fn default() -> Self {
        Self { held: Vec::new(), size: 0, start: Boundary { offset: 0, line: 1 } }
    }
}

impl LineBuffer {
    fn hold(&mut self, piece: &[u8]) {
        self.size += piece.len();
        if self.size <= LINE_LIMIT_BYTES {
            self.held.extend_from_slice(piece);
        } else if self.held.len() > KEPT_BYTES {
            self.held.truncate(KEPT_BYTES);
            self.held.shrink_to_fit();
        } else {
            let room = KEPT_BYTES - self.held.len();
            self.held.extend_from_slice(&piece[..room.min(piece.len())]);
        }
    }

    /// The line of `size` bytes that ends here, with a line break of one byte behind it.
    fn next(&mut self, size: usize) -> Line {
        let number = self.start.line;
        self.start = Boundary { offset: self.start.offset + size as u64 + 1, line: number + 1 };
        Line { size, number, end: Some(self.start) }
    }

    fn end(&mut self, line: Line, take: &mut impl FnMut(&[u8], Line)) {
        let held = std::mem::take(&mut self.held);
        take(held.strip_suffix(b"\r").unwrap_or(&held), line);
        self.held = held;
        self.held.clear();
        self.size = 0;
    }

    /// Gives each line to `take`; of one over the limit, the beginning.
    pub(super) fn feed(&mut self, mut bytes: &[u8], take: &mut impl FnMut(&[u8], Line)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            if self.size == 0 {
                let line = &bytes[..end];
                let kept = if end > LINE_LIMIT_BYTES { &line[..KEPT_BYTES] } else { line };
                let line = self.next(end);
                take(kept.strip_suffix(b"\r").unwrap_or(kept), line);
            } else {
                self.hold(&bytes[..end]);
                let line = self.next(self.size);
                self.end(line, take);
            }
            bytes = &bytes[end + 1..];
        }
        self.hold(bytes);
    }

    /// The last line, if it has no end.
    pub(super) fn finish(&mut self, take: &mut impl FnMut(&[u8], Line)) {
        if self.size > 0 {
            self.end(Line { size: self.size, number: self.start.line, end: None }, take);
        }
    }

    /// Where the next line begins, if none is under way.
    pub(super) fn whole(&self) -> Option<Boundary> {
        (self.size == 0).then_some(self.start)
    }

    /// Goes on with the line that begins there, behind the byte `before`.
    pub(super) fn jump(&mut self, start: Boundary, before: u8) -> bool {
        *self = Self { start, ..Self::default() };
        before == b'\n'
    }
}

/// Makes a record of each line but blank ones.
pub(super) struct Lines {
    encoding: Option<&'static Encoding>,
    lines: LineBuffer,
}

impl Lines {
    pub(super) fn new(encoding: Option<&'static Encoding>) -> Self {
        Self { encoding, lines: LineBuffer::default() }
    }
}

fn line(encoding: Option<&'static Encoding>, bytes: &[u8], Line { size, number, end }: Line, found: &mut Found) {
    let line = Some(number);
    found.ends_at(end);
    let bytes = bytes.strip_prefix(MARK).unwrap_or(bytes);
    // First: of such a line only the beginning is here, and blanks at its beginning do not make it blank.
    if size > LINE_LIMIT_BYTES {
        let detail = say!(
            "line of {size} bytes is longer than the limit of {LINE_LIMIT_BYTES}",
            "{size} バイトの行は上限の {LINE_LIMIT_BYTES} バイトを超えています"
        );
        return found.rejected(line, bytes, QuarantineReason::LineLimit, detail);
    }
    if bytes.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
        return;
    }
    let Some(encoding) = encoding else { return found.record(line, bytes.to_vec()) };
    match encoding.decode_without_bom_handling_and_without_replacement(bytes) {
        Some(text) => found.record(line, text.into_owned().into_bytes()),
        None => {
            let name = encoding.name();
            let detail = say!("line is not valid {name}", "行が {name} として正しくありません");
            found.rejected(line, bytes, QuarantineReason::Encoding, detail);
        }
    }
}

impl Parse for Lines {
    fn feed(&mut self, bytes: &[u8], found: &mut Found) -> Result<(), DocumentError> {
        let encoding = self.encoding;
        self.lines.feed(bytes, &mut |bytes, of| line(encoding, bytes, of, found));
        Ok(())
    }

    fn finish(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        let encoding = self.encoding;
        found.end_text(self.lines.whole());
        self.lines.finish(&mut |bytes, of| line(encoding, bytes, of, found));
        Ok(())
    }

    fn jump(&mut self, to: Boundary, before: u8) -> bool {
        self.lines.jump(to, before)
    }
}

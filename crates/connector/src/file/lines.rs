//! NDJSON: one JSON object a line.

use encoding_rs::Encoding;
use matome_model::canonical::QuarantineReason;
use matome_model::say;

use crate::record::{DocumentError, Found, Parse};

/// A longer line is rejected; so much of one is held at most.
pub(super) const LINE_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// How much of a rejected line is kept.
pub(super) const KEPT_BYTES: usize = 64 * 1024;
/// The byte order mark, which may come again where files were joined.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Splits lines at LF or CR LF; blank ones are passed over, the last one needs no end.
pub(super) struct Lines {
    encoding: Option<&'static Encoding>,
    held: Vec<u8>,
    /// Bytes of the line so far; more than are held when it is over the limit.
    size: usize,
    line: u64,
}

impl Lines {
    pub(super) fn new(encoding: Option<&'static Encoding>) -> Self {
        Self { encoding, held: Vec::new(), size: 0, line: 1 }
    }

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

    fn end(&mut self, found: &mut Found) {
        let held = std::mem::take(&mut self.held);
        self.line(&held, self.size, found);
        self.held = held;
        self.held.clear();
        self.size = 0;
    }

    fn line(&mut self, bytes: &[u8], size: usize, found: &mut Found) {
        let line = Some(self.line);
        self.line += 1;
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
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
        let Some(encoding) = self.encoding else { return found.record(line, bytes.to_vec()) };
        match encoding.decode_without_bom_handling_and_without_replacement(bytes) {
            Some(text) => found.record(line, text.into_owned().into_bytes()),
            None => {
                let name = encoding.name();
                let detail = say!("line is not valid {name}", "行が {name} として正しくありません");
                found.rejected(line, bytes, QuarantineReason::Encoding, detail);
            }
        }
    }
}

impl Parse for Lines {
    fn feed(&mut self, mut bytes: &[u8], found: &mut Found) -> Result<(), DocumentError> {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            if self.size == 0 {
                self.line(&bytes[..end], end, found);
            } else {
                self.hold(&bytes[..end]);
                self.end(found);
            }
            bytes = &bytes[end + 1..];
        }
        self.hold(bytes);
        Ok(())
    }

    fn finish(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        if self.size > 0 {
            self.end(found);
        }
        Ok(())
    }
}

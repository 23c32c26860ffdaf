//! The canonical form of a record: one pass from the source's bytes to sorted, minimal JSON text and its hash.
//!
//! Two records are equal exactly when their canonical texts are. The form is UTF-8 without spaces; keys sorted by Unicode
//! scalar value; only `"`, `\` and control characters escaped (short forms where JSON has them, else `\u00xx` in lower
//! case); numbers as plain decimals by exact value: no exponent, no needless zeros, `-0` is `0`. Numbers never pass through
//! a float. What cannot be stored by value on every backend is [`Rejected`] with a [`QuarantineReason`] instead of altered.
//!
//! The scanner keeps an explicit stack, so nesting costs no machine stack, and its buffers are reused from record to record.

mod number;
mod reason;
mod scan;
mod string;
mod write;

use sha2::{Digest, Sha256};

use crate::field_error::Words;
use crate::say;

pub use number::{NumberError, canonical_number, is_canonical_number};
pub use reason::{QuarantineReason, Rejected, UnknownReason};
pub use write::{ObjectWriter, write_string};

use scan::{Buffers, Scan};

/// What one record may measure. A record at a limit is accepted, one past it is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nested objects and arrays, the record itself included. Default 128.
    pub depth: usize,
    /// Bytes of the record as it came, and again of its canonical text, in which numbers are expanded. Default 8 MiB.
    pub record_bytes: usize,
    /// UTF-8 bytes of one key after unescaping. Default 1 KiB.
    pub key_bytes: usize,
    /// UTF-8 bytes of one string value after unescaping. Default 4 MiB.
    pub string_bytes: usize,
    /// Keys in one object. Default 10,000.
    pub keys: usize,
    /// Digits of one number in canonical form, before and after the point together: `0.05` has three. Default 1,000.
    pub number_digits: usize,
}

impl Limits {
    /// For what was stored already: it passed its limits then, and only its canonical form counts.
    pub const NONE: Self = Self {
        depth: usize::MAX,
        record_bytes: usize::MAX,
        key_bytes: usize::MAX,
        string_bytes: usize::MAX,
        keys: usize::MAX,
        number_digits: usize::MAX,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 128,
            record_bytes: 8 << 20,
            key_bytes: 1 << 10,
            string_bytes: 4 << 20,
            keys: 10_000,
            number_digits: 1_000,
        }
    }
}

/// Brings records into canonical form, one at a time, in buffers that it keeps.
#[derive(Debug, Default)]
pub struct Canonicaliser {
    limits: Limits,
    buffers: Buffers,
}

/// One record in canonical form; borrows the text from the [`Canonicaliser`] until its next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canonical<'a> {
    /// The canonical JSON text of one object.
    pub text: &'a str,
    /// SHA-256 of `text`.
    pub hash: [u8; 32],
}

impl Canonical<'_> {
    /// The hash as 64 lower-case hex digits, as `data_hash` stores it.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = String::with_capacity(64);
        for byte in self.hash {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        hex
    }
}

impl Canonicaliser {
    /// A canonicaliser with limits other than the default ones.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, buffers: Buffers::default() }
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The canonical form of `raw`, which must hold exactly one JSON object, with or without whitespace around it.
    ///
    /// A byte order mark is no part of JSON; the reader strips it before.
    ///
    /// # Errors
    /// [`Rejected`] with the reason for the quarantine and the byte in `raw` where it was found.
    pub fn canonicalise(&mut self, raw: &[u8]) -> Result<Canonical<'_>, Rejected> {
        let limits = &self.limits;
        if raw.len() > limits.record_bytes {
            let (size, limit) = (raw.len(), limits.record_bytes);
            let detail = say!(
                "record of {size} bytes is longer than the limit of {limit}",
                "{size} バイトのレコードは上限の {limit} バイトを超えています"
            );
            return Err(Rejected::new(QuarantineReason::RecordLimit, limits.record_bytes, detail));
        }
        if let Err(err) = std::str::from_utf8(raw) {
            let at = err.valid_up_to();
            let detail = match raw {
                [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                    Words::new("record looks like UTF-16", "レコードが UTF-16 のようです")
                }
                _ => {
                    let byte = raw[at];
                    say!(
                        "byte 0x{byte:02x} is not valid UTF-8 here",
                        "バイト 0x{byte:02x} はここでは UTF-8 として正しくありません"
                    )
                }
            };
            return Err(Rejected::new(QuarantineReason::InvalidUtf8, at, detail));
        }

        self.buffers.clear();
        Scan::new(raw, limits, &mut self.buffers).document()?;

        let out = self.buffers.out.as_slice();
        if out.len() > limits.record_bytes {
            return Err(scan::expanded_past_limit(raw.len(), limits.record_bytes));
        }
        let text = std::str::from_utf8(out).expect("whole strings of valid UTF-8 and ASCII were copied together");
        Ok(Canonical { text, hash: Sha256::digest(out).into() })
    }
}

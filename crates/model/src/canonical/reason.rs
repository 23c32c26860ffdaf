//! Why a record goes to quarantine, and how that is told to the user.

use std::fmt;
use std::str::FromStr;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $code:literal $remedy:literal;)*) => {
        /// Why a record was put into quarantine; the code is stored and shown.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum QuarantineReason { $($(#[$doc])* $variant,)* }

        impl QuarantineReason {
            /// Every reason, in the order of this list.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable code, in snake case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What the user can do about it: an imperative clause without full stop.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

reasons! {
    /// Not JSON: a syntax error, trailing bytes, two documents in one record.
    InvalidJson "invalid_json" "send one JSON object (RFC 8259) per record";
    /// JSON, but not an object.
    NotObject "not_object" "send an object, or select objects with `records`";
    /// Two keys of one object are equal after unescaping.
    DuplicateKey "duplicate_key" "give each key of an object once";
    /// `\u0000` in a string or key, which PostgreSQL's JSONB cannot hold.
    NulCharacter "nul_character" "remove the NUL character at the source";
    /// Half of a surrogate pair, which no UTF-8 text can hold.
    LoneSurrogate "lone_surrogate" "escape the character as a whole surrogate pair or write it as UTF-8";
    /// Nested too deeply.
    Depth "depth" "flatten the record";
    /// A number with too many digits in plain notation.
    NumberLimit "number_limit" "send the value as a string";
    /// The record, or its canonical text, is too long.
    RecordLimit "record_limit" "split the record";
    /// A key is too long.
    KeyLimit "key_limit" "shorten the key";
    /// A string is too long.
    StringLimit "string_limit" "shorten the string";
    /// An object has too many keys.
    KeysLimit "keys_limit" "use an array";
    /// Bytes that are not UTF-8.
    InvalidUtf8 "invalid_utf8" "declare the encoding of the source or send UTF-8";
    /// A control character below U+0020 stands unescaped in a string.
    ControlCharacter "control_character" "escape control characters in strings";
    /// A CSV row has more or fewer fields than the header.
    CsvWidth "csv_width" "give each row as many fields as the header has";
    /// A quote stands where CSV does not allow one, or is never closed.
    CsvQuote "csv_quote" "double quotes inside quoted fields and close each field";
    /// A line is too long to be read.
    LineLimit "line_limit" "split the line";
    /// The input ended inside the record.
    Truncated "truncated" "send the record again as a whole";
    /// Bytes that the declared encoding does not know.
    Encoding "encoding" "declare the encoding that the source really uses";
    /// A parent record lacks a value that the requests for its children need.
    Parent "parent" "give each parent record the values that the placeholders `{parent...}` name";
    /// The record breaks the schema of its source, or a CSV value its declared type.
    Schema "schema" "correct the record or the schema of the source";
    /// The record's key is missing, null, an object or an array.
    Key "key" "give the record a value at each path of the source's `key`";
    /// The record breaks a rule of its source.
    Rule "rule" "correct the record or the rules of the source";
    /// The record has fields or types that the stored schema of its source does not have.
    Drift "drift" "accept the new schema of the source, then replay the record";
}

impl fmt::Display for QuarantineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A code that names no [`QuarantineReason`] of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no quarantine reason that this version knows")]
pub struct UnknownReason(pub String);

impl FromStr for QuarantineReason {
    type Err = UnknownReason;

    fn from_str(code: &str) -> Result<Self, UnknownReason> {
        let known = Self::ALL.iter().find(|reason| reason.as_str() == code);
        known.copied().ok_or_else(|| UnknownReason(code.to_owned()))
    }
}

/// A record that cannot be stored: what is wrong with it, and where.
///
/// Displayed, it is one sentence without full stop that says what was found, at which byte, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}, at byte {offset}; {}", reason.remedy())]
pub struct Rejected {
    /// The reason under which it goes to quarantine.
    pub reason: QuarantineReason,
    /// Byte in the record, counted from 0; the record's length when more was expected there.
    pub offset: usize,
    /// What was found, without position and remedy; printable text without line breaks.
    pub detail: String,
}

impl Rejected {
    /// A rejection; readers make their own for what they refuse before there is JSON.
    #[must_use]
    pub fn new(reason: QuarantineReason, offset: usize, detail: impl Into<String>) -> Self {
        Self { reason, offset, detail: detail.into() }
    }

    pub(super) fn invalid_json(offset: usize, detail: impl Into<String>) -> Self {
        Self::new(QuarantineReason::InvalidJson, offset, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_snake_case_and_read_back() {
        for &reason in QuarantineReason::ALL {
            let code = reason.to_string();
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'8'), "{code}");
            assert_eq!(code.parse(), Ok(reason));
        }
        let err = "gremlin".parse::<QuarantineReason>().unwrap_err();
        assert_eq!(err.to_string(), "`gremlin` is no quarantine reason that this version knows");
    }

    #[test]
    fn rejection_reads_as_what_where_and_what_to_do() {
        let rejected = Rejected::new(QuarantineReason::DuplicateKey, 7, "key `a` appears twice");
        assert_eq!(rejected.to_string(), "key `a` appears twice, at byte 7; give each key of an object once");
    }
}

//! Why a record goes to quarantine, and how that is told to the user.

use std::fmt;
use std::str::FromStr;

use crate::field_error::Words;
use crate::say;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $code:literal $remedy:literal, $japanese:literal;)*) => {
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
            pub fn remedy(self) -> Words {
                match self { $(Self::$variant => Words::new($remedy, $japanese),)* }
            }

            /// What was found, and what to do about it.
            #[must_use]
            pub fn told(self, found: &Words) -> Words {
                let Words { english, japanese } = self.remedy();
                Words::new(format!("{}; {english}", found.english), format!("{}。{japanese}", found.japanese))
            }
        }
    };
}

reasons! {
    /// Not JSON: a syntax error, trailing bytes, two documents in one record.
    InvalidJson "invalid_json" "send one JSON object (RFC 8259) per record", "1 レコードにつき JSON オブジェクト (RFC 8259) を一つ送ってください";
    /// JSON, but not an object.
    NotObject "not_object" "send an object, or select objects with `records`", "オブジェクトを送るか、`records` でオブジェクトを選んでください";
    /// Two keys of one object are equal after unescaping.
    DuplicateKey "duplicate_key" "give each key of an object once", "オブジェクトのキーはそれぞれ一度だけ書いてください";
    /// `\u0000` in a string or key, which PostgreSQL's JSONB cannot hold.
    NulCharacter "nul_character" "remove the NUL character at the source", "送り元で NUL 文字を取り除いてください";
    /// Half of a surrogate pair, which no UTF-8 text can hold.
    LoneSurrogate "lone_surrogate" "escape the character as a whole surrogate pair or write it as UTF-8", "サロゲートペアをそろえてエスケープするか、UTF-8 で書いてください";
    /// Nested too deeply.
    Depth "depth" "flatten the record", "レコードの入れ子を浅くしてください";
    /// A number with too many digits in plain notation.
    NumberLimit "number_limit" "send the value as a string", "値を文字列で送ってください";
    /// The record, or its canonical text, is too long.
    RecordLimit "record_limit" "split the record", "レコードを分けてください";
    /// A key is too long.
    KeyLimit "key_limit" "shorten the key", "キーを短くしてください";
    /// A string is too long.
    StringLimit "string_limit" "shorten the string", "文字列を短くしてください";
    /// An object has too many keys.
    KeysLimit "keys_limit" "use an array", "配列を使ってください";
    /// Bytes that are not UTF-8.
    InvalidUtf8 "invalid_utf8" "declare the encoding of the source or send UTF-8", "データソースの文字コードを指定するか、UTF-8 で送ってください";
    /// A control character below U+0020 stands unescaped in a string.
    ControlCharacter "control_character" "escape control characters in strings", "文字列の中の制御文字をエスケープしてください";
    /// A CSV row has more or fewer fields than the header.
    CsvWidth "csv_width" "give each row as many fields as the header has", "各行のフィールドの数を見出しと同じにしてください";
    /// A quote stands where CSV does not allow one, or is never closed.
    CsvQuote "csv_quote" "double quotes inside quoted fields and close each field", "引用符で囲んだフィールドの中では引用符を二つ重ね、フィールドを閉じてください";
    /// An element that cannot be read.
    InvalidXml "invalid_xml" "repair the element", "要素を直してください";
    /// A line is too long to be read.
    LineLimit "line_limit" "split the line", "行を分けてください";
    /// The input ended inside the record.
    Truncated "truncated" "send the record again as a whole", "レコードを最後まで送り直してください";
    /// Bytes that the declared encoding does not know.
    Encoding "encoding" "declare the encoding that the source really uses", "データソースが実際に使う文字コードを指定してください";
    /// A parent record lacks a value that the requests for its children need.
    Parent "parent" "give each parent record the values that the placeholders `{parent...}` name", "プレースホルダー `{parent...}` が指す値を、親のレコードそれぞれに入れてください";
    /// The record breaks the schema of its source, or a CSV value its declared type.
    Schema "schema" "correct the record or the schema of the source", "レコードか、データソースのスキーマを直してください";
    /// The record's key is missing, null, an object or an array.
    Key "key" "give the record a value at each path of the source's `key`", "データソースの `key` が指すそれぞれの場所に値を入れてください";
    /// The record breaks a rule of its source.
    Rule "rule" "correct the record or the rules of the source", "レコードか、データソースの規則を直してください";
    /// The record has fields or types that the stored schema of its source does not have.
    Drift "drift" "accept the new schema of the source, then replay the record", "データソースの新しいスキーマを受け入れてから、レコードを再処理してください";
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
#[error("{}", self.words().english)]
pub struct Rejected {
    /// The reason under which it goes to quarantine.
    pub reason: QuarantineReason,
    /// Byte in the record, counted from 0; the record's length when more was expected there.
    pub offset: usize,
    /// What was found, without position and remedy; printable text without line breaks.
    pub detail: Words,
}

impl Rejected {
    /// A rejection; readers make their own for what they refuse before there is JSON.
    #[must_use]
    pub fn new(reason: QuarantineReason, offset: usize, detail: impl Into<Words>) -> Self {
        Self { reason, offset, detail: detail.into() }
    }

    /// What it says, in both languages.
    #[must_use]
    pub fn words(&self) -> Words {
        let (Words { english, japanese }, offset) = (&self.detail, self.offset);
        self.reason.told(&say!("{english}, at byte {offset}", "{japanese} (バイト位置 {offset})"))
    }

    pub(super) fn invalid_json(offset: usize, detail: impl Into<Words>) -> Self {
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
        let rejected =
            Rejected::new(QuarantineReason::DuplicateKey, 7, ("key `a` appears twice", "キー `a` が二度あります"));
        assert_eq!(rejected.to_string(), "key `a` appears twice, at byte 7; give each key of an object once");
        assert!(rejected.words().japanese.starts_with("キー `a` が二度あります (バイト位置 7)。"));
    }
}

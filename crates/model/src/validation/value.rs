//! A record as a tree whose numbers keep their digits: validation must not see what a float makes of them.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::canonical::write_string;

/// A JSON value read from canonical text, so equal values are equal trees and equal numbers equal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    /// A plain decimal.
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    /// Sorted by key.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads canonical text.
    pub(crate) fn parse(canonical: &'a str) -> Self {
        Parser { text: canonical, at: 0 }.value()
    }

    /// The member `name` of an object.
    pub(crate) fn get(&self, name: &str) -> Option<&Json<'a>> {
        let Self::Object(members) = self else { return None };
        let at = members.binary_search_by(|(key, _)| key.as_ref().cmp(name)).ok()?;
        Some(&members[at].1)
    }

    /// Element `index` of an array, or member `index` of an object.
    pub(crate) fn step(&self, step: &str) -> Option<&Json<'a>> {
        match self {
            Self::Object(_) => self.get(step),
            Self::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// The word of JSON Schema for its type; a number without a fraction is an `integer`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Number(digits) if is_integer(digits) => "integer",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// Appends its canonical text.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Number(digits) => out.extend_from_slice(digits.as_bytes()),
            Self::String(text) => write_string(out, text),
            Self::Array(items) => {
                out.push(b'[');
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Object(members) => {
                out.push(b'{');
                for (n, (key, value)) in members.iter().enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    write_string(out, key);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }

    /// Its canonical text, cut to what a message has room for.
    pub(crate) fn shown(&self) -> String {
        const ROOM: usize = 60;
        let mut out = Vec::new();
        self.write(&mut out);
        let text = String::from_utf8(out).expect("JSON of UTF-8 is UTF-8");
        match text.char_indices().nth(ROOM) {
            Some((at, _)) => format!("{}...", &text[..at]),
            None => text,
        }
    }

    /// The same value with texts of its own.
    pub(crate) fn into_owned(self) -> Json<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(value),
            Self::Number(digits) => Json::Number(own(digits)),
            Self::String(text) => Json::String(own(text)),
            Self::Array(items) => Json::Array(items.into_iter().map(Json::into_owned).collect()),
            Self::Object(members) => {
                Json::Object(members.into_iter().map(|(key, value)| (own(key), value.into_owned())).collect())
            }
        }
    }
}

/// Canonical text is well formed, and no deeper than the limits of the canonical form.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn value(&mut self) -> Json<'a> {
        match self.peek() {
            b'{' => {
                let mut members = Vec::new();
                self.at += 1;
                while self.peek() != b'}' {
                    let key = self.string();
                    self.at += 1; // the colon
                    members.push((key, self.value()));
                    self.at += usize::from(self.peek() == b',');
                }
                self.at += 1;
                Json::Object(members)
            }
            b'[' => {
                let mut items = Vec::new();
                self.at += 1;
                while self.peek() != b']' {
                    items.push(self.value());
                    self.at += usize::from(self.peek() == b',');
                }
                self.at += 1;
                Json::Array(items)
            }
            b'"' => Json::String(self.string()),
            b't' => self.word(4, Json::Bool(true)),
            b'f' => self.word(5, Json::Bool(false)),
            b'n' => self.word(4, Json::Null),
            _ => {
                let start = self.at;
                while matches!(self.text.as_bytes().get(self.at), Some(b'-' | b'.' | b'0'..=b'9')) {
                    self.at += 1;
                }
                assert!(self.at > start, "canonical text has a value here");
                Json::Number(Cow::Borrowed(&self.text[start..self.at]))
            }
        }
    }

    fn peek(&self) -> u8 {
        *self.text.as_bytes().get(self.at).expect("canonical text is complete")
    }

    fn word(&mut self, length: usize, value: Json<'a>) -> Json<'a> {
        self.at += length;
        value
    }

    fn string(&mut self) -> Cow<'a, str> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut end = start;
        let mut escaped = false;
        while bytes[end] != b'"' {
            let skip = usize::from(bytes[end] == b'\\');
            escaped |= skip == 1;
            end += 1 + skip;
        }
        self.at = end + 1;
        if escaped {
            let quoted = &self.text[start - 1..self.at];
            Cow::Owned(serde_json::from_str(quoted).expect("a canonical string is JSON"))
        } else {
            Cow::Borrowed(&self.text[start..end])
        }
    }
}

/// Whether a canonical number has no fraction.
pub(crate) fn is_integer(digits: &str) -> bool {
    !digits.contains('.')
}

/// Compares two canonical numbers by exact value.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    match (left.strip_prefix('-'), right.strip_prefix('-')) {
        (None, None) => magnitudes(left, right),
        (Some(left), Some(right)) => magnitudes(right, left),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
    }
}

fn magnitudes(left: &str, right: &str) -> Ordering {
    let ((left, left_fraction), (right, right_fraction)) = (parts(left), parts(right));
    // No leading zeros, so the longer one is larger; no trailing ones, so fractions compare as texts.
    left.len().cmp(&right.len()).then_with(|| left.cmp(right)).then_with(|| left_fraction.cmp(right_fraction))
}

fn parts(digits: &str) -> (&str, &str) {
    digits.split_once('.').unwrap_or((digits, ""))
}

/// Whether `value` is a whole number of `divisor`s, exactly; both canonical, `divisor` above 0.
pub(crate) fn is_multiple(value: &str, divisor: &str) -> bool {
    let ((whole, fraction), (by_whole, by_fraction)) = (parts(value.trim_start_matches('-')), parts(divisor));
    let scale = fraction.len().max(by_fraction.len());
    let scaled = |whole: &str, fraction: &str| format!("{whole}{fraction}{}", "0".repeat(scale - fraction.len()));
    let (value, divisor) = (scaled(whole, fraction), scaled(by_whole, by_fraction));
    if let (Ok(value), Ok(divisor)) = (value.parse::<u128>(), divisor.parse::<u128>()) {
        return value % divisor == 0;
    }
    // Long division, digit by digit; only the remainder matters.
    let divisor = divisor.trim_start_matches('0').as_bytes();
    let mut rest: Vec<u8> = Vec::with_capacity(divisor.len() + 1);
    for digit in value.bytes() {
        if !(rest.is_empty() && digit == b'0') {
            rest.push(digit);
        }
        while rest.len() > divisor.len() || rest.len() == divisor.len() && rest.as_slice() >= divisor {
            subtract(&mut rest, divisor);
        }
    }
    rest.is_empty()
}

/// `from -= what` in decimal digits without leading zeros; `from` is not the smaller one.
fn subtract(from: &mut Vec<u8>, what: &[u8]) {
    let mut borrow = 0;
    for n in 0..from.len() {
        let at = from.len() - 1 - n;
        let digit = what.len().checked_sub(n + 1).map_or(0, |at| what[at] - b'0');
        let left = from[at] - b'0';
        let need = digit + borrow;
        borrow = u8::from(left < need);
        from[at] = b'0' + left + borrow * 10 - need;
    }
    let zeros = from.iter().take_while(|digit| **digit == b'0').count();
    from.drain(..zeros);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonicaliser;

    #[test]
    fn canonical_text_reads_back_as_it_was_written() {
        let raw = r#"{"b":[1.50,-0,1e3,[],{}],"a":"q\"\\\n\u0001é","n":null,"t":[true,false],"":{"x":"\u00e9"}}"#;
        let text = Canonicaliser::default().canonicalise(raw.as_bytes()).unwrap().text.to_owned();
        let json = Json::parse(&text);
        let mut out = Vec::new();
        json.write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), text);
        assert_eq!(json.get("a"), Some(&Json::String("q\"\\\n\u{1}é".into())));
        assert_eq!(json.get("b").unwrap().step("0"), Some(&Json::Number("1.5".into())));
        assert_eq!(json.clone().into_owned(), json);
    }

    #[test]
    fn numbers_compare_by_exact_value() {
        let ascending = [
            "-12345678901234567891",
            "-12345678901234567890.5",
            "-2",
            "-0.10000000000000000001",
            "-0.1",
            "0",
            "0.1",
            "0.10000000000000000001",
            "9",
            "10",
            "12345678901234567890",
            "12345678901234567891",
        ];
        for (n, left) in ascending.iter().enumerate() {
            for (m, right) in ascending.iter().enumerate() {
                assert_eq!(compare(left, right), n.cmp(&m), "{left} {right}");
            }
        }
    }

    #[test]
    fn multiples_are_exact_at_any_length() {
        for (value, divisor, expected) in [
            ("0.3", "0.1", true),
            ("0.35", "0.1", false),
            ("-7.5", "2.5", true),
            ("0", "7", true),
            ("4", "0.00000000000000000001", true),
            ("1000000000000000000000000000000000000000000000000001", "3", false),
            ("1000000000000000000000000000000000000000000000000002", "3", true),
            ("100000000000000000000000000000000000000000000.5", "0.25", true),
            ("100000000000000000000000000000000000000000000.5", "0.3", true),
            ("100000000000000000000000000000000000000000000.5", "0.4", false),
        ] {
            assert_eq!(is_multiple(value, divisor), expected, "{value} {divisor}");
        }
    }
}

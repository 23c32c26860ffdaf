//! Strings and keys: copied span by span, unescaped and escaped again only where they must be.

use super::reason::{QuarantineReason, Rejected};
use crate::field_error::Words;
use crate::say;

/// A string that was copied in canonical form.
pub(super) struct Copied {
    /// Byte behind the closing quote in the input.
    pub(super) end: usize,
    /// UTF-8 bytes of its value.
    pub(super) decoded_bytes: usize,
    /// Whether its canonical text holds an escape.
    pub(super) escaped: bool,
}

/// Copies the string whose opening quote is at `start`, quotes included. `raw` is known to be UTF-8.
pub(super) fn copy_string(raw: &[u8], start: usize, out: &mut Vec<u8>) -> Result<Copied, Rejected> {
    let first = out.len() + 1;
    let mut escapes = 0; // bytes by which the canonical text is longer than the value
    out.push(b'"');
    let mut from = start + 1;
    loop {
        let at = next_special(raw, from);
        match raw.get(at) {
            Some(b'"') => {
                out.extend_from_slice(&raw[from..=at]);
                return Ok(Copied {
                    end: at + 1,
                    decoded_bytes: out.len() - 1 - first - escapes,
                    escaped: escapes > 0,
                });
            }
            Some(b'\\') => {
                out.extend_from_slice(&raw[from..at]);
                let (c, end) = unescape(raw, at)?;
                if c < ' ' || c == '"' || c == '\\' {
                    let before = out.len();
                    push_escaped(out, c as u8);
                    escapes += out.len() - before - 1;
                } else {
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                from = end;
            }
            Some(byte) => {
                let detail = say!(
                    "control character 0x{byte:02x} stands unescaped in a string",
                    "文字列の中に制御文字 0x{byte:02x} がエスケープされずにあります"
                );
                return Err(Rejected::new(QuarantineReason::ControlCharacter, at, detail));
            }
            None => return Err(Rejected::invalid_json(raw.len(), not_closed())),
        }
    }
}

fn not_closed() -> Words {
    Words::new("string is not closed", "文字列が閉じられていません")
}

/// The character that the escape at `at` (a backslash) names, and the byte behind the escape.
fn unescape(raw: &[u8], at: usize) -> Result<(char, usize), Rejected> {
    let c = match raw.get(at + 1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unescape_unit(raw, at),
        Some(_) => {
            return Err(Rejected::invalid_json(at, ("escape is none that JSON knows", "JSON にないエスケープです")));
        }
        None => return Err(Rejected::invalid_json(raw.len(), not_closed())),
    };
    Ok((c, at + 2))
}

fn unescape_unit(raw: &[u8], at: usize) -> Result<(char, usize), Rejected> {
    let unit = unit(raw, at)?;
    let c = match unit {
        0 => {
            let detail = ("string holds the NUL character `\\u0000`", "文字列に NUL 文字 `\\u0000` があります");
            return Err(Rejected::new(QuarantineReason::NulCharacter, at, detail));
        }
        0xd800..=0xdbff if raw.get(at + 6..at + 8) == Some(br"\u") => {
            let low = self::unit(raw, at + 6)?;
            if !(0xdc00..=0xdfff).contains(&low) {
                return Err(lone_surrogate(unit, at));
            }
            let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
            let c = char::from_u32(code).expect("a surrogate pair names a scalar value");
            return Ok((c, at + 12));
        }
        _ => char::from_u32(unit).ok_or_else(|| lone_surrogate(unit, at))?,
    };
    Ok((c, at + 6))
}

fn lone_surrogate(unit: u32, at: usize) -> Rejected {
    let detail = say!(
        "`\\u{unit:04x}` is half of a surrogate pair without its other half",
        "`\\u{unit:04x}` はサロゲートペアの片方だけです"
    );
    Rejected::new(QuarantineReason::LoneSurrogate, at, detail)
}

/// The four hex digits of the `\u` escape at `at`.
fn unit(raw: &[u8], at: usize) -> Result<u32, Rejected> {
    let mut unit = 0;
    for i in at + 2..at + 6 {
        let digit = raw.get(i).and_then(|byte| char::from(*byte).to_digit(16));
        let Some(digit) = digit else {
            let detail = ("`\\u` is not followed by four hex digits", "`\\u` のあとに 16 進数字が四つ続いていません");
            return Err(Rejected::invalid_json(i, detail));
        };
        unit = unit << 4 | digit;
    }
    Ok(unit)
}

/// Appends the escape of a character that must have one: `"`, `\` or below U+0020.
pub(super) fn push_escaped(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// The bytes of a value whose canonical text (without quotes) is given; for comparing keys that hold escapes.
pub(super) struct Decoded<'a>(pub(super) std::slice::Iter<'a, u8>);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let byte = *self.0.next()?;
        if byte != b'\\' {
            return Some(byte);
        }
        match *self.0.next()? {
            b'b' => Some(0x08),
            b'f' => Some(0x0c),
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'u' => {
                // Always `00` and two digits: only control characters are escaped this way.
                let mut code = 0;
                for _ in 0..4 {
                    code = code << 4 | char::from(*self.0.next()?).to_digit(16)? as u8;
                }
                Some(code)
            }
            other => Some(other),
        }
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The first byte from `at` on that cannot be copied as it is (`"`, `\`, below 0x20), or the end.
///
/// Eight bytes at a time: subtracting sets the high bit of each byte below the bound, and the borrow of a hit can only
/// disturb bytes above it, so the lowest bit set is always right.
#[inline]
pub(super) fn next_special(raw: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = raw.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = equal_bytes(word, b'"');
        let backslash = equal_bytes(word, b'\\');
        let hits = (control | quote | backslash) & HIGHS;
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = raw.get(at..).unwrap_or_default();
    let clean = rest.iter().take_while(|&&byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    at + clean.count()
}

#[inline]
fn equal_bytes(word: u64, byte: u8) -> u64 {
    let zero_where_equal = word ^ (ONES * u64::from(byte));
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_byte_is_found_wherever_it_stands() {
        for byte in 0..=255_u8 {
            for len in 0..20 {
                for place in 0..len {
                    let mut raw = vec![b'x'; len];
                    raw[place] = byte;
                    let special = byte < 0x20 || byte == b'"' || byte == b'\\';
                    let expected = if special { place } else { len };
                    assert_eq!(next_special(&raw, 0), expected, "{byte} at {place} of {len}");
                }
            }
        }
    }

    #[test]
    fn neighbours_of_a_special_byte_do_not_hide_it() {
        let mut raw = vec![0xff_u8, b'!', b' ', b'#', b'[', b']', 0x80, 0x7f];
        assert_eq!(next_special(&raw, 0), 8);
        raw.extend(b"!\"! \\ \x1f ");
        assert_eq!(next_special(&raw, 0), 9);
        assert_eq!(next_special(&raw, 10), 12);
        assert_eq!(next_special(&raw, 13), 14);
    }

    #[test]
    fn decoding_undoes_every_escape() {
        for byte in 1..0x80_u8 {
            let mut out = Vec::new();
            super::super::write_string(&mut out, &char::from(byte).to_string());
            let inner = &out[1..out.len() - 1];
            assert_eq!(Decoded(inner.iter()).collect::<Vec<_>>(), [byte]);
        }
    }
}

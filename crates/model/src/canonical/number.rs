//! Numbers as plain decimals by exact value, without ever holding one as a number.

/// Why a text has no canonical number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Not a number in JSON's grammar.
    #[error("{}, at byte {offset}", what.0)]
    Malformed {
        /// Byte in the text at which it stops being a number.
        offset: usize,
        /// What is wrong there, in English and in Japanese.
        what: (&'static str, &'static str),
    },
    /// Written out it would have more digits than allowed.
    #[error("number has {digits} digits written out, more than the limit of {limit}")]
    TooLong {
        /// Digits of the plain decimal; saturates.
        digits: u64,
        /// Digits allowed.
        limit: usize,
    },
}

const FOLLOWED: (&str, &str) = ("number is followed by something else", "数値のあとに何かが続いています");

/// The plain decimal of exactly the value that `text` (a JSON number) names, with at most `max_digits` digits.
///
/// No exponent, no trailing zeros of the fraction, `-0` is `0`: `1.50e1` becomes `15`, `1e-3` becomes `0.001`.
///
/// # Errors
/// When `text` is not one JSON number and nothing else, or its plain decimal would be too long; that is known before it is written.
pub fn canonical_number(text: &str, max_digits: usize) -> Result<String, NumberError> {
    let mut out = Vec::new();
    let end = write_number(text.as_bytes(), 0, max_digits, &mut out)?;
    if end != text.len() {
        return Err(NumberError::Malformed { offset: end, what: FOLLOWED });
    }
    Ok(String::from_utf8(out).expect("digits, sign and point are ASCII"))
}

/// Whether `text` is a number already in canonical form, so that making it a JSON number keeps each of its characters.
///
/// `00123`, `1.50`, `+1`, `1e3` and `-0` are not. Allocates nothing.
#[must_use]
pub fn is_canonical_number(text: &str, max_digits: usize) -> bool {
    let Ok((number, end)) = Number::scan(text.as_bytes(), 0) else {
        return false;
    };
    let Number { negative, int, frac, exponent } = number;
    end == text.len()
        && exponent.is_none()
        // A written point has digits behind it; the last one must count.
        && frac.last() != Some(&b'0')
        && !(negative && int == b"0" && frac.is_empty())
        && int.len() + frac.len() <= max_digits
}

/// Writes the number that starts at `at` and answers where it ends.
pub(super) fn write_number(raw: &[u8], at: usize, max_digits: usize, out: &mut Vec<u8>) -> Result<usize, NumberError> {
    let (number, end) = Number::scan(raw, at)?;
    if number.exponent.is_none() && number.frac.is_empty() && number.int != b"0" {
        check_digits(number.int.len() as u64, max_digits)?;
        out.extend_from_slice(&raw[at..end]);
        return Ok(end);
    }
    let plain = Plain::of(&number);
    check_digits(plain.digits(), max_digits)?;
    plain.write(out);
    Ok(end)
}

fn check_digits(digits: u64, limit: usize) -> Result<(), NumberError> {
    if digits > limit as u64 {
        return Err(NumberError::TooLong { digits, limit });
    }
    Ok(())
}

/// A number's parts as they are written.
struct Number<'a> {
    negative: bool,
    /// `0`, or digits that do not start with one.
    int: &'a [u8],
    /// Digits behind the point; empty when there is no point.
    frac: &'a [u8],
    /// Saturates: beyond an `i64` nothing but zero has few enough digits.
    exponent: Option<i64>,
}

impl<'a> Number<'a> {
    fn scan(raw: &'a [u8], start: usize) -> Result<(Self, usize), NumberError> {
        let malformed = |offset, what| Err(NumberError::Malformed { offset, what });
        let mut at = start;
        let negative = raw.get(at) == Some(&b'-');
        at += usize::from(negative);

        let int = digits(raw, at);
        match int {
            [] => return malformed(at, ("number has no digits", "数値に数字がありません")),
            [b'0', _, ..] => return malformed(at, ("number has a leading zero", "数値が 0 で始まっています")),
            _ => at += int.len(),
        }

        let mut frac: &[u8] = &[];
        if raw.get(at) == Some(&b'.') {
            frac = digits(raw, at + 1);
            if frac.is_empty() {
                return malformed(at + 1, ("number has no digits behind its point", "小数点のあとに数字がありません"));
            }
            at += 1 + frac.len();
        }

        let mut exponent = None;
        if let Some(b'e' | b'E') = raw.get(at) {
            at += 1;
            let sign = raw.get(at);
            let minus = sign == Some(&b'-');
            at += usize::from(minus || sign == Some(&b'+'));
            let written = digits(raw, at);
            if written.is_empty() {
                return malformed(at, ("number has no digits in its exponent", "指数に数字がありません"));
            }
            at += written.len();
            let size = written
                .iter()
                .fold(0_i64, |size, digit| size.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
            exponent = Some(if minus { -size } else { size });
        }

        let number = Self { negative, int, frac, exponent };
        Ok((number, at))
    }
}

fn digits(raw: &[u8], at: usize) -> &[u8] {
    let rest = raw.get(at..).unwrap_or_default();
    let len = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    &rest[..len]
}

/// A value as `0.DIGITS * 10^point`, where DIGITS is `head` followed by `tail` and neither starts nor ends with a zero.
struct Plain<'a> {
    negative: bool,
    head: &'a [u8],
    tail: &'a [u8],
    point: i64,
}

impl<'a> Plain<'a> {
    fn of(number: &Number<'a>) -> Self {
        let mut head = number.int;
        let mut tail = number.frac;
        let mut point = head.len() as i64;
        if head == b"0" {
            let significant = strip_leading_zeros(tail);
            point = -((tail.len() - significant.len()) as i64);
            head = &[];
            tail = significant;
        }
        tail = strip_trailing_zeros(tail);
        if tail.is_empty() {
            head = strip_trailing_zeros(head);
        }
        Self { negative: number.negative, head, tail, point: point.saturating_add(number.exponent.unwrap_or(0)) }
    }

    fn is_zero(&self) -> bool {
        self.head.is_empty() && self.tail.is_empty()
    }

    fn significant(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64
    }

    fn digits(&self) -> u64 {
        if self.is_zero() {
            1
        } else if self.point > 0 {
            self.significant().max(self.point.unsigned_abs())
        } else {
            // The zero before the point, and those between the point and the first other digit.
            (1 + self.significant()).saturating_add(self.point.unsigned_abs())
        }
    }

    /// Writes the number; only after `digits` was found small enough.
    fn write(&self, out: &mut Vec<u8>) {
        if self.is_zero() {
            out.push(b'0');
            return;
        }
        if self.negative {
            out.push(b'-');
        }
        let places = self.point.unsigned_abs() as usize;
        if self.point <= 0 {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + places, b'0');
            out.extend_from_slice(self.head);
            out.extend_from_slice(self.tail);
            return;
        }
        let first = out.len();
        out.extend_from_slice(self.head);
        out.extend_from_slice(self.tail);
        let end = first + places;
        if end < out.len() {
            out.insert(end, b'.');
        } else {
            out.resize(end, b'0');
        }
    }
}

fn strip_leading_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

fn strip_trailing_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().rev().take_while(|digit| **digit == b'0').count();
    &digits[..digits.len() - zeros]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_written_out_by_exact_value() {
        let cases = [
            ("0", "0"),
            ("-0", "0"),
            ("-0.000", "0"),
            ("0e999999999999999999999", "0"),
            ("-0E-5", "0"),
            ("1.0", "1"),
            ("-1.50", "-1.5"),
            ("1E+2", "100"),
            ("1e0", "1"),
            ("1e-3", "0.001"),
            ("100", "100"),
            ("100e-2", "1"),
            ("100e-3", "0.1"),
            ("120e-1", "12"),
            ("1.23e1", "12.3"),
            ("1.23e2", "123"),
            ("1.23e4", "12300"),
            ("12.3e-1", "1.23"),
            ("12.3e-2", "0.123"),
            ("12.3e-4", "0.00123"),
            ("0.00120e2", "0.12"),
            ("0.00120e3", "1.2"),
            ("0.0012e5", "120"),
            ("10.01", "10.01"),
            ("1e00000000000000000000000000003", "1000"),
            ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ];
        for (text, plain) in cases {
            assert_eq!(canonical_number(text, 40).as_deref(), Ok(plain), "{text}");
            assert_eq!(canonical_number(plain, 40).as_deref(), Ok(plain));
            assert!(is_canonical_number(plain, 40), "{plain}");
            assert_eq!(is_canonical_number(text, 40), text == plain, "{text}");
        }
    }

    #[test]
    fn length_is_judged_before_anything_is_written() {
        for text in ["1e10000", "1e-10000", "1e999999999999999999999", "-1e-999999999999999999999"] {
            let mut out = Vec::new();
            let err = write_number(text.as_bytes(), 0, 1000, &mut out).unwrap_err();
            assert!(matches!(err, NumberError::TooLong { .. }), "{text}");
            assert_eq!(out.capacity(), 0);
        }
    }

    #[test]
    fn limit_counts_every_digit_of_the_plain_form() {
        for (fits, too_long) in [
            ("1e4", "1e5"),
            ("12345", "123456"),
            ("1e-4", "1e-5"),
            ("1.2345", "1.23456"),
            ("12.3e-3", "12.3e-4"),
            ("0.0001", "0.00001"),
            ("100000e-1", "1000000e-1"),
        ] {
            assert!(canonical_number(fits, 5).is_ok(), "{fits}");
            assert!(
                matches!(canonical_number(too_long, 5), Err(NumberError::TooLong { digits: 6, limit: 5 })),
                "{too_long}"
            );
            assert!(!is_canonical_number(too_long, 5));
        }
        assert_eq!(canonical_number("1.000000000000", 1).as_deref(), Ok("1"));
    }

    #[test]
    fn what_json_does_not_call_a_number_is_malformed() {
        for text in [
            "", "-", "+1", "01", "-01", "00", "1.", ".5", "1.e5", "1e", "1e+", "1e-", "0x1F", "1 ", " 1", "1,5", "NaN",
            "--1", "1_000", "１",
        ] {
            assert!(matches!(canonical_number(text, 1000), Err(NumberError::Malformed { .. })), "{text}");
            assert!(!is_canonical_number(text, 1000), "{text}");
        }
    }

    #[test]
    fn only_text_that_survives_as_a_number_is_canonical() {
        for text in ["00123", "1.50", "1.0", "-0", "-0.0", "1e3", "+1", "0.0"] {
            assert!(!is_canonical_number(text, 1000), "{text}");
        }
        for text in ["0", "-1", "0.5", "-0.05", "10", "9007199254740993"] {
            assert!(is_canonical_number(text, 1000), "{text}");
        }
    }
}

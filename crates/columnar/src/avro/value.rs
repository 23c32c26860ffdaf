//! From the binary encoding of values to JSON.

use std::io::Write as _;

use matome_model::canonical::write_string;
use matome_model::field_error::Words;

use super::block::zigzag;
use super::schema::{Binary, Schema, Type, Whole};
use crate::scalar::{Shape, Unfit, float, hex, time_of_day, timestamp, uuid};
use crate::{Fault, FileRow};

/// A longer record is a fault, of which only the beginning is kept.
const RECORD_LIMIT_BYTES: usize = 16 * 1024 * 1024;
const KEPT_BYTES: usize = 64 * 1024;
/// Values within each other.
const DEPTH_LIMIT: usize = 256;
/// A decimal of more bytes has more than a thousand digits.
const DECIMAL_LIMIT_BYTES: usize = 416;

/// What is wrong with bytes that are no value, in both languages.
pub(super) type Damage = (&'static str, &'static str);

/// Where a block is read.
pub(super) struct Cursor<'b> {
    bytes: &'b [u8],
    pub(super) at: usize,
}

impl<'b> Cursor<'b> {
    pub(super) fn new(bytes: &'b [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], Damage> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..length).ok_or(("it ends early", "途中で切れています"))?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let taken = self.take(N)?;
        Ok(*taken.first_chunk().expect("so many bytes were taken"))
    }

    fn long(&mut self) -> Result<i64, Damage> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(zigzag(value));
            }
        }
        Err(("a number is too long", "数値が長すぎます"))
    }

    /// Bytes behind their length.
    fn counted(&mut self) -> Result<&'b [u8], Damage> {
        let length = usize::try_from(self.long()?).map_err(|_| ("a length is negative", "長さが負です"))?;
        self.take(length)
    }
}

/// Writes one record.
pub(super) struct Decoder<'s> {
    schema: &'s Schema,
    empty_left: &'s mut u32,
    /// The column that is read.
    column: &'s str,
    fault: Option<Fault>,
}

impl<'s> Decoder<'s> {
    /// `empty_left`: how many values that take no bytes may come.
    pub(super) fn new(schema: &'s Schema, empty_left: &'s mut u32) -> Self {
        Self { schema, empty_left, column: "", fault: None }
    }

    pub(super) fn row(&mut self, cursor: &mut Cursor<'_>) -> Result<FileRow, Damage> {
        let mut json = Vec::with_capacity(128);
        self.counted_value(self.schema.root, cursor, &mut json, 0)?;
        if !json.starts_with(b"{") {
            self.fail(Words::new("the value is no record", "値がレコードではありません"));
        }
        Ok(FileRow { json, fault: self.fault.take() })
    }

    /// A value, of which there may be as many as a count says: each takes bytes, or one of those that need none.
    fn counted_value(
        &mut self,
        kind: usize,
        cursor: &mut Cursor<'_>,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Damage> {
        let before = cursor.at;
        self.value(kind, cursor, out, depth)?;
        if cursor.at == before {
            *self.empty_left = self
                .empty_left
                .checked_sub(1)
                .ok_or(("there are too many values without bytes", "バイトのない値が多すぎます"))?;
        }
        Ok(())
    }

    fn value(&mut self, kind: usize, cursor: &mut Cursor<'_>, out: &mut Vec<u8>, depth: usize) -> Result<(), Damage> {
        if depth > DEPTH_LIMIT {
            return Err(("its values lie too deep in each other", "値の重なりが深すぎます"));
        }
        self.keep_short(out);
        let schema = self.schema;
        match &schema.types[kind] {
            Type::Null => out.extend_from_slice(b"null"),
            Type::Boolean => match cursor.array()? {
                [0] => out.extend_from_slice(b"false"),
                [1] => out.extend_from_slice(b"true"),
                _ => return Err(("a boolean is neither 0 nor 1", "真偽値が 0 でも 1 でもありません")),
            },
            Type::Int(whole) => {
                let number = i32::try_from(cursor.long()?)
                    .map_err(|_| ("an `int` has more than 32 bits", "`int` が 32 ビットを超えています"))?;
                self.whole(*whole, i64::from(number), out);
            }
            Type::Long(whole) => {
                let number = cursor.long()?;
                self.whole(*whole, number, out);
            }
            Type::Float => {
                let number = f32::from_le_bytes(cursor.array()?);
                let written = float(out, f64::from(number), Some(number));
                self.or_text(written, &number.to_string(), out);
            }
            Type::Double => {
                let number = f64::from_le_bytes(cursor.array()?);
                let written = float(out, number, None);
                self.or_text(written, &number.to_string(), out);
            }
            Type::Bytes(binary) => {
                let bytes = cursor.counted()?;
                self.binary(*binary, bytes, out);
            }
            Type::Fixed(size, binary) => {
                let bytes = cursor.take(*size)?;
                self.binary(*binary, bytes, out);
            }
            Type::String => {
                let bytes = cursor.counted()?;
                self.text(bytes, out);
            }
            Type::Enum(symbols) => {
                let place = usize::try_from(cursor.long()?).ok().and_then(|place| symbols.get(place));
                out.extend_from_slice(place.ok_or(("an enum has no such symbol", "列挙にない値です"))?);
            }
            Type::Union(branches) => {
                let branch = usize::try_from(cursor.long()?).ok().and_then(|branch| branches.get(branch));
                let branch = *branch.ok_or(("a union has no such branch", "共用体にない枝です"))?;
                self.value(branch, cursor, out, depth + 1)?;
            }
            Type::Array(items) => {
                out.push(b'[');
                self.items(cursor, out, |decoder, cursor, out| decoder.counted_value(*items, cursor, out, depth + 1))?;
                out.push(b']');
            }
            Type::Map(values) => {
                out.push(b'{');
                self.items(cursor, out, |decoder, cursor, out| {
                    let name = cursor.counted()?;
                    decoder.text(name, out);
                    out.push(b':');
                    decoder.value(*values, cursor, out, depth + 1)
                })?;
                out.push(b'}');
            }
            Type::Record(fields) => {
                out.push(b'{');
                for (place, field) in fields.iter().enumerate() {
                    if depth == 0 {
                        self.column = &field.name;
                    }
                    if place > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(&field.key);
                    self.value(field.kind, cursor, out, depth + 1)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }

    /// The items of an array or a map, which come in runs; one with a negative number says its size, too.
    fn items(
        &mut self,
        cursor: &mut Cursor<'_>,
        out: &mut Vec<u8>,
        mut item: impl FnMut(&mut Self, &mut Cursor<'_>, &mut Vec<u8>) -> Result<(), Damage>,
    ) -> Result<(), Damage> {
        let mut is_first = true;
        loop {
            let count = cursor.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                cursor.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                if !std::mem::take(&mut is_first) {
                    out.push(b',');
                }
                item(self, cursor, out)?;
            }
        }
    }

    fn whole(&mut self, whole: Whole, number: i64, out: &mut Vec<u8>) {
        let written = match whole {
            Whole::Number => {
                write!(out, "{number}").expect("a vector takes all bytes");
                return;
            }
            Whole::Date => timestamp(out, number.checked_mul(86_400), 1, Shape::Date),
            Whole::Time(per_second) => time_of_day(out, number, per_second),
            Whole::Timestamp(per_second, shape) => timestamp(out, Some(number), per_second, shape),
        };
        self.or_text(written, &number.to_string(), out);
    }

    fn binary(&mut self, binary: Binary, bytes: &[u8], out: &mut Vec<u8>) {
        match binary {
            Binary::Decimal(scale) if bytes.len() <= DECIMAL_LIMIT_BYTES => decimal(out, bytes, scale),
            Binary::Decimal(_) => {
                let words = Words::new("a decimal has more than 1,000 digits", "10進数が 1,000 桁を超えています");
                self.fail(words);
                hex(out, &bytes[..bytes.len().min(KEPT_BYTES)]);
            }
            Binary::Uuid => uuid(out, bytes),
            Binary::Duration => duration(out, bytes),
            Binary::Bytes if bytes.len() > RECORD_LIMIT_BYTES => {
                self.fail(too_long());
                hex(out, &bytes[..KEPT_BYTES]);
            }
            Binary::Bytes => hex(out, bytes),
        }
    }

    fn text(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.len() <= RECORD_LIMIT_BYTES => write_string(out, text),
            Ok(text) => {
                self.fail(too_long());
                write_string(out, text.get(..KEPT_BYTES).unwrap_or_default());
            }
            Err(_) => {
                self.fail(Words::new("a text is not valid UTF-8", "テキストが UTF-8 として正しくありません"));
                hex(out, &bytes[..bytes.len().min(KEPT_BYTES)]);
            }
        }
    }

    /// What has no form in JSON is written as its text.
    fn or_text(&mut self, written: Result<(), Unfit>, text: &str, out: &mut Vec<u8>) {
        if let Err(Unfit { reason, .. }) = written {
            self.fail(reason);
            write_string(out, text);
        }
    }

    fn keep_short(&mut self, out: &mut Vec<u8>) {
        if out.len() > RECORD_LIMIT_BYTES {
            out.truncate(KEPT_BYTES);
            self.fail(too_long());
        }
    }

    fn fail(&mut self, reason: Words) {
        let column = self.column;
        self.fault.get_or_insert_with(|| Fault { column: column.to_owned(), reason, hint: ("", "") });
    }
}

fn too_long() -> Words {
    Words::new(
        format!("the record is longer than the limit of {RECORD_LIMIT_BYTES} bytes"),
        format!("レコードが上限の {RECORD_LIMIT_BYTES} バイトを超えています"),
    )
}

/// A whole number in two's complement, the first byte first, with its last `scale` digits behind the point.
fn decimal(out: &mut Vec<u8>, bytes: &[u8], scale: usize) {
    const BASE: u64 = 1_000_000_000;
    let is_negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    // In base 1,000,000,000, the last limb first.
    let mut limbs: Vec<u64> = vec![0];
    let add = |limbs: &mut Vec<u64>, factor: u64, addend: u64| {
        let mut carry = addend;
        for limb in limbs.iter_mut() {
            let next = *limb * factor + carry;
            (*limb, carry) = (next % BASE, next / BASE);
        }
        if carry > 0 {
            limbs.push(carry);
        }
    };
    for byte in bytes {
        let byte = if is_negative { !byte } else { *byte };
        add(&mut limbs, 256, u64::from(byte));
    }
    if is_negative {
        add(&mut limbs, 1, 1);
    }
    let mut digits = String::new();
    for (place, limb) in limbs.iter().rev().enumerate() {
        digits.push_str(&if place == 0 { limb.to_string() } else { format!("{limb:09}") });
    }
    let missing = (scale + 1).saturating_sub(digits.len());
    let digits = format!("{}{digits}", "0".repeat(missing));
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if is_negative {
        out.push(b'-');
    }
    out.extend_from_slice(whole.as_bytes());
    if scale > 0 {
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
    }
}

/// Months, days and milliseconds (ISO 8601).
fn duration(out: &mut Vec<u8>, bytes: &[u8]) {
    let (parts, _) = bytes.as_chunks::<4>();
    let mut parts = parts.iter().map(|part| u32::from_le_bytes(*part));
    let (months, days, millis) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut text = String::from("P");
    for (count, unit) in [(months, 'M'), (days, 'D')] {
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    let (seconds, rest) = (millis / 1000, millis % 1000);
    match rest {
        0 if seconds > 0 || text.len() == 1 => text.push_str(&format!("T{seconds}S")),
        0 => {}
        rest => text.push_str(&format!("T{seconds}.{rest:03}S")),
    }
    write_string(out, &text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_all_their_digits() {
        for (bytes, scale, wanted) in [
            (&[0u8][..], 0, "0"),
            (&[], 2, "0.00"),
            (&[0xff], 0, "-1"),
            (&[0x80], 2, "-1.28"),
            (&[0x00, 0x80], 1, "12.8"),
            (&[0x01, 0x00, 0x00, 0x00, 0x00], 0, "4294967296"),
            (&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, "-170141183460469231731687303715884105728"),
            (&[0x7f; 16], 3, "169473963133173273960190490760135540.607"),
        ] {
            let mut out = Vec::new();
            decimal(&mut out, bytes, scale);
            assert_eq!(String::from_utf8_lossy(&out), wanted, "{bytes:?}");
        }
    }

    #[test]
    fn durations_are_iso_8601() {
        for (parts, wanted) in [
            ([0u32, 0, 0], "\"PT0S\""),
            ([14, 3, 0], "\"P14M3D\""),
            ([0, 0, 90_500], "\"PT90.500S\""),
            ([1, 0, 1000], "\"P1MT1S\""),
        ] {
            let mut out = Vec::new();
            duration(&mut out, parts.map(u32::to_le_bytes).as_flattened());
            assert_eq!(String::from_utf8_lossy(&out), wanted);
        }
    }
}

//! One row as JSON.

use matome_model::canonical::write_string;
use serde_json::value::RawValue;
use sqlx::mysql::MySqlRow;
use sqlx::{Row as _, ValueRef as _};

use super::super::order::Order;
use super::super::value::{write_bytes, write_text};
use super::form::Form;

/// What a row says beside its JSON.
pub(super) struct Taken {
    pub(super) place: Vec<Option<String>>,
    pub(super) may_mark: bool,
    /// Its length, when it was too long to be fetched whole.
    pub(super) cut_from: Option<u64>,
}

/// Writes the JSON of a row of `statement::rows`.
pub(super) fn taken(
    row: &MySqlRow,
    columns: &[(String, Form)],
    order: &Order,
    json: &mut Vec<u8>,
) -> Result<Taken, sqlx::Error> {
    const BEFORE: usize = 2;
    let cut_from = if is_null(row, 0)? { None } else { Some(row.try_get_unchecked(0)?) };
    let may_mark = row.try_get_unchecked::<i64, _>(1)? != 0;
    let mut place = Vec::with_capacity(order.columns.len());
    for (at, column) in order.columns.iter().enumerate() {
        let at = BEFORE + at;
        place.push(match super::statement::form(columns, &column.name) {
            Form::Float | Form::Double if !is_null(row, at)? => {
                Some(format!("{:e}", row.try_get_unchecked::<f64, _>(at)?))
            }
            _ => text(row, at)?,
        });
    }
    json.push(b'{');
    for (at, (name, form)) in columns.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        write_string(json, name);
        json.push(b':');
        write_value(row, BEFORE + order.columns.len() + at, *form, json)?;
    }
    json.push(b'}');
    Ok(Taken { place, may_mark, cut_from })
}

fn is_null(row: &MySqlRow, at: usize) -> Result<bool, sqlx::Error> {
    Ok(row.try_get_raw(at)?.is_null())
}

/// What stands there as a text, or as bytes that are one.
pub(super) fn text(row: &MySqlRow, at: usize) -> Result<Option<String>, sqlx::Error> {
    if is_null(row, at)? {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(row.try_get_unchecked(at)?).into_owned()))
}

fn write_value(row: &MySqlRow, at: usize, form: Form, json: &mut Vec<u8>) -> Result<(), sqlx::Error> {
    if is_null(row, at)? {
        json.extend_from_slice(b"null");
        return Ok(());
    }
    match form {
        Form::Integer => json.extend_from_slice(row.try_get_unchecked::<i64, _>(at)?.to_string().as_bytes()),
        Form::Unsigned | Form::Bit | Form::Year => {
            json.extend_from_slice(row.try_get_unchecked::<u64, _>(at)?.to_string().as_bytes());
        }
        // The shortest decimal that is this number.
        Form::Float => json.extend_from_slice(row.try_get_unchecked::<f32, _>(at)?.to_string().as_bytes()),
        Form::Double => json.extend_from_slice(row.try_get_unchecked::<f64, _>(at)?.to_string().as_bytes()),
        form => write_sent(json, form, row.try_get_unchecked(at)?),
    }
    Ok(())
}

/// Writes what the server sends as bytes. Whatever they are, they must not reach beyond their place.
fn write_sent(json: &mut Vec<u8>, form: Form, bytes: &[u8]) {
    match form {
        Form::Decimal if bytes.iter().all(|byte| byte.is_ascii_digit() || b"-.".contains(byte)) => {
            write_decimal(json, bytes);
        }
        Form::Datetime | Form::Timestamp => {
            let mut text = bytes.to_vec();
            // `2026-02-03 04:05:06`
            if let Some(between) = text.get_mut(10).filter(|between| **between == b' ') {
                *between = b'T';
            }
            if form == Form::Timestamp {
                text.extend_from_slice(b"+00:00");
            }
            write_text(json, &text);
        }
        // A table may hold what its condition would not let in.
        Form::Json => match serde_json::from_slice::<&RawValue>(bytes) {
            Ok(value) => json.extend_from_slice(value.get().as_bytes()),
            Err(_) => write_text(json, bytes),
        },
        Form::Bytes | Form::LongBytes | Form::Geometry => write_bytes(json, bytes),
        _ => write_text(json, bytes),
    }
}

/// Bytes as a value of each form that is sent as bytes.
pub(in super::super) fn as_each_form(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let forms = [Form::Decimal, Form::Datetime, Form::Timestamp, Form::Text, Form::Json, Form::Bytes];
    let written = |form: Form| {
        let mut json = Vec::new();
        write_sent(&mut json, form, bytes);
        (form.word(), json)
    };
    forms.map(written).into()
}

/// A decimal as the server writes it, without the zeros that `zerofill` puts before it.
fn write_decimal(json: &mut Vec<u8>, text: &[u8]) {
    let (sign, digits) = text.strip_prefix(b"-").map_or((&b""[..], text), |digits| (b"-", digits));
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    // One stays where no other digit stands before the point.
    let kept = if digits.get(zeros).is_some_and(u8::is_ascii_digit) { zeros } else { zeros.saturating_sub(1) };
    json.extend_from_slice(sign);
    json.extend_from_slice(&digits[kept..]);
}

#[cfg(test)]
mod tests {
    #[test]
    fn decimals_have_no_zeros_before_them() {
        for (text, wanted) in [
            ("00012.50", "12.50"),
            ("0000.05", "0.05"),
            ("0000", "0"),
            ("-0.10", "-0.10"),
            ("-12", "-12"),
            ("100", "100"),
        ] {
            let mut json = Vec::new();
            super::write_decimal(&mut json, text.as_bytes());
            assert_eq!(String::from_utf8(json).unwrap(), wanted);
        }
    }
}

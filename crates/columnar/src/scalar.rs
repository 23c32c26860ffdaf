//! Single values as JSON, whatever file they come from.

use std::io::Write;

use chrono::{DateTime, NaiveTime, SecondsFormat, Utc};
use matome_model::canonical::write_string;
use matome_model::field_error::Words;

/// Why a value has no form in JSON, and what to do in a query.
pub(crate) struct Unfit {
    pub(crate) reason: Words,
    pub(crate) hint: (&'static str, &'static str),
}

/// How a point in time is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Date,
    Utc,
    Local,
}

pub(crate) fn uuid(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        write!(out, "{byte:02x}").expect("a vector takes all bytes");
    }
    out.push(b'"');
}

pub(crate) fn float(out: &mut Vec<u8>, wide: f64, narrow: Option<f32>) -> Result<(), Unfit> {
    if !wide.is_finite() {
        return Err(Unfit {
            reason: Words::new(format!("{wide} is not a number in JSON"), format!("{wide}はJSONの数ではありません")),
            hint: (
                "guard a division with `nullif(divisor, 0)`, or make it null with `case when isnan(x) then null else x end`",
                "除算は`nullif(divisor, 0)`で守るか、`case when isnan(x) then null else x end`でnullにしてください",
            ),
        });
    }
    // `Display` writes the shortest digits that read back as the same float.
    match narrow {
        Some(narrow) => write!(out, "{narrow}"),
        None => write!(out, "{wide}"),
    }
    .expect("a vector takes all bytes");
    Ok(())
}

pub(crate) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for byte in bytes {
        write!(out, "{byte:02x}").expect("a vector takes all bytes");
    }
    out.push(b'"');
}

pub(crate) fn out_of_range() -> Unfit {
    Unfit { reason: Words::new("a date is out of range", "日付が範囲の外です"), hint: ("", "") }
}

pub(crate) fn timestamp(out: &mut Vec<u8>, units: Option<i64>, per_second: i64, shape: Shape) -> Result<(), Unfit> {
    let units = units.ok_or_else(out_of_range)?;
    let nanos = u32::try_from(units.rem_euclid(per_second) * (1_000_000_000 / per_second)).expect("less than a second");
    let time: DateTime<Utc> = DateTime::from_timestamp(units.div_euclid(per_second), nanos).ok_or_else(out_of_range)?;
    match shape {
        Shape::Date => write!(out, "\"{}\"", time.date_naive()),
        Shape::Utc => write!(out, "\"{}\"", time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        Shape::Local => write!(out, "\"{}\"", time.naive_utc().format("%Y-%m-%dT%H:%M:%S%.f")),
    }
    .expect("a vector takes all bytes");
    Ok(())
}

pub(crate) fn time_of_day(out: &mut Vec<u8>, units: i64, per_second: i64) -> Result<(), Unfit> {
    let nanos = u32::try_from(units.rem_euclid(per_second) * (1_000_000_000 / per_second)).expect("less than a second");
    let seconds = u32::try_from(units.div_euclid(per_second)).map_err(|_| out_of_range())?;
    let time = NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos).ok_or_else(out_of_range)?;
    write!(out, "\"{}\"", time.format("%H:%M:%S%.f")).expect("a vector takes all bytes");
    Ok(())
}

/// `"name":`.
pub(crate) fn key(name: &str) -> Vec<u8> {
    let mut key = Vec::new();
    write_string(&mut key, name);
    key.push(b':');
    key
}

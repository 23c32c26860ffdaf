//! Reading only what is new: a cursor in each record, and a parameter that asks for records from there on.

use std::cmp::Ordering;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use matome_model::field_error::Words;

use super::value_path;
use crate::config::Fields;
use crate::json::{JsonPath, Splitter};

/// Five minutes: clocks differ, and rows may become visible a little after the time they carry.
const TIME_OVERLAP_SECS: u64 = 300;
/// Ten years.
pub(crate) const STEP_LIMIT_SECS: u64 = 3_660 * 86_400;

/// `incremental`: which records a read asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incremental {
    /// Where in a record its cursor is: members only.
    pub cursor: JsonPath,
    /// What cursors are.
    pub kind: CursorKind,
    /// The parameter that carries the lower bound; none when a placeholder does.
    pub param: Option<String>,
    /// `end_param`: the parameter that carries the upper bound; none when a placeholder does, or nobody asks for one.
    pub end_param: Option<String>,
    /// `step`: seconds that are asked for at a time, one after another up to the beginning of the read.
    pub step: Option<u64>,
    /// The bound of the first read; without it the first read asks for everything.
    pub start: Option<String>,
    /// How far before the last cursor the next read begins: seconds, or units of an integer.
    pub overlap: u64,
    /// `order`: the source gives records by rising cursor.
    pub is_sorted: bool,
}

/// `incremental.kind`: how cursors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorKind {
    /// RFC 3339, with any number of digits behind the second.
    Time,
    /// A whole number.
    Integer,
    /// Text, by its bytes.
    Text,
}

impl CursorKind {
    pub(crate) const ALL: [(&str, Self); 3] = [("time", Self::Time), ("integer", Self::Integer), ("text", Self::Text)];

    /// The word in configs.
    pub(super) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }

    /// For messages.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Time => "a time with its zone (RFC 3339)",
            Self::Integer => "a whole number",
            Self::Text => "a text",
        }
    }

    /// The exact text of a JSON value, if it is a cursor of this kind.
    pub(super) fn read(self, json: &[u8]) -> Option<String> {
        let text = match json.first()? {
            b'"' => serde_json::from_slice::<String>(json).ok()?,
            b'-' | b'0'..=b'9' if self == Self::Integer => std::str::from_utf8(json).ok()?.to_owned(),
            _ => return None,
        };
        self.accepts(&text).then_some(text)
    }

    /// Whether a text is a cursor of this kind.
    pub(super) fn accepts(self, text: &str) -> bool {
        match self {
            Self::Time => Moment::parse(text).is_some(),
            Self::Integer => text.parse::<i128>().is_ok(),
            Self::Text => !text.is_empty() && text.len() <= 1024 && !text.contains(char::is_control),
        }
    }

    /// Compares two cursors by value; what is none comes first.
    pub(super) fn compare(self, one: &str, other: &str) -> Ordering {
        match self {
            Self::Time => Moment::parse(one).cmp(&Moment::parse(other)),
            Self::Integer => one.parse::<i128>().ok().cmp(&other.parse().ok()),
            Self::Text => one.cmp(other),
        }
    }

    /// The cursor that lies `overlap` before another; that one itself, in its own text, when there is none.
    fn before(self, cursor: &str, overlap: u64) -> String {
        let earlier = match self {
            _ if overlap == 0 => None,
            Self::Time => {
                let earlier = i64::try_from(overlap).ok().and_then(i64::checked_neg);
                Moment::parse(cursor).zip(earlier).and_then(|(moment, secs)| moment.shifted(secs))
            }
            Self::Integer => cursor
                .parse::<i128>()
                .ok()
                .and_then(|number| number.checked_sub(overlap.into()))
                .map(|number| number.to_string()),
            Self::Text => None,
        };
        earlier.unwrap_or_else(|| cursor.to_owned())
    }
}

impl Incremental {
    /// Reads `incremental`.
    pub(super) fn parse(fields: &mut Fields) -> Option<Self> {
        let mut own = fields.nested("incremental")?;
        let cursor = value_path(&mut own, "cursor", true, "$.updated_at");
        let kind = own.choice("kind", &CursorKind::ALL).unwrap_or(CursorKind::Time);
        let param = own.string("param");
        let start = own.scalar("start");
        if let Some(start) = &start
            && !kind.accepts(start)
        {
            own.fail("start", wrong_start(kind));
        }
        let overlap = own.integer("overlap", 0, 366 * 86_400);
        if kind == CursorKind::Text && overlap.is_some_and(|overlap| overlap > 0) {
            own.fail(
                "overlap",
                Words::new(
                    "Text has no distance: leave `overlap` out, or choose another `kind`.",
                    "テキストには間隔がありません。`overlap` を省くか、別の `kind` を選んでください。",
                ),
            );
        }
        let end_param = own.string("end_param");
        let step = own.integer("step", 1, STEP_LIMIT_SECS);
        if kind != CursorKind::Time {
            for (name, is_given) in [("end_param", end_param.is_some()), ("step", step.is_some())] {
                if is_given {
                    own.fail(name, only_for_times());
                }
            }
        } else if step.is_some() && start.is_none() {
            own.fail(
                "start",
                Words::new(
                    "This field is required with `step`: the first step begins there.",
                    "`step` を使うときは必須です。最初の区間がそこから始まります。",
                ),
            );
        }
        let step = step.filter(|_| kind == CursorKind::Time);
        let is_sorted = own.choice("order", &[("none", false), ("asc", true)]).unwrap_or(false);
        fields.absorb(own);
        let overlap = overlap.unwrap_or(if kind == CursorKind::Time { TIME_OVERLAP_SECS } else { 0 });
        Some(Self { cursor: cursor?, kind, param, end_param, step, start, overlap, is_sorted })
    }

    /// What a read asks for when `high` is the highest cursor that was read before.
    pub(super) fn bound(&self, high: Option<&str>) -> Option<String> {
        match high {
            Some(high) => Some(self.kind.before(high, self.overlap)),
            None => self.start.clone(),
        }
    }

    /// The upper bound of what is asked for from `since` on, in a read that began at `began`.
    pub(super) fn end(&self, since: Option<&str>, began: &str) -> String {
        let Some((since, began_at)) = since.and_then(Moment::parse).zip(Moment::parse(began)) else {
            return began.to_owned();
        };
        let left = (began_at.second - since.second).num_seconds().max(0);
        let step = self.step.and_then(|step| i64::try_from(step).ok()).map_or(left, |step| step.min(left));
        since.shifted(step).unwrap_or_else(|| began.to_owned())
    }

    /// What is asked for behind the records up to `end`, and up to where; none when the read has come to its beginning.
    pub(super) fn behind(&self, end: &str, began: &str) -> Option<(String, String)> {
        let (end_at, began_at) = Moment::parse(end).zip(Moment::parse(began))?;
        let is_more = self.step.is_some() && end_at.second < began_at.second;
        is_more.then(|| (self.kind.before(end, self.overlap), self.end(Some(end), began)))
    }

    /// The cursor of a record.
    pub(super) fn of(&self, record: &[u8]) -> Option<String> {
        let found = Splitter::pick(record, &[&self.cursor]).pop().flatten()?;
        self.kind.read(&found)
    }

    /// Whether a cursor may become the mark. A time after the beginning of the read may not: rows with times before
    /// it could still be written to pages that were read already, or its clock is wrong.
    pub(super) fn may_be_mark(&self, cursor: &str, began: &str) -> bool {
        self.kind != CursorKind::Time || self.kind.compare(cursor, began).is_le()
    }

    /// The higher of two cursors.
    pub(super) fn higher(&self, one: Option<String>, other: Option<String>) -> Option<String> {
        match (one, other) {
            (Some(one), Some(other)) if self.kind.compare(&one, &other).is_ge() => Some(one),
            (one, None) => one,
            (_, other) => other,
        }
    }
}

fn only_for_times() -> Words {
    Words::new(
        "Only times have an end, the beginning of the read: leave it out, or choose `\"kind\": \"time\"`.",
        "終わり (読み込みの開始) があるのは時刻だけです。省くか、`\"kind\": \"time\"` にしてください。",
    )
}

fn wrong_start(kind: CursorKind) -> Words {
    match kind {
        CursorKind::Time => Words::new(
            "Write a time with its zone (RFC 3339), for example `2026-01-31T09:00:00Z`, or choose another `kind`.",
            "時刻をタイムゾーン付き (RFC 3339) で書いてください。例: `2026-01-31T09:00:00Z`。ほかの値なら `kind` を変えてください。",
        ),
        CursorKind::Integer => Words::new("Write a whole number.", "整数を書いてください。"),
        CursorKind::Text => {
            Words::new("Write a text of at most 1,024 bytes.", "1,024バイト以内のテキストを書いてください。")
        }
    }
}

/// An RFC 3339 time: its second in UTC, and the digits behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment<'a> {
    second: DateTime<Utc>,
    /// Without zeros at the end, so that it compares as it is.
    digits: &'a str,
    rest: Rest<'a>,
}

/// How a time was written; says nothing about when it was.
#[derive(Clone, Copy, Debug)]
struct Rest<'a> {
    separator: char,
    fraction: &'a str,
    zone: &'a str,
    zone_secs: i64,
}

impl PartialEq for Rest<'_> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Rest<'_> {}
impl PartialOrd for Rest<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Rest<'_> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl<'a> Moment<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize| -> Option<u32> {
            let digits = text.get(from..to)?;
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let at = |place: usize, wanted: &[u8]| bytes.get(place).is_some_and(|byte| wanted.contains(byte));
        if !(at(4, b"-") && at(7, b"-") && at(10, b"Tt ") && at(13, b":") && at(16, b":")) {
            return None;
        }
        let date = NaiveDate::from_ymd_opt(number(0, 4)?.try_into().ok()?, number(5, 7)?, number(8, 10)?)?;
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        // A leap second is the second after the one before it, as on every clock that does not know it.
        let time = date.and_hms_opt(hour, minute, second.min(59)).filter(|_| second <= 60)?;
        let local = time + TimeDelta::seconds(i64::from(second == 60));
        let tail = text.get(19..)?;
        let (fraction, zone) = match tail.strip_prefix('.') {
            Some(after) => {
                let end = after.find(|c: char| !c.is_ascii_digit())?;
                if end == 0 {
                    return None;
                }
                tail.split_at(end + 1)
            }
            None => ("", tail),
        };
        let zone_secs = match zone.as_bytes() {
            b"Z" | b"z" => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let start = text.len() - 5;
                let (hours, minutes) = (number(start, start + 2)?, number(start + 3, start + 5)?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let secs = i64::from(hours * 3600 + minutes * 60);
                if *sign == b'-' { -secs } else { secs }
            }
            _ => return None,
        };
        let second = local.and_utc().checked_sub_signed(TimeDelta::seconds(zone_secs))?;
        let digits = fraction.strip_prefix('.').unwrap_or("").trim_end_matches('0');
        Some(Self { second, digits, rest: Rest { separator: char::from(bytes[10]), fraction, zone, zone_secs } })
    }

    /// So many seconds later, written in the same way, to the last digit.
    fn shifted(&self, secs: i64) -> Option<String> {
        let Rest { separator, fraction, zone, zone_secs } = self.rest;
        let shift = TimeDelta::try_seconds(zone_secs.checked_add(secs)?)?;
        let local = self.second.checked_add_signed(shift)?;
        Some(format!("{}{separator}{}{fraction}{zone}", local.format("%Y-%m-%d"), local.format("%H:%M:%S")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_compared_by_value_and_never_rounded() {
        for (kind, low, high) in [
            (CursorKind::Integer, "9", "10"),
            (CursorKind::Integer, "-10", "-9"),
            (CursorKind::Integer, "9007199254740992", "9007199254740993"),
            (CursorKind::Text, "9", "91"),
            (CursorKind::Time, "2026-01-01T00:00:00.123456788Z", "2026-01-01T00:00:00.123456789Z"),
            (CursorKind::Time, "2026-01-01T00:00:00.9Z", "2026-01-01T00:00:00.91Z"),
            (CursorKind::Time, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.0000000000001Z"),
            (CursorKind::Time, "2026-01-01T09:00:00+09:00", "2026-01-01T00:00:01Z"),
            (CursorKind::Time, "2026-12-31T23:59:59-01:00", "2027-01-01T01:00:00Z"),
            (CursorKind::Time, "2016-12-31T23:59:59.5Z", "2016-12-31T23:59:60Z"),
        ] {
            assert_eq!(kind.compare(low, high), Ordering::Less, "{low} {high}");
            assert_eq!(kind.compare(high, low), Ordering::Greater, "{low} {high}");
        }
        for (kind, one, other) in [
            (CursorKind::Integer, "7", "007"),
            (CursorKind::Time, "2026-01-01T00:00:00Z", "2026-01-01t09:00:00.000+09:00"),
            (CursorKind::Time, "2016-12-31T23:59:60Z", "2017-01-01 00:00:00Z"),
        ] {
            assert_eq!(kind.compare(one, other), Ordering::Equal, "{one} {other}");
        }
    }

    #[test]
    fn the_overlap_keeps_how_a_cursor_is_written() {
        for (kind, cursor, overlap, expected) in [
            (CursorKind::Time, "2026-03-01T00:00:00.120Z", 1, "2026-02-28T23:59:59.120Z"),
            (
                CursorKind::Time,
                "2026-01-01 00:00:00.123456789012+09:00",
                3600,
                "2025-12-31 23:00:00.123456789012+09:00",
            ),
            (CursorKind::Time, "2026-01-01T00:00:00Z", 0, "2026-01-01T00:00:00Z"),
            (CursorKind::Integer, "00100", 0, "00100"),
            (CursorKind::Integer, "100", 10, "90"),
            (CursorKind::Text, "abc", 0, "abc"),
        ] {
            assert_eq!(kind.before(cursor, overlap), expected);
        }
    }

    #[test]
    fn steps_follow_each_other_up_to_the_beginning_of_the_read_in_the_text_of_the_source() {
        let incremental = |step, overlap| Incremental {
            cursor: "$.at".parse().unwrap(),
            kind: CursorKind::Time,
            param: None,
            end_param: None,
            step,
            start: None,
            overlap,
            is_sorted: false,
        };
        let began = "2026-01-02T00:30:00.5Z";
        let by_day = incremental(Some(86_400), 60);
        let first = by_day.end(Some("2026-01-01 00:00:00+09:00"), began);
        assert_eq!(first, "2026-01-02 00:00:00+09:00");
        let (since, end) = by_day.behind(&first, began).unwrap();
        assert_eq!((since.as_str(), end.as_str()), ("2026-01-01 23:59:00+09:00", "2026-01-02 09:30:00+09:00"));
        assert_eq!(by_day.behind(&end, began), None);
        assert_eq!(by_day.end(Some("2027-01-01T00:00:00Z"), began), "2027-01-01T00:00:00Z", "a start in the future");
        assert_eq!(incremental(None, 0).end(None, began), began);
        assert_eq!(incremental(None, 0).behind("2026-01-01T00:00:00Z", began), None, "all is asked for at once");
    }

    #[test]
    fn only_what_is_of_the_kind_is_a_cursor() {
        for (kind, json, expected) in [
            (CursorKind::Integer, "12345678901234567890", Some("12345678901234567890")),
            (CursorKind::Integer, "\"12\"", Some("12")),
            (CursorKind::Integer, "1.0", None),
            (CursorKind::Integer, "1e3", None),
            (CursorKind::Integer, "null", None),
            (CursorKind::Time, "\"2026-02-30T00:00:00Z\"", None),
            (CursorKind::Time, "\"2026-02-03\"", None),
            (CursorKind::Time, "\"2026-02-03T00:00:00\"", None),
            (CursorKind::Time, "1767225600", None),
            (CursorKind::Time, "\"2026-02-03T00:00:00.Z\"", None),
            (CursorKind::Time, "\"2026-02-03T00:00:00+24:00\"", None),
            (CursorKind::Time, "\"２０２６-02-03T00:00:00Z\"", None),
            (CursorKind::Text, "\"\"", None),
            (CursorKind::Text, "5", None),
            (CursorKind::Text, "\"\\u65e5\"", Some("日")),
        ] {
            assert_eq!(kind.read(json.as_bytes()).as_deref(), expected, "{json}");
        }
    }
}

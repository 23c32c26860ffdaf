//! The five fields of a cron expression, and the wall clock times that they name.
//!
//! Our own, in few lines: the crates for it bring a stack of procedural macros along, or count weekdays and fields as
//! Quartz does, and none of them says in two languages which field is wrong.

use chrono::{Datelike as _, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike as _};

use crate::field_error::Words;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What a field may say.
struct Field {
    english: &'static str,
    japanese: &'static str,
    takes: &'static str,
    least: u32,
    most: u32,
    /// Words for `least` and those that follow.
    names: &'static [&'static str],
}

const fn field(
    english: &'static str,
    japanese: &'static str,
    takes: &'static str,
    (least, most): (u32, u32),
    names: &'static [&'static str],
) -> Field {
    Field { english, japanese, takes, least, most, names }
}

const FIELDS: [Field; 5] = [
    field("minute", "分", "0-59", (0, 59), &[]),
    field("hour", "時", "0-23", (0, 23), &[]),
    field("day of the month", "日", "1-31, `L` for the last", (1, 31), &[]),
    field("month", "月", "1-12, jan-dec", (1, 12), &MONTHS),
    field("day of the week", "曜日", "0-7 (0 and 7 are Sunday), sun-sat", (0, 7), &DAYS),
];

/// The last day of a month, in the set of its days.
const LAST: u64 = 1 << 32;
/// Years in which every day of a year that exists comes: leap years may be eight apart.
const YEARS: i32 = 9;

/// Five fields as sets: bit n stands for the value n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are restricted: then either of them is enough, as in every cron.
    either_day: bool,
}

impl Pattern {
    /// Reads five fields: minute, hour, day of the month, month, day of the week, each `*`, numbers, names, lists
    /// (`1,3`), ranges (`1-5`), and steps of the whole or of a range (`*/2`, `9-17/2`). `L` is the last day of a month.
    ///
    /// # Errors
    /// What is wrong with which field.
    pub(super) fn parse(text: &str) -> Result<Self, Words> {
        let texts: Vec<&str> = text.split_whitespace().collect();
        let &[_, _, day, _, weekday] = texts.as_slice() else { return Err(not_five(texts.len())) };
        let mut sets = [0; FIELDS.len()];
        for ((set, field), text) in sets.iter_mut().zip(&FIELDS).zip(&texts) {
            *set = parse_field(field, text).ok_or_else(|| refuse(field, text))?;
        }
        let [minutes, hours, days, months, weekdays] = sets;
        // Sunday has two numbers.
        let weekdays = weekdays | (weekdays >> 7);
        Ok(Self { minutes, hours, days, months, weekdays, either_day: day != "*" && weekday != "*" })
    }

    /// Whether it names every hour of the day.
    pub(super) fn is_every_hour(&self) -> bool {
        self.hours == whole(&FIELDS[1])
    }

    /// Whether any year has a day that it names.
    pub(super) fn ever_comes(&self) -> bool {
        NaiveDate::from_ymd_opt(2000, 1, 1).is_some_and(|day| self.next(day.and_time(NaiveTime::MIN), true).is_some())
    }

    /// The first time that it names after `time`, or not before it. None when there is none in nine years.
    pub(super) fn next(&self, time: NaiveDateTime, inclusive: bool) -> Option<NaiveDateTime> {
        // The first whole minute to be looked at.
        let is_whole = time.second() == 0 && time.nanosecond() == 0;
        let minute = time.with_second(0)?.with_nanosecond(0)?;
        let from = if inclusive && is_whole { minute } else { minute.checked_add_signed(TimeDelta::minutes(1))? };
        let end = from.year() + YEARS;
        let mut day = from.date();
        let mut earliest = from.time();
        while day.year() <= end {
            if !has(self.months, day.month()) {
                day = first_of_next_month(day)?;
            } else if let Some(time) = self.is_day(day).then(|| self.time_from(earliest)).flatten() {
                return Some(day.and_time(time));
            } else {
                day = day.checked_add_days(Days::new(1))?;
            }
            earliest = NaiveTime::MIN;
        }
        None
    }

    fn is_day(&self, day: NaiveDate) -> bool {
        let is_last = || day.checked_add_days(Days::new(1)).is_none_or(|next| next.day() == 1);
        let by_month = has(self.days, day.day()) || (self.days & LAST != 0 && is_last());
        let by_week = has(self.weekdays, day.weekday().num_days_from_sunday());
        if self.either_day { by_month || by_week } else { by_month && by_week }
    }

    /// The first time of a day that it names, not before `earliest`.
    fn time_from(&self, earliest: NaiveTime) -> Option<NaiveTime> {
        let this_hour = has(self.hours, earliest.hour()).then(|| lowest(self.minutes, earliest.minute())).flatten();
        match this_hour {
            Some(minute) => NaiveTime::from_hms_opt(earliest.hour(), minute, 0),
            None => NaiveTime::from_hms_opt(lowest(self.hours, earliest.hour() + 1)?, lowest(self.minutes, 0)?, 0),
        }
    }
}

fn has(set: u64, value: u32) -> bool {
    set & (1 << value) != 0
}

/// The lowest value of a set that is not below `least`.
fn lowest(set: u64, least: u32) -> Option<u32> {
    let rest = set & (u64::MAX << least);
    (rest != 0).then(|| rest.trailing_zeros())
}

fn first_of_next_month(day: NaiveDate) -> Option<NaiveDate> {
    let (year, month) = if day.month() == 12 { (day.year() + 1, 1) } else { (day.year(), day.month() + 1) };
    NaiveDate::from_ymd_opt(year, month, 1)
}

fn whole(field: &Field) -> u64 {
    (field.least..=field.most).fold(0, |set, value| set | 1 << value)
}

fn parse_field(field: &Field, text: &str) -> Option<u64> {
    text.split(',').try_fold(0, |set, part| Some(set | parse_part(field, part)?))
}

fn parse_part(field: &Field, part: &str) -> Option<u64> {
    let (range, step) = match part.split_once('/') {
        None => (part, None),
        // A step as wide as the field or wider is a mistake: it would be the first value alone.
        Some((range, step)) => {
            (range, Some(number(step).filter(|step| (1..=field.most - field.least).contains(step))?))
        }
    };
    let (first, last) = match range.split_once('-') {
        _ if range == "*" => (field.least, field.most),
        Some((first, last)) => {
            let last = value(field, last)?;
            // As the end of a range, Sunday is the seventh day.
            let last = if field.names == DAYS.as_slice() && last == 0 { 7 } else { last };
            (value(field, first)?, last)
        }
        None if step.is_some() => return None,
        None if field.most == 31 && range.eq_ignore_ascii_case("l") => return Some(LAST),
        None => {
            let only = value(field, range)?;
            (only, only)
        }
    };
    if first > last {
        return None;
    }
    let step = usize::try_from(step.unwrap_or(1)).ok()?;
    Some((first..=last).step_by(step).fold(0, |set, value| set | 1 << value))
}

fn value(field: &Field, text: &str) -> Option<u32> {
    let named = field.names.iter().zip(field.least..).find(|(name, _)| name.eq_ignore_ascii_case(text));
    let value = named.map(|(_, value)| value).or_else(|| number(text))?;
    (field.least..=field.most).contains(&value).then_some(value)
}

fn number(text: &str) -> Option<u32> {
    // `+5` is a number for Rust and none for us.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn refuse(field: &Field, text: &str) -> Words {
    let Field { english, japanese, takes, .. } = field;
    Words::new(
        format!("`{text}` is no {english}: it takes {takes}, `*`, lists (`1,3`), ranges (`1-5`) and steps (`*/2`)."),
        format!(
            "`{text}` は{japanese}の欄に書けません。使えるもの: {takes}、`*`、列挙 (`1,3`)、範囲 (`1-5`)、間隔 (`*/2`)。"
        ),
    )
}

fn not_five(count: usize) -> Words {
    Words::new(
        format!(
            "A cron expression has five fields (minute, hour, day of the month, month, day of the week), this has \
             {count}. For example `*/5 * * * *`, `0 9 * * mon-fri` or `@daily`."
        ),
        format!(
            "cron式は5つの欄 (分 時 日 月 曜日) でできていますが、{count}個あります。例: `*/5 * * * *`、\
             `0 9 * * mon-fri`、`@daily`。"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at every minute, one after the other.
    fn next_by_hand(pattern: &Pattern, mut time: NaiveDateTime, limit: NaiveDateTime) -> Option<NaiveDateTime> {
        while time < limit {
            time += TimeDelta::minutes(1);
            let is_time = has(pattern.minutes, time.minute()) && has(pattern.hours, time.hour());
            if is_time && has(pattern.months, time.month()) && pattern.is_day(time.date()) {
                return Some(time);
            }
        }
        None
    }

    #[test]
    fn the_search_finds_what_looking_at_each_minute_finds() {
        let start = NaiveDate::from_ymd_opt(2027, 12, 28).unwrap().and_hms_opt(22, 58, 0).unwrap();
        let limit = start + TimeDelta::days(70);
        for text in [
            "* * * * *",
            "*/7 * * * *",
            "59 23 * * *",
            "0 0 1 * *",
            "30 4 1,15 * fri",
            "0 0 l * *",
            "15 9-17/4 * jan,feb mon-fri",
            "0 12 29 2 *",
            "5-10,50 */5 * 1-2 sat-sun",
            "0 0 31 * 0",
        ] {
            let pattern = Pattern::parse(text).unwrap();
            let mut time = start;
            for _ in 0..200 {
                let by_hand = next_by_hand(&pattern, time, limit);
                let found = pattern.next(time, false).filter(|found| *found <= limit);
                assert_eq!(found, by_hand, "{text} after {time}");
                let Some(found) = found else { break };
                assert_eq!(pattern.next(found, true), Some(found));
                time = found;
            }
        }
    }

    #[test]
    fn sunday_is_0_and_7_and_ends_a_range() {
        let sunday = Pattern::parse("0 0 * * 0").unwrap();
        for text in ["0 0 * * 7", "0 0 * * sun", "0 0 * * SUN"] {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!(pattern.weekdays & 0x7f, sunday.weekdays & 0x7f, "{text}");
        }
        assert_eq!(Pattern::parse("0 0 * * fri-sun").unwrap().weekdays & 0x7f, 0b110_0001);
    }

    #[test]
    fn days_that_never_come_are_known() {
        for (text, comes) in [
            ("0 0 30 2 *", false),
            ("0 0 31 2,4,6,9,11 *", false),
            ("0 0 29 2 *", true),
            ("0 0 30 2 mon", true),
            ("0 0 31 1,2 *", true),
        ] {
            assert_eq!(Pattern::parse(text).unwrap().ever_comes(), comes, "{text}");
        }
    }
}

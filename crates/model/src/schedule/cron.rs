//! Cron expressions in a time zone, and the instants that they mean.
//!
//! [`Pattern`] finds the wall clock times; which instants these are, on nights when clocks change, is decided here:
//!
//! - A wall clock time that is skipped fires once, at the first instant after the gap. Several that are skipped
//!   together are one.
//! - A wall clock time that comes twice fires the first time only. An expression that names every hour of the day
//!   is about time that passes rather than about a time of the day: it fires both times, so that a source that is
//!   read every five minutes is not left unread for an hour.

use std::fmt;

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

use super::parse_zone;
use super::pattern::Pattern;
use crate::clock::Timestamp;
use crate::field_error::Words;

/// Words for common expressions.
const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// A cron expression of five fields in a time zone.
#[derive(Clone)]
pub struct Cron {
    text: String,
    zone: Tz,
    pattern: Pattern,
    /// Whether its hours are all 24: then it is about time that passes.
    every_hour: bool,
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone == other.zone
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({} {})", self.text, self.zone)
    }
}

impl Cron {
    /// Reads an expression: five fields as [`Pattern::parse`] takes them, or one of `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`.
    ///
    /// # Errors
    /// What is wrong with which field; and when the expression names a day that never comes.
    pub fn parse(text: &str, zone: Tz) -> Result<Self, Words> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let plain = match text.strip_prefix('@') {
            Some(_) => named(&text)?,
            None => &text,
        };
        let pattern = Pattern::parse(plain)?;
        if !pattern.ever_comes() {
            return Err(never(&text));
        }
        Ok(Self { every_hour: pattern.is_every_hour(), text, zone, pattern })
    }

    /// Reads an expression and the name of its zone, as a database row has them.
    ///
    /// # Errors
    /// As [`Cron::parse`] and [`parse_zone`].
    pub fn in_zone(text: &str, zone: &str) -> Result<Self, Words> {
        Self::parse(text, parse_zone(zone)?)
    }

    /// The expression as it was written, white space apart.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its zone.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first time it fires after `instant`; none when the calendar ends before.
    pub fn after(&self, instant: Timestamp) -> Option<Timestamp> {
        let local = self.local(instant);
        let mut walk = local;
        let first_pass = loop {
            walk = self.next_local(walk, false)?;
            let at = self.first_instant(walk)?;
            if at > instant {
                break at;
            }
        };
        if !self.every_hour {
            return Some(first_pass);
        }
        Some(self.second_pass(instant, local).map_or(first_pass, |second| second.min(first_pass)))
    }

    /// The first wall clock time after `instant` that is met by counting on, also where the clock goes back.
    fn second_pass(&self, instant: Timestamp, local: NaiveDateTime) -> Option<Timestamp> {
        let counted = instant.checked_add_signed(self.next_local(local, false)? - local)?;
        let offset = self.offset(instant);
        if self.offset(counted) == offset {
            return Some(counted);
        }
        // The clock changes on the way; from there on it counts with the other offset.
        let change = first_where(instant, counted, |at| self.offset(at) != offset);
        let from = self.local(change);
        let counted = change.checked_add_signed(self.next_local(from, true)? - from)?;
        (self.offset(counted) == self.offset(change) && self.offset(change) < offset).then_some(counted)
    }

    fn next_local(&self, local: NaiveDateTime, inclusive: bool) -> Option<NaiveDateTime> {
        self.pattern.next(local, inclusive)
    }

    fn local(&self, instant: Timestamp) -> NaiveDateTime {
        instant.with_timezone(&self.zone).naive_local()
    }

    fn offset(&self, instant: Timestamp) -> i32 {
        self.zone.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc()
    }

    /// When a wall clock shows `local` for the first time, or is past it for the first time when it skips it.
    fn first_instant(&self, local: NaiveDateTime) -> Option<Timestamp> {
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(at) => Some(at.with_timezone(&Utc)),
            LocalResult::Ambiguous(one, other) => Some(one.min(other).with_timezone(&Utc)),
            LocalResult::None => {
                // No zone is farther from UTC than a day.
                let (low, high) = (local - TimeDelta::hours(26), local + TimeDelta::hours(26));
                Some(first_where(low.and_utc(), high.and_utc(), |at| self.local(at) > local))
            }
        }
    }
}

/// The first whole second after `low` where `holds`, which holds at `high` and stays once it holds.
fn first_where(low: Timestamp, high: Timestamp, holds: impl Fn(Timestamp) -> bool) -> Timestamp {
    let (mut low, mut high) = (low.timestamp(), high.timestamp());
    let at = |secs| DateTime::from_timestamp(secs, 0).unwrap_or_default();
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(at(middle)) { high = middle } else { low = middle }
    }
    at(high)
}

fn named(text: &str) -> Result<&'static str, Words> {
    let found = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, fields)| *fields).ok_or_else(|| {
        let known = NICKNAMES.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Words::new(
            format!("`{text}` is no word for a schedule. Words are {known}."),
            format!("`{text}` というスケジュールの言葉はありません。使えるもの: {known}。"),
        )
    })
}

fn never(text: &str) -> Words {
    Words::new(
        format!("`{text}` never comes: no year has such a day."),
        format!("`{text}` に当たる日はどの年にもないため、一度も実行されません。"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The local times, with offset, at which an expression fires after `from` and not after `to`.
    fn fires(text: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let cron = Cron::in_zone(text, zone).unwrap();
        let mut found = Vec::new();
        let mut last = at(from);
        while let Some(next) = cron.after(last).filter(|next| *next <= at(to)) {
            assert!(next > last, "{text}: {next} follows {last}");
            found.push(next.with_timezone(&cron.zone()).format("%d %H:%M%z").to_string());
            last = next;
        }
        found
    }

    #[test]
    fn a_skipped_time_fires_once_at_the_first_instant_after_the_gap() {
        // 8 March 2026: 02:00 EST is 03:00 EDT.
        let night = |text| fires(text, "America/New_York", "2026-03-08T05:00:00Z", "2026-03-08T09:00:00Z");
        assert_eq!(night("30 2 * * *"), ["08 03:00-0400"]);
        assert_eq!(night("0,15,30,45 2 * * *"), ["08 03:00-0400"], "what is skipped together is one");
        assert_eq!(night("0 2,3 * * *"), ["08 03:00-0400"], "and one with what stands there");
        assert_eq!(night("59 1 * * *"), ["08 01:59-0500"]);
        assert_eq!(night("30 3 * * *"), ["08 03:30-0400"]);
        // 29 March 2026: 02:00 CET is 03:00 CEST.
        let paris = fires("30 2 * * *", "Europe/Paris", "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z");
        assert_eq!(paris, ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]);
        // 4 October 2026: 02:00 is 02:30, half an hour.
        let howe = fires("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T12:00:00Z", "2026-10-05T12:00:00Z");
        assert_eq!(howe, ["03 02:15+1030", "04 02:30+1100", "05 02:15+1100"]);
        // 22 March 2026, after Ramadan: 02:00 is 03:00.
        let casablanca = fires("30 2 * * *", "Africa/Casablanca", "2026-03-21T00:00:00Z", "2026-03-24T00:00:00Z");
        assert_eq!(casablanca, ["21 02:30+0000", "22 03:00+0100", "23 02:30+0100"]);
    }

    #[test]
    fn a_repeated_time_fires_the_first_time_only() {
        // 1 November 2026: 02:00 EDT is 01:00 EST.
        let night = |text| fires(text, "America/New_York", "2026-11-01T04:00:00Z", "2026-11-01T08:00:00Z");
        assert_eq!(night("30 1 * * *"), ["01 01:30-0400"]);
        let half_hours = ["01 00:30-0400", "01 01:00-0400", "01 01:30-0400", "01 02:00-0500", "01 02:30-0500"];
        assert_eq!(night("0,30 0,1,2 * * *"), half_hours);
        assert_eq!(night("0 2 * * *"), ["01 02:00-0500"]);
        let paris = fires("30 2 * * *", "Europe/Paris", "2026-10-24T00:00:00Z", "2026-10-27T00:00:00Z");
        assert_eq!(paris, ["24 02:30+0200", "25 02:30+0200", "26 02:30+0100"]);
        // 5 April 2026: 02:00 is 01:30.
        let howe = fires("45 1 * * *", "Australia/Lord_Howe", "2026-04-03T12:00:00Z", "2026-04-06T12:00:00Z");
        assert_eq!(howe, ["04 01:45+1100", "05 01:45+1100", "06 01:45+1030"]);
        // 15 February 2026, before Ramadan: 03:00 is 02:00.
        let casablanca = fires("30 2 * * *", "Africa/Casablanca", "2026-02-14T00:00:00Z", "2026-02-17T00:00:00Z");
        assert_eq!(casablanca, ["14 02:30+0100", "15 02:30+0100", "16 02:30+0000"]);
    }

    #[test]
    fn an_expression_of_every_hour_goes_on_through_a_repeated_one() {
        let every_half_hour = fires("*/30 * * * *", "America/New_York", "2026-11-01T04:59:00Z", "2026-11-01T07:30:00Z");
        assert_eq!(
            every_half_hour,
            ["01 01:00-0400", "01 01:30-0400", "01 01:00-0500", "01 01:30-0500", "01 02:00-0500", "01 02:30-0500"]
        );
        let hourly = fires("@hourly", "Europe/Paris", "2026-10-24T22:30:00Z", "2026-10-25T03:00:00Z");
        assert_eq!(hourly, ["25 01:00+0200", "25 02:00+0200", "25 02:00+0100", "25 03:00+0100", "25 04:00+0100"]);
        // 02:00 is 01:30 again: the times of the half hour come twice.
        let howe = fires("*/15 * * * *", "Australia/Lord_Howe", "2026-04-04T14:20:00Z", "2026-04-04T15:30:00Z");
        assert_eq!(howe, ["05 01:30+1100", "05 01:45+1100", "05 01:30+1030", "05 01:45+1030", "05 02:00+1030"]);
        let spring = fires("*/20 * * * *", "America/New_York", "2026-03-08T06:30:00Z", "2026-03-08T07:40:00Z");
        assert_eq!(spring, ["08 01:40-0500", "08 03:00-0400", "08 03:20-0400", "08 03:40-0400"]);
    }

    #[test]
    fn a_zone_without_changes_has_none() {
        let fires = fires("30 2 * * *", "Asia/Tokyo", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        assert_eq!(fires.len(), 365);
        assert!(fires.iter().all(|fire| fire.ends_with("02:30+0900")));
    }

    #[test]
    fn every_minute_of_a_night_fires_once_whatever_the_clocks_do() {
        for (zone, night) in [
            ("America/New_York", "2026-03-08T06:00:00Z"),
            ("America/New_York", "2026-11-01T05:00:00Z"),
            ("Europe/Paris", "2026-03-29T00:00:00Z"),
            ("Europe/Paris", "2026-10-25T00:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T14:00:00Z"),
            ("Australia/Lord_Howe", "2026-10-03T14:00:00Z"),
            ("Africa/Casablanca", "2026-02-15T00:30:00Z"),
            ("Africa/Casablanca", "2026-03-22T00:30:00Z"),
            ("Asia/Tokyo", "2026-01-01T00:00:00Z"),
        ] {
            let cron = Cron::in_zone("* * * * *", zone).unwrap();
            let mut last = at(night);
            for minute in 1..=180 {
                last = cron.after(last).unwrap();
                assert_eq!(last, at(night) + TimeDelta::minutes(minute), "{zone}");
            }
        }
    }

    #[test]
    fn names_and_words_are_taken() {
        let fires = |text| fires(text, "UTC", "2026-11-24T22:00:00Z", "2027-02-01T00:00:00Z");
        assert_eq!(fires("0 9 1-7 dec *").len(), 7);
        assert_eq!(fires("0 0 l * *"), ["30 00:00+0000", "31 00:00+0000", "31 00:00+0000"]);
        assert_eq!(fires("0 9 * JAN Mon-Wed").len(), 12);
        assert_eq!(fires("@monthly"), ["01 00:00+0000", "01 00:00+0000", "01 00:00+0000"]);
        assert_eq!(fires("@Weekly").len(), 10);
        assert_eq!(fires("@yearly"), ["01 00:00+0000"]);
        // Either day is enough when both are restricted.
        assert_eq!(
            fires("0 0 13 12 fri"),
            ["04 00:00+0000", "11 00:00+0000", "13 00:00+0000", "18 00:00+0000", "25 00:00+0000"]
        );
    }

    #[test]
    fn a_fraction_of_a_second_changes_nothing() {
        let cron = Cron::in_zone("* * * * *", "UTC").unwrap();
        assert_eq!(cron.after(at("2026-11-24T22:00:59.999999Z")), Some(at("2026-11-24T22:01:00Z")));
        assert_eq!(cron.after(at("2026-11-24T22:01:00.000001Z")), Some(at("2026-11-24T22:02:00Z")));
    }

    #[test]
    fn what_is_wrong_names_its_field_in_both_languages() {
        for (text, english, japanese) in [
            ("61 * * * *", "`61` is no minute", "分の欄"),
            ("* 24 * * *", "`24` is no hour", "時の欄"),
            ("* * 0 * *", "`0` is no day of the month", "日の欄"),
            ("* * * mon *", "`mon` is no month", "月の欄"),
            ("* fri * * *", "`fri` is no hour", "時の欄"),
            ("* * * * someday", "`someday` is no day of the week", "曜日の欄"),
            ("*/0 * * * *", "`*/0` is no minute", "分の欄"),
            ("5-1 * * * *", "`5-1` is no minute", "分の欄"),
            ("1/5 * * * *", "`1/5` is no minute", "分の欄"),
            ("*/60 * * * *", "`*/60` is no minute", "分の欄"),
            ("1,,2 * * * *", "`1,,2` is no minute", "分の欄"),
            ("* * * * fri-mon", "`fri-mon` is no day of the week", "曜日の欄"),
            ("* * * *", "this has 4", "4個"),
            ("0 * * * * *", "this has 6", "6個"),
            ("", "this has 0", "0個"),
            ("@reboot", "`@reboot` is no word", "`@reboot`"),
            ("0 0 30 2 *", "never comes", "一度も実行されません"),
            ("0 0 31 4,6,9,11 *", "never comes", "一度も実行されません"),
        ] {
            let words = Cron::in_zone(text, "UTC").unwrap_err();
            assert!(words.english.contains(english), "{text}: {words}");
            assert!(words.japanese.contains(japanese), "{text}: {}", words.japanese);
        }
        assert!(Cron::in_zone("0 0 29 2 *", "UTC").is_ok(), "leap days come");
    }
}

//! When things happen without anybody asking: intervals and cron expressions, what becomes of times that were
//! missed, and what happens when a fire finds the last one's task still there.
//!
//! A *nominal* time is one that the schedule names. The next one is computed from the one before, never from the
//! clock, so a clock that goes back repeats nothing. Jitter moves when a task is made, not its nominal time.

mod cron;
mod pattern;
mod zone;

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use cron::Cron;
pub use zone::parse_zone;

use crate::clock::Timestamp;
use crate::field_error::{FieldError, Words, kind_of};
use crate::source::words;

/// Seconds that a fire may be moved at most.
pub const MAX_JITTER_SECS: u64 = 3600;
/// Missed fires that are made up for at most: the latest ones.
pub const MAX_CATCH_UP: usize = 100;
/// A fire that is looked at so much later than it was due is a missed one for [`Misfire::Skip`].
pub const MISFIRE_GRACE: TimeDelta = TimeDelta::seconds(10);

const KEYS: [&str; 5] = ["cron", "timezone", "misfire", "overlap", "jitter_secs"];

words! {
    /// What becomes of times that passed while nobody looked.
    Misfire {
        /// One run for all of them.
        Coalesce = "coalesce",
        /// None of them runs.
        Skip = "skip",
        /// Each runs, the latest hundred at most.
        CatchUp = "catch_up",
    }
}

words! {
    /// What happens when a schedule fires while a task of the same object is there.
    Overlap {
        /// One scheduled task may wait behind the one that runs.
        QueueOne = "queue_one",
        /// Nothing is queued while a task waits or runs.
        Skip = "skip",
    }
}

/// The `schedule` of a config, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScheduleOptions {
    /// `cron` in the zone `timezone` (UTC unless given); none: the interval of the object, if it has one.
    pub cron: Option<Cron>,
    /// `misfire`: `coalesce` unless given.
    pub misfire: Option<Misfire>,
    /// `overlap`: `queue_one` unless given.
    pub overlap: Option<Overlap>,
    /// `jitter_secs`: up to so many seconds later than its nominal time a task is made; 0 to 3600, 0 unless given.
    pub jitter_secs: u64,
}

impl ScheduleOptions {
    /// Reads the `schedule` of a config.
    ///
    /// # Errors
    /// Every fault, each with its path from the config's root (`schedule`, `cron`).
    pub fn parse(value: &Value) -> Result<Self, Vec<FieldError>> {
        let Value::Object(given) = value else {
            let fault = if value.is_null() { Words::null() } else { Words::no_object(kind_of(value)) };
            return Err(vec![FieldError::new(&["schedule"], fault)]);
        };
        let mut errors = Vec::new();
        let mut fail = |key: &str, words| errors.push(FieldError::new(&["schedule", key], words));
        let mut options = Self::default();

        let zone = match text(given, "timezone").map(|name| name.map(|name| parse_zone(&name)).transpose()) {
            Ok(Ok(zone)) => Some(zone),
            Ok(Err(words)) | Err(words) => {
                fail("timezone", words);
                None
            }
        };
        match text(given, "cron") {
            Ok(Some(text)) => match Cron::parse(&text, zone.flatten().unwrap_or(Tz::UTC)) {
                Ok(cron) => options.cron = Some(cron),
                Err(words) => fail("cron", words),
            },
            Ok(None) if matches!(zone, Some(Some(_))) => fail("timezone", zone_without_cron()),
            Ok(None) => {}
            Err(words) => fail("cron", words),
        }
        match word(given, "misfire", Misfire::ALL, Misfire::as_str) {
            Ok(misfire) => options.misfire = misfire,
            Err(words) => fail("misfire", words),
        }
        match word(given, "overlap", Overlap::ALL, Overlap::as_str) {
            Ok(overlap) => options.overlap = overlap,
            Err(words) => fail("overlap", words),
        }
        if options.misfire == Some(Misfire::CatchUp) && options.overlap == Some(Overlap::Skip) {
            fail("overlap", skip_without_catch_up());
        }
        match jitter(given) {
            Ok(secs) => options.jitter_secs = secs,
            Err(words) => fail("jitter_secs", words),
        }
        for key in given.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            let closest = KEYS.iter().map(|known| (strsim::damerau_levenshtein(known, key), *known)).min();
            let nearest = closest.filter(|(distance, _)| *distance <= 2).map(|(_, known)| known);
            fail(key, Words::unknown_option(nearest, &KEYS));
        }
        if errors.is_empty() { Ok(options) } else { Err(errors) }
    }

    /// The plan of an object with these options and, without `cron`, an interval of so many seconds.
    ///
    /// None when there is neither.
    pub fn plan(self, interval_secs: Option<i64>) -> Option<Plan> {
        let timing = match (self.cron, interval_secs) {
            (Some(cron), _) => Timing::Cron(cron),
            (None, Some(secs)) if secs > 0 => Timing::Interval(TimeDelta::seconds(secs.min(1 << 40))),
            (None, _) => return None,
        };
        Some(Plan {
            timing,
            misfire: self.misfire.unwrap_or(Misfire::Coalesce),
            overlap: self.overlap.unwrap_or(Overlap::QueueOne),
            jitter_secs: self.jitter_secs,
        })
    }
}

/// An interval that is given beside a `cron`.
pub fn interval_beside_cron() -> Words {
    Words::new(
        "`config.schedule.cron` says when this runs, so there can be no interval too. Leave this field out or set it \
         to 0, or remove `cron`.",
        "実行時刻は `config.schedule.cron` で決まるため、間隔は同時に指定できません。この項目を省くか0にするか、`cron` を\
         外してください。",
    )
}

fn zone_without_cron() -> Words {
    Words::new(
        "A time zone is for `cron`; an interval has none. Give `cron` too, or leave this out.",
        "タイムゾーンは `cron` と一緒に使います。`cron` を指定するか、この項目を省いてください。",
    )
}

fn skip_without_catch_up() -> Words {
    Words::new(
        "`skip` would drop the runs that `misfire: catch_up` asks for. Use `queue_one`.",
        "`skip` では `misfire: catch_up` で求めた実行が捨てられます。`queue_one` を使ってください。",
    )
}

fn text(given: &Map<String, Value>, key: &str) -> Result<Option<String>, Words> {
    match given.get(key) {
        None => Ok(None),
        Some(Value::Null) => Err(Words::null()),
        Some(Value::String(text)) if text.trim().is_empty() => Err(Words::blank()),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Words::no_string()),
    }
}

fn word<T: Copy>(
    given: &Map<String, Value>,
    key: &str,
    all: &[T],
    as_str: fn(T) -> &'static str,
) -> Result<Option<T>, Words> {
    let Some(value) = given.get(key) else { return Ok(None) };
    let found = value.as_str().and_then(|text| all.iter().copied().find(|one| as_str(*one) == text));
    found.map(Some).ok_or_else(|| {
        let given = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Words::no_choice(&given, &all.iter().map(|one| as_str(*one)).collect::<Vec<_>>())
    })
}

fn jitter(given: &Map<String, Value>) -> Result<u64, Words> {
    match given.get("jitter_secs") {
        None => Ok(0),
        Some(Value::Null) => Err(Words::null()),
        Some(Value::Number(number)) if number.is_f64() => Err(Words::no_integer()),
        Some(Value::Number(number)) => match number.as_u64() {
            None => Err(Words::too_small(0)),
            Some(secs) if secs > MAX_JITTER_SECS => Err(Words::too_large(MAX_JITTER_SECS)),
            Some(secs) => Ok(secs),
        },
        Some(_) => Err(Words::no_integer()),
    }
}

/// Which nominal times a schedule has.
#[derive(Clone, Debug, PartialEq)]
pub enum Timing {
    /// One so long after the other; more than nothing.
    Interval(TimeDelta),
    /// The times of an expression.
    Cron(Cron),
}

/// What a schedule does.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its nominal times.
    pub timing: Timing,
    /// What becomes of missed ones.
    pub misfire: Misfire,
    /// What happens beside a task that is there.
    pub overlap: Overlap,
    /// Seconds that a fire is moved at most, and never up to the next nominal time.
    pub jitter_secs: u64,
}

/// What a schedule that came due asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Nominal times to make tasks for, in order.
    pub fires: Vec<Timestamp>,
    /// Whether nominal times passed that make no task of their own.
    pub missed: bool,
    /// The next nominal time; none when the calendar ends.
    pub next: Option<Timestamp>,
}

impl Plan {
    /// One run each so many seconds, with the defaults of everything else.
    pub fn every(secs: u32) -> Self {
        let timing = Timing::Interval(TimeDelta::seconds(i64::from(secs.max(1))));
        Self { timing, misfire: Misfire::Coalesce, overlap: Overlap::QueueOne, jitter_secs: 0 }
    }

    /// The nominal time after `nominal`.
    pub fn after(&self, nominal: Timestamp) -> Option<Timestamp> {
        match &self.timing {
            Timing::Interval(every) => nominal.checked_add_signed(*every),
            Timing::Cron(cron) => cron.after(nominal),
        }
    }

    /// The zone whose clock it goes by; UTC for an interval.
    pub fn zone(&self) -> Tz {
        match &self.timing {
            Timing::Interval(_) => Tz::UTC,
            Timing::Cron(cron) => cron.zone(),
        }
    }

    /// The first nominal time of a schedule that begins at `now`: an interval later, or when cron says.
    pub fn first(&self, now: Timestamp) -> Option<Timestamp> {
        self.after(now)
    }

    /// The first nominal time after `instant` of the rhythm that `nominal` is part of.
    fn after_instant(&self, nominal: Timestamp, instant: Timestamp) -> Option<Timestamp> {
        match &self.timing {
            Timing::Interval(every) => {
                let every = every.num_seconds().max(1);
                let passed = (instant - nominal).num_seconds().max(0) / every;
                nominal.checked_add_signed(TimeDelta::try_seconds(every.checked_mul(passed.checked_add(1)?)?)?)
            }
            Timing::Cron(cron) => cron.after(nominal.max(instant)),
        }
    }

    /// The next `count` nominal times after `now` of a schedule whose next one is `next`.
    pub fn upcoming(&self, next: Timestamp, now: Timestamp, count: usize) -> Vec<Timestamp> {
        let first = if next > now { Some(next) } else { self.after_instant(next, now) };
        std::iter::successors(first, |at| self.after(*at)).take(count).collect()
    }

    /// When the task of a nominal time is made: the same for everybody who computes it.
    ///
    /// `seed` tells schedules apart, so that those of one minute do not all fire together.
    pub fn due_at(&self, nominal: Timestamp, seed: u64) -> Timestamp {
        if self.jitter_secs == 0 {
            return nominal;
        }
        let gap = self.after(nominal).map_or(TimeDelta::MAX, |next| next - nominal);
        // A second before the next at the latest: then fires keep their order.
        let most = (gap - TimeDelta::seconds(1)).num_milliseconds().max(0).unsigned_abs().min(self.jitter_secs * 1000);
        let moved = mix(seed ^ mix(nominal.timestamp_micros().unsigned_abs())) % (most + 1);
        nominal + TimeDelta::milliseconds(i64::try_from(moved).unwrap_or(0))
    }

    /// What is to be done at `now` for a schedule whose next nominal time `nominal` has come due.
    pub fn due(&self, nominal: Timestamp, now: Timestamp, seed: u64) -> Due {
        let next = self.after(nominal);
        // Nearly always: nothing was missed.
        if next.is_none_or(|next| next > now || self.due_at(next, seed) > now) {
            let late = self.misfire == Misfire::Skip && now - self.due_at(nominal, seed) > MISFIRE_GRACE;
            return Due { fires: if late { vec![] } else { vec![nominal] }, missed: late, next };
        }
        // Only the last nominal time that has passed may not be due yet, because of its jitter.
        let window = TimeDelta::seconds(i64::try_from(self.jitter_secs).unwrap_or(0)) + MISFIRE_GRACE;
        let mut last = (nominal, self.due_at(nominal, seed));
        let mut next = self.after_instant(nominal, (now - window).max(nominal));
        while let Some(at) = next.filter(|at| *at <= now) {
            let due_at = self.due_at(at, seed);
            if due_at > now {
                break;
            }
            last = (at, due_at);
            next = self.after(at);
        }
        let fires = match self.misfire {
            Misfire::Coalesce => vec![nominal],
            Misfire::Skip if now - last.1 <= MISFIRE_GRACE => vec![last.0],
            Misfire::Skip => vec![],
            Misfire::CatchUp => self.latest(nominal, next),
        };
        let missed = self.misfire != Misfire::CatchUp || fires.first() != Some(&nominal);
        Due { fires, missed, next }
    }

    /// The latest [`MAX_CATCH_UP`] nominal times from `nominal` on and before `end`.
    fn latest(&self, nominal: Timestamp, end: Option<Timestamp>) -> Vec<Timestamp> {
        let end = end.unwrap_or(DateTime::<chrono::Utc>::MAX_UTC);
        let mut found = VecDeque::with_capacity(MAX_CATCH_UP + 1);
        // Cron can only be counted forwards: from ever farther back, until there are enough.
        let mut back = TimeDelta::minutes(i64::try_from(MAX_CATCH_UP).unwrap_or(100));
        loop {
            let from = end.checked_sub_signed(back).filter(|from| *from > nominal);
            let first = match from {
                Some(from) => self.after_instant(nominal, from),
                None => Some(nominal),
            };
            found.clear();
            for at in std::iter::successors(first, |at| self.after(*at)).take_while(|at| *at < end) {
                found.push_back(at);
                if found.len() > MAX_CATCH_UP {
                    found.pop_front();
                }
            }
            if found.len() >= MAX_CATCH_UP || from.is_none() {
                return found.into();
            }
            back = back * 2;
        }
    }
}

/// ISO 8601 with the offset of a zone at that time: `2026-11-25T09:00:00+09:00`.
pub fn local_iso8601(at: Timestamp, zone: Tz) -> String {
    at.with_timezone(&zone).format("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// SplitMix64's finaliser (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + TimeDelta::seconds(secs)
    }

    fn plan(options: Value, interval_secs: i64) -> Plan {
        ScheduleOptions::parse(&options).unwrap().plan(Some(interval_secs)).unwrap()
    }

    fn due(plan: &Plan, nominal: i64, now: i64) -> (Vec<i64>, bool, i64) {
        let due = plan.due(at(nominal), at(now), 7);
        (due.fires.iter().map(Timestamp::timestamp).collect(), due.missed, due.next.unwrap().timestamp())
    }

    #[test]
    fn missed_times_make_one_fire_and_the_rhythm_is_kept() {
        let plan = plan(json!({}), 60);
        assert_eq!(due(&plan, 100, 100), (vec![100], false, 160));
        assert_eq!(due(&plan, 100, 159), (vec![100], false, 160));
        assert_eq!(due(&plan, 100, 160), (vec![100], true, 220));
        assert_eq!(due(&plan, 100, 1000), (vec![100], true, 1060));
    }

    #[test]
    fn skip_runs_none_of_the_missed_but_what_is_only_just_late() {
        let plan = plan(json!({"misfire": "skip"}), 60);
        assert_eq!(due(&plan, 100, 101), (vec![100], false, 160));
        assert_eq!(due(&plan, 100, 110), (vec![100], false, 160));
        assert_eq!(due(&plan, 100, 111), (vec![], true, 160));
        assert_eq!(due(&plan, 100, 3750), (vec![], true, 3760));
        assert_eq!(due(&plan, 100, 3760), (vec![3760], true, 3820), "the last one is not missed");
    }

    #[test]
    fn catch_up_runs_each_missed_one_and_the_latest_hundred_at_most() {
        for (options, every) in
            [(json!({"misfire": "catch_up"}), 60), (json!({"misfire": "catch_up", "cron": "* * * * *"}), 0)]
        {
            let plan = plan(options, every);
            assert_eq!(due(&plan, 120, 120), (vec![120], false, 180));
            assert_eq!(due(&plan, 120, 270), (vec![120, 180, 240], false, 300));
            let (fires, missed, next) = due(&plan, 60, 60 * 1000);
            assert_eq!((fires.len(), fires[0], fires[99], missed, next), (100, 60 * 901, 60 * 1000, true, 60 * 1001));
            let (fires, missed, _) = due(&plan, 60, 60 * 100);
            assert_eq!((fires.len(), fires[0], missed), (100, 60, false));
        }
        // Far apart: the search goes back as far as it must, and no farther than the first.
        let daily = plan(json!({"misfire": "catch_up", "cron": "@daily"}), 0);
        let (fires, missed, next) = due(&daily, 86_400, 86_400 * 40 + 5);
        assert_eq!((fires.len(), missed, next), (40, false, 86_400 * 41));
    }

    #[test]
    fn a_year_of_missed_minutes_is_looked_at_quickly() {
        let begun = std::time::Instant::now();
        for misfire in Misfire::ALL {
            let plan = plan(json!({"misfire": misfire.as_str(), "cron": "* * * * *", "timezone": "Europe/Paris"}), 0);
            let due = plan.due(at(0), at(365 * 86_400), 7);
            assert_eq!(due.next, Some(at(365 * 86_400 + 60)), "{misfire}");
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[test]
    fn jitter_is_the_same_for_everybody_and_stays_before_the_next_time() {
        let plan = plan(json!({"jitter_secs": 300}), 60);
        let moved = |seed| (plan.due_at(at(6000), seed) - at(6000)).num_milliseconds();
        let all: Vec<i64> = (0..1000).map(moved).collect();
        assert_eq!(all, (0..1000).map(moved).collect::<Vec<_>>());
        assert!(all.iter().all(|ms| (0..=59_000).contains(ms)), "{all:?}");
        let (low, high) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(*low < 2_000 && *high > 57_000, "they are spread: {low} to {high}");
    }

    #[test]
    fn jitter_loses_and_doubles_no_nominal_time() {
        for options in
            [json!({"jitter_secs": 300}), json!({"jitter_secs": 59, "cron": "* * * * *"}), json!({"jitter_secs": 7})]
        {
            let plan = plan(options, 60);
            for seed in 0..8 {
                let (mut next, mut fired) = (at(60), vec![]);
                // A look each 700 ms, as a beat does.
                for tick in 0..2000 {
                    let now = at(0) + TimeDelta::milliseconds(700 * tick);
                    if plan.due_at(next, seed) <= now {
                        let due = plan.due(next, now, seed);
                        assert!(!due.missed, "{seed}: {due:?} at {now}");
                        fired.extend(due.fires);
                        next = due.next.unwrap();
                    }
                }
                let wanted: Vec<Timestamp> = (1..=fired.len() as i64).map(|n| at(60 * n)).collect();
                assert_eq!(fired, wanted, "seed {seed}");
                assert!(fired.len() >= 22);
            }
        }
    }

    #[test]
    fn upcoming_times_follow_the_rhythm() {
        let plan = plan(json!({}), 60);
        assert_eq!(plan.upcoming(at(100), at(50), 3), [at(100), at(160), at(220)]);
        assert_eq!(plan.upcoming(at(100), at(1000), 2), [at(1060), at(1120)]);
    }

    #[test]
    fn without_cron_and_interval_there_is_no_plan() {
        assert_eq!(ScheduleOptions::default().plan(None), None);
        assert_eq!(ScheduleOptions::default().plan(Some(0)), None);
    }

    #[test]
    fn every_fault_is_named_with_its_path() {
        let faults = |options: Value| {
            let errors = ScheduleOptions::parse(&options).unwrap_err();
            errors.into_iter().map(|error| (error.path.join("."), error.message.english)).collect::<Vec<_>>()
        };
        let all = faults(json!({
            "cron": "0 0 30 2 *", "timezone": "Asia/Tokio", "misfire": "later", "overlap": 1, "jitter_secs": -1, "tz": "UTC",
        }));
        let paths: Vec<&str> = all.iter().map(|(path, _)| path.as_str()).collect();
        let wanted =
            ["timezone", "cron", "misfire", "overlap", "jitter_secs", "tz"].map(|key| format!("schedule.{key}"));
        assert_eq!(paths, wanted.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(all[2].1.contains("`coalesce`, `skip`, `catch_up`"), "{all:?}");
        for (options, path) in [
            (json!([]), "schedule"),
            (json!(null), "schedule"),
            (json!({"cron": 5}), "schedule.cron"),
            (json!({"cron": " "}), "schedule.cron"),
            (json!({"timezone": "UTC"}), "schedule.timezone"),
            (json!({"jitter_secs": 3601}), "schedule.jitter_secs"),
            (json!({"jitter_secs": 1.5}), "schedule.jitter_secs"),
            (json!({"misfire": "catch_up", "overlap": "skip"}), "schedule.overlap"),
        ] {
            assert_eq!(faults(options.clone())[0].0, path, "{options}");
        }
        assert!(ScheduleOptions::parse(&json!({"jitter_secs": 3600})).is_ok());
    }
}

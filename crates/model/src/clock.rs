//! Time as a parameter: whoever needs "now" is handed a [`Clock`], so that a test can set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike as _, SubsecRound, TimeDelta, Timelike as _, Utc};

/// An instant in UTC with a resolution of one microsecond, the finest that both stores keep.
pub type Timestamp = DateTime<Utc>;

/// Where "now" comes from: a wall clock, which people and machines set, and a monotonic one, which nobody can.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    /// The machine's clocks; monotonic time counts from here.
    System(Instant),
    Fixed(Arc<Fixed>),
}

/// Microseconds of both clocks.
#[derive(Debug)]
struct Fixed {
    wall: AtomicI64,
    monotonic: AtomicI64,
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self(Source::System(Instant::now()))
    }

    /// A clock that stands still at `at` until [`Clock::advance`] or [`Clock::jump`] moves it; for tests.
    pub fn fixed(at: Timestamp) -> Self {
        let (wall, monotonic) = (AtomicI64::new(at.timestamp_micros()), AtomicI64::new(0));
        Self(Source::Fixed(Arc::new(Fixed { wall, monotonic })))
    }

    /// The current time, cut to whole microseconds.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System(_) => Utc::now().trunc_subsecs(6),
            Source::Fixed(fixed) => DateTime::from_timestamp_micros(fixed.wall.load(Ordering::SeqCst))
                .expect("a fixed clock only holds times that chrono made"),
        }
    }

    /// Time that passed since the clock was made, whatever happened to the wall clock.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System(since) => since.elapsed(),
            Source::Fixed(fixed) => Duration::from_micros(fixed.monotonic.load(Ordering::SeqCst).max(0).unsigned_abs()),
        }
    }

    /// Lets time pass on a fixed clock (all its clones); the system clock is not moved.
    pub fn advance(&self, by: TimeDelta) {
        self.jump(by);
        if let Source::Fixed(fixed) = &self.0 {
            fixed.monotonic.fetch_add(by.num_microseconds().unwrap_or(0), Ordering::SeqCst);
        }
    }

    /// Sets the wall clock of a fixed clock on or back, without time passing.
    pub fn jump(&self, by: TimeDelta) {
        if let Source::Fixed(fixed) = &self.0 {
            fixed.wall.fetch_add(by.num_microseconds().unwrap_or(0), Ordering::SeqCst);
        }
    }
}

/// ISO 8601 in UTC as DRF writes it: `2026-11-23T12:00:00.000001Z`, without a fraction when it is zero.
pub fn iso8601(at: Timestamp) -> String {
    use std::fmt::Write as _;
    // Written out: chrono reads its format anew at each call, and lists have three times a row.
    let (date, time) = (at.date_naive(), at.time());
    let mut text = String::with_capacity(27);
    let year = date.year();
    match year {
        0..=9999 => write!(text, "{year:04}"),
        _ => write!(text, "{year:+05}"),
    }
    .expect("text grows");
    for (before, number) in
        [('-', date.month()), ('-', date.day()), ('T', time.hour()), (':', time.minute()), (':', time.second())]
    {
        text.push(before);
        text.extend([number / 10, number % 10].map(|digit| char::from_digit(digit, 10).expect("a digit")));
    }
    let micros = at.timestamp_subsec_micros();
    if micros != 0 {
        write!(text, ".{micros:06}").expect("text grows");
    }
    text.push('Z');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_have_no_fraction_and_others_six_digits() {
        let whole = DateTime::from_timestamp_micros(1_000_000).expect("in range");
        assert_eq!(iso8601(whole), "1970-01-01T00:00:01Z");
        assert_eq!(iso8601(whole + TimeDelta::microseconds(50)), "1970-01-01T00:00:01.000050Z");
        let (late, early) = (i64::from(i32::MAX) * 2_000_000, -70_000_000_000_000_000);
        for micros in [0, -1, 951_782_400_000_000, 1_764_034_629_999_999, 253_402_300_799_000_000, late, early] {
            let at = DateTime::from_timestamp_micros(micros).unwrap();
            let format = if micros % 1_000_000 == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%.6fZ" };
            assert_eq!(iso8601(at), at.format(format).to_string());
        }
    }

    #[test]
    fn clones_of_a_fixed_clock_move_together() {
        let clock = Clock::fixed(DateTime::UNIX_EPOCH);
        clock.clone().advance(TimeDelta::seconds(3));
        assert_eq!(clock.now().timestamp(), 3);
    }

    #[test]
    fn a_jump_moves_the_wall_clock_alone() {
        let clock = Clock::fixed(DateTime::UNIX_EPOCH);
        clock.advance(TimeDelta::seconds(5));
        clock.jump(TimeDelta::seconds(-2));
        assert_eq!((clock.now().timestamp(), clock.monotonic()), (3, Duration::from_secs(5)));
    }
}

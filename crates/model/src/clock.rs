//! Time as a parameter: whoever needs "now" is handed a [`Clock`], so that a test can set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

/// An instant in UTC with a resolution of one microsecond, the finest that both stores keep.
pub type Timestamp = DateTime<Utc>;

/// Where "now" comes from. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still at `at` until [`Clock::advance`] moves it; for tests.
    pub fn fixed(at: Timestamp) -> Self {
        Self(Some(Arc::new(AtomicI64::new(at.timestamp_micros()))))
    }

    /// The current time, cut to whole microseconds.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            None => Utc::now().trunc_subsecs(6),
            Some(micros) => DateTime::from_timestamp_micros(micros.load(Ordering::SeqCst))
                .expect("a fixed clock only holds times that chrono made"),
        }
    }

    /// Moves a fixed clock (all its clones) by `by`; the system clock is not moved.
    pub fn advance(&self, by: TimeDelta) {
        if let Some(micros) = &self.0 {
            micros.fetch_add(by.num_microseconds().unwrap_or(0), Ordering::SeqCst);
        }
    }
}

/// ISO 8601 in UTC as DRF writes it: `2026-11-23T12:00:00.000001Z`, without a fraction when it is zero.
pub fn iso8601(at: Timestamp) -> String {
    let format = if at.timestamp_subsec_micros() == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%.6fZ" };
    at.format(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_have_no_fraction_and_others_six_digits() {
        let whole = DateTime::from_timestamp_micros(1_000_000).expect("in range");
        assert_eq!(iso8601(whole), "1970-01-01T00:00:01Z");
        assert_eq!(iso8601(whole + TimeDelta::microseconds(50)), "1970-01-01T00:00:01.000050Z");
    }

    #[test]
    fn clones_of_a_fixed_clock_move_together() {
        let clock = Clock::fixed(DateTime::UNIX_EPOCH);
        clock.clone().advance(TimeDelta::seconds(3));
        assert_eq!(clock.now().timestamp(), 3);
    }
}

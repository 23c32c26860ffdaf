//! When a failed attempt is tried again, and when a lane that keeps failing is.

use std::time::Duration;

use chrono::TimeDelta;

/// How often and how late failed attempts are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Backoff before the second attempt.
    pub base: Duration,
    /// Longest backoff, of an attempt and of a lane.
    pub cap: Duration,
    /// Attempts until the task fails for good.
    pub max_attempts: i64,
    /// Tasks of a lane that fail in a row until the lane is held back.
    pub breaker_after: i64,
    /// How long a lane is held back at first; doubles with each further failure.
    pub breaker_base: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(5),
            cap: Duration::from_secs(3600),
            max_attempts: 8,
            breaker_after: 5,
            breaker_base: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// Backoff after failed attempt `n` (1-based): base · 2^(n-1), at most the cap; the upper half of it is
    /// random. `jitter` is uniform in 0..1.
    ///
    /// Follows "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), the "equal jitter" form.
    pub fn backoff(&self, n: i64, jitter: f64) -> TimeDelta {
        let half = doubled(self.base, n - 1, self.cap) / 2;
        delta(half + half.mul_f64(jitter.clamp(0.0, 1.0)))
    }

    /// Whether a lane is held back and probed after `streak` tasks failed in a row.
    pub fn holds(&self, streak: i64) -> bool {
        streak >= self.breaker_after
    }

    /// How long a lane is held back after `streak` tasks failed in a row; `None` below the limit.
    pub fn breaker(&self, streak: i64) -> Option<TimeDelta> {
        self.holds(streak).then(|| delta(doubled(self.breaker_base, streak - self.breaker_after, self.cap)))
    }
}

fn doubled(base: Duration, times: i64, cap: Duration) -> Duration {
    let factor = u32::try_from(times.clamp(0, 31)).map_or(u32::MAX, |times| 1 << times);
    base.saturating_mul(factor).min(cap)
}

pub(super) fn delta(duration: Duration) -> TimeDelta {
    let longest = TimeDelta::days(365);
    TimeDelta::from_std(duration).unwrap_or(longest).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_waits_longer_each_attempt_up_to_the_cap() {
        let policy = RetryPolicy::default();
        let secs: Vec<i64> = (1..=12).map(|n| policy.backoff(n, 1.0).num_seconds()).collect();
        assert_eq!(secs, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        assert_eq!(policy.backoff(i64::MAX, 0.0).num_seconds(), 1800);
    }

    #[test]
    fn the_upper_half_of_the_backoff_is_random() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.backoff(1, 0.0).num_milliseconds(), 2500);
        assert_eq!(policy.backoff(1, 0.5).num_milliseconds(), 3750);
    }

    #[test]
    fn a_lane_is_held_back_from_the_fifth_failure_in_a_row() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.breaker(4), None);
        assert_eq!(policy.breaker(5), Some(TimeDelta::seconds(60)));
        assert_eq!(policy.breaker(7), Some(TimeDelta::seconds(240)));
        assert_eq!(policy.breaker(1000), Some(TimeDelta::seconds(3600)));
    }
}

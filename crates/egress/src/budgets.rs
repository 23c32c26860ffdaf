//! The budgets of one host as a value: which there are, when requests were made under them, and until when the host said
//! that it takes none. Pure; who keeps it keeps the time too, as a duration since a moment of its own.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A budget is forgotten when no request named it for so long beyond its own span.
const LINGER: Duration = Duration::from_secs(600);

/// At most so many requests within any span of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// How many; at least 1.
    pub requests: u32,
    /// Within how long.
    pub per: Duration,
}

/// A host that takes no requests for longer than this is not waited for.
pub const CLOSED_WAIT: Duration = Duration::from_secs(60);

/// When a request may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// After so long: its turn is taken.
    After(Duration),
    /// The host takes none for so long, more than [`CLOSED_WAIT`]: no turn is taken.
    Closed(Duration),
}

/// The budgets of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets {
    budgets: Vec<Budget>,
    /// The host takes no requests before.
    closed_until: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Budget {
    rate: Rate,
    named: Duration,
    /// The times of the last `rate.requests` requests, in their order; the last may be in the future.
    times: VecDeque<Duration>,
}

impl Budget {
    /// The first time at or after `at` at which a request keeps to it.
    fn earliest(&self, at: Duration) -> Duration {
        let last = self.times.back().map_or(at, |last| at.max(*last));
        match self.times.front() {
            Some(first) if self.times.len() >= self.rate.requests as usize => last.max(*first + self.rate.per),
            _ => last,
        }
    }

    fn take(&mut self, at: Duration) {
        if self.times.len() >= self.rate.requests as usize {
            self.times.pop_front();
        }
        self.times.push_back(at);
    }

    fn is_named(&self, now: Duration) -> bool {
        now < self.named + self.rate.per + LINGER
    }
}

impl Budgets {
    /// A turn for a request that is asked for `now`, by a source with the budget `rate`. It keeps to all budgets of the host.
    pub fn turn(&mut self, rate: Option<Rate>, now: Duration) -> Turn {
        let closed = self.closed_until.saturating_sub(now);
        if closed > CLOSED_WAIT {
            return Turn::Closed(closed);
        }
        Turn::After(self.reserve(rate, now) - now)
    }

    /// The host said that it takes no requests for a time.
    pub fn close(&mut self, now: Duration, time: Duration) {
        self.closed_until = self.closed_until.max(now + time);
    }

    fn reserve(&mut self, rate: Option<Rate>, now: Duration) -> Duration {
        self.budgets.retain(|budget| budget.is_named(now));
        if let Some(rate) = rate {
            match self.budgets.iter_mut().find(|budget| budget.rate == rate) {
                Some(budget) => budget.named = now,
                None => self.budgets.push(Budget { rate, named: now, times: VecDeque::new() }),
            }
        }
        // Later for one may be too early for another, so until all agree; each step only moves on.
        let mut at = now.max(self.closed_until);
        loop {
            let next = self.budgets.iter().fold(at, |at, budget| budget.earliest(at));
            if next == at {
                break;
            }
            at = next;
        }
        for budget in &mut self.budgets {
            budget.take(at);
        }
        at
    }

    /// Whether no budget is left that anybody names, and the host takes requests.
    pub fn is_empty_at(&self, now: Duration) -> bool {
        now >= self.closed_until && !self.budgets.iter().any(|budget| budget.is_named(now))
    }

    /// For so long nobody may forget this value.
    pub fn lasts(&self, now: Duration) -> Duration {
        let closed = self.closed_until.saturating_sub(now);
        self.budgets.iter().map(|budget| budget.rate.per + LINGER).max().unwrap_or_default().max(closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NOW: Duration = Duration::from_secs(1_000_000);

    fn rate(requests: u32, secs: u64) -> Option<Rate> {
        Some(Rate { requests, per: Duration::from_secs(secs) })
    }

    /// When each of `count` requests may go, in milliseconds from now.
    fn times(budgets: &mut Budgets, rate: Option<Rate>, now: Duration, count: usize) -> Vec<u128> {
        (0..count).map(|_| (budgets.reserve(rate, now) - now).as_millis()).collect()
    }

    #[test]
    fn no_span_has_more_requests_than_the_budget_wherever_it_begins() {
        let mut budgets = Budgets::default();
        assert_eq!(times(&mut budgets, rate(3, 1), NOW, 8), [0, 0, 0, 1000, 1000, 1000, 2000, 2000]);
        let later = NOW + Duration::from_millis(2500);
        assert_eq!((budgets.reserve(rate(3, 1), later) - NOW).as_millis(), 2500);
        assert_eq!((budgets.reserve(rate(3, 1), later) - NOW).as_millis(), 3000);
    }

    #[test]
    fn every_request_to_a_host_keeps_to_every_budget_of_that_host() {
        let mut budgets = Budgets::default();
        assert_eq!(times(&mut budgets, None, NOW, 3), [0, 0, 0]);
        assert_eq!(times(&mut budgets, rate(2, 10), NOW, 2), [0, 0]);
        assert_eq!(times(&mut budgets, None, NOW, 1), [10_000], "a source that declares nothing keeps to it too");
        assert_eq!(times(&mut budgets, rate(1, 20), NOW, 2), [10_000, 30_000]);
    }

    #[test]
    fn a_budget_that_nobody_names_any_more_is_forgotten() {
        let mut budgets = Budgets::default();
        times(&mut budgets, rate(1, 1), NOW, 2);
        let later = NOW + LINGER + SECOND * 2;
        assert!(!budgets.is_empty_at(NOW) && budgets.is_empty_at(later));
        assert_eq!(times(&mut budgets, None, later, 2), [0, 0]);
    }

    #[test]
    fn a_closed_host_is_waited_for_a_while_and_takes_no_turns_for_longer() {
        let mut budgets = Budgets::default();
        times(&mut budgets, rate(2, 10), NOW, 1);
        budgets.close(NOW, SECOND * 20);
        budgets.close(NOW, SECOND * 5);
        assert!(!budgets.is_empty_at(NOW + SECOND * 19));
        assert_eq!(budgets.turn(None, NOW), Turn::After(SECOND * 20), "a shorter time opens nothing");
        assert_eq!(budgets.turn(None, NOW + SECOND * 20), Turn::After(Duration::ZERO));
        assert_eq!(budgets.turn(None, NOW + SECOND * 20), Turn::After(SECOND * 10), "and its budget holds behind it");
        budgets.close(NOW, SECOND * 3600);
        assert_eq!(budgets.turn(None, NOW + SECOND), Turn::Closed(SECOND * 3599));
        assert!(budgets.lasts(NOW) >= SECOND * 3600);
    }

    #[test]
    fn budgets_travel_as_text() {
        let mut budgets = Budgets::default();
        budgets.close(NOW, SECOND);
        times(&mut budgets, rate(2, 10), NOW, 3);
        let text = serde_json::to_string(&budgets).expect("numbers are JSON");
        assert_eq!(serde_json::from_str::<Budgets>(&text).expect("what was written"), budgets);
    }
}

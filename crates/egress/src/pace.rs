//! How many requests a host gets: budgets that sources declare, obeyed by every request of the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A budget is forgotten when no request named it for so long beyond its own span.
const LINGER: Duration = Duration::from_secs(600);

/// At most so many requests within any span of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many; at least 1.
    pub requests: u32,
    /// Within how long.
    pub per: Duration,
}

/// When requests to each host were, or will be, made. Cheap to ask; a host without a budget costs one look-up.
#[derive(Default)]
pub(crate) struct Pace {
    hosts: Mutex<HashMap<String, Vec<Budget>>>,
}

struct Budget {
    rate: Rate,
    named: Instant,
    /// The times of the last `rate.requests` requests, in their order; the last may be in the future.
    times: VecDeque<Instant>,
}

impl Budget {
    /// The first time at or after `at` at which a request keeps to it.
    fn earliest(&self, at: Instant) -> Instant {
        let last = self.times.back().map_or(at, |last| at.max(*last));
        match self.times.front() {
            Some(first) if self.times.len() >= self.rate.requests as usize => last.max(*first + self.rate.per),
            _ => last,
        }
    }

    fn take(&mut self, at: Instant) {
        if self.times.len() >= self.rate.requests as usize {
            self.times.pop_front();
        }
        self.times.push_back(at);
    }
}

impl Pace {
    /// Waits until a request to `host` keeps to the budgets of all sources that read from it, `rate` among them.
    ///
    /// Turns are given in the order of asking. A wait that is dropped leaves its turn unused.
    pub(crate) async fn turn(&self, host: &str, rate: Option<Rate>) {
        let now = Instant::now();
        let at = self.reserve(host, rate, now);
        if at > now {
            tokio::time::sleep_until(at).await;
        }
    }

    fn reserve(&self, host: &str, rate: Option<Rate>, now: Instant) -> Instant {
        // Each budget is whole after any panic.
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = rate {
            if !hosts.contains_key(host) {
                hosts.retain(|_, budgets| budgets.iter().any(|budget| now < budget.named + budget.rate.per + LINGER));
            }
            let budgets = hosts.entry(host.to_owned()).or_default();
            match budgets.iter_mut().find(|budget| budget.rate == rate) {
                Some(budget) => budget.named = now,
                None => budgets.push(Budget { rate, named: now, times: VecDeque::new() }),
            }
        }
        let Some(budgets) = hosts.get_mut(host) else { return now };
        budgets.retain(|budget| now < budget.named + budget.rate.per + LINGER);
        // Later for one may be too early for another, so until all agree; each step only moves on.
        let mut at = now;
        loop {
            let next = budgets.iter().fold(at, |at, budget| budget.earliest(at));
            if next == at {
                break;
            }
            at = next;
        }
        for budget in budgets {
            budget.take(at);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(requests: u32, secs: u64) -> Option<Rate> {
        Some(Rate { requests, per: SECOND * secs as u32 })
    }

    /// When each of `count` requests may go, in milliseconds from the first.
    fn times(pace: &Pace, rate: Option<Rate>, now: Instant, count: usize) -> Vec<u128> {
        (0..count).map(|_| (pace.reserve("h", rate, now) - now).as_millis()).collect()
    }

    #[tokio::test]
    async fn no_span_has_more_requests_than_the_budget_wherever_it_begins() {
        let (pace, now) = (Pace::default(), Instant::now());
        let times = times(&pace, rate(3, 1), now, 8);
        assert_eq!(times, [0, 0, 0, 1000, 1000, 1000, 2000, 2000]);
        let later = now + Duration::from_millis(2500);
        assert_eq!((pace.reserve("h", rate(3, 1), later) - now).as_millis(), 2500);
        assert_eq!((pace.reserve("h", rate(3, 1), later) - now).as_millis(), 3000);
    }

    #[tokio::test]
    async fn every_request_to_a_host_keeps_to_every_budget_of_that_host() {
        let (pace, now) = (Pace::default(), Instant::now());
        assert_eq!(times(&pace, None, now, 3), [0, 0, 0]);
        assert_eq!(times(&pace, rate(2, 10), now, 2), [0, 0]);
        assert_eq!(times(&pace, None, now, 1), [10_000], "a source that declares nothing keeps to it too");
        assert_eq!(times(&pace, rate(1, 20), now, 2), [10_000, 30_000]);
        assert_eq!((pace.reserve("other", None, now) - now).as_millis(), 0);
    }

    #[tokio::test]
    async fn a_budget_that_nobody_names_any_more_is_forgotten() {
        let (pace, now) = (Pace::default(), Instant::now());
        times(&pace, rate(1, 1), now, 2);
        let later = now + LINGER + SECOND * 2;
        assert_eq!(times(&pace, None, later, 2), [0, 0]);
    }

    #[tokio::test]
    async fn a_turn_that_is_waited_for_can_be_given_up() {
        let pace = Pace::default();
        pace.turn("h", rate(1, 3600)).await;
        let waited = tokio::time::timeout(SECOND / 20, pace.turn("h", rate(1, 3600))).await;
        assert!(waited.is_err());
    }
}

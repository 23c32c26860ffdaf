//! How many requests a host gets: budgets that sources declare, obeyed by every request of the process, and of the others
//! where they share them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::budgets::{Budgets, Rate};

/// Budgets of hosts that several processes keep together.
pub trait SharedPace: Send + Sync {
    /// Takes a turn for a request to `host` by a source with the budget `rate`; returns how long to wait for it. Nothing
    /// when the others cannot be asked: then each process keeps to the budgets by itself.
    fn turn(&self, host: String, rate: Option<Rate>) -> BoxFuture<'_, Option<Duration>>;
}

/// When requests to each host were, or will be, made. A host without a budget costs one look-up.
pub(crate) struct Pace {
    begun: Instant,
    hosts: Mutex<HashMap<String, Budgets>>,
    shared: OnceLock<Arc<dyn SharedPace>>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { begun: Instant::now(), hosts: Mutex::default(), shared: OnceLock::new() }
    }
}

impl Pace {
    /// From now on the budgets are kept together with others.
    pub(crate) fn share(&self, shared: Arc<dyn SharedPace>) {
        let _ = self.shared.set(shared);
    }

    /// Waits until a request to `host` keeps to the budgets of all sources that read from it, `rate` among them.
    ///
    /// Turns are given in the order of asking. A wait that is dropped leaves its turn unused.
    pub(crate) async fn turn(&self, host: &str, rate: Option<Rate>) {
        let now = Instant::now();
        let at = self.begun + self.reserve(host, rate, now - self.begun);
        if at > now {
            tokio::time::sleep_until(at).await;
        }
        if let Some(shared) = self.shared.get()
            && let Some(wait) = shared.turn(host.to_owned(), rate).await
            && !wait.is_zero()
        {
            tokio::time::sleep(wait).await;
        }
    }

    fn reserve(&self, host: &str, rate: Option<Rate>, now: Duration) -> Duration {
        // Each budget is whole after any panic.
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if rate.is_some() && !hosts.contains_key(host) {
            hosts.retain(|_, budgets| !budgets.is_empty_at(now));
            hosts.insert(host.to_owned(), Budgets::default());
        }
        hosts.get_mut(host).map_or(now, |budgets| budgets.reserve(rate, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_that_is_waited_for_can_be_given_up() {
        let (pace, rate) = (Pace::default(), Some(Rate { requests: 1, per: Duration::from_secs(3600) }));
        pace.turn("h", rate).await;
        pace.turn("other", rate).await;
        let waited = tokio::time::timeout(Duration::from_millis(50), pace.turn("h", rate)).await;
        assert!(waited.is_err());
    }

    struct Others(Option<Duration>);

    impl SharedPace for Others {
        fn turn(&self, _: String, _: Option<Rate>) -> BoxFuture<'_, Option<Duration>> {
            Box::pin(std::future::ready(self.0))
        }
    }

    #[tokio::test]
    async fn a_turn_waits_for_those_of_other_processes_where_they_can_be_asked() {
        for (others, waits) in [(None, false), (Some(Duration::ZERO), false), (Some(Duration::from_secs(60)), true)] {
            let pace = Pace::default();
            pace.share(Arc::new(Others(others)));
            let waited = tokio::time::timeout(Duration::from_millis(50), pace.turn("h", None)).await;
            assert_eq!(waited.is_err(), waits, "{others:?}");
        }
    }
}

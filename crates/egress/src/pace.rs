//! How many requests a host gets: budgets that sources declare, obeyed by every request of the process, and of the others
//! where they share them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::budgets::{Budgets, Rate, Turn};

/// Budgets of hosts that several processes keep together.
pub trait SharedPace: Send + Sync {
    /// A turn for a request to `host` by a source with the budget `rate`. Nothing when the others cannot be asked: then
    /// each process keeps to the budgets by itself.
    fn turn(&self, host: String, rate: Option<Rate>) -> BoxFuture<'_, Option<Turn>>;

    /// Tells the others that `host` takes no requests for a time.
    fn close(&self, host: String, time: Duration) -> BoxFuture<'_, ()>;
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
    ///
    /// # Errors
    /// How long the host takes no requests, when that is longer than is waited for.
    pub(crate) async fn turn(&self, host: &str, rate: Option<Rate>) -> Result<(), Duration> {
        wait(self.own_turn(host, rate, self.begun.elapsed())).await?;
        if let Some(shared) = self.shared.get()
            && let Some(turn) = shared.turn(host.to_owned(), rate).await
        {
            wait(turn).await?;
        }
        Ok(())
    }

    /// From now on `host` takes no requests for a time, of whatever process.
    pub(crate) async fn close(&self, host: &str, time: Duration) {
        let now = self.begun.elapsed();
        {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            hosts.retain(|_, budgets| !budgets.is_empty_at(now));
            hosts.entry(host.to_owned()).or_default().close(now, time);
        }
        if let Some(shared) = self.shared.get() {
            shared.close(host.to_owned(), time).await;
        }
    }

    fn own_turn(&self, host: &str, rate: Option<Rate>, now: Duration) -> Turn {
        // Each budget is whole after any panic.
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if rate.is_some() && !hosts.contains_key(host) {
            hosts.retain(|_, budgets| !budgets.is_empty_at(now));
            hosts.insert(host.to_owned(), Budgets::default());
        }
        hosts.get_mut(host).map_or(Turn::After(Duration::ZERO), |budgets| budgets.turn(rate, now))
    }
}

async fn wait(turn: Turn) -> Result<(), Duration> {
    match turn {
        Turn::After(time) if time.is_zero() => Ok(()),
        Turn::After(time) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        Turn::Closed(time) => Err(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_that_is_waited_for_can_be_given_up() {
        let (pace, rate) = (Pace::default(), Some(Rate { requests: 1, per: Duration::from_secs(3600) }));
        pace.turn("h", rate).await.unwrap();
        pace.turn("other", rate).await.unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(50), pace.turn("h", rate)).await;
        assert!(waited.is_err());
    }

    struct Others(Option<Turn>);

    impl SharedPace for Others {
        fn turn(&self, _: String, _: Option<Rate>) -> BoxFuture<'_, Option<Turn>> {
            Box::pin(std::future::ready(self.0))
        }

        fn close(&self, _: String, _: Duration) -> BoxFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    #[tokio::test]
    async fn a_host_that_others_say_is_closed_is_not_asked() {
        let (pace, hour) = (Pace::default(), Duration::from_secs(3600));
        pace.share(Arc::new(Others(Some(Turn::Closed(hour)))));
        assert_eq!(pace.turn("h", None).await, Err(hour));
        let own = Pace::default();
        own.close("h", hour).await;
        assert!(own.turn("h", None).await.is_err_and(|wait| wait > hour / 2));
        assert_eq!(own.turn("other", None).await, Ok(()));
    }

    #[tokio::test]
    async fn a_turn_waits_for_those_of_other_processes_where_they_can_be_asked() {
        let after = |secs| Some(Turn::After(Duration::from_secs(secs)));
        for (others, waits) in [(None, false), (after(0), false), (after(60), true)] {
            let pace = Pace::default();
            pace.share(Arc::new(Others(others)));
            let waited = tokio::time::timeout(Duration::from_millis(50), pace.turn("h", None)).await;
            assert_eq!(waited.is_err(), waits, "{others:?}");
        }
    }
}

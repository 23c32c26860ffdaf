//! The budgets of hosts, kept by all processes of an installation together.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_bus::Bus;
use matome_egress::{Budgets, Rate, SharedPace};
use matome_model::task::Queue;

/// Budgets with more requests than this are kept by each process alone: their times would be a long value to send around.
const MOST: u32 = 1000;

/// Keeps the budgets of each host as one value in Redis.
#[derive(Debug)]
pub struct OverBus(pub Bus);

impl SharedPace for OverBus {
    fn turn(&self, host: String, rate: Option<Rate>) -> BoxFuture<'_, Option<Duration>> {
        if rate.is_some_and(|rate| rate.requests > MOST) {
            return std::future::ready(None).boxed();
        }
        async move {
            let change = |value: Option<&[u8]>, now: Duration| {
                // What cannot be read was written by another version or by a stranger.
                let known = value.and_then(|value| serde_json::from_slice::<Budgets>(value).ok());
                let mut budgets = known.unwrap_or_default();
                if rate.is_none() && budgets.is_empty_at(now) {
                    return (None, Duration::ZERO);
                }
                let at = budgets.reserve(rate, now);
                let value = serde_json::to_vec(&budgets).expect("numbers are JSON");
                (Some((value, budgets.lasts())), at - now)
            };
            self.0.update(Queue::Acquisition, &format!("pace:{host}"), change).await
        }
        .boxed()
    }
}

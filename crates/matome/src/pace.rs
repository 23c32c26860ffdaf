//! The budgets of hosts, kept by all processes of an installation together.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_bus::Bus;
use matome_egress::{Budgets, Rate, SharedPace, Turn};
use matome_model::task::Queue;

/// Budgets with more requests than this are kept by each process alone: their times would be a long value to send around.
const MOST: u32 = 1000;

/// Keeps the budgets of each host as one value in Redis.
#[derive(Debug)]
pub struct OverBus(pub Bus);

impl SharedPace for OverBus {
    fn turn(&self, host: String, rate: Option<Rate>) -> BoxFuture<'_, Option<Turn>> {
        if rate.is_some_and(|rate| rate.requests > MOST) {
            return std::future::ready(None).boxed();
        }
        async move {
            let change = |value: Option<&[u8]>, now: Duration| {
                let mut budgets = read(value);
                if rate.is_none() && budgets.is_empty_at(now) {
                    return (None, Turn::After(Duration::ZERO));
                }
                let turn = budgets.turn(rate, now);
                (Some(written(&budgets, now)), turn)
            };
            self.0.update(Queue::Acquisition, &format!("pace:{host}"), change).await
        }
        .boxed()
    }

    fn close(&self, host: String, time: Duration) -> BoxFuture<'_, ()> {
        async move {
            let change = |value: Option<&[u8]>, now: Duration| {
                let mut budgets = read(value);
                budgets.close(now, time);
                (Some(written(&budgets, now)), ())
            };
            // Who cannot be told finds out by itself.
            let _ = self.0.update(Queue::Acquisition, &format!("pace:{host}"), change).await;
        }
        .boxed()
    }
}

/// What cannot be read was written by another version or by a stranger.
fn read(value: Option<&[u8]>) -> Budgets {
    value.and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default()
}

fn written(budgets: &Budgets, now: Duration) -> (Vec<u8>, Duration) {
    (serde_json::to_vec(budgets).expect("numbers are JSON"), budgets.lasts(now))
}

//! What may be lost: wake-ups of workers. SQL is the truth; a wake-up only makes a worker look sooner.

use std::sync::Arc;

use matome_model::task::Queue;
use tokio::sync::Notify;

/// Carries wake-ups between the parts of one process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bus(Arc<Queues>);

#[derive(Debug, Default)]
struct Queues {
    acquisition: Notify,
    aggregation: Notify,
}

impl Bus {
    /// A bus within this process.
    pub fn in_process() -> Self {
        Self(Arc::default())
    }

    /// Says that `queue` has work, after the transaction that made it has committed. Many calls before a
    /// worker looks are one.
    pub fn wake(&self, queue: Queue) {
        self.notify(queue).notify_one();
    }

    /// Waits for the next wake-up of `queue`; one that came while nobody waited counts.
    pub async fn woken(&self, queue: Queue) {
        self.notify(queue).notified().await;
    }

    fn notify(&self, queue: Queue) -> &Notify {
        match queue {
            Queue::Acquisition => &self.0.acquisition,
            Queue::Aggregation => &self.0.aggregation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_up_before_the_wait_is_not_lost_and_stays_in_its_queue() {
        let bus = Bus::in_process();
        bus.wake(Queue::Acquisition);
        bus.wake(Queue::Acquisition);
        bus.clone().woken(Queue::Acquisition).await;
        let second = tokio::select! {
            biased;
            () = bus.woken(Queue::Acquisition) => "acquisition",
            () = bus.woken(Queue::Aggregation) => "aggregation",
            () = std::future::ready(()) => "none",
        };
        assert_eq!(second, "none");
    }
}

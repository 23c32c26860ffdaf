//! What a task is: its queue, its states, its lane and the fence that guards its effects.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::source::words;

words! {
    /// The two queues of the original design; they share nothing but the database.
    Queue {
        /// Fetch, validate, store raw.
        Acquisition = "acquisition",
        /// Combine, transform, aggregate.
        Aggregation = "aggregation",
    }
}

words! {
    /// The states of a task. `succeeded`, `failed` and `cancelled` never change again.
    TaskStatus {
        /// Waiting to run, or to run again.
        Pending = "pending",
        /// Leased to a worker.
        Running = "running",
        /// Ended well.
        Succeeded = "succeeded",
        /// Ended with an error that is kept.
        Failed = "failed",
        /// Ended by a person.
        Cancelled = "cancelled",
    }
}

impl TaskStatus {
    /// Whether the task has ended and can never change again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

words! {
    /// What caused a task.
    Trigger {
        /// A person or a program asked for it.
        Manual = "manual",
        /// A schedule fired.
        Schedule = "schedule",
        /// A failed task was run again by hand.
        Retry = "retry",
        /// Something that the aggregation runs after has changed.
        After = "after",
        /// Records were sent to the source.
        Push = "push",
    }
}

words! {
    /// How soon a task runs among the tasks of its lane; it ages, so nothing starves.
    Priority {
        /// Ahead of what was due up to ten minutes earlier; asked for by hand, its lane is the next to be served.
        Critical = "critical",
        /// Ahead of what was due up to one minute earlier; a run by hand.
        High = "high",
        /// In the order of due times.
        Normal = "normal",
        /// Behind what is due up to ten minutes later.
        Low = "low",
    }
}

impl Priority {
    /// Seconds added to the due time to get the place in the lane's order.
    pub fn offset_secs(self) -> i64 {
        match self {
            Self::Critical => -600,
            Self::High => -60,
            Self::Normal => 0,
            Self::Low => 600,
        }
    }
}

/// How much of the workers' time the tasks of a source or an aggregation get beside those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// `priority`: of the tasks that its schedule and its triggers make.
    pub priority: Priority,
    /// `weight`: so many of its tasks start for one of another with the same priority, 1 to 100.
    pub weight: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { priority: Priority::Normal, weight: 1 }
    }
}

impl Share {
    /// The largest weight.
    pub const MAX_WEIGHT: u32 = 100;

    /// By how much its lane is served more often than a normal one while both wait.
    pub fn lane_weight(self) -> f64 {
        let class = match self.priority {
            Priority::Critical => 4.0,
            Priority::High => 2.0,
            Priority::Normal => 1.0,
            Priority::Low => 0.25,
        };
        class * f64::from(self.weight)
    }
}

words! {
    /// What kind of thing a lane serves.
    LaneKind {
        /// One stream of an acquisition source.
        Source = "source",
        /// One aggregation.
        Aggregation = "aggregation",
    }
}

impl LaneKind {
    /// The queue that serves lanes of this kind.
    pub fn queue(self) -> Queue {
        match self {
            Self::Source => Queue::Acquisition,
            Self::Aggregation => Queue::Aggregation,
        }
    }
}

/// The proof that a worker still holds a lane. Every effect of a task commits only while the lane's
/// row says the same epoch and worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The lane that is held.
    pub lane_id: i64,
    /// Grows by one with every lease of the lane.
    pub lease_epoch: i64,
    /// The boot id of the worker process, new at every process start.
    pub worker: Uuid,
}

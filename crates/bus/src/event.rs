//! Live events: what became of tasks, for those who watch.

use matome_model::task::{Queue, TaskStatus};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// A task has come into a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEvent {
    /// Its queue.
    pub queue: Queue,
    /// The task.
    pub task_id: i64,
    /// The state that it is in now.
    pub status: TaskStatus,
}

/// What a listener hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// What became of a task.
    Task(TaskEvent),
    /// Something was missed: the listener was too slow, or Redis was away. Look at the database.
    Missed,
}

/// A subscription to the events of all processes.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Heard>);

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<Heard>) -> Self {
        Self(receiver)
    }

    /// The next thing to hear. The bus outlives its listeners; after its end this waits for ever.
    pub async fn next(&mut self) -> Heard {
        match self.0.recv().await {
            Ok(heard) => heard,
            Err(RecvError::Lagged(_)) => Heard::Missed,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Events as they travel. A format that is not known is left alone.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    /// The format: 1.
    pub(crate) v: u32,
    /// Who sent it; it has told its own listeners already.
    pub(crate) from: u64,
    pub(crate) events: Vec<TaskEvent>,
}

//! Moving work: the worker that claims tasks and runs a [`Handler`] for each, its heartbeat, the sweeper that
//! takes lanes back from dead workers, and the beat that turns schedules into tasks.
//!
//! What a task may do to the database is decided in `matome_store::tasks`; this crate only keeps time.

pub mod handler;
pub mod liveness;

pub use handler::{Advice, ClaimedTask, Handler, StopReason, TaskContext, TaskError, TaskOutcome};

//! Moving work: the worker that claims tasks and runs a [`Handler`] for each, its heartbeat, the sweeper that
//! takes lanes back from dead workers, and the beat that turns schedules into tasks.
//!
//! What a task may do to the database is decided in `matome_store::tasks`; this crate only keeps time.
//!
//! ```ignore
//! let process = Process::start(db.clone(), clock.clone(), worker).await?;
//! let acquisition = Worker::new(&process, bus.clone(), WorkerOptions::new(Queue::Acquisition, 8), handler);
//! let acquisition = tokio::spawn(acquisition.run(shutdown.clone()));
//! let beat = tokio::spawn(Beat::new(db, bus, clock, Some(process.boot())).run(shutdown.clone()));
//! // ... shutdown.cancel(); then, in this order:
//! acquisition.await?;
//! beat.await?;
//! process.stop().await;
//! ```

mod attempt;
mod beat;
mod celery;
pub mod handler;
mod liveness;
mod process;
mod sweeper;
pub mod trace;
mod worker;

pub use attempt::run_to_its_deadline;
pub use beat::Beat;
pub use celery::CeleryIntake;
pub use handler::{Advice, ClaimedTask, Handler, StopReason, TaskContext, TaskError, TaskOutcome};
pub use liveness::{BEAT_EVERY, SELF_FENCE_AFTER};
pub use process::{Heart, Process};
pub use sweeper::Sweeper;
pub use worker::{ATTEMPT_DEADLINE, Worker, WorkerOptions};

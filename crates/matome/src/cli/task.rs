//! `matome task ...`

use clap::{Args, Subcommand};

use super::ClientArgs;

#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// Lists tasks, newest first.
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// acquisition or aggregation.
        #[arg(long, default_value = "acquisition", value_parser = ["acquisition", "aggregation"])]
        queue: String,
        /// pending, running, succeeded, failed or cancelled.
        #[arg(long)]
        status: Option<String>,
        /// Name or id of a source or an aggregation.
        #[arg(long)]
        source: Option<String>,
        /// Rows at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Shows what each source and aggregation does or waits for.
    Lanes {
        #[command(flatten)]
        client: ClientArgs,
        /// source or aggregation.
        #[arg(long, value_parser = ["source", "aggregation"])]
        kind: Option<String>,
        /// Only those in this state; host_full: as many tasks read from its host as may (`rate.concurrent`), held_back: it failed
        /// too often or its source asked it to wait, ready: the next free worker takes it.
        #[arg(long, value_parser = ["running", "ready", "host_full", "held_back", "waiting", "paused", "idle"])]
        state: Option<String>,
        /// Rows at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Shows one task with its result or error.
    Show(TaskTarget),
    /// Cancels a task that waits or runs.
    Cancel(TaskTarget),
    /// Runs a failed or cancelled task again, as a new task; with --failed all that failed last.
    Retry {
        #[command(flatten)]
        client: ClientArgs,
        /// Id of the task.
        #[arg(required_unless_present = "failed", conflicts_with = "failed")]
        id: Option<u64>,
        /// Of each source the newest task, if it failed.
        #[arg(long)]
        failed: bool,
        /// With --failed: acquisition or aggregation.
        #[arg(long, default_value = "acquisition", requires = "failed", value_parser = ["acquisition", "aggregation"])]
        queue: String,
        /// With --failed: only of this source or aggregation, by name or id.
        #[arg(long, requires = "failed")]
        source: Option<String>,
    },
}

#[derive(Args, Debug)]
pub struct TaskTarget {
    #[command(flatten)]
    pub client: ClientArgs,
    /// Id of the task.
    pub id: u64,
}

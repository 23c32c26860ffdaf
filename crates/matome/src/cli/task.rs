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
    /// Shows one task with its result or error.
    Show(TaskTarget),
    /// Cancels a task that waits or runs.
    Cancel(TaskTarget),
    /// Runs a failed or cancelled task again, as a new task.
    Retry(TaskTarget),
}

#[derive(Args, Debug)]
pub struct TaskTarget {
    #[command(flatten)]
    pub client: ClientArgs,
    /// Id of the task.
    pub id: u64,
}

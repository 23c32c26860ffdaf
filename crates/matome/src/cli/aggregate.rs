//! `matome aggregate ...`

use clap::Subcommand;

use super::{ClientArgs, DeleteTarget, RunTarget, Target};

#[derive(Debug, Subcommand)]
pub enum AggregateCommand {
    /// Adds an aggregation.
    Add {
        #[command(flatten)]
        client: ClientArgs,
        /// Its name.
        name: String,
        /// One SELECT over the sources by their names, or @FILE.
        #[arg(long)]
        sql: String,
        /// Seconds between two runs [default: by hand only]
        #[arg(long, value_name = "SECS")]
        every: Option<u32>,
        #[arg(long)]
        description: Option<String>,
    },
    /// Lists aggregations.
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// Text in name or description.
        #[arg(long)]
        search: Option<String>,
    },
    /// Shows one aggregation.
    Show(Target),
    /// Computes an aggregation now.
    Run(RunTarget),
    /// Shows the first rows of an aggregation, or of any SQL, without storing them.
    Preview {
        #[command(flatten)]
        client: ClientArgs,
        /// Name or id of an aggregation.
        name: String,
        /// This SQL instead of the stored one, or @FILE.
        #[arg(long)]
        sql: Option<String>,
    },
    /// Deletes an aggregation and its rows.
    Delete(DeleteTarget),
}

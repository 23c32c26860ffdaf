//! `matome data ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ClientArgs;

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Shows stored records of a source, newest first, or current rows of an aggregation.
    Query {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        which: WhichData,
        /// The rows that this run of the aggregation made, as long as they are kept; `matome aggregate runs` lists runs.
        #[arg(long, value_name = "ID", conflicts_with = "source")]
        run: Option<u64>,
        /// Rows at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Writes all stored records of a source, or all current rows of an aggregation.
    Export {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        which: WhichData,
        /// File to write [default: stdout]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct WhichData {
    /// Name or id of a data source.
    #[arg(long)]
    pub source: Option<String>,
    /// Name or id of an aggregation.
    #[arg(long)]
    pub aggregation: Option<String>,
}

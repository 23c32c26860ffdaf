//! `matome bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{OutputArgs, server_database};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchGroup {
    /// Files from nothing to stored, first and again.
    Ingest,
    /// Tables of a PostgreSQL server into another of its databases, first and again.
    Database,
    /// An API, tables and files beside dlt, the Airbyte CDK and DuckDB.
    Sources,
    /// Lists over HTTP.
    List,
    /// Join and group over the raw records.
    Join,
    /// Removing stored records, and what writes beside it wait.
    Remove,
    /// The task engine.
    Tasks,
    /// Memory when idle and while large files are read.
    Memory,
    /// How soon processes are ready.
    Start,
}

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Makes databases of its own on the server of --database-url and removes them; whatever else is there \
    stays as it is.\nOn a machine that does other things at the same time, look at the CPU seconds.\n\n\
    Examples:\n  matome bench --dir /var/tmp\n  matome bench ingest list --database-url postgres://user@127.0.0.1/postgres"
)]
pub struct BenchArgs {
    /// What to measure [default: all]
    #[arg(value_name = "NAME")]
    pub groups: Vec<BenchGroup>,
    /// PostgreSQL to measure beside SQLite; its role must be allowed to create databases.
    #[arg(long, value_name = "URL", value_parser = server_database)]
    pub database_url: Option<String>,
    /// Leave SQLite out of what is measured on both databases.
    #[arg(long, requires = "database_url")]
    pub skip_sqlite: bool,
    /// CSV rows of an ingest; a fifth as many records of 1 KB [default: 1000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: Option<u64>,
    /// Tiny sizes, to see that it works.
    #[arg(long)]
    pub quick: bool,
    /// Also with ROWS rows in the table (20 M, half an hour and 20 GB for each database), and files up to 2 GiB.
    #[arg(long, value_name = "ROWS", num_args = 0..=1, require_equals = true, default_missing_value = "20000000",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub full: Option<u64>,
    /// Directory on the disk to be measured [default: that for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
}

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
        #[command(flatten)]
        runs: WhichRun,
        #[command(flatten)]
        versions: WhichVersions,
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
        #[command(flatten)]
        runs: WhichRun,
        #[command(flatten)]
        versions: WhichVersions,
        /// File to write [default: stdout]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Removes records of a source by the time at which they were acquired, or one record.
    #[command(after_help = "Example:\n  matome data delete --source orders --before 2026-01-01 --yes\n\n\
        To remove all records of a source: matome source reset NAME --data")]
    Delete {
        #[command(flatten)]
        client: ClientArgs,
        /// Name or id of a data source.
        #[arg(long, value_name = "NAME", conflicts_with = "record")]
        source: Option<String>,
        /// Acquired before this time. ISO 8601; UTC without a zone.
        #[arg(long, value_name = "TIME", requires = "source")]
        before: Option<String>,
        /// Acquired at this time or later.
        #[arg(long, value_name = "TIME", requires = "source")]
        since: Option<String>,
        /// Id of one record.
        #[arg(long, value_name = "ID")]
        record: Option<u64>,
        /// Does not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Shows all versions of a record's key, the newest first.
    History(RecordTarget),
    /// Shows what changed in a record since the version before.
    Diff {
        #[command(flatten)]
        target: RecordTarget,
        /// Id of another record to compare with.
        #[arg(long, value_name = "ID")]
        against: Option<u64>,
    },
}

#[derive(Args, Debug)]
pub struct RecordTarget {
    #[command(flatten)]
    pub client: ClientArgs,
    /// Id of the record.
    pub id: u64,
}

/// Which versions of a source's records.
#[derive(Args, Clone, Debug)]
pub struct WhichVersions {
    /// What was there at this time: of each key the version that was the newest then. ISO 8601; UTC without a zone.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["latest", "aggregation"])]
    pub as_of: Option<String>,
    /// The newest version of each key only.
    #[arg(long, conflicts_with = "aggregation")]
    pub latest: bool,
}

impl WhichVersions {
    /// As parameters of the query string.
    pub fn query(&self) -> Vec<(&str, &str)> {
        let as_of = self.as_of.as_deref().map(|time| ("as_of", time));
        as_of.into_iter().chain(self.latest.then_some(("latest", "true"))).collect()
    }
}

/// Which rows of an aggregation, if not those that are shown.
#[derive(Args, Clone, Debug)]
pub struct WhichRun {
    /// The rows that this run of the aggregation made, as long as they are kept; `matome aggregate runs` lists runs.
    #[arg(long, value_name = "ID", conflicts_with_all = ["source", "as_of_run"])]
    pub run: Option<u64>,
    /// What the aggregation showed after this run, as long as that is kept.
    #[arg(long, value_name = "ID", conflicts_with = "source")]
    pub as_of_run: Option<u64>,
}

impl WhichRun {
    /// As a parameter of the query string.
    pub fn query(&self) -> Option<(&'static str, String)> {
        let as_of = || self.as_of_run.map(|id| ("as_of_run", id.to_string()));
        self.run.map(|id| ("run", id.to_string())).or_else(as_of)
    }
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

//! `matome quarantine ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ClientArgs;

#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// Lists records that could not be stored or broke the rules of their source, newest first.
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// Name or id of a data source.
        #[arg(long)]
        source: Option<String>,
        /// Code of the reason: invalid_json, csv_width, schema, rule, drift, ...
        #[arg(long)]
        reason: Option<String>,
        /// held, replaying or replayed.
        #[arg(long)]
        status: Option<String>,
        /// Rows at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Shows one record with its reason, position and bytes.
    Show(QuarantineTarget),
    /// Writes the kept bytes of a record, exactly.
    Raw {
        #[command(flatten)]
        target: QuarantineTarget,
        /// File to write [default: stdout]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Reads records again, through the same checks as those of the source.
    #[command(after_help = "Examples:\n  matome quarantine replay 17 --wait\n  \
        matome quarantine replay 17 --raw '{\"id\": 1, \"amount\": 5}'\n  \
        matome quarantine replay --source orders --reason schema")]
    Replay {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        which: WhichQuarantined,
        /// The corrected record, one JSON object, or @FILE; for one record.
        #[arg(long, value_name = "JSON", conflicts_with_all = ["source", "reason"])]
        raw: Option<String>,
        /// Waits until they are read, and shows what came of it; for one record.
        #[arg(long, conflicts_with_all = ["source", "reason"])]
        wait: bool,
    },
    /// Removes records for good, with their bytes.
    Discard {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        which: WhichQuarantined,
        /// With --source: those that are held, or those that were replayed [default: held]
        #[arg(long, value_parser = ["held", "replayed"], requires = "source")]
        status: Option<String>,
        /// Does not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
pub struct QuarantineTarget {
    #[command(flatten)]
    pub client: ClientArgs,
    /// Id of the record in quarantine.
    pub id: u64,
}

/// Records by id, or all of a source.
#[derive(Args, Clone, Debug)]
pub struct WhichQuarantined {
    /// Ids of records in quarantine.
    #[arg(required_unless_present = "source", conflicts_with_all = ["source", "reason"])]
    pub ids: Vec<u64>,
    /// Name or id of a data source: all that it has in quarantine.
    #[arg(long)]
    pub source: Option<String>,
    /// With --source: only those with this reason.
    #[arg(long, requires = "source")]
    pub reason: Option<String>,
}

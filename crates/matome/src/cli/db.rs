//! `matome db ...`

use clap::Subcommand;

use super::{OutputArgs, StorageArgs};

#[derive(Debug, Subcommand)]
pub enum DbCommand {
    /// Checks everything that must always hold in the stored data. Changes nothing.
    #[command(after_help = "Reads one consistent snapshot, also while a server works on the database.\n\
        Exit codes: 0 all holds, 1 something does not: that is a defect of matome or of the disk; please report it.")]
    Check {
        #[command(flatten)]
        storage: StorageArgs,
        /// Hashes every record again instead of about a thousand, and compares the indexes of SQLite with its tables.
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
}

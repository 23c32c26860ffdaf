//! `matome token ...`

use clap::Subcommand;

use super::ClientArgs;

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Creates a token and prints it, and nothing else. It is shown this once.
    Create {
        #[command(flatten)]
        client: ClientArgs,
        /// admin may do everything, viewer may read.
        #[arg(long, value_parser = ["admin", "viewer"])]
        role: String,
        /// What the token is for.
        #[arg(long, default_value = "command line")]
        name: String,
    },
}

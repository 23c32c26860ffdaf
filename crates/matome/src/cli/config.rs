//! `matome config ...`

use clap::Subcommand;

use super::{OutputArgs, RemoteArgs, ServeArgs};

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Shows every setting with its value; secrets are masked.
    Show {
        /// Where each value comes from: a flag, a variable, `file:line`, or the default.
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        settings: Box<ServeArgs>,
        #[command(flatten)]
        remote: RemoteArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Reads all settings and says what is wrong with them.
    Check,
}

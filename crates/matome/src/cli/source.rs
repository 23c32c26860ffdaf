//! `matome source ...`

use clap::Subcommand;

use super::{ClientArgs, DeleteTarget, RunTarget, Target};

#[derive(Debug, Subcommand)]
pub enum SourceCommand {
    /// Adds a data source.
    #[command(
        after_help = "Examples:\n  matome source add orders --path files/orders.csv --set encoding=shift_jis\n  \
        matome source add users --url https://example.com/users --set records='$.results'\n  \
        matome source add users --type api --config '{\"url\": \"https://example.com/users\"}'"
    )]
    Add {
        #[command(flatten)]
        client: ClientArgs,
        /// Its name; the table name in SQL.
        name: String,
        /// api, file, database or websocket [default: by --path or --url]
        #[arg(long = "type", value_name = "TYPE")]
        source_type: Option<String>,
        /// File or glob beneath a file root.
        #[arg(long, conflicts_with_all = ["url", "config"])]
        path: Option<String>,
        /// Address of a REST API.
        #[arg(long, conflicts_with = "config")]
        url: Option<String>,
        /// The whole config as JSON, or @FILE.
        #[arg(long, value_name = "JSON")]
        config: Option<String>,
        /// One more option of the config, KEY=VALUE; VALUE is JSON or plain text. Dots go deeper. Repeatable.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        options: Vec<String>,
        /// Seconds between two reads; 0 means by hand only [default: 3600]
        #[arg(long, value_name = "SECS")]
        interval: Option<u32>,
        /// When it is read, instead of --interval: a cron expression such as '*/5 9-17 * * mon-fri', or @daily.
        #[arg(long, value_name = "EXPRESSION", conflicts_with = "interval")]
        cron: Option<String>,
        /// The zone of --cron [default: UTC]
        #[arg(long, value_name = "ZONE", requires = "cron")]
        timezone: Option<String>,
        #[arg(long)]
        description: Option<String>,
    },
    /// Lists data sources.
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// Text in name or description.
        #[arg(long)]
        search: Option<String>,
        /// active, inactive or error.
        #[arg(long)]
        status: Option<String>,
    },
    /// Shows one data source.
    Show(Target),
    /// Reads a source now.
    Run(RunTarget),
    /// Reads the first records and shows them with what is wrong: duplicates, broken rules, drift. Stores nothing.
    Test {
        #[command(flatten)]
        target: Target,
        /// Records at most, up to 1000.
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
        records: u16,
    },
    /// Shows which fields and types a source's records have, and when that changed.
    Schema {
        #[command(flatten)]
        target: Target,
        /// Has the next read take in all that is new, also where `drift` is freeze or quarantine.
        #[arg(long)]
        accept: bool,
    },
    /// Deletes a source and its data.
    Delete(DeleteTarget),
}

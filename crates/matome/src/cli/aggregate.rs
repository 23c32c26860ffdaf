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
        /// What a run does with the rows before: replace, append or upsert [default: replace]
        #[arg(long, value_name = "MODE")]
        mode: Option<String>,
        /// Columns that say which row is which, for upsert; separated by commas, or repeated.
        #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
        key: Vec<String>,
        /// Runs after this source stored something new. Repeatable.
        #[arg(long, value_name = "SOURCE")]
        after: Vec<String>,
        /// Runs after this aggregation was computed. Repeatable.
        #[arg(long, value_name = "AGGREGATION")]
        after_aggregation: Vec<String>,
        /// One more option of the config, KEY=VALUE; VALUE is JSON or plain text. Dots go deeper. Repeatable.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        options: Vec<String>,
        /// When it runs, instead of --every: a cron expression such as '0 6 * * *', or @daily.
        #[arg(long, value_name = "EXPRESSION", conflicts_with = "every")]
        cron: Option<String>,
        /// The zone of --cron [default: the server's --time-zone]
        #[arg(long, value_name = "ZONE", requires = "cron")]
        timezone: Option<String>,
        /// Its description.
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
    /// Changes an aggregation.
    #[command(
        after_help = "Example:\n  matome aggregate set daily --sql @daily.sql --set mode=upsert --set key='[\"day\"]' --unset refresh_interval_secs"
    )]
    Set {
        #[command(flatten)]
        target: Target,
        /// One SELECT over the sources by their names, or @FILE.
        #[arg(long)]
        sql: Option<String>,
        /// One option of the config, KEY=VALUE; VALUE is JSON or plain text. Dots go deeper. Repeatable.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        options: Vec<String>,
        /// An option to leave out from now on. Repeatable.
        #[arg(long = "unset", value_name = "KEY")]
        without: Vec<String>,
        /// Its description.
        #[arg(long)]
        description: Option<String>,
    },
    /// Computes an aggregation now.
    Run {
        #[command(flatten)]
        run: RunTarget,
        /// Shows the rows of this run alone, whatever the mode: the rows before leave.
        #[arg(long)]
        replace: bool,
        /// A value of one of its parameters, NAME=VALUE. Repeatable.
        #[arg(long = "param", value_name = "NAME=VALUE")]
        params: Vec<String>,
    },
    /// Lists runs of an aggregation, newest first.
    Runs {
        #[command(flatten)]
        client: ClientArgs,
        /// Name or id of an aggregation.
        name: String,
        /// Runs at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Shows the first rows of an aggregation, or of any SQL, without storing them.
    Preview {
        #[command(flatten)]
        client: ClientArgs,
        /// Name or id of an aggregation.
        name: String,
        /// This SQL instead of the stored one, or @FILE.
        #[arg(long)]
        sql: Option<String>,
        /// A value of one of its parameters, NAME=VALUE. Repeatable.
        #[arg(long = "param", value_name = "NAME=VALUE")]
        params: Vec<String>,
    },
    /// Deletes an aggregation and its rows.
    Delete(DeleteTarget),
}

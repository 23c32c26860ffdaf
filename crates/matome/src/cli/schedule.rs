//! `matome schedule ...`

use clap::{Args, Subcommand};

use super::ClientArgs;

#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Lists the schedules of sources and aggregations.
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// source or aggregation.
        #[arg(long, value_parser = ["source", "aggregation"])]
        kind: Option<String>,
    },
    /// Shows the next times at which a schedule, or any cron expression, fires.
    #[command(after_help = "Examples:\n  matome schedule next orders\n  \
        matome schedule next --cron '*/5 9-17 * * mon-fri' --timezone Asia/Tokyo -n 3")]
    Next {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        which: WhichTimes,
        /// The zone of --cron [default: that of --time-zone]
        #[arg(long, requires = "cron", value_name = "ZONE")]
        timezone: Option<String>,
        /// How many times.
        #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
        number: u16,
    },
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct WhichTimes {
    /// Name of a source or an aggregation, or id of a schedule.
    pub name: Option<String>,
    /// This expression instead: five fields, or a word such as @daily. Needs no server.
    #[arg(long, value_name = "EXPRESSION")]
    pub cron: Option<String>,
}

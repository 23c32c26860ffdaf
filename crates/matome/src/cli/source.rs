//! `matome source ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ClientArgs, DeleteTarget, RunTarget, Target};

/// Where the records of a source are.
#[derive(Debug, Default, Args)]
pub struct Place {
    /// File, glob or directory beneath a file root, or the address of a file elsewhere; with --table or --query an SQLite file.
    #[arg(long, conflicts_with_all = ["url", "config"])]
    pub path: Option<String>,
    /// Address of a REST API, a WebSocket (ws:, wss:) or a database (postgres:, mysql:, sqlite:). A password in it is kept
    /// as a secret.
    #[arg(long, conflicts_with = "config")]
    pub url: Option<String>,
    /// Table or view of a database, SCHEMA.TABLE or TABLE.
    #[arg(long, conflicts_with_all = ["query", "config"])]
    pub table: Option<String>,
    /// Query of a database: one statement that only reads.
    #[arg(long, value_name = "SQL", conflicts_with = "config")]
    pub query: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum SourceCommand {
    /// Adds a data source.
    #[command(
        after_help = "Examples:\n  matome source add users https://example.com/users\n  matome source add orders exports/orders.csv\n  matome source add rates https://example.com/rates.csv\n  matome source add shop sqlite:exports/shop.db\n  matome source add orders --path files/orders.csv --set encoding=shift_jis\n  \
        matome source add rates --path https://example.com/rates.csv --set files=changed\n  \
        matome source add users --url https://example.com/users --set records='$.results'\n  \
        matome source add orders --url postgres://reader:s3cret@db.example.com/shop --table orders --set key=id\n  \
        matome source add users --type api --config '{\"url\": \"https://example.com/users\"}'"
    )]
    Add {
        #[command(flatten)]
        client: ClientArgs,
        /// Its name; the table name in SQL.
        name: String,
        /// Address of a REST API, of files (https, s3, gs, az, sftp) or of a database (postgres, mysql, sqlite), or a file, a pattern or
        /// a directory beneath a file root, that is looked at first: how it is read is proposed and shown.
        #[arg(value_name = "ADDRESS", conflicts_with_all = ["path", "url", "config"])]
        address: Option<String>,
        /// Does not ask before what is proposed for ADDRESS is taken.
        #[arg(long, short, requires = "address")]
        yes: bool,
        /// api, file, database, websocket or push [default: by --path, --url, --table or --query]
        #[arg(long = "type", value_name = "TYPE")]
        source_type: Option<String>,
        #[command(flatten)]
        place: Place,
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
        /// The zone of --cron [default: the server's --time-zone]
        #[arg(long, value_name = "ZONE", requires = "cron")]
        timezone: Option<String>,
        /// Its description.
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
    /// Changes a data source.
    #[command(after_help = "Example:\n  matome source set orders --set key=id --unset dedupe --on-change full")]
    Set {
        #[command(flatten)]
        target: Target,
        /// One option of the config, KEY=VALUE; VALUE is JSON or plain text. Dots go deeper. Repeatable.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        options: Vec<String>,
        /// An option to leave out from now on. Repeatable.
        #[arg(long = "unset", value_name = "KEY")]
        without: Vec<String>,
        /// Seconds between two reads; 0 means by hand only.
        #[arg(long, value_name = "SECS")]
        interval: Option<u32>,
        /// Its description.
        #[arg(long)]
        description: Option<String>,
        /// What becomes of stored records when other ones will be read, or told apart otherwise: full keeps them and
        /// reads all from the start, reset removes them.
        #[arg(long, value_parser = ["full", "reset"])]
        on_change: Option<String>,
    },
    /// Reads a source now.
    Run {
        #[command(flatten)]
        run: RunTarget,
        /// From the start, whatever was read before.
        #[arg(long)]
        full: bool,
        /// Marks keys as deleted that do not come, also when that is more than half of them.
        #[arg(long)]
        confirm_deletes: bool,
    },
    /// Tells what the config of today would make of what is stored, without reading the source, and with --apply does it: what
    /// breaks its rules goes to quarantine, what is there and fits now comes back, and a new key tells records apart.
    #[command(after_help = "Examples:\n  matome source revalidate orders --wait\n  \
        matome source revalidate orders --apply --since 2026-01-01T00:00:00Z --wait")]
    Revalidate {
        #[command(flatten)]
        run: RunTarget,
        /// Does what is told without it.
        #[arg(long)]
        apply: bool,
        /// Only records that were acquired, or put into quarantine, at this time or later.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
    },
    /// Stops reading a source: its schedule, its stream and what was sent to it wait until it is resumed.
    Pause(Target),
    /// Goes on reading a source that was paused.
    Resume(Target),
    /// Forgets how far a source was read: the next run reads it from the start.
    Reset {
        #[command(flatten)]
        target: Target,
        /// Removes the stored records, too.
        #[arg(long)]
        data: bool,
        /// Does not ask before records are removed.
        #[arg(long, short)]
        yes: bool,
    },
    /// Sends records to a source of the type push. What was sent before, in a run that broke off, is not stored again.
    #[command(after_help = "Examples:\n  matome source push events today.ndjson\n  \
        curl https://example.com/users | matome source push users - --format json")]
    Push {
        #[command(flatten)]
        target: Target,
        /// A file, or - for stdin. NDJSON of any size goes in pieces.
        #[arg(default_value = "-", value_name = "FILE")]
        file: PathBuf,
        /// json, ndjson or csv [default: by the extension of FILE]
        #[arg(long, value_parser = ["json", "ndjson", "csv"])]
        format: Option<String>,
        /// What is sent again under the same key is not stored again [default: made of the content]
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
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
    /// Shows what the config of a type of source may say; with -o json as JSON Schema.
    #[command(after_help = "Example:\n  matome source options file -o json > file.schema.json")]
    Options {
        #[command(flatten)]
        client: ClientArgs,
        /// api, file, database, websocket or push.
        #[arg(value_name = "TYPE")]
        source_type: String,
    },
    /// Shows when a stream was not listened to and could not be resumed.
    Gaps(Target),
    /// Deletes a source and its data.
    Delete(DeleteTarget),
}

//! The command line: every command, flag and environment variable, with its help text.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Fetches data from many sources, keeps every raw record, aggregates with SQL and serves the result over REST.
#[derive(Debug, Parser)]
#[command(name = "matome", version, about, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  matome demo                                   see the whole main job in one process
  matome serve --data-dir data --file-root files
  matome source add orders --path files/orders.ndjson
  matome source run orders --wait
  matome aggregate add daily --sql 'select status, count(*) as n from orders group by status'

Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration, 4 not permitted, 5 not found, 6 conflict or locked,
7 unreachable, 8 partly done, 130 interrupted.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs everything in one process: API, workers, scheduler.
    Serve(ServeArgs),
    /// Shows the main job on sample data in ./matome-demo, without network.
    Demo(DemoArgs),
    /// Makes or upgrades the database schema.
    Migrate(StorageArgs),
    /// Creates API tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Manages data sources.
    #[command(subcommand)]
    Source(SourceCommand),
    /// Manages aggregations.
    #[command(subcommand, visible_alias = "agg")]
    Aggregate(AggregateCommand),
    /// Looks at tasks and steers them.
    #[command(subcommand)]
    Task(TaskCommand),
    /// Reads stored data.
    #[command(subcommand)]
    Data(DataCommand),
    /// Looks after the database itself.
    #[command(subcommand)]
    Db(DbCommand),
    /// The child process that plans and executes SQL. Started by matome itself.
    #[command(hide = true, name = crate::ENGINE_CHILD)]
    EngineChild,
}

/// Where the data is kept.
#[derive(Args, Clone, Debug)]
pub struct StorageArgs {
    /// Directory of the embedded database, its key and its socket.
    #[arg(long, env = "MATOME_DATA_DIR", default_value = "matome-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// PostgreSQL instead of the embedded database: postgres://user:password@host/name
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// File with the key that encrypts secrets [default: DIR/master.key, made at first start]
    #[arg(long, env = "MASTER_KEY_FILE", value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
}

/// What sources may reach.
#[derive(Args, Clone, Debug)]
pub struct ReachArgs {
    /// Directory that file sources may read beneath. Repeatable.
    #[arg(long = "file-root", env = "FILE_ROOTS", value_delimiter = ':', value_name = "DIR")]
    pub file_roots: Vec<PathBuf>,
    /// Private address range that sources may reach, such as 10.0.0.0/8 or 127.0.0.1/32:9000. Repeatable.
    #[arg(long = "egress-allow", env = "EGRESS_ALLOW", value_delimiter = ',', value_name = "CIDR[:PORT]")]
    pub egress_allow: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub reach: ReachArgs,
    /// Address to listen on.
    #[arg(long, env = "MATOME_BIND", default_value = "127.0.0.1:8000", value_name = "ADDR")]
    pub bind: SocketAddr,
    /// Host names that requests may name, comma-separated [default: loopback names and the bind address]
    #[arg(long, env = "ALLOWED_HOSTS", value_delimiter = ',', value_name = "HOST")]
    pub allowed_hosts: Vec<String>,
    /// Acquisition tasks at once.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub acquisition_slots: usize,
    /// Aggregation tasks at once.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub aggregation_slots: usize,
    /// Memory of one aggregation in MiB.
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    pub aggregation_memory: u64,
    /// What is logged to stderr: error, warn, info, debug, or a filter such as matome_tasks=debug
    #[arg(long, env = "LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
}

#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Directory of the demo; run again it goes on with its data.
    #[arg(long, default_value = "matome-demo", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address to listen on; another port is taken when it is in use and the flag is not given.
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<SocketAddr>,
    /// Ends after everything has been shown, instead of serving until Ctrl-C.
    #[arg(long)]
    pub once: bool,
}

/// How a command reaches matome: a server, else the running `serve` of the data directory, else the
/// directory itself.
#[derive(Args, Clone, Debug)]
pub struct ClientArgs {
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub reach: ReachArgs,
    /// A running matome: http://host:8000
    #[arg(long, env = "MATOME_URL", value_name = "URL")]
    pub server: Option<String>,
    /// API token for --server.
    #[arg(long, env = "MATOME_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Form of what is printed [default: a table]
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned on a terminal, tab-separated otherwise.
    Table,
    /// One JSON document, as the API gives it.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// Comma-separated with a header.
    Csv,
}

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
    /// Reads the first records and shows them; stores nothing.
    Test(Target),
    /// Deletes a source and its data.
    Delete(DeleteTarget),
}

#[derive(Args, Debug)]
pub struct Target {
    #[command(flatten)]
    pub client: ClientArgs,
    /// Name or id.
    pub name: String,
}

#[derive(Args, Debug)]
pub struct RunTarget {
    #[command(flatten)]
    pub target: Target,
    /// Waits for the end, with progress; the exit code says how it ended.
    #[arg(long)]
    pub wait: bool,
    /// With --wait: exit code 8 when records went to quarantine.
    #[arg(long, requires = "wait")]
    pub strict: bool,
}

#[derive(Args, Debug)]
pub struct DeleteTarget {
    #[command(flatten)]
    pub target: Target,
    /// Does not ask.
    #[arg(long, short)]
    pub yes: bool,
}

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
    /// Computes an aggregation now.
    Run(RunTarget),
    /// Shows the first rows of an aggregation, or of any SQL, without storing them.
    Preview {
        #[command(flatten)]
        client: ClientArgs,
        /// Name or id of an aggregation.
        name: String,
        /// This SQL instead of the stored one, or @FILE.
        #[arg(long)]
        sql: Option<String>,
    },
    /// Deletes an aggregation and its rows.
    Delete(DeleteTarget),
}

#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// Lists tasks, newest first.
    List {
        #[command(flatten)]
        client: ClientArgs,
        /// acquisition or aggregation.
        #[arg(long, default_value = "acquisition", value_parser = ["acquisition", "aggregation"])]
        queue: String,
        /// pending, running, succeeded, failed or cancelled.
        #[arg(long)]
        status: Option<String>,
        /// Name or id of a source or an aggregation.
        #[arg(long)]
        source: Option<String>,
        /// Rows at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Shows one task with its result or error.
    Show(TaskTarget),
    /// Cancels a task that waits or runs.
    Cancel(TaskTarget),
    /// Runs a failed or cancelled task again, as a new task.
    Retry(TaskTarget),
}

#[derive(Args, Debug)]
pub struct TaskTarget {
    #[command(flatten)]
    pub client: ClientArgs,
    /// Id of the task.
    pub id: u64,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Shows stored records of a source, newest first, or current rows of an aggregation.
    Query {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        which: WhichData,
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
        /// File to write [default: stdout]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

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
        /// Form of what is printed [default: a table]
        #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
        output: Format,
    },
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

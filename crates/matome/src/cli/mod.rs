//! The command line: every command, flag and environment variable, with its help text.
//!
//! One module per group of commands; here is what they share.

mod aggregate;
mod bench;
mod config;
mod data;
mod db;
mod doctor;
pub mod japanese;
mod migrate;
mod quarantine;
mod role;
mod schedule;
mod serve;
mod source;
mod task;
mod token;
pub mod usage;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use matome_bus::{RedisTls, RedisUrls};
use matome_model::schedule::parse_zone;
use matome_model::task::Queue;

use crate::console::{ColourMode, ProgressMode};

pub use aggregate::AggregateCommand;
pub use bench::{BenchArgs, BenchGroup};
pub use config::ConfigCommand;
pub use data::{DataCommand, WhichData};
pub use db::DbCommand;
pub use doctor::{CompletionsArgs, DoctorArgs, HealthcheckArgs, Shell};
pub use migrate::MigrateArgs;
pub use quarantine::{QuarantineCommand, QuarantineTarget, WhichQuarantined};
pub use role::{BeatArgs, HealthArgs, WebArgs, WorkerArgs};
pub use schedule::ScheduleCommand;
pub use serve::{AttemptArgs, DemoArgs, EngineArgs, ListenArgs, ServeArgs, SlotArgs};
pub use source::{Place, SourceCommand};
pub use task::{TaskCommand, TaskTarget};
pub use token::TokenCommand;

/// Fetches data from many sources, keeps every raw record, aggregates with SQL and serves the result over REST.
#[derive(Debug, Parser)]
#[command(name = "matome", version, about, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub everywhere: EverywhereArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Everywhere")]
pub struct EverywhereArgs {
    /// Language of messages [default: by LC_ALL, LC_MESSAGES or LANG]
    #[arg(long, global = true, value_parser = ["en", "ja"], value_name = "LANG")]
    pub lang: Option<String>,
    /// What is logged to stderr: error, warn, info, debug, or a filter such as matome_tasks=debug [default: info for serve, web, worker and beat, else warn]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Form of log lines.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// File for the log, beside stderr; begins anew at 16 MiB, five older ones are kept.
    #[arg(long, global = true, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// When to use colours.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColourMode,
    /// How long work shows that it goes on.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "MODE")]
    pub progress: ProgressMode,
    /// File with settings [default: matome.yaml, when it is there; env: MATOME_CONFIG_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// File with variables that the environment does not set [default: .env, when it is there; env: MATOME_ENV_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Never asks; what needs a confirmation is refused without --yes.
    #[arg(long, global = true)]
    pub no_input: bool,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

const EXAMPLES: &str = "\
Examples:
  matome demo                                   see the whole main job in one process
  matome serve --data-dir data --file-root files
  matome source add orders --path files/orders.ndjson
  matome source run orders --wait
  matome aggregate add daily --sql 'select status, count(*) as n from orders group by status'

Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration, 4 not permitted, 5 not found, 6 conflict or locked,
7 unreachable, 8 partly done, 9 differences or warnings found, 130 interrupted, 143 terminated.";

const WORKER_EXAMPLES: &str = "\
Examples:
  matome worker acquisition -c 16
  matome worker -Q acquisition_queue -n acquisition_worker@%h -c 8 -l info    (the flags of Celery)";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs everything in one process: API, workers, scheduler.
    Serve(ServeArgs),
    /// Runs the API alone, on PostgreSQL. Any number may run.
    Web(WebArgs),
    /// Runs the tasks of a queue, on PostgreSQL: matome worker acquisition. Any number may run.
    #[command(after_help = WORKER_EXAMPLES)]
    Worker(WorkerArgs),
    /// Turns schedules into tasks and keeps house, on PostgreSQL. Any number may run.
    Beat(BeatArgs),
    /// Shows the main job on sample data in ./matome-demo, without network.
    Demo(DemoArgs),
    /// Makes or upgrades the database schema, or takes over the database of the original application.
    #[command(after_help = migrate::EXAMPLES)]
    Migrate(MigrateArgs),
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
    /// Shows when sources and aggregations run by themselves.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Reads stored data.
    #[command(subcommand)]
    Data(DataCommand),
    /// Looks at records that could not be stored or broke rules; replays and discards them.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Looks after the database itself.
    #[command(subcommand)]
    Db(DbCommand),
    /// Shows and checks the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Measures this build on this machine, beside psql and a bare insert. Takes some minutes.
    Bench(BenchArgs),
    /// Looks for what is wrong, or soon will be, with settings, data directory, database and machine. Changes nothing.
    #[command(
        after_help = "Exit codes: 0 nothing is wrong, 1 something does not work, 9 there are warnings and --strict is given."
    )]
    Doctor(DoctorArgs),
    /// Says by its exit code whether a server is ready: 0 or 1. Needs no token; for containers.
    Healthcheck(HealthcheckArgs),
    /// Prints the completions for a shell.
    #[command(after_help = "Example: source <(matome completions bash)")]
    Completions(CompletionsArgs),
    /// The child process that plans and executes SQL. Started by matome itself.
    #[command(hide = true, name = crate::ENGINE_CHILD)]
    EngineChild,
    /// The process of one task that may be what kills its workers. Started by matome itself.
    #[command(hide = true, name = crate::isolated::TASK_CHILD)]
    TaskChild,
}

/// Where the data is kept.
#[derive(Args, Clone, Debug, serde::Deserialize, serde::Serialize)]
#[command(next_help_heading = "Where the data is")]
pub struct StorageArgs {
    /// Directory of the embedded database, its key and its socket.
    #[arg(long, default_value = "matome-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// PostgreSQL instead of the embedded database: postgres://user:password@host/name
    #[arg(long, value_name = "URL", value_parser = server_database)]
    pub database_url: Option<String>,
    /// File with the key that encrypts secrets [default: DIR/master.key, made at first start]
    #[arg(long, value_name = "FILE")]
    pub master_key_file: Option<PathBuf>,
    /// Size that the embedded database may reach, in MiB [default: as the disk allows]
    #[arg(long, value_name = "MIB")]
    pub max_database: Option<u64>,
    /// Connections to PostgreSQL of this process [default: 16; a worker: its tasks at once and 4 more; beat: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub database_connections: Option<u32>,
    #[command(flatten)]
    pub redis: RedisArgs,
}

/// Where Redis is, which wakes workers sooner than they would look by themselves.
#[derive(Args, Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
pub struct RedisArgs {
    /// Redis, beside PostgreSQL: redis://host:6379. Acquisition has its database 1, aggregation 0, whatever number is in the address
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<String>,
    /// Redis of both queues; a number in the address counts.
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub celery_broker_url: Option<String>,
    /// Redis of the acquisition queue; a number in the address counts.
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub acquisition_redis_url: Option<String>,
    /// Redis of the aggregation queue; a number in the address counts.
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub aggregation_redis_url: Option<String>,
    /// File with the certificates of the authorities whose servers are believed with rediss:// [default: those of this machine]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub redis_tls_ca_file: Option<PathBuf>,
    /// File with the certificate of this client, for a Redis server that asks for one.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub redis_tls_cert_file: Option<PathBuf>,
    /// File with the private key of --redis-tls-cert-file.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub redis_tls_key_file: Option<PathBuf>,
    /// Whether calls of Celery producers, which lie in Redis, become tasks: on or off.
    #[arg(long, value_name = "on|off", default_value = "on", hide_short_help = true)]
    pub celery_producers: Switch,
    /// Python task whose calls read a source [default: apps.data_acquisition.tasks.fetch_data]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub celery_acquisition_task: Option<String>,
    /// Python task whose calls run an aggregation [default: apps.data_aggregation.tasks.combine_data]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub celery_aggregation_task: Option<String>,
}

/// The Python tasks of the original design.
pub const ACQUISITION_TASK: &str = "apps.data_acquisition.tasks.fetch_data";
pub const AGGREGATION_TASK: &str = "apps.data_aggregation.tasks.combine_data";

/// Whether something is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize, serde::Serialize)]
pub enum Switch {
    #[default]
    On,
    Off,
}

impl RedisArgs {
    pub fn urls(&self) -> RedisUrls {
        RedisUrls {
            shared: self.redis_url.clone(),
            broker: self.celery_broker_url.clone(),
            acquisition: self.acquisition_redis_url.clone(),
            aggregation: self.aggregation_redis_url.clone(),
            tls: RedisTls {
                ca_file: self.redis_tls_ca_file.clone(),
                cert_file: self.redis_tls_cert_file.clone(),
                key_file: self.redis_tls_key_file.clone(),
            },
        }
    }

    /// The Python task whose calls work for `queue`; none when they are left alone.
    pub fn python_task(&self, queue: Queue) -> Option<String> {
        (self.celery_producers == Switch::On).then(|| self.called_task(queue))
    }

    /// The Python task that stands for the tasks of `queue`.
    pub fn called_task(&self, queue: Queue) -> String {
        let (named, default) = match queue {
            Queue::Acquisition => (&self.celery_acquisition_task, ACQUISITION_TASK),
            Queue::Aggregation => (&self.celery_aggregation_task, AGGREGATION_TASK),
        };
        named.clone().unwrap_or_else(|| default.to_owned())
    }
}

impl StorageArgs {
    /// The embedded database in a directory, and nothing else said.
    pub fn of_directory(dir: &Path) -> Self {
        Self {
            data_dir: dir.to_owned(),
            database_url: None,
            master_key_file: None,
            max_database: None,
            database_connections: None,
            redis: RedisArgs::default(),
        }
    }
}

/// The embedded database has a flag of its own.
fn server_database(url: &str) -> Result<String, String> {
    if url.starts_with("sqlite:") {
        return Err("the embedded database is named by its directory: --data-dir DIR".to_owned());
    }
    Ok(url.to_owned())
}

/// What sources may reach, and when they run.
#[derive(Args, Clone, Debug, serde::Deserialize, serde::Serialize)]
#[command(next_help_heading = "What sources may reach")]
pub struct ReachArgs {
    /// Directory that file sources may read beneath. Repeatable.
    #[arg(long = "file-root", value_delimiter = ':', value_name = "DIR")]
    pub file_roots: Vec<PathBuf>,
    /// Private address range that sources may reach, such as 10.0.0.0/8 or 127.0.0.1/32:9000. Repeatable.
    #[arg(long = "egress-allow", value_delimiter = ',', value_name = "CIDR[:PORT]")]
    pub egress_allow: Vec<String>,
    /// The time zone of schedules that name none, such as Asia/Tokyo.
    #[arg(long, default_value = "UTC", value_name = "ZONE", value_parser = time_zone)]
    pub time_zone: String,
}

fn time_zone(name: &str) -> Result<String, String> {
    parse_zone(name).map(|zone| zone.name().to_owned()).map_err(|words| words.english)
}

/// How a server is watched.
#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// Address for /metrics without a token, for those who watch alone [default: /metrics of the API with one]
    #[arg(long, value_name = "ADDR")]
    pub metrics_bind: Option<std::net::SocketAddr>,
    /// Whether metrics also have the names of celery-exporter, for dashboards that ask for these: on or off.
    #[arg(long, value_name = "on|off", default_value = "off", hide_short_help = true)]
    pub celery_metrics: Switch,
    /// Collector that traces of tasks go to, OTLP over HTTP: http://127.0.0.1:4318 [default: none]
    #[arg(long, value_name = "URL")]
    pub otel_endpoint: Option<String>,
    /// Headers for the collector, such as authorization=Bearer%20abc
    #[arg(long, value_name = "NAME=VALUE,...", hide_short_help = true)]
    pub otel_headers: Option<String>,
    /// Name of the service in traces.
    #[arg(long, value_name = "NAME", default_value = "matome", hide_short_help = true)]
    pub otel_service_name: String,
}

impl WatchArgs {
    /// Whether metrics of tasks have Celery's names, too.
    pub fn has_celery_metrics(&self) -> bool {
        self.celery_metrics == Switch::On
    }
}

/// A server elsewhere, and the right to use it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "A server elsewhere")]
pub struct RemoteArgs {
    /// A running matome: http://host:8000
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// API token for --server.
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
}

/// How a command reaches matome: a server, else the running `serve` of the data directory, else the
/// directory itself.
#[derive(Args, Clone, Debug)]
pub struct ClientArgs {
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub reach: ReachArgs,
    #[command(flatten)]
    pub remote: RemoteArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is printed, and in which form.
#[derive(Args, Clone, Debug)]
pub struct OutputArgs {
    /// Form of what is printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Only these fields, in this order, comma-separated; a dot goes deeper: name,config.path
    #[arg(long, value_delimiter = ',', value_name = "FIELD,...")]
    pub fields: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned on a terminal, tab-separated otherwise.
    #[default]
    Table,
    /// One JSON document, as the API gives it.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// Comma-separated with a header.
    Csv,
    /// YAML with the same content as json.
    Yaml,
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
    /// How soon: critical (next, before all that waits), high, normal or low [default: high]
    #[arg(long, value_name = "PRIORITY", value_parser = PRIORITIES)]
    pub priority: Option<String>,
}

/// The words of a priority.
pub const PRIORITIES: [&str; 4] = ["critical", "high", "normal", "low"];

#[derive(Args, Debug)]
pub struct DeleteTarget {
    #[command(flatten)]
    pub target: Target,
    /// Does not ask.
    #[arg(long, short)]
    pub yes: bool,
}

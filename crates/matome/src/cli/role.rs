//! `matome web`, `matome worker`, `matome beat`: the parts of `serve` as processes of their own, on PostgreSQL.

use std::net::SocketAddr;

use clap::Args;
use matome_model::field_error::Words;
use matome_model::say;
use matome_model::task::Queue;

use super::{AttemptArgs, EngineArgs, ListenArgs, ReachArgs, SlotArgs, StorageArgs, WatchArgs};

#[derive(Args, Clone, Debug)]
pub struct WebArgs {
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub reach: ReachArgs,
    #[command(flatten)]
    pub listen: ListenArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub watch: WatchArgs,
}

#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// Queue to serve, acquisition or aggregation; both with a comma between them.
    #[arg(value_name = "QUEUE", value_delimiter = ',', value_parser = queue, required_unless_present = "queues")]
    pub queue: Vec<Queue>,
    /// The same by the names of the original design: acquisition_queue, aggregation_queue.
    #[arg(short = 'Q', long, value_name = "QUEUE,...", value_delimiter = ',', value_parser = queue, conflicts_with = "queue")]
    pub queues: Vec<Queue>,
    /// Name of this worker; %h is the name of the machine, %n the same without its domain, %d the domain.
    #[arg(short = 'n', long = "hostname", value_name = "NAME")]
    pub name: Option<String>,
    /// Tasks at once, of each queue [default: as --acquisition-slots and --aggregation-slots say]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub concurrency: Option<u16>,
    /// As --log-level.
    #[arg(short, long, value_name = "LEVEL")]
    pub loglevel: Option<String>,
    #[command(flatten)]
    pub slots: SlotArgs,
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub reach: ReachArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub attempt: AttemptArgs,
    #[command(flatten)]
    pub health: HealthArgs,
    #[command(flatten)]
    pub watch: WatchArgs,
    #[command(flatten)]
    pub celery: CeleryFlags,
}

/// Flags of Celery's worker that start scripts commonly have and that have nothing to do here: taken, so that such a script goes on.
/// What would be missed, such as `-B` and `--time-limit`, is not among them.
#[derive(Args, Clone, Debug)]
pub struct CeleryFlags {
    /// Of Celery, without effect here: the application.
    #[arg(short = 'A', long = "app", value_name = "APP", hide = true)]
    app: Option<String>,
    /// Of Celery, without effect here: how it runs tasks side by side.
    #[arg(short = 'P', long = "pool", value_name = "POOL", hide = true)]
    pool: Option<String>,
    /// Of Celery, without effect here: events for monitors.
    #[arg(short = 'E', long = "task-events", hide = true)]
    task_events: bool,
    /// Of Celery, without effect here: how it hands tasks to its processes.
    #[arg(short = 'O', long = "optimization", value_name = "PROFILE", hide = true)]
    optimization: Option<String>,
    /// Of Celery, without effect here: workers do not speak with each other.
    #[arg(long, hide = true)]
    without_gossip: bool,
    /// Of Celery, without effect here: workers do not wait for each other.
    #[arg(long, hide = true)]
    without_mingle: bool,
    /// Of Celery, without effect here: heartbeats to the broker.
    #[arg(long, hide = true)]
    without_heartbeat: bool,
    /// Of Celery, without effect here: tasks that are fetched ahead.
    #[arg(long, value_name = "N", hide = true)]
    prefetch_multiplier: Option<String>,
    /// Of Celery, without effect here: tasks of one process.
    #[arg(long, value_name = "N", hide = true)]
    max_tasks_per_child: Option<String>,
}

impl CeleryFlags {
    /// Those that are given, and why they do nothing.
    pub fn without_effect(&self) -> Vec<(&'static str, Words)> {
        let no_application = say!(
            "there is no Python application: the tasks are those of matome",
            "Python のアプリケーションはありません。タスクは matome のものです"
        );
        let slots = say!(
            "tasks run side by side in one process, as many as -c says",
            "タスクは一つのプロセスの中で、-c の数だけ同時に動きます"
        );
        let one_each = || {
            say!(
                "a worker takes one task for each free slot, from the database",
                "ワーカーは、空いているスロット一つにつき一つのタスクをデータベースから取ります"
            )
        };
        let by_database = || {
            say!(
                "workers know of each other through the database, with heartbeats of their own",
                "ワーカーはデータベースと独自のハートビートで互いを知ります"
            )
        };
        let watched = say!("tasks are watched through API and metrics", "タスクは API とメトリクスで見られます");
        let isolated = say!(
            "a worker need not begin anew, and a task that may kill its process runs in one of its own",
            "ワーカーは作り直すに及ばず、プロセスを終わらせかねないタスクは自分だけのプロセスで動きます"
        );
        let given = [
            ("-A", self.app.is_some(), no_application),
            ("-P", self.pool.is_some(), slots),
            ("-E", self.task_events, watched),
            ("-O", self.optimization.is_some(), one_each()),
            ("--without-gossip", self.without_gossip, by_database()),
            ("--without-mingle", self.without_mingle, by_database()),
            ("--without-heartbeat", self.without_heartbeat, by_database()),
            ("--prefetch-multiplier", self.prefetch_multiplier.is_some(), one_each()),
            ("--max-tasks-per-child", self.max_tasks_per_child.is_some(), isolated),
        ];
        given.into_iter().filter(|(_, is_given, _)| *is_given).map(|(name, _, why)| (name, why)).collect()
    }
}

impl WorkerArgs {
    /// The tasks at once of a queue; 0 when it is not served.
    pub fn slots(&self, queue: Queue) -> usize {
        if !self.queue.contains(&queue) && !self.queues.contains(&queue) {
            return 0;
        }
        match (self.concurrency, queue) {
            (Some(concurrency), _) => usize::from(concurrency),
            (None, Queue::Acquisition) => self.slots.acquisition_slots,
            (None, Queue::Aggregation) => self.slots.aggregation_slots,
        }
    }
}

#[derive(Args, Clone, Debug)]
pub struct BeatArgs {
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub attempt: AttemptArgs,
    #[command(flatten)]
    pub health: HealthArgs,
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Where a process without an API answers those who watch it.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// Address for /livez and /readyz [default: only a socket in the data directory, which `matome healthcheck` asks]
    #[arg(long, value_name = "ADDR")]
    pub health_bind: Option<SocketAddr>,
}

fn queue(name: &str) -> Result<Queue, String> {
    match name.strip_suffix("_queue").unwrap_or(name) {
        "acquisition" => Ok(Queue::Acquisition),
        "aggregation" => Ok(Queue::Aggregation),
        _ => Err("there are two queues: acquisition, aggregation".to_owned()),
    }
}

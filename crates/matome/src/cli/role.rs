//! `matome web`, `matome worker`, `matome beat`: the parts of `serve` as processes of their own, on PostgreSQL.

use std::net::SocketAddr;

use clap::Args;
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

//! `matome serve` and `matome demo`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{ReachArgs, StorageArgs};

#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub reach: ReachArgs,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR")]
    pub bind: SocketAddr,
    /// Host names that requests may name, comma-separated [default: loopback names and the bind address]
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
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
    /// Seconds that one attempt at a task may take; then it is stopped after its page and tried again.
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..), value_name = "SECS")]
    pub attempt_deadline: u64,
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

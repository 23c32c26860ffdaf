//! `matome serve` and `matome demo`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{ReachArgs, StorageArgs, WatchArgs};
use crate::config::Kind;

#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub reach: ReachArgs,
    #[command(flatten)]
    pub listen: ListenArgs,
    #[command(flatten)]
    pub slots: SlotArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub attempt: AttemptArgs,
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// How a server listens.
#[derive(Args, Clone, Debug)]
pub struct ListenArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR")]
    pub bind: SocketAddr,
    /// Host names that requests may name, comma-separated [default: loopback names and the bind address]
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may read answers, comma-separated: https://app.example.org; * for all [default: none]
    #[arg(long, value_delimiter = ',', value_name = "ORIGIN", value_parser = origin)]
    pub cors_allowed_origins: Vec<String>,
    /// Size that the body of a push may have, in MiB, also when it is inflated.
    #[arg(long, default_value_t = 16, value_name = "MIB", value_parser = clap::value_parser!(u16).range(1..=128))]
    pub max_push: u16,
    /// File with the certificates of TLS, in PEM form; read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// File with the private key of TLS, in PEM form.
    #[arg(long, value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,
}

/// How much is done at once.
#[derive(Args, Clone, Debug)]
pub struct SlotArgs {
    /// Acquisition tasks at once.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub acquisition_slots: usize,
    /// Aggregation tasks at once.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub aggregation_slots: usize,
}

/// What the child process that runs SQL may use.
#[derive(Args, Clone, Debug)]
pub struct EngineArgs {
    /// Memory of one aggregation in MiB.
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    pub aggregation_memory: u64,
}

/// How long an attempt may take.
#[derive(Args, Clone, Debug)]
pub struct AttemptArgs {
    /// Seconds that one attempt at a task may take; then it is stopped after its page and tried again.
    #[arg(long, default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..), value_name = "SECS")]
    pub attempt_deadline: u64,
}

impl AttemptArgs {
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.attempt_deadline)
    }
}

fn origin(text: &str) -> Result<String, String> {
    match Kind::Origins.refuse(text) {
        Some(words) => Err(words.english),
        None => Ok(text.to_owned()),
    }
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

//! `matome doctor`, `matome healthcheck`, `matome completions`.

use clap::{Args, ValueEnum};

use super::{OutputArgs, ServeArgs};

#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub settings: ServeArgs,
    /// Exit code 9 when there are warnings.
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Clone, Debug)]
pub struct HealthcheckArgs {
    /// The server to ask [default: the one at --bind]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Address that the server listens on.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR")]
    pub bind: std::net::SocketAddr,
}

#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}

/// Shells that there are completions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

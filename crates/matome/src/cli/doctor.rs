//! `matome doctor`, `matome healthcheck`, `matome completions`.

use clap::{Args, ValueEnum};

use super::{OutputArgs, ServeArgs};

#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub settings: ServeArgs,
    /// Looks also at what a deployment on servers needs: TLS, Redis, rights, processes of each role, files with secrets.
    #[arg(long)]
    pub deploy: bool,
    /// Exit code 9 when there are warnings.
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args, Clone, Debug)]
pub struct HealthcheckArgs {
    /// The server to ask [default: worker and beat in the data directory when there are any, else the server at --bind]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// File with the certificates of TLS, in PEM form; read again when it changes.
    #[arg(long, value_name = "FILE", hide = true)]
    pub tls_cert_file: Option<std::path::PathBuf>,
    /// Directory in which worker and beat have their sockets.
    #[arg(long, default_value = "matome-data", value_name = "DIR")]
    pub data_dir: std::path::PathBuf,
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

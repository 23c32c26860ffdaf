//! The `matome` binary: command line, configuration, roles and shutdown.

mod app;
mod cli;
mod client;
mod commands;
mod demo;
mod failure;
mod housekeeping;
mod migrate;
mod output;
mod serve;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::failure::{Exit, Failure};

/// The argument that makes this binary an engine child.
pub const ENGINE_CHILD: &str = "engine-child";

fn main() -> ExitCode {
    // The child that runs user SQL comes first: before a runtime, a logger or anything else exists.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == ENGINE_CHILD) {
        return matome_engine::run_child();
    }
    // reqwest asks for the process's TLS provider; there is one in this binary.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let level = match &cli.command {
        Command::Serve(args) => args.log_level.clone(),
        // Its report says what happens, and a source that fails at first is part of it.
        Command::Demo(_) => "error".to_owned(),
        _ => "warn".to_owned(),
    };
    let result = start_logging(&level).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|err| Failure::from_error(Exit::Failed, &err))?;
        let result = runtime.block_on(run(cli.command));
        // Blocking reads of a source may still be under way; nothing waits for them.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => Box::pin(serve::run(args)).await,
        Command::Demo(args) => Box::pin(demo::run(args)).await,
        Command::Migrate(args) => Box::pin(migrate::run(args)).await,
        Command::Token(command) => Box::pin(commands::token::run(command)).await,
        Command::Source(command) => Box::pin(commands::source::run(command)).await,
        Command::Aggregate(command) => Box::pin(commands::aggregate::run(command)).await,
        Command::Task(command) => Box::pin(commands::task::run(command)).await,
        Command::Data(command) => Box::pin(commands::data::run(command)).await,
        Command::Db(command) => Box::pin(commands::db::run(command)).await,
        Command::EngineChild => unreachable!("handled before the command line is parsed"),
    }
}

fn start_logging(level: &str) -> Result<(), Failure> {
    // sqlx logs every statement at debug and slow ones at warn; neither is for users.
    let filter = EnvFilter::try_new(format!("sqlx=error,{level}")).map_err(|err| {
        Failure::new(Exit::Usage, format!("`{level}` is no log level: {err}")).help("use error, warn, info or debug")
    })?;
    // Control sequences are for eyes; a file or a pipe gets plain text.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    Ok(())
}

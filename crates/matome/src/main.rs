//! The `matome` binary: command line, configuration, roles and shutdown.

mod app;
mod cli;
mod client;
mod commands;
mod console;
mod demo;
mod failure;
mod housekeeping;
mod message;
mod migrate;
mod output;
mod serve;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use matome_model::language::Language;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, EverywhereArgs, LogFormat};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;

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
    let console = console(&cli.everywhere);
    let result = start_logging(&cli).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|err| Failure::from_error(Exit::Failed, &err))?;
        let result = runtime.block_on(run(cli.command, &console));
        // Blocking reads of a source may still be under way; nothing waits for them.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console.fail(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// How this command talks to its user.
fn console(args: &EverywhereArgs) -> Console {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = || ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(set);
    let language = args.lang.clone().or_else(|| set("MATOME_LANG")).or_else(locale);
    Console {
        language: language.as_deref().and_then(Language::of_locale).unwrap_or_default(),
        colour: args.color,
        progress: args.progress,
        no_input: args.no_input,
    }
}

async fn run(command: Command, console: &Console) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => Box::pin(serve::run(args)).await,
        Command::Demo(args) => Box::pin(demo::run(args, console)).await,
        other => until_signal(other, console).await,
    }
}

/// A command that ends by itself, unless a signal comes first.
async fn until_signal(command: Command, console: &Console) -> Result<(), Failure> {
    let mut signals = serve::Signals::catch()?;
    tokio::select! {
        result = short(command, console) => result,
        exit = signals.next() => {
            let what = if exit == Exit::Interrupted { Message::Interrupted } else { Message::Terminated };
            Err(Failure::new(exit, what).help(Message::GoesOnWithout))
        }
    }
}

async fn short(command: Command, console: &Console) -> Result<(), Failure> {
    match command {
        Command::Migrate(args) => Box::pin(migrate::run(args, console)).await,
        Command::Token(command) => Box::pin(commands::token::run(command, console)).await,
        Command::Source(command) => Box::pin(commands::source::run(command, console)).await,
        Command::Aggregate(command) => Box::pin(commands::aggregate::run(command, console)).await,
        Command::Task(command) => Box::pin(commands::task::run(command, console)).await,
        Command::Data(command) => Box::pin(commands::data::run(command, console)).await,
        Command::Db(command) => Box::pin(commands::db::run(command, console)).await,
        Command::Serve(_) | Command::Demo(_) | Command::EngineChild => unreachable!("handled before"),
    }
}

fn start_logging(cli: &Cli) -> Result<(), Failure> {
    let default = match &cli.command {
        Command::Serve(_) => "info",
        // Its report says what happens, and a source that fails at first is part of it.
        Command::Demo(_) => "error",
        _ => "warn",
    };
    let level = cli.everywhere.log_level.as_deref().filter(|level| !level.is_empty()).unwrap_or(default);
    // The words of Python's logging, which the original design's `.env` files use.
    let level = match level.to_ascii_lowercase().as_str() {
        "warning" => "warn",
        "critical" | "fatal" => "error",
        _ => level,
    };
    // sqlx logs every statement at debug and slow ones at warn; neither is for users.
    let filter = EnvFilter::try_new(format!("sqlx=error,{level}")).map_err(|err| {
        Failure::new(Exit::Usage, Message::LogLevelWrong { level: level.to_owned() })
            .because(&err)
            .help(Message::GiveLogLevel)
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.everywhere.log_format {
        LogFormat::Json => log.json().flatten_event(true).with_ansi(false).init(),
        // Control sequences are for eyes; a file or a pipe gets plain text.
        LogFormat::Text => log.with_ansi(cli.everywhere.color.paints(std::io::stderr().is_terminal())).init(),
    }
    Ok(())
}

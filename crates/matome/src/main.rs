//! The `matome` binary: command line, configuration, roles and shutdown.

mod allocator;
mod app;
mod bench;
mod cli;
mod client;
mod commands;
mod config;
mod console;
mod database_url;
mod demo;
mod failure;
mod housekeeping;
mod isolated;
mod log_file;
mod log_level;
mod message;
mod migrate;
mod output;
mod pace;
mod patience;
mod role;
mod serve;
mod tally;
mod tls;
mod traces;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use matome_model::language::Language;
use matome_tasks::trace::TARGET;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::cli::{Cli, Command, LogFormat};
use crate::config::{Config, Environment};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::log_file::LogFile;
use crate::message::Message;
use crate::traces::{Collector, Export, Ours};

/// The argument that makes this binary an engine child.
pub const ENGINE_CHILD: &str = "engine-child";

fn main() -> ExitCode {
    // The child that runs user SQL comes first: before a runtime, a logger or anything else exists.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == ENGINE_CHILD) {
        return matome_engine::run_child();
    }
    allocator::keep_little();
    // reqwest asks for the process's TLS provider; there is one in this binary.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if std::env::args_os().nth(1).is_some_and(|arg| arg == isolated::TASK_CHILD) {
        return isolated::run_child();
    }
    let args: Vec<OsString> = std::env::args_os().collect();
    let environment = config::environment();
    // Until the settings are read, the language is what the environment says.
    let asked = config::flag_value(&args, "--lang");
    let asked = asked.as_deref().and_then(Path::to_str);
    let mut console = Console { language: language(&environment, asked), ..Console::default() };
    let begun = begin(&args, &environment, &mut console).and_then(|begun| match begun {
        Some((cli, flags, config)) => start_logging(&cli).map(|export| Some((cli, flags, config, export))),
        None => Ok(None),
    });
    let (cli, flags, config, export) = match begun {
        Ok(Some(begun)) => begun,
        Ok(None) => return ExitCode::SUCCESS,
        Err(failure) => {
            console.fail(&failure);
            return ExitCode::from(failure.exit as u8);
        }
    };
    let result = (|| {
        if let Command::Config(command) = &cli.command {
            return commands::config::run(command, &config, &flags, &console);
        }
        if let Command::Serve(_) | Command::Web(_) | Command::Worker(_) | Command::Beat(_) = &cli.command {
            commands::config::tell_what_has_no_effect(&config, &console);
        }
        if let Command::Worker(args) = &cli.command {
            commands::config::tell(&args.celery.without_effect(), &console);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|err| Failure::from_error(Exit::Failed, &err))?;
        let result = runtime.block_on(async {
            let exporting = export.map(Export::start);
            let result = run(cli.command, &config, &console).await;
            if let Some(exporting) = exporting {
                exporting.stop().await;
            }
            result
        });
        // Blocking reads of a source may still be under way; nothing waits for them.
        runtime.shutdown_background();
        result
    })();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console.fail(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Reads settings and command line; `None` when that was a question about the command line itself, and is answered.
fn begin(
    args: &[OsString],
    environment: &Environment,
    console: &mut Console,
) -> Result<Option<(Cli, ArgMatches, Config)>, Failure> {
    let config = Config::read(environment, args, Path::new("."))?;
    let asked = config::flag_value(args, "--lang");
    let asked = asked.as_deref().and_then(Path::to_str);
    let of_files = config.get("lang").and_then(|found| found.values.first()).map(String::as_str);
    console.language = language(environment, asked.or(of_files));
    let command = config.defaults(Cli::command());
    let command = if console.language == Language::Japanese { cli::japanese::speak(command) } else { command };
    let parsed = command.try_get_matches_from(args);
    let flags = match parsed {
        Ok(flags) => flags,
        Err(err) => match cli::usage::failure(&err) {
            Some(failure) => return Err(failure),
            None => {
                // `--help` goes to stdout; help that nobody asked for to stderr, with exit code 2.
                let _ = err.print();
                return if err.use_stderr() { std::process::exit(Exit::Usage as i32) } else { Ok(None) };
            }
        },
    };
    let cli = Cli::from_arg_matches(&flags).map_err(|err| cli::usage::failure(&err).expect("an error of values"))?;
    let everywhere = &cli.everywhere;
    *console = Console {
        language: language(environment, everywhere.lang.as_deref()),
        colour: everywhere.color,
        progress: everywhere.progress,
        no_input: everywhere.no_input,
    };
    Ok(Some((cli, flags, config)))
}

/// The language of messages: the setting, else the locale.
fn language(environment: &Environment, setting: Option<&str>) -> Language {
    let set = |name: &str| environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let names = ["MATOME_LANG", "LC_ALL", "LC_MESSAGES", "LANG"];
    setting.or_else(|| names.into_iter().find_map(set)).and_then(Language::of_locale).unwrap_or_default()
}

async fn run(command: Command, config: &Config, console: &Console) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => Box::pin(role::serve(args)).await,
        Command::Web(args) => Box::pin(role::web(args)).await,
        Command::Worker(args) => Box::pin(role::worker(args)).await,
        Command::Beat(args) => Box::pin(role::beat(args)).await,
        Command::Demo(args) => Box::pin(demo::run(args, console)).await,
        Command::Bench(args) => Box::pin(bench::run(args, console)).await,
        other => until_signal(other, config, console).await,
    }
}

/// A command that ends by itself, unless a signal comes first.
async fn until_signal(command: Command, config: &Config, console: &Console) -> Result<(), Failure> {
    let mut signals = serve::Signals::catch()?;
    tokio::select! {
        result = short(command, config, console) => result,
        exit = signals.next() => {
            let what = if exit == Exit::Interrupted { Message::Interrupted } else { Message::Terminated };
            Err(Failure::new(exit, what).help(Message::GoesOnWithout))
        }
    }
}

async fn short(command: Command, config: &Config, console: &Console) -> Result<(), Failure> {
    match command {
        Command::Migrate(args) => Box::pin(migrate::run(args, console)).await,
        Command::Token(command) => Box::pin(commands::token::run(command, console)).await,
        Command::Source(command) => Box::pin(commands::source::run(command, console)).await,
        Command::Aggregate(command) => Box::pin(commands::aggregate::run(command, console)).await,
        Command::Task(command) => Box::pin(commands::task::run(command, console)).await,
        Command::Schedule(command) => Box::pin(commands::schedule::run(command, console)).await,
        Command::Quarantine(command) => Box::pin(commands::quarantine::run(command, console)).await,
        Command::Data(command) => Box::pin(commands::data::run(command, console)).await,
        Command::Db(command) => Box::pin(commands::db::run(command, console)).await,
        Command::Doctor(args) => Box::pin(commands::doctor::run(args, config, console)).await,
        Command::Healthcheck(args) => Box::pin(commands::healthcheck::run(args)).await,
        Command::Completions(args) => commands::completions::run(&args),
        Command::Serve(_) | Command::Web(_) | Command::Worker(_) | Command::Beat(_) => unreachable!("handled before"),
        Command::Demo(_) | Command::Bench(_) | Command::Config(_) | Command::EngineChild | Command::TaskChild => {
            unreachable!("handled before")
        }
    }
}

/// Where traces are to go, when they are.
fn collector(cli: &Cli) -> Result<Option<Collector>, Failure> {
    let (role, watch) = match &cli.command {
        Command::Serve(args) => ("serve", &args.watch),
        Command::Web(args) => ("web", &args.watch),
        Command::Worker(args) => ("worker", &args.watch),
        Command::Beat(args) => ("beat", &args.watch),
        _ => return Ok(None),
    };
    let Some(endpoint) = watch.otel_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
        return Ok(None);
    };
    let attributes = [
        ("service.name", watch.otel_service_name.clone()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("host.name", app::host_name()),
        ("process.pid", std::process::id().to_string()),
        ("matome.role", role.to_owned()),
    ];
    let headers = watch.otel_headers.as_deref().unwrap_or_default();
    let collector = Collector::new(endpoint, headers, &attributes);
    let refused = |why| Failure::new(Exit::Config, Message::NoCollector).why(why).help(Message::NameCollector);
    collector.map(Some).map_err(refused)
}

/// Starts the log; and what sends traces, when they are to be sent.
fn start_logging(cli: &Cli) -> Result<Option<Export>, Failure> {
    let default = match &cli.command {
        Command::Serve(_) | Command::Web(_) | Command::Worker(_) | Command::Beat(_) => "info",
        // Its report says what happens, and a source that fails at first is part of it.
        Command::Demo(_) => "error",
        _ => "warn",
    };
    let of_worker = match &cli.command {
        Command::Worker(args) => args.loglevel.as_deref(),
        _ => None,
    };
    let level = of_worker.or(cli.everywhere.log_level.as_deref()).filter(|level| !level.is_empty()).unwrap_or(default);
    let wrong = |help| Failure::new(Exit::Usage, Message::LogLevelWrong { level: level.to_owned() }).help(help);
    let wanted = log_level::filter(level).map_err(wrong)?;
    // sqlx logs every statement at debug and slow ones at warn; neither is for users.
    let filter = EnvFilter::new(format!("sqlx=error,{TARGET}=off,{wanted}"));
    // The file is the server's: commands beside it must not move it aside under its feet.
    let is_server = matches!(&cli.command, Command::Serve(_) | Command::Web(_) | Command::Worker(_) | Command::Beat(_));
    let file = cli.everywhere.log_file.as_deref().filter(|file| is_server && !file.as_os_str().is_empty());
    let file = file.map(|file| LogFile::open(file).map_err(|err| cannot_log(file, &err))).transpose()?;
    // Control sequences are for eyes; a file or a pipe gets plain text.
    let paints = file.is_none() && cli.everywhere.color.paints(std::io::stderr().is_terminal());
    let writer = match file {
        Some(file) => BoxMakeWriter::new(std::io::stderr.and(file)),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let log = tracing_subscriber::fmt::layer().with_writer(writer);
    let log = match cli.everywhere.log_format {
        LogFormat::Json => log.json().flatten_event(true).with_ansi(false).boxed(),
        LogFormat::Text => log.with_ansi(paints).boxed(),
    };
    let (traces, export) = collector(cli)?.map(traces::start).unzip();
    let traces = traces.map(|layer| layer.with_filter(Ours));
    tracing_subscriber::registry().with(log.with_filter(filter)).with(traces).init();
    Ok(export)
}

fn cannot_log(file: &Path, err: &std::io::Error) -> Failure {
    Failure::new(Exit::Config, Message::CannotLog { file: file.display().to_string() })
        .because(err)
        .help(Message::CheckRoom)
}

//! The child process that plans and executes SQL; the only crate that knows DataFusion.
//!
//! The `matome` binary calls [`run_child`] before anything else when it was started as an engine child. The child takes one
//! request from stdin, answers on stdout ([`matome_model::engine`] has the messages) and ends. It opens no connection and
//! reads no file but those the request names in its working directory, a private one; where the kernel has the means, it
//! could not if it wanted to ([`sandbox`]). Whatever a query does to this
//! process (deep recursion, memory, time), the worker that started it lives on and learns the reason.

mod decode;
mod exact;
mod failure;
mod guard;
mod limits;
mod output;
mod parameters;
mod run;
mod sandbox;
mod session;
mod table;

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use matome_model::engine::{Ask, FORMAT, FRAME_HEADER_BYTES, Failure, FailureCode, Frame, Request, Run, Sandbox};

use crate::output::Output;

/// Stack of the threads that plan: planners recurse over expressions, and what the guard lets pass must fit.
const PLANNER_STACK_BYTES: usize = 64 << 20;

/// Stack of the threads that execute.
const WORKER_STACK_BYTES: usize = 16 << 20;

/// Threads that execute, and partitions of each operator.
const PARTITIONS: usize = 2;

/// Time beyond the limit after which a thread of its own ends a child that no longer looks at the clock.
const WATCHDOG_GRACE: Duration = Duration::from_millis(500);

/// Answers one request on stdin, then ends. The current directory must be the child's own.
///
/// Returns success when an answer was sent, a [`Failure`] included; the caller should exit with it at once.
/// Must be called before the process has other threads, and only in a process started for it: it lowers resource limits.
#[must_use]
pub fn run_child() -> ExitCode {
    limits::at_start();
    failure::remember_first_panic();
    let sandbox = sandbox::enter();
    let planner = std::thread::Builder::new().name("engine".to_owned()).stack_size(PLANNER_STACK_BYTES);
    let planner = planner.spawn(|| serve(sandbox));
    match planner.map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        // The panic hook has told stderr why.
        Ok(Err(_)) => ExitCode::from(101),
        Err(err) => {
            eprintln!("engine child: no thread: {err}");
            ExitCode::FAILURE
        }
    }
}

fn serve(sandbox: Sandbox) -> ExitCode {
    let output = Output::stdout();
    // Let go of before the answer begins: whoever watches for the end of the parent reads stdin, too.
    let request = read_request(&mut io::stdin().lock());
    let outcome = match request {
        Ok(Some(request)) => {
            exit_with_parent();
            catch_unwind(AssertUnwindSafe(|| answer(request, sandbox, &output)))
                .unwrap_or_else(|_| Err(failure::panicked()))
        }
        Ok(None) => return ExitCode::SUCCESS,
        Err(failure) => Err(failure),
    };
    let sent = match outcome {
        Ok(()) => Ok(()),
        Err(failure) => output.json(Frame::Failure, &failure),
    };
    match sent {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// `None` when the parent has gone, or needs no child after all.
fn read_request(stdin: &mut impl Read) -> Result<Option<Request>, Failure> {
    let protocol = |message: String| Failure::alike(FailureCode::Protocol, message);
    let mut head = [0; FRAME_HEADER_BYTES];
    if stdin.read_exact(&mut head).is_err() {
        return Ok(None);
    }
    let Some((Frame::Request, len)) = Frame::parse_head(head) else {
        return Err(protocol("stdin does not start with a request".to_owned()));
    };
    let mut payload = vec![0; len as usize];
    if stdin.read_exact(&mut payload).is_err() {
        return Ok(None);
    }
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    // The format first: a newer request may not even parse as one of ours.
    let Format { format } = serde_json::from_slice(&payload).map_err(|err| protocol(err.to_string()))?;
    if format != FORMAT {
        return Err(protocol(format!("request has format {format}, this binary knows {FORMAT}")));
    }
    serde_json::from_slice(&payload).map(Some).map_err(|err| protocol(err.to_string()))
}

/// Ends this process when stdin does: then the parent is gone, however it went.
fn exit_with_parent() {
    let watch = || {
        let mut byte = [0];
        while matches!(io::stdin().read(&mut byte), Ok(n) if n > 0) {}
        std::process::exit(0);
    };
    if let Err(err) = std::thread::Builder::new().stack_size(256 << 10).spawn(watch) {
        eprintln!("engine child: no thread to watch the parent: {err}");
    }
}

fn answer(request: Request, sandbox: Sandbox, output: &Output) -> Result<(), Failure> {
    match request.ask {
        Ask::Probe => output.json(Frame::Reply, &sandbox::probe(sandbox)).map_err(failure::broken_pipe),
        Ask::Validate { sql } => {
            let query = guard::check(&sql)?;
            let reply = matome_model::engine::Validated { tables: query.tables, parameters: query.parameters };
            output.json(Frame::Reply, &reply).map_err(failure::broken_pipe)
        }
        Ask::Run(run) => answer_run(run, output),
    }
}

fn answer_run(run: Run, output: &Output) -> Result<(), Failure> {
    let started = Instant::now();
    limits::for_run(&run.limits);
    let seconds = run.limits.seconds;
    let late = move || failure::time_limit(seconds);

    let watched = output.clone();
    let watchdog = move || {
        std::thread::sleep(Duration::from_secs(seconds) + WATCHDOG_GRACE);
        watched.last_word(&late());
        std::process::exit(0);
    };
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(watchdog)
        .map_err(|err| Failure::internal(format!("no thread: {err}")))?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(PARTITIONS)
        .thread_stack_size(WORKER_STACK_BYTES)
        .enable_time()
        .build()
        .map_err(|err| Failure::internal(format!("no runtime: {err}")))?;
    let outcome = runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(seconds), run::run(run, started, output)).await });
    // A query past its limit may hold threads that never yield; the process ends with them.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|_| Err(late()))
}

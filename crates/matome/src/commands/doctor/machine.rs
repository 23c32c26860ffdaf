//! M030 to M039: limits of the process, the clock, and the child that runs SQL.

use chrono::{Datelike as _, Utc};
use matome_model::engine::{Sandbox, Wall};

use super::{Finding, Severity};
use crate::app;
use crate::cli::ServeArgs;
use crate::failure::{Exit, Failure};
use crate::message::Message;

/// Connections, files of sources and of children; a server with its usual slots stays below.
const FILES: u64 = 1024;

pub async fn look(args: &ServeArgs) -> Vec<Finding> {
    let mut findings = vec![open_files(), clock()];
    findings.extend(engine(args).await);
    findings
}

fn open_files() -> Finding {
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(0);
    let what = Message::OpenFiles { n: limit.to_string() };
    if limit >= FILES {
        Finding::ok("M030", what)
    } else {
        Finding::new("M030", Severity::Warning, what, Message::RaiseFiles)
    }
}

fn clock() -> Finding {
    let now = Utc::now();
    let what = Message::ClockSays { time: now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true) };
    // Certificates and schedules of today are wrong for a clock that starts at 1970.
    if now.year() >= 2026 {
        Finding::ok("M031", what)
    } else {
        Finding::new("M031", Severity::Error, what, Message::SetClocks)
    }
}

/// Starts a child and has it try what it must not do.
async fn engine(args: &ServeArgs) -> Vec<Finding> {
    let scratch = std::env::temp_dir().join(format!("matome-doctor-{}", std::process::id()));
    let started = std::time::Instant::now();
    let outcome = match app::engine_in(&scratch) {
        Ok(engine) => engine
            .probe()
            .await
            .map_err(|err| Failure::new(Exit::Failed, Message::EngineFails).because(&err).help(Message::ReportDefect)),
        Err(failure) => Err(failure),
    };
    let _ = std::fs::remove_dir_all(&scratch);
    let millis = started.elapsed().as_millis().to_string();
    let memory = args.engine.aggregation_memory.to_string();
    match outcome {
        Ok(probed) => {
            let mut findings = vec![Finding::ok("M032", Message::EngineStarts { millis, memory })];
            let Sandbox { landlock, seccomp } = &probed.sandbox;
            findings.extend([("M033", "landlock", landlock), ("M034", "seccomp", seccomp)].map(wall));
            if *landlock == Wall::Stands && *seccomp == Wall::Stands && !probed.escapes.is_empty() {
                let what = Message::WallLeaks { escapes: format!("{:?}", probed.escapes) };
                findings.push(Finding::new("M035", Severity::Error, what, Message::ReportDefect));
            }
            findings
        }
        Err(failure) => vec![Finding::of_failure("M032", failure)],
    }
}

/// A wall that is missing is worth knowing: the child is a process of its own with limits in any case.
fn wall((id, name, wall): (&'static str, &str, &Wall)) -> Finding {
    let name = name.to_owned();
    match wall {
        Wall::Stands => Finding::ok(id, Message::WallStands { name }),
        Wall::Partial { why } => {
            Finding::new(id, Severity::Note, Message::WallPartial { name, why: why.clone() }, Message::NewerKernel)
        }
        Wall::Missing { why } => {
            Finding::new(id, Severity::Note, Message::WallMissing { name, why: why.clone() }, Message::NewerKernel)
        }
    }
}

//! Processes: how soon they are ready, what they hold in memory when idle.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use matome_aggregation::engine::{Engine, EngineSettings};

use super::figure::{Budget, Figure};
use super::target::{Target, failed};
use super::usage::{self, Usage, percentile};
use super::{Bench, say};
use crate::ENGINE_CHILD;
use crate::failure::Failure;

/// A server is called idle so long after its start.
const SETTLED: Duration = Duration::from_secs(2);

/// `serve` from its start to ready, and its memory when idle.
pub async fn serve(bench: &mut Bench, target: &Target) -> Result<(), Failure> {
    say(format_args!("{}: start of serve", target.name));
    target.migrate()?;
    let mut took = Vec::new();
    for n in 0..bench.sizes.times {
        let server = target.serve(&bench.files()).await?;
        took.push(server.ready_after);
        if n + 1 < bench.sizes.times {
            continue;
        }
        tokio::time::sleep(SETTLED).await;
        let (cpu, resident) = (usage::cpu_seconds_of_tree(server.pid()), usage::resident_mib(server.pid()));
        let usage = Usage { wall: Duration::ZERO, cpu, peak_mib: usage::peak_mib(server.pid()) };
        bench.add(
            Figure::new("memory", "serve, idle", resident.unwrap_or(0.0), "MiB")
                .on(target.name)
                .budget(Budget::AtMost(60.0))
                .cost(usage)
                .note("resident, without the engine child that waits"),
        );
    }
    bench.add(middle("start", "serve ready after its start", took, 0.3).on(target.name));
    Ok(())
}

/// The whole demo.
pub fn demo(bench: &mut Bench) -> Result<(), Failure> {
    say(format_args!("demo"));
    let dir = bench.scratch.path().join("demo");
    let program = std::env::current_exe().map_err(failed)?;
    let before = usage::cpu_seconds_of_ended_children();
    let started = Instant::now();
    let mut command = Command::new(program);
    command.args(["demo", "--once", "--bind", "127.0.0.1:0", "--data-dir"]).arg(&dir).stdin(Stdio::null());
    let output = command.output().map_err(failed)?;
    let wall = started.elapsed();
    if !output.status.success() {
        return Err(failed(format!("`matome demo`: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let cpu = usage::cpu_seconds_of_ended_children().zip(before).map(|(end, begun)| end - begun);
    bench.add(
        Figure::new("start", "demo, from its start to its end", wall.as_secs_f64(), "s")
            .budget(Budget::AtMost(3.0))
            .cost(Usage { wall, cpu, peak_mib: None })
            .note("five sources, two aggregations"),
    );
    Ok(())
}

/// The engine child: from the wish to the answer to the simplest question.
pub async fn engine_child(bench: &mut Bench) -> Result<(), Failure> {
    say(format_args!("engine child"));
    let settings = EngineSettings {
        program: std::env::current_exe().map_err(failed)?,
        arguments: vec![ENGINE_CHILD.into()],
        scratch_root: bench.scratch.path().join("engine"),
        slots: 1,
    };
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..bench.sizes.times {
        let engine = Engine::new(settings.clone());
        let started = Instant::now();
        engine.validate("select 1").await.map_err(failed)?;
        cold.push(started.elapsed());
        // The next child has had time to start.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let started = Instant::now();
        engine.validate("select 1").await.map_err(failed)?;
        warm.push(started.elapsed());
    }
    bench.add(middle("start", "engine child, none waiting, to its first answer", cold, f64::INFINITY));
    bench.add(middle("start", "engine child that waits, to its first answer", warm, f64::INFINITY));
    Ok(())
}

fn middle(group: &'static str, what: &str, mut took: Vec<Duration>, budget: f64) -> Figure {
    took.sort_unstable();
    let (middle, longest) = (percentile(&took, 0.5), percentile(&took, 1.0));
    let figure = Figure::new(group, what, middle.as_secs_f64(), "s").note(format!(
        "middle of {}, longest {:.3} s",
        took.len(),
        longest.as_secs_f64()
    ));
    if budget.is_finite() { figure.budget(Budget::AtMost(budget)) } else { figure }
}

//! The peer of the task engine: the released Celery on the same Redis, in the same run, where both are installed
//! (`scripts/install-missing` does that).

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use matome_bus::RedisUrls;
use serde::Deserialize;

use super::figure::Peer;
use super::target::failed;
use super::tools::CELERY;
use super::usage::Usage;
use super::{Sizes, say};
use crate::failure::Failure;

/// Celery is asked so long after a kill whether its tasks go on; it would give them out again after an hour.
pub const PATIENCE: Duration = Duration::from_secs(30);
const PROGRAM: &str = include_str!("celery_bench.py");

/// A Redis server of the benchmark's own, which syncs its log each second.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// Nothing when it is not installed.
    pub async fn start(scratch: &Path) -> Result<Option<Self>, Failure> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).map_err(failed)?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"]);
        command.arg("--dir").arg(scratch).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(failed(err)),
        };
        let (redis, started) = (Self { child, port }, Instant::now());
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if started.elapsed() > Duration::from_secs(20) {
                return Err(failed("redis-server does not answer"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Some(redis))
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn urls(&self) -> RedisUrls {
        RedisUrls { shared: Some(self.url()), ..RedisUrls::default() }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What Celery did.
#[derive(Clone, Debug, Deserialize)]
pub struct Celery {
    c8: Rate,
    c64: Rate,
    latency: Latency,
    recovery: Recovery,
}

#[derive(Clone, Debug, Deserialize)]
struct Rate {
    per_second: f64,
    left: u64,
    mib: f64,
    processes: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Latency {
    idle: Spread,
    loaded: Spread,
}

/// In seconds.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Spread {
    p50: f64,
    p99: f64,
}

#[derive(Clone, Debug, Deserialize)]
struct Recovery {
    seconds: f64,
    left: u64,
}

/// What a peer did, and what a note says besides.
pub type Beside = (Option<Peer>, String);

/// Measures it; nothing when it is not installed, which is told.
pub async fn run(scratch: &Path, redis: Option<&Redis>, sizes: &Sizes) -> Result<Option<Celery>, Failure> {
    let (Some(redis), Some(python)) = (redis, CELERY.python()) else {
        say(format_args!("redis-server or Celery is not here (scripts/install-missing): no peer for tasks"));
        return Ok(None);
    };
    say(format_args!("{}: tasks, start, memory, a kill", CELERY.name));
    let program = scratch.join("celery_bench.py");
    std::fs::write(&program, PROGRAM).map_err(failed)?;
    let (count, pace, seconds) = (sizes.tasks / 2, sizes.pace, sizes.load.as_secs().max(1));
    let patience = if sizes.is_quick() { Duration::from_secs(2) } else { PATIENCE };
    let numbers = [count, pace, seconds, patience.as_secs()].map(|number| number.to_string());
    let mut command = tokio::process::Command::new(python);
    // Database 2: 0 and 1 are matome's.
    command.arg(&program).arg(format!("{}/2", redis.url())).args(numbers).current_dir(scratch);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(failed)?;
    if !output.status.success() {
        return Err(failed(format!("{}: {}", CELERY.name, String::from_utf8_lossy(&output.stderr))));
    }
    serde_json::from_slice(&output.stdout).map(Some).map_err(failed)
}

fn peer(value: f64) -> Option<Peer> {
    Some(Peer { name: CELERY.name, value, usage: Usage::default() })
}

impl Celery {
    pub fn rate(&self, slots: usize) -> Beside {
        let rate = if slots == 8 { &self.c8 } else { &self.c64 };
        let note = match rate.left {
            0 => "Celery with acks_late and results".to_owned(),
            left => format!("Celery left {left} undone"),
        };
        (peer(rate.per_second), note)
    }

    /// p99 in milliseconds, one at a time or under load.
    pub fn latency(&self, is_idle: bool) -> Beside {
        let Spread { p50, p99 } = if is_idle { self.latency.idle } else { self.latency.loaded };
        (peer(p99 * 1e3), format!("Celery's p50 {:.1} ms", p50 * 1e3))
    }

    /// MiB of a worker with eight slots.
    pub fn memory(&self) -> Beside {
        (peer(self.c8.mib), format!("Celery's {} processes; with -c 64 {:.0} MiB", self.c8.processes, self.c64.mib))
    }

    /// Seconds from a kill until what ran goes on elsewhere.
    pub fn recovery(&self) -> Beside {
        let Recovery { seconds, left } = self.recovery;
        match left {
            0 => (peer(seconds), "all of Celery's 8 go on".to_owned()),
            left => {
                (None, format!("{left} of Celery's 8 had not begun again after {seconds:.0} s, when it was given up"))
            }
        }
    }
}

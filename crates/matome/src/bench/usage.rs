//! What processes cost: CPU seconds and peak memory, from /proc.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Ticks of CPU time a second, as the kernel shows them to every program on every machine that Rust knows.
const TICKS: f64 = 100.0;

/// What something cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// From start to end.
    pub wall: Duration,
    /// CPU seconds, of the database server too where there is one.
    pub cpu: Option<f64>,
    /// Peak of resident memory of the program itself, in MiB.
    pub peak_mib: Option<f64>,
}

/// One line of /proc/PID/stat.
struct Stat {
    parent: u32,
    /// Ticks of itself.
    own: u64,
    /// Ticks of children that have ended and were waited for.
    children: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    stat_in(format!("/proc/{pid}/stat"))
}

fn stat_in(file: impl AsRef<Path>) -> Option<Stat> {
    let text = fs::read_to_string(file).ok()?;
    // The name may hold anything, blanks and brackets too; what follows the last bracket does not.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |n: usize| fields.get(n)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(field(1)?).ok()?,
        own: field(11)? + field(12)?,
        children: field(13)? + field(14)?,
    })
}

/// CPU seconds of the thread that asks.
pub fn thread_cpu_seconds() -> Option<f64> {
    stat_in("/proc/thread-self/stat").map(|stat| seconds(stat.own))
}

/// The CPU time of one thread, which other threads may ask for.
#[derive(Debug)]
pub struct ThreadClock(PathBuf);

impl ThreadClock {
    pub fn of_this_thread() -> Option<Self> {
        fs::read_link("/proc/thread-self").ok().map(|thread| Self(Path::new("/proc").join(thread).join("stat")))
    }

    /// Nothing when the thread has ended.
    pub fn seconds(&self) -> Option<f64> {
        stat_in(&self.0).map(|stat| seconds(stat.own))
    }
}

/// CPU seconds of this process's children that ended.
pub fn cpu_seconds_of_ended_children() -> Option<f64> {
    stat(std::process::id()).map(|stat| seconds(stat.children))
}

/// CPU seconds of a process and of everything beneath it that runs or has ended.
pub fn cpu_seconds_of_tree(root: u32) -> Option<f64> {
    stat(root)?;
    let mut stats = HashMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            && let Some(stat) = stat(pid)
        {
            stats.insert(pid, stat);
        }
    }
    let is_beneath = |mut pid: u32| {
        while pid != root {
            match stats.get(&pid) {
                Some(stat) if stat.parent != 0 && stat.parent != pid => pid = stat.parent,
                _ => return false,
            }
        }
        true
    };
    Some(stats.iter().filter(|(pid, _)| is_beneath(**pid)).map(|(_, stat)| seconds(stat.own + stat.children)).sum())
}

#[allow(clippy::cast_precision_loss, reason = "ticks of a benchmark are far below 2^52")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.parent)
}

/// The name of a process's program.
pub fn name(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned())
}

/// A line of /proc/PID/status in MiB.
fn status_mib(pid: u32, line: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// Peak of a process's resident memory in MiB, since [`forget_peak`] or its start.
pub fn peak_mib(pid: u32) -> Option<f64> {
    status_mib(pid, "VmHWM")
}

/// A process's resident memory in MiB.
pub fn resident_mib(pid: u32) -> Option<f64> {
    status_mib(pid, "VmRSS")
}

/// A process's memory in MiB, pages that it shares counted by its share.
pub fn pss_mib(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    value.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// Starts the peak of a process anew. Where the kernel does not allow that, the peak is that of its whole life.
pub fn forget_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Watches the memory of the children of a process, which come and go.
pub struct Children {
    stop: Arc<AtomicBool>,
    watch: JoinHandle<Option<f64>>,
}

impl Children {
    pub fn watch(parent: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let watch = std::thread::spawn(move || {
            let mut peak: Option<f64> = None;
            while !is_over.load(Ordering::Relaxed) {
                peak = peak.into_iter().chain(peak_mib_of_children(parent)).reduce(f64::max);
                std::thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        Self { stop, watch }
    }

    /// The highest peak of any one of them, in MiB.
    pub fn peak_mib(self) -> Option<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.watch.join().ok().flatten()
    }
}

/// The highest peak of the children that a process has now, in MiB.
pub fn peak_mib_of_children(parent: u32) -> Option<f64> {
    children(parent).into_iter().filter_map(peak_mib).reduce(f64::max)
}

/// Children that any thread of a process started.
fn children(parent: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Measures what happens between its start and its end in one process, and in the database server if there is one.
pub struct Meter {
    pid: u32,
    server: Option<u32>,
    cpu: Option<f64>,
    started: Instant,
}

impl Meter {
    /// `server`: the process above all those of the database, see [`super::target::Target::server_pid`].
    pub fn start(pid: u32, server: Option<u32>) -> Self {
        forget_peak(pid);
        let cpu = both(pid, server);
        Self { pid, server, cpu, started: Instant::now() }
    }

    pub fn end(&self) -> Usage {
        let wall = self.started.elapsed();
        let cpu = both(self.pid, self.server).zip(self.cpu).map(|(end, start)| end - start);
        Usage { wall, cpu, peak_mib: peak_mib(self.pid) }
    }
}

fn both(pid: u32, server: Option<u32>) -> Option<f64> {
    let own = cpu_seconds_of_tree(pid)?;
    match server {
        None => Some(own),
        Some(server) => cpu_seconds_of_tree(server).map(|more| own + more),
    }
}

/// The value below which `share` of `sorted` lie.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let meter = Meter::start(std::process::id(), None);
        let mut sum = 0_u64;
        while meter.end().cpu.unwrap() < 0.02 {
            sum = (0..1_000_000).fold(sum, |sum, n| sum ^ (n * n));
        }
        assert!(sum != 1, "the loop is not optimised away");
        let usage = meter.end();
        assert!(usage.peak_mib.unwrap() > 1.0 && usage.wall.as_millis() > 0, "{usage:?}");
    }

    #[test]
    fn the_memory_of_children_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let watched = Children::watch(std::process::id());
        while !children(std::process::id()).contains(&child.id()) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(50));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(watched.peak_mib().unwrap() > 0.1);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let sorted: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.5), Duration::from_millis(50));
        assert_eq!(percentile(&sorted, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&sorted[..1], 0.99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}

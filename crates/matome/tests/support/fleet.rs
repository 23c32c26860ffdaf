//! The roles of one installation as processes of their own, on one PostgreSQL.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Home, Log, PATIENCE, Server, client, follow, read_address};

/// A worker or a beat; killed when dropped.
pub struct Member {
    pub child: Child,
    pub log: Log,
}

impl Home {
    /// Starts a role; it need not be ready.
    pub fn member(&self, args: &[&str]) -> Member {
        let mut command = self.command(args);
        Member::of(command.args(&self.extra).stderr(Stdio::piped()).stdout(Stdio::null()))
    }

    /// Starts a role and waits until it says `says`.
    pub fn ready_member(&self, args: &[&str], says: &str) -> Member {
        let member = self.member(args);
        member.until_says(says);
        member
    }

    /// Starts a worker of a queue, with as many tasks at once.
    pub fn worker(&self, queue: &str, slots: usize) -> Member {
        self.ready_member(&["worker", queue, "-c", &slots.to_string()], "takes tasks")
    }

    pub fn beat(&self) -> Member {
        self.ready_member(&["beat"], "beat runs")
    }

    /// Starts a web process and waits until it is ready.
    pub async fn web(&self) -> Server {
        let mut command = self.command(&["web", "--bind", "127.0.0.1:0"]);
        command.args(&self.extra).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (base, log) = read_address(&mut child);
        let token = self.ok(&["token", "create", "--role", "admin"]).trim().to_owned();
        let server = Server { member: Member { child, log }, base, token, client: client() };
        server.until_ready().await;
        server
    }
}

impl Member {
    /// Starts a command whose stderr is a pipe.
    pub fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let log = follow(&mut child);
        Self { child, log }
    }

    pub fn says(&self, what: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }

    pub fn until_says(&self, what: &str) {
        let begun = Instant::now();
        while self.says(what) == 0 {
            assert!(begun.elapsed() < PATIENCE, "does not say `{what}`: {:#?}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// SIGKILL, and nothing else.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM");
        self.wait()
    }

    /// Waits for its end; returns the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "does not end: {:#?}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long tasks waited for a worker, from the commit that accepted them to their start.
#[derive(Debug)]
pub struct Waits(Vec<Duration>);

impl Waits {
    pub fn of(rows: &[serde_json::Value]) -> Self {
        let time = |row: &serde_json::Value, name: &str| {
            let text = row[name].as_str().unwrap_or_else(|| panic!("no {name}: {row}"));
            chrono::DateTime::parse_from_rfc3339(text).unwrap()
        };
        let wait = |row| (time(row, "started_at") - time(row, "created_at")).to_std().unwrap_or_default();
        let mut waits: Vec<Duration> = rows.iter().map(wait).collect();
        waits.sort_unstable();
        Self(waits)
    }

    pub fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100).max(1) - 1]
    }
}

impl Server {
    /// Runs each of `objects` in turn, one every 50 ms, `count` times in all; each must succeed. Returns how long they waited.
    pub async fn waits(&self, queue: &str, objects: &[i64], count: usize) -> Waits {
        let mut tasks = Vec::new();
        for n in 0..count {
            tasks.push(self.start(queue, objects[n % objects.len()]).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut rows = Vec::new();
        for task in tasks {
            let row = self.ended(&task).await;
            assert_eq!(row["status"], "succeeded", "{row}");
            rows.push(row);
        }
        Waits::of(&rows)
    }
}

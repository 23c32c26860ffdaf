//! A Redis server of a test's own: made from nothing in a temporary folder, on a free port of loopback, ended with the test.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct RedisServer {
    dir: TempDir,
    pub port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// A server with settings as `redis-server` takes them: `--maxmemory 1mb`.
    pub fn start(settings: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Self { dir: TempDir::new().unwrap(), port, settings, child: None };
        server.again();
        server
    }

    /// Starts it (again) on its port, empty.
    pub fn again(&mut self) {
        self.stop();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--appendonly", "no"]);
        // DEBUG SLEEP is how a test makes it slow.
        command.args(["--enable-debug-command", "local"]).arg("--dir").arg(self.dir.path()).args(&self.settings);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("redis-server is there: scripts/install-missing installs it"));
        let begun = Instant::now();
        while self.cli(&["ping"]) != "PONG" {
            assert!(begun.elapsed() < PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// The address as `REDIS_URL` has it; its number is not heeded.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// What `redis-cli` says to a command.
    pub fn cli(&self, args: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port]).args(args).output();
        let output = output.expect("redis-cli is there: scripts/install-missing installs redis-server");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

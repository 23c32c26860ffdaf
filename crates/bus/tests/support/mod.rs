//! A Redis server of a test's own: made from nothing in a temporary folder, on a free port of loopback, ended with the test.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition, with a deadline.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub struct RedisServer {
    dir: TempDir,
    pub port: u16,
    settings: Vec<String>,
    /// How `redis-cli` speaks TLS to it, if it does.
    tls: Vec<String>,
    child: Option<Child>,
}

/// Certificates for `localhost` and `127.0.0.1`, made for tests; each is its own authority.
pub fn certificate(file: &str) -> PathBuf {
    std::path::absolute("../matome/tests/fixtures/tls").unwrap().join(file)
}

impl RedisServer {
    /// A server with settings as `redis-server` takes them: `--maxmemory 1mb`.
    pub fn start(settings: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self { dir: TempDir::new().unwrap(), port, settings, tls: Vec::new(), child: None }.started()
    }

    /// A server that speaks TLS only, on 127.0.0.1 and 127.0.0.2, with the certificate `one`; with `asks` it wants the
    /// certificate `two` of its clients.
    pub fn start_tls(asks: bool) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = |name: &str| certificate(name).display().to_string();
        let settings = vec![
            "--port 0".to_owned(),
            format!("--tls-port {port}"),
            "--bind 127.0.0.1 127.0.0.2".to_owned(),
            format!("--tls-cert-file {}", file("one.crt")),
            format!("--tls-key-file {}", file("one.key")),
            format!("--tls-ca-cert-file {}", file("two.crt")),
            format!("--tls-auth-clients {}", if asks { "yes" } else { "no" }),
        ];
        let tls = ["--tls", "--cacert", &file("one.crt"), "--cert", &file("two.crt"), "--key", &file("two.key")];
        let tls = tls.map(str::to_owned).into();
        Self { dir: TempDir::new().unwrap(), port, settings, tls, child: None }.started()
    }

    fn started(mut self) -> Self {
        self.again();
        self
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
        let scheme = if self.tls.is_empty() { "redis" } else { "rediss" };
        format!("{scheme}://127.0.0.1:{}/0", self.port)
    }

    /// What `redis-cli` says to a command.
    pub fn cli(&self, args: &[&str]) -> String {
        let port = self.port.to_string();
        let output =
            Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port]).args(&self.tls).args(args).output();
        let output = output.expect("redis-cli is there: scripts/install-missing installs redis-server");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

//! The real binary as a test starts it: on a free port of loopback, in a temporary folder, ended with the test.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod fleet;
pub mod load;
#[path = "../../../bus/tests/support/mod.rs"]
pub mod redis;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use fleet::Member;

/// Nothing that a test waits for takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where an installation keeps its data.
pub struct Home {
    pub dir: TempDir,
    pub database_url: Option<String>,
    pub name: &'static str,
    /// More `serve` arguments.
    pub extra: Vec<String>,
    /// A command that starts `serve` in its own way, such as `prlimit --nofile=64`; the binary and its arguments follow it.
    pub through: Vec<String>,
    /// Redis, beside PostgreSQL.
    pub redis_url: Option<String>,
    /// The binary; another build of it, where a test has one.
    pub binary: PathBuf,
}

/// One home on SQLite and one on PostgreSQL.
pub async fn homes() -> Vec<Home> {
    vec![sqlite_home(), postgres_home().await]
}

pub fn sqlite_home() -> Home {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("files")).unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_matome"));
    Home { dir, database_url: None, name: "sqlite", extra: Vec::new(), through: Vec::new(), redis_url: None, binary }
}

pub async fn postgres_home() -> Home {
    let url = matome_testbed::postgres_schema().await;
    let home = Home { database_url: Some(url), name: "postgres", ..sqlite_home() };
    let output = home.command(&["migrate"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    home
}

impl Home {
    /// The same home, whose sources may read from `upstream`.
    pub fn reaching(mut self, upstream: std::net::SocketAddr) -> Self {
        self.extra.extend(["--egress-allow".to_owned(), format!("127.0.0.1/32:{}", upstream.port())]);
        self
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// The binary with a command that uses this home.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).arg("--data-dir").arg(self.data_dir());
        for name in
            ["MATOME_URL", "MATOME_TOKEN", "DATABASE_URL", "MATOME_LANG", "LOG_LEVEL", "LOG_FORMAT", "FILE_ROOTS"]
        {
            command.env_remove(name);
        }
        // Tests read messages in English, whatever their user speaks.
        command.env("LC_ALL", "C");
        if let Some(url) = &self.database_url {
            command.env("DATABASE_URL", url);
        }
        command.env_remove("REDIS_URL");
        if let Some(url) = &self.redis_url {
            command.env("REDIS_URL", url);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed; returns its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts `serve`; its stderr is a pipe.
    pub fn spawn(&self) -> Child {
        let mut command = self.command(&["serve", "--bind", "127.0.0.1:0"]);
        if let [first, rest @ ..] = self.through.as_slice() {
            let mut wrapped = Command::new(first);
            wrapped.args(rest).arg(command.get_program()).args(command.get_args());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => wrapped.env(name, value),
                    None => wrapped.env_remove(name),
                };
            }
            wrapped.stdin(Stdio::null());
            command = wrapped;
        }
        command.arg("--file-root").arg(self.files()).args(&self.extra);
        command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    /// Starts `serve` and waits until it answers.
    pub async fn serve(&self) -> Server {
        let mut server = self.serve_again(String::new()).await;
        server.token = self.ok(&["token", "create", "--role", "admin"]).trim().to_owned();
        server
    }

    /// The same with a token that it gave before.
    pub async fn serve_again(&self, token: String) -> Server {
        self.serve_for(token, client()).await
    }

    /// The same for another client.
    pub async fn serve_for(&self, token: String, client: reqwest::Client) -> Server {
        let mut child = self.spawn();
        let (address, log) = read_address(&mut child);
        let server = Server { member: Member { child, log }, base: address, token, client };
        server.until_ready().await;
        server
    }
}

/// A running `matome serve`, killed when dropped.
pub struct Server {
    pub member: Member,
    pub base: String,
    pub token: String,
    pub client: reqwest::Client,
}

impl std::ops::Deref for Server {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl std::ops::DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Member {
        &mut self.member
    }
}

/// An HTTP client; reqwest wants to know who does TLS even where there is none.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub type Log = std::sync::Arc<std::sync::Mutex<Vec<String>>>;

/// Finds the address in what `serve` logs; goes on reading, so that the pipe never fills.
fn read_address(child: &mut Child) -> (String, Log) {
    let log = follow(child);
    let begun = Instant::now();
    loop {
        let of_line = |line: &String| {
            let (_, rest) = line.split_once("serving on ")?;
            Some(rest.split(',').next().unwrap_or_default().trim().to_owned())
        };
        if let Some(address) = log.lock().unwrap().iter().find_map(of_line) {
            return (address, log.clone());
        }
        assert!(begun.elapsed() < PATIENCE, "no address: {:?}", log.lock().unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads what a process logs, so that the pipe never fills.
fn follow(child: &mut Child) -> Log {
    let log = Log::default();
    let (stderr, lines) = (child.stderr.take().unwrap(), log.clone());
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
    log
}

impl Server {
    async fn until_ready(&self) {
        let ready =
            async || self.client.get(format!("{}/readyz", self.base)).send().await.is_ok_and(|r| r.status() == 200);
        until("ready", ready).await;
    }

    pub async fn send(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let mut request = self.client.request(method.parse().unwrap(), url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let reply = request.send().await.unwrap();
        let status = reply.status().as_u16();
        let text = reply.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// What is at `path`, if the server answers well and soon.
    pub async fn try_get(&self, path: &str) -> Option<Value> {
        let url = format!("{}{path}", self.base);
        let request = self.client.get(url).bearer_auth(&self.token).timeout(Duration::from_secs(2));
        let reply = request.send().await.ok().filter(|reply| reply.status() == 200)?;
        serde_json::from_str(&reply.text().await.ok()?).ok()
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Creates a source; returns its id.
    pub async fn source(&self, name: &str, source_type: &str, config: Value) -> i64 {
        let body = json!({ "name": name, "source_type": source_type, "config": config, "fetch_interval": 0 });
        let (status, row) = self.send("POST", "/api/acquisition/sources/", Some(body)).await;
        assert_eq!(status, 201, "{row}");
        row["id"].as_i64().unwrap()
    }

    /// Creates an aggregation; returns its id.
    pub async fn aggregation(&self, name: &str, sql: &str) -> i64 {
        let body = json!({ "name": name, "config": { "sql": sql } });
        let (status, row) = self.send("POST", "/api/aggregation/sources/", Some(body)).await;
        assert_eq!(status, 201, "{row}");
        row["id"].as_i64().unwrap()
    }

    /// Starts a task; returns its path.
    pub async fn start(&self, queue: &str, id: i64) -> String {
        let (status, row) = self.send("POST", &format!("/api/{queue}/sources/{id}/run/"), Some(json!({}))).await;
        assert_eq!(status, 202, "{row}");
        format!("/api/{queue}/tasks/{}/", row["id"])
    }

    /// Waits for the end of a task; returns its row.
    pub async fn ended(&self, task: &str) -> Value {
        self.ended_within(PATIENCE, task).await
    }

    /// As [`Server::ended`], for a task that may take longer.
    pub async fn ended_within(&self, patience: Duration, task: &str) -> Value {
        let started = Instant::now();
        loop {
            let row = self.get(task).await;
            if matches!(row["status"].as_str(), Some("succeeded" | "failed" | "cancelled")) {
                return row;
            }
            assert!(started.elapsed() < patience, "{task} does not end: {row}\n{:#?}", self.log.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs a source or an aggregation to a good end; returns the task.
    pub async fn run(&self, queue: &str, id: i64) -> Value {
        let task = self.start(queue, id).await;
        let row = self.ended(&task).await;
        assert_eq!(row["status"], "succeeded", "{row}");
        row
    }

    /// All rows of a list, page by page in order of id.
    pub async fn all(&self, path: &str) -> Vec<Value> {
        let mut rows: Vec<Value> = Vec::new();
        loop {
            let after = rows.last().map_or(0, |row| row["id"].as_i64().unwrap());
            let separator = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{separator}ordering=id&id__gt={after}&page_size=100")).await;
            let page = page["results"].as_array().unwrap();
            if page.is_empty() {
                return rows;
            }
            rows.extend(page.iter().cloned());
        }
    }
}

/// Waits for a condition, with a deadline.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).unwrap();
}

/// What a fault cost: `scripts/faults` shows its line as a row.
pub struct Tally {
    fault: &'static str,
    database: &'static str,
    pub tasks: usize,
    records: u64,
    recoveries: Vec<Duration>,
}

impl Tally {
    pub fn new(fault: &'static str, database: &'static str) -> Self {
        Self { fault, database, tasks: 0, records: 0, recoveries: Vec::new() }
    }

    /// So long after a fault everything went on.
    pub fn recovered(&mut self, after: Duration) {
        self.recoveries.push(after);
    }

    /// What is stored, each value as often, must be what was expected.
    pub fn compare(&mut self, expected: impl Iterator<Item = u64>, stored: impl Iterator<Item = u64>, what: &str) {
        let mut difference: BTreeMap<u64, i64> = BTreeMap::new();
        expected.for_each(|n| *difference.entry(n).or_default() -= 1);
        for n in stored {
            *difference.entry(n).or_default() += 1;
            self.records += 1;
        }
        let doubled: i64 = difference.values().filter(|n| **n > 0).sum();
        let lost: i64 = -difference.values().filter(|n| **n < 0).sum::<i64>();
        if (lost, doubled) != (0, 0) {
            println!("row {} {} {} {} {lost} {doubled} -", self.fault, self.database, self.tasks, self.records);
            panic!("{} {what}: {lost} records lost, {doubled} doubled", self.database);
        }
    }

    /// Prints the row of a fault that lost and doubled nothing.
    pub fn tell(&mut self) {
        self.recoveries.sort_unstable();
        let at = (self.recoveries.len() * 99).div_ceil(100).saturating_sub(1);
        let p99 = self.recoveries.get(at).map_or(0, Duration::as_millis);
        println!("row {} {} {} {} 0 0 {p99}", self.fault, self.database, self.tasks, self.records);
    }
}

/// A list of `rows` records over HTTP, 20 a page, a little slow, so that faults fall between its pages.
pub async fn upstream(rows: usize) -> std::net::SocketAddr {
    #[derive(serde::Deserialize)]
    struct Page {
        #[serde(default)]
        page: usize,
    }
    let page = async move |axum::extract::Query(Page { page }): axum::extract::Query<Page>| {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let from = page * 20;
        let results: Vec<Value> = (from..(from + 20).min(rows)).map(|n| json!({ "n": n })).collect();
        let next = (from + 20 < rows).then(|| format!("/rows?page={}", page + 1));
        axum::Json(json!({ "results": results, "next": next }))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/rows", axum::routing::get(page));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

//! Where a benchmark runs: a scratch directory, a database of its own, and the product as a real process on it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use matome_store::db::{DataDir, Db};
use matome_store::migrate;
use serde_json::{Value, json};
use uuid::Uuid;

use super::usage;
use crate::client::Client;
use crate::failure::{Exit, Failure, said};
use crate::message::Message;

/// Nothing that is waited for at the start of a process takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// A task of a benchmark that takes longer has failed.
const TASK_PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// Connections of this process to PostgreSQL.
const CONNECTIONS: u32 = 16;

/// A name as an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An error of the benchmark itself.
pub fn failed(what: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, Message::BenchFailed).why(said(what.to_string()))
}

/// A directory that goes away with the benchmark.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes a fresh directory beneath `parent`.
    pub fn make(parent: &Path) -> Result<Self, Failure> {
        let dir = parent.join(format!("matome-bench-{}", std::process::id()));
        // A socket's path has 107 bytes, so names here are short. One that is there is of a process that is gone.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).map_err(|err| {
            Failure::new(Exit::Config, Message::CannotWrite { file: dir.display().to_string() })
                .because(&err)
                .help(Message::GiveBenchDir)
        })?;
        Ok(Self(dir))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A PostgreSQL server on which databases are made for the benchmark.
pub struct Postgres {
    url: url::Url,
    admin: Db,
    /// The process above all those of the server, when it is on this machine.
    pub server_pid: Option<u32>,
    made: Vec<String>,
}

impl Postgres {
    pub async fn connect(url: &str) -> Result<Self, Failure> {
        let admin = Db::connect_postgres(url, Uuid::new_v4(), 2).await?;
        let url = url
            .parse()
            .map_err(|err: url::ParseError| Failure::new(Exit::Config, Message::NoDatabaseUrl).because(&err))?;
        let pid = admin.read().await?.conn().fetch_one("select pg_backend_pid() as pid", &[]).await?.int("pid")?;
        let pid = u32::try_from(pid).unwrap_or(0);
        // A server elsewhere has process ids of its own; a process of this name with this id is ours.
        let is_here = usage::name(pid).is_some_and(|name| name.starts_with("postgres"));
        let server_pid = is_here.then(|| usage::parent(pid)).flatten();
        Ok(Self { url, admin, server_pid, made: Vec::new() })
    }

    /// Makes an empty database; returns its URL.
    async fn create(&mut self, label: &str) -> Result<String, Failure> {
        let name = format!("matome_bench_{label}_{}", Uuid::new_v4().simple());
        let create = format!("create database {}", quoted(&name));
        self.admin.read().await?.conn().execute_script(create).await.map_err(|err| {
            Failure::new(Exit::Config, Message::NoBenchDatabase).because(&err).help(Message::GiveCreateDb)
        })?;
        let mut url = self.url.clone();
        url.set_path(&name);
        self.made.push(name);
        Ok(url.into())
    }

    /// Removes the databases that are left.
    pub async fn clean(&mut self) -> Result<(), Failure> {
        for name in std::mem::take(&mut self.made) {
            self.drop(&name).await?;
        }
        Ok(())
    }

    async fn drop(&self, name: &str) -> Result<(), Failure> {
        let drop = format!("drop database if exists {}", quoted(name));
        let mut session = self.admin.read().await?;
        // PostgreSQL sends its autovacuum workers away by itself here; `force` may not do so for a role that is no
        // superuser, but it ends sessions of ours that are left.
        if session.conn().execute_script(drop.clone()).await.is_err() {
            session.conn().execute_script(format!("{drop} with (force)")).await?;
        }
        Ok(())
    }
}

/// A database to run on, empty at first.
#[derive(Clone, Debug)]
pub struct Target {
    /// `sqlite` or `postgres`.
    pub name: &'static str,
    /// Data directory of the product, and the file root beside it.
    dir: PathBuf,
    pub database_url: Option<String>,
    /// The process above all those of the database server, when that is on this machine.
    pub server_pid: Option<u32>,
}

impl Target {
    pub fn sqlite(scratch: &Scratch, label: &str) -> Self {
        let dir = scratch.path().join(format!("sqlite-{label}"));
        Self { name: "sqlite", dir, database_url: None, server_pid: None }
    }

    pub async fn postgres(server: &mut Postgres, scratch: &Scratch, label: &str) -> Result<Self, Failure> {
        let dir = scratch.path().join(format!("postgres-{label}"));
        let url = server.create(label).await?;
        Ok(Self { name: "postgres", dir, database_url: Some(url), server_pid: server.server_pid })
    }

    /// Removes the database, for the room of the next one. Nothing may be connected to it any more.
    pub async fn remove(self, server: Option<&mut Postgres>) -> Result<(), Failure> {
        if let (Some(url), Some(server)) = (&self.database_url, server) {
            let is_this = |name: &String| url.contains(name.as_str());
            if let Some(at) = server.made.iter().position(is_this) {
                let name = server.made.swap_remove(at);
                server.drop(&name).await?;
            }
        }
        if self.dir.exists() {
            std::fs::remove_dir_all(&self.dir).map_err(failed)?;
        }
        Ok(())
    }

    /// Opens the database in this process and makes the schema.
    pub async fn open(&self) -> Result<Db, Failure> {
        let db = match &self.database_url {
            Some(url) => Db::connect_postgres(url, Uuid::new_v4(), CONNECTIONS).await?,
            None => {
                std::fs::create_dir_all(&self.dir).map_err(failed)?;
                Db::open_embedded(DataDir::acquire(&self.dir)?).await?
            }
        };
        migrate::migrate(&db).await?;
        Ok(db)
    }

    /// This binary with a command that uses the target.
    fn command(&self, args: &[&str]) -> Result<Command, Failure> {
        std::fs::create_dir_all(&self.dir).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        // In a directory and an environment of its own, so that settings of the user do not become part of the figure.
        command.args(args).arg("--data-dir").arg(&self.dir).current_dir(&self.dir).stdin(Stdio::null());
        command.env_clear();
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(url) = &self.database_url {
            command.env("DATABASE_URL", url);
        }
        Ok(command)
    }

    fn run(&self, args: &[&str]) -> Result<String, Failure> {
        let output = self.command(args)?.output().map_err(failed)?;
        if !output.status.success() {
            return Err(failed(format!("`matome {}`: {}", args.join(" "), String::from_utf8_lossy(&output.stderr))));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Makes the schema, where `serve` does not do so itself.
    pub fn migrate(&self) -> Result<(), Failure> {
        self.run(&["migrate"]).map(drop)
    }

    /// Makes a token of an administrator.
    pub fn token(&self) -> Result<String, Failure> {
        self.run(&["token", "create", "--role", "admin"])
    }

    /// Starts a part of the product as a process of its own and waits until it says so in its log.
    pub fn role(&self, args: &[&str], redis_url: Option<&str>, says: &'static str) -> Result<Role, Failure> {
        let mut command = self.command(args)?;
        if let Some(url) = redis_url {
            command.env("REDIS_URL", url);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        let said = said_line(&mut child, move |line| line.contains(says).then(String::new));
        let role = Role(child);
        said?;
        Ok(role)
    }

    /// Starts the product on the target and waits until it is ready; `files` is its file root.
    pub async fn serve(&self, files: &Path) -> Result<Server, Failure> {
        self.serve_with(files, &[]).await
    }

    /// The same with further arguments.
    pub async fn serve_with(&self, files: &Path, more: &[&str]) -> Result<Server, Failure> {
        self.start(files, more, None).await
    }

    /// The same with a Redis.
    pub async fn serve_beside(&self, files: &Path, redis_url: &str) -> Result<Server, Failure> {
        self.start(files, &[], Some(redis_url)).await
    }

    async fn start(&self, files: &Path, more: &[&str], redis_url: Option<&str>) -> Result<Server, Failure> {
        let files = files.display().to_string();
        let mut args = vec!["serve", "--bind", "127.0.0.1:0", "--log-level", "info", "--file-root", &files];
        args.extend(more);
        let started = Instant::now();
        let mut command = self.command(&args)?;
        if let Some(url) = redis_url {
            command.env("REDIS_URL", url);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        let address = said_line(&mut child, address);
        let http = http_client()?;
        let mut server = Server { child, http, base: String::new(), token: String::new(), ready_after: Duration::ZERO };
        server.base = format!("http://{}", address?);
        loop {
            let answer = server.http.get(format!("{}/readyz", server.base)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            if started.elapsed() > PATIENCE {
                return Err(failed("`matome serve` does not become ready"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        server.ready_after = started.elapsed();
        server.token = self.token()?;
        Ok(server)
    }
}

/// A part of the product, running; killed when dropped.
#[derive(Debug)]
pub struct Role(Child);

impl Role {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> std::io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The address in what `serve` logs.
fn address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("serving on http://")?;
    let is_part = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '[' | ']');
    Some(rest.chars().take_while(is_part).collect())
}

/// What `find` finds first in what a process logs; goes on reading, so that the pipe never fills.
fn said_line(child: &mut Child, find: impl Fn(&str) -> Option<String> + Send + 'static) -> Result<String, Failure> {
    let (found, said) = mpsc::channel();
    let Some(stderr) = child.stderr.take() else { return Err(failed("the process has no stderr")) };
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.contains(" WARN ") || line.contains(" ERROR ") {
                super::say(format_args!("matome: {line}"));
            }
            if let Some(what) = find(&line) {
                let _ = found.send(what);
            }
        }
    });
    said.recv_timeout(PATIENCE).map_err(|_| failed("a process of matome did not say that it is ready"))
}

fn http_client() -> Result<reqwest::Client, Failure> {
    reqwest::Client::builder().no_proxy().build().map_err(failed)
}

/// The product, running; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    http: reqwest::Client,
    pub base: String,
    pub token: String,
    /// From its start until it answered that it is ready.
    pub ready_after: Duration,
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn client(&self) -> Client {
        let (base, token) = (self.base.clone(), Some(self.token.clone()));
        Client::Http { client: self.http.clone(), target: base.clone(), base, token }
    }

    /// Asks the server as an administrator.
    pub async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let body = body.map(|body| body.to_string());
        let answer = self.client().send(method, path, body).await?.into_json()?;
        serde_json::from_str(answer.get()).map_err(failed)
    }

    /// Defines a file source that runs by hand only, and reads all of its file each time; returns its id.
    pub async fn file_source(&self, name: &str, file: &str, format: &str) -> Result<i64, Failure> {
        self.source(name, "file", json!({ "path": file, "format": format, "files": "all" })).await
    }

    /// The same with a source of any type.
    pub async fn source(&self, name: &str, source_type: &str, config: Value) -> Result<i64, Failure> {
        let body = json!({ "name": name, "source_type": source_type, "config": config, "fetch_interval": 0 });
        id(&self.send("POST", "/api/acquisition/sources/", Some(body)).await?)
    }

    /// Defines an aggregation that runs by hand only; returns its id.
    pub async fn aggregation(&self, name: &str, sql: &str) -> Result<i64, Failure> {
        let body = json!({ "name": name, "config": { "sql": sql } });
        id(&self.send("POST", "/api/aggregation/sources/", Some(body)).await?)
    }

    /// Runs a source or an aggregation to a good end; returns the result of its task.
    pub async fn run(&self, queue: &str, id_of_source: i64) -> Result<Value, Failure> {
        let path = format!("/api/{queue}/sources/{id_of_source}/run/");
        let task = id(&self.send("POST", &path, Some(json!({}))).await?)?;
        let started = Instant::now();
        loop {
            let row = self.send("GET", &format!("/api/{queue}/tasks/{task}/"), None).await?;
            match row["status"].as_str() {
                Some("succeeded") => return Ok(row["result"].clone()),
                Some("pending" | "running") if started.elapsed() < TASK_PATIENCE && row["error"].is_null() => {}
                _ => return Err(failed(format!("a task of the benchmark did not succeed: {row}"))),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn id(row: &Value) -> Result<i64, Failure> {
    row["id"].as_i64().ok_or_else(|| failed(format!("a row without id: {row}")))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Peers as processes: a program of ours that the Python of a peer runs. It writes a line when its modules are loaded and it
//! begins, and behind that how many records there were.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::bench::figure::Peer;
use crate::bench::peer::{per_second, run_from_first_line};
use crate::bench::target::{Target, failed};
use crate::bench::tools::{AIRBYTE, DLT, DUCKDB, Tool};
use crate::failure::Failure;

/// What dlt loads.
pub enum Load<'a> {
    /// The records of the API at an address, so many a page.
    Api { base: &'a str, size: usize },
    /// A table of the database at a URL.
    Table { url: &'a str, table: &'a str },
}

/// dlt loads `count` records into the empty database of `target`: PostgreSQL, or a file of DuckDB in place of SQLite, which it
/// does not load quickly.
pub async fn dlt(scratch: &Path, target: &Target, load: Load<'_>, count: u64) -> Result<Option<Peer>, Failure> {
    let Some(mut command) = program(scratch, &DLT, include_str!("dlt_bench.py"))? else { return Ok(None) };
    command.arg(count.to_string());
    // Passwords go through the environment: arguments can be read by everybody on the machine.
    match load {
        Load::Api { base, size } => command.args(["api", base, &size.to_string()]),
        Load::Table { url, table } => command.args(["table", table]).env("FROM_URL", url),
    };
    if let Some(url) = &target.database_url {
        command.env("TO_URL", url);
    }
    run(&DLT, command, target.server_pid, last_number, count).await
}

/// A source of the Airbyte CDK reads `count` records; what it writes for a destination is counted here.
pub async fn airbyte(scratch: &Path, base: &str, size: usize, count: u64) -> Result<Option<Peer>, Failure> {
    let Some(mut command) = program(scratch, &AIRBYTE, include_str!("airbyte_bench.py"))? else { return Ok(None) };
    command.args([base, &size.to_string()]);
    run(&AIRBYTE, command, None, records_of_airbyte, count).await
}

/// DuckDB executes `statement`, which makes the table `loaded` in a file of its own, with `count` rows.
pub async fn duckdb(scratch: &Path, statement: &str, count: u64) -> Result<Option<Peer>, Failure> {
    let Some(mut command) = program(scratch, &DUCKDB, include_str!("duckdb_bench.py"))? else { return Ok(None) };
    command.arg(statement);
    run(&DUCKDB, command, None, last_number, count).await
}

/// A command that runs `text` in a fresh directory and an environment of its own; nothing when the tool is not installed.
fn program(scratch: &Path, tool: &Tool, text: &str) -> Result<Option<Command>, Failure> {
    let Some(python) = tool.python() else { return Ok(None) };
    let dir = scratch.join("peer");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).map_err(failed)?;
    std::fs::write(dir.join("program.py"), text).map_err(failed)?;
    let mut command = Command::new(python);
    command.arg("program.py").current_dir(&dir).env_clear().env("HOME", &dir).stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    Ok(Some(command))
}

async fn run(
    tool: &Tool,
    command: Command,
    server: Option<u32>,
    fold: fn(u64, &str) -> u64,
    count: u64,
) -> Result<Option<Peer>, Failure> {
    let (usage, found) = run_from_first_line(command, server, fold).await?;
    if found != count {
        return Err(failed(format!("{count} records were there, and {} has {found}", tool.name)));
    }
    Ok(Some(Peer { name: tool.name, value: per_second(count, usage.wall), usage }))
}

/// The number on the last line that is one.
fn last_number(before: u64, line: &str) -> u64 {
    line.trim().parse().unwrap_or(before)
}

/// How many messages of Airbyte's protocol hold a record.
fn records_of_airbyte(before: u64, line: &str) -> u64 {
    before + u64::from(line.starts_with("{\"type\":\"RECORD\""))
}

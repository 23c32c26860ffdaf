//! How much memory `serve` takes while it reads large files and tables: bounded by its pages and caches, not by what is read.
//!
//! In the suite they are small enough for a debug binary. `scripts/fault/memory` reads 200 MB twice and 400 MB with a release
//! binary and compares them: `MATOME_TEST_MEMORY_MB` is the size of the first, the second is twice as large;
//! `MATOME_TEST_MEMORY_ON=sqlite` or `postgres` leaves the other database out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use matome_testbed::{hold, texts};
use serde_json::{Value, json};
use support::{Home, Server, sqlite_home, until};
use url::Url;

/// What `serve` may take at its peak, whatever it reads.
const LIMIT_MIB: u64 = 256;
/// From this size on what a server keeps is full, and twice as much must not take more.
const COMPARED_FROM_MB: usize = 200;

/// How many megabytes are read first, and whether the peaks are compared.
fn size() -> (usize, bool) {
    let megabytes = std::env::var("MATOME_TEST_MEMORY_MB").map_or(20, |text| text.parse().unwrap());
    (megabytes, megabytes >= COMPARED_FROM_MB)
}

/// The peak of a process's memory since it was last reset, in MiB.
fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn reset_peak(server: &Server) {
    std::fs::write(format!("/proc/{}/clear_refs", server.child.id()), "5").unwrap();
}

/// Rows of about 1 KB, all different; returns how many.
fn write_rows(path: &Path, megabytes: usize, line: Line) -> usize {
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    let (mut text, mut written, mut rows) = (String::new(), 0, 0);
    if path.extension().is_some_and(|extension| extension == "csv") {
        file.write_all(b"id,name,text\n").unwrap();
    }
    while written < megabytes << 20 {
        text.clear();
        line(&mut text, rows);
        file.write_all(text.as_bytes()).unwrap();
        written += text.len();
        rows += 1;
    }
    file.flush().unwrap();
    rows
}

fn ndjson_line(text: &mut String, row: usize) {
    writeln!(text, r#"{{"id":{row},"name":"行 {row}","text":"{:0>950}"}}"#, row).unwrap();
}

fn csv_line(text: &mut String, row: usize) {
    writeln!(text, "{row},\"行 {row}\",\"{row:0>950}\"").unwrap();
}

/// Short rows that each come twice, 10,000 rows apart: the most that a read has to tell apart.
fn repeated_line(text: &mut String, row: usize) {
    let number = row / 20_000 * 10_000 + row % 10_000;
    writeln!(text, r#"{{"id":{number},"name":"行 {number}","text":"{number:0>60}"}}"#).unwrap();
}

/// Keeps a read from storing, and lets it go on when it holds all that it may hold: so it is behind a slow database, which
/// PostgreSQL is in a checkpoint. SQLite is slower than any read is: there it is so all the time.
async fn fill(server: &Server, url: &str, start: impl Future<Output = String>) -> String {
    const WAITING: &str = "select mode from pg_locks where relation = 'acquired_data'::regclass and not granted";
    const STANDS_STILL: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(60);
    let held = hold(url, "lock table acquired_data in share mode").await;
    let task = start.await;
    until("the read waits to store", async || !texts(url, WAITING).await.is_empty()).await;
    let begun = Instant::now();
    let (mut most, mut since) = (peak(server), Instant::now());
    while since.elapsed() < STANDS_STILL {
        assert!(begun.elapsed() < MOST, "{task} holds more and more: {most} MiB");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = peak(server);
        if now > most {
            (most, since) = (now, Instant::now());
        }
    }
    drop(held);
    task
}

/// Reads a source to its end; returns the peak while it was read.
async fn read(home: &Home, server: &Server, name: &str, source_type: &str, config: Value, rows: usize) -> u64 {
    let source = server.source(name, source_type, config).await;
    reset_peak(server);
    let start = server.start("acquisition", source);
    let task = match &home.database_url {
        Some(url) => fill(server, url, start).await,
        None => start.await,
    };
    let ended = server.ended_within(Duration::from_secs(1800), &task).await;
    assert_eq!((&ended["status"], &ended["result"]["stored"]), (&json!("succeeded"), &json!(rows)), "{ended}");
    peak(server)
}

/// Writes a row.
type Line = fn(&mut String, usize);

/// What is read, and how its records are told apart; the suite reads the first.
const READS: [(&str, &str, Line); 5] = [
    ("ndjson", "rows", ndjson_line),
    ("ndjson", "hash", ndjson_line),
    ("ndjson", "key", ndjson_line),
    ("csv", "rows", csv_line),
    ("ndjson", "rows", repeated_line),
];

/// Has `read` read so many megabytes twice, then twice as many at once; it tells the peak and the records. A peak is the
/// highest of many moments, and the large read has as many of them as both small ones together: the higher of their peaks is
/// compared. Returns what took more memory than it may.
async fn compared(
    what: &str,
    home: Home,
    read: impl AsyncFn(&Home, &Server, &str, usize) -> (u64, usize),
) -> Option<String> {
    let (megabytes, is_compared) = size();
    let what = format!("{}, {what}", home.name);
    let server = home.serve().await;
    let (mut peaks, mut records) = (Vec::new(), 0);
    let again = is_compared.then_some(("again", megabytes));
    for (name, megabytes) in [("small", megabytes)].into_iter().chain(again).chain([("large", 2 * megabytes)]) {
        let (peak, rows) = read(&home, &server, name, megabytes).await;
        println!("{what}, {megabytes} MB: {peak} MiB at the peak");
        peaks.push(peak);
        records += rows;
    }
    println!("row memory {} {} {records} 0 0 -", home.name, peaks.len());
    let (large, small) = (peaks[peaks.len() - 1], peaks[..peaks.len() - 1].iter().max().unwrap());
    let is_within = large.max(*small) < LIMIT_MIB && (!is_compared || large * 100 <= small * 105);
    (!is_within).then(|| format!("{what}: {peaks:?} MiB"))
}

/// Whether one of the databases is left out.
fn is_left_out(is_postgres: bool) -> bool {
    let Ok(only) = std::env::var("MATOME_TEST_MEMORY_ON") else { return false };
    assert!(["sqlite", "postgres"].contains(&only.as_str()), "MATOME_TEST_MEMORY_ON={only}");
    (only == "postgres") != is_postgres
}

async fn home(is_postgres: bool) -> Home {
    if is_postgres { support::postgres_home().await } else { sqlite_home() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_a_file_does_not_set_the_memory_of_its_read() {
    let (_, is_compared) = size();
    let mut missed = Vec::new();
    for is_postgres in [false, true] {
        if is_left_out(is_postgres) {
            continue;
        }
        for (n, (format, dedupe, line)) in READS.into_iter().enumerate() {
            // In the suite one is enough, for the time it takes.
            if !is_compared && (n > 0 || is_postgres) {
                continue;
            }
            let what = format!("{format}, dedupe {dedupe}, read {n}");
            let more = compared(&what, home(is_postgres).await, async |home, server, name, megabytes| {
                let file = home.files().join(format!("{name}.{format}"));
                let rows = write_rows(&file, megabytes, line);
                let mut config = json!({ "path": format!("{name}.{format}"), "dedupe": dedupe });
                if dedupe == "key" {
                    config["key"] = json!("id");
                }
                let peak = read(home, server, name, "file", config, rows).await;
                std::fs::remove_file(file).unwrap();
                (peak, rows)
            });
            missed.extend(more.await);
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Makes a table of such rows as [`ndjson_line`] writes; returns the config of a source that reads it.
async fn table(engine: &str, rows: usize) -> Value {
    let url = if engine == "mysql" {
        let script = format!(
            "create table records (id bigint primary key, name varchar(50), text varchar(1000)) character set utf8mb4;
            insert into records select seq, concat('行 ', seq), lpad(seq, 950, '0') from seq_1_to_{rows}"
        );
        matome_testbed::mysql_database(&script).await
    } else {
        let script = format!(
            "create table records (id bigint primary key, name text, text text);
            insert into records select n, '行 ' || n, lpad(n::text, 950, '0') from generate_series(1, {rows}) n"
        );
        let url = matome_testbed::postgres_schema().await;
        matome_testbed::run_script(&url, &script).await;
        url
    };
    let schema = url.rsplit_once("%3D").map(|(_, schema)| schema.to_owned());
    let url = Url::parse(&url).unwrap();
    let mut config = json!({
        "engine": engine, "host": url.host_str(), "port": url.port(), "database": &url.path()[1..], "user": url.username(),
        "password": url.password(), "tls": {"mode": "disable"}, "table": "records",
    });
    if let Some(schema) = schema {
        config["schema"] = schema.into();
    }
    config
}

/// Where the test server of an engine is.
fn address(engine: &str) -> SocketAddr {
    let variable = if engine == "mysql" { "MATOME_TEST_MYSQL_URL" } else { matome_testbed::DATABASE_URL };
    let url = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is set: run `scripts/test`"));
    let url = Url::parse(&url).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_a_table_does_not_set_the_memory_of_its_read() {
    const ROWS_OF_MEGABYTE: usize = 1024;
    let (_, is_compared) = size();
    let mut missed = Vec::new();
    for (is_postgres, engine, is_incremental) in [
        (false, "postgres", false),
        (false, "mysql", false),
        (false, "postgres", true),
        (false, "mysql", true),
        (true, "postgres", false),
        (true, "mysql", true),
    ] {
        if is_left_out(is_postgres) || !is_compared && (is_postgres || is_incremental) {
            continue;
        }
        let home = home(is_postgres).await.reaching(address(engine));
        let what = format!("table of {engine}, {}", if is_incremental { "incremental" } else { "whole" });
        let more = compared(&what, home, async |home, server, name, megabytes| {
            let rows = megabytes * ROWS_OF_MEGABYTE;
            let mut config = table(engine, rows).await;
            if is_incremental {
                config["incremental"] = json!({ "cursor": "id" });
                config["key"] = json!("id");
            }
            (read(home, server, name, "database", config, rows).await, rows)
        });
        missed.extend(more.await);
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

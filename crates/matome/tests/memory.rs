//! How much memory `serve` takes while it reads large files: bounded by its pages and caches, not by the file.
//!
//! In the suite the files are small enough for a debug binary. `scripts/fault/memory` reads 200 and 400 MB with a release
//! binary and compares them: `MATOME_TEST_MEMORY_MB` is the size of the first, the second is twice as large.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Server, sqlite_home};

/// What `serve` may take at its peak, whatever it reads.
const LIMIT_MIB: u64 = 256;
/// From this size on the caches are full, and twice the file must not take more.
const COMPARED_FROM_MB: usize = 200;

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

/// Reads a file to its end; returns the peak while it was read.
async fn read(server: &Server, name: &str, config: serde_json::Value, rows: usize) -> u64 {
    let source = server.source(name, "file", config).await;
    reset_peak(server);
    let task = server.start("acquisition", source).await;
    let begun = Instant::now();
    let ended = loop {
        let now = server.get(&task).await;
        if !matches!(now["status"].as_str().unwrap(), "pending" | "running") {
            break now;
        }
        assert!(begun.elapsed() < Duration::from_secs(1800), "{now}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
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

#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_a_file_does_not_set_the_memory_of_its_read() {
    let megabytes: usize = std::env::var("MATOME_TEST_MEMORY_MB").map_or(20, |text| text.parse().unwrap());
    let is_compared = megabytes >= COMPARED_FROM_MB;
    for is_postgres in [false, true] {
        for (n, (format, dedupe, line)) in READS.into_iter().enumerate() {
            // In the suite one is enough, for the time it takes.
            if !is_compared && (n > 0 || is_postgres) {
                continue;
            }
            let home = if is_postgres { support::postgres_home().await } else { sqlite_home() };
            let what = format!("{}, {format}, dedupe {dedupe}, read {n}", home.name);
            let server = home.serve().await;
            let (mut peaks, mut records) = (Vec::new(), 0);
            // What a server keeps of its memory grows for some 800 MB, whatever the size of a file, and then no more: like is
            // compared with like.
            let before = is_compared.then_some([("before", 2 * megabytes), ("once more", megabytes)]);
            let measured = [("small", megabytes), ("large", 2 * megabytes)];
            for (name, megabytes) in before.into_iter().flatten().chain(measured) {
                let file = home.files().join(format!("{name}.{format}"));
                let rows = write_rows(&file, megabytes, line);
                let mut config = json!({ "path": format!("{name}.{format}"), "dedupe": dedupe });
                if dedupe == "key" {
                    config["key"] = json!("id");
                }
                let peak = read(&server, name, config, rows).await;
                println!("{what}, {megabytes} MB: {peak} MiB at the peak");
                assert!(peak < LIMIT_MIB, "{what}: {peak} MiB for {megabytes} MB");
                peaks.push(peak);
                records += rows;
                std::fs::remove_file(file).unwrap();
            }
            println!("row memory {} {} {records} 0 0 -", home.name, peaks.len());
            if let [_, _, small, large] = peaks[..] {
                assert!(large * 100 <= small * 105, "{what}: {peaks:?} MiB, twice the file");
            }
        }
    }
}

//! Runs a case through the handler and reads back what became of it.

use std::path::Path;
use std::time::Duration;

use matome_connector::{FileRoots, HttpClient, Policy, Registry, validate_config};
use matome_model::canonical::{Canonicaliser, Limits};
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use matome_store::checkpoints::{self, CheckpointKey, LIVE};
use matome_store::db::{Arg, Db, Row};
use matome_tasks::{Handler as _, TaskContext, TaskError, TaskOutcome};
use tempfile::TempDir;

use crate::case::{Case, Failure, Input, Outcome, SOME, shown};
use crate::server;
use crate::support::{Bench, count};

/// What reading one source may add to the memory of the process at its peak.
const MEMORY_LIMIT_KIB: u64 = 64 << 10;

/// A field of this process's status, in KiB.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|other: char| !other.is_ascii_digit()).parse().unwrap()
}

/// What became of an input that is a source of its own.
pub async fn run(db: &Db, input: Input) -> Outcome {
    match input {
        Input::Line(_) => unreachable!("lines run together"),
        Input::Config(config) => {
            let errors = validate_config(SourceType::File, config).map(|_| ()).unwrap_err();
            Outcome { refused: Some(errors[0].path.join(".")), ..Outcome::default() }
        }
        Input::File { name, bytes, options } => {
            let dir = TempDir::new().unwrap();
            std::fs::write(dir.path().join(&name), bytes).unwrap();
            // A name that no JSON can hold is found by a pattern.
            let path = name.to_str().unwrap_or("*");
            let config = format!(r#"{{"path":{}{options}}}"#, serde_json::to_string(path).unwrap());
            let bench = Bench::with_config(db, dir, SourceType::File, &config).await;
            let ended = bench.run().await;
            found(&bench, ended).await
        }
        Input::Reads { contents, options } => {
            let bench = Bench::new(db, options).await;
            let mut ended = Err(TaskError::fail("test", ("nothing was read", "何も読んでいません")));
            for content in contents {
                std::fs::write(bench.dir.path().join("data.ndjson"), content).unwrap();
                ended = bench.run().await;
            }
            found(&bench, ended).await
        }
        Input::Directory { prepare, path, options, then } => {
            let dir = TempDir::new().unwrap();
            prepare(dir.path());
            let config = format!(r#"{{"path":{}{options}}}"#, serde_json::to_string(path).unwrap());
            let bench = Bench::with_config(db, dir, SourceType::File, &config).await;
            // The peak is counted from here.
            std::fs::write("/proc/self/clear_refs", "5").unwrap();
            let before = memory("VmRSS");
            let ended = match then {
                Some(change) => run_while(&bench, change).await,
                None => bench.run().await,
            };
            let grown = memory("VmHWM").saturating_sub(before);
            assert!(grown < MEMORY_LIMIT_KIB, "`{path}` took {grown} KiB of memory");
            found(&bench, ended).await
        }
        Input::Http { answers, options, runs } => {
            let origin = server::start(answers).await;
            let dir = TempDir::new().unwrap();
            let config = format!(r#"{{"url":"{origin}/1"{options}}}"#);
            let roots = FileRoots::open([dir.path()]).unwrap();
            let mut bench = Bench::with_config(db, dir, SourceType::Api, &config).await;
            let policy = Policy::new(["127.0.0.1".parse().unwrap()]);
            bench.registry = Registry::new(roots, HttpClient::new(policy), Clock::system());
            let mut ended = bench.run().await;
            for _ in 1..runs {
                ended = bench.run().await;
            }
            found(&bench, ended).await
        }
    }
}

/// Runs a task, and changes its directory as soon as its first page is committed.
async fn run_while(bench: &Bench, change: fn(&Path)) -> Result<TaskOutcome, TaskError> {
    let task = bench.claim().await;
    let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
    let (handler, claimed) = (bench.handler(), task.clone());
    let run = tokio::spawn(async move { handler.run(claimed, ctx).await });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while pages_committed(bench).await == 0 {
        assert!(!run.is_finished(), "it ended before its first page");
        assert!(tokio::time::Instant::now() < deadline, "no page was committed");
        tokio::task::yield_now().await;
    }
    assert!(!run.is_finished(), "there was nothing left to read");
    change(bench.dir.path());
    let ended = run.await.unwrap();
    bench.abandon(&task).await;
    ended
}

async fn pages_committed(bench: &Bench) -> i64 {
    let key = CheckpointKey { source_id: bench.source_id, stream: String::new(), purpose: LIVE.to_owned() };
    let mut reader = bench.db.read().await.unwrap();
    checkpoints::find(&mut reader.conn(), &key).await.unwrap().map_or(0, |checkpoint| checkpoint.page_seq)
}

/// What became of each of the lines, in their order.
pub async fn run_lines(db: &Db, lines: &[Case]) -> Vec<Outcome> {
    let bench = Bench::new(db, "").await;
    let mut text = Vec::new();
    let mut starts = Vec::new();
    let mut next = 1;
    for case in lines {
        let Input::Line(bytes) = &case.input else { unreachable!("only lines are here") };
        starts.push(next);
        next += 1 + bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
        text.extend_from_slice(bytes);
        text.push(b'\n');
    }
    std::fs::write(bench.dir.path().join("data.ndjson"), text).unwrap();
    let result = bench.run().await.unwrap().result;
    let rows = rows(&bench).await;
    assert_eq!(count(&result, "stored") + count(&result, "quarantined"), rows.len() as u64, "{result}");
    assert_eq!(count(&result, "read"), rows.len() as u64, "{result}");
    starts.push(next);
    let outcome = |(index, case): (usize, &Case)| {
        let Input::Line(bytes) = &case.input else { unreachable!("only lines are here") };
        let mut outcome = Outcome::default();
        for found in rows.iter().filter(|found| (starts[index]..starts[index + 1]).contains(&found.line)) {
            match &found.what {
                What::Stored(text) => outcome.stored.push(text.clone()),
                What::Quarantined { reason, raw } => {
                    // Kept as it came, or its beginning.
                    let kept = bytes.windows(raw.len().max(1)).any(|part| part == raw);
                    outcome.quarantined.push(if kept { reason.clone() } else { format!("{reason}, altered") });
                }
            }
        }
        outcome.stored = shown(outcome.stored);
        outcome
    };
    lines.iter().enumerate().map(outcome).collect()
}

async fn found(bench: &Bench, ended: Result<TaskOutcome, TaskError>) -> Outcome {
    let mut outcome = Outcome::default();
    for row in rows(bench).await {
        match row.what {
            What::Stored(text) => outcome.stored.push(text),
            What::Quarantined { reason, .. } => outcome.quarantined.push(reason),
        }
    }
    outcome.stored = shown(outcome.stored);
    if let Err(err) = ended {
        let all = std::iter::once(*err.message).chain(err.causes).map(|words| words.english);
        let says = all.collect::<Vec<_>>().join(": ");
        if outcome.stored.len() == 1 && outcome.stored[0].ends_with("records") {
            outcome.stored = vec![SOME.to_owned()];
        }
        outcome.failed = Some(Failure { reason: err.reason, advice: err.advice, says });
    }
    outcome
}

/// A row of the store, and the line of the source that it is from.
struct Kept {
    line: u64,
    what: What,
}

enum What {
    Stored(String),
    Quarantined { reason: String, raw: Vec<u8> },
}

/// What is stored of a source, then what is in quarantine, each in the order of the source.
async fn rows(bench: &Bench) -> Vec<Kept> {
    #[derive(serde::Deserialize)]
    struct Place {
        line: Option<u64>,
        record: Option<u64>,
    }
    let line = |row: &Row, column: &str| {
        let place: Place = serde_json::from_str(row.json(column).unwrap().get()).unwrap();
        place.line.or(place.record).unwrap()
    };
    // JSONB writes spaces, so that a record at the limit comes back longer.
    let mut canonicaliser = Canonicaliser::new(Limits { record_bytes: 64 << 20, ..Limits::default() });
    let mut reader = bench.db.read().await.unwrap();
    let mut conn = reader.conn();
    let mut kept = Vec::new();
    let sql = "select raw_data, data_hash, metadata, version from acquired_data where source_id = $1 order by id";
    for row in conn.fetch_all(sql, &[Arg::from(bench.source_id)]).await.unwrap() {
        let raw = row.json("raw_data").unwrap();
        let canonical = canonicaliser.canonicalise(raw.get().as_bytes()).unwrap();
        // Equal by value to what was hashed before it went in.
        assert_eq!(canonical.hash_hex(), row.text("data_hash").unwrap(), "{}", canonical.text);
        let version = match row.int("version").unwrap() {
            1 => String::new(),
            later => format!("#{later}"),
        };
        kept.push(Kept { line: line(&row, "metadata"), what: What::Stored(format!("{}{version}", canonical.text)) });
    }
    let sql = "select reason, raw, position from quarantine where source_id = $1 order by id";
    for row in conn.fetch_all(sql, &[Arg::from(bench.source_id)]).await.unwrap() {
        let (reason, raw) = (row.text("reason").unwrap(), row.bytes("raw").unwrap());
        kept.push(Kept { line: line(&row, "position"), what: What::Quarantined { reason, raw } });
    }
    kept
}

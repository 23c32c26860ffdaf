//! Python programs with the released `celery` package: what they send becomes one task each, and their results come back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::redis::RedisServer;
use support::{Home, postgres_home, until, write};

/// Python with the package; `scripts/install-missing` makes it.
fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let python = cache.join("matome/tools/celery-5.7.0/bin/python");
    assert!(python.exists(), "{} is missing: scripts/install-missing", python.display());
    python
}

/// The beginning of each program: `send` as the original application sends, with its queues and databases.
const PRODUCER: &str = r"
import json, sys
from celery import Celery, chain
url = sys.argv[1]
acquisition = Celery('acquisition', broker=f'{url}/1', backend=f'{url}/1')
aggregation = Celery('aggregation', broker=f'{url}/0', backend=f'{url}/0')
def fetch(source, **options):
    return acquisition.send_task('apps.data_acquisition.tasks.fetch_data', args=[source], queue='acquisition_queue', **options)
def combine(source, **options):
    return aggregation.send_task('apps.data_aggregation.tasks.combine_data', args=[source], queue='aggregation_queue', **options)
def outcome(result):
    try:
        return {'value': result.get(timeout=50)}
    except Exception as error:
        return {'error': type(error).__name__, 'says': str(error), 'state': result.state}
";

/// Runs a program after [`PRODUCER`]; it prints one JSON value.
async fn produce(redis: &RedisServer, program: &str) -> Value {
    let (url, program) = (format!("redis://127.0.0.1:{}", redis.port), format!("{PRODUCER}{program}"));
    let run = move || Command::new(python()).arg("-c").arg(program).arg(url).stdin(Stdio::null()).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn home(redis: &RedisServer) -> Home {
    let home = Home { redis_url: Some(redis.url()), ..postgres_home().await };
    write(&home.files().join("orders.ndjson"), "{\"n\":1}\n{\"n\":2}\n");
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn send_task_runs_sources_and_aggregations_and_its_results_come_back() {
    let redis = RedisServer::start(&[]);
    let home = home(&redis).await;
    let server = home.serve().await;
    let orders = server.source("orders", "file", json!({ "path": "orders.ndjson", "files": "all" })).await;
    let gone = server.source("gone", "file", json!({ "path": "missing.ndjson" })).await;
    let sum = server.aggregation("sum", "select sum(n) as n from orders").await;
    let told = produce(
        &redis,
        &format!(
            "
first = outcome(fetch({orders}))
again = outcome(fetch('{orders}', compression='zlib', priority=6))
named = outcome(acquisition.send_task('apps.data_acquisition.tasks.fetch_data', kwargs={{'source_id': {orders}}}, queue='acquisition_queue'))
print(json.dumps({{'first': first, 'again': again, 'named': named, 'sum': outcome(combine({sum})), 'gone': outcome(fetch({gone})),
    'nobody': outcome(fetch(4711)), 'late': outcome(fetch({orders}, expires=-5)),
    'pickled': outcome(fetch({orders}, serializer='pickle')),
    'other': outcome(acquisition.send_task('another.task', args=[1], queue='acquisition_queue'))}}))"
        ),
    )
    .await;
    assert_eq!(told["first"]["value"]["stored"], 2, "{told}");
    assert_eq!(told["again"]["value"]["duplicate"], 2, "{told}");
    assert!(told["named"]["value"]["read"].is_number(), "{told}");
    assert!(told["sum"]["value"].is_object(), "{told}");
    let failed = |name: &str| {
        assert_eq!(told[name]["error"], "RuntimeError", "{name}: {told}");
        told[name]["says"].as_str().unwrap().to_owned()
    };
    assert!(failed("gone").contains("missing.ndjson"), "{told}");
    assert!(failed("nobody").contains("there is no data source with the id 4711"), "{told}");
    assert!(failed("pickled").contains("task_serializer = 'json'"), "{told}");
    assert!(failed("other").contains("`another.task`"), "{told}");
    assert_eq!(
        (&told["late"]["error"], &told["late"]["state"]),
        (&json!("TaskRevokedError"), &json!("REVOKED")),
        "{told}"
    );
    let rows = server.get("/api/aggregation/data/").await;
    assert_eq!(rows["results"][0]["data"], json!({ "n": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_becomes_one_task_however_often_the_workers_die() {
    let redis = RedisServer::start(&[]);
    let home = home(&redis).await;
    let mut server = home.serve().await;
    let token = server.token.clone();
    let mut sources = Vec::new();
    for n in 0..60 {
        sources.push(server.source(&format!("orders{n}"), "file", json!({ "path": "orders.ndjson" })).await);
    }
    server.kill();
    // All that is sent while nobody listens waits; then processes die while they take it.
    let ids = produce(&redis, &format!("print(json.dumps([fetch(n).id for n in {}]))", json!(sources))).await;
    assert_eq!(ids.as_array().unwrap().len(), 60);
    redis.cli(&["-n", "1", "lpush", "acquisition_queue", "no message"]);
    for _ in 0..4 {
        let mut server = home.serve_again(token.clone()).await;
        server.kill();
    }
    let server = home.serve_again(token).await;
    let succeeded = "/api/acquisition/tasks/?status=succeeded";
    until("all calls have run", async || server.get(succeeded).await["count"] == 60).await;
    until("and none waits", async || {
        let results = redis.cli(&["-n", "1", "--raw", "keys", "celery-task-meta-*"]);
        results.lines().count() == 60
    })
    .await;
    assert_eq!(server.get("/api/acquisition/tasks/").await["count"], 60, "one task each");
    assert_eq!(redis.cli(&["-n", "1", "llen", "acquisition_queue"]), "0");
    home.ok(&["db", "check", "--full"]);
}

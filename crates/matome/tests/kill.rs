//! `kill -9` at random moments and a restart: nothing lost, nothing doubled, no manual step.
//!
//! The seed is printed; `MATOME_SEED=n` repeats a run. The moments are random, the outcome must not be.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::Query;
use axum::routing::get;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use support::{Home, Server, homes, write};

const FILE_ROWS: usize = 6_000;
const API_ROWS: usize = 300;
/// Distinct values of `n` in the file, and rows of an aggregation over it.
const GROUPS: usize = FILE_ROWS - FILE_ROWS / 10;
const KILLS: usize = 8;
const KILLS_AT_START: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn after_random_kills_the_records_are_those_of_a_run_without() {
    let seed: u64 = std::env::var("MATOME_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}: repeat with MATOME_SEED={seed}");
    let address = upstream().await;
    let storms = homes().await.into_iter().map(|mut home| async move {
        home.extra = vec!["--egress-allow".to_owned(), format!("127.0.0.1/32:{}", address.port())];
        // Every tenth row is equal to its neighbour: equal rows of one read are all kept.
        let row = |n: usize| format!("{{\"n\":{},\"名前\":\"行{}\"}}\n", n - usize::from(n % 10 == 1), n / 100);
        write(&home.files().join("rows.ndjson"), (0..FILE_ROWS).map(row).collect::<String>());
        Storm { home, address, rng: rand::rngs::SmallRng::seed_from_u64(seed), seed }.rage().await;
    });
    futures::future::join_all(storms).await;
}

struct Storm {
    home: Home,
    address: std::net::SocketAddr,
    rng: rand::rngs::SmallRng,
    seed: u64,
}

impl Storm {
    async fn rage(mut self) {
        // While the process makes its directory, its database and its key.
        self.kill_starts(KILLS_AT_START).await;
        let mut server = self.home.serve().await;
        let base = self.source(&server, "base", 0).await;
        server.run("acquisition", base).await;

        // A lane whose worker is dead waits a few seconds for its next one on PostgreSQL, so each round has new
        // ones, for a kill that falls into their work.
        let (mut sources, mut tasks) = (Vec::new(), Vec::new());
        for round in 0..KILLS {
            let wide = format!("select n, count(*) as copies, {round} as round from base group by n");
            let wide = server.aggregation(&format!("wide{round}"), &wide).await;
            tasks.push(server.start("aggregation", wide).await);
            let source = self.source(&server, &format!("rows{round}"), round).await;
            tasks.push(server.start("acquisition", source).await);
            sources.push(source);
            self.pause(5..800).await;
            server.kill();
            self.check("after a kill", &[]);
            // While it takes up what the process before left.
            self.kill_starts(1).await;
            server = self.home.serve().await;
            let shown = server.get("/api/aggregation/data/?page_size=1").await["count"].as_u64().unwrap();
            assert!(shown.is_multiple_of(GROUPS as u64), "{self}: {shown} rows are visible");
        }
        for task in &tasks {
            let row = server.ended(task).await;
            assert_eq!(row["status"], "succeeded", "{self}: {row}");
        }
        for (round, source) in sources.into_iter().enumerate() {
            self.compare(&server, source, round).await;
        }
        let shown = server.get("/api/aggregation/data/?page_size=1").await["count"].clone();
        assert_eq!(shown, json!(KILLS * GROUPS), "{self}: rows of all aggregations");
        let running = server.get("/api/acquisition/tasks/?status=running").await["count"].clone();
        assert_eq!(running, json!(0), "{self}");
        self.check("beside the server", &["--full"]);
        assert_eq!(server.terminate(), Some(0), "{self}");
        self.check("at rest", &["--full"]);
    }

    async fn pause(&mut self, millis: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(millis))).await;
    }

    async fn kill_starts(&mut self, times: usize) {
        for _ in 0..times {
            let mut child = self.home.spawn();
            self.pause(0..50).await;
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Everything that must always hold does, whatever a kill left.
    fn check(&self, when: &str, args: &[&str]) {
        let output = self.home.run(&[&["db", "check", "-o", "ndjson"], args].concat());
        let report = String::from_utf8_lossy(&output.stdout);
        let broken: Vec<&str> = report.lines().filter(|line| !line.contains(r#""status":"ok""#)).collect();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self} {when}: {broken:#?} {error}");
    }

    /// A file with and without deduplication, and a list over HTTP, in turn.
    async fn source(&self, server: &Server, name: &str, round: usize) -> i64 {
        match round % 3 {
            0 => server.source(name, "file", json!({ "path": "rows.ndjson" })).await,
            1 => server.source(name, "file", json!({ "path": "rows.ndjson", "dedupe": "none" })).await,
            _ => {
                let url = format!("http://{}/rows", self.address);
                let pagination = json!({ "type": "next_link", "next": "$.next" });
                server
                    .source(name, "api", json!({ "url": url, "records": "$.results", "pagination": pagination }))
                    .await
            }
        }
    }

    /// A source has exactly the records of a run without a kill, and its counter says so.
    async fn compare(&self, server: &Server, source: i64, round: usize) {
        let (rows, equal) = if round % 3 == 2 { (API_ROWS, false) } else { (FILE_ROWS, true) };
        let expected = (0..rows).map(|n| (n - usize::from(equal && n % 10 == 1)) as u64);
        let (id, token) = (source.to_string(), &server.token);
        let export = ["data", "export", "--source", &id, "--server", &server.base, "--token", token];
        let stored = self.home.ok(&export);
        let stored = stored.lines().map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            record["n"].as_u64().unwrap()
        });
        let (stored, expected) = (counted(stored), counted(expected));
        assert!(stored == expected, "{self}: source {round} has {} records", stored.values().sum::<u64>());
        let count = server.get(&format!("/api/acquisition/data/?source={source}")).await["count"].clone();
        assert_eq!(count, json!(rows), "{self}: the counter of source {round}");
    }
}

impl std::fmt::Display for Storm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} seed {}", self.home.name, self.seed)
    }
}

fn counted(values: impl Iterator<Item = u64>) -> BTreeMap<u64, u64> {
    values.fold(BTreeMap::new(), |mut map, n| {
        *map.entry(n).or_default() += 1;
        map
    })
}

#[derive(serde::Deserialize)]
struct Page {
    #[serde(default)]
    page: usize,
}

/// A paged list over HTTP, a little slow, so that kills fall between its pages.
async fn upstream() -> std::net::SocketAddr {
    async fn rows(Query(Page { page }): Query<Page>) -> axum::Json<Value> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let from = page * 20;
        let results: Vec<Value> = (from..(from + 20).min(API_ROWS)).map(|n| json!({ "n": n })).collect();
        let next = (from + 20 < API_ROWS).then(|| format!("/rows?page={}", page + 1));
        axum::Json(json!({ "results": results, "next": next }))
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/rows", get(rows))).await });
    address
}

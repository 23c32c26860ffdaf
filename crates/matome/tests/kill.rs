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
use support::{Home, homes, write};

const FILE_ROWS: usize = 12_000;
const API_ROWS: usize = 600;
const KILLS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn after_random_kills_the_records_are_those_of_a_run_without() {
    let seed: u64 = std::env::var("MATOME_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}: repeat with MATOME_SEED={seed}");
    let address = upstream().await;
    for mut home in homes().await {
        home.extra = vec!["--egress-allow".to_owned(), format!("127.0.0.1/32:{}", address.port())];
        storm(&home, address, seed).await;
    }
}

async fn storm(home: &Home, address: std::net::SocketAddr, seed: u64) {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    // Every tenth row is equal to its neighbour: equal rows of one read are all kept.
    let row = |n: usize| format!("{{\"n\":{},\"名前\":\"行{}\"}}\n", n - usize::from(n % 10 == 1), n / 100);
    write(&home.files().join("rows.ndjson"), (0..FILE_ROWS).map(row).collect::<String>());
    let mut server = home.serve().await;
    let plain = json!({ "path": "rows.ndjson" });
    let rows = server.source("rows", "file", plain.clone()).await;
    let each = server.source("each", "file", json!({ "path": "rows.ndjson", "dedupe": "none" })).await;
    let url = format!("http://{address}/rows");
    let paged = json!({ "url": url, "records": "$.results", "pagination": { "type": "next_link", "next": "$.next" } });
    let api = server.source("api", "api", paged).await;
    let sum = server.aggregation("sum", "select count(*) as n, sum(n) as s from rows").await;
    let tasks = vec![
        server.start("acquisition", rows).await,
        server.start("acquisition", each).await,
        server.start("acquisition", api).await,
    ];
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..600))).await;
        server.kill();
        server = home.serve().await;
        server.start("aggregation", sum).await;
    }
    for task in &tasks {
        let row = server.ended(task).await;
        assert_eq!(row["status"], "succeeded", "{} seed {seed}: {row}", home.name);
    }
    server.run("aggregation", sum).await;

    let expected: BTreeMap<u64, u64> = (0..FILE_ROWS).fold(BTreeMap::new(), |mut map, n| {
        *map.entry((n - usize::from(n % 10 == 1)) as u64).or_default() += 1;
        map
    });
    for source in [rows, each] {
        let stored = counted(&server.all(&format!("/api/acquisition/data/?source={source}")).await);
        assert!(
            stored == expected,
            "{} seed {seed}: source {source} has {} records",
            home.name,
            stored.values().sum::<u64>()
        );
        let count = server.get(&format!("/api/acquisition/data/?source={source}")).await["count"].clone();
        assert_eq!(count, json!(FILE_ROWS), "{} seed {seed}: the counter of {source}", home.name);
    }
    let stored = counted(&server.all(&format!("/api/acquisition/data/?source={api}")).await);
    assert!(
        stored.len() == API_ROWS && stored.values().all(|n| *n == 1),
        "{} seed {seed}: {}",
        home.name,
        stored.len()
    );
    let result = server.all(&format!("/api/aggregation/data/?source={sum}")).await;
    assert_eq!(result.len(), 1, "{} seed {seed}: one published run", home.name);
    assert_eq!(result[0]["data"]["n"], json!(FILE_ROWS), "{} seed {seed}", home.name);
    let running = server.get("/api/acquisition/tasks/?status=running").await["count"].clone();
    assert_eq!(running, json!(0), "{} seed {seed}", home.name);
}

fn counted(rows: &[Value]) -> BTreeMap<u64, u64> {
    rows.iter().fold(BTreeMap::new(), |mut map, row| {
        *map.entry(row["raw_data"]["n"].as_u64().unwrap()).or_default() += 1;
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

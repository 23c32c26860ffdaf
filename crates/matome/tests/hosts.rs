//! How many tasks read from one host at a time (`rate.concurrent`), on real workers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Home, Server, homes, postgres_home, until};

/// Tasks at a time.
const LIMIT: usize = 2;
const SOURCES: usize = 6;
const PAGES: usize = 25;

/// A list of [`PAGES`] slow pages, which counts how many requests it has at a time.
#[derive(Clone, Default)]
struct Upstream {
    at_once: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Upstream {
    async fn listen(&self) -> SocketAddr {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            page: usize,
        }
        let upstream = self.clone();
        let page = async move |axum::extract::Query(Page { page }): axum::extract::Query<Page>| {
            // Dropped also when whoever asked has gone.
            let _counted = Counted(upstream.at_once.clone());
            let now = upstream.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            upstream.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let next = (page + 1 < PAGES).then(|| format!("/rows?page={}", page + 1));
            axum::Json(json!({ "results": [{ "n": page }], "next": next }))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().route("/rows", axum::routing::get(page));
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }
}

fn config(host: &str, address: SocketAddr, rate: Option<usize>) -> Value {
    let mut config = json!({
        "url": format!("http://{host}:{}/rows", address.port()), "records": "$.results", "dedupe": "none",
        "pagination": { "type": "next_link", "next": "$.next" }
    });
    if let Some(concurrent) = rate {
        config["rate"] = json!({ "concurrent": concurrent });
    }
    config
}

/// Sources of one host, of which the last alone says how many may read; all of them start.
async fn start_all(server: &Server, address: SocketAddr) -> Vec<(i64, String)> {
    let mut ids = Vec::new();
    for n in 0..SOURCES {
        let rate = (n == SOURCES - 1).then_some(LIMIT);
        ids.push(server.source(&format!("rows{n}"), "api", config("127.0.0.1", address, rate)).await);
    }
    let mut started = Vec::new();
    for id in ids {
        started.push((id, server.start("acquisition", id).await));
    }
    started
}

async fn lanes(server: &Server, state: &str) -> Vec<Value> {
    server.get(&format!("/api/lanes/?state={state}")).await["results"].as_array().unwrap().clone()
}

/// Each source has each page once.
fn whole(home: &Home, server: &Server, source: i64) {
    let id = source.to_string();
    let exported = home.ok(&["data", "export", "--source", &id, "--server", &server.base, "--token", &server.token]);
    let mut pages: Vec<u64> =
        exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap()).collect();
    pages.sort_unstable();
    assert_eq!(pages, (0..PAGES as u64).collect::<Vec<_>>(), "source {source}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_has_no_more_readers_than_it_may_and_others_pass_those_who_wait() {
    for home in homes().await {
        let upstream = Upstream::default();
        let address = upstream.listen().await;
        let home = home.reaching(address);
        let server = home.serve().await;
        let started = start_all(&server, address).await;
        let other = server.source("other", "api", config("localhost", address, None)).await;
        until("the host is full", async || lanes(&server, "host_full").await.len() == SOURCES - LIMIT).await;
        let full = lanes(&server, "host_full").await;
        for lane in &full {
            assert_eq!((&lane["host"], &lane["host_limit"]), (&json!("127.0.0.1"), &json!(LIMIT)), "{lane}");
            assert_eq!((&lane["host_running"], &lane["task"]), (&json!(LIMIT), &Value::Null), "{lane}");
        }
        assert_eq!(upstream.most.load(Ordering::SeqCst), LIMIT, "{}", home.name);
        let shown =
            home.ok(&["task", "lanes", "--state", "running", "--server", &server.base, "--token", &server.token]);
        assert!(shown.contains("rows0") && shown.contains(&server.child.id().to_string()), "{}: {shown}", home.name);

        // Another host is read meanwhile, although its task came last.
        let task = server.start("acquisition", other).await;
        until("it runs", async || server.get(&task).await["status"] != "pending").await;
        assert!(!lanes(&server, "host_full").await.is_empty(), "{}: the others still wait", home.name);
        assert_eq!(server.ended(&task).await["status"], "succeeded");
        for (source, task) in &started {
            assert_eq!(server.ended(task).await["status"], "succeeded", "{}", home.name);
            whole(&home, &server, *source);
        }
        // That of the other host may have come on top.
        assert!(upstream.most.load(Ordering::SeqCst) <= LIMIT + 1, "{}", home.name);

        // Without the source that asked for it there is no limit.
        let last = started[SOURCES - 1].0;
        let (status, _) = server.send("DELETE", &format!("/api/acquisition/sources/{last}/"), None).await;
        assert_eq!(status, 204);
        let first = server.get(&format!("/api/lanes/?object_id={}&kind=source", started[0].0)).await;
        assert_eq!(first["results"][0]["host_limit"], Value::Null, "{first}");
        home.ok(&["db", "check", "--full"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_killed_worker_is_given_to_others_and_never_twice() {
    let upstream = Upstream::default();
    let address = upstream.listen().await;
    let mut home = postgres_home().await;
    let server = home.web().await;
    let _beat = home.beat();
    home = home.reaching(address);
    let mut workers = [home.worker("acquisition", 4), home.worker("acquisition", 4)];
    let started = start_all(&server, address).await;
    until("the host is full", async || lanes(&server, "running").await.len() == LIMIT).await;
    let holder = lanes(&server, "running").await[0]["worker"]["pid"].as_u64().unwrap();
    let holder = workers.iter_mut().find(|worker| u64::from(worker.child.id()) == holder).unwrap();
    let pid = u64::from(holder.child.id());
    holder.kill();
    let killed = Instant::now();
    until("others read from the host as many as may", async || {
        let running = lanes(&server, "running").await;
        running.len() == LIMIT && running.iter().all(|lane| lane["worker"]["pid"] != pid)
    })
    .await;
    let took = killed.elapsed();
    println!("places of a killed worker were taken after {} ms", took.as_millis());
    for (source, task) in &started {
        assert_eq!(server.ended(task).await["status"], "succeeded");
        whole(&home, &server, *source);
    }
    assert_eq!(upstream.most.load(Ordering::SeqCst), LIMIT);
    home.ok(&["db", "check", "--full"]);
}

//! A task that is there when workers die: alone in a process of its own from the second death on. What happens to that
//! process then happens to the task, and to nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::Path;
use serde_json::{Value, json};
use support::{Home, Server, homes, until, write};
use tokio::sync::watch;

/// A server that keeps its clients waiting until it is told to answer.
struct Upstream {
    address: std::net::SocketAddr,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    open: watch::Sender<bool>,
}

async fn upstream() -> Upstream {
    let (open, gate) = watch::channel(false);
    let asked = Arc::new(Mutex::new(BTreeMap::new()));
    let counts = Arc::clone(&asked);
    let answer = async move |Path(name): Path<String>| {
        *counts.lock().unwrap().entry(name).or_default() += 1;
        gate.clone().wait_for(|open| *open).await.unwrap();
        axum::Json(json!((0..50).map(|n| json!({ "n": n })).collect::<Vec<Value>>()))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/{name}", axum::routing::get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Upstream { address, asked, open }
}

/// The processes of single tasks that `server` has started.
fn children(server: &Server) -> Vec<u32> {
    let of_process = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; behind it come state and parent.
        let parent: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        (parent == server.child.id() && command.contains("task-child")).then_some(pid)
    };
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(of_process).collect()
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // One that nobody waits for any more is dead all the same.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

const NAMES: [&str; 4] = ["a", "b", "c", "cancelled"];

async fn suspected(mut home: Home) {
    let (upstream, name) = (upstream().await, home.name);
    home.extra = vec!["--egress-allow".into(), format!("127.0.0.1/32:{}", upstream.address.port())];
    write(&home.files().join("good.ndjson"), "{\"n\":1}\n{\"n\":2}\n");
    let mut server = home.serve().await;
    let token = server.token.clone();
    let mut tasks = BTreeMap::new();
    for source in NAMES {
        let config = json!({ "url": format!("http://{}/{source}", upstream.address), "timeout_secs": 3600 });
        let id = server.source(source, "api", config).await;
        tasks.insert(source, (id, server.start("acquisition", id).await));
    }
    let all_asked = |times: usize| {
        let asked = upstream.asked.lock().unwrap();
        NAMES.iter().all(|name| asked.get(*name) == Some(&times))
    };
    for deaths in 1..=2 {
        until("all are being read", async || all_asked(deaths)).await;
        assert!(children(&server).is_empty(), "{name}: not yet suspected");
        server.kill();
        server = home.serve_again(token.clone()).await;
    }
    until("all are being read alone", async || all_asked(3)).await;
    assert_eq!(children(&server).len(), NAMES.len(), "{name}");

    // A person cancels one; its process is gone within two seconds, with its task.
    let (asked, task) = (Instant::now(), &tasks["cancelled"].1);
    assert_eq!(server.send("POST", &format!("{task}cancel/"), Some(json!({}))).await.0, 200);
    assert_eq!(server.ended(task).await["status"], "cancelled", "{name}");
    assert!(asked.elapsed() < Duration::from_secs(2), "{name}: {:?}", asked.elapsed());
    until("its process is gone", async || children(&server).len() == NAMES.len() - 1).await;

    // One is killed: its task is what kills, and nobody else has noticed. Which it is, its connection does not tell.
    let victim = children(&server)[0];
    assert!(std::process::Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap().success());
    let poisoned = async || {
        let failed = server.get("/api/acquisition/tasks/?status=failed").await;
        failed["results"].as_array().unwrap().first().cloned()
    };
    until("it has failed", async || poisoned().await.is_some()).await;
    let poisoned = poisoned().await.unwrap();
    assert_eq!(poisoned["error"]["reason"], "poison", "{name}: {poisoned}");
    assert!(poisoned["error"]["causes"][0].as_str().unwrap().contains("signal 9"), "{name}: {poisoned}");
    let good = server.source("good", "file", json!({ "path": "good.ndjson" })).await;
    assert_eq!(server.run("acquisition", good).await["result"]["stored"], 2, "{name}");

    // The whole server dies: its children with it, and none of the tasks is blamed for that.
    let orphans = children(&server);
    assert_eq!(orphans.len(), NAMES.len() - 2, "{name}");
    server.kill();
    until("the children are gone", async || !orphans.iter().any(|pid| is_alive(*pid))).await;
    upstream.open.send(true).unwrap();
    let mut server = home.serve_again(token).await;
    let mut succeeded = 0;
    for (source, (id, task)) in &tasks {
        let row = server.ended(task).await;
        if row["id"] == poisoned["id"] || *source == "cancelled" {
            continue;
        }
        assert_eq!((&row["status"], &row["result"]["stored"]), (&json!("succeeded"), &json!(50)), "{name}: {row}");
        let stored = server.all(&format!("/api/acquisition/data/?source={id}")).await;
        assert_eq!(stored.len(), 50, "{name}: {source}");
        succeeded += 1;
    }
    assert_eq!(succeeded, 2, "{name}");
    // What the processes of single tasks counted is told by the one that can be asked.
    let metrics = server.client.get(format!("{}/metrics", server.base)).bearer_auth(&server.token);
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    let stored =
        metrics.lines().find_map(|line| line.strip_prefix("matome_acquisition_records_total{outcome=\"stored\"} "));
    assert_eq!(stored, Some("100"), "{name}: {metrics}");
    home.ok(&["db", "check", "--full"]);
    assert_eq!(server.terminate(), Some(0), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_two_workers_died_with_runs_alone_and_fails_alone() {
    futures::future::join_all(homes().await.into_iter().map(suspected)).await;
}

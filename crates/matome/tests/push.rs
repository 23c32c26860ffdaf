//! Records that are sent, on the real binary: what was answered with 202 is stored once, whatever is killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use support::{Home, Server, homes, sqlite_home, until, write};

/// Of one push; more than a page of SQLite.
const RECORDS: usize = 1_200;

async fn post(server: &Server, id: i64, key: &str, body: String) -> reqwest::Result<u16> {
    let request = server.client.post(format!("{}/api/acquisition/sources/{id}/records/", server.base));
    let request = request.bearer_auth(&server.token).header("content-type", "application/x-ndjson");
    Ok(request.header("idempotency-key", key).body(body).send().await?.status().as_u16())
}

fn lines(push: usize) -> String {
    (0..RECORDS).map(|n| format!("{{\"push\":{push},\"n\":{n}}}\n")).collect()
}

async fn stored(server: &Server, id: i64) -> Value {
    server.get(&format!("/api/acquisition/data/?source={id}&page_size=1")).await["count"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_read_after_a_kill_before_its_task() {
    for home in homes().await {
        let mut server = home.serve().await;
        let token = server.token.clone();
        let id = server.source("events", "push", json!({ "format": "auto" })).await;
        let path = format!("/api/acquisition/sources/{id}");
        // So that no task begins before the kill.
        server.send("POST", &format!("{path}/pause/"), None).await;
        assert_eq!(post(&server, id, "a", lines(1)).await.unwrap(), 202, "{}", home.name);
        server.kill();
        server = home.serve_again(token).await;
        assert_eq!(stored(&server, id).await, 0, "{}", home.name);
        assert_eq!(post(&server, id, "a", lines(1)).await.unwrap(), 202, "{}: known", home.name);
        server.send("POST", &format!("{path}/resume/"), None).await;
        until("what was sent is read", async || stored(&server, id).await == RECORDS).await;
        until("its push is known as read", async || post(&server, id, "a", lines(1)).await.unwrap() == 200).await;
        assert_eq!(post(&server, id, "a", lines(2)).await.unwrap(), 422, "{}", home.name);
        home.ok(&["db", "check", "--full"]);
        server.terminate();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_tries_again_through_kills_has_everything_stored_once() {
    let seed: u64 = std::env::var("MATOME_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}: repeat with MATOME_SEED={seed}");
    for home in homes().await {
        let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
        let mut server = home.serve().await;
        let token = server.token.clone();
        let id = server.source("events", "push", json!({ "format": "auto" })).await;
        let mut pushes = 0..30;
        let mut open = pushes.next();
        for _ in 0..6 {
            let until_death = Duration::from_millis(rng.random_range(20..400));
            let sending = async {
                while let Some(push) = open {
                    let Ok(202 | 200) = post(&server, id, &format!("push-{push}"), lines(push)).await else {
                        return;
                    };
                    open = pushes.next();
                }
            };
            let _ = tokio::time::timeout(until_death, sending).await;
            server.kill();
            server = home.serve_again(token.clone()).await;
        }
        while let Some(push) = open {
            let status = post(&server, id, &format!("push-{push}"), lines(push)).await.unwrap();
            assert!(status == 202 || status == 200, "{}: {status}", home.name);
            open = pushes.next();
        }
        until("all is read", async || stored(&server, id).await == 30 * RECORDS).await;
        until("no task is open", async || {
            let open = server.get("/api/acquisition/tasks/?status__in=pending,running&page_size=1").await;
            open["count"] == 0
        })
        .await;
        let rows = home.ok(&["data", "export", "--source", "events", "-o", "ndjson"]);
        let found: BTreeSet<(u64, u64)> = rows
            .lines()
            .map(|line| {
                let row: Value = serde_json::from_str(line).unwrap();
                (row["push"].as_u64().unwrap(), row["n"].as_u64().unwrap())
            })
            .collect();
        assert_eq!((rows.lines().count(), found.len()), (30 * RECORDS, 30 * RECORDS), "{}", home.name);
        home.ok(&["db", "check", "--full"]);
        server.terminate();
    }
}

fn push(home: &Home, args: &[&str], input: &str) -> std::process::Output {
    let mut all = vec!["source", "push", "events"];
    all.extend(args);
    let mut child =
        home.command(&all).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end before it reads.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_sends_files_in_pieces_and_again_without_doubling() {
    let home = sqlite_home();
    let mut server = home.serve().await;
    home.ok(&["source", "add", "events", "--type", "push"]);
    let id = server.get("/api/acquisition/sources/?name=events").await["results"][0]["id"].as_i64().unwrap();
    // Of 10 MiB: three pieces.
    let text = "x".repeat(1_000);
    let file = home.files().join("events.ndjson");
    write(&file, (0..10_000).map(|n| format!("{{\"n\":{n},\"text\":\"{text}\"}}\n")).collect::<String>());
    for _ in 0..2 {
        let output = push(&home, &[file.to_str().unwrap(), "-o", "json", "--progress", "json"], "");
        assert!(output.status.success(), "{output:?}");
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let records: u64 = rows.iter().map(|row| row["records"].as_u64().unwrap()).sum();
        assert_eq!((rows.len(), records), (3, 10_000), "{rows:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("\"unit\":\"bytes\"") && told.contains("\"state\":\"sent\""), "{told}");
    }
    until("the file is read", async || stored(&server, id).await == 10_000).await;

    let more = push(&home, &["-", "--format", "csv", "--idempotency-key", "k", "-o", "json"], "n\n1\n2\n");
    let rows: Vec<Value> = serde_json::from_slice(&more.stdout).unwrap();
    assert_eq!((rows.len(), &rows[0]["records"]), (1, &json!(2)), "{more:?}");
    let says = |args: &[&str], input: &str| {
        let output = push(&home, args, input);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, told) = says(&["-"], "{}");
    assert!(code == Some(2) && told.contains("--format"), "{told}");
    let (code, told) = says(&["-", "--format", "csv", "--idempotency-key", "k"], "n\n3\n");
    assert!(code == Some(2) && told.contains("another key"), "{told}");
    let (code, told) = says(&["-", "--format", "json"], "[{},");
    assert!(code == Some(2) && told.contains("Line 1"), "{told}");
    let (code, told) = says(&["none.json"], "");
    assert!(code == Some(2) && told.contains("none.json"), "{told}");
    until("all is read", async || stored(&server, id).await == 10_002).await;
    home.ok(&["db", "check", "--full"]);
    server.terminate();
}

/// As a reader of GitHub's documentation would try it.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_webhook_of_github_comes_in_by_curl() {
    let home = sqlite_home();
    let mut server = home.serve().await;
    let webhook = json!({"scheme": "github", "secret": "It's a Secret to Everybody"});
    let config = json!({"format": "csv", "header": ["greeting", "name"], "headers": ["X-Shop"], "webhook": webhook});
    let id = server.source("hook", "push", config).await;
    let curl = |body: &str| {
        let output = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "X-GitHub-Delivery: 1", "--data-binary", body])
            .args(["-H", "X-GitHub-Event: push", "-H", "X-Shop: 東京", "-H", "X-Other: no"])
            .args([
                "-H",
                "X-Hub-Signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
            ])
            .arg(format!("{}/api/acquisition/sources/{id}/webhook/", server.base))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(curl("Hello, World!"), "202");
    assert_eq!(curl("Hello, world!"), "401");
    until("it is stored", async || stored(&server, id).await == 1).await;
    let row = server.get(&format!("/api/acquisition/data/?source={id}")).await["results"][0].clone();
    assert_eq!(row["raw_data"], json!({"greeting": "Hello", "name": " World!"}));
    assert_eq!(row["metadata"]["document"], "push 1");
    let headers = json!({"x-github-delivery": "1", "x-github-event": "push", "x-shop": "東京"});
    assert_eq!(row["metadata"]["headers"], headers, "what only headers say is kept, signatures are not");
    assert_eq!(curl("Hello, World!"), "200");
    let metrics =
        server.client.get(format!("{}/metrics", server.base)).bearer_auth(&server.token).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        r#"matome_push_requests_total{way="webhook",outcome="accepted"} 1"#,
        r#"matome_push_requests_total{way="webhook",outcome="duplicate"} 1"#,
        r#"matome_push_requests_total{way="webhook",outcome="unauthenticated"} 1"#,
        "matome_push_waiting_bytes 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let log = server.log.lock().unwrap().join("\n");
    assert!(log.contains("no signature matches") && !log.contains("Everybody"), "{log}");
    server.terminate();
}

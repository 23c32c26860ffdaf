//! Records in quarantine through the real binary: looked at, replayed, discarded, and killed in between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Home, homes, write};

const ROWS: usize = 900;
const KILLS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn replays_are_stored_once_whatever_is_killed_while_they_go_on() {
    let runs = homes().await.into_iter().map(replays_with_kills);
    futures::future::join_all(runs).await;
}

async fn replays_with_kills(home: Home) {
    // Every third row has no id. The dedupe mode would not notice a row stored twice.
    let row =
        |n: usize| if n.is_multiple_of(3) { format!("{{\"n\":{n}}}\n") } else { format!("{{\"id\":1,\"n\":{n}}}\n") };
    write(&home.files().join("rows.ndjson"), (0..ROWS).map(row).collect::<String>());
    let rules = json!({"rules": [{"field": "id", "required": true}]});
    let mut server = home.serve().await;
    let config = json!({"path": "rows.ndjson", "dedupe": "none", "validation": rules});
    let source = server.source("rows", "file", config.clone()).await;
    let task = server.run("acquisition", source).await;
    assert_eq!(
        (&task["result"]["stored"], &task["result"]["quarantined"]),
        (&json!(600), &json!(300)),
        "{}",
        home.name
    );
    // What is replayed from now on is good, and the source is not read again.
    let mut config = config;
    config.as_object_mut().unwrap().remove("validation");
    let (status, body) =
        server.send("PATCH", &format!("/api/acquisition/sources/{source}/"), Some(json!({"config": config}))).await;
    assert_eq!(status, 200, "{body}");

    let held = server.all(&format!("/api/acquisition/quarantine/?source={source}&status=held")).await;
    let ids: Vec<i64> = held.iter().map(|row| row["id"].as_i64().unwrap()).collect();
    for (round, ids) in ids.chunks(ROWS / 3 / KILLS).enumerate() {
        // The kill falls into the request, into the task, or behind both.
        let url = format!("{}/api/acquisition/quarantine/replay/", server.base);
        let request = server
            .client
            .post(url)
            .bearer_auth(&server.token)
            .header("content-type", "application/json")
            .body(json!({ "ids": ids }).to_string());
        let asked = tokio::spawn(request.send());
        tokio::time::sleep(Duration::from_millis(4 << round)).await;
        server.kill();
        let _ = asked.await;
        check(&home);
        server = home.serve().await;
    }
    // What a killed request left held is asked for again.
    let body = json!({ "source": source });
    let (status, done) = server.send("POST", "/api/acquisition/quarantine/replay/", Some(body)).await;
    assert_eq!(status, 202, "{done}");
    support::until("all are replayed", async || {
        let waiting = server.get(&format!("/api/acquisition/quarantine/?source={source}&status=replayed")).await;
        waiting["count"] == json!(300)
    })
    .await;
    let mut stored: Vec<u64> = server
        .all(&format!("/api/acquisition/data/?source={source}"))
        .await
        .iter()
        .map(|row| row["raw_data"]["n"].as_u64().unwrap())
        .collect();
    stored.sort_unstable();
    assert_eq!(stored, (0..ROWS as u64).collect::<Vec<_>>(), "{}: each row once", home.name);
    let outcomes = server.all(&format!("/api/acquisition/quarantine/?source={source}")).await;
    assert!(outcomes.iter().all(|row| row["outcome"] == "stored"), "{}", home.name);
    check(&home);
    assert_eq!(server.terminate(), Some(0));
    check(&home);
}

fn check(home: &Home) {
    let output = home.run(&["db", "check", "-o", "ndjson"]);
    assert!(output.status.success(), "{}: {}", home.name, String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn the_command_line_shows_corrects_and_discards() {
    for home in homes().await {
        write(&home.files().join("people.csv"), "id,age\n1,30\n2\n3,-4\n4,-5\n");
        let roots = home.files();
        let config =
            r#"{"path":"people.csv","types":{"age":"integer"},"validation":{"rules":[{"field":"age","min":0}]}}"#;
        let with_root = ["--file-root", roots.to_str().unwrap()];
        let ok = |args: &[&str]| home.ok(&[args, &with_root].concat());
        ok(&["source", "add", "people", "--type", "file", "--config", config, "--interval", "0"]);
        ok(&["source", "run", "people", "--wait"]);
        let rows = ok(&["quarantine", "list", "--source", "people", "-o", "json"]);
        let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
        let [second, first, width] = &rows[..] else { panic!("{}: {rows:?}", home.name) };
        assert_eq!(width["reason"], "csv_width");
        assert!(first["detail"].as_str().unwrap().starts_with("/age: -4 is less than 0"), "{first}");
        let id = |row: &Value| row["id"].to_string();
        assert_eq!(ok(&["quarantine", "raw", &id(width)]), "2", "{}: the bytes of the row", home.name);
        assert!(ok(&["quarantine", "show", &id(first)]).contains("people.csv"));

        // A row of CSV is read by the config of today, which it still does not fit.
        let shown = ok(&["quarantine", "replay", &id(width), "--wait", "-o", "json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((&shown["status"], &shown["outcome"]), (&json!("held"), &json!("quarantined")), "{shown}");
        assert_eq!(shown["position"]["fields"], json!(["id", "age"]), "{shown}");
        // What is no JSON where JSON is wanted has to be written as the object that it was meant to be.
        write(&home.files().join("lines.ndjson"), "[1]\n");
        ok(&["source", "add", "lines", "--path", "lines.ndjson", "--interval", "0"]);
        ok(&["source", "run", "lines", "--wait"]);
        let line = ok(&["quarantine", "list", "--source", "lines", "-o", "json"]);
        let line = serde_json::from_str::<Vec<Value>>(&line).unwrap()[0]["id"].to_string();
        let refused = home.run(&[&["quarantine", "replay", &line], &with_root[..]].concat());
        assert_eq!(refused.status.code(), Some(6), "{}: {refused:?}", home.name);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("no JSON object"), "{refused:?}");
        let left = home.run(&[&["quarantine", "replay", "--source", "lines"], &with_root[..]].concat());
        assert!(left.status.success(), "{}: {left:?}", home.name);
        let told = String::from_utf8_lossy(&left.stderr);
        assert!(told.contains("left as they are: 1; no JSON object"), "{}: {told}", home.name);
        let raw = r#"{"id":"2","age":7}"#;
        let shown = ok(&["quarantine", "replay", &id(width), "--raw", raw, "--wait", "-o", "json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((&shown["status"], &shown["outcome"]), (&json!("replayed"), &json!("stored")), "{}", home.name);
        let shown = ok(&["quarantine", "replay", &id(first), "--wait", "-o", "json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((&shown["status"], &shown["outcome"]), (&json!("held"), &json!("quarantined")), "{}", home.name);

        let unconfirmed = home.run(&["quarantine", "discard", &id(second)]);
        assert_eq!(unconfirmed.status.code(), Some(2), "{}", home.name);
        let done = ok(&["quarantine", "discard", "--source", "people", "--reason", "rule", "--yes", "-o", "json"]);
        assert_eq!(serde_json::from_str::<Value>(&done).unwrap()["done"], 2, "{}", home.name);
        let data = ok(&["data", "export", "--source", "people"]);
        assert_eq!(data.lines().count(), 2, "{}: {data}", home.name);
        check(&home);
    }
}

//! No room to write: refused with a reason, waited for without burning attempts, left by itself. The room is the quota of
//! `--max-database`, which SQLite refuses to exceed with the error of a full disk; that runs anywhere, without a disk to fill.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::{Home, Server, sqlite_home, until, write};

const RECORDS: u64 = 9_000;

async fn storage(server: &Server) -> Value {
    let reply = server.client.get(format!("{}/readyz", server.base)).send().await.unwrap();
    let status = reply.status().as_u16();
    let body: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
    assert_eq!(status == 200, body["checks"]["storage"] == "ok", "{body}");
    body["checks"]["storage"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_work_and_goes_on_by_itself_when_there_is_room() {
    let home = Home { extra: vec!["--max-database".into(), "16".into()], ..sqlite_home() };
    let lines: String = (0..RECORDS).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "x".repeat(900))).collect();
    write(&home.files().join("ballast.ndjson"), &lines);
    write(&home.files().join("wanted.ndjson"), &lines);
    let mut server = home.serve().await;
    assert_eq!(storage(&server).await, "ok");
    let ballast = server.source("ballast", "file", json!({ "path": "ballast.ndjson" })).await;
    let wanted = server.source("wanted", "file", json!({ "path": "wanted.ndjson" })).await;
    server.run("acquisition", ballast).await;
    let task = server.start("acquisition", wanted).await;
    until("the disk is full", async || storage(&server).await == "disk_full").await;

    // New work is refused with a remedy; what looks, stops work or gives room back is not.
    let body = json!({ "name": "more", "source_type": "file", "config": { "path": "x.ndjson" } });
    let (status, refused) = server.send("POST", "/api/acquisition/sources/", Some(body)).await;
    assert_eq!(status, 507, "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("free some disk space"), "{refused}");
    let (status, _) = server.send("POST", &format!("/api/acquisition/sources/{ballast}/run/"), Some(json!({}))).await;
    assert_eq!(status, 507);
    let refused = home.run(&["source", "add", "more", "--path", "x.ndjson", "--lang", "ja"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("空きがありません"), "{refused:?}");
    assert!(server.get("/api/acquisition/data/?page_size=1").await["count"].as_u64() >= Some(RECORDS));

    // The task waits with its reason, and no attempt of it counts.
    let waits = async || {
        let row = server.get(&task).await;
        row["status"] == "pending" && row["error"]["reason"] == "disk_full"
    };
    until("the task waits", waits).await;
    assert_eq!(server.get(&task).await["attempt"], 0);

    let (status, _) = server.send("DELETE", &format!("/api/acquisition/sources/{ballast}/"), None).await;
    assert_eq!(status, 204);
    let row = server.ended(&task).await;
    assert_eq!((&row["status"], &row["attempt"]), (&json!("succeeded"), &json!(0)), "{row}");
    assert_eq!(storage(&server).await, "ok");
    assert_eq!(server.terminate(), Some(0));

    let exported = home.ok(&["data", "export", "--source", "wanted"]);
    let found: Vec<u64> =
        exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap()).collect();
    assert_eq!(found.len() as u64, RECORDS);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), (0..RECORDS).collect());
    let verdicts = home.ok(&["db", "check", "--full"]);
    assert!(!verdicts.contains("violated"), "{verdicts}");
}

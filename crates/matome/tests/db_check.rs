//! `matome db check` on the real binary: beside a server, after a kill, on a database with something broken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use matome_store::db::{DataDir, Db};
use serde_json::{Value, json};
use support::{Home, homes, write};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_at_work_after_a_kill_and_at_rest_has_nothing_broken() {
    for home in homes().await {
        write(&home.files().join("rows.ndjson"), "{\"n\":1}\n{\"n\":2.50}\nno json\n{\"n\":2.50}\n");
        let mut server = home.serve().await;
        let source = server.source("rows", "file", json!({ "path": "rows.ndjson" })).await;
        let sum = server.aggregation("sum", "select n, count(*) as copies from rows group by n").await;
        server.run("acquisition", source).await;
        server.run("aggregation", sum).await;
        let table = home.ok(&["db", "check"]);
        assert!(table.starts_with("invariant\tstatus\twhat\twhere\nstorage\tok\t"), "{}: {table}", home.name);
        assert!(!table.contains("violated"), "{}: {table}", home.name);
        home.ok(&["db", "check", "--full"]);
        let told = home.ok(&["db", "check", "-o", "json", "--lang", "ja"]);
        for verdict in serde_json::from_str::<Vec<Value>>(&told).unwrap() {
            let what = verdict["what"].as_str().unwrap();
            assert!(what.chars().any(|c| ('\u{3040}'..='\u{30ff}').contains(&c)), "{verdict}");
        }
        server.kill();
        home.ok(&["db", "check", "--full"]);
        // It left the directory as it was: the next process still learns of the kill, and starts.
        if home.database_url.is_none() {
            assert!(DataDir::acquire(&home.data_dir()).unwrap().was_unclean());
        }
        assert_eq!(home.serve().await.terminate(), Some(0));
        home.ok(&["db", "check", "--full"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_told_and_the_exit_code_is_1() {
    for home in homes().await {
        write(&home.files().join("rows.ndjson"), "{\"n\":1}\n");
        let mut server = home.serve().await;
        let source = server.source("rows", "file", json!({ "path": "rows.ndjson" })).await;
        server.run("acquisition", source).await;
        assert_eq!(server.terminate(), Some(0));
        miscount(&home).await;

        let output = home.run(&["db", "check", "-o", "json"]);
        let verdicts: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let broken: Vec<&Value> = verdicts.iter().filter(|verdict| verdict["status"] != "ok").collect();
        assert_eq!(broken.len(), 1, "{}: {broken:?}", home.name);
        assert_eq!(broken[0]["invariant"], "record_count");
        assert_eq!(broken[0]["count"], 1);
        assert_eq!(broken[0]["where"], json!([format!("source {source} stream '': counter 8, rows 1")]));
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("error: 1 of ") && stderr.contains("\nhelp: "), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_nothing_is_made() {
    let home = support::sqlite_home();
    let output = home.run(&["db", "check"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: there is no database in `"));
    assert!(!home.data_dir().exists());
}

async fn miscount(home: &Home) {
    let db = match &home.database_url {
        Some(url) => Db::connect_postgres(url, Uuid::new_v4(), 1).await.unwrap(),
        None => Db::open_embedded(DataDir::acquire(&home.data_dir()).unwrap()).await.unwrap(),
    };
    db.write(|conn| Box::pin(async move { conn.execute("update counters set row_count = row_count + 7", &[]).await }))
        .await
        .unwrap();
    db.close().await;
}

//! Sources with a key on the real binary: versions in SQL and over the API.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{homes, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_a_key_is_a_table_of_newest_versions_and_one_of_all() {
    for home in homes().await {
        let server = home.serve().await;
        let file = home.files().join("stock.ndjson");
        write(&file, "{\"id\":1,\"n\":10}\n{\"id\":2,\"n\":20}\n");
        let stock = server.source("stock", "file", json!({ "path": "stock.ndjson", "key": "id" })).await;
        server.run("acquisition", stock).await;
        write(&file, "{\"id\":1,\"n\":11}\n{\"id\":2,\"n\":20}\n{\"id\":3,\"n\":30}\n");
        let task = server.run("acquisition", stock).await;
        assert_eq!((&task["result"]["stored"], &task["result"]["updated"]), (&json!(2), &json!(1)), "{task}");

        let rows = async |name: &str, sql: &str| -> Vec<Value> {
            let id = server.aggregation(name, sql).await;
            server.run("aggregation", id).await;
            let rows = server.all(&format!("/api/aggregation/data/?source={id}")).await;
            rows.into_iter().map(|row| row["data"].clone()).collect()
        };
        let newest = rows("newest", "select id, n, _version as v, length(_key) as k from stock order by id").await;
        assert_eq!(
            newest,
            [
                json!({"id": 1, "n": 11, "v": 2, "k": 32}),
                json!({"id": 2, "n": 20, "v": 1, "k": 32}),
                json!({"id": 3, "n": 30, "v": 1, "k": 32})
            ],
            "{}",
            home.name
        );
        let sql =
            "select id, count(*) as versions, count(distinct _key) as keys from stock__history group by id order by id";
        let all = rows("all", sql).await;
        assert_eq!(
            all,
            [
                json!({"id": 1, "versions": 2, "keys": 1}),
                json!({"id": 2, "versions": 1, "keys": 1}),
                json!({"id": 3, "versions": 1, "keys": 1})
            ],
            "{}",
            home.name
        );

        // Without a key there is no history, and records are what they are.
        let plain = server.source("plain", "file", json!({ "path": "stock.ndjson" })).await;
        server.run("acquisition", plain).await;
        let rows = rows("plain rows", "select count(*) as n, count(_key) as keys, max(_version) as v from plain").await;
        assert_eq!(rows, [json!({"n": 3, "keys": 0, "v": 1})], "{}", home.name);
        let id = server.aggregation("none", "select * from plain__history").await;
        let task = server.start("aggregation", id).await;
        let task = server.ended(&task).await;
        assert_eq!((&task["status"], &task["error"]["reason"]), (&json!("failed"), &json!("unknown_table")), "{task}");
    }
}

/// What a source no longer has: over the API, in exports, in SQL and through the command line.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_gone_is_shown_as_gone_everywhere() {
    for home in homes().await {
        let server = home.serve().await;
        let file = home.files().join("stock.ndjson");
        let line = |id: usize| format!("{{\"id\":{id},\"n\":{}}}\n", id * 10);
        write(&file, (1..=3).map(line).collect::<String>());
        let config = json!({ "path": "stock.ndjson", "key": "id", "deletes": "tombstone" });
        let stock = server.source("stock", "file", config).await;
        server.run("acquisition", stock).await;
        let before = server.get(&format!("/api/acquisition/sources/{stock}/")).await["last_fetched_at"].clone();
        write(&file, line(1) + &line(2));
        let task = server.run("acquisition", stock).await;
        assert_eq!((&task["result"]["deleted"], &task["result"]["stored"]), (&json!(1), &json!(0)), "{task}");

        let data = format!("/api/acquisition/data/?source={stock}");
        let gone = server.get(&format!("{data}&deleted=true")).await;
        let tombstone = &gone["results"][0];
        assert_eq!(
            (&gone["count"], &tombstone["deleted"], &tombstone["version"], &tombstone["data_hash"]),
            (&json!(1), &json!(true), &json!(2), &Value::Null),
            "{gone}"
        );
        assert_eq!(tombstone["raw_data"], json!({"id": 3, "n": 30}), "{gone}");
        let count =
            async |query: &str| server.get(&format!("{data}{query}")).await["results"].as_array().unwrap().len();
        assert_eq!(count("").await, 4, "{}", home.name);
        assert_eq!(count("&deleted=false").await, 3, "{}", home.name);
        assert_eq!(count("&latest=true").await, 2, "{}", home.name);
        let now = tombstone["acquired_at"].as_str().unwrap();
        assert_eq!(count(&format!("&as_of={now}")).await, 2, "{}", home.name);
        assert_eq!(count(&format!("&as_of={}", before.as_str().unwrap())).await, 3, "{}", home.name);
        let id = tombstone["id"].to_string();
        let history = server.get(&format!("/api/acquisition/data/{id}/history/")).await;
        let told: Vec<_> = history["results"].as_array().unwrap().iter().map(|row| row["deleted"].clone()).collect();
        assert_eq!(told, [true, false], "{history}");
        let diff = home.ok(&["data", "diff", &id, "-o", "ndjson"]);
        assert_eq!(diff.lines().filter(|line| line.contains("\"removed\"")).count(), 2, "{diff}");
        let lines = |args: &[&str]| {
            let mut all = vec!["data", "export", "--source", "stock"];
            all.extend(args);
            home.ok(&all).lines().count()
        };
        assert_eq!((lines(&[]), lines(&["--latest"])), (3, 2), "{}", home.name);

        for (name, sql, wanted) in [
            ("now", "select count(*) as n, sum(n) as s from stock", json!({"n": 2, "s": 30})),
            (
                "then",
                "select count(*) as n, count(_hash) as s from stock__history where id = 3",
                json!({"n": 2, "s": 1}),
            ),
        ] {
            let id = server.aggregation(name, sql).await;
            server.run("aggregation", id).await;
            let rows = server.all(&format!("/api/aggregation/data/?source={id}")).await;
            assert_eq!(rows[0]["data"], wanted, "{}: {name}", home.name);
        }

        // Most of it gone is for a person to say.
        write(&file, "");
        let run = |args: &[&str]| {
            let mut all = vec!["source", "run", "stock", "--wait"];
            all.extend(args);
            home.command(&all).env("FILE_ROOTS", home.files()).output().unwrap()
        };
        let refused = run(&[]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("2 of 2 keys did not come"), "{}: {said}", home.name);
        assert_eq!(count("&latest=true").await, 2, "{}", home.name);
        let confirmed = run(&["--confirm-deletes"]);
        assert!(confirmed.status.success(), "{}: {}", home.name, String::from_utf8_lossy(&confirmed.stderr));
        assert_eq!(count("&latest=true").await, 0, "{}", home.name);
        let listed = home.ok(&["data", "query", "--source", "stock", "-o", "csv"]);
        let column = listed.lines().next().unwrap().split(',').position(|name| name == "deleted").unwrap();
        let is_deleted = |line: &&str| line.split(',').nth(column) == Some("true");
        assert!(listed.lines().filter(is_deleted).count() >= 2, "{}: tombstones are told: {listed}", home.name);
        home.ok(&["db", "check", "--full"]);
    }
}

/// Rules and a key that come later, on the command line, while the source itself is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_judged_again_without_its_source() {
    for home in homes().await {
        let server = home.serve().await;
        let file = home.files().join("stock.ndjson");
        write(&file, "{\"id\":1,\"n\":1}\n{\"id\":2,\"n\":20}\n{\"id\":1,\"n\":2}\n");
        let stock = server.source("stock", "file", json!({ "path": "stock.ndjson", "dedupe": "hash" })).await;
        server.run("acquisition", stock).await;
        std::fs::remove_file(&file).unwrap();
        let run = |args: &[&str]| {
            let out = home.command(args).env("FILE_ROOTS", home.files()).output().unwrap();
            let (told, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            (out.status.code(), format!("{told}{said}"))
        };
        let count =
            async |query: &str| server.all(&format!("/api/acquisition/data/?source={stock}{query}")).await.len();

        home.ok(&["source", "set", "stock", "--set", r#"validation={"rules":[{"field":"n","max":10}]}"#]);
        let (code, said) = run(&["source", "revalidate", "stock", "--wait", "--strict"]);
        assert_eq!(code, Some(8), "{}: {said}", home.name);
        assert!(
            said.contains("2 records would stay") && said.contains("1 (rule 1) would go to quarantine"),
            "{}: {said}",
            home.name
        );
        assert!(said.contains("/n: 20") && said.contains("revalidate stock --apply"), "{}: {said}", home.name);
        assert_eq!(count("").await, 3, "{}: only told", home.name);
        let (code, said) = run(&["source", "revalidate", "stock", "--apply", "--wait", "--strict"]);
        assert_eq!(code, Some(8), "{}: {said}", home.name);
        assert!(said.contains("1 records went to quarantine"), "{}: {said}", home.name);
        assert_eq!(count("").await, 2, "{}", home.name);

        home.ok(&[
            "source",
            "set",
            "stock",
            "--unset",
            "validation",
            "--unset",
            "dedupe",
            "--set",
            "key=id",
            "--on-change",
            "full",
        ]);
        let (code, said) = run(&["source", "revalidate", "stock", "--wait"]);
        assert!(code == Some(0) && said.contains("1 would come back from it"), "{}: {said}", home.name);
        let (code, said) = run(&["source", "revalidate", "stock", "--apply", "--wait", "-o", "json"]);
        assert_eq!(code, Some(0), "{}: {said}", home.name);
        let task: Value = serde_json::from_str(said.trim()).unwrap();
        let result = &task["result"];
        assert_eq!(
            (&result["read"], &result["changed"], &result["replayed"], &result["requests"]),
            (&json!(3), &json!(2), &json!(1), &json!(0)),
            "{}: {task}",
            home.name
        );
        assert_eq!(
            (count("").await, count("&latest=true").await, count("&version=2").await),
            (3, 2, 1),
            "{}",
            home.name
        );
        let path = format!("/api/acquisition/sources/{stock}/revalidate/");
        let (status, wrong) = server.send("POST", &path, Some(json!({ "since": "soon" }))).await;
        assert!(status == 400 && wrong["since"].is_array(), "{}: {wrong}", home.name);
        let (status, wrong) = server.send("POST", &path, Some(json!({ "apply": "perhaps" }))).await;
        assert!(status == 400 && wrong["apply"].is_array(), "{}: {wrong}", home.name);
        let asked = json!({ "since": "2020-01-01", "apply": true });
        let (status, accepted) = server.send("POST", &path, Some(asked)).await;
        assert_eq!(status, 202, "{}: {accepted}", home.name);
        let task = server.ended(&format!("/api/acquisition/tasks/{}/", accepted["id"])).await;
        assert_eq!((&task["status"], &task["result"]["unchanged"]), (&json!("succeeded"), &json!(3)), "{task}");
        home.ok(&["db", "check", "--full"]);
    }
}

/// Types that come later, on the command line, while the source itself is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_gets_the_types_of_today_without_its_source() {
    for home in homes().await {
        let server = home.serve().await;
        let file = home.files().join("orders.csv");
        write(&file, "id,n\n1,10\n2,x\n3,2.50\n");
        let orders = server.source("orders", "file", json!({ "path": "orders.csv", "dedupe": "hash" })).await;
        server.run("acquisition", orders).await;
        std::fs::remove_file(&file).unwrap();
        let run = |args: &[&str]| {
            let out = home.command(args).env("FILE_ROOTS", home.files()).output().unwrap();
            let (told, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            (out.status.code(), format!("{told}{said}"))
        };
        home.ok(&["source", "set", "orders", "--set", r#"types={"n":"number"}"#]);
        let (code, said) = run(&["source", "revalidate", "orders", "--wait"]);
        assert!(code == Some(0) && said.contains("2 would change, 1 (schema 1) would go to quarantine"), "{said}");
        let (code, said) = run(&["source", "revalidate", "orders", "--apply", "--wait"]);
        assert!(code == Some(0) && said.contains("1 records went to quarantine"), "{}: {said}", home.name);
        let records = server.all(&format!("/api/acquisition/data/?source={orders}")).await;
        let mut values: Vec<String> = records.iter().map(|record| record["raw_data"]["n"].to_string()).collect();
        values.sort();
        assert_eq!(values, ["10", "2.5"], "{}", home.name);
        home.ok(&["db", "check", "--full"]);
    }
}

/// Everything that removes records, through the command line and beside a server that reads on; the invariants hold.
#[tokio::test(flavor = "multi_thread")]
async fn records_are_reset_deleted_and_shown_as_they_were() {
    for home in homes().await {
        let server = home.serve().await;
        let file = home.files().join("stock.ndjson");
        let lines = |n: usize| (0..2_000).map(|id| format!("{{\"id\":{id},\"n\":{n}}}\n")).collect::<String>();
        let stock = server.source("stock", "file", json!({ "path": "stock.ndjson", "key": "id" })).await;
        let mut times = Vec::new();
        for n in 1..=3 {
            write(&file, lines(n));
            server.run("acquisition", stock).await;
            times.push(server.get(&format!("/api/acquisition/sources/{stock}/")).await["last_fetched_at"].clone());
        }
        let cli = |args: &[&str]| {
            let mut all: Vec<&str> = args.to_vec();
            all.extend(["-o", "ndjson"]);
            home.ok(&all)
        };
        // The third read began behind the second.
        let second = times[1].as_str().unwrap();
        let shown = cli(&["data", "query", "--source", "stock", "--as-of", second, "--limit", "150"]);
        assert_eq!(shown.lines().count(), 150, "{}", home.name);
        assert!(
            shown.lines().all(|line| line.contains("\"n\":2") || line.contains("\"n\": 2")),
            "{}: {shown}",
            home.name
        );
        let exported = cli(&["data", "export", "--source", "stock", "--as-of", second]);
        assert_eq!(exported.lines().count(), 2_000, "{}", home.name);
        assert_eq!(cli(&["data", "export", "--source", "stock"]).lines().count(), 6_000, "{}", home.name);

        let newest = server.get(&format!("/api/acquisition/data/?source={stock}&latest=true&page_size=1")).await;
        assert_eq!(newest["count"], 2_000, "{}", home.name);
        let id = newest["results"][0]["id"].to_string();
        assert_eq!(cli(&["data", "history", &id]).lines().count(), 3, "{}", home.name);
        let diff = cli(&["data", "diff", &id]);
        assert_eq!(diff.trim(), r#"{"path":"/n","change":"changed","old":2,"new":3}"#, "{}", home.name);

        let count = async || server.get(&format!("/api/acquisition/data/?source={stock}")).await["count"].clone();
        cli(&["data", "delete", "--source", "stock", "--before", second, "--yes"]);
        support::until("the oldest are removed", async || count().await != 6_000).await;
        let unsaid = home.run(&["data", "delete", "--source", "stock", "--yes"]);
        assert_eq!(unsaid.status.code(), Some(2), "{unsaid:?}");
        let unsure = home.run(&["source", "reset", "stock", "--data"]);
        assert_eq!(unsure.status.code(), Some(2), "{unsure:?}");

        cli(&["source", "reset", "stock", "--data", "--yes"]);
        // Accepted at once; it starts when the last of the old records is gone.
        // Beside a server on PostgreSQL the command itself may take the task, so it has to know the file root.
        let run =
            home.command(&["source", "run", "stock", "--full", "--wait"]).env("FILE_ROOTS", home.files()).output();
        let run = run.unwrap();
        assert!(run.status.success(), "{}: {}", home.name, String::from_utf8_lossy(&run.stderr));
        assert_eq!(count().await, 2_000, "{}", home.name);
        let asks = home.run(&["source", "set", "stock", "--set", "key=n"]);
        assert!(!asks.status.success() && String::from_utf8_lossy(&asks.stderr).contains("on_change"), "{asks:?}");
        cli(&["source", "set", "stock", "--set", "retention.max_age_days=1", "--interval", "60"]);
        home.ok(&["db", "check", "--full"]);
    }
}

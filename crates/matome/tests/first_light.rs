//! The main job on the real binary: source -> acquired_data -> aggregation -> aggregated_data -> REST.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{Home, homes, sqlite_home, write};

const ORDERS: &str = "{\"id\":1,\"status\":\"paid\",\"amount\":10.10}\n{\"id\":2,\"status\":\"open\",\"amount\":0.05}\n\
{\"id\":3,\"status\":\"paid\",\"amount\":12345678901234567.89}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_record_travels_the_whole_way() {
    for home in homes().await {
        write(&home.files().join("orders.ndjson"), ORDERS);
        let server = home.serve().await;
        let path = home.files().join("orders.ndjson");
        let orders = server.source("orders", "file", json!({ "path": path, "format": "ndjson" })).await;
        let task = server.run("acquisition", orders).await;
        assert_eq!((&task["result"]["read"], &task["result"]["stored"]), (&json!(3), &json!(3)), "{task}");

        let data = server.get(&format!("/api/acquisition/data/?source={orders}&ordering=id")).await;
        assert_eq!(data["count"], 3);

        let sql = "select status, count(*) as n, sum(amount) as total from orders group by status order by status";
        let daily = server.aggregation("daily", sql).await;
        let task = server.run("aggregation", daily).await;
        let rows = server.all(&format!("/api/aggregation/data/?source={daily}")).await;
        let data: Vec<&Value> = rows.iter().map(|row| &row["data"]).collect();
        assert_eq!((data[0]["status"].as_str(), &data[0]["n"]), (Some("open"), &json!(1)), "{task}");
        assert_eq!((data[1]["status"].as_str(), &data[1]["n"]), (Some("paid"), &json!(2)));

        // A file that did not change is not read again; the aggregation replaces its rows.
        let again = server.run("acquisition", orders).await;
        assert_eq!((&again["result"]["stored"], &again["result"]["not_modified"]), (&json!(0), &json!(1)), "{again}");
        server.run("aggregation", daily).await;
        assert_eq!(server.get(&format!("/api/aggregation/data/?source={daily}")).await["count"], 2, "{}", home.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_numbers_reach_the_reader_of_the_raw_api() {
    for home in homes().await {
        write(&home.files().join("n.ndjson"), "{\"n\":12345678901234567890.12345678901234567890}\n");
        let server = home.serve().await;
        let id = server.source("n", "file", json!({ "path": "n.ndjson" })).await;
        server.run("acquisition", id).await;
        let url = format!("{}/api/acquisition/data/?source={id}", server.base);
        let text = server.client.get(url).bearer_auth(&server.token).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("12345678901234567890.1234567890123456789"), "{}: {text}", home.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_sql_is_refused_or_fails_and_the_server_lives_on() {
    for home in homes().await {
        let rows: String = (0..2000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        write(&home.files().join("t.ndjson"), rows);
        let server = home.serve().await;
        let t = server.source("t", "file", json!({ "path": "t.ndjson" })).await;
        server.run("acquisition", t).await;
        let hostile = [
            format!("select {} as x", vec!["1"; 5000].join("+")),
            format!("select * from t where {}", vec!["n = 1"; 20_000].join(" or ")),
            "create external table x stored as csv location '/etc/passwd'".to_owned(),
            "copy t to '/tmp/out.csv'".to_owned(),
            "select * from '/etc/passwd'".to_owned(),
            "select 1; select 2".to_owned(),
            "select * from no_such_table".to_owned(),
        ];
        let preview = server.aggregation("preview", "select 1 as one").await;
        for (n, sql) in hostile.iter().enumerate() {
            let body = json!({ "name": format!("hostile {n}"), "config": { "sql": sql } });
            let (status, answer) = server.send("POST", "/api/aggregation/sources/", Some(body)).await;
            if status == 201 {
                let task = server.start("aggregation", answer["id"].as_i64().unwrap()).await;
                let task = server.ended(&task).await;
                assert_eq!(task["status"], "failed", "{sql:.60}: {task}");
                assert!(!task["error"].is_null(), "{task}");
            } else {
                assert_eq!(status, 400, "{sql:.60}: {answer}");
                assert!(answer["config"]["sql"].is_array(), "{answer}");
            }
        }
        let cross = json!({ "name": "cross", "config": {
            "sql": "select count(*) as n from t a, t b, t c where a.n + b.n + c.n = -1", "timeout_secs": 2 } });
        let (status, row) = server.send("POST", "/api/aggregation/sources/", Some(cross)).await;
        assert_eq!(status, 201, "{row}");
        let task = server.start("aggregation", row["id"].as_i64().unwrap()).await;
        let task = server.ended(&task).await;
        assert_eq!(task["status"], "failed", "{task}");
        let slow = json!({ "name": "slow", "config": {
            "sql": "select count(*) as n from t a, t b, t c where a.n + b.n + c.n = -1", "deadline_secs": 1 } });
        let (status, row) = server.send("POST", "/api/aggregation/sources/", Some(slow)).await;
        assert_eq!(status, 201, "{row}");
        let task = server.start("aggregation", row["id"].as_i64().unwrap()).await;
        let task = server.ended(&task).await;
        assert_eq!((&task["status"], &task["error"]["reason"]), (&json!("failed"), &json!("deadline")), "{task}");
        assert_eq!(server.send("GET", "/livez", None).await.0, 200);
        let (status, rows) =
            server.send("POST", &format!("/api/aggregation/sources/{preview}/preview/"), Some(json!({}))).await;
        assert_eq!((status, &rows["rows"][0]["one"]), (200, &json!(1)), "{rows}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_leaves_nothing_running() {
    for home in homes().await {
        let mut server = home.serve().await;
        assert_eq!(server.terminate(), Some(0), "{}: {:#?}", home.name, server.log.lock().unwrap());
        let log = server.log.lock().unwrap().join("\n");
        assert!(!log.contains('\u{1b}'), "colours are for terminals: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_up_errors_say_what_and_what_to_do() {
    let home = sqlite_home();
    let server = home.serve().await;

    let port = server.base.rsplit(':').next().unwrap().to_owned();
    let other = sqlite_home();
    let output = other.run(&["serve", "--bind", &format!("127.0.0.1:{port}")]);
    refused(&output, 6, &["in use", "--bind"]);
    assert!(!other.data_dir().join("matome.db").exists(), "nothing is left half-made");

    let output = home.run(&["serve", "--bind", "127.0.0.1:0"]);
    refused(&output, 6, &["another matome process", "--data-dir"]);
    drop(server);

    let corrupt = sqlite_home();
    std::fs::create_dir(corrupt.data_dir()).unwrap();
    write(&corrupt.data_dir().join("matome.db"), "this is no database, whatever its name says".repeat(200));
    refused(&corrupt.run(&["serve", "--bind", "127.0.0.1:0"]), 3, &["not a readable database", "backup"]);

    let mut blocked = sqlite_home();
    blocked.extra.clear();
    write(&blocked.data_dir(), "a file where a directory must be");
    refused(&blocked.run(&["serve", "--bind", "127.0.0.1:0"]), 3, &["--data-dir"]);

    let unmigrated = Home { database_url: Some(matome_testbed::postgres_schema().await), ..sqlite_home() };
    refused(&unmigrated.run(&["serve", "--bind", "127.0.0.1:0"]), 3, &["matome migrate"]);

    let unreachable = Home { database_url: Some("postgres://nobody@127.0.0.1:1/none".to_owned()), ..sqlite_home() };
    // Away for now is no reason to give up; a command that is waited for does.
    let waiting = unreachable.member(&["serve", "--bind", "127.0.0.1:0"]);
    waiting.until_says("waiting: the database is not reachable");
    assert_eq!(waiting.says("check that the database runs and that DATABASE_URL is right"), 1);
    drop(waiting);
    refused(&unreachable.run(&["db", "check"]), 7, &["DATABASE_URL", "`127.0.0.1:1/none`: ", "refused"]);
    for url in ["mysql://u:hidden@127.0.0.1/x", "postgres://u:hidden@127.0.0.1:port/x"] {
        let wrong = Home { database_url: Some(url.to_owned()), ..sqlite_home() };
        let output = wrong.run(&["serve", "--bind", "127.0.0.1:0"]);
        refused(&output, 3, &["DATABASE_URL", "postgres://user"]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("hidden"));
    }

    let keyless = sqlite_home();
    let auth = r#"{"url":"https://example.com/","auth":{"type":"bearer","token":"x"}}"#;
    keyless.ok(&["source", "add", "guarded", "--type", "api", "--config", auth]);
    let key = keyless.data_dir().join("master.key");
    std::fs::remove_file(&key).unwrap();
    refused(&keyless.run(&["serve", "--bind", "127.0.0.1:0"]), 3, &["master.key", "backup", "--master-key-file"]);
    assert!(!key.exists(), "a new key would only hide that the old one is missing");
}

fn refused(output: &std::process::Output, code: i32, says: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in says {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

//! What runs of aggregations do with the rows before: replace, append, upsert; and the versions that stay.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use matome_store::db::{DataDir, Db};
use serde_json::{Value, json};
use support::{Home, Server, homes, sqlite_home, until, write};

/// A server with a source `orders`, whose file a test rewrites.
async fn with_orders(home: &Home) -> (Server, i64) {
    write(
        &home.files().join("orders.ndjson"),
        "{\"id\":1,\"day\":\"mon\",\"n\":10}\n{\"id\":2,\"day\":\"tue\",\"n\":20}\n",
    );
    let server = home.serve().await;
    let config = json!({ "path": "orders.ndjson" });
    let orders = server.source("orders", "file", config).await;
    server.run("acquisition", orders).await;
    (server, orders)
}

async fn add(server: &Server, name: &str, config: Value) -> i64 {
    let body = json!({ "name": name, "config": config });
    let (status, row) = server.send("POST", "/api/aggregation/sources/", Some(body)).await;
    assert_eq!(status, 201, "{row}");
    row["id"].as_i64().unwrap()
}

async fn change(server: &Server, id: i64, config: Value) {
    let body = json!({ "config": config });
    let (status, row) = server.send("PATCH", &format!("/api/aggregation/sources/{id}/"), Some(body)).await;
    assert_eq!(status, 200, "{row}");
}

/// `DAY=N` of each row, sorted.
async fn shown(server: &Server, query: &str) -> Vec<String> {
    let rows = server.all(&format!("/api/aggregation/data/?{query}")).await;
    let mut rows: Vec<String> =
        rows.iter().map(|row| format!("{}={}", row["data"]["day"].as_str().unwrap(), row["data"]["n"])).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn upsert_replaces_rows_of_the_same_key_and_keeps_the_rest() {
    for home in homes().await {
        let (server, orders) = with_orders(&home).await;
        let sql = "select day, sum(n) as n from orders where id > 1 group by day";
        let first = "select day, sum(n) as n from orders group by day";
        let config = |sql: &str| json!({ "sql": sql, "mode": "upsert", "key": ["day"], "keep_runs": 2 });
        let daily = add(&server, "daily", config(first)).await;
        let task = server.run("aggregation", daily).await;
        let version = task["result"]["run"].as_i64().unwrap();
        assert_eq!(shown(&server, &format!("source={daily}")).await, ["mon=10", "tue=20"], "{}", home.name);

        write(
            &home.files().join("orders.ndjson"),
            "{\"id\":3,\"day\":\"tue\",\"n\":5}\n{\"id\":4,\"day\":\"wed\",\"n\":7}\n",
        );
        server.run("acquisition", orders).await;
        change(&server, daily, config(sql)).await;
        let task = server.run("aggregation", daily).await;
        assert_eq!((&task["result"]["rows"], &task["result"]["superseded"]), (&json!(2), &json!(1)), "{task}");
        assert_eq!(shown(&server, &format!("source={daily}")).await, ["mon=10", "tue=25", "wed=7"], "{}", home.name);
        assert_eq!(shown(&server, &format!("run={version}")).await, ["mon=10", "tue=20"], "{}", home.name);

        // An aggregation over it reads what is shown.
        let over = server.aggregation("over", "select day, n from daily").await;
        server.run("aggregation", over).await;
        assert_eq!(shown(&server, &format!("source={over}")).await, ["mon=10", "tue=25", "wed=7"], "{}", home.name);

        let runs = server.get(&format!("/api/aggregation/runs/?source={daily}")).await;
        assert_eq!(runs["count"], 2, "{}: {runs}", home.name);
        let newest = &runs["results"][0];
        assert_eq!(
            (&newest["status"], &newest["mode"], &newest["rows"]),
            (&json!("current"), &json!("upsert"), &json!(2))
        );
        assert_eq!(newest["inputs"][0]["table"], "sources.orders", "{newest}");
        assert_eq!(newest["inputs"][0]["columns"][0], json!(["day", "text"]), "{newest}");
        assert!(newest["plan"].as_str().unwrap().contains("Aggregate"), "{newest}");
        let one = server.get(&format!("/api/aggregation/runs/{}/", newest["id"])).await;
        assert_eq!(&one, newest, "{}", home.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_says_nothing_fails_the_run_and_names_it() {
    for home in homes().await {
        let (server, _) = with_orders(&home).await;
        for (n, (sql, said)) in [
            ("select 'mon' as day, n from orders", "(day = \"mon\")"),
            ("select case when id = 1 then day end as day, n from orders order by id", "row 2"),
            ("select day as d, n from orders", "has no column `day`"),
            ("select cast(value % 2999 as text) as day, value as n from range(0, 3000)", "(day = \"0\")"),
        ]
        .into_iter()
        .enumerate()
        {
            let config = json!({ "sql": sql, "mode": "upsert", "key": ["day"] });
            let id = add(&server, &format!("wrong{n}"), config).await;
            let task = server.start("aggregation", id).await;
            let task = server.ended(&task).await;
            assert_eq!((&task["status"], &task["error"]["reason"]), (&json!("failed"), &json!("key")), "{task}");
            assert!(task["error"]["message"].as_str().unwrap().contains(said), "{}: {sql}: {task}", home.name);
            assert_eq!(server.get(&format!("/api/aggregation/data/?source={id}")).await["count"], 0, "{}", home.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn append_adds_and_replace_begins_anew() {
    for home in homes().await {
        let (server, _) = with_orders(&home).await;
        let sql = "select day, n from orders";
        let log = add(&server, "log", json!({ "sql": sql, "mode": "append" })).await;
        server.run("aggregation", log).await;
        server.run("aggregation", log).await;
        let twice = ["mon=10", "mon=10", "tue=20", "tue=20"];
        assert_eq!(shown(&server, &format!("source={log}")).await, twice, "{}", home.name);

        // Rows without a key cannot be upserted into.
        change(&server, log, json!({ "sql": sql, "mode": "upsert", "key": ["day"] })).await;
        let task = server.start("aggregation", log).await;
        let task = server.ended(&task).await;
        assert_eq!((&task["status"], &task["error"]["reason"]), (&json!("failed"), &json!("key")), "{task}");
        assert!(task["error"]["message"].as_str().unwrap().contains("--replace"), "{task}");
        assert_eq!(shown(&server, &format!("source={log}")).await, twice, "{}", home.name);

        home.ok(&["aggregate", "run", "log", "--replace", "--wait"]);
        assert_eq!(shown(&server, &format!("source={log}")).await, ["mon=10", "tue=20"], "{}", home.name);
        server.run("aggregation", log).await;
        assert_eq!(shown(&server, &format!("source={log}")).await, ["mon=10", "tue=20"], "{}", home.name);
        let runs = home.ok(&["aggregate", "runs", "log", "-o", "csv"]);
        assert!(runs.lines().nth(1).unwrap().contains("current,upsert,2"), "{}: {runs}", home.name);
        let id = runs.lines().nth(1).unwrap().split(',').next().unwrap().to_owned();
        let rows = home.ok(&["data", "query", "--aggregation", "log", "--run", &id, "-o", "ndjson"]);
        assert_eq!(rows.lines().count(), 2, "{}: {rows}", home.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_follows_its_sources_and_aggregations_also_through_a_kill() {
    for home in homes().await {
        let (mut server, orders) = with_orders(&home).await;
        let sql = "select day, sum(n) as n from orders group by day";
        let after = |after: Value| json!({ "sql": sql, "after": after });
        let daily = add(&server, "daily", after(json!({ "sources": ["orders"], "debounce_secs": 1 }))).await;
        let total = json!({ "sql": "select 'all' as day, sum(n) as n from daily",
            "after": { "aggregations": ["daily"], "debounce_secs": 0 } });
        let total = add(&server, "total", total).await;

        write(&home.files().join("orders.ndjson"), "{\"id\":5,\"day\":\"wed\",\"n\":7}\n");
        server.run("acquisition", orders).await;
        server.kill();
        drop(server);
        let server = home.serve().await;
        until("the run after the source", async || {
            shown(&server, &format!("source={daily}")).await == ["mon=10", "tue=20", "wed=7"]
        })
        .await;
        until("the run after the run", async || shown(&server, &format!("source={total}")).await == ["all=37"]).await;
        let tasks = server.get(&format!("/api/aggregation/tasks/?source={daily}")).await;
        assert_eq!((&tasks["count"], &tasks["results"][0]["trigger"]), (&json!(1), &json!("after")), "{tasks}");

        // Reading the same again is no news.
        server.run("acquisition", orders).await;
        let circle = json!({ "config": { "sql": sql, "after": { "aggregations": ["total"] } } });
        let (status, answer) = server.send("PATCH", &format!("/api/aggregation/sources/{daily}/"), Some(circle)).await;
        let said = answer["config"]["after"]["aggregations"][0].as_str().unwrap_or_default();
        assert_eq!((status, said.contains("`daily` -> `total` -> `daily`")), (400, true), "{answer}");
        let nobody = json!({ "name": "x", "config": after(json!({ "sources": ["nobody"] })) });
        let (status, answer) = server.send("POST", "/api/aggregation/sources/", Some(nobody)).await;
        let said = answer["config"]["after"]["sources"]["0"][0].as_str().unwrap_or_default();
        assert_eq!((status, said.contains("no source `nobody`")), (400, true), "{answer}");
        for (path, waiting) in [
            (format!("/api/acquisition/sources/{orders}/"), "`daily`"),
            (format!("/api/aggregation/sources/{daily}/"), "`total`"),
        ] {
            let (status, answer) = server.send("PATCH", &path, Some(json!({ "name": "other" }))).await;
            let said = answer["name"][0].as_str().unwrap_or_default();
            assert_eq!((status, said.contains(waiting)), (400, true), "{answer}");
        }
        let tasks = server.get(&format!("/api/aggregation/tasks/?source={daily}")).await;
        assert_eq!(tasks["count"], 1, "{}: {tasks}", home.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_given_checked_and_kept_with_the_run() {
    for home in homes().await {
        let (server, _) = with_orders(&home).await;
        let config = json!({ "sql": "select day, n from orders where n >= $least and day <> $not",
            "params": { "least": { "type": "integer" }, "not": { "type": "text", "default": "sun" } } });
        let id = add(&server, "some", config).await;
        let path = format!("/api/aggregation/sources/{id}/run/");
        for (body, field, said) in [
            (json!({}), "least", "required"),
            (json!({ "params": { "least": "x" } }), "least", "whole number"),
            (json!({ "params": { "least": 1, "lest": 2 } }), "lest", "Unknown option"),
        ] {
            let (status, answer) = server.send("POST", &path, Some(body)).await;
            let words = answer["params"][field][0].as_str().unwrap_or_default();
            assert_eq!((status, words.contains(said)), (400, true), "{}: {answer}", home.name);
        }
        home.ok(&["aggregate", "run", "some", "--param", "least=20", "--wait"]);
        assert_eq!(shown(&server, &format!("source={id}")).await, ["tue=20"], "{}", home.name);
        let runs = server.get(&format!("/api/aggregation/runs/?source={id}")).await;
        assert_eq!(runs["results"][0]["params"], json!({ "least": 20, "not": "sun" }), "{runs}");
        let previewed =
            home.ok(&["aggregate", "preview", "some", "--param", "least=0", "--param", "not=mon", "-o", "csv"]);
        assert_eq!(previewed.replace('\r', ""), "day,n\ntue,20\n", "{}", home.name);

        for (name, config, path) in [
            ("a", json!({ "sql": "select $x as x" }), &["config", "sql"] as &[&str]),
            (
                "b",
                json!({ "sql": "select $x as x", "params": { "x": { "type": "text" } }, "refresh_interval_secs": 60 }),
                &["config", "params", "x", "default"],
            ),
        ] {
            let body = json!({ "name": name, "config": config });
            let (status, answer) = server.send("POST", "/api/aggregation/sources/", Some(body)).await;
            let found = path.iter().fold(&answer, |answer, key| &answer[key]);
            assert!(status == 400 && found[0].is_string(), "{}: {answer}", home.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_refuses_it_says_in_japanese_too() {
    for home in homes().await {
        let (server, _) = with_orders(&home).await;
        let id = add(&server, "some", json!({ "sql": "select 1 as one" })).await;
        let ask = async |path: String, body: Value| {
            let request = server.client.post(format!("{}{path}", server.base)).bearer_auth(&server.token);
            let request = request.header("content-type", "application/json").header("accept-language", "ja");
            request.body(body.to_string()).send().await.unwrap().text().await.unwrap()
        };
        let refused = json!({ "name": "x", "config": { "sql": "drop table orders" } });
        let answer = ask("/api/aggregation/sources/".to_owned(), refused).await;
        assert!(answer.contains("`drop table orders`は使えません"), "{}: {answer}", home.name);
        let path = format!("/api/aggregation/sources/{id}/preview/");
        for (sql, said) in [
            ("select * from", "SQLエンジンの説明"),
            ("select * from order", "`sources.orders`のことですか"),
            ("select cast(day as int) as n from orders", "`try_cast`"),
        ] {
            let answer = ask(path.clone(), json!({ "config": { "sql": sql } })).await;
            assert!(answer.contains(said), "{}: {answer}", home.name);
        }
    }
}

/// The worker dies after the publication and before the end of its task: as the database then looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_published_run_is_not_appended_again_when_its_worker_dies() {
    let home = sqlite_home();
    let (mut server, _) = with_orders(&home).await;
    let log = add(&server, "log", json!({ "sql": "select day, n from orders", "mode": "append" })).await;
    let task = server.run("aggregation", log).await["id"].as_i64().unwrap();
    server.kill();
    drop(server);
    let db = Db::open_embedded(DataDir::acquire(&home.data_dir()).unwrap()).await.unwrap();
    db.write(move |conn| {
        Box::pin(async move {
            let worker = uuid::Uuid::new_v4();
            let lane =
                "update lanes set lease_epoch = lease_epoch + 1, lease_worker = $2, lease_task = $1, leased_at = 0
                where id = (select lane_id from tasks where id = $1)";
            conn.execute(lane, &[task.into(), worker.into()]).await?;
            let task_again = "update tasks set status = 'running', worker = $2, finished_at = null, result = null,
                lease_epoch = (select lease_epoch from lanes where lanes.id = tasks.lane_id) where id = $1";
            conn.execute(task_again, &[task.into(), worker.into()]).await
        })
    })
    .await
    .unwrap();
    db.close().await;
    drop(db);
    let server = home.serve().await;
    let ended = server.ended(&format!("/api/aggregation/tasks/{task}/")).await;
    assert_eq!((&ended["status"], &ended["result"]["rows"]), (&json!("succeeded"), &json!(2)), "{ended}");
    assert_eq!(shown(&server, &format!("source={log}")).await, ["mon=10", "tue=20"]);
    assert_eq!(server.get(&format!("/api/aggregation/runs/?source={log}")).await["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregation_takes_a_cron_schedule_and_then_needs_defaults() {
    for home in homes().await {
        let (server, _) = with_orders(&home).await;
        let config = |params: Value| {
            json!({ "sql": "select day, n from orders where n > $least", "params": params,
                "schedule": { "cron": "0 6 * * *", "timezone": "Asia/Tokyo" } })
        };
        let id = add(&server, "daily", config(json!({ "least": { "type": "integer", "default": 0 } }))).await;
        let schedules = server.get("/api/schedules/").await;
        assert_eq!(schedules["count"], 1, "{}: {schedules}", home.name);
        server.run("aggregation", id).await;
        let body = json!({ "name": "x", "config": config(json!({ "least": { "type": "integer" } })) });
        let (status, answer) = server.send("POST", "/api/aggregation/sources/", Some(body)).await;
        let said = &answer["config"]["params"]["least"]["default"][0];
        assert!(status == 400 && said.is_string(), "{}: {answer}", home.name);
    }
}

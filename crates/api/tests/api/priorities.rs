//! Priorities and weights, of sources and of runs, and retries in bulk.

use matome_model::clock::Clock;
use matome_model::task::{Fence, Queue};
use matome_store::tasks::{self, End, Finish, RetryPolicy};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{AGGREGATIONS, SOURCES, TestApi, apis};

async fn lane(api: &TestApi, kind: &'static str, id: &Value) -> (String, f64) {
    let mut reader = api.db.read().await.unwrap();
    let sql = "select priority, weight from lanes where kind = $1 and object_id = $2";
    let row = reader.conn().fetch_one(sql, &[kind.into(), id.as_i64().into()]).await.unwrap();
    (row.text("priority").unwrap(), row.opt_float("weight").unwrap().unwrap())
}

/// Claims the task that waits and fails it.
async fn fail_one(api: &TestApi, queue: Queue) {
    let now = Clock::system().now();
    let ended = api.db.write(move |conn| {
        Box::pin(async move {
            let claimed = tasks::claim(conn, queue, Uuid::new_v4(), 1, now).await?.remove(0);
            let error = RawValue::from_string(r#"{"message":"no","reason":"config"}"#.to_owned()).unwrap();
            let fence: Fence = claimed.fence;
            let finish = Finish { task_id: claimed.task.id, fence, end: End::Failed { error, result: None } };
            tasks::finish(conn, &[finish], &RetryPolicy::default(), now).await
        })
    });
    ended.await.unwrap();
}

#[tokio::test]
async fn a_source_and_an_aggregation_say_how_much_of_the_time_they_get() {
    for api in apis().await {
        let config = json!({"path": "orders.ndjson", "priority": "high", "weight": 3});
        let source = api.make(SOURCES, json!({"name": "orders", "source_type": "file", "config": config})).await;
        assert_eq!(source["config"], config, "{}", api.name);
        assert_eq!(lane(&api, "source", &source["id"]).await, ("high".to_owned(), 6.0), "{}", api.name);
        let config = json!({"config": {"path": "orders.ndjson", "priority": "low"}});
        api.call("PATCH", &format!("{SOURCES}{}/", source["id"]), Some(config)).await.expect(api.name, 200);
        assert_eq!(lane(&api, "source", &source["id"]).await, ("low".to_owned(), 0.25), "{}", api.name);
        let config = json!({"sql": "select 1 as n", "priority": "critical"});
        let sum = api.make(AGGREGATIONS, json!({"name": "sum", "config": config})).await;
        assert_eq!(lane(&api, "aggregation", &sum["id"]).await, ("critical".to_owned(), 4.0), "{}", api.name);

        for (config, field) in [
            (json!({"path": "x", "priority": "urgent"}), "priority"),
            (json!({"path": "x", "weight": 0}), "weight"),
            (json!({"path": "x", "weight": 101}), "weight"),
            (json!({"path": "x", "weight": "a lot"}), "weight"),
        ] {
            let body = json!({"name": "wrong", "source_type": "file", "config": config});
            let refused = api.call("POST", SOURCES, Some(body)).await.expect(api.name, 400);
            assert!(refused["config"][field].is_array(), "{}: {refused}", api.name);
            let mut config = config;
            config.as_object_mut().unwrap().remove("path");
            config["sql"] = json!("select 1 as n");
            let refused = api.call("POST", AGGREGATIONS, Some(json!({"name": "wrong", "config": config}))).await;
            let refused = refused.expect(api.name, 400);
            assert!(refused["config"][field].is_array(), "{}: {refused}", api.name);
        }
    }
}

#[tokio::test]
async fn a_run_says_how_soon() {
    for api in apis().await {
        let body = json!({"name": "orders", "source_type": "file", "config": {"path": "orders.ndjson"}});
        let source = api.make(SOURCES, body).await;
        let sum = api.make(AGGREGATIONS, json!({"name": "sum", "config": {"sql": "select 1 as n"}})).await;
        for at in [format!("{SOURCES}{}/run/", source["id"]), format!("{AGGREGATIONS}{}/run/", sum["id"])] {
            let wrong = api.call("POST", &at, Some(json!({"priority": "now"}))).await.expect(api.name, 400);
            assert!(wrong["priority"][0].as_str().unwrap().contains("now"), "{}: {wrong}", api.name);
            let task = api.call("POST", &at, Some(json!({"priority": "low"}))).await.expect(api.name, 202);
            assert_eq!(task["priority"], "low", "{}", api.name);
            let task = api.call("POST", &at, None).await.expect(api.name, 202);
            assert_eq!(task["priority"], "high", "{}: the same task, by hand", api.name);
            let task = api.call("POST", &at, Some(json!({"priority": "critical"}))).await.expect(api.name, 202);
            assert_eq!(task["priority"], "critical", "{}", api.name);
        }
    }
}

#[tokio::test]
async fn what_failed_is_retried_in_bulk() {
    for api in apis().await {
        let mut ids = Vec::new();
        for n in 0..3 {
            let config = json!({"path": "orders.ndjson"});
            let body = json!({"name": format!("s{n}"), "source_type": "file", "config": config});
            let row = api.make(SOURCES, body).await;
            api.call("POST", &format!("{SOURCES}{}/run/", row["id"]), None).await.expect(api.name, 202);
            fail_one(&api, Queue::Acquisition).await;
            ids.push(row["id"].clone());
        }
        const RETRY: &str = "/api/acquisition/tasks/retry/";
        for (body, field) in [
            (json!({"source": "orders"}), "source"),
            (json!({"limit": 0}), "limit"),
            (json!({"limit": 10_001}), "limit"),
        ] {
            let wrong = api.call("POST", RETRY, Some(body)).await.expect(api.name, 400);
            assert!(wrong[field].is_array(), "{}: {wrong}", api.name);
        }
        api.call("POST", RETRY, Some(json!({"source": 4711}))).await.expect(api.name, 404);
        let one = api.call("POST", RETRY, Some(json!({"source": ids[1]}))).await.expect(api.name, 202);
        assert_eq!(one, json!({"retried": 1, "more": false}), "{}", api.name);
        let some = api.call("POST", RETRY, Some(json!({"limit": 1}))).await.expect(api.name, 202);
        assert_eq!(some, json!({"retried": 1, "more": true}), "{}", api.name);
        let rest = api.call("POST", RETRY, None).await.expect(api.name, 202);
        assert_eq!(rest, json!({"retried": 1, "more": false}), "{}", api.name);
        let none = api.call("POST", RETRY, None).await.expect(api.name, 202);
        assert_eq!(none, json!({"retried": 0, "more": false}), "{}", api.name);
        let waiting = api.get("/api/acquisition/tasks/?status=pending").await;
        assert_eq!(waiting["count"], 3, "{}", api.name);
        assert!(waiting["results"].as_array().unwrap().iter().all(|task| task["trigger"] == "retry"), "{}", api.name);
        let other = api.call("POST", "/api/aggregation/tasks/retry/", None).await.expect(api.name, 202);
        assert_eq!(other["retried"], 0, "{}", api.name);
    }
}

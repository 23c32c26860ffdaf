//! `run`, `pause`, `resume`, `test`, `preview`, `cancel`, `retry`, and the schedules behind sources.

use matome_store::db::Arg;
use serde_json::{Value, json};

use crate::support::{AGGREGATIONS, SOURCES, TestApi, apis};

async fn file_source(api: &TestApi, name: &str) -> String {
    let path = api.files.path().join("orders.ndjson");
    std::fs::write(&path, "{\"id\":1,\"v\":1.50}\n{\"id\":\n{\"id\":2}\n").unwrap();
    let config = json!({"path": path.to_str().unwrap(), "format": "ndjson"});
    let row = api.make(SOURCES, json!({"name": name, "source_type": "file", "config": config})).await;
    format!("{SOURCES}{}/", row["id"])
}

/// `(interval, enabled, seconds until it fires)` of the only schedule.
async fn schedule(api: &TestApi) -> Option<(i64, bool, i64)> {
    let mut reader = api.db.read().await.unwrap();
    let row =
        reader.conn().fetch_optional("select interval_secs, enabled, next_at from schedules", &[]).await.unwrap()?;
    let left = (row.time("next_at").unwrap() - matome_model::clock::Clock::system().now()).num_seconds();
    Some((row.int("interval_secs").unwrap(), row.bool("enabled").unwrap(), left))
}

#[tokio::test]
async fn run_answers_202_with_the_task_and_again_with_the_one_that_waits() {
    for api in apis().await {
        let source = file_source(&api, "orders").await;
        let reply = api.call("POST", &format!("{source}run/"), None).await;
        let location = reply.header("location").to_owned();
        let task = reply.expect(api.name, 202);
        assert_eq!(location, format!("/api/acquisition/tasks/{}/", task["id"]), "{}", api.name);
        assert_eq!((&task["status"], &task["trigger"]), (&json!("pending"), &json!("manual")), "{}", api.name);
        assert_eq!(api.get(&location).await, task, "{}", api.name);
        let again = api.call("POST", &format!("{source}run"), None).await.expect(api.name, 202);
        assert_eq!(again["id"], task["id"], "{}", api.name);
        let listed = api.get(&format!("/api/acquisition/tasks/?source={}&status=pending", task["source"])).await;
        assert_eq!(listed["count"], 1, "{}", api.name);
        assert_eq!(api.get("/api/aggregation/tasks/").await["count"], 0, "{}", api.name);
    }
}

#[tokio::test]
async fn a_draft_cannot_run_and_says_what_is_missing() {
    for api in apis().await {
        for (path, kind, needs) in
            [(SOURCES, "file", "`path`"), (SOURCES, "api", "`url`"), (AGGREGATIONS, "none", "`sql`")]
        {
            let row = api.make(path, json!({"name": kind, "source_type": kind, "config": {"labels": {}}})).await;
            let actions: &[&str] = if path == SOURCES { &["run", "test"] } else { &["run", "preview"] };
            for action in actions {
                let errors =
                    api.call("POST", &format!("{path}{}/{action}/", row["id"]), None).await.expect(api.name, 400);
                assert!(errors["config"][0].as_str().unwrap().contains(needs), "{}: {errors}", api.name);
            }
        }
        for action in ["run", "test", "pause", "resume"] {
            api.call("POST", &format!("{SOURCES}999/{action}/"), None).await.expect(api.name, 404);
        }
    }
}

#[tokio::test]
async fn a_source_is_scheduled_one_interval_after_its_creation_and_drafts_never_are() {
    for api in apis().await {
        let draft = api.make(SOURCES, json!({"name": "draft", "source_type": "api"})).await;
        let (interval, enabled, _) = schedule(&api).await.unwrap();
        assert_eq!((interval, enabled), (3600, false), "{}", api.name);
        let at = format!("{SOURCES}{}/", draft["id"]);
        let config = json!({"url": "http://127.0.0.1:1/"});
        let body = json!({"config": config, "fetch_interval": 100});
        api.call("PATCH", &at, Some(body)).await.expect(api.name, 200);
        let (interval, enabled, left) = schedule(&api).await.unwrap();
        assert_eq!((interval, enabled), (100, true), "{}", api.name);
        assert!((90..=100).contains(&left), "{}: {left}", api.name);

        let paused = api.call("POST", &format!("{at}pause/"), None).await.expect(api.name, 200);
        assert_eq!(paused["status"], "inactive", "{}", api.name);
        assert_eq!(schedule(&api).await.map(|(_, enabled, _)| enabled), Some(false), "{}", api.name);
        let refused = api.call("POST", &format!("{at}run/"), None).await.expect(api.name, 400);
        assert!(refused["status"][0].as_str().unwrap().contains("resume/"), "{}", api.name);
        let resumed = api.call("POST", &format!("{at}resume/"), None).await.expect(api.name, 200);
        assert_eq!(resumed["status"], "active", "{}", api.name);
        assert_eq!(schedule(&api).await.map(|(_, enabled, _)| enabled), Some(true), "{}", api.name);

        api.call("PATCH", &at, Some(json!({"fetch_interval": 0}))).await.expect(api.name, 200);
        assert_eq!(schedule(&api).await, None, "{}", api.name);
        let config = json!({"sql": "select 1", "refresh_interval_secs": 60});
        let row = api.make(AGGREGATIONS, json!({"name": "agg", "config": config})).await;
        assert_eq!(schedule(&api).await.map(|(secs, enabled, _)| (secs, enabled)), Some((60, true)), "{}", api.name);
        api.call("DELETE", &format!("{AGGREGATIONS}{}/", row["id"]), None).await.expect(api.name, 204);
        assert_eq!(schedule(&api).await, None, "{}", api.name);
    }
}

#[tokio::test]
async fn pause_holds_waiting_tasks_back_and_delete_cancels_them() {
    for api in apis().await {
        let source = file_source(&api, "orders").await;
        api.call("POST", &format!("{source}run/"), None).await.expect(api.name, 202);
        api.call("POST", &format!("{source}pause/"), None).await.expect(api.name, 200);
        let paused = async || {
            let mut reader = api.db.read().await.unwrap();
            let row = reader.conn().fetch_one("select paused from lanes", &[]).await.unwrap();
            row.bool("paused").unwrap()
        };
        assert!(paused().await, "{}", api.name);
        api.call("PATCH", &source, Some(json!({"status": "active"}))).await.expect(api.name, 200);
        assert!(!paused().await, "{}", api.name);
        api.call("DELETE", &source, None).await.expect(api.name, 204);
        let mut reader = api.db.read().await.unwrap();
        let row = reader.conn().fetch_one("select status from tasks", &[]).await.unwrap();
        assert_eq!(row.text("status").unwrap(), "cancelled", "{}", api.name);
    }
}

#[tokio::test]
async fn a_task_can_be_cancelled_once_and_retried_after_it_ended() {
    for api in apis().await {
        let source = file_source(&api, "orders").await;
        let task = api.call("POST", &format!("{source}run/"), None).await.expect(api.name, 202);
        let at = format!("/api/acquisition/tasks/{}/", task["id"]);
        let early = api.call("POST", &format!("{at}retry/"), None).await.expect(api.name, 409);
        assert!(early["detail"].as_str().unwrap().contains("pending"), "{}: {early}", api.name);
        let cancelled = api.call("POST", &format!("{at}cancel/"), None).await.expect(api.name, 200);
        assert_eq!((&cancelled["status"], &cancelled["cancel_requested"]), (&json!("cancelled"), &json!(true)));
        api.call("POST", &format!("{at}cancel/"), None).await.expect(api.name, 409);
        let wrong = at.replace("acquisition", "aggregation");
        api.call("POST", &format!("{wrong}cancel/"), None).await.expect(api.name, 404);
        let reply = api.call("POST", &format!("{at}retry/"), None).await;
        let location = reply.header("location").to_owned();
        let retried = reply.expect(api.name, 202);
        assert_eq!((&retried["retry_of"], &retried["trigger"]), (&task["id"], &json!("retry")), "{}", api.name);
        assert_eq!(api.get(&location).await["status"], "pending", "{}", api.name);
        assert_eq!(api.get(&at).await["status"], "cancelled", "{}", api.name);
    }
}

#[tokio::test]
async fn test_shows_the_first_records_and_stores_nothing() {
    for api in apis().await {
        let source = file_source(&api, "orders").await;
        let tried = api.call("POST", &format!("{source}test/"), None).await.expect(api.name, 200);
        assert_eq!((&tried["ok"], &tried["error"]), (&json!(true), &Value::Null), "{}: {tried}", api.name);
        assert_eq!(tried["records"], json!([{"id": 1, "v": 1.5}, {"id": 2}]), "{}", api.name);
        assert_eq!(tried["quarantined"][0]["reason"], "invalid_json", "{}", api.name);
        assert_eq!(api.get("/api/acquisition/data/").await["count"], 0, "{}", api.name);

        let config = json!({"url": "http://127.0.0.1:1/"});
        let row = api.make(SOURCES, json!({"name": "denied", "source_type": "api", "config": config})).await;
        let denied = api.call("POST", &format!("{SOURCES}{}/test/", row["id"]), None).await.expect(api.name, 200);
        assert_eq!(denied["ok"], false, "{}: {denied}", api.name);
        assert!(denied["error"]["message"].is_string() && denied["error"]["causes"].is_array(), "{denied}");
    }
}

#[tokio::test]
async fn a_probe_needs_a_valid_config_and_obeys_the_policy() {
    const PROBE: &str = "/api/acquisition/probe/";
    for api in apis().await {
        let refused = async |body: Value| api.call("POST", PROBE, Some(body)).await.expect(api.name, 400);
        assert!(refused(json!({})).await["config"].is_array(), "{}", api.name);
        assert!(refused(json!({"config": {}})).await["config"]["url"].is_array(), "{}", api.name);
        let kept = json!({"url": "http://h/", "auth": {"type": "bearer", "token": {"$secret": true}}});
        assert!(refused(json!({"config": kept})).await["config"]["auth"]["token"].is_array(), "{}", api.name);
        let stream = json!({"source_type": "websocket", "config": {"url": "ws://h/"}});
        assert!(refused(stream).await["source_type"].is_array(), "{}", api.name);
        let table = json!({"source_type": "database", "config": {"path": "x", "table": ""}});
        assert!(refused(table).await["config"]["table"].is_array(), "{}", api.name);
        let file = json!({"source_type": "file", "config": {"format": "csv"}});
        assert!(refused(file).await["config"]["path"].is_array(), "{}", api.name);
        let file = json!({"source_type": "file", "config": {"path": "x"}});
        let answer = api.call("POST", PROBE, Some(file)).await.expect(api.name, 200);
        assert!(answer["error"]["message"].to_string().contains("no file matches"), "{}: {answer}", api.name);

        let either = json!({"config": {"path": "x"}});
        let answer = api.call("POST", PROBE, Some(either)).await.expect(api.name, 200);
        assert!(answer["error"]["message"].to_string().contains("no file matches"), "{}: {answer}", api.name);

        let config = json!({"url": "http://127.0.0.1:1/", "auth": {"type": "bearer", "token": "s3cret"}});
        let answer = api.call("POST", PROBE, Some(json!({"config": config}))).await.expect(api.name, 200);
        assert_eq!(answer["ok"], false, "{}: {answer}", api.name);
        let causes = answer["error"]["causes"].to_string();
        assert!(causes.contains("--egress-allow") && !answer.to_string().contains("s3cret"), "{answer}");
        assert_eq!(api.get(SOURCES).await["count"], 0, "{}", api.name);
    }
}

#[tokio::test]
async fn preview_shows_the_first_rows() {
    for api in apis().await {
        let config = json!({"sql": "select 1"});
        let row = api.make(AGGREGATIONS, json!({"name": "p", "config": config})).await;
        let shown =
            api.call("POST", &format!("{AGGREGATIONS}{}/preview/", row["id"]), None).await.expect(api.name, 200);
        assert_eq!((&shown["ok"], &shown["rows"]), (&json!(true), &json!([config])), "{}", api.name);
        let run = api.call("POST", &format!("{AGGREGATIONS}{}/run/", row["id"]), None).await;
        assert!(run.header("location").starts_with("/api/aggregation/tasks/"), "{}", api.name);
        assert_eq!(run.expect(api.name, 202)["source"], row["id"], "{}", api.name);
    }
}

#[tokio::test]
async fn rows_of_another_application_are_kept_listed_and_editable() {
    for api in apis().await {
        let config = serde_json::value::RawValue::from_string(r#"{"endpoint":"x","verify":true}"#.to_owned()).unwrap();
        let inserted = api.db.write(move |conn| {
            Box::pin(async move {
                let sql = "insert into data_sources (name, source_type, config) values ('old', 'api', $1) returning id";
                conn.fetch_one(sql, &[Arg::from(&*config)]).await?.int("id")
            })
        });
        let at = format!("{SOURCES}{}/", inserted.await.unwrap());
        let changed = api.call("PATCH", &at, Some(json!({"description": "mine now"}))).await.expect(api.name, 200);
        assert_eq!(changed["config"], json!({"endpoint": "x", "verify": true}), "{}", api.name);
        let errors = api.call("POST", &format!("{at}run/"), None).await.expect(api.name, 400);
        assert!(errors["config"]["endpoint"][0].is_string(), "{}: {errors}", api.name);
    }
}

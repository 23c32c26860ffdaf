//! Reset, full runs, changes that ask what becomes of records, and removing records.

use chrono::{DateTime, TimeDelta};
use matome_model::clock::{Clock, Timestamp, iso8601};
use matome_store::{counters, removals};
use serde_json::{Value, json};

use crate::support::{SOURCES, TestApi, apis};

const DATA: &str = "/api/acquisition/data/";

fn at(hour: i64) -> Timestamp {
    DateTime::from_timestamp_micros(1_763_900_000_000_000).unwrap() + TimeDelta::hours(hour)
}

/// A source with one record an hour from hour 0.
async fn filled(api: &TestApi, name: &str, hours: i64) -> i64 {
    let body = json!({"name": name, "source_type": "file", "config": {"path": "a.ndjson", "labels": {"n": 1}}});
    let source = api.make(SOURCES, body).await["id"].as_i64().unwrap();
    let added = api.db.write(move |conn| {
        Box::pin(async move {
            for hour in 0..hours {
                let sql = "insert into acquired_data (source_id, raw_data, acquired_at) values ($1, '{}', $2)";
                conn.execute(sql, &[source.into(), at(hour).into()]).await?;
            }
            counters::add(conn, counters::ACQUIRED_DATA, source, "", hours).await
        })
    });
    added.await.unwrap();
    source
}

async fn remove_all(api: &TestApi) {
    let now = Clock::system().now();
    while api.db.write(move |conn| Box::pin(removals::remove_batch(conn, 3, now))).await.unwrap() {}
}

async fn stored(api: &TestApi, source: i64) -> Value {
    api.get(&format!("{DATA}?source={source}")).await["count"].clone()
}

async fn config_rev(api: &TestApi, source: i64) -> i64 {
    let mut reader = api.db.read().await.unwrap();
    let row = reader.conn().fetch_one("select config_rev from data_sources where id = $1", &[source.into()]).await;
    row.unwrap().int("config_rev").unwrap()
}

#[tokio::test]
async fn a_reset_answers_with_the_source_and_removes_data_only_when_asked() {
    for api in apis().await {
        let source = filled(&api, "s", 7).await;
        let path = format!("{SOURCES}{source}/reset/");
        let row = api.call("POST", &path, None).await.expect(api.name, 200);
        assert_eq!(row["id"], source, "{}", api.name);
        remove_all(&api).await;
        assert_eq!(stored(&api, source).await, 7, "{}", api.name);

        api.call("POST", &path, Some(json!({"data": true}))).await.expect(api.name, 202);
        // A run is accepted and waits.
        let task = api.call("POST", &format!("{SOURCES}{source}/run/"), None).await.expect(api.name, 202);
        assert_eq!(task["status"], "pending", "{}", api.name);
        remove_all(&api).await;
        assert_eq!(stored(&api, source).await, 0, "{}", api.name);
        api.call("POST", &path, Some(json!({"data": true}))).await.expect(api.name, 200);

        let errors = api.call("POST", &path, Some(json!({"data": "yes"}))).await.expect(api.name, 400);
        assert!(errors["data"].is_array(), "{}: {errors}", api.name);
        api.call("POST", &format!("{SOURCES}999/reset/"), None).await.expect(api.name, 404);
        let viewer = api.request("POST", &path, &api.viewer).body(axum::body::Body::empty()).unwrap();
        api.send(viewer).await.expect(api.name, 403);
    }
}

#[tokio::test]
async fn a_full_run_is_another_task_than_a_plain_one_that_waits() {
    for api in apis().await {
        let source = filled(&api, "s", 0).await;
        let path = format!("{SOURCES}{source}/run/");
        let run = async |body: Value| api.call("POST", &path, Some(body)).await.expect(api.name, 202)["id"].clone();
        let plain = run(json!({})).await;
        let full = run(json!({"full": true})).await;
        assert_ne!(plain, full, "{}", api.name);
        assert_eq!(run(json!({"full": true})).await, full, "{}", api.name);
        assert_eq!(run(json!({"full": false})).await, plain, "{}", api.name);
        let errors = api.call("POST", &path, Some(json!({"full": 1}))).await.expect(api.name, 400);
        assert!(errors["full"].is_array(), "{}: {errors}", api.name);
    }
}

#[tokio::test]
async fn a_change_that_decides_what_is_the_same_asks_what_becomes_of_records() {
    for api in apis().await {
        let source = filled(&api, "s", 3).await;
        let path = format!("{SOURCES}{source}/");
        let patch = async |body: Value| api.call("PATCH", &path, Some(body)).await;
        let rev = config_rev(&api, source).await;

        // Nothing that a read depends on.
        let config = json!({"path": "a.ndjson", "labels": {"n": 2}, "timeout_secs": 5});
        patch(json!({"config": config, "description": "x"})).await.expect(api.name, 200);
        assert_eq!(config_rev(&api, source).await, rev, "{}: the place is kept", api.name);
        // How it is read, but not what.
        patch(json!({"config": {"path": "a.ndjson", "encoding": "shift_jis"}})).await.expect(api.name, 200);
        assert_eq!(config_rev(&api, source).await, rev + 1, "{}", api.name);

        let keyed = json!({"path": "a.ndjson", "encoding": "shift_jis", "key": "id"});
        let errors = patch(json!({"config": keyed})).await.expect(api.name, 400);
        let said = errors["on_change"][0].as_str().unwrap();
        assert!(said.contains("3 records") && said.contains("`key`") && said.contains("\"reset\""), "{said}");
        assert_eq!(config_rev(&api, source).await, rev + 1, "{}: nothing was changed", api.name);
        let errors = patch(json!({"config": keyed, "on_change": "guess"})).await.expect(api.name, 400);
        assert!(errors["on_change"].is_array(), "{}: {errors}", api.name);
        let errors = patch(json!({"source_type": "api", "config": {"url": "http://h/"}})).await.expect(api.name, 400);
        assert!(errors["on_change"][0].as_str().unwrap().contains("`source_type`"), "{}: {errors}", api.name);

        patch(json!({"config": keyed, "on_change": "full"})).await.expect(api.name, 200);
        assert_eq!(config_rev(&api, source).await, rev + 2, "{}", api.name);
        remove_all(&api).await;
        assert_eq!(stored(&api, source).await, 3, "{}", api.name);

        let other = json!({"path": "b.ndjson", "encoding": "shift_jis", "key": "id"});
        patch(json!({"config": other, "on_change": "reset"})).await.expect(api.name, 200);
        // They are on their way out, so there is nothing to ask about any more.
        patch(json!({"config": {"path": "c.ndjson"}})).await.expect(api.name, 200);
        remove_all(&api).await;
        assert_eq!(stored(&api, source).await, 0, "{}", api.name);
        patch(json!({"config": {"path": "d.ndjson", "dedupe": "none"}})).await.expect(api.name, 200);
    }
}

#[tokio::test]
async fn records_are_removed_by_source_and_time_and_by_nothing_less() {
    for api in apis().await {
        let source = filled(&api, "s", 10).await;
        let other = filled(&api, "other", 10).await;
        let time = |hour| iso8601(at(hour));
        for (query, field) in [
            (String::new(), "source"),
            (format!("?source={source}"), "acquired_at__lt"),
            (format!("?acquired_at__lt={}", time(5)), "source"),
            (format!("?source={source}&acquired_at__lt=soon"), "acquired_at__lt"),
            (format!("?source=x&acquired_at__lt={}", time(5)), "source"),
            (format!("?source=999&acquired_at__lt={}", time(5)), "source"),
            (format!("?source={source}&acquired_at__lt={}&version=1", time(5)), "version"),
            (format!("?source__in={source}&acquired_at__lt={}", time(5)), "source__in"),
        ] {
            let errors = api.call("DELETE", &format!("{DATA}{query}"), None).await.expect(api.name, 400);
            assert!(errors[field].is_array(), "{}: {query}: {errors}", api.name);
        }
        remove_all(&api).await;
        assert_eq!(stored(&api, source).await, 10, "{}", api.name);

        let query = format!("?source={source}&acquired_at__lt={}", time(4));
        let removal = api.call("DELETE", &format!("{DATA}{query}"), None).await.expect(api.name, 202);
        assert_eq!((&removal["source"], &removal["acquired_at__gte"]), (&json!(source), &Value::Null), "{}", api.name);
        remove_all(&api).await;
        assert_eq!((stored(&api, source).await, stored(&api, other).await), (json!(6), json!(10)), "{}", api.name);
        let query = format!("?source={source}&acquired_at__gt={}&acquired_at__lte={}", time(5), time(7));
        api.call("DELETE", &format!("{DATA}{query}"), None).await.expect(api.name, 202);
        remove_all(&api).await;
        assert_eq!(stored(&api, source).await, 4, "{}", api.name);

        let id = api.get(&format!("{DATA}?source={source}")).await["results"][0]["id"].clone();
        let viewer = api.request("DELETE", &format!("{DATA}{id}/"), &api.viewer).body(axum::body::Body::empty());
        api.send(viewer.unwrap()).await.expect(api.name, 403);
        api.call("DELETE", &format!("{DATA}{id}/"), None).await.expect(api.name, 204);
        api.call("DELETE", &format!("{DATA}{id}/"), None).await.expect(api.name, 404);
        assert_eq!(stored(&api, source).await, 3, "{}", api.name);
    }
}

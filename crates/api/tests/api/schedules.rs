//! Schedules: made with their source or aggregation, looked at here.

use axum::body::Body;
use http::header;
use serde_json::{Value, json};

use crate::support::{AGGREGATIONS, SOURCES, TestApi, apis};

const SCHEDULES: &str = "/api/schedules/";

fn source(name: &str, schedule: Value) -> Value {
    let config = json!({"url": "http://127.0.0.1:1/", "schedule": schedule});
    json!({"name": name, "source_type": "api", "config": config})
}

async fn patch(api: &TestApi, at: &str, body: Value, status: u16) -> Value {
    api.call("PATCH", at, Some(body)).await.expect(api.name, status)
}

#[tokio::test]
async fn cron_takes_the_place_of_the_interval() {
    for api in apis().await {
        let daily = json!({"cron": "30 2 * * *", "timezone": "Asia/Tokyo", "misfire": "catch_up", "jitter_secs": 30});
        let made = api.make(SOURCES, source("orders", daily)).await;
        assert_eq!(made["fetch_interval"], 0, "{}", api.name);
        let list = api.get(SCHEDULES).await;
        let row = &list["results"][0];
        assert_eq!((&list["count"], &row["kind"], &row["object_id"]), (&json!(1), &json!("source"), &made["id"]));
        assert_eq!((&row["name"], &row["enabled"]), (&json!("orders"), &json!(true)), "{}", api.name);
        assert_eq!((&row["cron"], &row["timezone"]), (&json!("30 2 * * *"), &json!("Asia/Tokyo")));
        assert_eq!(
            (&row["interval_secs"], &row["misfire"], &row["overlap"]),
            (&Value::Null, &json!("catch_up"), &json!("queue_one"))
        );
        assert!(row["next_at"].as_str().unwrap().ends_with("T17:30:00Z"), "{}: {row}", api.name);
        assert_eq!((&row["jitter_secs"], &row["last_at"]), (&json!(30), &Value::Null));

        // Beside cron there is no interval, whichever comes first.
        let at = format!("{SOURCES}{}/", made["id"]);
        let refused = patch(&api, &at, json!({"fetch_interval": 60}), 400).await;
        assert!(refused["fetch_interval"][0].as_str().unwrap().contains("config.schedule.cron"), "{refused}");
        let mut both = source("both", json!({"cron": "@daily"}));
        both["fetch_interval"] = json!(60);
        let refused = api.refused(SOURCES, both.clone()).await;
        assert_eq!(refused.as_object().unwrap().keys().collect::<Vec<_>>(), ["fetch_interval"], "{refused}");
        both["fetch_interval"] = json!(0);
        api.make(SOURCES, both).await;

        // A source with an interval gets cron, keeps it when saved as it is read, and goes back.
        let other = api.make(SOURCES, source("other", json!({"overlap": "skip"}))).await;
        assert_eq!(other["fetch_interval"], 3600);
        let at = format!("{SOURCES}{}/", other["id"]);
        let config = json!({"url": "http://127.0.0.1:1/", "schedule": {"cron": "@hourly"}});
        let changed = patch(&api, &at, json!({"config": config}), 200).await;
        assert_eq!(changed["fetch_interval"], 0, "{}", api.name);
        let saved = api.call("PUT", &at, Some(changed)).await.expect(api.name, 200);
        assert_eq!(saved["config"], config);
        let back = json!({"config": {"url": "http://127.0.0.1:1/"}, "fetch_interval": 60});
        assert_eq!(patch(&api, &at, back, 200).await["fetch_interval"], 60);
        let row = api.get("/api/schedules/?name=other").await["results"][0].clone();
        assert_eq!((&row["cron"], &row["interval_secs"]), (&Value::Null, &json!(60)), "{}", api.name);
        assert_eq!(api.get(&format!("{SCHEDULES}{}/", row["id"])).await, row);
        api.call("POST", &format!("{at}pause/"), None).await.expect(api.name, 200);
        assert_eq!(api.get("/api/schedules/?name=other").await["results"][0]["enabled"], false);
        api.call("DELETE", &at, None).await.expect(api.name, 204);
        assert_eq!(api.get("/api/schedules/?name=other").await["count"], 0, "{}", api.name);
    }
}

#[tokio::test]
async fn aggregations_have_schedules_too() {
    for api in apis().await {
        let config = json!({"sql": "select 1", "schedule": {"cron": "0 6 * * mon-fri", "timezone": "Europe/Paris"}});
        let made = api.make(AGGREGATIONS, json!({"name": "daily", "config": config})).await;
        let row = api.get("/api/schedules/?kind=aggregation").await["results"][0].clone();
        assert_eq!((&row["name"], &row["object_id"]), (&json!("daily"), &made["id"]), "{}", api.name);
        let mut config = config;
        config["refresh_interval_secs"] = json!(60);
        let refused = api.refused(AGGREGATIONS, json!({"name": "both", "config": config})).await;
        assert!(refused["config"]["refresh_interval_secs"][0].is_string(), "{}: {refused}", api.name);
    }
}

#[tokio::test]
async fn the_next_times_are_told_in_local_time_and_in_utc() {
    for api in apis().await {
        api.make(SOURCES, source("orders", json!({"cron": "30 2 * * *", "timezone": "Asia/Tokyo"}))).await;
        let id = api.get(SCHEDULES).await["results"][0]["id"].clone();
        let next = api.get(&format!("{SCHEDULES}{id}/next/?n=3")).await;
        assert_eq!((&next["enabled"], &next["timezone"]), (&json!(true), &json!("Asia/Tokyo")), "{}", api.name);
        let times = next["results"].as_array().unwrap();
        assert_eq!(times.len(), 3);
        for time in times {
            assert!(time["local"].as_str().unwrap().ends_with("T02:30:00+09:00"), "{time}");
            assert!(time["utc"].as_str().unwrap().ends_with("T17:30:00Z"), "{time}");
        }
        assert_eq!(api.get(&format!("{SCHEDULES}{id}/next/")).await["results"].as_array().unwrap().len(), 10);
        for n in ["0", "1001", "-1", "many"] {
            let refused = api.call("GET", &format!("{SCHEDULES}{id}/next/?n={n}"), None).await.expect(api.name, 400);
            assert!(refused["n"][0].is_string(), "{n}: {refused}");
        }
        api.call("GET", "/api/schedules/999/next/", None).await.expect(api.name, 404);

        let preview = "/api/schedules/preview/?cron=0%200%20l%20*%20*&timezone=Europe/Paris&n=14";
        let times = api.get(preview).await["results"].as_array().unwrap().clone();
        assert_eq!(times.len(), 14);
        assert!(times.iter().all(|time| time["local"].as_str().unwrap().contains("T00:00:00+0")), "{times:?}");
        let refused = api.call("GET", "/api/schedules/preview/?timezone=Asia/Tokio&n=x", None).await;
        let refused = refused.expect(api.name, 400);
        assert_eq!(refused.as_object().unwrap().keys().collect::<Vec<_>>(), ["cron", "n", "timezone"], "{refused}");
    }
}

#[tokio::test]
async fn a_wrong_schedule_is_refused_field_by_field_in_both_languages() {
    for api in apis().await {
        let wrong = json!({
            "cron": "0 0 30 2 *", "timezone": "Asia/Tokio", "misfire": "later", "overlap": "both", "jitter_secs": 4000,
        });
        let refused = api.refused(SOURCES, source("orders", wrong.clone())).await;
        let faults = &refused["config"]["schedule"];
        let said = |key: &str| faults[key][0].as_str().unwrap_or_default().to_owned();
        assert!(said("cron").contains("never comes"), "{}: {refused}", api.name);
        assert!(said("timezone").contains("Did you mean `Asia/Tokyo`?"), "{refused}");
        assert!(said("misfire").contains("`catch_up`") && said("overlap").contains("`queue_one`"), "{refused}");
        assert!(said("jitter_secs").contains("3600"), "{refused}");
        let body = source("orders", wrong).to_string();
        let request = api.request("POST", SOURCES, &api.admin).header(header::ACCEPT_LANGUAGE, "ja");
        let request = request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body)).unwrap();
        let refused = api.send(request).await.expect(api.name, 400);
        let said = refused["config"]["schedule"]["timezone"][0].as_str().unwrap();
        assert!(said.contains("`Asia/Tokyo` のことですか"), "{}: {refused}", api.name);
        assert_eq!(api.get(SOURCES).await["count"], 0);
    }
}

//! Versions of a key: their list, what changed between them, and what was there at a time.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use matome_model::canonical::Canonicaliser;
use matome_model::clock::{Timestamp, iso8601};
use matome_store::counters;
use matome_store::db::Arg;
use serde_json::{Value, json};

use crate::support::{SOURCES, TestApi, apis};

const DATA: &str = "/api/acquisition/data/";

fn at(hour: i64) -> Timestamp {
    DateTime::from_timestamp_micros(1_763_900_000_123_456).unwrap() + TimeDelta::hours(hour)
}

/// A record as the acquisition stores it; returns its id.
async fn add(api: &TestApi, source: i64, key: Option<u8>, version: i64, hour: i64, raw: &str) -> i64 {
    let mut canonicaliser = Canonicaliser::default();
    let canonical = canonicaliser.canonicalise(raw.as_bytes()).unwrap();
    let (text, hash): (Arc<str>, String) = (canonical.text.into(), canonical.hash_hex());
    let added = api.db.write(move |conn| {
        Box::pin(async move {
            let key = key.map(|key| vec![key; 16]);
            let sql = "insert into acquired_data (source_id, raw_data, data_hash, acquired_at, key_hash, version)
                values ($1, $2, $3, $4, $5, $6) returning id";
            let args = [
                source.into(),
                Arg::Json(Some(&text)),
                (&hash).into(),
                at(hour).into(),
                key.as_deref().into(),
                version.into(),
            ];
            let id = conn.fetch_one(sql, &args).await?.int("id")?;
            counters::add(conn, counters::ACQUIRED_DATA, source, "", 1).await?;
            Ok(id)
        })
    });
    added.await.unwrap()
}

async fn source(api: &TestApi, name: &str) -> i64 {
    api.make(SOURCES, json!({"name": name, "source_type": "file"})).await["id"].as_i64().unwrap()
}

fn ids(list: &Value) -> Vec<i64> {
    list["results"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_history_has_all_versions_of_its_key_and_of_no_other() {
    for api in apis().await {
        let (one, other) = (source(&api, "one").await, source(&api, "other").await);
        let mut versions = Vec::new();
        for version in 1..=25 {
            versions.push(add(&api, one, Some(7), version, version, &format!("{{\"v\":{version}}}")).await);
        }
        add(&api, one, Some(8), 1, 3, "{}").await;
        add(&api, other, Some(7), 1, 3, "{}").await;
        let alone = add(&api, one, None, 1, 4, "{}").await;
        versions.reverse();
        for id in [versions[0], versions[24]] {
            let first = api.get(&format!("{DATA}{id}/history/")).await;
            assert_eq!(first["count"], 25, "{}", api.name);
            assert_eq!(ids(&first), versions[..20], "{}", api.name);
            let second = first["next"].as_str().unwrap().strip_prefix("http://localhost").unwrap();
            assert_eq!(ids(&api.get(second).await), versions[20..], "{}", api.name);
        }
        assert_eq!(ids(&api.get(&format!("{DATA}{alone}/history/")).await), [alone], "{}", api.name);
        api.call("GET", &format!("{DATA}999999/history/"), None).await.expect(api.name, 404);

        let key = "07".repeat(16);
        for (query, count) in [
            (format!("?key_hash={key}"), 26),
            (format!("?key_hash={key}&source={one}"), 25),
            (format!("?source={one}&version=1"), 3),
            (format!("?source={one}&version__gt=20"), 5),
            (format!("?source={one}&latest=true"), 3),
            (format!("?source={one}&latest=false"), 27),
            ("?latest=true".to_owned(), 4),
            (format!("?source={one}&key_hash__isnull=true"), 1),
        ] {
            assert_eq!(api.get(&format!("{DATA}{query}")).await["count"], count, "{}: {query}", api.name);
        }
        let newest = api.get(&format!("{DATA}?source={one}&latest=true&key_hash={key}")).await;
        assert_eq!(ids(&newest), versions[..1], "{}", api.name);
        assert_eq!(newest["results"][0]["key_hash"], key, "{}", api.name);
        for (query, field) in [("?key_hash=07", "key_hash"), ("?key_hash=zz", "key_hash"), ("?latest=maybe", "latest")]
        {
            let errors = api.call("GET", &format!("{DATA}{query}"), None).await.expect(api.name, 400);
            assert!(errors[field].is_array(), "{}: {errors}", api.name);
        }
    }
}

#[tokio::test]
async fn a_difference_names_each_place_with_exact_numbers() {
    for api in apis().await {
        let one = source(&api, "one").await;
        let first = add(&api, one, Some(7), 1, 1, r#"{"n":0.1000000000000000055,"t":["a"],"x":1}"#).await;
        let third = add(&api, one, Some(7), 3, 2, r#"{"n":0.1000000000000000056,"t":["a","b"]}"#).await;
        let other = add(&api, one, Some(9), 1, 2, r#"{"n":0.1000000000000000056,"t":["a","b"]}"#).await;

        // The version between is not kept any more.
        let reply = api.call("GET", &format!("{DATA}{third}/diff/"), None).await;
        assert!(reply.text.contains(r#""old":0.1000000000000000055,"new":0.1000000000000000056"#), "{}", reply.text);
        let diff = reply.expect(api.name, 200);
        assert_eq!(
            (&diff["record"], &diff["version"], &diff["against"], &diff["against_version"]),
            (&json!(third), &json!(3), &json!(first), &json!(1)),
            "{}",
            api.name
        );
        let places: Vec<(&str, &str)> = diff["changes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|change| (change["path"].as_str().unwrap(), change["change"].as_str().unwrap()))
            .collect();
        assert_eq!(places, [("/n", "changed"), ("/t/1", "added"), ("/x", "removed")], "{}", api.name);

        let same = api.get(&format!("{DATA}{third}/diff/?against={other}")).await;
        assert_eq!((&same["against"], &same["changes"]), (&json!(other), &json!([])), "{}", api.name);
        let new = api.get(&format!("{DATA}{first}/diff/")).await;
        assert_eq!((&new["against"], new["changes"].as_array().unwrap().len()), (&Value::Null, 3), "{}", api.name);
        for wrong in ["999999", "x", "-1"] {
            let path = format!("{DATA}{first}/diff/?against={wrong}");
            let errors = api.call("GET", &path, None).await.expect(api.name, 400);
            assert!(errors["against"].is_array(), "{}: {errors}", api.name);
        }
        api.call("GET", &format!("{DATA}999999/diff/"), None).await.expect(api.name, 404);
    }
}

#[tokio::test]
async fn a_list_shows_what_was_there_at_a_time() {
    for api in apis().await {
        let one = source(&api, "one").await;
        let other = source(&api, "other").await;
        add(&api, other, Some(1), 1, 0, "{}").await;
        // Key n changes each n hours, 12 times at most.
        let mut all: Vec<(u8, i64, i64)> = Vec::new();
        for hour in 0..12 {
            for key in 1..=6_u8 {
                if hour % i64::from(key) == 0 {
                    let version = hour / i64::from(key) + 1;
                    let id = add(&api, one, Some(key), version, hour, &format!("{{\"h\":{hour}}}")).await;
                    all.push((key, hour, id));
                }
            }
            all.push((0, hour, add(&api, one, None, 1, hour, "{}").await));
        }
        for hour in [-1, 0, 5, 11, 30] {
            // Ids grow with time here, so newest first is by id.
            let mut expected: Vec<i64> = (1..=6)
                .filter_map(|key| all.iter().rev().find(|(k, h, _)| *k == key && *h <= hour))
                .chain(all.iter().filter(|(key, h, _)| *key == 0 && *h <= hour))
                .map(|(_, _, id)| *id)
                .collect();
            expected.sort_unstable_by(|a, b| b.cmp(a));
            let time = iso8601(at(hour));
            let mut found = Vec::new();
            let mut path = format!("{DATA}?source={one}&as_of={time}&page_size=4");
            loop {
                let page = api.get(&path).await;
                assert_eq!((&page["count"], &page["previous"]), (&Value::Null, &Value::Null), "{}", api.name);
                found.extend(ids(&page));
                let Some(next) = page["next"].as_str() else { break };
                assert_eq!(ids(&page).len(), 4, "{}", api.name);
                path = next.strip_prefix("http://localhost").unwrap().to_owned();
            }
            assert_eq!(found, expected, "{} hour {hour}", api.name);

            let export = format!("{SOURCES}{one}/export/?as_of={time}");
            let lines = api.call("GET", &export, None).await.text.lines().count();
            assert_eq!(lines, expected.len(), "{} hour {hour}", api.name);
        }
        let lines = api.call("GET", &format!("{SOURCES}{one}/export/?latest=true"), None).await.text.lines().count();
        assert_eq!(lines, 6 + 12, "{}", api.name);
        for (query, field) in [("as_of=2026-01-01".to_owned(), "source"), (format!("source={one}&as_of=soon"), "as_of")]
        {
            let errors = api.call("GET", &format!("{DATA}?{query}"), None).await.expect(api.name, 400);
            assert!(errors[field].is_array(), "{}: {errors}", api.name);
        }
        let path = format!("{DATA}?source={one}&as_of=2026-01-01&cursor=x");
        api.call("GET", &path, None).await.expect(api.name, 404);
    }
}

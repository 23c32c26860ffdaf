//! Records in quarantine: bytes, replay, discard.

use http::header;
use matome_store::counters;
use serde_json::{Value, json};

use crate::support::{SOURCES, TestApi, apis};

const QUARANTINE: &str = "/api/acquisition/quarantine/";

/// A source that can be read, with these bytes in quarantine; returns its id and theirs.
async fn held(api: &TestApi, name: &str, raws: &[(&str, &[u8])]) -> (i64, Vec<i64>) {
    std::fs::write(api.files.path().join("orders.ndjson"), "{}").unwrap();
    let body = json!({"name": name, "source_type": "file", "config": {"path": "orders.ndjson"}});
    let source = api.make(SOURCES, body).await["id"].as_i64().unwrap();
    let raws: Vec<(String, Vec<u8>)> = raws.iter().map(|(reason, raw)| ((*reason).to_owned(), raw.to_vec())).collect();
    let added = api.db.write(move |conn| {
        Box::pin(async move {
            let mut ids = Vec::new();
            for (n, (reason, raw)) in raws.iter().enumerate() {
                let sql = "insert into quarantine (source_id, task_id, reason, detail, raw, raw_length, raw_hash)
                    values ($1, 1, $2, 'why', $3, $4, $5) returning id";
                // One byte of what is longer than eight is missing.
                let length = i64::try_from(raw.len()).unwrap() + i64::from(raw.len() > 8);
                let hash = n.to_string();
                let args =
                    [source.into(), reason.as_str().into(), raw.as_slice().into(), length.into(), hash.as_str().into()];
                ids.push(conn.fetch_one(sql, &args).await?.int("id")?);
            }
            counters::add(conn, counters::QUARANTINE, source, "", i64::try_from(ids.len()).unwrap()).await?;
            Ok(ids)
        })
    });
    (source, added.await.unwrap())
}

async fn statuses(api: &TestApi, source: i64) -> Vec<String> {
    let body = api.get(&format!("{QUARANTINE}?source={source}&page_size=100")).await;
    let rows = body["results"].as_array().unwrap();
    assert_eq!(body["count"], rows.len());
    rows.iter().rev().map(|row| row["status"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn kept_bytes_are_downloaded_as_a_file_that_no_browser_shows() {
    for api in apis().await {
        let (_, ids) = held(&api, "s", &[("invalid_json", b"<script>\xff")]).await;
        let reply = api.call("GET", &format!("{QUARANTINE}{}/raw/", ids[0]), None).await;
        assert_eq!(reply.header("content-type"), "application/octet-stream", "{}", api.name);
        assert_eq!(reply.header("content-disposition"), format!("attachment; filename=\"quarantine-{}.bin\"", ids[0]));
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("content-length"), "9", "{}", api.name);
        reply.expect(api.name, 200);
        api.call("GET", &format!("{QUARANTINE}999/raw/"), None).await.expect(api.name, 404);
    }
}

#[tokio::test]
async fn a_replay_answers_with_its_task_and_says_what_cannot_be_replayed() {
    for api in apis().await {
        let raws: [(&str, &[u8]); 3] =
            [("rule", b"{\"a\":1}"), ("csv_width", b"a,b"), ("record_limit", b"{\"a\":123456")];
        let (source, ids) = held(&api, "s", &raws).await;
        let path = |n: usize| format!("{QUARANTINE}{}/replay/", ids[n]);
        let reply = api.call("POST", &path(0), None).await;
        let location = reply.header("location").to_owned();
        let task = reply.expect(api.name, 202);
        assert_eq!(location, format!("/api/acquisition/tasks/{}/", task["id"]), "{}", api.name);
        let row = api.get(&format!("{QUARANTINE}{}/", ids[0])).await;
        assert_eq!((&row["status"], &row["replay_task"]), (&json!("replaying"), &task["id"]), "{}", api.name);

        let detail = async |n: usize, status| {
            api.call("POST", &path(n), None).await.expect(api.name, status)["detail"].as_str().unwrap().to_owned()
        };
        assert!(detail(0, 409).await.contains("being replayed"), "{}", api.name);
        assert!(detail(1, 409).await.contains("no JSON object"), "{}", api.name);
        assert!(detail(2, 409).await.contains("first 11 of its 12 bytes"), "{}", api.name);
        for (raw, word) in [("{", "raw"), ("[1]", "raw"), ("", "raw")] {
            let errors = api.call("POST", &path(1), Some(json!({"raw": raw}))).await.expect(api.name, 400);
            assert!(errors[word][0].as_str().unwrap().contains("Send one JSON object"), "{}: {errors}", api.name);
        }
        api.call("POST", &path(1), Some(json!({"raw": 1}))).await.expect(api.name, 400);
        for n in [1, 2] {
            let again = api.call("POST", &path(n), Some(json!({"raw": "{\"a\": 12345678901234567890.10}"}))).await;
            assert_eq!(again.expect(api.name, 202)["id"], task["id"], "{}: one task reads them all", api.name);
        }
        assert_eq!(statuses(&api, source).await, ["replaying"; 3], "{}", api.name);
        api.call("POST", &format!("{QUARANTINE}999/replay/"), None).await.expect(api.name, 404);

        // What is being replayed cannot be discarded.
        let refused = api.call("POST", &format!("{QUARANTINE}{}/discard/", ids[0]), None).await;
        refused.expect(api.name, 409);
        let request = api.request("POST", &path(0), &api.admin).header(header::ACCEPT_LANGUAGE, "ja");
        let japanese = api.send(request.body(axum::body::Body::empty()).unwrap()).await.expect(api.name, 409);
        assert!(japanese["detail"].as_str().unwrap().contains("再投入中"), "{japanese}");
    }
}

#[tokio::test]
async fn a_paused_source_and_a_draft_replay_nothing() {
    for api in apis().await {
        let (source, ids) = held(&api, "s", &[("rule", b"{}")]).await;
        for (body, field) in
            [(json!({"status": "inactive"}), "status"), (json!({"status": "active", "config": {}}), "config")]
        {
            api.call("PATCH", &format!("{SOURCES}{source}/"), Some(body)).await.expect(api.name, 200);
            let one = api.call("POST", &format!("{QUARANTINE}{}/replay/", ids[0]), None).await.expect(api.name, 400);
            assert!(one.get(field).is_some(), "{}: {one}", api.name);
            for many in [json!({"ids": ids}), json!({"source": source})] {
                let refused = api.call("POST", &format!("{QUARANTINE}replay/"), Some(many)).await.expect(api.name, 400);
                assert!(refused.get(field).is_some(), "{}: {refused}", api.name);
            }
        }
        assert_eq!(statuses(&api, source).await, ["held"], "{}", api.name);
    }
}

#[tokio::test]
async fn many_are_replayed_or_discarded_by_id_or_by_source_and_reason() {
    for api in apis().await {
        let raws: Vec<(&str, &[u8])> = (0..130)
            .map(|n| if n % 2 == 0 { ("rule", b"{\"a\":1}".as_slice()) } else { ("csv_width", b"a,b".as_slice()) })
            .collect();
        let (source, ids) = held(&api, "s", &raws).await;
        let (other, others) = held(&api, "other", &[("rule", b"{}")]).await;
        let call = async |action: &str, body: Value, status| {
            api.call("POST", &format!("{QUARANTINE}{action}/"), Some(body)).await.expect(api.name, status)
        };
        let done = call("replay", json!({"ids": [ids[0], ids[1], others[0], 999_999]}), 202).await;
        assert_eq!((&done["done"], &done["skipped"]), (&json!(2), &json!(2)), "{}", api.name);
        assert_eq!(done["tasks"].as_array().unwrap().len(), 2, "{}: one for each source", api.name);
        let done = call("replay", json!({"source": source, "reason": "rule"}), 202).await;
        assert_eq!((&done["done"], &done["skipped"], &done["after"]), (&json!(64), &json!(0), &Value::Null));
        let done = call("replay", json!({"source": source}), 202).await;
        assert_eq!((&done["done"], &done["skipped"]), (&json!(0), &json!(65)), "{}: they are rows of CSV", api.name);
        let done = call("discard", json!({"source": source, "reason": "csv_width", "after": ids[3]}), 200).await;
        assert_eq!((&done["done"], &done["after"]), (&json!(63), &Value::Null), "{}", api.name);
        let done = call("discard", json!({"source": source}), 200).await;
        assert_eq!(done["done"], 2, "{}", api.name);
        assert_eq!(statuses(&api, source).await, ["replaying"; 65], "{}", api.name);
        assert_eq!(statuses(&api, other).await, ["replaying"], "{}", api.name);

        for body in [
            json!({}),
            json!({"ids": []}),
            json!({"ids": [0]}),
            json!({"ids": "1"}),
            json!({"ids": [1], "source": source}),
            json!({"source": 999}),
            json!({"reason": "rule"}),
            json!({"source": source, "after": -1}),
        ] {
            call("replay", body.clone(), 400).await;
            call("discard", body, 400).await;
        }
        call("discard", json!({"source": source, "status": "replaying"}), 400).await;
        let viewer = api.request("POST", &format!("{QUARANTINE}discard/"), &api.viewer);
        assert_eq!(api.send(viewer.body(axum::body::Body::empty()).unwrap()).await.status, 403);
    }
}

#[tokio::test]
async fn a_discarded_record_is_gone() {
    for api in apis().await {
        let (source, ids) = held(&api, "s", &[("rule", b"{}"), ("rule", b"[]")]).await;
        let path = format!("{QUARANTINE}{}/discard/", ids[0]);
        api.call("POST", &path, None).await.expect(api.name, 204);
        api.call("POST", &path, None).await.expect(api.name, 404);
        assert_eq!(api.get(&format!("{QUARANTINE}?source={source}")).await["count"], 1, "{}", api.name);
        assert_eq!(api.get(&format!("{QUARANTINE}?source={source}&status=replayed")).await["count"], 0, "{}", api.name);
    }
}

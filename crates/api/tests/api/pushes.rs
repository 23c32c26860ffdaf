//! Records that are sent to a source, with a token or as a signed webhook.

use std::io::Write as _;

use axum::body::{Body, Bytes};
use http::header;
use matome_model::clock::Clock;
use matome_store::counters;
use matome_store::pushes::MOST_WAITING;
use serde_json::{Value, json};

use crate::support::{Reply, SOURCES, TestApi, apis};

async fn push_source(api: &TestApi, name: &str, config: Value) -> Value {
    api.make(SOURCES, json!({"name": name, "source_type": "push", "config": config})).await["id"].clone()
}

/// Sends to a source of the administrator, with these headers.
async fn send(api: &TestApi, id: &Value, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
    let request = api.request("POST", &format!("{SOURCES}{id}/records/"), &api.admin);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    api.send(request.body(body.into()).unwrap()).await
}

/// Delivers without a token.
async fn deliver(api: &TestApi, id: &Value, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
    let path = format!("{SOURCES}{id}/webhook/");
    let request = http::Request::builder().method("POST").uri(path).header(header::HOST, "localhost");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    api.send(request.body(body.into()).unwrap()).await
}

async fn kept(api: &TestApi) -> i64 {
    let mut reader = api.db.read().await.unwrap();
    reader.conn().fetch_one("select count(*) as n from push_bodies", &[]).await.unwrap().int("n").unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

#[tokio::test]
async fn what_is_sent_is_kept_with_its_task_and_a_key_makes_it_one() {
    for api in apis().await {
        let id = push_source(&api, "p", json!({"format": "auto"})).await;
        assert_eq!(api.get(&format!("{SOURCES}{id}/")).await["fetch_interval"], 0, "{}", api.name);
        let with_key = [JSON, ("idempotency-key", "7f3a")];
        let first = send(&api, &id, &with_key, r#"[{"n":1},{"n":2}]"#).await;
        let location = first.header("location").to_owned();
        let first = first.expect(api.name, 202);
        assert_eq!(location, format!("/api/acquisition/tasks/{}/", first["task"]), "{}", api.name);
        assert_eq!((&first["status"], &first["records"]), (&json!("waiting"), &json!(2)), "{}", api.name);
        let task = api.get(&location).await;
        assert_eq!((&task["trigger"], &task["status"]), (&json!("push"), &json!("pending")), "{}", api.name);

        assert_eq!(send(&api, &id, &with_key, r#"[{"n":1},{"n":2}]"#).await.expect(api.name, 202), first);
        // The same content compressed is the same.
        let zipped = [JSON, ("idempotency-key", "7f3a"), ("content-encoding", "gzip")];
        let again = send(&api, &id, &zipped, gzip(br#"[{"n":1},{"n":2}]"#)).await.expect(api.name, 202);
        assert_eq!(again, first, "{}", api.name);
        let other = send(&api, &id, &with_key, r#"[{"n":3}]"#).await.expect(api.name, 422);
        assert!(other["detail"].as_str().unwrap().contains("another key"), "{}: {other}", api.name);
        let other = send(&api, &id, &[NDJSON, with_key[1]], r#"[{"n":1},{"n":2}]"#).await;
        assert_eq!(other.status, 400, "{}", api.name);
        assert_eq!(kept(&api).await, 1, "{}", api.name);

        for (headers, body, records) in [
            (&[NDJSON][..], "{\"n\":1}\nno record\n", 2),
            (&[("content-type", "text/csv; charset=utf-8")], "a,b\n1,2\n", 1),
            (&[JSON], "[]", 0),
            (&[JSON], r#"{"n":1}"#, 1),
        ] {
            let sent = send(&api, &id, headers, body).await.expect(api.name, 202);
            assert_eq!((&sent["records"], &sent["task"]), (&json!(records), &first["task"]), "{}: {body}", api.name);
        }
        assert_eq!(kept(&api).await, 5, "{}", api.name);
    }
}

/// Status, headers, body, the field that tells, and what it says.
type Refused<'a> = (u16, &'a [(&'a str, &'a str)], Vec<u8>, &'a str, &'a str);

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_place_and_remedy_and_not_kept() {
    for api in apis().await {
        let id = push_source(&api, "p", json!({"format": "auto"})).await;
        let cut = gzip(&[b' '; 1000]);
        let cases: [Refused<'_>; 13] = [
            (400, &[JSON], Vec::new(), "body", "empty"),
            (400, &[JSON], b"  \n".to_vec(), "body", "empty"),
            (400, &[JSON], b"[{\"a\":1},\n{\"a\":".to_vec(), "body", "Line 2, behind 1 records"),
            (400, &[JSON], b"a=1&b=2".to_vec(), "body", "Line 1"),
            (400, &[NDJSON], b"a,b\n1,2\n".to_vec(), "body", "one JSON object a line"),
            (400, &[("content-type", "text/csv")], b"a,a\n1,2\n".to_vec(), "body", "twice"),
            (400, &[JSON, ("content-encoding", "gzip")], b"{}".to_vec(), "body", "gzip"),
            (400, &[JSON, ("content-encoding", "gzip")], cut[..cut.len() - 3].to_vec(), "body", "gzip"),
            (400, &[JSON, ("idempotency-key", "a b")], b"{}".to_vec(), "Idempotency-Key", "visible ASCII"),
            (415, &[JSON, ("content-encoding", "br")], b"{}".to_vec(), "detail", "gzip"),
            (415, &[], b"{}".to_vec(), "detail", "application/x-ndjson"),
            (415, &[("content-type", "application/x-www-form-urlencoded")], b"{}".to_vec(), "detail", "`format`"),
            (415, &[("content-type", "text/csv; charset=shift_jis")], b"a\n1\n".to_vec(), "detail", "`encoding`"),
        ];
        for (status, headers, body, field, says) in cases {
            let reply = send(&api, &id, headers, body.clone()).await.expect(api.name, status);
            let told = reply[field].as_str().or(reply[field][0].as_str()).unwrap_or_default().to_owned();
            assert!(told.contains(says), "{}: {body:?}: {reply}", api.name);
            let japanese: Vec<_> = headers.iter().copied().chain([("accept-language", "ja")]).collect();
            let reply = send(&api, &id, &japanese, body).await.json;
            let told = reply[field].as_str().or(reply[field][0].as_str()).unwrap_or_default().to_owned();
            assert!(told.contains('。'), "{}: {reply}", api.name);
        }
        let long = "k".repeat(256);
        send(&api, &id, &[JSON, ("idempotency-key", &long)], "{}").await.expect(api.name, 400);
        assert_eq!(kept(&api).await, 0, "{}", api.name);
    }
}

/// The body is bounded before it is looked at, inflated or not; at the limit it is taken.
#[tokio::test]
async fn a_body_has_its_own_limit_also_when_it_is_inflated() {
    const LIMIT: usize = 16 << 20;
    for api in apis().await {
        let id = push_source(&api, "p", json!({"format": "json"})).await;
        let padded = |length: usize| {
            let mut body = br#"{"n":1}"#.to_vec();
            body.resize(length, b' ');
            Bytes::from(body)
        };
        send(&api, &id, &[], padded(LIMIT)).await.expect(api.name, 202);
        let reply = send(&api, &id, &[], padded(LIMIT + 1)).await;
        assert_eq!(reply.header("connection"), "close", "{}", api.name);
        assert!(reply.expect(api.name, 413)["detail"].as_str().unwrap().contains("16777216"), "{}", api.name);
        let zip = [("content-encoding", "gzip")];
        send(&api, &id, &zip, gzip(&padded(LIMIT))).await.expect(api.name, 202);
        send(&api, &id, &zip, gzip(&padded(LIMIT + 1))).await.expect(api.name, 413);
        assert_eq!(kept(&api).await, 2, "{}", api.name);
    }
}

#[tokio::test]
async fn only_a_push_source_with_a_config_takes_records_and_a_paused_one_keeps_them() {
    for api in apis().await {
        let file = api.make(SOURCES, json!({"name": "f", "source_type": "file", "config": {"path": "a.csv"}})).await;
        let reply = send(&api, &file["id"], &[JSON], "{}").await.expect(api.name, 400);
        assert!(reply["source_type"][0].as_str().unwrap().contains("\"push\""), "{}: {reply}", api.name);
        let draft = push_source(&api, "d", json!({})).await;
        let reply = send(&api, &draft, &[JSON], "{}").await.expect(api.name, 400);
        assert!(reply["config"][0].as_str().unwrap().contains("`format`"), "{}: {reply}", api.name);
        send(&api, &json!(2_000_000), &[JSON], "{}").await.expect(api.name, 404);

        let id = push_source(&api, "p", json!({"format": "auto"})).await;
        api.call("POST", &format!("{SOURCES}{id}/pause/"), None).await.expect(api.name, 200);
        let sent = send(&api, &id, &[JSON], "{}").await.expect(api.name, 202);
        assert_eq!(sent["status"], "waiting", "{}", api.name);

        let request = api.request("POST", &format!("{SOURCES}{id}/records/"), &api.viewer);
        let request = request.header(JSON.0, JSON.1).body(Body::from("{}")).unwrap();
        api.send(request).await.expect(api.name, 403);

        api.call("DELETE", &format!("{SOURCES}{id}/"), None).await.expect(api.name, 204);
        send(&api, &id, &[JSON], "{}").await.expect(api.name, 404);
    }
}

#[tokio::test]
async fn when_too_much_waits_the_sender_is_told_when_to_come_again() {
    for api in apis().await {
        let id = push_source(&api, "p", json!({"format": "auto"})).await;
        let source_id = id.as_i64().unwrap();
        let raised = api.db.write(move |conn| {
            Box::pin(async move { counters::add(conn, counters::PUSHES, source_id, "", MOST_WAITING).await })
        });
        raised.await.unwrap();
        let reply = send(&api, &id, &[JSON], "{}").await;
        assert_eq!(reply.header("retry-after"), "60", "{}", api.name);
        let told = reply.expect(api.name, 429);
        assert!(told["detail"].as_str().unwrap().contains("100000 pushes"), "{}: {told}", api.name);
    }
}

/// A body that breaks off keeps nothing and takes no memory with it.
#[tokio::test]
async fn a_body_that_breaks_off_is_not_kept() {
    for api in apis().await {
        let id = push_source(&api, "p", json!({"format": "auto"})).await;
        let pieces = futures::stream::iter([Ok(Bytes::from_static(b"[{\"n\":1}")), Err(std::io::Error::other("cut"))]);
        let reply = send(&api, &id, &[JSON], Body::from_stream(pieces)).await.expect(api.name, 400);
        assert!(reply["body"][0].as_str().unwrap().contains("Send it again"), "{}: {reply}", api.name);
        assert_eq!(kept(&api).await, 0, "{}", api.name);
    }
}

const GITHUB_SECRET: &str = "It's a Secret to Everybody";
/// As GitHub's documentation prints them.
const GITHUB: [(&str, &str); 2] = [
    ("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
    ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
];
const GITHUB_BODY: &str = "Hello, World!";

#[tokio::test]
async fn a_signed_webhook_needs_no_token_and_counts_once() {
    for api in apis().await {
        let webhook = json!({"scheme": "github", "secret": GITHUB_SECRET});
        let config = json!({"format": "csv", "header": ["greeting", "name"], "webhook": webhook});
        let id = push_source(&api, "p", config).await;
        let shown = api.get(&format!("{SOURCES}{id}/")).await;
        assert_eq!(shown["config"]["webhook"]["secret"], json!({"$secret": true}), "{}", api.name);

        let first = deliver(&api, &id, &GITHUB, GITHUB_BODY).await.expect(api.name, 202);
        assert_eq!(first["records"], 1, "{}", api.name);
        assert_eq!(deliver(&api, &id, &GITHUB, GITHUB_BODY).await.expect(api.name, 202), first, "{}", api.name);
        assert_eq!(kept(&api).await, 1, "{}", api.name);

        for (headers, body) in [
            (&GITHUB[..], "Hello, world!"),
            (&GITHUB[1..], GITHUB_BODY),
            (&GITHUB[..1], GITHUB_BODY),
            (&[("x-hub-signature-256", "sha256=00"), GITHUB[1]], GITHUB_BODY),
            (&[GITHUB[0], GITHUB[0], GITHUB[1]], GITHUB_BODY),
        ] {
            let refused = deliver(&api, &id, headers, body).await.expect(api.name, 401);
            assert_eq!(refused, json!({"detail": "The signature is missing or not valid."}), "{}", api.name);
        }
        // Another secret, then both.
        let path = format!("{SOURCES}{id}/");
        let with =
            |webhook: Value| json!({"config": {"format": "csv", "header": ["greeting", "name"], "webhook": webhook}});
        let other = with(json!({"scheme": "github", "secret": "quite another secret"}));
        api.call("PATCH", &path, Some(other)).await.expect(api.name, 200);
        deliver(&api, &id, &GITHUB, GITHUB_BODY).await.expect(api.name, 401);
        let both = with(json!({"scheme": "github", "secret": {"$secret": true}, "previous_secret": GITHUB_SECRET}));
        api.call("PATCH", &path, Some(both)).await.expect(api.name, 200);
        deliver(&api, &id, &GITHUB, GITHUB_BODY).await.expect(api.name, 202);
        assert_eq!(kept(&api).await, 1, "{}: still the same delivery", api.name);
    }
}

#[tokio::test]
async fn a_source_without_a_webhook_has_no_such_path() {
    for api in apis().await {
        let plain = push_source(&api, "p", json!({"format": "auto"})).await;
        let draft = push_source(&api, "d", json!({})).await;
        let file = api.make(SOURCES, json!({"name": "f", "source_type": "file", "config": {"path": "a.csv"}})).await;
        for id in [&plain, &draft, &file["id"], &json!(2_000_000)] {
            let reply = deliver(&api, id, &GITHUB, GITHUB_BODY).await.expect(api.name, 404);
            assert_eq!(reply, json!({"detail": "No DataSource matches the given query."}), "{}", api.name);
        }
    }
}

/// A signed time keeps an old delivery from coming again, and the key keeps it from being stored twice meanwhile.
#[tokio::test]
async fn a_delivery_that_was_signed_long_ago_is_refused() {
    for api in apis().await {
        let webhook = json!({"scheme": "standard-webhooks", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"});
        let id = push_source(&api, "p", json!({"webhook": webhook})).await;
        // The reference vector, signed in 2021.
        let headers = [
            JSON,
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ];
        deliver(&api, &id, &headers, r#"{"test": 2432232314}"#).await.expect(api.name, 401);

        let stripe = json!({"webhook": {"scheme": "stripe", "secret": "whsec_test_secret"}});
        let id = push_source(&api, "s", stripe).await;
        let now = Clock::system().now().timestamp();
        let signed = |at: i64, body: &str| {
            let mut mac = <hmac::Hmac<sha2::Sha256> as hmac::KeyInit>::new_from_slice(b"whsec_test_secret").unwrap();
            hmac::Mac::update(&mut mac, format!("{at}.{body}").as_bytes());
            let digits: String =
                hmac::Mac::finalize(mac).into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("t={at},v1={digits}")
        };
        let event = r#"{"id":"evt_1","pending_webhooks":1}"#;
        let old = signed(now - 400, event);
        deliver(&api, &id, &[JSON, ("stripe-signature", &old)], event).await.expect(api.name, 401);
        let fresh = signed(now, event);
        let first = deliver(&api, &id, &[JSON, ("stripe-signature", &fresh)], event).await.expect(api.name, 202);
        // Tried again it is signed anew and says less waits; it is the same event.
        let retried = r#"{"id":"evt_1","pending_webhooks":0}"#;
        let signature = signed(now + 1, retried);
        let again = deliver(&api, &id, &[JSON, ("stripe-signature", &signature)], retried).await;
        assert_eq!(again.expect(api.name, 202), first, "{}", api.name);
        assert_eq!(kept(&api).await, 1, "{}", api.name);
    }
}

#[tokio::test]
async fn the_document_describes_what_can_be_sent() {
    let api = apis().await.remove(0);
    let document = api.get("/api/schema/?format=json").await;
    let records = &document["paths"]["/api/acquisition/sources/{id}/records/"]["post"];
    let types: Vec<&str> = records["requestBody"]["content"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(types, ["application/json", "application/x-ndjson", "text/csv"]);
    assert!(records["parameters"].as_array().unwrap().iter().any(|parameter| parameter["in"] == "header"), "{records}");
    let webhook = &document["paths"]["/api/acquisition/sources/{id}/webhook/"]["post"];
    assert_eq!(webhook["security"], json!([]), "{webhook}");
    let id = push_source(&api, "p", json!({"format": "auto"})).await;
    let sent = send(&api, &id, &[JSON], "{}").await.json;
    let described = document["components"]["schemas"]["Push"]["properties"].as_object().unwrap();
    assert_eq!(described.keys().collect::<Vec<_>>(), sent.as_object().unwrap().keys().collect::<Vec<_>>());
}

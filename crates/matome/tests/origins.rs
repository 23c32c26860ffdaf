//! Which pages of other origins may read answers of the real binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use reqwest::header::{HeaderMap, HeaderName};
use serde_json::json;
use support::{Server, sqlite_home};

const APP: &str = "https://app.example.org";

async fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap) {
    let mut request = server.client.request(method.parse().unwrap(), format!("{}{path}", server.base));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let reply = request.send().await.unwrap();
    (reply.status().as_u16(), reply.headers().clone())
}

fn of<'h>(headers: &'h HeaderMap, name: &'static str) -> Option<&'h str> {
    headers.get(HeaderName::from_static(name)).map(|value| value.to_str().unwrap())
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    headers.get_all("vary").iter().any(|value| value.to_str().unwrap().contains("Origin"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_origin_may_read_and_ask_and_no_other_may() {
    let mut home = sqlite_home();
    home.extra = vec!["--cors-allowed-origins".into(), format!("{APP},http://localhost:3000")];
    let server = home.serve().await;
    let bearer = format!("Bearer {}", server.token);
    let path = "/api/acquisition/sources/";
    let (status, headers) = ask(&server, "GET", path, &[("origin", APP), ("authorization", &bearer)]).await;
    assert_eq!((status, of(&headers, "access-control-allow-origin")), (200, Some(APP)));
    assert!(varies_by_origin(&headers) && of(&headers, "access-control-expose-headers").unwrap().contains("Location"));
    assert_eq!(of(&headers, "access-control-allow-credentials"), None);
    // An error can be read as well, or a page could not tell its user what is wrong.
    let (status, headers) = ask(&server, "GET", path, &[("origin", APP)]).await;
    assert_eq!((status, of(&headers, "access-control-allow-origin")), (401, Some(APP)));
    let (status, headers) = ask(&server, "GET", "/nothing/", &[("origin", "http://localhost:3000")]).await;
    assert_eq!((status, of(&headers, "access-control-allow-origin")), (404, Some("http://localhost:3000")));

    // A preflight comes without a token; what it asks for is still asked for a token then.
    let asks = [("origin", APP), ("access-control-request-method", "PATCH")];
    let (status, headers) = ask(&server, "OPTIONS", "/api/acquisition/sources/1/", &asks).await;
    assert_eq!((status, of(&headers, "access-control-allow-origin")), (204, Some(APP)));
    assert!(of(&headers, "access-control-allow-methods").unwrap().contains("PATCH"));
    assert!(of(&headers, "access-control-allow-headers").unwrap().contains("Authorization"));
    assert!(varies_by_origin(&headers));
    let (status, _) = ask(&server, "PATCH", "/api/acquisition/sources/1/", &[("origin", APP)]).await;
    assert_eq!(status, 401);

    for origin in ["https://evil.example", "https://app.example.org.evil.example", "http://app.example.org", "null"] {
        let (status, headers) = ask(&server, "GET", path, &[("origin", origin), ("authorization", &bearer)]).await;
        assert_eq!((status, of(&headers, "access-control-allow-origin")), (200, None), "{origin}");
        assert!(varies_by_origin(&headers), "{origin}");
        let asks = [("origin", origin), ("access-control-request-method", "GET")];
        let (status, headers) = ask(&server, "OPTIONS", path, &asks).await;
        assert_eq!((status, of(&headers, "access-control-allow-origin")), (401, None), "{origin}");
    }
    // A wrong Host is refused before anything else.
    let asks = [("origin", APP), ("access-control-request-method", "GET"), ("host", "evil.example")];
    assert_eq!(ask(&server, "OPTIONS", path, &asks).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_origin_may_when_all_are_listed_and_none_when_none_is() {
    let mut home = sqlite_home();
    home.extra = vec!["--cors-allowed-origins".into(), "*".into()];
    let server = home.serve().await;
    let (status, headers) = ask(&server, "GET", "/livez", &[("origin", "https://any.example")]).await;
    assert_eq!((status, of(&headers, "access-control-allow-origin")), (200, Some("*")));
    assert_eq!(of(&headers, "access-control-allow-credentials"), None);
    drop(server);
    let home = sqlite_home();
    let server = home.serve().await;
    let (status, headers) = ask(&server, "GET", "/livez", &[("origin", "https://any.example")]).await;
    assert_eq!((status, of(&headers, "access-control-allow-origin"), varies_by_origin(&headers)), (200, None, false));
}

#[test]
fn what_is_no_origin_is_refused_with_the_reason() {
    let home = sqlite_home();
    for wrong in ["app.example.org", "https://app.example.org/path", "https://a.example/", "ftp://a.example", "null"] {
        let mut command = home.command(&["config", "check"]);
        let output = command.env("CORS_ALLOWED_ORIGINS", wrong).env("MATOME_LANG", "ja").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{wrong}: {text}");
        assert!(text.contains("$CORS_ALLOWED_ORIGINS") && text.contains("ブラウザーが送る形"), "{wrong}: {text}");
        let flag = home.run(&["serve", "--cors-allowed-origins", wrong]);
        assert_eq!(flag.status.code(), Some(2), "{wrong}: {flag:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_without_a_zone_is_in_that_of_the_settings() {
    let mut home = sqlite_home();
    home.extra = vec!["--time-zone".into(), "Asia/Tokyo".into()];
    let server = home.serve().await;
    let source = json!({"path": "a.ndjson", "schedule": {"cron": "0 6 * * *"}});
    let body = json!({"name": "a", "source_type": "file", "config": source});
    let (status, row) = server.send("POST", "/api/acquisition/sources/", Some(body)).await;
    assert_eq!((status, &row["config"]["schedule"]["timezone"]), (201, &json!("Asia/Tokyo")), "{row}");
    let body = json!({"name": "b", "config": {"sql": "select 1 as n", "schedule": {"cron": "0 6 * * *"}}});
    let (status, row) = server.send("POST", "/api/aggregation/sources/", Some(body)).await;
    assert_eq!((status, &row["config"]["schedule"]["timezone"]), (201, &json!("Asia/Tokyo")), "{row}");
    let schedules = server.get("/api/schedules/").await;
    assert!(schedules["results"].as_array().unwrap().iter().all(|row| row["timezone"] == "Asia/Tokyo"), "{schedules}");
    // Without a server, too.
    let next =
        home.ok(&["schedule", "next", "--cron", "0 6 * * *", "-n", "1", "--time-zone", "Asia/Tokyo", "-o", "json"]);
    assert!(next.contains("T06:00:00+09:00"), "{next}");
    let wrong = home.command(&["config", "check"]).env("TIME_ZONE", "Asia/Tokio").output().unwrap();
    let text = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.status.code() == Some(3) && text.contains("Did you mean `Asia/Tokyo`?"), "{text}");
}

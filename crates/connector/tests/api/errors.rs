//! Answers that say an error.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use futures::StreamExt as _;
use matome_connector::{Advice, ConnectorError, Item, ReadRequest};

use crate::support::{Server, failure, json, raws, read_until, records};

fn with_errors(rules: &str, path: &str) -> String {
    format!(r#"{{"url":"http://HOST/{path}","records":"$.rows","errors":[{rules}]}}"#)
}

#[tokio::test]
async fn an_answer_of_200_that_says_an_error_fails_with_its_words() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/text" => json(r#"{"error":{"message":"no\u0000 such key"}}"#),
        "/rows" => json(r#"{"rows":[{"n":1}],"error":"halfway"}"#),
        "/null" => json(r#"{"rows":[{"n":1}],"error":null}"#),
        "/no" => json(r#"{"rows":[{"n":1}],"ok":false,"why":["a",1]}"#),
        _ => json(r#"{"rows":[{"n":1}],"error":false,"ok":true}"#),
    })
    .await;
    let rule = r#"{"path":"$.error","action":"fail","message":"$.error.message"},{"path":"$.ok","equals":false,"action":"retry","message":"$.why"}"#;
    let error = failure(&*server.connector(&with_errors(rule, "text"))).await;
    assert!(matches!(error, ConnectorError::Answer { .. }) && error.advice() == Advice::Fail, "{error}");
    assert!(error.to_string().ends_with("the server says no  such key"), "{error}");
    let (batches, error) = read_until(&*server.connector(&with_errors(rule, "rows")), ReadRequest::default()).await;
    assert_eq!(raws(&batches), [r#"{"n":1}"#]);
    assert!(error.unwrap().to_string().contains("something is wrong"));
    assert_eq!(records(&*server.connector(&with_errors(rule, "null"))).await.len(), 1);
    assert_eq!(records(&*server.connector(&with_errors(rule, "fine"))).await.len(), 1);
    let error = failure(&*server.connector(&with_errors(rule, "no"))).await;
    assert_eq!(error.advice(), Advice::Retry { after: None });
    assert!(error.to_string().ends_with(r#"["a",1]"#), "{error}");
}

#[tokio::test]
async fn a_page_that_is_one_object_is_no_record_when_it_says_an_error() {
    let server = Server::answering(|asked| match asked.uri.path() {
        "/bad" => json(format!(r#"{{"ok":false,"long":"{}"}}"#, "x".repeat(3 << 20))),
        "/inside" => json(r#"{"result":{"error":"no"}}"#),
        _ => json(r#"{"ok":true}"#),
    })
    .await;
    let read = async |path: &str, options: &str, rule: &str| {
        let config = format!(r#"{{"url":"http://HOST/{path}"{options},"errors":[{rule}]}}"#);
        read_until(&*server.connector(&config), ReadRequest { max_items: 1, ..ReadRequest::default() }).await
    };
    let rule = r#"{"path":"$.ok","equals":false,"action":"fail"}"#;
    let (batches, error) = read("bad", "", rule).await;
    assert!(raws(&batches).is_empty() && matches!(error, Some(ConnectorError::Answer { .. })), "{error:?}");
    let (batches, error) = read("bad", "", &rule.replace("fail", "empty")).await;
    assert!(raws(&batches).is_empty() && error.is_none(), "{error:?}");
    assert_eq!(raws(&read("good", "", rule).await.0).len(), 1);
    let inside = r#"{"path":"$.result.error","action":"fail"}"#;
    let (batches, error) = read("inside", r#","records":"$.result""#, inside).await;
    assert!(raws(&batches).is_empty() && error.is_some());
}

#[tokio::test]
async fn rules_turn_statuses_into_what_they_mean() {
    let server = Server::answering(|asked| {
        let status: u16 = asked.uri.path()[1..].parse().unwrap();
        (StatusCode::from_u16(status).unwrap(), [("retry-after", "7")], r#"{"code":"none","text":"there is nothing"}"#)
            .into_response()
    })
    .await;
    let rules = r#"{"status":404,"action":"empty"},{"status":400,"path":"$.code","equals":"none","action":"skip"},
        {"status":400,"action":"fail"},{"status":403,"action":"retry","message":"$.text"},{"status":"5xx","action":"fail","message":"$.text"}"#;
    let read =
        async |path: &str| read_until(&*server.connector(&with_errors(rules, path)), ReadRequest::default()).await;
    for path in ["404", "400"] {
        let (batches, error) = read(path).await;
        assert!(raws(&batches).is_empty() && error.is_none(), "{path}: {error:?}");
    }
    let error = read("403").await.1.unwrap();
    assert_eq!(error.advice(), Advice::Retry { after: Some(Duration::from_secs(7)) });
    let error = read("503").await.1.unwrap();
    assert_eq!(error.advice(), Advice::Fail);
    assert!(error.to_string().contains("503 Service Unavailable: there is nothing"), "{error}");
    // What no rule is about is as it was.
    assert!(matches!(read("401").await.1, Some(ConnectorError::Status { .. })));
    assert_eq!(read("429").await.1.unwrap().advice(), Advice::Retry { after: Some(Duration::from_secs(7)) });
}

#[tokio::test]
async fn a_page_that_is_passed_over_is_not_the_end_of_counted_pages() {
    let server = Server::answering(|asked| match asked.parameter("page").as_deref() {
        Some("1") => json(r#"{"rows":[{"n":1}]}"#),
        Some("2") => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Some("3") => json(r#"{"broken":true,"rows":[{"n":3}]}"#),
        Some("4") => json(r#"{"rows":[{"n":4}]}"#),
        _ if asked.uri.path() == "/all" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => json(r#"{"rows":[]}"#),
    })
    .await;
    let rules = r#"{"status":500,"action":"skip"},{"path":"$.broken","action":"skip"}"#;
    let config = |path: &str| with_errors(rules, path).replacen('{', r#"{"pagination":{"type":"page_number"},"#, 1);
    assert_eq!(records(&*server.connector(&config("few"))).await, [r#"{"n":1}"#, r#"{"n":3}"#, r#"{"n":4}"#]);
    let error = failure(&*server.connector(&config("all"))).await;
    assert!(matches!(error, ConnectorError::Loop { .. }) && error.to_string().contains("100 pages"), "{error}");
}

#[tokio::test]
async fn credentials_that_the_server_repeats_in_its_message_are_taken_out() {
    let server = Server::answering(|asked| {
        let sent = asked.header("authorization").unwrap_or_default();
        json(format!(r#"{{"error":"unknown token {sent}"}}"#))
    })
    .await;
    let config = with_errors(r#"{"path":"$.error","action":"fail","message":"$.error"}"#, "x").replacen(
        '{',
        r#"{"auth":{"type":"bearer","token":"s3cret"},"#,
        1,
    );
    let error = failure(&*server.connector(&config)).await;
    assert!(error.to_string().ends_with("unknown token Bearer ***"), "{error}");
}

#[tokio::test]
async fn a_host_that_is_unknown_closed_or_silent_is_told_and_asked_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (host, english, japanese) in [
        ("nowhere.invalid".to_owned(), "`nowhere.invalid` can not be resolved", "アドレスを調べられません"),
        (closed.to_string(), "refused", "要求に失敗しました"),
        (silent.to_string(), "was connected to, but sent nothing within 1 s", "に接続しましたが"),
    ] {
        let config = format!(r#"{{"url":"http://{host}/rows","timeout_secs":1}}"#);
        let error = failure(&*crate::support::connector(&[silent, closed], &config)).await;
        let told: String =
            error.causes().iter().map(|cause| format!("{} {}\n", cause.english, cause.japanese)).collect();
        assert!(told.contains(english) && told.contains(japanese), "{told}");
        assert_eq!(&*error.position().unwrap().document, format!("http://{host}/rows"));
        assert_eq!(error.advice(), Advice::Retry { after: None });
    }
}

#[tokio::test]
async fn a_page_that_never_ends_is_told_behind_what_came_and_a_record_over_the_limit_is_kept_out() {
    let server = Server::answering(|asked| {
        let body = match asked.uri.path() {
            "/endless" => {
                let begun = Bytes::from("{\"n\":1}\n{\"n\":\"");
                let begun = futures::stream::once(async { Ok::<_, std::io::Error>(begun) });
                let more = Bytes::from(vec![b'x'; 1 << 20]);
                Body::from_stream(begun.chain(futures::stream::repeat_with(move || Ok(more.clone()))))
            }
            _ => Body::from(format!(r#"[{{"n":1}},{{"t":"{}"}},{{"n":3}}]"#, "x".repeat(17 << 20))),
        };
        ([("content-type", "application/json")], body).into_response()
    })
    .await;
    let (batches, error) =
        read_until(&*server.connector(r#"{"url":"http://HOST/endless","format":"ndjson"}"#), ReadRequest::default())
            .await;
    let error = error.unwrap();
    assert_eq!(raws(&batches), [r#"{"n":1}"#]);
    let causes: String = error.causes().iter().map(|cause| format!("{} {}", cause.english, cause.japanese)).collect();
    assert!(causes.contains("268435456") && error.remedy().is_some(), "{causes}");
    assert!(error.position().unwrap().document.ends_with("/endless") && error.advice() == Advice::Fail, "{error:?}");

    let read = read_until(&*server.connector(r#"{"url":"http://HOST/large"}"#), ReadRequest::default()).await;
    assert!(read.1.is_none(), "{:?}", read.1);
    let items: Vec<_> = read.0.iter().flat_map(|batch| &batch.items).collect();
    assert!(matches!(items[1], Item::Rejected { reason, .. } if reason.as_str() == "record_limit"));
    assert!(items[1].raw().len() <= 64 << 10, "no more is kept");
    assert_eq!([items[0].raw(), items[2].raw()], [&b"{\"n\":1}"[..], b"{\"n\":3}"]);
}

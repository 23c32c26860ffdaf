//! Pages, statuses and credentials, as version 1 had them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use matome_connector::{Advice, ConnectorError, ReadRequest};

use crate::support::{Server, after, chain, connector, failure, json, parameter, raws, read_all, records};

/// Three pages of two records, linked.
fn linked(uri: &Uri, _: &HeaderMap) -> Response {
    let page: u64 = parameter(uri, "page").map_or(1, |page| page.parse().unwrap());
    let next = if page < 3 { format!("\"/users?page={}\"", page + 1) } else { "null".to_owned() };
    let (first, second) = (page * 10, page * 10 + 1);
    json(format!(r#"{{"count":6,"next":{next},"results":[{{"id":{first}}},{{"id":{second}}}]}}"#))
}

const LINKED: &str =
    r#"{"url":"http://HOST/users","records":"$.results","pagination":{"type":"next_link","next":"$.next"}}"#;
const SIX: [&str; 6] = [r#"{"id":10}"#, r#"{"id":11}"#, r#"{"id":20}"#, r#"{"id":21}"#, r#"{"id":30}"#, r#"{"id":31}"#];

#[tokio::test]
async fn next_links_are_followed_to_the_end() {
    let server = Server::start(linked).await;
    let batches = read_all(&*server.connector(LINKED), ReadRequest::default()).await.unwrap();
    assert_eq!(raws(&batches), SIX);
    assert_eq!(server.paths(), ["/users", "/users?page=2", "/users?page=3"]);
    assert_eq!(batches.iter().map(|batch| batch.stats.requests).sum::<u64>(), 3);
    let position = batches[1].items[0].position();
    assert_eq!((position.request, position.record, position.line), (Some(2), 1, None), "a page may be one line");
    assert!(position.document.ends_with("/users?page=2"));
}

#[tokio::test]
async fn one_page_is_an_array_or_one_object() {
    let server =
        Server::start(|uri, _| json(if uri.path() == "/one" { r#"{"id":1}"# } else { r#"[{"id":1},{"id":2}]"# })).await;
    assert_eq!(records(&*server.connector(r#"{"url":"http://HOST/one"}"#)).await, [r#"{"id":1}"#]);
    assert_eq!(records(&*server.connector(r#"{"url":"http://HOST/all"}"#)).await.len(), 2);
}

/// Three numbered pages of two records; what is behind them is `end`.
fn numbered(end: fn() -> Response) -> impl Fn(&Uri, &HeaderMap) -> Response + Clone + Send + Sync + 'static {
    move |uri, _| match parameter(uri, "page").unwrap().parse::<u64>().unwrap() {
        page @ 1..=3 => json(format!(r#"[{{"id":{page}0}},{{"id":{page}1}}]"#)),
        _ => end(),
    }
}

#[tokio::test]
async fn numbered_pages_end_with_an_empty_or_missing_page() {
    const CONFIG: &str = r#"{"url":"http://HOST/users?sort=id","pagination":{"type":"page_number"}}"#;
    let empty = Server::start(numbered(|| json("[]"))).await;
    assert_eq!(records(&*empty.connector(CONFIG)).await, SIX);
    assert_eq!(empty.paths().last().unwrap(), "/users?sort=id&page=4");
    let missing = Server::start(numbered(|| StatusCode::NOT_FOUND.into_response())).await;
    assert_eq!(records(&*missing.connector(CONFIG)).await, SIX);
}

#[tokio::test]
async fn a_page_shorter_than_the_declared_size_is_the_last() {
    let server = Server::start(numbered(|| panic!("not asked for"))).await;
    let config = r#"{"url":"http://HOST/","pagination":{"type":"page_number","size_param":"n","size":3}}"#;
    assert_eq!(records(&*server.connector(config)).await.len(), 2);
    assert_eq!(server.paths(), ["/?n=3&page=1"]);
}

#[tokio::test]
async fn pages_in_a_circle_are_an_error() {
    let server = Server::start(|uri, _| {
        let next = if uri.path() == "/a" { "/b" } else { "/a" };
        json(format!(r#"{{"next":"{next}","results":[]}}"#))
    });
    let server = server.await;
    let config = r#"{"url":"http://HOST/a","records":"$.results","pagination":{"type":"next_link","next":"$.next"}}"#;
    let error = failure(&*server.connector(config)).await;
    assert!(matches!(error, ConnectorError::Loop { .. }) && error.advice() == Advice::Fail, "{error}");
    let deaf = Server::start(|_, _| json(r#"[{"id":1}]"#)).await;
    let config = r#"{"url":"http://HOST/","pagination":{"type":"page_number"}}"#;
    assert!(matches!(failure(&*deaf.connector(config)).await, ConnectorError::Loop { .. }));
}

#[tokio::test]
async fn an_unchanged_page_leads_on_to_the_changed_ones() {
    let changed = Arc::new(Mutex::new(false));
    let flag = changed.clone();
    let server = Server::start(move |uri, headers| {
        let page = parameter(uri, "page").unwrap_or_else(|| "1".into());
        let version = if page == "2" && *flag.lock().unwrap() { "b" } else { "a" };
        let etag = format!("\"{page}{version}\"");
        if headers.get(header::IF_NONE_MATCH).is_some_and(|sent| sent.to_str().unwrap() == etag) {
            return StatusCode::NOT_MODIFIED.into_response();
        }
        let mut response = linked(uri, headers);
        response.headers_mut().insert(header::ETAG, etag.parse().unwrap());
        response
    });
    let server = server.await;
    let connector = server.connector(LINKED);
    let first = read_all(&*connector, ReadRequest::default()).await.unwrap();
    assert_eq!(raws(&first), SIX);
    let second = read_all(&*connector, after(&first)).await.unwrap();
    assert!(raws(&second).is_empty());
    assert_eq!(second.iter().map(|batch| (batch.stats.requests, batch.stats.not_modified)).next_back(), Some((3, 3)));
    *changed.lock().unwrap() = true;
    let third = read_all(&*connector, after(&second)).await.unwrap();
    assert_eq!(raws(&third), SIX[2..4]);
    let elsewhere = server.connector(&LINKED.replace("$.results", "$.results[*]"));
    assert_eq!(raws(&read_all(&*elsewhere, after(&third)).await.unwrap()), SIX);
    let rows = server.connector(&LINKED.replace("\"url\"", "\"dedupe\":\"rows\",\"url\""));
    assert_eq!(raws(&read_all(&*rows, after(&third)).await.unwrap()), SIX);
}

#[tokio::test]
async fn a_broken_read_goes_on_at_the_page_it_names() {
    let broken = Arc::new(Mutex::new(true));
    let flag = broken.clone();
    let server = Server::start(move |uri, headers| match parameter(uri, "page").as_deref() {
        Some("3") if *flag.lock().unwrap() => StatusCode::BAD_GATEWAY.into_response(),
        _ => linked(uri, headers),
    });
    let server = server.await;
    let connector = server.connector(LINKED);
    let mut reader = connector.read(ReadRequest::default()).await.unwrap();
    let mut batches = vec![reader.next().await.unwrap().unwrap(), reader.next().await.unwrap().unwrap()];
    let error = reader.next().await.unwrap_err();
    assert_eq!(error.advice(), Advice::Retry { after: None });
    assert_eq!(error.position().unwrap().request, Some(3));
    *broken.lock().unwrap() = false;
    server.asked();
    batches.extend(read_all(&*connector, after(&batches)).await.unwrap());
    assert_eq!(raws(&batches), SIX);
    assert_eq!(server.paths(), ["/users?page=3"]);
}

#[tokio::test]
async fn a_link_that_the_server_forgot_begins_the_read_anew() {
    let server = Server::start(|uri, headers| match parameter(uri, "page").as_deref() {
        Some("old") => StatusCode::GONE.into_response(),
        _ => linked(uri, headers),
    });
    let server = server.await;
    let connector = server.connector(LINKED);
    let mut reader = connector.read(ReadRequest::default()).await.unwrap();
    let first = reader.next().await.unwrap().unwrap();
    let checkpoint = first.checkpoint.get().replace("page=2", "page=old");
    let request = ReadRequest {
        checkpoint: Some(serde_json::value::RawValue::from_string(checkpoint).unwrap()),
        ..ReadRequest::default()
    };
    assert_eq!(raws(&read_all(&*connector, request).await.unwrap()), SIX);
}

#[tokio::test]
async fn without_deduplication_a_page_goes_on_behind_its_last_committed_record() {
    let server = Server::start(|_, _| {
        json(format!("[{}]", (0..25).map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>().join(",")))
    })
    .await;
    let connector = server.connector(r#"{"url":"http://HOST/","dedupe":"none"}"#);
    let request = ReadRequest { resume_inside: true, max_items: 10, ..ReadRequest::default() };
    let batches = read_all(&*connector, request.clone()).await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.items.len()).collect::<Vec<_>>(), [10, 10, 5, 0]);
    let request = ReadRequest { checkpoint: Some(batches[1].checkpoint.clone()), ..request };
    assert_eq!(raws(&read_all(&*connector, request).await.unwrap()), raws(&batches)[20..]);
}

#[tokio::test]
async fn statuses_say_whether_and_when_to_try_again() {
    let server = Server::start(|uri, _| {
        let status: u16 = uri.path()[1..].parse().unwrap();
        (StatusCode::from_u16(status).unwrap(), [(header::RETRY_AFTER, uri.query().unwrap_or("x").replace('+', " "))])
            .into_response()
    });
    let server = server.await;
    for (path, advice) in [
        ("503?7", Advice::Retry { after: Some(Duration::from_secs(7)) }),
        ("429?Thu,+01+Jan+2026+00:01:00+GMT", Advice::Retry { after: Some(Duration::from_secs(60)) }),
        ("429?999999999", Advice::Retry { after: Some(Duration::from_secs(86_400)) }),
        ("500", Advice::Retry { after: None }),
        ("408", Advice::Retry { after: None }),
        ("401", Advice::Fail),
        ("403", Advice::Fail),
        ("404", Advice::Fail),
        ("304", Advice::Fail),
    ] {
        let error = failure(&*server.connector(&format!(r#"{{"url":"http://HOST/{path}"}}"#))).await;
        assert_eq!(error.advice(), advice, "{path}: {error}");
        assert!(error.to_string().contains(&path[..3]), "{error}");
    }
}

#[tokio::test]
async fn a_login_page_and_a_broken_document_are_errors_with_a_place() {
    let server = Server::start(|uri, _| match uri.path() {
        "/login" => ([(header::CONTENT_TYPE, "text/HTML; charset=utf-8")], "<html>").into_response(),
        _ => json("[{\"id\":1},\n{\"id\":2"),
    });
    let server = server.await;
    let error = failure(&*server.connector(r#"{"url":"http://HOST/login"}"#)).await;
    assert!(error.to_string().contains("text/HTML") && error.advice() == Advice::Fail, "{error}");
    let error = failure(&*server.connector(r#"{"url":"http://HOST/cut"}"#)).await;
    assert!(error.to_string().contains("line 2") && error.advice() == Advice::Fail, "{error}");
}

#[tokio::test]
async fn refused_connections_are_tried_again_and_denied_ones_are_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = format!(r#"{{"url":"http://{address}/?q=1"}}"#);
    let error = failure(&*connector(&[address], &config)).await;
    assert_eq!(error.advice(), Advice::Retry { after: None }, "{error}");
    let error = failure(&*connector(&[], &config)).await;
    assert_eq!(error.advice(), Advice::Fail);
    assert!(chain(&error).contains(&format!("--egress-allow 127.0.0.1/32:{}", address.port())), "{}", chain(&error));
}

#[tokio::test]
async fn a_redirect_to_a_denied_address_fails() {
    let hidden = Server::start(|_, _| json("[{}]")).await;
    let target = format!("http://{}/", hidden.address);
    let server =
        Server::start(move |_, _| (StatusCode::FOUND, [(header::LOCATION, target.clone())]).into_response()).await;
    let error = failure(&*server.connector(r#"{"url":"http://HOST/"}"#)).await;
    assert!(chain(&error).contains("denied") && error.advice() == Advice::Fail, "{error}");
    assert!(hidden.asked().is_empty());
}

#[tokio::test]
async fn each_kind_of_auth_is_sent_and_never_shown() {
    let kinds = [
        (r#"{"type":"bearer","token":"s3cret-t"}"#, "authorization", "Bearer s3cret-t"),
        (r#"{"type":"basic","username":"ann","password":"s3cret-p"}"#, "authorization", "Basic YW5uOnMzY3JldC1w"),
        (r#"{"type":"header","name":"X-Key","value":"s3cret-h"}"#, "x-key", "s3cret-h"),
    ];
    let server = Server::start(|uri, headers| {
        if uri.path() == "/bad" { StatusCode::UNAUTHORIZED.into_response() } else { linked(uri, headers) }
    })
    .await;
    for (auth, name, value) in kinds {
        server.asked();
        let config = LINKED.replace("\"url\"", &format!("\"auth\":{auth},\"url\""));
        let batches = read_all(&*server.connector(&config), ReadRequest::default()).await.unwrap();
        assert_eq!(raws(&batches), SIX);
        assert!(server.asked().iter().all(|asked| asked.headers[name] == value), "{auth}");
        assert!(!format!("{batches:?}").contains("s3cret"));
        let error = failure(&*server.connector(&config.replace("/users", "/bad"))).await;
        assert!(!chain(&error).contains("s3cret") && !chain(&error).contains("YW5u"), "{}", chain(&error));
    }
    server.asked();
    let config = LINKED.replace("\"url\"", r#""auth":{"type":"query","name":"key","value":"s3cret-q"},"url""#);
    let batches = read_all(&*server.connector(&config), ReadRequest::default()).await.unwrap();
    assert_eq!(server.paths(), ["/users?key=s3cret-q", "/users?page=2&key=s3cret-q", "/users?page=3&key=s3cret-q"]);
    assert!(!format!("{batches:?}").contains("s3cret"), "{batches:?}");
    let error = failure(&*server.connector(&config.replace("/users", "/bad"))).await;
    assert!(!chain(&error).contains("s3cret"), "{}", chain(&error));
}

#[tokio::test]
async fn a_query_secret_that_the_server_repeats_in_its_links_is_taken_out() {
    let server = Server::start(|uri, headers| match parameter(uri, "page") {
        None => json(r#"{"next":"/users?key=s3cret&page=3","results":[]}"#),
        Some(_) => linked(uri, headers),
    });
    let server = server.await;
    let config = LINKED.replace("\"url\"", r#""auth":{"type":"query","name":"key","value":"s3cret"},"url""#);
    let batches = read_all(&*server.connector(&config), ReadRequest::default()).await.unwrap();
    assert_eq!(server.paths(), ["/users?key=s3cret", "/users?page=3&key=s3cret"]);
    assert!(!format!("{batches:?}").contains("s3cret"), "{batches:?}");
}

#[tokio::test]
async fn a_next_link_to_another_origin_gets_no_credentials() {
    let other = Server::start(|_, _| json(r#"{"next":null,"results":[{"id":2}]}"#)).await;
    let target = format!("http://user:pw@{}/more", other.address);
    let server = Server::start(move |_, _| json(format!(r#"{{"next":"{target}","results":[{{"id":1}}]}}"#))).await;
    let config = LINKED
        .replace("HOST", &server.address.to_string())
        .replace("\"url\"", r#""auth":{"type":"bearer","token":"s3cret"},"headers":{"X-Tenant":"t"},"url""#);
    let batches =
        read_all(&*connector(&[server.address, other.address], &config), ReadRequest::default()).await.unwrap();
    assert_eq!(raws(&batches).len(), 2);
    let headers = &server.asked()[0].headers;
    assert!(headers.contains_key("authorization") && headers["x-tenant"] == "t");
    let headers = &other.asked()[0].headers;
    assert!(!headers.contains_key("authorization") && !headers.contains_key("x-tenant"), "{headers:?}");
    let error = failure(&*connector(&[server.address], &config)).await;
    assert_eq!(error.advice(), Advice::Fail);
}

#[tokio::test]
async fn no_content_is_no_records() {
    let server = Server::start(|_, _| StatusCode::NO_CONTENT.into_response()).await;
    assert!(records(&*server.connector(r#"{"url":"http://HOST/"}"#)).await.is_empty());
}

#[tokio::test]
async fn a_wrong_next_link_is_an_error_at_its_page() {
    let server = Server::start(|_, _| json(r#"{"next":{"href":"/x"},"results":[]}"#)).await;
    let error = failure(&*server.connector(LINKED)).await;
    assert!(error.to_string().contains("pagination.next") && error.position().is_some(), "{error}");
}

#[tokio::test]
async fn a_read_that_waits_for_the_server_can_be_cancelled() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connector = connector(&[address], &format!(r#"{{"url":"http://{address}/"}}"#));
    let request = ReadRequest::default();
    let cancel = request.cancel.clone();
    let (read, _connection) = tokio::join!(read_all(&*connector, request), async move {
        let connection = listener.accept().await.unwrap();
        cancel.cancel();
        connection
    });
    assert!(matches!(read.unwrap_err(), ConnectorError::Cancelled));
}

#[tokio::test]
async fn a_connection_that_breaks_inside_of_a_page_is_tried_again() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connector = connector(&[address], &format!(r#"{{"url":"http://{address}/"}}"#));
    let serve = async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert!(connection.read(&mut request).await.unwrap() > 0);
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[{},{}").await.unwrap();
    };
    let (error, ()) = tokio::join!(failure(&*connector), serve);
    assert_eq!(error.advice(), Advice::Retry { after: None }, "{error}");
    assert_eq!(error.position().unwrap().record, 2);
}

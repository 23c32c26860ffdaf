//! How often a source is asked.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use matome_connector::{Advice, ConnectorError, ReadRequest};
use matome_model::source::SourceType;

use crate::support::{Server, clock, json, read_all, read_until, registry};

/// Five numbered pages, and when each was asked for.
async fn timed() -> (Server, Arc<Mutex<Vec<Instant>>>) {
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let log = times.clone();
    let server = Server::answering(move |asked| {
        log.lock().unwrap().push(Instant::now());
        let page: u64 = asked.parameter("page").unwrap().parse().unwrap();
        json(if page < 5 { format!(r#"[{{"n":{page}}}]"#) } else { "[]".to_owned() })
    })
    .await;
    (server, times)
}

const NUMBERED: &str = r#"{"url":"http://HOST/","pagination":{"type":"page_number"}RATE}"#;

#[tokio::test]
async fn all_reads_of_a_host_share_its_budget() {
    let (server, times) = timed().await;
    let registry = registry(&[server.address], clock());
    let open = |rate: &str| {
        let config = server.config(&NUMBERED.replace("RATE", rate));
        registry.open(SourceType::Api, &config).unwrap()
    };
    // Only one of them declares it.
    let (one, other) = (open(r#","rate":{"requests":3,"per_secs":1}"#), open(""));
    let mut first = one.read(ReadRequest::default()).await.unwrap();
    first.next().await.unwrap();
    let rest = async { while first.next().await.unwrap().is_some() {} };
    let (_, all) = tokio::join!(rest, read_all(&*other, ReadRequest::default()));
    all.unwrap();
    let times = times.lock().unwrap().clone();
    assert_eq!(times.len(), 10);
    // In any second at most three. The times are those of arrival, which come a little unevenly.
    for window in times.windows(4) {
        assert!(window[3] - window[0] > Duration::from_millis(900), "{:?}", window[3] - window[0]);
    }
}

#[tokio::test]
async fn a_wait_for_the_budget_can_be_cancelled() {
    let (server, _) = timed().await;
    let connector = server.connector(&NUMBERED.replace("RATE", r#","rate":{"requests":1,"per_secs":3600}"#));
    let request = ReadRequest::default();
    let cancel = request.cancel.clone();
    let mut reader = connector.read(request).await.unwrap();
    reader.next().await.unwrap();
    let (next, ()) = tokio::join!(reader.next(), async { cancel.cancel() });
    assert!(matches!(next, Err(ConnectorError::Cancelled)));
}

#[tokio::test]
async fn what_answers_say_is_left_is_waited_for() {
    let server = Server::answering(|asked| {
        let page: u64 = asked.parameter("page").unwrap().parse().unwrap();
        let body = if page < 3 { format!(r#"[{{"n":{page}}}]"#) } else { "[]".to_owned() };
        let mut response = match asked.uri.path() {
            "/forbidden" => StatusCode::FORBIDDEN.into_response(),
            _ => json(body),
        };
        let (left, reset) = match (asked.uri.path(), page) {
            ("/soon", 1) => ("0", "1"),
            ("/soon", _) => ("5", "1"),
            ("/late", _) => ("0", "3600"),
            // Half a minute after New Year.
            _ => ("0", "1767225630"),
        };
        response.headers_mut().insert("x-left", left.parse().unwrap());
        response.headers_mut().insert("x-reset", reset.parse().unwrap());
        response
    })
    .await;
    let config = |path: &str, more: &str| {
        NUMBERED
            .replace("HOST/", &format!("HOST/{path}"))
            .replace("RATE", &format!(r#","rate":{{"remaining":"X-Left","reset":"X-Reset"{more}}}"#))
    };
    let begun = Instant::now();
    read_all(&*server.connector(&config("soon", "")), ReadRequest::default()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // A long wait is left to the queue; it costs no attempt, and the page before it is there.
    let (batches, error) = read_until(&*server.connector(&config("late", "")), ReadRequest::default()).await;
    assert_eq!(batches.len(), 1);
    let Advice::Retry { after: Some(after) } = error.unwrap().advice() else { panic!("no wait") };
    assert!((3590..=3600).contains(&after.as_secs()), "{after:?}");
    let forbidden = config("forbidden", r#","reset_as":"epoch""#);
    let (_, error) = read_until(&*server.connector(&forbidden), ReadRequest::default()).await;
    assert_eq!(error.unwrap().advice(), Advice::Retry { after: Some(Duration::from_secs(30)) });
}

#[tokio::test]
async fn what_one_source_is_told_is_left_holds_for_all_of_the_host() {
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let server = Server::answering({
        let times = times.clone();
        move |asked| {
            times.lock().unwrap().push(Instant::now());
            let mut response = json(r#"[{"n":1}]"#);
            let reset = if asked.uri.path() == "/hour" { "3600" } else { "1" };
            response.headers_mut().insert("x-left", "0".parse().unwrap());
            response.headers_mut().insert("x-reset", reset.parse().unwrap());
            response
        }
    })
    .await;
    let registry = registry(&[server.address], clock());
    let open = |path: &str, rate: &str| {
        let config = server.config(&format!(r#"{{"url":"http://HOST/{path}"{rate}}}"#));
        registry.open(SourceType::Api, &config).unwrap()
    };
    let told = r#","rate":{"remaining":"X-Left","reset":"X-Reset"}"#;
    read_all(&*open("a", told), ReadRequest::default()).await.unwrap();
    read_all(&*open("b", ""), ReadRequest::default()).await.unwrap();
    let apart = {
        let times = times.lock().unwrap();
        times[1] - times[0]
    };
    assert!(apart >= Duration::from_millis(950), "{apart:?}");
    // A long wait goes back to the queue, of whatever source, and the host is not asked.
    read_all(&*open("hour", told), ReadRequest::default()).await.unwrap();
    let asked = times.lock().unwrap().len();
    let (_, error) = read_until(&*open("c", ""), ReadRequest::default()).await;
    let Advice::Retry { after: Some(after) } = error.unwrap().advice() else { panic!("no wait") };
    assert!((3590..=3600).contains(&after.as_secs()), "{after:?}");
    assert_eq!(times.lock().unwrap().len(), asked);
}

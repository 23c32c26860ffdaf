//! Server-sent events.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use matome_connector::websocket::gaps_of;
use matome_connector::{Item, ReadRequest};

use crate::peer::{after, connector, first, raws, read};

async fn serve(answer: impl Fn(&Uri, &HeaderMap) -> Response + Clone + Send + Sync + 'static) -> SocketAddr {
    let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap| {
        let answer = answer.clone();
        async move { answer(&uri, &headers) }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn events(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], Body::from(text)).into_response()
}

const FAST: &str = r#""reconnect":{"min_ms":1,"max_ms":5},"batch":{"records":7,"wait_ms":20}"#;

#[tokio::test]
async fn the_last_id_is_sent_and_nothing_is_missed_or_doubled() {
    let asked: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let log = asked.clone();
    let address = serve(move |_, headers| {
        let last = headers.get("last-event-id").map(|id| id.to_str().unwrap().to_owned());
        log.lock().unwrap().push(last.clone());
        let from = last.map_or(0, |id| id.strip_prefix("e ").unwrap().parse::<u64>().unwrap() + 1);
        let until = (from + 10).min(100);
        let event = |n| format!(": note\nid: e {n}\nevent: tick\ndata: {{\"n\":\ndata: {n}}}\n\n");
        events((from..until).map(event).collect::<String>() + "data: {\"cut\":true}")
    })
    .await;
    let config = format!(r#"{{"url":"http://{address}/",{FAST}}}"#);
    let source = connector(&[address], &config);
    let batches = first(source.as_ref(), 60).await.unwrap();
    let mut reader = source.read(after(&batches.last().unwrap().checkpoint)).await.unwrap();
    let rest = read(reader.as_mut(), 100 - raws(&batches).len()).await.unwrap();
    let stored = [raws(&batches), raws(&rest)].concat();
    assert_eq!(stored, (0..100).map(|n| format!("{{\"n\":\n{n}}}")).collect::<Vec<_>>());
    assert_eq!(asked.lock().unwrap()[..2], [None, Some("e 9".to_owned())]);
    assert_eq!(gaps_of(&rest.last().unwrap().checkpoint).0, 0, "what can be sent again is no gap");
}

#[tokio::test]
async fn events_are_chosen_by_type_and_204_ends_the_stream() {
    let address = serve(|uri, _| match uri.path() {
        "/none" => StatusCode::NO_CONTENT.into_response(),
        _ => events("event: a\ndata: {\"a\":1}\n\ndata: {\"m\":1}\n\nevent: b\ndata: x\n\n".to_owned()),
    })
    .await;
    let config = format!(r#"{{"url":"http://{address}/","events":["a","message"],{FAST}}}"#);
    let batches = first(connector(&[address], &config).as_ref(), 2).await.unwrap();
    assert_eq!(raws(&batches)[..2], [r#"{"a":1}"#, r#"{"m":1}"#]);
    let config = format!(r#"{{"url":"http://{address}/none"}}"#);
    let source = connector(&[address], &config);
    let mut reader = source.read(ReadRequest::default()).await.unwrap();
    assert!(reader.next().await.unwrap().is_none());
}

#[tokio::test]
async fn events_that_are_too_long_or_have_no_end_are_told_and_the_next_is_read() {
    let reasons = |batches: &[matome_connector::Batch]| {
        let items = batches.iter().flat_map(|batch| &batch.items);
        let reason = |item: &Item| match item {
            Item::Rejected { reason, .. } => reason.as_str(),
            Item::Record { .. } => "",
        };
        items.map(reason).collect::<Vec<_>>()
    };
    let address = serve(|_, _| events(format!("data: {{\"t\":\"{}\"}}\n\ndata: {{}}\n\n", "x".repeat(300_000)))).await;
    let config = format!(r#"{{"url":"http://{address}/","max_message_bytes":100,{FAST}}}"#);
    let batches = first(connector(&[address], &config).as_ref(), 2).await.unwrap();
    assert_eq!(reasons(&batches)[..2], ["record_limit", ""]);
    assert!(raws(&batches)[0].len() > 8 * 1024, "its beginning is kept");

    // A line, and an event of many lines.
    for piece in ["x".repeat(1 << 16), format!("data: {}\n", "x".repeat(1 << 16))] {
        let asked = Arc::new(Mutex::new(0));
        let address = serve(move |_, _| {
            *asked.lock().unwrap() += 1;
            if *asked.lock().unwrap() > 1 {
                return events("data: {}\n\n".to_owned());
            }
            let piece = axum::body::Bytes::from(piece.clone());
            let endless = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
            ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(endless)).into_response()
        })
        .await;
        let config = format!(r#"{{"url":"http://{address}/",{FAST}}}"#);
        let batches = first(connector(&[address], &config).as_ref(), 2).await.unwrap();
        assert_eq!(reasons(&batches)[..2], ["record_limit", ""]);
    }
}

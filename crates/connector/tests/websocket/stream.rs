//! What comes is handed on in pages, as it came.

use std::time::{Duration, Instant};

use futures::SinkExt as _;
use matome_connector::{Item, ReadRequest};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use crate::peer::{Peer, first, raws, read, told};

#[tokio::test]
async fn a_page_ends_by_its_records_its_bytes_or_its_time() {
    let peer = Peer::start(|mut accepted| async move {
        for n in 0..2500 {
            accepted.send(format!(r#"{{"n":{n}}}"#)).await;
        }
        accepted.stay().await;
    })
    .await;
    let sent: Vec<String> = (0..2500).map(|n| format!(r#"{{"n":{n}}}"#)).collect();

    let begun = Instant::now();
    let batches = first(peer.connector(r#"{"url":"ws://HOST/"}"#).as_ref(), 2500).await.unwrap();
    assert_eq!(raws(&batches), sent);
    assert_eq!(batches.iter().map(|batch| batch.items.len()).collect::<Vec<_>>(), [1000, 1000, 500]);
    assert!(begun.elapsed() >= Duration::from_millis(900), "the last page waits for more");

    let config = r#"{"url":"ws://HOST/","batch":{"records":100000,"bytes":4000,"wait_ms":100}}"#;
    let batches = first(peer.connector(config).as_ref(), 2500).await.unwrap();
    assert_eq!(raws(&batches), sent);
    let bytes = |batch: &matome_connector::Batch| batch.items.iter().map(|item| item.raw().len()).sum::<usize>();
    assert!(batches.len() >= 6 && batches.iter().all(|batch| bytes(batch) <= 4010));
}

#[tokio::test]
async fn messages_are_taken_apart_by_format_and_path() {
    let peer = Peer::start(|mut accepted| async move {
        assert_eq!(accepted.hear().await.as_deref(), Some(r#"{"op":"subscribe","to":["a",1e400]}"#));
        assert_eq!(accepted.hear().await.as_deref(), Some("HELLO {x}"));
        accepted.send(r#"{"type":"subscribed"}"#).await;
        accepted.send(r#"{"data":[{"n":1e400},{"n":"日"}]}"#).await;
        accepted.socket.send(Message::binary(&br#"{"data":{"n":3}}"#[..])).await.unwrap();
        accepted.send("{\"data\":").await;
        accepted.send(r#"{"data":[{"n":4}]}"#).await;
        accepted.stay().await;
    })
    .await;
    let config = r#"{"url":"ws://HOST/a?b=c","records":"$.data",
        "subscribe":[{"op":"subscribe","to":["a",1e400]},"HELLO {{x}}"],"batch":{"wait_ms":100}}"#;
    let batches = first(peer.connector(config).as_ref(), 5).await.unwrap();
    assert_eq!(raws(&batches), [r#"{"n":1e400}"#, r#"{"n":"日"}"#, r#"{"n":3}"#, "{\"data\":", r#"{"n":4}"#]);
    let items: Vec<&Item> = batches.iter().flat_map(|batch| &batch.items).collect();
    assert!(matches!(items[3], Item::Rejected { reason, .. } if reason.as_str() == "invalid_json"));
    let position = items[4].position();
    assert_eq!(&*position.document, format!("ws://{}/a", peer.address), "no query: it may hold secrets");
    assert_eq!((position.request, position.record), (Some(1), 5));
    assert!(batches.last().unwrap().checkpoint.get().contains(r#""passed_over":1"#));
}

#[tokio::test]
async fn secrets_stand_in_messages_and_nowhere_else() {
    let peer = Peer::start(|mut accepted| async move {
        let login = accepted.hear().await.unwrap();
        assert_eq!(login, r#"{"key":"s3cr\"et","sign":"k=s3cr\"et;n=0042"}"#);
        if accepted.number == 1 {
            accepted.send(r#"{"n":1}"#).await;
        }
        let reason = CloseFrame { code: CloseCode::Policy, reason: r#"s3cr"et is not liked"#.into() };
        accepted.socket.close(Some(reason)).await.unwrap();
    })
    .await;
    let config = r#"{"url":"ws://HOST/","subscribe":[{"key":"{secret.key}","sign":"k={secret.key};n={secret.n_1}"}],
        "secrets":{"key":"s3cr\"et","n_1":"0042"},"batch":{"wait_ms":50},"reconnect":{"attempts":1,"min_ms":1}}"#;
    let connector = peer.connector(config);
    let mut reader = connector.read(ReadRequest::default()).await.unwrap();
    let batches = read(reader.as_mut(), 1).await.unwrap();
    assert_eq!(raws(&batches), [r#"{"n":1}"#]);
    assert!(!batches[0].checkpoint.get().contains("s3cr"), "{}", batches[0].checkpoint);
    assert!(batches[0].checkpoint.get().contains("{secret.key}"), "what is listened to is told by names");
    let error = read(reader.as_mut(), usize::MAX).await.unwrap_err();
    let told = format!("{} {error:?}", told(&error));
    assert!(told.contains("*** is not liked") && !told.contains("s3cr"), "{told}");
}

#[tokio::test]
async fn text_becomes_a_record_and_lines_become_records() {
    let peer = Peer::start(|mut accepted| async move {
        accepted.send("{\"a\":1}\r\n\n{\"a\":2}").await;
        accepted.stay().await;
    })
    .await;
    let read = async |format: &str, count| {
        let config = format!(r#"{{"url":"ws://HOST/","format":"{format}","batch":{{"wait_ms":50}}}}"#);
        raws(&first(peer.connector(&config).as_ref(), count).await.unwrap())
    };
    assert_eq!(read("ndjson", 2).await, [r#"{"a":1}"#, r#"{"a":2}"#]);
    assert_eq!(read("text", 1).await, [r#"{"text":"{\"a\":1}\r\n\n{\"a\":2}"}"#]);
}

#[tokio::test]
async fn a_read_that_is_cancelled_ends_with_what_has_come() {
    let peer = Peer::start(|mut accepted| async move {
        accepted.send("{}").await;
        accepted.stay().await;
    })
    .await;
    let cancel = CancellationToken::new();
    let request = ReadRequest { cancel: cancel.clone(), ..ReadRequest::default() };
    let connector = peer.connector(r#"{"url":"ws://HOST/","batch":{"wait_ms":60000}}"#);
    let mut reader = connector.read(request).await.unwrap();
    let (batch, ()) = tokio::join!(reader.next(), async {
        while peer.accepted.load(std::sync::atomic::Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // The message may be still under way.
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel.cancel();
    });
    assert_eq!(batch.unwrap().unwrap().items.len(), 1);
    assert!(reader.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_read_ends_after_its_duration() {
    let peer = Peer::start(|accepted| accepted.stay()).await;
    let connector = peer.connector(r#"{"url":"ws://HOST/","duration_secs":1}"#);
    let begun = Instant::now();
    let mut reader = connector.read(ReadRequest::default()).await.unwrap();
    let batches = read(reader.as_mut(), 1).await.unwrap();
    assert!(raws(&batches).is_empty() && begun.elapsed() >= Duration::from_millis(900));
}

#[tokio::test]
async fn credentials_and_headers_go_with_the_handshake() {
    let peer = Peer::start(|mut accepted| async move {
        let seen = serde_json::json!({
            "auth": accepted.header("authorization"), "own": accepted.header("x-own"),
            "protocol": accepted.header("sec-websocket-protocol"), "key": accepted.parameter("key"),
        });
        accepted.send(seen.to_string()).await;
        accepted.stay().await;
    })
    .await;
    for (auth, expected) in [
        (r#"{"type":"bearer","token":"t0p"}"#, r#""Bearer t0p""#),
        (r#"{"type":"basic","username":"u","password":"p"}"#, r#""Basic dTpw""#),
        (r#"{"type":"query","name":"key","value":"s3"}"#, r#""key":"s3""#),
    ] {
        let config = format!(
            r#"{{"url":"ws://HOST/","auth":{auth},"headers":{{"X-Own":"v","Sec-WebSocket-Protocol":"v1.json"}},"batch":{{"wait_ms":50}}}}"#
        );
        let read = raws(&first(peer.connector(&config).as_ref(), 1).await.unwrap());
        assert!(read[0].contains(expected) && read[0].contains(r#""own":"v""#), "{read:?}");
    }
}

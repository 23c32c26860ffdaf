//! Messages that are too long, and a reader that is too slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::SinkExt as _;
use matome_connector::{Item, ReadRequest};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::peer::{Peer, failure, first, raws, told};

fn reasons(batches: &[matome_connector::Batch]) -> Vec<&'static str> {
    let items = batches.iter().flat_map(|batch| &batch.items);
    items
        .map(|item| match item {
            Item::Rejected { reason, .. } => reason.as_str(),
            Item::Record { .. } => "",
        })
        .collect()
}

#[tokio::test]
async fn a_message_over_the_limit_goes_to_quarantine_and_the_connection_stays() {
    let peer = Peer::start(|mut accepted| async move {
        for length in [99, 100, 101, 300_000] {
            let text = "x".repeat(length - 8);
            accepted.send(format!(r#"{{"t":"{text}"}}"#)).await;
        }
        accepted.send("{}").await;
        accepted.stay().await;
    })
    .await;
    let config = r#"{"url":"ws://HOST/","max_message_bytes":100,"batch":{"wait_ms":50}}"#;
    let batches = first(peer.connector(config).as_ref(), 5).await.unwrap();
    assert_eq!(reasons(&batches), ["", "", "record_limit", "record_limit", ""]);
    assert_eq!(raws(&batches)[3].len(), 64 * 1024, "so much of it is kept");
    assert_eq!(peer.accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_message_that_cannot_be_held_costs_the_connection_once_and_is_told() {
    let peer = Peer::start(|mut accepted| async move {
        let from = accepted.parameter("from").map_or(0, |from| from.parse().unwrap());
        for seq in from..4 {
            // The second one of all.
            let text =
                if seq == 1 && accepted.parameter("once").is_none_or(|_| accepted.number == 1) { 33 << 20 } else { 1 };
            accepted.send(format!(r#"{{"seq":{seq},"t":"{}"}}"#, "x".repeat(text))).await;
        }
        accepted.stay().await;
    })
    .await;
    let fast = r#""reconnect":{"min_ms":1,"max_ms":2},"batch":{"wait_ms":50}"#;
    let config = format!(r#"{{"url":"ws://HOST/?once=1",{fast}}}"#);
    let batches = first(peer.connector(&config).as_ref(), 6).await.unwrap();
    assert_eq!(reasons(&batches)[..3], ["", "record_limit", ""]);

    // A source that sends it again and again can not be read on.
    let config =
        format!(r#"{{"url":"ws://HOST/","resume":{{"cursor":"$.seq","param":"from","inclusive":true}},{fast}}}"#);
    let connector = peer.connector(&config);
    let error = failure(connector.as_ref()).await;
    assert!(told(&error).contains("again and again") && told(&error).contains("繰り返し"), "{}", told(&error));
    assert_eq!(error.advice(), matome_connector::Advice::Fail);
}

#[tokio::test]
async fn a_reader_that_is_slow_makes_the_source_wait() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let peer = Peer::start(move |mut accepted| {
        let count = count.clone();
        async move {
            let text = format!(r#"{{"t":"{}"}}"#, "x".repeat(10_000));
            while accepted.send(text.clone()).await {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let connector = peer.connector(r#"{"url":"ws://HOST/"}"#);
    let mut reader = connector.read(ReadRequest::default()).await.unwrap();
    let batch = reader.next().await.unwrap().unwrap();
    assert!(batch.items.len() <= 110, "a page of 1 MiB: {}", batch.items.len());
    // Nobody asks for the next one: what is sent fills buffers of the system, then nothing more is.
    let mut before = 0;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = sent.load(Ordering::SeqCst);
        if now == before {
            break;
        }
        before = now;
    }
    let waits = sent.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(sent.load(Ordering::SeqCst), waits, "the source waits");
    assert!(waits < 5000, "{waits} messages of 10 kB were taken");
    for _ in 0..20 {
        reader.next().await.unwrap().unwrap();
    }
    assert!(sent.load(Ordering::SeqCst) > waits, "and goes on");
}

/// A part of a message of text.
fn part(text: impl Into<Vec<u8>>, is_first: bool, is_last: bool) -> Message {
    let kind = if is_first { Data::Text } else { Data::Continue };
    Message::Frame(Frame::message(text.into(), OpCode::Data(kind), is_last))
}

/// Corpus 119: fragments.
#[tokio::test]
async fn a_message_in_many_frames_is_one_and_may_not_grow_without_end() {
    let peer = Peer::start(|mut accepted| async move {
        let whole = format!(r#"{{"text":"{}"}}"#, "まとめ".repeat(100));
        let bytes = whole.as_bytes();
        for (at, byte) in bytes.iter().enumerate() {
            let sent = accepted.socket.send(part([*byte], at == 0, at + 1 == bytes.len())).await;
            // Pings may come in between.
            let pinged = accepted.socket.send(Message::Ping(Vec::new().into())).await;
            if sent.and(pinged).is_err() {
                return;
            }
        }
        if accepted.number > 1 {
            return accepted.stay().await;
        }
        let mut is_first = true;
        while accepted.socket.send(part(vec![b'x'; 1 << 20], is_first, false)).await.is_ok() {
            is_first = false;
        }
    })
    .await;
    let config = r#"{"url":"ws://HOST/","reconnect":{"min_ms":1,"max_ms":2},"batch":{"wait_ms":20}}"#;
    let batches = first(peer.connector(config).as_ref(), 3).await.unwrap();
    assert_eq!(reasons(&batches), ["", "record_limit", ""]);
    let whole = format!(r#"{{"text":"{}"}}"#, "まとめ".repeat(100));
    assert_eq!(raws(&batches), [whole.as_str(), "", whole.as_str()]);
    assert_eq!(peer.accepted.load(Ordering::SeqCst), 2);
}

/// Corpus 119: pings.
#[tokio::test]
async fn a_flood_of_pings_keeps_no_record_back_and_the_read_from_no_end() {
    let peer = Peer::start(|mut accepted| async move {
        accepted.send(r#"{"n":1}"#).await;
        // Nothing that the client answers is read.
        loop {
            let sent = match accepted.socket.feed(Message::Ping(Vec::new().into())).await {
                Ok(()) if rand::random::<u8>() == 0 => accepted.socket.flush().await,
                fed => fed,
            };
            if sent.is_err() {
                return;
            }
        }
    })
    .await;
    let connector = peer.connector(r#"{"url":"ws://HOST/","batch":{"wait_ms":200}}"#);
    let request = ReadRequest::default();
    let cancel = request.cancel.clone();
    let mut reader = connector.read(request).await.unwrap();
    let batch = tokio::time::timeout(Duration::from_secs(20), reader.next()).await.expect("the page is due");
    assert_eq!(raws(&[batch.unwrap().unwrap()]), [r#"{"n":1}"#]);
    let end = async {
        cancel.cancel();
        while reader.next().await.unwrap().is_some() {}
    };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("the read ends");
}

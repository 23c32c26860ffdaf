//! A connection that is lost: where the source can send again, nothing is missed and nothing doubled; where it cannot,
//! the gap is told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::SinkExt as _;
use matome_connector::websocket::gaps_of;
use matome_connector::{Advice, ConnectorError, ReadRequest};
use rand::{RngExt as _, SeedableRng as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::peer::{Accepted, Peer, after, first, raws, read};

const FAST: &str = r#""reconnect":{"min_ms":1,"max_ms":10,"attempts":50},"batch":{"records":50,"wait_ms":20}"#;
const MESSAGES: u64 = 2000;

/// Sends messages from `from` on, `width` records each, and drops the connection at some moment.
async fn send_some(mut accepted: Accepted, from: u64, width: u64) {
    let mut random = rand::rngs::StdRng::seed_from_u64(accepted.number);
    let last = from + random.random_range(0..300);
    for n in from..MESSAGES {
        if n >= last {
            match random.random_range(0..3) {
                0 => drop(accepted.socket.close(None).await),
                1 => {
                    let frame = CloseFrame { code: 1012.into(), reason: "restart".into() };
                    drop(accepted.socket.close(Some(frame)).await);
                }
                // Without a word.
                _ => {}
            }
            return;
        }
        let rows: Vec<String> = (0..width).map(|row| format!(r#"{{"id":{}}}"#, n * width + row)).collect();
        if !accepted.send(format!(r#"{{"seq":{n},"rows":[{}]}}"#, rows.join(","))).await {
            return;
        }
    }
    accepted.stay().await;
}

/// Reads until everything came, as by workers that die: each goes on at the checkpoint of some page of the one before.
async fn all_through_deaths(peer: &Peer, config: &str, total: usize) -> Vec<String> {
    let connector = peer.connector(config);
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let (mut stored, mut request) = (Vec::new(), ReadRequest::default());
    while stored.len() < total {
        let mut reader = connector.read(request.clone()).await.unwrap();
        let pages = random.random_range(1..12);
        for _ in 0..pages {
            let batches = read(reader.as_mut(), 1).await.unwrap();
            stored.extend(raws(&batches));
            request = after(&batches.last().unwrap().checkpoint);
            if stored.len() >= total {
                break;
            }
        }
    }
    stored
}

#[tokio::test]
async fn a_source_that_can_send_again_is_stored_once_and_whole_through_losses_and_deaths() {
    let from = |text: Option<String>| text.map_or(0, |text| text.parse::<u64>().unwrap() + 1);
    for width in [1, 130] {
        // Of the parameter, of a header, of the subscription.
        let peer = Peer::start(move |mut accepted| async move {
            let by_header = accepted.header("x-after").map(str::to_owned);
            let mut start = from(accepted.parameter("after").or(by_header));
            if accepted.address.starts_with("/subscribe") {
                let asked: serde_json::Value = serde_json::from_str(&accepted.hear().await.unwrap()).unwrap();
                start = asked.get("after").map_or(0, |after| after.as_u64().expect("a number stays one") + 1);
            }
            send_some(accepted, start, width).await;
        })
        .await;
        let expected: Vec<String> = (0..MESSAGES * width).map(|id| format!(r#"{{"id":{id}}}"#)).collect();
        let messages = if width == 1 { expected.len() } else { 20 * usize::try_from(width).unwrap() };
        for place in [
            r#""url":"ws://HOST/","resume":{"cursor":"$.seq","param":"after"}"#,
            r#""url":"ws://HOST/","resume":{"cursor":"$.seq","header":"X-After"}"#,
            r#""url":"ws://HOST/subscribe","subscribe":[{"from":"start"}],
               "resume":{"cursor":"$.seq","subscribe":[{"after":"{cursor}"}]}"#,
        ] {
            let config = format!(r#"{{{place},"records":"$.rows",{FAST}}}"#);
            let stored = all_through_deaths(&peer, &config, messages).await;
            assert_eq!(stored[..messages], expected[..messages], "{config}");
        }
    }
}

#[tokio::test]
async fn a_source_that_begins_with_the_cursor_itself_doubles_nothing() {
    let peer = Peer::start(|accepted| async move {
        let from = accepted.parameter("from").map_or(0, |from| from.parse().unwrap());
        send_some(accepted, from, 1).await;
    })
    .await;
    let config = format!(
        r#"{{"url":"ws://HOST/","records":"$.rows","resume":{{"cursor":"$.seq","param":"from","inclusive":true}},{FAST}}}"#
    );
    let stored = all_through_deaths(&peer, &config, 1500).await;
    let expected: Vec<String> = (0..1500).map(|id| format!(r#"{{"id":{id}}}"#)).collect();
    assert_eq!(stored[..1500], expected[..]);
}

#[tokio::test]
async fn what_nobody_can_send_again_is_a_gap() {
    let peer = Peer::start(|mut accepted| async move {
        accepted.send(format!(r#"{{"connection":{}}}"#, accepted.number)).await;
        if accepted.number < 3 {
            let _ = accepted.socket.close(None).await;
        }
        accepted.stay().await;
    })
    .await;
    let connector = peer.connector(&format!(r#"{{"url":"ws://HOST/",{FAST}}}"#));
    let batches = first(connector.as_ref(), 3).await.unwrap();
    let checkpoint = &batches.last().unwrap().checkpoint;
    let (count, gaps) = gaps_of(checkpoint);
    assert_eq!((count, gaps.len()), (2, 2));
    assert!(gaps.iter().all(|gap| gap.reason == "closed" && gap.from <= gap.until), "{gaps:?}");
    assert_eq!(batches.iter().map(|batch| batch.stats.gaps).sum::<u64>(), 2);

    // The next task: nobody listened in between.
    let mut reader = connector.read(after(checkpoint)).await.unwrap();
    let batches = read(reader.as_mut(), 1).await.unwrap();
    let (count, gaps) = gaps_of(&batches.last().unwrap().checkpoint);
    assert_eq!((count, gaps[2].reason.as_str()), (3, "stopped"));
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_given_up_and_made_anew() {
    let peer = Peer::start(|mut accepted| async move {
        if accepted.number == 1 {
            // It does not read, so pings stay unanswered.
            std::future::pending::<()>().await;
        }
        // Pongs are all that comes for longer than silence may last.
        let quiet = tokio::time::Instant::now() + Duration::from_millis(2500);
        let pings = tokio::time::timeout_at(quiet, accepted.hear()).await;
        assert!(pings.is_err(), "pings are no texts, and the connection holds");
        accepted.send("{}").await;
        accepted.stay().await;
    })
    .await;
    let config = format!(r#"{{"url":"ws://HOST/","heartbeat":{{"ping_secs":1,"silence_secs":2}},{FAST}}}"#);
    let batches = first(peer.connector(&config).as_ref(), 1).await.unwrap();
    assert_eq!(peer.accepted.load(Ordering::SeqCst), 2);
    assert_eq!(gaps_of(&batches.last().unwrap().checkpoint).1[0].reason, "silence");
}

#[tokio::test]
async fn a_heartbeat_of_its_own_is_sent_instead_of_pings() {
    let peer = Peer::start(|mut accepted| async move {
        let heard = accepted.hear().await.unwrap();
        accepted.socket.send(Message::text(heard)).await.unwrap();
        accepted.stay().await;
    })
    .await;
    let config = r#"{"url":"ws://HOST/","heartbeat":{"ping_secs":1,"message":{"op":"ping"}},"batch":{"wait_ms":50}}"#;
    let batches = first(peer.connector(config).as_ref(), 1).await.unwrap();
    assert_eq!(raws(&batches), [r#"{"op":"ping"}"#]);
}

#[tokio::test]
async fn a_source_that_greets_and_turns_away_is_given_up_whether_the_greeting_is_a_record_or_not() {
    for (records, code) in [("$", 1008), ("$", 4001), ("$.data", 3000)] {
        let peer = Peer::start(move |mut accepted| async move {
            accepted.send(r#"{"error":"go away"}"#).await;
            let frame = CloseFrame { code: code.into(), reason: "token s3cret is no good".into() };
            let _ = accepted.socket.close(Some(frame)).await;
            accepted.stay().await;
        })
        .await;
        let config = format!(
            r#"{{"url":"ws://HOST/","records":"{records}","auth":{{"type":"bearer","token":"s3cret"}},
            "reconnect":{{"min_ms":1,"max_ms":5000}}}}"#
        );
        let connector = peer.connector(&config);
        let mut reader = connector.read(ReadRequest::default()).await.unwrap();
        let (mut batches, mut error) = (Vec::new(), None);
        while error.is_none() {
            match reader.next().await {
                Ok(batch) => batches.extend(batch),
                Err(told) => error = Some(told),
            }
        }
        let error = error.unwrap();
        let told = crate::peer::told(&error);
        assert!(told.contains(&format!("code {code}: token *** is no good), 3 times")), "{told}");
        assert!(told.contains(&format!("コード {code}")) && told.contains("look at `auth`"), "{told}");
        assert!(!format!("{error:?}").contains("s3cret"));
        assert_eq!(error.advice(), Advice::Fail);
        assert_eq!(peer.accepted.load(Ordering::SeqCst), 3);
        assert_eq!(raws(&batches).len(), if records == "$" { 3 } else { 0 }, "what came is handed on");
        let (_, gaps) = gaps_of(&batches.last().unwrap().checkpoint);
        assert_eq!((gaps[0].code, gaps[0].message.as_deref()), (Some(code), Some("token *** is no good")));
    }
}

#[tokio::test]
async fn connections_that_end_soon_are_no_reason_to_hurry_the_next() {
    let peer = Peer::start(|mut accepted| async move {
        accepted.send(format!(r#"{{"connection":{}}}"#, accepted.number)).await;
        let _ = accepted.socket.close(None).await;
        accepted.stay().await;
    })
    .await;
    let config = r#"{"url":"ws://HOST/","reconnect":{"min_ms":1,"max_ms":5000,"attempts":4}}"#;
    let error = crate::peer::failure(peer.connector(config).as_ref()).await;
    assert!(matches!(error, ConnectorError::Closed { .. }), "{error}");
    assert_eq!(error.advice(), Advice::Retry { after: None });
    assert_eq!(peer.accepted.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_connection_that_moves_the_cursor_on_was_of_use_however_soon_and_by_whatever_code_it_ends() {
    let peer = Peer::start(|mut accepted| async move {
        let seq = accepted.parameter("after").map_or(0, |after| after.parse::<u64>().unwrap() + 1);
        accepted.send(format!(r#"{{"seq":{seq}}}"#)).await;
        let frame = CloseFrame { code: 4000.into(), reason: "one at a time".into() };
        let _ = accepted.socket.close(Some(frame)).await;
        accepted.stay().await;
    })
    .await;
    let config = r#"{"url":"ws://HOST/","resume":{"cursor":"$.seq","param":"after"},"batch":{"wait_ms":5},
        "reconnect":{"min_ms":1,"max_ms":5000,"attempts":2}}"#;
    let batches = first(peer.connector(config).as_ref(), 12).await.unwrap();
    assert_eq!(raws(&batches).len(), 12);
}

//! What is told when there is no stream, and of configs that describe none.

use axum::Router;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use futures::SinkExt as _;
use matome_connector::websocket::gaps_of;
use matome_connector::{Advice, validate_config};
use matome_model::source::SourceType;
use tokio::io::AsyncWriteExt as _;

use crate::peer::{Peer, connector, failure, first, raws, told};

async fn answer(uri: Uri) -> Response {
    let upgrade = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "websocket")];
    match uri.path() {
        "/401" => StatusCode::UNAUTHORIZED.into_response(),
        "/404" => StatusCode::NOT_FOUND.into_response(),
        "/503" => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "7")]).into_response(),
        "/key" => (
            StatusCode::SWITCHING_PROTOCOLS,
            [upgrade[0].clone(), upgrade[1].clone(), (header::SEC_WEBSOCKET_ACCEPT, "bm8=")],
        )
            .into_response(),
        _ => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], "<p>s3cret").into_response(),
    }
}

#[tokio::test]
async fn each_answer_that_is_no_stream_is_told_with_what_to_do() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    let retry = |secs| Advice::Retry { after: Some(std::time::Duration::from_secs(secs)) };
    for (url, english, japanese, advice) in [
        ("ws://HOST/401", "answered 401 Unauthorized", "401", Advice::Fail),
        ("ws://HOST/404", "answered 404 Not Found", "404", Advice::Fail),
        ("ws://HOST/503", "answered 503", "503", retry(7)),
        (
            "ws://HOST/html",
            "a WebSocket was asked for, `200 OK` with `text/html` came",
            "WebSocketを求めました",
            Advice::Fail,
        ),
        ("ws://HOST/key", "answer to another handshake", "別のハンドシェイク", Advice::Fail),
        (
            "http://HOST/html",
            "`text/event-stream`) was asked for, `200 OK` with `text/html`",
            "イベントのストリーム",
            Advice::Fail,
        ),
        ("http://HOST/401", "answered 401", "401", Advice::Fail),
    ] {
        let url = url.replace("HOST", &address.to_string());
        let config = format!(r#"{{"url":"{url}?q=s3cret","auth":{{"type":"bearer","token":"s3cret"}}}}"#);
        let error = failure(connector(&[address], &config).as_ref()).await;
        let told = told(&error);
        assert!(told.contains(english) && told.contains(japanese), "{url}: {told}");
        assert!(!told.contains("s3cret"), "{told}");
        assert_eq!(error.advice(), advice, "{url}");
    }
}

#[tokio::test]
async fn addresses_that_are_denied_refused_or_unknown_are_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for scheme in ["ws", "wss", "http"] {
        let config = format!(r#"{{"url":"{scheme}://{address}/"}}"#);
        let denied = failure(connector(&[], &config).as_ref()).await;
        assert!(denied.is_denied() && denied.advice() == Advice::Fail, "{denied:?}");
        assert!(told(&denied).contains("--egress-allow"));
        let refused = failure(connector(&[address], &config).as_ref()).await;
        assert!(told(&refused).to_lowercase().contains("refused"), "{}", told(&refused));
        assert_eq!(refused.advice(), Advice::Retry { after: None });
    }
    let unknown = failure(connector(&[], r#"{"url":"ws://nowhere.invalid/"}"#).as_ref()).await;
    assert!(told(&unknown).contains("can not be resolved"), "{}", told(&unknown));
}

#[tokio::test]
async fn what_speaks_no_tls_is_told_whether_it_says_so_or_goes_away() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    let error = failure(connector(&[address], &format!(r#"{{"url":"wss://{address}/"}}"#)).as_ref()).await;
    let words = told(&error);
    assert!(words.contains("does not speak TLS; look at the port, or give the address without TLS"), "{words}");
    assert!(words.contains("相手が TLS を話しません"), "{words}");
    assert_eq!(error.advice(), Advice::Fail);
    // A server that is about to end would look the same, so it is asked again.
    let peer = Peer::start(|accepted| accepted.stay()).await;
    let error = failure(peer.connector(r#"{"url":"wss://HOST/"}"#).as_ref()).await;
    let words = told(&error);
    assert!(words.contains("ended before TLS stood") && words.contains("may not speak TLS"), "{words}");
    assert_eq!(error.advice(), Advice::Retry { after: None });
}

#[tokio::test]
async fn a_host_that_says_nothing_is_told_to_have_been_reached() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for scheme in ["ws", "wss", "http"] {
        let config = format!(r#"{{"url":"{scheme}://{address}/","timeout_secs":1}}"#);
        let error = failure(connector(&[address], &config).as_ref()).await;
        let words = told(&error);
        assert!(
            words.contains("was connected to, but sent nothing within 1 s") && words.contains("に接続しましたが"),
            "{words}"
        );
        assert_eq!(&*error.position().unwrap().document, format!("{scheme}://{address}/"));
        assert_eq!(error.advice(), Advice::Retry { after: None });
    }
}

#[tokio::test]
async fn bytes_that_are_no_websocket_and_text_that_is_no_utf8_are_told() {
    let peer = Peer::start(|mut accepted| async move {
        if accepted.address == "/broken" {
            let stream = accepted.socket.get_mut();
            let _ = stream.write_all("HTTP/1.1 500 what\r\n".repeat(20).as_bytes()).await;
        } else {
            // A text frame of two bytes that are none.
            let _ = accepted.socket.get_mut().write_all(&[0x81, 2, 0xff, 0xfe]).await;
        }
        let _ = accepted.socket.flush().await;
        accepted.stay().await;
    })
    .await;
    let fast = r#""reconnect":{"min_ms":1,"max_ms":2,"attempts":2},"batch":{"wait_ms":20}"#;
    let error = failure(peer.connector(&format!(r#"{{"url":"ws://HOST/broken",{fast}}}"#)).as_ref()).await;
    assert!(told(&error).contains("the WebSocket broke") && told(&error).contains("壊れました"), "{}", told(&error));
    let batches = first(peer.connector(&format!(r#"{{"url":"ws://HOST/text",{fast}}}"#)).as_ref(), 1).await.unwrap();
    let reason = match &batches.iter().flat_map(|batch| &batch.items).next().unwrap() {
        matome_connector::Item::Rejected { reason, .. } => reason.as_str(),
        matome_connector::Item::Record { .. } => "",
    };
    assert_eq!(reason, "invalid_utf8");
}

#[tokio::test]
async fn a_message_that_is_cut_off_is_no_record_and_the_next_connection_goes_on() {
    let peer = Peer::start(|mut accepted| async move {
        accepted.send(format!(r#"{{"connection":{}}}"#, accepted.number)).await;
        if accepted.number == 1 {
            // The beginning of a text frame of 100 bytes.
            let _ = accepted.socket.get_mut().write_all(b"\x81\x64{\"cut\":\"xxx").await;
            return;
        }
        accepted.stay().await;
    })
    .await;
    let config = r#"{"url":"ws://HOST/","reconnect":{"min_ms":1,"max_ms":2},"batch":{"wait_ms":20}}"#;
    let batches = first(peer.connector(config).as_ref(), 2).await.unwrap();
    assert_eq!(raws(&batches), [r#"{"connection":1}"#, r#"{"connection":2}"#]);
    assert_eq!(gaps_of(&batches.last().unwrap().checkpoint).0, 1, "what may be missing is told");
}

#[test]
fn each_wrong_option_is_told_at_its_field() {
    for (config, path) in [
        (r#"{"headers":{}}"#, "url"),
        (r#"{"url":"ftp://h/"}"#, "url"),
        (r#"{"url":"ws://u:p@h/"}"#, "url"),
        (r#"{"url":"ws://h/","headers":{"Sec-WebSocket-Key":"x"}}"#, "headers"),
        (r#"{"url":"ws://h/","subscribe":{}}"#, "subscribe"),
        (r#"{"url":"ws://h/","subscribe":[5]}"#, "subscribe.0"),
        (r#"{"url":"ws://h/","subscribe":["{cursor}"]}"#, "subscribe.0"),
        (r#"{"url":"ws://h/","subscribe":["{secret.key} {secret.key}"]}"#, "secrets"),
        (r#"{"url":"ws://h/","secrets":{"a b":"x"}}"#, "secrets"),
        (r#"{"url":"ws://h/","secrets":{"a":["x"]}}"#, "secrets.a"),
        (r#"{"url":"ws://h/{secret.key}","headers":{"X-Key":"{secret.key}"},"secrets":{"key":"x"}}"#, "headers"),
        (
            r#"{"url":"ws://h/","resume":{"cursor":"$.a","subscribe":["{secret.k}"]},"secrets":{"k":"x"}}"#,
            "resume.subscribe",
        ),
        (r#"{"url":"http://h/","subscribe":[{}]}"#, "subscribe"),
        (r#"{"url":"ws://h/","format":"xml"}"#, "format"),
        (r#"{"url":"ws://h/","format":"text","records":"$.a"}"#, "records"),
        (r#"{"url":"ws://h/","format":"text","resume":{"cursor":"$.a","param":"p"}}"#, "resume"),
        (r#"{"url":"ws://h/","events":["a"]}"#, "events"),
        (r#"{"url":"http://h/","heartbeat":{"ping_secs":1}}"#, "heartbeat.ping_secs"),
        (r#"{"url":"ws://h/","heartbeat":{"silence_secs":0}}"#, "heartbeat.silence_secs"),
        (r#"{"url":"ws://h/","reconnect":{"tries":1}}"#, "reconnect.tries"),
        (r#"{"url":"ws://h/","resume":{"cursor":"$.a"}}"#, "resume"),
        (r#"{"url":"ws://h/","resume":{"param":"p"}}"#, "resume.cursor"),
        (r#"{"url":"ws://h/","resume":{"cursor":"$.a[*]","param":"p"}}"#, "resume.cursor"),
        (r#"{"url":"ws://h/","resume":{"cursor":"$.a","subscribe":["x"]}}"#, "resume.subscribe"),
        (r#"{"url":"ws://h/","batch":{"records":0}}"#, "batch.records"),
        (r#"{"url":"ws://h/","max_message_bytes":99999999}"#, "max_message_bytes"),
        (r#"{"url":"ws://h/","dedupe":"rows"}"#, "dedupe"),
        (r#"{"url":"ws://h/","schedule":{"overlap":"queue_one"}}"#, "schedule.overlap"),
        (r#"{"url":"ws://h/","schedule":{"misfire":"catch_up"}}"#, "schedule.misfire"),
    ] {
        let errors = validate_config(SourceType::Websocket, config).map(|_| ()).unwrap_err();
        let paths: Vec<String> = errors.iter().map(|error| error.path.join(".")).collect();
        assert_eq!(paths, [path], "{config}: {errors:?}");
        let has_both = errors.iter().all(|error| error.message.english != error.message.japanese);
        assert!(has_both, "{errors:?}");
    }
}

//! A WebSocket over TLS, with certificates that the source names.

use futures::{SinkExt as _, StreamExt as _};
use matome_connector::Advice;
use matome_model::source::SourceType;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::peer::{failure, first, raws};
use crate::tls::{connector, serve, told};

#[tokio::test]
async fn a_socket_is_believed_and_shown_a_certificate_as_the_source_says() {
    let port = serve("signed", Some("two"), |stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        let _ = socket.send(Message::text("{\"n\":1}")).await;
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let config =
        |tls| json!({"url": format!("wss://localhost:{port}/"), "tls": tls, "batch": {"wait_ms": 20}}).to_string();
    let right = config(json!({"ca_file": "ca.crt", "cert_file": "two.crt", "key_file": "two.key"}));
    let batches = first(&*connector(SourceType::Websocket, &right).unwrap(), 1).await.unwrap();
    assert_eq!(raws(&batches), ["{\"n\":1}"]);
    for (tls, part) in
        [(json!({}), "nobody known here has signed"), (json!({"ca_file": "ca.crt"}), "wants to see a certificate")]
    {
        let error = failure(&*connector(SourceType::Websocket, &config(tls)).unwrap()).await;
        assert!(told(&error).contains(part), "{}", told(&error));
        assert_eq!(error.advice(), Advice::Fail);
    }
}

#[tokio::test]
async fn events_are_read_with_an_authority_of_the_source_and_not_without() {
    for (name, part) in [("one", "signed by itself"), ("ca", "certificate of an authority")] {
        let answer = crate::tls::answer("200 OK\r\ncontent-type: text/event-stream", "id: 1\ndata: {\"n\":1}\n\n");
        let port = serve(name, None, answer).await;
        let url = format!("https://localhost:{port}/");
        let config = |tls| json!({"url": url, "tls": tls, "batch": {"wait_ms": 20}}).to_string();
        let right = connector(SourceType::Websocket, &config(json!({"ca_file": format!("{name}.crt")}))).unwrap();
        assert_eq!(raws(&first(&*right, 1).await.unwrap())[0], "{\"n\":1}");
        let error = failure(&*connector(SourceType::Websocket, &config(json!({}))).unwrap()).await;
        assert!(told(&error).contains(part) && error.advice() == Advice::Fail, "{}", told(&error));
    }
}

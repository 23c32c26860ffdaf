//! What only shows on a real connection.

use axum::serve;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::apis;

/// Reads one answer with a `content-length`; its head.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("the connection stays open"));
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    head
}

#[tokio::test]
async fn a_connection_serves_on_after_a_request_whose_body_nobody_wanted() {
    for api in apis().await {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, api.router()).into_future());
        let mut stream = TcpStream::connect(address).await.unwrap();
        for (method, path, status) in [
            ("PUT", "/api/acquisition/sources/", "405"),
            ("DELETE", "/api/acquisition/sources/7/", "404"),
            ("POST", "/api/nothing/", "404"),
            ("POST", "/api/acquisition/sources/7/records/", "404"),
            ("POST", "/api/acquisition/sources/7/webhook/", "404"),
        ] {
            for _ in 0..10 {
                let head = format!(
                    "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
                     content-type: application/json\r\ncontent-length: 2\r\n\r\n",
                    api.admin
                );
                stream.write_all(head.as_bytes()).await.unwrap();
                // The body comes in a packet of its own, after the answer could have been made.
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
                stream.write_all(b"{}").await.unwrap();
                let answer = read_answer(&mut stream).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{}: {answer}", api.name);
                assert!(!answer.contains("connection: close"), "{}: {answer}", api.name);
            }
        }
        server.abort();
    }
}

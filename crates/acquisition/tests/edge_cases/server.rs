//! A server that answers in its own bytes, right or wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What comes back for one request.
#[derive(Clone)]
pub enum Answer {
    /// These bytes, and the end of the connection.
    Whole(Vec<u8>),
    /// These bytes, and then nothing, with the connection open.
    Stalled(Vec<u8>),
    /// These bytes, and then a blank every 50 ms for ever.
    Dripping(Vec<u8>),
}

/// An answer with this head and body, and the right length.
pub fn ok(headers: &str, body: impl AsRef<[u8]>) -> Answer {
    let body = body.as_ref();
    status("200 OK", &format!("Content-Length: {}\r\n{headers}", body.len()), body)
}

/// An answer with the headers that are given and no others.
pub fn status(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    bytes.extend_from_slice(body.as_ref());
    Answer::Whole(bytes)
}

/// Starts to answer; returns the address.
pub async fn start(answers: Vec<(&'static str, Answer)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let mut by_path: HashMap<&'static str, Vec<Answer>> = HashMap::new();
    for (path, answer) in answers.into_iter().rev() {
        by_path.entry(path).or_default().push(answer);
    }
    let answers = Arc::new(Mutex::new(by_path));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(answer(client, answers.clone()));
        }
    });
    origin
}

async fn answer(mut client: TcpStream, answers: Arc<Mutex<HashMap<&'static str, Vec<Answer>>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut piece = [0; 1024];
        match client.read(&mut piece).await {
            Ok(read @ 1..) => head.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let next = {
        let mut answers = answers.lock().unwrap();
        match answers.get_mut(path) {
            // The last answer stays for all that follow.
            Some(left) if left.len() > 1 => left.pop(),
            Some(left) => left.last().cloned(),
            None => None,
        }
    };
    match next {
        None => {
            let _ = client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
        Some(Answer::Whole(whole)) => {
            let _ = client.write_all(&whole).await;
            let _ = client.shutdown().await;
        }
        Some(Answer::Stalled(start)) => {
            let _ = client.write_all(&start).await;
            // Until the other side gives up.
            let _ = client.read(&mut [0]).await;
        }
        Some(Answer::Dripping(start)) => {
            let _ = client.write_all(&start).await;
            let mut drops = tokio::time::interval(Duration::from_millis(50));
            while client.write_all(b" ").await.is_ok() {
                drops.tick().await;
            }
        }
    }
}

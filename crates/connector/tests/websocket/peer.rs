//! A WebSocket server that does with each connection what a function says, and reads of it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use matome_connector::{Batch, Connector, ConnectorError, FileRoots, ReadRequest, Reader, Registry};
use matome_egress::{HttpClient, Policy};
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

pub type Socket = WebSocketStream<TcpStream>;

/// One connection at the server.
pub struct Accepted {
    /// Counted from 1.
    pub number: u64,
    /// Path and query.
    pub address: String,
    pub headers: Vec<(String, String)>,
    pub socket: Socket,
}

impl Accepted {
    pub fn parameter(&self, name: &str) -> Option<String> {
        let query = self.address.split_once('?')?.1;
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.into_owned().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub async fn send(&mut self, text: impl Into<String>) -> bool {
        self.socket.send(Message::text(text.into())).await.is_ok()
    }

    /// The next text that the client sends.
    pub async fn hear(&mut self) -> Option<String> {
        loop {
            match self.socket.next().await?.ok()? {
                Message::Text(text) => return Some(text.to_string()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// Stays until the client is gone.
    pub async fn stay(mut self) {
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

pub struct Peer {
    pub address: SocketAddr,
    pub accepted: Arc<AtomicU64>,
}

impl Peer {
    pub async fn start<F, Done>(serve: F) -> Self
    where
        F: Fn(Accepted) -> Done + Clone + Send + Sync + 'static,
        Done: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicU64::new(0));
        let count = accepted.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (serve, count) = (serve.clone(), count.clone());
                tokio::spawn(async move {
                    let seen = Arc::new(Mutex::new((String::new(), Vec::new())));
                    let see = seen.clone();
                    #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
                    let look = move |request: &Request, response: Response| {
                        let headers = request.headers().iter();
                        let headers = headers.map(|(name, value)| {
                            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                        });
                        *see.lock().unwrap() = (request.uri().to_string(), headers.collect());
                        Ok(response)
                    };
                    let Ok(socket) = tokio_tungstenite::accept_hdr_async(stream, look).await else { return };
                    let (address, headers) = std::mem::take(&mut *seen.lock().unwrap());
                    let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                    serve(Accepted { number, address, headers, socket }).await;
                });
            }
        });
        Self { address, accepted }
    }

    /// A connector with `HOST` in the config replaced by the server's address.
    pub fn connector(&self, config: &str) -> Box<dyn Connector> {
        connector(&[self.address], &config.replace("HOST", &self.address.to_string()))
    }
}

pub fn connector(allowed: &[SocketAddr], config: &str) -> Box<dyn Connector> {
    let rules = allowed.iter().map(|address| address.to_string().parse().unwrap());
    let registry = Registry::new(FileRoots::default(), HttpClient::new(Policy::new(rules)), Clock::system());
    registry.open(SourceType::Websocket, config).unwrap()
}

/// The batches up to and with the one that brings the number of items to `count`.
pub async fn read(reader: &mut dyn Reader, count: usize) -> Result<Vec<Batch>, ConnectorError> {
    let mut batches = Vec::new();
    let mut read = 0;
    while read < count {
        let next = tokio::time::timeout(Duration::from_secs(30), reader.next());
        let Some(batch) = next.await.expect("the peer sends something soon")? else { break };
        read += batch.items.len();
        batches.push(batch);
    }
    Ok(batches)
}

/// Reads `count` items from the beginning.
pub async fn first(connector: &dyn Connector, count: usize) -> Result<Vec<Batch>, ConnectorError> {
    let mut reader = connector.read(ReadRequest::default()).await?;
    read(reader.as_mut(), count).await
}

pub async fn failure(connector: &dyn Connector) -> ConnectorError {
    first(connector, usize::MAX).await.unwrap_err()
}

pub fn raws(batches: &[Batch]) -> Vec<String> {
    let items = batches.iter().flat_map(|batch| &batch.items);
    items.map(|item| String::from_utf8(item.raw().to_vec()).unwrap()).collect()
}

pub fn after(checkpoint: &RawValue) -> ReadRequest {
    ReadRequest { checkpoint: Some(checkpoint.to_owned()), ..ReadRequest::default() }
}

/// The error with its causes, in English and in Japanese.
pub fn told(error: &ConnectorError) -> String {
    let words = error.words();
    let causes: Vec<String> =
        error.causes().into_iter().map(|cause| format!("{} {}", cause.english, cause.japanese)).collect();
    format!("{} {} {}", words.english, words.japanese, causes.join(" "))
}

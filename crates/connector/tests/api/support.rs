//! A server that answers by a function, and reads of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use matome_connector::{Batch, Connector, ConnectorError, FileRoots, ReadRequest, Registry};
use matome_egress::{HttpClient, Policy};
use matome_model::clock::Clock;
use matome_model::source::SourceType;

pub use crate::reading::read_until;

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: String,
}

impl Asked {
    /// A parameter of the address, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let pairs = url::form_urlencoded::parse(self.uri.query()?.as_bytes());
        pairs.into_owned().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A server that answers by a function and keeps what it was asked.
pub struct Server {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub async fn start(answer: impl Fn(&Uri, &HeaderMap) -> Response + Clone + Send + Sync + 'static) -> Self {
        Self::answering(move |asked| answer(&asked.uri, &asked.headers)).await
    }

    pub async fn answering(answer: impl Fn(&Asked) -> Response + Clone + Send + Sync + 'static) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = asked.clone();
        let router = Router::new().fallback(move |request: Request| {
            let (answer, log) = (answer.clone(), log.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                let body = String::from_utf8(body.to_vec()).unwrap();
                let asked = Asked { method: head.method, uri: head.uri, headers: head.headers, body };
                log.lock().unwrap().push(asked.clone());
                answer(&asked)
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, asked }
    }

    /// What was asked since the last look.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    pub fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.uri.to_string()).collect()
    }

    /// A connector with `HOST` in the config replaced by the server's address.
    pub fn connector(&self, config: &str) -> Box<dyn Connector> {
        connector(&[self.address], &self.config(config))
    }

    pub fn config(&self, config: &str) -> String {
        config.replace("HOST", &self.address.to_string())
    }
}

/// Midnight of New Year's Day 2026.
pub fn clock() -> Clock {
    Clock::fixed("2026-01-01T00:00:00Z".parse().unwrap())
}

pub fn registry(allowed: &[SocketAddr], clock: Clock) -> Registry {
    let rules = allowed.iter().map(|address| address.to_string().parse().unwrap());
    Registry::new(FileRoots::default(), HttpClient::new(Policy::new(rules)), clock)
}

pub fn connector(allowed: &[SocketAddr], config: &str) -> Box<dyn Connector> {
    registry(allowed, clock()).open(SourceType::Api, config).unwrap()
}

pub async fn read_all(connector: &dyn Connector, request: ReadRequest) -> Result<Vec<Batch>, ConnectorError> {
    let (batches, error) = read_until(connector, request).await;
    error.map_or(Ok(batches), Err)
}

pub fn raws(batches: &[Batch]) -> Vec<String> {
    let items = batches.iter().flat_map(|batch| &batch.items);
    items.map(|item| String::from_utf8(item.raw().to_vec()).unwrap()).collect()
}

pub fn after(batches: &[Batch]) -> ReadRequest {
    ReadRequest { checkpoint: Some(batches.last().unwrap().checkpoint.clone()), ..ReadRequest::default() }
}

pub async fn records(connector: &dyn Connector) -> Vec<String> {
    raws(&read_all(connector, ReadRequest::default()).await.unwrap())
}

pub async fn failure(connector: &dyn Connector) -> ConnectorError {
    read_all(connector, ReadRequest::default()).await.unwrap_err()
}

/// The error with its causes, as a task keeps it.
pub fn chain(error: &ConnectorError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    text
}

pub fn json(text: impl Into<String>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.into()).into_response()
}

pub fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query()?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

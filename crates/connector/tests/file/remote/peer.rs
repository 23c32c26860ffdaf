//! A server that answers each request by a function, byte for byte, and reads of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use matome_connector::{Connector, ConnectorError, FileRoots, ReadRequest, Registry};
use matome_egress::{HttpClient, Policy};
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::reading::read_until;

/// What is written, and what comes behind it.
pub struct Reply {
    pub bytes: Vec<u8>,
    pub end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The connection ends, as it should.
    Close,
    /// Nothing comes any more.
    Hang,
    /// The last bytes, again and again.
    Endless,
}

impl Reply {
    pub fn new(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut bytes = format!("HTTP/1.1 {status}\r\nconnection: close\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        Self { bytes, end: End::Close }
    }

    /// Nothing of the body behind its first `bytes`, and then `end`.
    pub fn cut(mut self, bytes: usize, end: End) -> Self {
        let head = self.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        self.bytes.truncate(head + bytes);
        self.end = end;
        self
    }
}

/// A version of a document, as a server has it.
#[derive(Clone)]
pub struct Document {
    pub body: Vec<u8>,
    pub etag: &'static str,
}

impl Document {
    /// The answer of a server that knows conditions and ranges.
    pub fn answer(&self, asked: &Asked) -> Reply {
        let length = self.body.len();
        let etag = ("etag", self.etag);
        if asked.header("if-match").is_some_and(|wanted| wanted != self.etag) {
            return Reply::new("412 Precondition Failed", &[("content-length", "0")], b"");
        }
        if asked.header("if-none-match").is_some_and(|known| known == self.etag) {
            return Reply::new("304 Not Modified", &[etag], b"");
        }
        match asked.header("range").map(|range| range.trim_start_matches("bytes=").split_once('-').unwrap()) {
            None => Reply::new("200 OK", &[etag, ("content-length", &length.to_string())], &self.body),
            Some((from, to)) => {
                let from: usize = from.parse().unwrap();
                let to = to.parse().map_or(length, |to: usize| to + 1).min(length);
                let range = format!("bytes {from}-{}/{length}", to - 1);
                let size = (to - from).to_string();
                let headers = [etag, ("content-length", size.as_str()), ("content-range", range.as_str())];
                Reply::new("206 Partial Content", &headers, &self.body[from..to])
            }
        }
    }
}

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub target: String,
    pub body: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn parse(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Self { target, body: String::new(), headers }
    }
}

pub struct Peer {
    pub address: SocketAddr,
    asked: watch::Sender<Vec<Asked>>,
    /// Told when a reader of an endless body has gone.
    pub gone: Arc<Notify>,
}

impl Peer {
    /// Breaks off in `old`, in whose place is `new` from then on: a server that compares versions itself, or one that knows no
    /// conditions and just sends what it has.
    pub async fn replaced(old: Document, new: Document, knows_conditions: bool) -> Self {
        Self::start(move |number, asked| match number {
            0 => old.answer(asked).cut(100_000, End::Close),
            _ if knows_conditions => new.answer(asked),
            _ => Reply::new("200 OK", &[("etag", new.etag)], &new.body),
        })
        .await
    }

    /// Answers by the number of a request, from 0, and what it asks.
    pub async fn start(answer: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = watch::Sender::<Vec<Asked>>::default();
        let gone: Arc<Notify> = Arc::default();
        let (log, answer, tell) = (asked.clone(), Arc::new(answer), gone.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, log.clone(), answer.clone(), tell.clone()));
            }
        });
        Self { address, asked, gone }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.borrow().clone()
    }

    /// Waits for so many requests.
    pub async fn was_asked(&self, count: usize) {
        let mut asked = self.asked.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(60), asked.wait_for(|asked| asked.len() >= count)).await;
        assert!(waited.is_ok(), "{count} requests do not come");
    }

    pub fn connector(&self, config: &str) -> Box<dyn Connector> {
        connector(&[self.address], &config.replace("HOST", &self.address.to_string()))
    }

    /// What came of a read, and why no more did.
    pub async fn read(&self, config: &str) -> (Vec<String>, Option<ConnectorError>) {
        read(&*self.connector(config)).await
    }
}

async fn serve(
    mut stream: TcpStream,
    log: watch::Sender<Vec<Asked>>,
    answer: Arc<impl Fn(usize, &Asked) -> Reply + Send + Sync>,
    gone: Arc<Notify>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let mut asked = Asked::parse(std::str::from_utf8(&head).unwrap());
    let mut body = vec![0; asked.header("content-length").map_or(0, |length| length.parse().unwrap())];
    if stream.read_exact(&mut body).await.is_err() {
        return;
    }
    asked.body = String::from_utf8(body).unwrap();
    let mut number = 0;
    log.send_modify(|log| {
        number = log.len();
        log.push(asked.clone());
    });
    let reply = answer(number, &asked);
    // The other side may have gone, which is its right.
    let _ = stream.write_all(&reply.bytes).await;
    match reply.end {
        End::Close => drop(stream.shutdown().await),
        End::Hang => std::future::pending().await,
        End::Endless => {
            let again = reply.bytes[reply.bytes.len() - 4096..].to_vec();
            while stream.write_all(&again).await.is_ok() {}
            gone.notify_one();
        }
    }
}

pub fn connector(allowed: &[SocketAddr], config: &str) -> Box<dyn Connector> {
    let rules = allowed.iter().map(|address| address.to_string().parse().unwrap());
    let client = HttpClient::new(Policy::new(rules));
    Registry::new(FileRoots::default(), client, Clock::system()).open(SourceType::File, config).unwrap()
}

/// What may reach every server of this machine.
pub fn registry_to_all_of_here() -> Registry {
    let client = HttpClient::new(Policy::new(["127.0.0.1/32".parse().unwrap()]));
    Registry::new(FileRoots::default(), client, Clock::system())
}

/// A connector that may reach every server of this machine.
pub fn connector_to_all_of_here(config: &str) -> Box<dyn Connector> {
    registry_to_all_of_here().open(SourceType::File, config).unwrap()
}

/// What came of a read, and why no more did.
pub async fn read(connector: &dyn Connector) -> (Vec<String>, Option<ConnectorError>) {
    let (batches, error) = read_until(connector, ReadRequest::default()).await;
    (crate::support::shown(batches.into_iter().flat_map(|batch| batch.items)), error)
}

/// What an error and its causes say, in both languages.
pub fn told(error: &ConnectorError) -> String {
    let all = [error.words()].into_iter().chain(error.causes());
    all.map(|words| format!("{} | {}", words.english, words.japanese)).collect::<Vec<_>>().join("\n")
}

/// Reads pages of what has no end until it is cancelled; nothing is held but a page.
pub async fn reads_until_cancelled(connector: &dyn Connector) {
    let request = ReadRequest::default();
    let mut reader = connector.read(request.clone()).await.unwrap();
    for _ in 0..20 {
        assert!(reader.next().await.unwrap().unwrap().items.len() <= request.max_items);
    }
    request.cancel.cancel();
    let error = loop {
        match reader.next().await {
            Ok(batch) => assert!(batch.is_some(), "it does not end by itself"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ConnectorError::Cancelled), "{error:?}");
}

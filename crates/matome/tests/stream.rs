//! Streams on the real binary: workers are killed while messages come, and what is stored is what was sent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use rand::{RngExt as _, SeedableRng as _};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use support::{Home, Server, Tally, postgres_home, redis, sqlite_home, until, write};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// Messages a second.
const RATE: u64 = 5000;

/// Within which another worker must go on with a stream.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// Numbers its messages, `RATE` a second from the first connection on, and can send any of them again.
struct Feed {
    begun: OnceLock<Instant>,
    total: u64,
}

impl Feed {
    async fn start(seconds: u64) -> (SocketAddr, Arc<Self>) {
        Self::listen("127.0.0.1:0", seconds, |stream| std::future::ready(Some(stream))).await
    }

    /// The same, with a certificate for `localhost`, `127.0.0.1` and `one.matome.test`, on all addresses.
    async fn start_tls(seconds: u64) -> (SocketAddr, Arc<Self>) {
        let (certificate, key) = (redis::certificate("one.crt"), redis::certificate("one.key"));
        let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap());
        let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
        Self::listen("0.0.0.0:0", seconds, move |stream| acceptor.accept(stream).map(Result::ok)).await
    }

    async fn listen<S, F>(
        at: &str,
        seconds: u64,
        open: impl Fn(TcpStream) -> F + Clone + Send + 'static,
    ) -> (SocketAddr, Arc<Self>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send,
    {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let feed = Arc::new(Self { begun: OnceLock::new(), total: seconds * RATE });
        let of = feed.clone();
        tokio::spawn(async move {
            for seed in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (of, open) = (of.clone(), open.clone());
                tokio::spawn(async move {
                    if let Some(stream) = open(stream).await {
                        of.serve(stream, seed).await;
                    }
                });
            }
        });
        (address, feed)
    }

    /// How many messages there are by now.
    fn head(&self) -> u64 {
        let passed = self.begun.get_or_init(Instant::now).elapsed().as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let head = (passed * RATE as f64) as u64;
        head.min(self.total)
    }

    /// Drops each connection after a second or so.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(self: Arc<Self>, stream: S, seed: u64) {
        let mut asked = String::new();
        #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
        let look = |request: &Request, response: Response| {
            request.uri().query().unwrap_or_default().clone_into(&mut asked);
            Ok(response)
        };
        let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, look).await else { return };
        let after = asked.strip_prefix("after=").map(|after| after.parse::<u64>().unwrap() + 1);
        let mut next = if asked == "live" { self.head() } else { after.unwrap_or(0) };
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let until = Instant::now() + Duration::from_millis(random.random_range(200..2000));
        loop {
            let head = self.head().min(next + 500);
            for n in next..head {
                if socket.feed(Message::text(format!(r#"{{"n":{n},"text":"{:0100}"}}"#, n))).await.is_err() {
                    return;
                }
            }
            if socket.flush().await.is_err() || Instant::now() > until && head < self.total {
                return;
            }
            next = head;
            // Pings are answered, and a client that has gone is noticed.
            let heard = tokio::time::timeout(Duration::from_millis(5), socket.next()).await;
            if matches!(heard, Ok(None | Some(Err(_)))) {
                return;
            }
        }
    }
}

fn config(address: SocketAddr, path: &str, more: &Value) -> Value {
    let mut config = json!({
        "url": format!("ws://{address}/{path}"),
        "reconnect": { "min_ms": 10, "max_ms": 500 }, "batch": { "wait_ms": 500 }
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

async fn stored(server: &Server, source: i64) -> u64 {
    let path = format!("/api/acquisition/data/?source={source}&page_size=1");
    server.try_get(&path).await.map_or(0, |page| page["count"].as_u64().unwrap())
}

fn numbers(home: &Home, server: &Server, source: i64) -> Vec<u64> {
    let id = source.to_string();
    let export = ["data", "export", "--source", &id, "--server", &server.base, "--token", &server.token];
    let value = |line: &str| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
    home.ok(&export).lines().map(value).collect()
}

/// How long the stream takes to store something again.
async fn goes_on(server: &Server, source: i64, before: u64) -> Duration {
    let begun = Instant::now();
    until("the stream goes on", async || stored(server, source).await > before).await;
    begun.elapsed()
}

async fn ends_whole(home: &Home, server: &Server, feed: &Feed, source: i64, task: &str, tally: &mut Tally) {
    until("everything is stored", async || stored(server, source).await >= feed.total).await;
    let (status, _) = server.send("POST", &format!("{task}cancel/"), None).await;
    assert_eq!(status, 200);
    assert_eq!(server.ended(task).await["status"], "cancelled");
    tally.compare(0..feed.total, numbers(home, server, source).into_iter(), "of the stream");
    tally.tell();
}

/// `scripts/fault/stream` takes longer.
fn seconds() -> u64 {
    std::env::var("MATOME_TEST_SECONDS").map_or(6, |text| text.parse().unwrap())
}

/// Whether this is `scripts/fault/stream`, which holds the budget.
fn is_measured() -> bool {
    std::env::var_os("MATOME_TEST_SECONDS").is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_stored_once_and_whole_through_kills_of_its_worker_and_another_one_goes_on_soon() {
    let (address, feed) = Feed::start(seconds()).await;
    // Of its own, so that the other one's messages have not all been sent before this one is listened to.
    let (live_address, _live_feed) = Feed::start(seconds()).await;
    let home = postgres_home().await;
    let _beat = home.beat();
    let home = home.reaching(address).reaching(live_address);
    let web = home.web().await;
    let mut worker = home.worker("acquisition", 2);
    let live = web.source("live", "websocket", config(live_address, "?live", &json!({}))).await;
    let live_task = web.start("acquisition", live).await;
    goes_on(&web, live, 0).await;
    let resume = json!({ "resume": { "cursor": "$.n", "param": "after" } });
    let source = web.source("feed", "websocket", config(address, "", &resume)).await;
    let task = web.start("acquisition", source).await;
    let mut tally = Tally::new("stream", "postgres");
    tally.tasks = 2;
    goes_on(&web, source, 0).await;
    let gaps_path = format!("/api/acquisition/sources/{live}/gaps/");
    let gaps = async || web.get(&gaps_path).await["count"].as_u64().unwrap();
    let (begun, mut kills) = (Instant::now(), 0);
    while kills < 2 || begun.elapsed() < Duration::from_secs(seconds()) {
        let heir = home.worker("acquisition", 2);
        worker.kill();
        let (before, gaps_before) = (stored(&web, source).await, gaps().await);
        let took = goes_on(&web, source, before).await;
        // A budget is measured where nothing else runs.
        assert!(took < TAKE_OVER || !is_measured(), "another worker goes on after {took:?}");
        tally.recovered(took);
        // What was not there to be heard is told.
        until("the gap of the live stream", async || gaps().await > gaps_before).await;
        worker = heir;
        kills += 1;
    }
    assert!(web.get(&live_task).await["progress"]["gaps"].as_u64() > Some(0));
    let told = web.get(&gaps_path).await;
    let gaps = told["gaps"].as_array().unwrap();
    assert!(told["count"].as_u64().unwrap() >= kills && gaps.iter().any(|gap| gap["reason"] == "stopped"), "{told}");
    let shown: Value = serde_json::from_str(
        &home.ok(&["source", "gaps", "feed", "-o", "json", "--server", &web.base, "--token", &web.token]),
    )
    .unwrap();
    assert_eq!(shown["count"], 0, "{shown}");
    ends_whole(&home, &web, &feed, source, &task, &mut tally).await;
    assert_eq!(web.get(&task).await["progress"]["gaps"], Value::Null, "a stream that resumes has none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_on_sqlite_is_stored_once_and_whole_through_kills_of_the_server() {
    let (address, feed) = Feed::start(seconds()).await;
    let home = sqlite_home().reaching(address);
    let mut server = home.serve().await;
    let resume = json!({ "resume": { "cursor": "$.n", "param": "after" } });
    let source = server.source("feed", "websocket", config(address, "", &resume)).await;
    let task = server.start("acquisition", source).await;
    let mut tally = Tally::new("stream", "sqlite");
    tally.tasks = 1;
    goes_on(&server, source, 0).await;
    let (begun, mut kills) = (Instant::now(), 0);
    while kills < 2 || begun.elapsed() < Duration::from_secs(seconds()) {
        server.kill();
        server = home.serve_again(server.token.clone()).await;
        let before = stored(&server, source).await;
        tally.recovered(goes_on(&server, source, before).await);
        kills += 1;
    }
    ends_whole(&home, &server, &feed, source, &task, &mut tally).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_take_no_slot_follow_their_config_stop_when_paused_and_drain() {
    let (address, _feed) = Feed::start(3600).await;
    let home = postgres_home().await;
    let _beat = home.beat();
    let (files, mut home) = (home.files(), home.reaching(address));
    home.extra.extend(["--file-root".to_owned(), files.to_str().unwrap().to_owned()]);
    let web = home.web().await;
    let mut worker = home.worker("acquisition", 1);
    let mut streams = Vec::new();
    for name in ["one", "two"] {
        let source = web.source(name, "websocket", config(address, "?live", &json!({}))).await;
        streams.push((source, web.start("acquisition", source).await));
    }
    for (source, _) in &streams {
        goes_on(&web, *source, 0).await;
    }
    // Both run beside tasks of the only slot.
    write(&files.join("a.ndjson"), "{\"n\":1}\n");
    let path = files.join("a.ndjson");
    let file = web.source("file", "file", json!({ "path": path })).await;
    web.run("acquisition", file).await;
    let status = async |task: &str| web.get(task).await["status"].as_str().unwrap().to_owned();
    assert_eq!((status(&streams[0].1).await, status(&streams[1].1).await), ("running".into(), "running".into()));

    // A pause stops one, its resumption starts it again.
    let (one, task) = &streams[0];
    let act = async |what: &str| web.send("POST", &format!("/api/acquisition/sources/{one}/{what}/"), None).await.0;
    assert_eq!(act("pause").await, 200);
    until("the paused stream stops", async || status(task).await == "pending").await;
    assert_eq!(act("resume").await, 200);
    until("it goes on", async || status(task).await == "running").await;

    // A change of its config is what it does next.
    let (two, task) = &streams[1];
    let change = json!({ "config": config(address, "?live", &json!({ "format": "text" })) });
    let (status_code, row) = web.send("PATCH", &format!("/api/acquisition/sources/{two}/"), Some(change)).await;
    assert_eq!(status_code, 200, "{row}");
    let newest = format!("/api/acquisition/data/?source={two}&page_size=1");
    let is_text = async || {
        web.get(&newest).await["results"][0]["raw_data"]["text"].is_string()
            && web.get(&newest).await["results"][0]["raw_data"]["n"].is_null()
    };
    until("records are texts", is_text).await;

    // A worker that drains gives both back, and another one goes on.
    assert_eq!(worker.terminate(), Some(0));
    for (_, task) in &streams {
        assert_eq!(status(task).await, "pending");
    }
    let _heir = home.worker("acquisition", 1);
    let before = stored(&web, *two).await;
    goes_on(&web, *two, before).await;
    let _ = task;

    // `source test` listens for some seconds and stores nothing.
    let (code, sample) = web.send("POST", &format!("/api/acquisition/sources/{one}/test/"), Some(json!({}))).await;
    assert_eq!(code, 200, "{sample}");
    assert_eq!(sample["records"].as_array().map(Vec::len), Some(10), "{sample}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wss_source_is_believed_only_with_a_certificate_for_its_name() {
    let (address, feed) = Feed::start_tls(1).await;
    let mut home = sqlite_home();
    for host in ["127.0.0.1", "127.0.0.2"] {
        home.extra.extend(["--egress-allow".to_owned(), format!("{host}/32:{}", address.port())]);
    }
    let config =
        |host: &str| json!({ "url": format!("wss://{host}:{}/", address.port()), "batch": { "wait_ms": 100 } });
    // Its own authority, as far as this server can tell.
    home.through = vec!["env".to_owned(), format!("SSL_CERT_FILE={}", redis::certificate("one.crt").display())];
    let server = home.serve().await;
    let source = server.source("named", "websocket", config("127.0.0.1")).await;
    let task = server.start("acquisition", source).await;
    until("everything is stored", async || stored(&server, source).await >= feed.total).await;
    assert_eq!(server.send("POST", &format!("{task}cancel/"), None).await.0, 200);
    let source = server.source("another", "websocket", config("127.0.0.2")).await;
    let path = format!("/api/acquisition/sources/{source}/test/");
    let (status, told) = server.send("POST", &path, Some(json!({}))).await;
    assert_eq!((status, &told["ok"]), (200, &json!(false)), "{told}");
    assert!(told["error"].to_string().contains("certificate not valid for name"), "{told}");
}

//! Reads of an API that are killed at each of their requests, and taken over.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use matome_connector::{FileRoots, HttpClient, Policy, Registry};
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use matome_store::checkpoints::{self, CheckpointKey, LIVE};
use matome_store::db::Db;
use matome_tasks::{Advice, Handler as _, TaskContext, run_to_its_deadline};
use matome_testbed::databases;
use support::Bench;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Answers by a function of the path, but for one request, which gets no answer.
struct Server {
    origin: String,
    paths: Arc<Mutex<Vec<String>>>,
    /// The number of the request that hangs.
    hangs_at: Arc<AtomicUsize>,
    hung: Arc<Notify>,
}

impl Server {
    async fn start(answer: fn(&str) -> String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            origin: format!("http://{}", listener.local_addr().unwrap()),
            paths: Arc::default(),
            hangs_at: Arc::new(AtomicUsize::new(usize::MAX)),
            hung: Arc::default(),
        };
        let (paths, hangs_at, hung) = (server.paths.clone(), server.hangs_at.clone(), server.hung.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (paths, hangs_at, hung) = (paths.clone(), hangs_at.clone(), hung.clone());
                tokio::spawn(async move {
                    let mut client = client;
                    let Some(path) = asked(&mut client).await else { return };
                    let number = {
                        let mut paths = paths.lock().unwrap();
                        paths.push(path.clone());
                        paths.len()
                    };
                    if number == hangs_at.load(Ordering::SeqCst) {
                        hung.notify_one();
                        let _ = client.read(&mut [0]).await; // until the other side goes
                        return;
                    }
                    let body = answer(&path);
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        body.len()
                    );
                    let _ = client.write_all(format!("{head}{body}").as_bytes()).await;
                });
            }
        });
        server
    }

    fn requests(&self) -> usize {
        self.paths.lock().unwrap().len()
    }

    fn reset(&self, hangs_at: usize) {
        self.paths.lock().unwrap().clear();
        self.hangs_at.store(hangs_at, Ordering::SeqCst);
    }
}

async fn asked(client: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut piece = [0; 1024];
        match client.read(&mut piece).await {
            Ok(read @ 1..) => head.extend_from_slice(&piece[..read]),
            _ => return None,
        }
    }
    Some(String::from_utf8(head).unwrap().split(' ').nth(1)?.to_owned())
}

fn parameter<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    path.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Four pages of events that rise; what the page after next is asked with is its first number.
fn events(path: &str) -> String {
    let since: u32 = parameter(path, "since").map_or(0, |since| since.parse().unwrap());
    let first: u32 = parameter(path, "cursor").map_or(since, |token| token.parse().unwrap());
    let events = (first..12).take(3).map(|id| format!(r#"{{"id":{id},"text":"é\u65e5"}}"#)).collect::<Vec<_>>();
    let next = if first + 3 < 12 { (first + 3).to_string() } else { "null".to_owned() };
    format!(r#"{{"next":{next},"events":[{}]}}"#, events.join(","))
}

const EVENTS: &str = r#"{"url":"ORIGIN/events","records":"$.events","pagination":{"type":"cursor","next":"$.next"},
    "incremental":{"cursor":"$.id","kind":"integer","param":"since","order":"asc"}}"#;

/// Two pages of two users; user N has N pages of one order. A name has an escape that PostgreSQL writes otherwise.
fn shop(path: &str) -> String {
    let page: u32 = parameter(path, "page").unwrap().parse().unwrap();
    match path.split('?').next().unwrap().split('/').collect::<Vec<_>>()[..] {
        ["", "users"] => {
            let users = (page * 2 - 1..=page * 2).filter(|id| *id <= 4);
            let users = users.map(|id| format!(r#"{{"id":{id},"name":"\u00fc\u0041","n":1e0}}"#));
            format!("[{}]", users.collect::<Vec<_>>().join(","))
        }
        ["", "users", id, "orders"] if page <= id.parse().unwrap() => format!(r#"[{{"order":"{id}-{page}"}}]"#),
        _ => "[]".to_owned(),
    }
}

const SHOP: &str = r#"{"parent":{"url":"ORIGIN/users","pagination":{"type":"page_number"},"include":{"name":"$.name","n":"$.n"}},
    "url":"ORIGIN/users/{parent.id}/orders","pagination":{"type":"page_number"}}"#;

async fn bench(db: &Db, server: &Server, config: &str) -> Bench {
    let dir = tempfile::TempDir::new().unwrap();
    let roots = FileRoots::open([dir.path()]).unwrap();
    let config = config.replace("ORIGIN", &server.origin);
    let mut bench = Bench::with_config(db, dir, SourceType::Api, &config).await;
    let policy = Policy::new(["127.0.0.1".parse().unwrap()]);
    bench.registry = Registry::new(roots, HttpClient::new(policy), Clock::system());
    bench
}

async fn pages_committed(bench: &Bench) -> usize {
    let key = CheckpointKey { source_id: bench.source_id, stream: String::new(), purpose: LIVE.to_owned() };
    let mut reader = bench.db.read().await.unwrap();
    let checkpoint = checkpoints::find(&mut reader.conn(), &key).await.unwrap();
    checkpoint.map_or(0, |checkpoint| usize::try_from(checkpoint.page_seq).unwrap())
}

/// Kills a read at its request number `at`, once `committed` pages are stored, and has another worker take it over;
/// what is stored then, and how many requests that took.
async fn killed_at(at: usize, committed: usize, db: &Db, server: &Server, config: &str) -> (Vec<String>, usize) {
    server.reset(at);
    let bench = bench(db, server, config).await;
    let task = bench.claim().await;
    let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
    let (handler, claimed) = (bench.handler(), task.clone());
    let run = tokio::spawn(async move { handler.run(claimed, ctx).await });
    server.hung.notified().await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while pages_committed(&bench).await < committed {
        assert!(tokio::time::Instant::now() < deadline, "no page was committed");
        tokio::task::yield_now().await;
    }
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    server.reset(usize::MAX);
    let task = bench.take_over(&task).await;
    let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
    bench.handler().run(task.clone(), ctx).await.unwrap();
    bench.abandon(&task).await;
    (bench.stored().await, server.requests())
}

#[tokio::test]
async fn a_killed_read_stores_what_an_undisturbed_one_does() {
    for bed in databases().await {
        for (answer, config, records) in
            [(events as fn(&str) -> String, EVENTS, 12), (shop as fn(&str) -> String, SHOP, 10)]
        {
            let server = Server::start(answer).await;
            let undisturbed = bench(&bed.db, &server, config).await;
            undisturbed.run().await.unwrap();
            let (stored, requests) = (undisturbed.stored().await, server.requests());
            assert_eq!(stored.len(), records);
            for at in 1..=requests {
                // A page is handed on with the one behind it. Lists of parents are short and wait for each other.
                let committed = if config == EVENTS { at.saturating_sub(2) } else { 0 };
                let (after_kill, again) = killed_at(at, committed, &bed.db, &server, config).await;
                assert_eq!(after_kill, stored, "{} after a kill at request {at} of {requests}", bed.name);
                if config == EVENTS {
                    assert_eq!(again, requests - committed, "{}: what is stored is not asked for again", bed.name);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_read_past_its_deadline_fails_and_keeps_what_it_committed() {
    for bed in databases().await {
        let server = Server::start(events).await;
        server.reset(4);
        let config = EVENTS.replacen('{', r#"{"deadline_secs":1,"#, 1);
        let bench = bench(&bed.db, &server, &config).await;
        let task = bench.claim().await;
        let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
        let err = run_to_its_deadline(&bench.handler(), task.clone(), &ctx).await.unwrap_err();
        assert_eq!((err.advice, err.reason.as_str()), (Advice::Fail, "deadline"), "{}: {err}", bed.name);
        assert!(err.message.english.contains("1 seconds") && err.message.japanese.contains("1 秒"), "{err}");
        assert_eq!(support::count(&err.result.unwrap(), "stored"), 6, "{}", bed.name);
        assert_eq!(bench.stored().await.len(), 6, "{}", bed.name);
        bench.abandon(&task).await;
        // The next one goes on behind these.
        server.reset(usize::MAX);
        bench.run().await.unwrap();
        assert_eq!((bench.stored().await.len(), server.requests()), (12, 2), "{}", bed.name);
    }
}

#[tokio::test]
async fn the_next_read_asks_only_for_what_is_new() {
    for bed in databases().await {
        let server = Server::start(events).await;
        let bench = bench(&bed.db, &server, EVENTS).await;
        bench.run().await.unwrap();
        server.reset(usize::MAX);
        let result = bench.run().await.unwrap().result;
        assert_eq!(support::count(&result, "duplicate"), 1, "{} {result}", bed.name);
        assert_eq!(*server.paths.lock().unwrap(), ["/events?since=11"], "{}", bed.name);
    }
}

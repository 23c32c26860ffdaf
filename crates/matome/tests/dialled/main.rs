//! What `matome serve` dials: the peers that its operator and its sources name, and nobody else. No telemetry, no name that
//! nobody configured, no way around `egress`.
//!
//! It runs in a network namespace of its own, where every address is that of loopback and all packets are seen. This test
//! starts itself in there a second time. The servers that the test command started stay outside; sockets of the file system,
//! which are of no namespace, lead to them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod names;
mod wire;

#[path = "../../../connector/tests/file/remote/stands.rs"]
mod stands;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../../connector/tests/tls/mod.rs"]
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::{SinkExt as _, StreamExt as _, stream};
use names::Names;
use serde_json::{Value, json};
use support::redis::RedisServer;
use support::{Home, Server, sqlite_home, until, write};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_tungstenite::tungstenite::Message;
use url::Url;
use wire::Wire;

/// Set in the namespace: the folder with what was made ready outside.
const READY: &str = "MATOME_TEST_DIALLED";

/// The machine's resolver, as far as the namespace knows.
const RESOLVER: &str = "192.0.2.53:53";

/// Rows of each source.
const ROWS: u64 = 3;

/// A server as the namespace has it: the host that a config names, and where that is. Addresses and names are those that
/// belong to nobody (RFC 5737, RFC 6761). Those without a name are servers that want to be spoken to by address.
type Peer = (&'static str, &'static str);

const POSTGRES: Peer = ("postgres.test", "203.0.113.1:5432");
const MYSQL: Peer = ("mysql.test", "203.0.113.2:3306");
const HTTP: Peer = ("http.test", "203.0.113.3:80");
const S3: Peer = ("203.0.113.4", "203.0.113.4:9000");
const GCS: Peer = ("gcs.test", "203.0.113.5:4443");
const AZURE: Peer = ("203.0.113.6", "203.0.113.6:10000");
const SFTP: Peer = ("sftp.test", "203.0.113.7:22");
const API: Peer = ("api.test", "203.0.113.8:80");
const LOGIN: Peer = ("login.test", "203.0.113.9:80");
const FEED: Peer = ("feed.test", "203.0.113.10:80");
/// A WebSocket over TLS, which the certificate `named` is for.
const SECURE: Peer = ("secure.test", "203.0.113.13:443");
/// Server-sent events.
const EVENTS: Peer = ("events.test", "203.0.113.14:80");
/// A store that is spoken to by the name of a bucket before its own.
const BUCKET: Peer = ("records.store.test", "203.0.113.15:80");
/// What `DATABASE_URL` and `REDIS_URL` name.
const STORE: Peer = ("database.test", "203.0.113.11:5432");
const REDIS: Peer = ("redis.test", "203.0.113.12:6379");
/// A name may be looked up before it is known that its address must not be dialled.
const DENIED: Peer = ("denied.test", "169.254.169.254:80");

const OUTSIDE: [Peer; 9] = [POSTGRES, MYSQL, HTTP, S3, GCS, AZURE, SFTP, STORE, REDIS];
const OF_SOURCES: [Peer; 13] = [POSTGRES, MYSQL, HTTP, S3, GCS, AZURE, SFTP, API, LOGIN, FEED, SECURE, EVENTS, BUCKET];

#[tokio::test(flavor = "multi_thread")]
async fn only_peers_that_a_config_names_are_dialled() {
    match std::env::var_os(READY) {
        None => Box::pin(outside()).await,
        Some(ready) => Box::pin(inside(Path::new(&ready))).await,
    }
}

/// Makes everything ready and goes into the namespace.
async fn outside() {
    let mut namespace = namespace();
    let ready = TempDir::new().unwrap();
    let redis = RedisServer::start(&[]);
    let store = matome_testbed::postgres_schema().await;
    let mut configs: Vec<(Peer, Value)> = vec![
        (STORE, json!({ "url": store })),
        (REDIS, json!({ "url": format!("redis://127.0.0.1:{}", redis.port) })),
        (POSTGRES, database(matome_testbed::DATABASE_URL)),
        (MYSQL, database("MATOME_TEST_MYSQL_URL")),
    ];
    let stands: [(Peer, Box<dyn stands::Stand>); 5] = [
        (HTTP, Box::new(stands::Nginx::new())),
        (S3, Box::new(stands::S3::new())),
        (GCS, Box::new(stands::Gcs::new())),
        (AZURE, Box::new(stands::Azure::new())),
        (SFTP, Box::new(stands::Sftp::new())),
    ];
    for (peer, stand) in &stands {
        stand.put("rows.ndjson", (1..=ROWS).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>().as_bytes());
        configs.push((*peer, stand.config("rows.ndjson")));
    }
    let moved = configs.iter().map(|(peer, config)| (address(peer).to_string(), lead(ready.path(), peer, config)));
    write(&ready.path().join("configs"), serde_json::to_string(&moved.collect::<BTreeMap<_, _>>()).unwrap());
    write(&ready.path().join("resolv.conf"), format!("nameserver {}\n", RESOLVER.trim_end_matches(":53")));
    // A machine may ask a service of its own, which is not in the namespace.
    write(&ready.path().join("nsswitch.conf"), "hosts: files dns\n");

    namespace.args(["sh", "-c", NAMESPACE, "sh"]).arg(ready.path()).arg(std::env::current_exe().unwrap());
    namespace.args(["only_peers_that_a_config_names_are_dialled", "--exact", "--nocapture"]);
    namespace.env(READY, ready.path());
    let ended = tokio::task::spawn_blocking(move || namespace.status()).await.unwrap().unwrap();
    assert!(ended.success(), "in the namespace: {ended}");
}

/// What happens in the namespace before this test does.
const NAMESPACE: &str = r#"
set -e
ready=$1
shift
PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
# So that a packet to anywhere is sent, seen, and answered by nobody.
ip route add local default dev lo
if grep -qs . /proc/net/if_inet6; then
    ip -6 route add local default dev lo
fi
mount --bind "$ready/resolv.conf" /etc/resolv.conf
if [ -e /etc/nsswitch.conf ]; then
    mount --bind "$ready/nsswitch.conf" /etc/nsswitch.conf
fi
exec "$@"
"#;

/// `unshare`, with a namespace of users around that of the network for those who may not make one alone.
fn namespace() -> Command {
    const SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let may = (u64::from_str_radix(rights.trim(), 16).unwrap() >> SYS_ADMIN) & 1 == 1;
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(if may { &["--net", "--mount"][..] } else { &["--user", "--map-root-user", "--net", "--mount"] });
        command
    };
    let tried = unshare().arg("true").output().expect("unshare, of util-linux, is there");
    // Without one nobody knows what is dialled, and a test that was not run has not passed.
    assert!(
        tried.status.success(),
        "the kernel gives this user no network namespace: {}. Run this test as root, or let users have namespaces: \
         `sysctl kernel.unprivileged_userns_clone=1`, on Ubuntu `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, in a \
         container `--cap-add SYS_ADMIN`",
        String::from_utf8_lossy(&tried.stderr).trim()
    );
    unshare()
}

/// A source that reads from the server of a variable.
fn database(variable: &str) -> Value {
    let mut url = Url::parse(&stands::from_script(variable)).unwrap();
    let password = url.password().unwrap().to_owned();
    url.set_password(None).unwrap();
    json!({
        "url": url, "password": password, "tls": { "mode": "disable" },
        "query": (1..=ROWS).map(|n| format!("select {n} as n")).collect::<Vec<_>>().join(" union all "),
    })
}

/// Makes a socket that leads to the server of a config; returns the config for the namespace.
fn lead(ready: &Path, peer: &Peer, config: &Value) -> Value {
    let text = config.to_string();
    let (_, rest) = text.split_once("127.0.0.1:").unwrap();
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let real: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let listener = UnixListener::bind(ready.join(peer.0)).unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move { join(near, TcpStream::connect(real).await.unwrap()).await });
        }
    });
    serde_json::from_str(&text.replace(&real.to_string(), &format!("{}:{}", peer.0, address(peer).port()))).unwrap()
}

async fn join(mut near: impl AsyncRead + AsyncWrite + Unpin, mut far: impl AsyncRead + AsyncWrite + Unpin) {
    // Who hangs up, and how, is no matter of the way between.
    let _ = copy_bidirectional(&mut near, &mut far).await;
}

fn address(peer: &Peer) -> SocketAddr {
    peer.1.parse().unwrap()
}

/// The packets that peers are dialled with, and the names they are looked up by.
fn expected(peers: &[Peer]) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut dialled: BTreeSet<String> = peers.iter().map(|peer| format!("tcp {}", peer.1)).collect();
    dialled.insert(format!("udp {RESOLVER}"));
    let named = |peer: &&Peer| peer.0.parse::<IpAddr>().is_err();
    let names = peers.iter().filter(named).map(|peer| peer.0.to_owned());
    (dialled, names.chain([DENIED.0.to_owned()]).collect())
}

async fn inside(ready: &Path) {
    let wire = Wire::tap();
    let peers = OUTSIDE.into_iter().chain(OF_SOURCES).chain([DENIED]);
    let known: BTreeMap<String, Ipv4Addr> = peers
        .map(|peer| match address(&peer).ip() {
            IpAddr::V4(ip) => (peer.0.to_owned(), ip),
            IpAddr::V6(_) => unreachable!("there is none in the table"),
        })
        .collect();
    let names = Names::serve(RESOLVER, known).await;
    for peer in OUTSIDE {
        let (listener, socket) = (TcpListener::bind(peer.1).await.unwrap(), ready.join(peer.0));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let socket = socket.clone();
                tokio::spawn(async move { join(near, UnixStream::connect(socket).await.unwrap()).await });
            }
        });
    }
    serve_pages().await;
    serve_streams().await;

    // Whatever is dialled is seen, whether anybody is there or not.
    for stray in ["198.51.100.1:443", "[2001:db8::1]:443"] {
        let refused = TcpStream::connect(stray).await.unwrap_err();
        let seen = wire.dialled();
        let has_no_such_addresses = stray.starts_with('[') && !Path::new("/proc/net/if_inet6").exists();
        assert!(seen == [format!("tcp {stray}")].into() || has_no_such_addresses, "{seen:?}, {refused}");
    }
    assert!(tokio::net::lookup_host(("stray.test", 80)).await.is_err());
    assert_eq!(names.asked(), ["stray.test".to_owned()].into());
    wire.dialled();

    let configs = std::fs::read_to_string(ready.join("configs")).unwrap();
    let configs: BTreeMap<String, Value> = serde_json::from_str(&configs).unwrap();
    let url = |peer: Peer| Some(configs[peer.1]["url"].as_str().unwrap().to_owned());
    let embedded = sqlite_home();
    let production = Home { database_url: url(STORE), redis_url: url(REDIS), name: "postgres", ..sqlite_home() };
    for (mut home, peers) in [(embedded, vec![]), (production, vec![STORE, REDIS])] {
        home.extra.extend(["--egress-allow".to_owned(), "203.0.113.0/24".to_owned()]);
        if !peers.is_empty() {
            home.ok(&["migrate"]);
        }
        let mut server = home.serve().await;
        read_all(&server, &configs).await;
        assert_eq!(server.terminate(), Some(0));

        let (expected, expected_names) = expected(&[&OF_SOURCES[..], &peers].concat());
        let mut dialled = wire.dialled();
        // By this test.
        assert!(dialled.remove(&format!("tcp {}", server.base.trim_start_matches("http://"))), "{dialled:?}");
        println!("{}: dialled {dialled:#?}", home.name);
        assert_eq!(dialled, expected, "{}", home.name);
        assert_eq!(names.asked(), expected_names, "{}", home.name);
    }
}

/// Reads one source of each kind, and runs an aggregation over them.
async fn read_all(server: &Server, configs: &BTreeMap<String, Value>) {
    for peer in [POSTGRES, MYSQL, HTTP, S3, GCS, AZURE, SFTP] {
        let source_type = if [POSTGRES, MYSQL].contains(&peer) { "database" } else { "file" };
        let source = server.source(peer.1, source_type, configs[peer.1].clone()).await;
        let task = server.run("acquisition", source).await;
        assert_eq!(task["result"]["stored"], ROWS, "{}: {task}", peer.0);
    }
    let auth = json!({
        "type": "oauth2_client_credentials", "token_url": format!("http://{}/token", LOGIN.0), "client_id": "matome",
        "client_secret": "s3cret"
    });
    let api = json!({
        "url": format!("http://{}/rows", API.0), "records": "$.results", "auth": auth,
        "pagination": { "type": "next_link", "next": "$.next" }
    });
    let source = server.source("api", "api", api).await;
    let task = server.run("acquisition", source).await;
    assert_eq!((&task["result"]["stored"], &task["result"]["pages"]), (&json!(ROWS), &json!(ROWS)), "{task}");

    let bucket = json!({
        "path": "s3://records/rows.ndjson", "s3": { "endpoint": "http://store.test", "style": "host" }
    });
    let source = server.source("bucket", "file", bucket).await;
    let task = server.run("acquisition", source).await;
    assert_eq!(task["result"]["stored"], ROWS, "{task}");

    for (scheme, peer) in [("ws", FEED), ("wss", SECURE), ("http", EVENTS)] {
        let mut config = json!({ "url": format!("{scheme}://{}/", peer.0), "batch": { "wait_ms": 100 } });
        if peer == SECURE {
            config["tls"] = json!({ "ca": tls::text("ca.crt") });
        }
        let source = server.source(peer.0, "websocket", config).await;
        let task = server.start("acquisition", source).await;
        is_stored(server, source).await;
        assert_eq!(server.send("POST", &format!("{task}cancel/"), None).await.0, 200);
        assert_eq!(server.ended(&task).await["status"], "cancelled");
    }
    let push = server.source("push", "push", json!({ "format": "auto" })).await;
    let rows: Vec<Value> = (1..=ROWS).map(|n| json!({ "n": n })).collect();
    let (status, told) =
        server.send("POST", &format!("/api/acquisition/sources/{push}/records/"), Some(json!(rows))).await;
    assert_eq!(status, 202, "{told}");
    is_stored(server, push).await;

    let denied = server.source("denied", "api", json!({ "url": format!("http://{}/", DENIED.0) })).await;
    let task = server.start("acquisition", denied).await;
    let task = server.ended(&task).await;
    assert_eq!((&task["status"], &task["error"]["reason"]), (&json!("failed"), &json!("denied")), "{task}");

    let aggregation = server.aggregation("sums", "select sum(n) as total from api").await;
    server.run("aggregation", aggregation).await;
}

/// Waits for the rows of a source.
async fn is_stored(server: &Server, source: i64) {
    let path = format!("/api/acquisition/data/?source={source}&page_size=1");
    until("all is stored", async || server.get(&path).await["count"] == ROWS).await;
}

/// A list of one row a page, for those with a token that another host gives; an object of a bucket; and events, behind which nothing
/// comes.
async fn serve_pages() {
    let rows = async |Query(asked): Query<BTreeMap<String, u64>>, headers: HeaderMap| {
        if headers.get("authorization").is_none_or(|sent| sent != "Bearer t0ken") {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let n = asked.get("page").copied().unwrap_or(1);
        let next = (n < ROWS).then(|| format!("/rows?page={}", n + 1));
        Ok(Json(json!({ "results": [{ "n": n }], "next": next })))
    };
    let token = async || Json(json!({ "access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600 }));
    let lines = (1..=ROWS).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>();
    let events = async || {
        let sent = stream::iter((1..=ROWS).map(|n| Ok::<_, std::io::Error>(format!("data: {{\"n\":{n}}}\n\n"))));
        ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(sent.chain(stream::pending())))
    };
    for (peer, router) in [
        (API, Router::new().route("/rows", get(rows))),
        (LOGIN, Router::new().route("/token", post(token))),
        (BUCKET, Router::new().route("/rows.ndjson", get(async move || lines))),
        (EVENTS, Router::new().route("/", get(events))),
    ] {
        let listener = TcpListener::bind(peer.1).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
}

/// Send their messages to whoever connects, and hold the connection.
async fn serve_streams() {
    for (peer, acceptor) in [(FEED, None), (SECURE, Some(tls::acceptor("named", None)))] {
        let listener = TcpListener::bind(peer.1).await.unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    match acceptor {
                        None => send_rows(stream).await,
                        Some(acceptor) => send_rows(acceptor.accept(stream).await.unwrap()).await,
                    }
                });
            }
        });
    }
}

async fn send_rows(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    for n in 1..=ROWS {
        socket.send(Message::text(format!("{{\"n\":{n}}}"))).await.unwrap();
    }
    while let Some(Ok(_)) = socket.next().await {}
}

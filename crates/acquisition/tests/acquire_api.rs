//! One acquisition task from a REST API on loopback to the store, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use matome_connector::{FileRoots, HttpClient, Policy, Registry};
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use matome_model::task::LaneKind;
use matome_store::data_sources;
use matome_store::secrets::{self, Vault};
use matome_tasks::Advice;
use matome_testbed::databases;
use secrecy::SecretString;
use support::{Bench, count};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Two pages of records; the second answers 503 while it is down.
struct Server {
    origin: String,
    second_is_down: Arc<AtomicBool>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let second_is_down = Arc::new(AtomicBool::new(false));
        let (base, down) = (origin.clone(), second_is_down.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(answer(client, base.clone(), down.clone()));
            }
        });
        Self { origin, second_is_down }
    }
}

async fn answer(mut client: TcpStream, origin: String, second_is_down: Arc<AtomicBool>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut piece = [0; 1024];
        match client.read(&mut piece).await {
            Ok(read @ 1..) => head.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let is_second = head.starts_with("get /2 ");
    let body = if is_second {
        r#"{"results":[{"id":3,"name":"三"},{"id":1,"name":"一"}],"next":null}"#.to_owned()
    } else {
        format!(r#"{{"results":[{{"id":1,"name":"一"}},{{"id":2,"name":"\u0000"}}],"next":"{origin}/2"}}"#)
    };
    let etag = if is_second { "\"two\"" } else { "\"one\"" };
    let response = if !head.contains("authorization: bearer s3cret") {
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
    } else if is_second && second_is_down.load(Ordering::SeqCst) {
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            .to_owned()
    } else if head.contains(&format!("if-none-match: {etag}")) {
        format!("HTTP/1.1 304 Not Modified\r\nETag: {etag}\r\nConnection: close\r\n\r\n")
    } else {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: {etag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let _ = client.write_all(response.as_bytes()).await;
}

async fn bench(db: &matome_store::db::Db, server: &Server, token: &str) -> Bench {
    let dir = tempfile::TempDir::new().unwrap();
    let config = format!(
        r#"{{"url":"{}/1","records":"$.results","pagination":{{"type":"next_link","next":"$.next"}},
            "auth":{{"type":"bearer","token":{{"$secret":true}}}}}}"#,
        server.origin
    );
    let roots = FileRoots::open([dir.path()]).unwrap();
    let mut bench = Bench::with_config(db, dir, SourceType::Api, &config).await;
    let policy = Policy::new(["127.0.0.1".parse().unwrap()]);
    bench.registry = Registry::new(roots, HttpClient::new(policy), Clock::system());
    let (source_id, token) = (bench.source_id, SecretString::from(token));
    db.write(move |conn| {
        Box::pin(async move {
            let vault = Vault::from_key([7; 32]);
            secrets::save(conn, &vault, LaneKind::Source, source_id, "/auth/token", &token).await
        })
    })
    .await
    .unwrap();
    bench
}

#[tokio::test]
async fn pages_are_stored_and_not_fetched_again_while_they_do_not_change() {
    for bed in databases().await {
        let server = Server::start().await;
        let bench = bench(&bed.db, &server, "s3cret").await;
        let result = bench.run().await.unwrap().result;
        let counts = ["read", "stored", "duplicate", "quarantined", "requests", "not_modified"];
        assert_eq!(counts.map(|name| count(&result, name)), [4, 2, 1, 1, 2, 0], "{} {result}", bed.name);
        assert_eq!(bench.stored().await, [r#"{"id":1,"name":"一"}"#, r#"{"id":3,"name":"三"}"#]);
        let result = bench.run().await.unwrap().result;
        assert_eq!(counts.map(|name| count(&result, name)), [0, 0, 0, 0, 2, 2], "{} {result}", bed.name);
    }
}

#[tokio::test]
async fn what_came_before_a_failing_page_is_kept_and_the_next_try_goes_on() {
    for bed in databases().await {
        let server = Server::start().await;
        let bench = bench(&bed.db, &server, "s3cret").await;
        server.second_is_down.store(true, Ordering::SeqCst);
        let err = bench.run().await.unwrap_err();
        assert_eq!(err.advice, Advice::Retry { after: Some(Duration::from_secs(7)) }, "{err:?}");
        assert_eq!(err.reason, "http_status");
        assert!(err.position.as_ref().unwrap().get().contains("/2"), "{err:?}");
        assert_eq!(count(err.result.as_deref().unwrap(), "stored"), 1, "{}", bed.name);
        assert_eq!(bench.stored().await, [r#"{"id":1,"name":"一"}"#]);

        server.second_is_down.store(false, Ordering::SeqCst);
        bench.run().await.unwrap();
        assert_eq!(bench.stored().await.len(), 2, "{}", bed.name);
    }
}

/// Gives an access token for the newest refresh token only, and the next one with it.
async fn strict(mut client: TcpStream, used: Arc<AtomicU64>) {
    let mut text = Vec::new();
    while !text.ends_with(b"client_id=me") && !text.starts_with(b"GET /data") {
        let mut piece = [0; 1024];
        match client.read(&mut piece).await {
            Ok(read @ 1..) => text.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
    let text = String::from_utf8(text).unwrap();
    let newest = used.load(Ordering::SeqCst);
    let (status, body) = if text.starts_with("GET /data") {
        ("200 OK", r#"[{"n":1}]"#.to_owned())
    } else if text.contains(&format!("refresh_token=r{newest}&")) {
        let next = used.fetch_add(1, Ordering::SeqCst) + 1;
        ("200 OK", format!(r#"{{"access_token":"a{next}","refresh_token":"r{next}"}}"#))
    } else {
        ("400 Bad Request", r#"{"error":"invalid_grant"}"#.to_owned())
    };
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let _ = client.write_all(response.as_bytes()).await;
}

#[tokio::test]
async fn a_refresh_token_that_changes_outlives_its_process_and_serves_every_source_that_names_its_owner() {
    for bed in databases().await {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let used = Arc::new(AtomicU64::new(0));
        let counted = used.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(strict(client, counted.clone()));
            }
        });
        let dir = tempfile::TempDir::new().unwrap();
        let config = format!(
            r#"{{"url":"{origin}/data","auth":{{"type":"oauth2_refresh_token","token_url":"{origin}/token","client_id":"me",
                "refresh_token":{{"$secret":true}}}}}}"#
        );
        let mut bench = Bench::with_config(&bed.db, dir, SourceType::Api, &config).await;
        let source_id = bench.source_id;
        let saved = bed.db.write(move |conn| {
            Box::pin(async move {
                let (vault, first) = (Vault::from_key([7; 32]), SecretString::from("r0"));
                secrets::save(conn, &vault, LaneKind::Source, source_id, "/auth/refresh_token", &first).await
            })
        });
        saved.await.unwrap();
        let found = data_sources::find(&mut bed.db.read().await.unwrap().conn(), source_id).await.unwrap();
        let name = found.unwrap().name;
        let of_the_same = |url: &str, name: &str| {
            format!(r#"{{"url":"{url}/data?other","auth":{{"type":"same_as","source":"{name}"}}}}"#)
        };
        let mut others = Vec::new();
        for config in
            [of_the_same(&origin, &name), of_the_same("http://127.0.0.1:9", &name), of_the_same(&origin, "nobody")]
        {
            let dir = tempfile::TempDir::new().unwrap();
            others.push(Bench::with_config(&bed.db, dir, SourceType::Api, &config).await);
        }
        for process in 1..=3 {
            // A process of its own knows no access token.
            let policy = Policy::new(["127.0.0.1".parse().unwrap()]);
            bench.registry = Registry::new(FileRoots::default(), HttpClient::new(policy), Clock::system());
            others[0].registry = bench.registry.clone();
            for _ in 0..2 {
                // Whoever comes first gets it for both.
                let both = if process == 2 { [&others[0], &bench] } else { [&bench, &others[0]] };
                for bench in both {
                    bench.run().await.unwrap_or_else(|err| panic!("{}: {err:?}", bed.name));
                }
            }
            assert_eq!(used.load(Ordering::SeqCst), process, "{}: one for each process", bed.name);
        }
        for (other, part) in [(&others[1], "only, and this source is elsewhere"), (&others[2], "no source `nobody`")] {
            let err = other.run().await.unwrap_err();
            assert_eq!((err.advice, err.reason.as_str()), (Advice::Fail, "config"), "{}", bed.name);
            assert!(err.message.english.contains(part), "{err:?}");
        }
        // What is stored is no longer what was set, and is not to be read.
        let mut reader = bed.db.read().await.unwrap();
        let mut conn = reader.conn();
        let (vault, config) = (Vault::from_key([7; 32]), support::json(&config));
        let shown = secrets::reveal(&mut conn, &vault, LaneKind::Source, source_id, &config);
        assert!(shown.await.unwrap().get().contains("\"r3\""), "{}", bed.name);
    }
}

#[tokio::test]
async fn wrong_credentials_fail_without_a_retry_and_are_not_shown() {
    for bed in databases().await {
        let server = Server::start().await;
        let bench = bench(&bed.db, &server, "wr0ng").await;
        let err = bench.run().await.unwrap_err();
        assert_eq!((err.advice, err.reason.as_str()), (Advice::Fail, "auth"), "{}", bed.name);
        assert!(!format!("{err:?}").contains("wr0ng"), "{err:?}");
    }
}

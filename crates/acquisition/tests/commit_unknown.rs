//! A connection that dies at COMMIT, before or after the server did it: each page is stored once all the same.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use matome_store::db::Db;
use matome_store::migrate;
use matome_tasks::{Handler as _, TaskContext};
use support::{Bench, canonical, count, many_lines};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// What happens to the nth COMMIT that passes, from 0.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The server never hears of it.
    Before,
    /// The server does it and its answer is lost.
    After,
}

/// The first COMMIT begins the read; the others are pages and their second tries.
fn cut(n: usize) -> Option<Cut> {
    match n {
        1 | 5 => Some(Cut::After),
        2 | 3 => Some(Cut::Before),
        _ => None,
    }
}

/// A way to the test server through a proxy that cuts connections at COMMIT.
async fn through_proxy(url: &str) -> (String, Arc<AtomicUsize>) {
    let (_, rest) = url.split_once("://").unwrap();
    let host = rest.split('/').next().unwrap().rsplit('@').next().unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxied = url.replacen(&host, &listener.local_addr().unwrap().to_string(), 1);
    let commits = Arc::new(AtomicUsize::new(0));
    let counter = commits.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(relay(client, TcpStream::connect(host.clone()).await.unwrap(), counter.clone()));
        }
    });
    (proxied, commits)
}

async fn relay(mut client: TcpStream, mut server: TcpStream, commits: Arc<AtomicUsize>) {
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(read @ 1..) = read else { return };
                let is_commit = up[..read].windows(7).any(|bytes| bytes == b"COMMIT\0");
                let cut = if is_commit { cut(commits.fetch_add(1, Ordering::SeqCst)) } else { None };
                if cut == Some(Cut::Before) {
                    return;
                }
                server.write_all(&up[..read]).await.unwrap();
                if cut == Some(Cut::After) {
                    // The server has done it when it answers.
                    assert!(server.read(&mut down).await.unwrap() > 0);
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(read @ 1..) = read else { return };
                if client.write_all(&down[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn pages_whose_commit_is_not_confirmed_are_stored_once() {
    for dedupe in ["none", "rows", "hash"] {
        let url = matome_testbed::postgres_schema().await;
        let direct = Db::connect_postgres(&url, Uuid::new_v4(), 4).await.unwrap();
        migrate::migrate(&direct).await.unwrap();
        let bench = Bench::new(&direct, &format!(r#","dedupe":"{dedupe}""#)).await;
        let lines = many_lines(direct.page_rows() * 4);
        bench.write_file(&lines);

        let (proxied, commits) = through_proxy(&url).await;
        let db = Db::connect_postgres(&proxied, Uuid::new_v4(), 4).await.unwrap();
        let task = bench.claim().await;
        let ctx = TaskContext::new(direct.clone(), task.task.id, task.fence);
        let result = bench.handler_on(&db).run(task, ctx).await.unwrap().result;

        assert!(commits.load(Ordering::SeqCst) > 5, "connections were cut");
        let mut expected = canonical(&lines);
        if dedupe == "hash" {
            expected.dedup();
        }
        assert!(bench.stored().await == expected, "{dedupe}");
        assert_eq!(count(&result, "stored"), u64::try_from(expected.len()).unwrap(), "{dedupe}");
        assert_eq!(count(&result, "read"), u64::try_from(lines.len()).unwrap(), "{dedupe}");
    }
}

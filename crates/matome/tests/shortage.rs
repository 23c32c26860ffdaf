//! What runs out, and clocks that lie: sessions of the database, file descriptors; several servers at once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matome_testbed::Hog;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use support::load::{Load, ROWS};
use support::{Home, Server, Tally, homes, postgres_home, sqlite_home, until, upstream};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_a_free_session_is_waited_for() {
    let upstream = upstream(ROWS).await;
    let url = matome_testbed::postgres_database_of(12).await;
    let mut home = Home { database_url: Some(url.clone()), name: "postgres", ..sqlite_home() }.reaching(upstream);
    home.extra.extend(["--database-connections".to_owned(), "6".to_owned()]);
    home.ok(&["migrate"]);
    let server = home.serve().await;
    let mut tally = Tally::new("connections", "postgres");
    let load = Load::start(&server, upstream).await;
    let (mut hog, begun) = (Hog::default(), Instant::now());
    let mut taken = hog.take_all(&url).await;
    // The server's own end, and somebody else is quicker than it is.
    let mut ended = hog.end_sessions_of_workers().await;
    while begun.elapsed() < Duration::from_secs(4) {
        taken += hog.take_all(&url).await;
        ended += hog.end_sessions_of_workers().await;
    }
    assert!(taken >= 11 && ended >= 3, "{taken} of 12 sessions taken, {ended} of the server's ended");
    drop(hog);
    let calm = Instant::now();
    until("a task goes on", async || server.try_get("/api/acquisition/tasks/").await.is_some()).await;
    tally.recovered(calm.elapsed());
    load.settle(&home, &server, &mut tally).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_few_file_descriptors_works_on_when_clients_take_them_all() {
    let upstream = upstream(ROWS).await;
    let storms = homes().await.into_iter().map(|home| async move {
        let mut home = home.reaching(upstream);
        home.through = ["prlimit", "--nofile=64"].map(str::to_owned).to_vec();
        let server = home.serve().await;
        let mut tally = Tally::new("descriptors", home.name);
        let load = Load::start(&server, upstream).await;
        let address = server.base.trim_start_matches("http://").to_owned();
        let mut clients = Vec::new();
        for _ in 0..100 {
            // The queue of the listener takes what the server cannot; connecting must not wait for it.
            let connect = tokio::net::TcpStream::connect(&address);
            clients.extend(tokio::time::timeout(Duration::from_millis(50), connect).await.ok().and_then(Result::ok));
        }
        let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().count();
        until("all descriptors are taken", async || descriptors() >= 63).await;
        let at_most = Instant::now();
        until("it is that way for a while", async || at_most.elapsed() > Duration::from_secs(2)).await;
        drop(clients);
        let calm = Instant::now();
        until("it answers", async || server.try_get("/api/acquisition/tasks/").await.is_some()).await;
        tally.recovered(calm.elapsed());
        load.settle(&home, &server, &mut tally).await;
    });
    futures::future::join_all(storms).await;
}

/// `MATOME_TEST_FAKETIME` (`scripts/fault/clock`): libfaketime, through which the clock of each server jumps meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn several_servers_fire_each_time_once_while_one_is_killed() {
    let (upstream, library) = (upstream(ROWS).await, std::env::var("MATOME_TEST_FAKETIME").ok());
    let mut home = postgres_home().await.reaching(upstream);
    let count = if library.is_some() { 3 } else { 5 };
    let mut tally = Tally::new(if library.is_some() { "clock" } else { "beats" }, "postgres");
    let clocks: Vec<PathBuf> = (0..count).map(|n| home.dir.path().join(format!("clock{n}"))).collect();
    let mut servers: Vec<Server> = Vec::new();
    for clock in &clocks {
        set_clock(clock, 0);
        if let Some(library) = &library {
            let file = clock.display();
            home.through = [
                "env".to_owned(),
                format!("LD_PRELOAD={library}"),
                format!("FAKETIME_TIMESTAMP_FILE={file}"),
                "FAKETIME_NO_CACHE=1".to_owned(),
                // Only wall clocks jump.
                "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            ]
            .to_vec();
        }
        servers.push(match servers.first() {
            None => home.serve().await,
            Some(first) => home.serve_again(first.token.clone()).await,
        });
    }
    let load = Load::start(&servers[0], upstream).await;
    std::fs::write(home.files().join("one.ndjson"), "{\"n\":1}\n").unwrap();
    for n in 0..10 {
        let config = json!({ "path": "one.ndjson", "dedupe": "none", "files": "all" });
        let body = json!({ "name": format!("tick{n}"), "source_type": "file", "config": config, "fetch_interval": 1 });
        let (status, row) = servers[0].send("POST", "/api/acquisition/sources/", Some(body)).await;
        assert_eq!(status, 201, "{row}");
    }
    let url = home.database_url.clone().unwrap();
    let seed: u64 = std::env::var("MATOME_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}: repeat with MATOME_SEED={seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let (begun, mut jumps) = (Instant::now(), 0);
    let lasts = Duration::from_secs(if library.is_some() { 30 } else { 5 });
    while begun.elapsed() < lasts {
        if library.is_some() {
            // An hour, a minute, a year; ahead and back.
            let by = [3600, -3600, 60, -60, 31_536_000, 0][random.random_range(0..6)];
            set_clock(&clocks[random.random_range(0..count)], by);
            jumps += 1;
        }
        let last = servers.len() - 1;
        servers[last].kill();
        let killed = Instant::now();
        servers[last] = home.serve_again(servers[0].token.clone()).await;
        tally.recovered(killed.elapsed());
    }
    clocks.iter().for_each(|clock| set_clock(clock, 0));
    // As before: each schedule goes on by the clock that is right again, whatever a wrong one has fired ahead.
    let (fired, doubled) = matome_testbed::fires(&url).await;
    assert_eq!(doubled, 0, "of {fired} fires");
    assert!(fired >= 20, "{fired} fires");
    println!("{fired} fires by {count} servers, {jumps} jumps");
    for log in servers.iter().map(|server| server.log.lock().unwrap()) {
        let dead: Vec<&String> = log.iter().filter(|line| line.contains("was taken for dead")).collect();
        assert!(dead.is_empty(), "no clock expires a lease: {dead:?}");
    }
    tally.tasks = usize::try_from(fired).unwrap();
    load.settle(&home, &servers[0], &mut tally).await;
}

fn set_clock(file: &Path, seconds: i64) {
    // Whole at once: a clock that is read half-written is another fault.
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, format!("{seconds:+}s\n")).unwrap();
    std::fs::rename(&fresh, file).unwrap();
}

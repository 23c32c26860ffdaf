//! Faults that leave the process alive: it is stopped and goes on, its database sessions end under it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use matome_testbed::hold;
use serde_json::{Value, json};
use support::{Home, PATIENCE, Server, Tally, postgres_home, until, upstream};

const ROWS: usize = 1_000;

async fn home() -> (Home, Value) {
    let address = upstream(ROWS).await;
    let mut home = postgres_home().await;
    home.extra = vec!["--egress-allow".to_owned(), format!("127.0.0.1/32:{}", address.port())];
    // Nothing is deduplicated, so a page that is stored twice shows.
    let config = json!({
        "url": format!("http://{address}/rows"), "records": "$.results", "dedupe": "none",
        "pagination": { "type": "next_link", "next": "$.next" }
    });
    (home, config)
}

async fn count(server: &Server, source: i64) -> u64 {
    server.get(&format!("/api/acquisition/data/?source={source}&page_size=1")).await["count"].as_u64().unwrap()
}

fn stored(home: &Home, server: &Server, source: i64) -> Vec<u64> {
    let id = source.to_string();
    let export = ["data", "export", "--source", &id, "--server", &server.base, "--token", &server.token];
    let value = |line: &str| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
    home.ok(&export).lines().map(value).collect()
}

fn logs(server: &Server, what: &str) -> bool {
    server.log.lock().unwrap().iter().any(|line| line.contains(what))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_stopped_in_mid_read_stores_nothing_when_it_goes_on() {
    let (home, config) = home().await;
    let mut tally = Tally::new("stop", "postgres");
    let zombie = home.serve().await;
    let source = zombie.source("rows", "api", config).await;
    let task = zombie.start("acquisition", source).await;
    until("some pages are stored", async || count(&zombie, source).await >= 100).await;
    zombie.signal("-STOP");
    let stopped = Instant::now();

    let heir = home.serve_again(zombie.token.clone()).await;
    let at_stop = count(&heir, source).await;
    assert!(at_stop < ROWS as u64, "it was stopped in the middle");
    until("another server goes on with the read", async || count(&heir, source).await > at_stop).await;
    tally.recovered(stopped.elapsed());
    // In the middle of the heir's read the dead one rises, with a page in its hands.
    zombie.signal("-CONT");
    let noticed = ["was taken for dead", "no heartbeat was committed"];
    until("it notices", async || noticed.iter().any(|what| logs(&zombie, what))).await;
    let row = heir.ended(&task).await;
    assert_eq!(row["status"], "succeeded", "{row}");
    assert_eq!(row["result"]["stored"], json!(ROWS), "the result sums up what both stored: {row}");
    until("its attempt is over", async || logs(&zombie, "lease_lost") || logs(&zombie, "released")).await;
    tally.tasks = 1;
    tally.compare(0..ROWS as u64, stored(&home, &heir, source).into_iter(), "after the stop");
    home.ok(&["db", "check", "--full"]);
    // It works on as if nothing had been.
    let again = zombie.run("acquisition", source).await;
    assert_eq!(again["result"]["stored"], json!(ROWS), "{again}");
    tally.tell();
}

/// As PostgreSQL keeps it for hours when the other machine is gone: a session of whoever has leases, in a transaction that has
/// their lanes locked.
const SESSION_OF_THE_VANISHED: &str = "do $$ begin
    perform set_config('application_name', 'matome-' || (select min(lease_worker::text) from lanes), false);
    perform 1 from lanes where lease_worker is not null for update;
end $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_vanishes_within_a_transaction_holds_no_lane() {
    let (home, config) = home().await;
    let mut tally = Tally::new("vanish", "postgres");
    let mut vanished = home.serve().await;
    let source = vanished.source("rows", "api", config).await;
    let task = vanished.start("acquisition", source).await;
    until("some pages are stored", async || count(&vanished, source).await >= 100).await;
    vanished.kill();
    let begun = Instant::now();
    let session = hold(home.database_url.as_deref().unwrap(), SESSION_OF_THE_VANISHED).await;

    let heir = home.serve_again(vanished.token.clone()).await;
    let at_end = count(&heir, source).await;
    assert!(at_end < ROWS as u64, "it vanished in the middle");
    until("another server goes on with the read", async || count(&heir, source).await > at_end).await;
    tally.recovered(begun.elapsed());
    assert!(logs(&heir, "which stands still, were ended"), "the lane was locked");
    let row = heir.ended(&task).await;
    assert_eq!((&row["status"], &row["result"]["stored"]), (&json!("succeeded"), &json!(ROWS)), "{row}");
    drop(session);
    tally.tasks = 1;
    tally.compare(0..ROWS as u64, stored(&home, &heir, source).into_iter(), "after it vanished");
    home.ok(&["db", "check", "--full"]);
    tally.tell();
}

#[tokio::test(flavor = "multi_thread")]
async fn database_sessions_that_end_all_the_time_lose_and_double_nothing() {
    let (home, config) = home().await;
    // `scripts/fault/restart`: a command that restarts the whole server instead.
    let restart = std::env::var("MATOME_TEST_FAULT").ok();
    let mut tally = Tally::new(if restart.is_some() { "restart" } else { "sessions" }, "postgres");
    let server = home.serve().await;
    let mut sources = Vec::new();
    for n in 0..4 {
        let source = server.source(&format!("rows{n}"), "api", config.clone()).await;
        sources.push((source, server.start("acquisition", source).await));
    }
    let url = home.database_url.as_deref().unwrap();
    let (mut ended, begun) = (0, Instant::now());
    // A restart takes as long as the machine lets it.
    let enough = if restart.is_some() { 4 } else { 11 };
    while begun.elapsed() < Duration::from_secs(4) || ended < enough {
        assert!(begun.elapsed() < PATIENCE, "{ended} faults in {PATIENCE:?}");
        ended += match &restart {
            None => matome_testbed::end_sessions_of_workers(url).await,
            Some(command) => {
                assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
                1
            }
        };
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let calm = Instant::now();
    for (source, task) in &sources {
        until("it answers", async || {
            let (status, _) = server.send("GET", task, None).await;
            status == 200
        })
        .await;
        let row = server.ended(task).await;
        assert_eq!(row["status"], "succeeded", "{row}");
        assert_eq!(row["result"]["stored"], json!(ROWS), "{row}");
        tally.compare(0..ROWS as u64, stored(&home, &server, *source).into_iter(), &format!("source {source}"));
    }
    assert!(calm.elapsed() < PATIENCE);
    tally.recovered(calm.elapsed());
    tally.tasks = sources.len();
    home.ok(&["db", "check", "--full"]);
    tally.tell();
}

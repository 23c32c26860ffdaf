//! `web` and `beat` killed (SIGKILL) and hung (SIGSTOP, SIGCONT) under load. Workers are in `isolation.rs`, `serve` in
//! `kill.rs` and `faults.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Stdio;
use std::time::Instant;

use serde_json::json;
use support::fleet::Member;
use support::load::{Load, ROWS};
use support::{Home, Server, Tally, postgres_home, until, upstream};

/// An installation at work: four sources that read by hand, one that a schedule runs each second.
struct Fleet {
    home: Home,
    web: Server,
    _worker: Member,
    beat: Member,
    load: Load,
}

fn beat(home: &Home) -> Member {
    let mut command = home.command(&["beat"]);
    let beat = Member::of(command.stderr(Stdio::piped()).stdout(Stdio::null()));
    beat.until_says("beat runs");
    beat
}

async fn fleet() -> Fleet {
    let address = upstream(ROWS).await;
    let home = postgres_home().await.reaching(address);
    let web = home.web().await;
    let (worker, beat) = (home.worker("acquisition", 6), beat(&home));
    let config = json!({ "url": format!("http://{address}/rows?page=49"), "records": "$.results" });
    let body = json!({ "name": "scheduled", "source_type": "api", "config": config, "fetch_interval": 1 });
    assert_eq!(web.send("POST", "/api/acquisition/sources/", Some(body)).await.0, 201);
    let load = Load::start(&web, address).await;
    Fleet { home, web, _worker: worker, beat, load }
}

impl Fleet {
    fn url(&self) -> &str {
        self.home.database_url.as_deref().unwrap()
    }

    /// Waits until the schedule has fired once more.
    async fn until_fired(&self) {
        let before = matome_testbed::fires(self.url()).await.0;
        until("the schedule fires", async || matome_testbed::fires(self.url()).await.0 > before).await;
    }

    async fn settle(self, server: &Server, mut tally: Tally) {
        let url = self.url().to_owned();
        self.load.settle(&self.home, server, &mut tally).await;
        let (fires, doubled) = matome_testbed::fires(&url).await;
        assert!(fires > 0 && doubled == 0, "{fires} fires, {doubled} doubled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_process_that_is_killed_takes_no_task_with_it() {
    let mut fleet = fleet().await;
    let mut tally = Tally::new("web_kill", "postgres");
    fleet.web.kill();
    let killed = Instant::now();
    let heir = fleet.home.web().await;
    tally.recovered(killed.elapsed());
    fleet.settle(&heir, tally).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_process_that_hung_answers_again_and_changed_nothing() {
    let fleet = fleet().await;
    let mut tally = Tally::new("web_stop", "postgres");
    fleet.web.signal("-STOP");
    let stopped = Instant::now();
    let heir = fleet.home.web().await;
    tally.recovered(stopped.elapsed());
    // It is taken for dead meanwhile.
    let gone = "select count(*)::text from workers where role = 'web' and gone_at is not null";
    until("it is taken for dead", async || matome_testbed::texts(fleet.url(), gone).await[0] == "1").await;
    fleet.web.signal("-CONT");
    until("it is ready again", async || fleet.web.try_get("/readyz").await.is_some()).await;
    until("it belongs to the installation again", async || matome_testbed::texts(fleet.url(), gone).await[0] == "0")
        .await;
    assert!(fleet.web.try_get("/api/acquisition/sources/").await.is_some());
    fleet.settle(&heir, tally).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_go_on_when_a_killed_beat_is_back() {
    let mut fleet = fleet().await;
    let mut tally = Tally::new("beat_kill", "postgres");
    fleet.until_fired().await;
    fleet.beat.kill();
    let killed = Instant::now();
    let heir = beat(&fleet.home);
    fleet.until_fired().await;
    tally.recovered(killed.elapsed());
    let web = fleet.home.web().await;
    fleet.settle(&web, tally).await;
    drop(heir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_that_hung_is_replaced_by_another_and_fires_nothing_twice() {
    let fleet = fleet().await;
    let mut tally = Tally::new("beat_stop", "postgres");
    let other = beat(&fleet.home);
    fleet.until_fired().await;
    fleet.beat.signal("-STOP");
    let stopped = Instant::now();
    fleet.until_fired().await;
    tally.recovered(stopped.elapsed());
    fleet.until_fired().await;
    fleet.beat.signal("-CONT");
    fleet.until_fired().await;
    drop(other);
    fleet.until_fired().await;
    let web = fleet.home.web().await;
    fleet.settle(&web, tally).await;
}

//! The two queues share nothing but the database: whatever happens to all workers of one, tasks of the other start as fast as
//! before. And the tasks of a worker that was killed run elsewhere soon. On PostgreSQL and Redis, each role its own process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::fleet::{Member, Waits};
use support::redis::RedisServer;
use support::{Home, Server, Tally, postgres_home, until, upstream, write};
use tokio::net::TcpListener;

/// Slots of each worker; there are two workers of each queue.
const SLOTS: usize = 2;

/// An upstream that never answers.
async fn silence() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/rows", axum::routing::get(async || std::future::pending::<&str>().await));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/rows")
}

struct Fleet {
    home: Home,
    web: Server,
    _beat: Member,
    acquisition: Vec<Member>,
    aggregation: Vec<Member>,
    /// Sources and aggregations that end at once.
    quick: [Vec<i64>; 2],
    /// Those that fill a slot for as long as they are let.
    long: [Vec<i64>; 2],
}

const QUEUES: [&str; 2] = ["acquisition", "aggregation"];

impl Fleet {
    async fn start(redis: &RedisServer) -> Self {
        let mut home = postgres_home().await;
        home.redis_url = Some(redis.url());
        let beat = home.beat();
        let (files, silent) = (home.files(), silence().await);
        let reach = ["--file-root", files.to_str().unwrap(), "--egress-allow", "127.0.0.1/32"];
        home.extra = reach.into_iter().chain(["--aggregation-memory", "64"]).map(str::to_owned).collect();
        let web = home.web().await;
        let start = |queue| (0..2).map(|_| home.worker(queue, SLOTS)).collect::<Vec<_>>();
        let (acquisition, aggregation) = (start("acquisition"), start("aggregation"));
        let (mut quick, mut long) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for n in 0..8 {
            let path = files.join(format!("quick{n}.ndjson"));
            write(&path, "{\"n\":1}\n");
            quick[0].push(web.source(&format!("quick{n}"), "file", json!({ "path": path, "format": "ndjson" })).await);
            quick[1].push(web.aggregation(&format!("few{n}"), "select 1 as n").await);
        }
        // The product of two series is more than any test waits for.
        let many = "select count(*) as n from generate_series(1, 1000000) a cross join generate_series(1, 1000000) b";
        for n in 0..2 * SLOTS {
            let config = json!({ "url": silent, "timeout_secs": 300 });
            long[0].push(web.source(&format!("silent{n}"), "api", config).await);
            long[1].push(web.aggregation(&format!("many{n}"), many).await);
        }
        Self { home, web, _beat: beat, acquisition, aggregation, quick, long }
    }

    fn workers(&mut self, queue: usize) -> &mut Vec<Member> {
        match queue {
            0 => &mut self.acquisition,
            _ => &mut self.aggregation,
        }
    }

    async fn waits(&self, queue: usize) -> Waits {
        self.web.waits(QUEUES[queue], &self.quick[queue], 30).await
    }

    /// Fills every slot of a queue; returns the tasks.
    async fn fill(&self, queue: usize) -> Vec<String> {
        let mut tasks = Vec::new();
        for object in &self.long[queue] {
            tasks.push(self.web.start(QUEUES[queue], *object).await);
        }
        for task in &tasks {
            until("it runs", async || self.web.get(task).await["status"] == "running").await;
        }
        tasks
    }

    async fn cancel(&self, tasks: &[String]) {
        for task in tasks {
            let (status, row) = self.web.send("POST", &format!("{task}cancel/"), Some(json!({}))).await;
            assert!(status == 200 || status == 409, "{row}");
        }
        for task in tasks {
            assert_eq!(self.web.ended(task).await["status"], "cancelled");
        }
    }
}

/// What is usual on this machine, with room for its other work; a queue that waited for the other's workers would wait
/// until they are taken for dead, or for ever.
fn assert_usual(what: &str, before: &Waits, after: &Waits) {
    println!(
        "{what:<46} p50 {:>8.1} ms  p99 {:>8.1} ms   usual p50 {:.1} p99 {:.1}",
        after.at(50).as_secs_f64() * 1e3,
        after.at(99).as_secs_f64() * 1e3,
        before.at(50).as_secs_f64() * 1e3,
        before.at(99).as_secs_f64() * 1e3
    );
    assert!(after.at(50) <= before.at(50) * 4 + Duration::from_millis(150), "{what}: {after:?} before: {before:?}");
    assert!(after.at(99) <= before.at(99) * 4 + Duration::from_millis(1000), "{what}: {after:?} before: {before:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_as_fast_as_ever_whatever_happens_to_all_workers_of_the_other() {
    let redis = RedisServer::start(&[]);
    let mut fleet = Fleet::start(&redis).await;
    for (own, other) in [(0, 1), (1, 0)] {
        let usual = fleet.waits(own).await;
        let tell = |what: &str| format!("{} while every {} worker {what}", QUEUES[own], QUEUES[other]);

        let tasks = fleet.fill(other).await;
        assert_usual(&tell("is full"), &usual, &fleet.waits(own).await);
        fleet.workers(other).iter().for_each(|worker| worker.signal("-STOP"));
        assert_usual(&tell("hangs"), &usual, &fleet.waits(own).await);
        fleet.workers(other).iter_mut().for_each(Member::kill);
        assert_usual(&tell("was killed"), &usual, &fleet.waits(own).await);

        let fresh = (0..2).map(|_| fleet.home.worker(QUEUES[other], SLOTS)).collect();
        *fleet.workers(other) = fresh;
        fleet.cancel(&tasks).await;
    }
    fleet.home.ok(&["db", "check", "--full"]);
}

/// Runs what no engine child has memory for, in every slot, until `over`; returns how often one was ended for it.
async fn exhaust(fleet: &Fleet, greedy: &[i64], over: &AtomicBool) -> usize {
    let mut ended = 0;
    while !over.load(Ordering::Relaxed) {
        let mut tasks = Vec::new();
        for aggregation in greedy {
            tasks.push(fleet.web.start("aggregation", *aggregation).await);
        }
        for task in &tasks {
            let row = fleet.web.ended(task).await;
            assert_eq!((&row["status"], &row["error"]["reason"]), (&json!("failed"), &json!("limit")), "{row}");
            ended += 1;
        }
    }
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn acquisition_is_as_fast_as_ever_while_aggregation_has_no_memory() {
    let redis = RedisServer::start(&[]);
    let mut fleet = Fleet::start(&redis).await;
    let usual = fleet.waits(0).await;

    // A child that takes more than its bound, in every slot, again and again.
    let greedy = "select sum(length(repeat('x', 100000000 + cast(value as int)))) as n from generate_series(1, 50)";
    let mut all = Vec::new();
    for n in 0..2 * SLOTS {
        all.push(fleet.web.aggregation(&format!("greedy{n}"), greedy).await);
    }
    let over = AtomicBool::new(false);
    let measured = async {
        let waits = fleet.waits(0).await;
        over.store(true, Ordering::Relaxed);
        waits
    };
    let (ended, waits) = tokio::join!(exhaust(&fleet, &all, &over), measured);
    assert!(ended >= 2 * SLOTS, "{ended}");
    assert_usual(&format!("{ended} engine children end for want of memory"), &usual, &waits);

    // Workers that get no memory any more: each allocation of more than they hold fails, those for children too.
    let tasks = fleet.fill(1).await;
    for worker in &fleet.aggregation {
        let pid = worker.child.id().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, "--as=1048576"]).status();
        assert!(limited.expect("prlimit is part of util-linux").success());
    }
    assert_usual("every aggregation worker is out of memory", &usual, &fleet.waits(0).await);

    fleet.aggregation.iter_mut().for_each(Member::kill);
    fleet.aggregation = (0..2).map(|_| fleet.home.worker("aggregation", SLOTS)).collect();
    fleet.cancel(&tasks).await;
    fleet.waits(1).await;
    fleet.home.ok(&["db", "check", "--full"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_killed_worker_run_elsewhere_within_ten_seconds() {
    // `scripts/fault/worker` kills more often.
    let rounds = std::env::var("MATOME_TEST_ROUNDS").map_or(1, |text| text.parse().unwrap());
    const ROWS: usize = 20_000;
    let redis = RedisServer::start(&[]);
    let address = upstream(ROWS).await;
    let mut home = postgres_home().await;
    home.redis_url = Some(redis.url());
    let _beat = home.beat();
    home.extra = vec!["--egress-allow".to_owned(), format!("127.0.0.1/32:{}", address.port())];
    let web = home.web().await;
    let config = json!({
        "url": format!("http://{address}/rows"), "records": "$.results", "dedupe": "none",
        "pagination": { "type": "next_link", "next": "$.next" }
    });
    let mut tally = Tally::new("worker_kill", "postgres");
    let mut workers = vec![home.worker("acquisition", 4)];
    let mut tasks = Vec::new();
    for n in 0..4 {
        let source = web.source(&format!("rows{n}"), "api", config.clone()).await;
        tasks.push((source, web.start("acquisition", source).await));
    }
    let stored = async |source: i64| -> u64 {
        web.get(&format!("/api/acquisition/data/?source={source}&page_size=1")).await["count"].as_u64().unwrap()
    };
    for round in 0..rounds {
        for (source, _) in &tasks {
            let before = stored(*source).await;
            until("each task reads", async || stored(*source).await > before).await;
        }
        workers.push(home.worker("acquisition", 4));
        workers.remove(0).kill();
        let killed = Instant::now();
        let mut at_kill = Vec::new();
        for (source, _) in &tasks {
            at_kill.push(stored(*source).await);
        }
        for ((source, _), count) in tasks.iter().zip(at_kill) {
            until("another worker goes on with it", async || stored(*source).await > count).await;
            tally.recovered(killed.elapsed());
        }
        println!("round {round}: all tasks run elsewhere {:.1} s after the kill", killed.elapsed().as_secs_f64());
        assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    }
    let values = |source: i64| -> Vec<u64> {
        let id = source.to_string();
        let export = ["data", "export", "--source", &id, "--server", &web.base, "--token", &web.token];
        let value = |line: &str| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
        home.ok(&export).lines().map(value).collect()
    };
    for (source, task) in &tasks {
        let (status, row) = web.send("POST", &format!("{task}cancel/"), Some(json!({}))).await;
        assert!(status == 200 || status == 409, "{row}");
        web.ended(task).await;
        let values = values(*source);
        tally.compare(0..values.len() as u64, values.into_iter(), "after the kills");
    }
    tally.tasks = tasks.len();
    home.ok(&["db", "check", "--full"]);
    tally.tell();
}

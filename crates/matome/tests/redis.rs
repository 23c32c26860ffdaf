//! Redis in every bad state under load: nothing is lost, nothing doubled, few lines are logged, and tasks start at once again
//! as soon as it is well.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::Query;
use axum::response::IntoResponse;
use axum::{Json, Router};
use serde_json::{Value, json};
use support::fleet::{Member, Waits};
use support::redis::RedisServer;
use support::{Home, Server, Tally, postgres_home, until, upstream, write};

/// Records of one read, twenty a page.
const ROWS: usize = 100;
/// A task that starts so soon was woken; one that is found by a look may wait for seconds.
const SOON: Duration = Duration::from_millis(200);

struct Load {
    home: Home,
    web: Server,
    members: Vec<Member>,
    /// Sources that read a list; every run stores all of it anew.
    lists: Vec<i64>,
    quick: i64,
    runs: u64,
}

impl Load {
    async fn start(redis: &RedisServer) -> Self {
        let address = upstream(ROWS).await;
        let mut home = postgres_home().await;
        home.redis_url = Some(redis.url());
        let beat = home.beat();
        let files = home.files();
        home.extra =
            ["--file-root", files.to_str().unwrap(), "--egress-allow", "127.0.0.1/32"].map(str::to_owned).into();
        let web = home.web().await;
        let members = vec![beat, home.worker("acquisition", 3), home.worker("acquisition", 3)];
        let config = json!({
            "url": format!("http://{address}/rows"), "records": "$.results", "dedupe": "none",
            "pagination": { "type": "next_link", "next": "$.next" }
        });
        let mut lists = Vec::new();
        for n in 0..4 {
            lists.push(web.source(&format!("list{n}"), "api", config.clone()).await);
        }
        write(&files.join("quick.ndjson"), "{\"n\":1}\n");
        let path = files.join("quick.ndjson");
        let quick = web.source("quick", "file", json!({ "path": path, "format": "ndjson" })).await;
        Self { home, web, members, lists, quick, runs: 0 }
    }

    /// Reads every list until `over`, and to the end.
    async fn read_while(&mut self, over: impl AsyncFn() -> bool) -> usize {
        let mut tasks = 0;
        loop {
            let mut running = Vec::new();
            for source in &self.lists {
                running.push(self.web.start("acquisition", *source).await);
            }
            for task in &running {
                let row = self.web.ended(task).await;
                assert_eq!(row["status"], "succeeded", "{row}");
                assert_eq!(row["result"]["stored"], json!(ROWS), "{row}");
            }
            self.runs += 1;
            tasks += running.len();
            if over().await {
                return tasks;
            }
        }
    }

    /// How long one task waits for a worker.
    async fn wait(&self) -> Duration {
        let row = self.web.run("acquisition", self.quick).await;
        Waits::of(&[row]).at(99)
    }

    /// How long it takes until tasks start at once.
    async fn until_soon(&self) -> Duration {
        let begun = Instant::now();
        until("tasks start at once", async || {
            self.wait().await < SOON && self.wait().await < SOON && self.wait().await < SOON
        })
        .await;
        begun.elapsed()
    }

    fn stored(&self, source: i64) -> Vec<u64> {
        let id = source.to_string();
        let export = ["data", "export", "--source", &id, "--server", &self.web.base, "--token", &self.web.token];
        let value = |line: &str| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
        self.home.ok(&export).lines().map(value).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_in_any_state_loses_and_doubles_nothing_and_tasks_start_at_once_when_it_is_well() {
    // `scripts/fault/redis` takes longer.
    let lasts = std::env::var("MATOME_TEST_SECONDS").map_or(2, |text| text.parse().unwrap());
    let lasts = Duration::from_secs(lasts);
    let mut redis = RedisServer::start(&["--maxmemory-policy", "noeviction"]);
    let mut load = Load::start(&redis).await;
    let ready = load.web.get("/readyz").await;
    assert_eq!(ready["checks"]["redis"], "ok", "{ready}");
    println!("usual: tasks start at once {:?} after the first", load.until_soon().await);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    for fault in ["flush", "stop", "hang", "slow", "full", "readonly", "foreign"] {
        let mut tally = Tally::new(name(fault), "postgres");
        match fault {
            "stop" => redis.stop(),
            "hang" => redis.signal("-STOP"),
            "full" => assert_eq!(redis.cli(&["config", "set", "maxmemory", "1"]), "OK"),
            "readonly" => assert_eq!(redis.cli(&["replicaof", "127.0.0.1", &nobody]), "OK"),
            _ => {}
        }
        let begun = Instant::now();
        let bother = async || {
            match fault {
                "flush" => drop(redis.cli(&["flushall"])),
                "slow" => drop(redis.cli(&["debug", "sleep", "0.4"])),
                "foreign" => {
                    for key in redis.cli(&["-n", "1", "keys", "*"]).lines() {
                        redis.cli(&["-n", "1", "del", key]);
                        redis.cli(&["-n", "1", "set", key, "theirs"]);
                    }
                }
                _ => {}
            }
            begun.elapsed() >= lasts
        };
        tally.tasks = load.read_while(bother).await;
        let ready = load.web.get("/readyz").await;
        assert_eq!(ready["status"], "ok", "without Redis it works too: {ready}");
        match fault {
            "stop" => redis.again(),
            "hang" => redis.signal("-CONT"),
            "full" => assert_eq!(redis.cli(&["config", "set", "maxmemory", "0"]), "OK"),
            "readonly" => assert_eq!(redis.cli(&["replicaof", "no", "one"]), "OK"),
            _ => {}
        }
        let took = load.until_soon().await;
        tally.recovered(took);
        assert!(took < Duration::from_secs(10), "{fault}: {took:?}");
        for source in &load.lists {
            let expected = (0..load.runs).flat_map(|_| 0..ROWS as u64);
            tally.compare(expected, load.stored(*source).into_iter(), fault);
        }
        tally.tell();
    }
    let ready = load.web.get("/readyz").await;
    assert_eq!(ready["checks"]["redis"], "ok", "{ready}");
    for member in &load.members {
        let lines = member.says("Redis");
        assert!(lines <= 30, "{lines} lines about Redis: {:#?}", member.log.lock().unwrap());
    }
    load.home.ok(&["db", "check", "--full"]);
}

fn name(fault: &str) -> &'static str {
    match fault {
        "flush" => "redis_flush",
        "stop" => "redis_stop",
        "hang" => "redis_hang",
        "slow" => "redis_slow",
        "full" => "redis_full",
        "readonly" => "redis_readonly",
        _ => "redis_foreign",
    }
}

/// A host whose answers at `/rows` are what it is given, and which notes when it is asked.
struct Host {
    url: String,
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Host {
    async fn start<A: IntoResponse>(answer: impl Fn(usize) -> A + Clone + Send + Sync + 'static) -> Self {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            page: usize,
        }
        let asked = Arc::<Mutex<Vec<Instant>>>::default();
        let noted = asked.clone();
        let rows = async move |Query(Page { page }): Query<Page>| {
            noted.lock().unwrap().push(Instant::now());
            answer(page)
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/rows", listener.local_addr().unwrap());
        let router = Router::new().route("/rows", axum::routing::get(rows));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, asked }
    }

    /// From the first time it was asked to the last, of so many.
    fn took(&self, times: usize) -> Duration {
        let asked = self.asked.lock().unwrap();
        assert_eq!(asked.len(), times);
        asked[times - 1] - asked[0]
    }
}

/// A home with Redis whose workers may read from this machine.
async fn home(redis: &RedisServer) -> Home {
    let mut home = postgres_home().await;
    home.redis_url = Some(redis.url());
    home.extra = vec!["--egress-allow".to_owned(), "127.0.0.1/32".to_owned()];
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_which_redis_cannot_be_used_and_what_to_do() {
    let redis = RedisServer::start(&[]);
    assert_eq!(redis.cli(&["config", "set", "requirepass", "another"]), "OK");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let asks = format!("127.0.0.1:{}", redis.port);
    for (url, place, help) in [
        (format!("redis://:hush@{nobody}"), nobody.to_string(), "check that the server runs there"),
        (format!("redis://{asks}"), asks.clone(), "write user and password into the address"),
        (format!("redis://:hush@{asks}"), asks.clone(), "write user and password into the address"),
        (format!("rediss://:hush@{asks}"), asks.clone(), "rediss:// is with TLS"),
    ] {
        let mut home = postgres_home().await;
        home.redis_url = Some(url);
        let worker = home.worker("aggregation", 1);
        worker.until_says(&format!("Redis at `{place}/0` cannot be used"));
        let log = worker.log.lock().unwrap();
        assert!(log.iter().any(|line| line.contains("cannot be used") && line.contains(help)), "{help}: {log:#?}");
        assert!(log.iter().all(|line| !line.contains("hush")), "{log:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_keep_the_budget_of_a_host_together() {
    let redis = RedisServer::start(&[]);
    let host = Host::start(|page| {
        let next = (page < 9).then(|| format!("/rows?page={}", page + 1));
        Json(json!({ "results": [{ "n": page }], "next": next }))
    })
    .await;
    let home = home(&redis).await;
    let web = home.web().await;
    // Each has one slot, so that the two sources are read by two processes.
    let _workers = [home.worker("acquisition", 1), home.worker("acquisition", 1)];
    let config = json!({
        "url": host.url, "records": "$.results", "pagination": { "type": "next_link", "next": "$.next" },
        "rate": { "requests": 5, "per_secs": 1 }
    });
    let mut tasks = Vec::new();
    for name in ["a", "b"] {
        let source = web.source(name, "api", config.clone()).await;
        tasks.push(web.start("acquisition", source).await);
    }
    for task in &tasks {
        let row = web.ended(task).await;
        assert_eq!(row["status"], "succeeded", "{row}");
    }
    // Twenty requests at five a second; each process alone would have been done in half the time.
    let took = host.took(20);
    assert!(took >= Duration::from_millis(2_800), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_is_told_is_left_holds_for_the_others() {
    let redis = RedisServer::start(&[]);
    let host = Host::start(|_| ([("x-left", "0"), ("x-reset", "8")], Json(json!([{ "n": 1 }])))).await;
    let home = home(&redis).await;
    let web = home.web().await;
    let config = |rate: Value| json!({ "url": host.url, "rate": rate });
    let told = web.source("told", "api", config(json!({ "remaining": "X-Left", "reset": "X-Reset" }))).await;
    let other = web.source("other", "api", config(json!({ "concurrent": 5 }))).await;
    let mut first = home.worker("acquisition", 1);
    assert_eq!(web.run("acquisition", told).await["status"], "succeeded");
    // The worker that was told is gone; the one that comes was told nothing.
    first.terminate();
    let _second = home.worker("acquisition", 1);
    assert_eq!(web.run("acquisition", other).await["status"], "succeeded");
    let apart = host.took(2);
    assert!(apart >= Duration::from_millis(7_900), "{apart:?}");
}

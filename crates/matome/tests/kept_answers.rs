//! Answers that are kept in Redis: used by every process, never once they are old, whatever stands under their names.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::redis::RedisServer;
use support::{Home, Server, postgres_home, until, write};

/// Both processes are behind one name, as behind a proxy: links in answers begin with it.
const HOST: &str = "matome.localhost";

async fn ask(server: &Server, path: &str) -> Value {
    let request = server.client.get(format!("{}{path}", server.base)).header("host", HOST);
    let reply = request.bearer_auth(&server.token).send().await.unwrap();
    assert_eq!(reply.status(), 200, "{path}");
    assert_eq!(reply.headers()["content-type"], "application/json", "{path}");
    serde_json::from_str(&reply.text().await.unwrap()).unwrap()
}

/// Answers that a process took from there, and those that it had to make.
async fn counted(server: &Server) -> [u64; 2] {
    let text = server.client.get(format!("{}/metrics", server.base)).bearer_auth(&server.token).send();
    let text = text.await.unwrap().text().await.unwrap();
    ["hit", "miss"].map(|outcome| {
        let name = format!("matome_response_cache_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or_default()
    })
}

struct Fleet {
    home: Home,
    redis: RedisServer,
    webs: [Server; 2],
    _workers: [support::fleet::Member; 2],
    orders: i64,
    counts: i64,
}

impl Fleet {
    async fn start() -> Self {
        let redis = RedisServer::start(&[]);
        let mut home = postgres_home().await;
        home.redis_url = Some(redis.url());
        let files = home.files();
        write(&files.join("orders.ndjson"), "{\"n\":1}\n{\"n\":2}\n");
        home.extra = ["--file-root", files.to_str().unwrap()].map(str::to_owned).into();
        let webs = [home.web().await, home.web().await];
        let workers = [home.worker("acquisition", 2), home.worker("aggregation", 2)];
        let config = json!({ "path": files.join("orders.ndjson"), "format": "ndjson" });
        let orders = webs[0].source("orders", "file", config).await;
        let counts = webs[0].aggregation("counts", "select n, count(*) as c from orders group by n order by n").await;
        let fleet = Self { home, redis, webs, _workers: workers, orders, counts };
        fleet.publish().await;
        fleet
    }

    async fn publish(&self) {
        self.webs[0].run("acquisition", self.orders).await;
        self.webs[0].run("aggregation", self.counts).await;
    }

    fn path(&self) -> String {
        format!("/api/aggregation/data/?source={}&page_size=1", self.counts)
    }

    fn keys(&self) -> Vec<String> {
        let found = self.redis.cli(&["-n", "0", "keys", "*:answer:*"]);
        found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_for_all_processes_until_the_next_version_is_published() {
    let fleet = Fleet::start().await;
    let [one, other] = &fleet.webs;
    let path = fleet.path();
    let first = ask(one, &path).await;
    assert_eq!((first["count"].as_u64(), first["results"][0]["data"]["n"].as_u64()), (Some(2), Some(1)), "{first}");
    assert_eq!(counted(one).await, [0, 1]);
    until("it is kept", async || fleet.keys().len() == 1).await;
    // Its first request finds no connection yet.
    until("another process finds it", async || {
        assert_eq!(ask(other, &path).await, first);
        counted(other).await[0] > 0
    })
    .await;
    let ttl: i64 = fleet.redis.cli(&["-n", "0", "ttl", &fleet.keys()[0]]).parse().unwrap();
    assert!((1..=300).contains(&ttl), "{ttl}");
    let kept = fleet.redis.cli(&["-n", "0", "get", &fleet.keys()[0]]);
    assert!(!kept.contains("results"), "it is sealed");

    // Who has no token gets nothing, whatever is kept.
    let stranger = one.client.get(format!("{}{path}", one.base)).header("host", HOST).send().await.unwrap();
    assert_eq!(stranger.status(), 401);

    write(&fleet.home.files().join("orders.ndjson"), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    fleet.publish().await;
    for web in &fleet.webs {
        assert_eq!(ask(web, &path).await["count"], 3, "nobody asks for the old one any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_stands_under_the_name_of_an_answer_the_answer_is_right() {
    let mut fleet = Fleet::start().await;
    let (path, second) = (fleet.path(), format!("{}&page=2", fleet.path()));
    let right = [ask(&fleet.webs[0], &path).await, ask(&fleet.webs[0], &second).await];
    assert_ne!(right[0], right[1]);
    until("both are kept", async || fleet.keys().len() == 2).await;
    let keys = fleet.keys();
    let redis = &fleet.redis;
    let put = |script: &str| redis.cli(&["-n", "0", "eval", script, "2", &keys[0], &keys[1]]);
    until("the other process is connected", async || {
        assert_eq!(ask(&fleet.webs[1], &path).await, right[0]);
        counted(&fleet.webs[1]).await[0] > 0
    })
    .await;
    for foreign in [
        // Each under the name of the other.
        "local a=redis.call('get',KEYS[1]); redis.call('set',KEYS[1],redis.call('get',KEYS[2])); redis.call('set',KEYS[2],a)",
        "for _,k in ipairs(KEYS) do redis.call('set',k,'{\"count\":7,\"results\":[]}') end",
        "for _,k in ipairs(KEYS) do redis.call('set',k,'') end",
        "for _,k in ipairs(KEYS) do redis.call('del',k); redis.call('rpush',k,'x') end",
    ] {
        put(foreign);
        assert_eq!([ask(&fleet.webs[1], &path).await, ask(&fleet.webs[1], &second).await], right, "{foreign}");
    }
    fleet.redis.signal("-STOP");
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(ask(&fleet.webs[0], &path).await, right[0]);
    }
    let took = begun.elapsed();
    fleet.redis.signal("-CONT");
    assert!(took < Duration::from_secs(5), "a Redis that hangs is asked about once a second: {took:?}");
    fleet.redis.stop();
    assert_eq!(ask(&fleet.webs[0], &second).await, right[1]);
    fleet.redis.again();
    until("answers are kept again", async || {
        ask(&fleet.webs[0], &path).await;
        !fleet.keys().is_empty()
    })
    .await;
}

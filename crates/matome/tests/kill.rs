//! `kill -9` at random moments and a restart: nothing lost, nothing doubled, no manual step.
//!
//! The seed is printed; `MATOME_SEED=n` repeats a run. The moments are random, the outcome must not be.
//! `MATOME_TEST_KILLS=n` kills so often on each database instead (`scripts/faults kill`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use support::{Home, Server, Tally, homes, upstream, write};

const FILE_ROWS: usize = 6_000;
const API_ROWS: usize = 200;
/// Distinct values of `n` in the file, and rows of an aggregation over it.
const GROUPS: usize = FILE_ROWS - FILE_ROWS / 10;
/// On each of the two databases.
const KILLS: usize = 100;
/// Kills of a process that works, between kills of one that only starts.
const STARTS: usize = 3;
/// Every so many working processes one may end its tasks: ten deaths without a page are poison, on SQLite each process
/// takes up at once what the last one left, and there are `STARTS + 1` deaths to each that works.
const QUIET: usize = 2;
/// Every so many working processes all is ended, compared and deleted: however long the storm, no check reads more.
const ERA: usize = 40;
/// Lines of progress that a storm prints.
const PROGRESS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn after_random_kills_the_records_are_those_of_a_run_without() {
    let seed: u64 = std::env::var("MATOME_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    let kills: usize = std::env::var("MATOME_TEST_KILLS").ok().and_then(|s| s.parse().ok()).unwrap_or(KILLS);
    println!("seed {seed}: repeat with MATOME_SEED={seed}");
    let address = upstream(API_ROWS).await;
    let storms = homes().await.into_iter().map(|mut home| async move {
        home.extra = vec!["--egress-allow".to_owned(), format!("127.0.0.1/32:{}", address.port())];
        // Every tenth row is equal to its neighbour: equal rows of one read are all kept.
        let row = |n: usize| format!("{{\"n\":{},\"名前\":\"行{}\"}}\n", n - usize::from(n % 10 == 1), n / 100);
        write(&home.files().join("rows.ndjson"), (0..FILE_ROWS).map(row).collect::<String>());
        let (rng, tally) = (rand::rngs::SmallRng::seed_from_u64(seed), Tally::new("kill", home.name));
        let storm =
            Storm { home, address, rng, seed, kills, left: kills, begun: Instant::now(), tally, era: Era::default() };
        storm.rage().await;
    });
    futures::future::join_all(storms).await;
}

struct Storm {
    home: Home,
    address: std::net::SocketAddr,
    rng: rand::rngs::SmallRng,
    seed: u64,
    kills: usize,
    /// Kills that are still to come.
    left: usize,
    begun: Instant,
    tally: Tally,
    era: Era,
}

/// What was made since all was last compared and deleted.
#[derive(Default)]
struct Era {
    /// Sources with the round they are of.
    sources: Vec<(usize, i64)>,
    aggregations: Vec<i64>,
    /// Tasks whose end was not seen yet.
    open: Vec<String>,
}

impl Storm {
    async fn rage(mut self) {
        // While the process makes its directory, its database and its key.
        self.kill_starts(6).await;
        let mut server = self.home.serve().await;
        let token = server.token.clone();
        let base = self.source(&server, "base", 0).await;
        server.run("acquisition", base).await;

        // A lane whose worker is dead waits a few seconds for its next one on PostgreSQL, so each life has new ones,
        // for a kill that falls into their work.
        for life in 0.. {
            if life % 8 == 0 {
                let wide = format!("select n, count(*) as copies, {life} as round from base group by n");
                let wide = server.aggregation(&format!("wide{life}"), &wide).await;
                self.era.open.push(server.start("aggregation", wide).await);
                self.era.aggregations.push(wide);
            }
            let source = self.source(&server, &format!("rows{life}"), life).await;
            self.era.open.push(server.start("acquisition", source).await);
            self.era.sources.push((life, source));
            if life % ERA == ERA - 1 {
                self.end_era(&server).await;
            } else if life % QUIET == QUIET - 1 && self.home.database_url.is_none() {
                self.end_all(&server).await;
            }
            self.pause(5..600).await;
            server.kill();
            let killed = Instant::now();
            self.has_killed();
            if life % 6 == 0 {
                self.check("after a kill", &[]);
            }
            if self.left == 0 {
                break;
            }
            // While it takes up what the process before left.
            self.kill_starts(STARTS).await;
            server = self.home.serve_again(token.clone()).await;
            self.tally.recovered(killed.elapsed());
            let shown = server.get("/api/aggregation/data/?page_size=1").await["count"].as_u64().unwrap();
            assert!(shown.is_multiple_of(GROUPS as u64), "{self}: {shown} rows are visible");
        }
        server = self.home.serve_again(token).await;
        self.compare_era(&server).await;
        let running = server.get("/api/acquisition/tasks/?status=running").await["count"].clone();
        assert_eq!(running, json!(0), "{self}");
        self.check("beside the server", &["--full"]);
        assert_eq!(server.terminate(), Some(0), "{self}");
        self.check("at rest", &["--full"]);
        self.tally.tell();
    }

    /// Waits for the end of all tasks, each of which must be a good one.
    async fn end_all(&mut self, server: &Server) {
        for task in std::mem::take(&mut self.era.open) {
            let row = server.ended(&task).await;
            assert_eq!(row["status"], "succeeded", "{self}: {row}");
            self.tally.tasks += 1;
        }
    }

    /// Waits for the end of all tasks and compares all that this era made.
    async fn compare_era(&mut self, server: &Server) {
        self.end_all(server).await;
        let sources = std::mem::take(&mut self.era.sources);
        for (round, source) in &sources {
            self.compare(server, *source, *round).await;
        }
        self.era.sources = sources;
        let shown = server.get("/api/aggregation/data/?page_size=1").await["count"].clone();
        assert_eq!(shown, json!(self.era.aggregations.len() * GROUPS), "{self}: rows of all aggregations");
    }

    /// Compares all that this era made, then deletes it: what is left of it is removed while kills go on.
    async fn end_era(&mut self, server: &Server) {
        self.compare_era(server).await;
        let Era { sources, aggregations, .. } = std::mem::take(&mut self.era);
        let sources = sources.into_iter().map(|(_, id)| format!("/api/acquisition/sources/{id}/"));
        let aggregations = aggregations.into_iter().map(|id| format!("/api/aggregation/sources/{id}/"));
        for path in sources.chain(aggregations) {
            let (status, reply) = server.send("DELETE", &path, None).await;
            assert_eq!(status, 204, "{self}: {path}: {reply}");
        }
        self.check("after an era", &["--full"]);
    }

    /// Counts a kill, and says now and then how far the storm is.
    fn has_killed(&mut self) {
        self.left -= 1;
        let (done, step) = (self.kills - self.left, self.kills.div_ceil(PROGRESS));
        if done.is_multiple_of(step) || self.left == 0 {
            let (kills, tasks) = (self.kills, self.tally.tasks);
            println!("{self}: {done} of {kills} kills, {tasks} tasks ended, {} s", self.begun.elapsed().as_secs());
        }
    }

    async fn pause(&mut self, millis: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(millis))).await;
    }

    async fn kill_starts(&mut self, times: usize) {
        for _ in 0..times.min(self.left.saturating_sub(1)) {
            let mut child = self.home.spawn();
            self.pause(0..120).await;
            child.kill().unwrap();
            child.wait().unwrap();
            self.has_killed();
        }
    }

    /// Everything that must always hold does, whatever a kill left.
    fn check(&self, when: &str, args: &[&str]) {
        let output = self.home.run(&[&["db", "check", "-o", "ndjson"], args].concat());
        let report = String::from_utf8_lossy(&output.stdout);
        let broken: Vec<&str> = report.lines().filter(|line| !line.contains(r#""status":"ok""#)).collect();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self} {when}: {broken:#?} {error}");
    }

    /// A file with and without deduplication, and a list over HTTP, in turn.
    async fn source(&self, server: &Server, name: &str, round: usize) -> i64 {
        match round % 4 {
            0 => server.source(name, "file", json!({ "path": "rows.ndjson" })).await,
            2 => server.source(name, "file", json!({ "path": "rows.ndjson", "dedupe": "none" })).await,
            _ => {
                let url = format!("http://{}/rows", self.address);
                let pagination = json!({ "type": "next_link", "next": "$.next" });
                server
                    .source(name, "api", json!({ "url": url, "records": "$.results", "pagination": pagination }))
                    .await
            }
        }
    }

    /// A source has exactly the records of a run without a kill, and its counter says so.
    async fn compare(&mut self, server: &Server, source: i64, round: usize) {
        let (rows, equal) = if round % 2 == 1 { (API_ROWS, false) } else { (FILE_ROWS, true) };
        let expected = (0..rows).map(|n| (n - usize::from(equal && n % 10 == 1)) as u64);
        let (id, token) = (source.to_string(), &server.token);
        let export = ["data", "export", "--source", &id, "--server", &server.base, "--token", token];
        let stored = self.home.ok(&export);
        let stored = stored.lines().map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            record["n"].as_u64().unwrap()
        });
        self.tally.compare(expected, stored, &format!("seed {}: source {round}", self.seed));
        let count = server.get(&format!("/api/acquisition/data/?source={source}")).await["count"].clone();
        assert_eq!(count, json!(rows), "{self}: the counter of source {round}");
    }
}

impl std::fmt::Display for Storm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} seed {}", self.home.name, self.seed)
    }
}

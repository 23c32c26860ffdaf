//! A rolling upgrade: two builds with different schemas on one PostgreSQL, under load, through an expanding and a contracting
//! migration.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use matome_store::migrate::SCHEMA_VERSION;
use serde_json::{Value, json};
use support::fleet::Member;
use support::{Home, Server, Tally, postgres_home, sqlite_home, until, upstream};

/// Versions of the migrations that the next build has besides (crates/store/migrations/next).
const EXPANDED: i64 = 9001;
const CONTRACTED: i64 = 9002;
/// Records of one read.
const ROWS: usize = 60;

/// The next build: the same sources, two migrations more. Built by the first who asks; then there is nothing to do.
fn next_build() -> PathBuf {
    let old = Path::new(env!("CARGO_BIN_EXE_matome"));
    let dir = old.parent().unwrap();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--locked", "--offline", "--package", "matome", "--bin", "matome-next"]);
    build.args(["--features", "next", "--target-dir"]).arg(dir.parent().unwrap());
    if dir.ends_with("release") {
        build.arg("--release");
    }
    // What cargo says to a test about itself would tell build scripts that something has changed, and ring be built again.
    for (name, _) in std::env::vars_os() {
        let is_of_test = |prefix| name.to_str().is_some_and(|name| name.starts_with(prefix));
        if ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_", "LD_LIBRARY_PATH"]
            .into_iter()
            .any(is_of_test)
        {
            build.env_remove(name);
        }
    }
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    dir.join("matome-next")
}

/// Sources that are read again and again, each read as soon as the last has ended, by whatever server is asked now.
struct Load {
    server: Mutex<Arc<Server>>,
    sources: Vec<i64>,
    runs: Vec<AtomicUsize>,
    enough: AtomicBool,
}

impl Load {
    async fn run_until_enough(self: Arc<Self>, n: usize) {
        while !self.enough.load(Ordering::SeqCst) {
            let server = self.server.lock().unwrap().clone();
            let row = server.run("acquisition", self.sources[n]).await;
            assert_eq!(row["result"]["stored"], json!(ROWS), "{row}");
            self.runs[n].fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Waits until each source has been read twice more: once from beginning to end with what is there now.
    async fn goes_on(&self, during: &str) {
        let runs = || self.runs.iter().map(|runs| runs.load(Ordering::SeqCst)).collect::<Vec<_>>();
        let before = runs();
        until(during, async || runs().iter().zip(&before).all(|(now, before)| *now >= before + 2)).await;
    }
}

async fn number(url: &str, sql: &str) -> i64 {
    matome_testbed::texts(url, sql).await[0].parse().unwrap()
}

/// How many tasks that ended were run by processes of each build: (old, next).
async fn run_by(url: &str) -> (i64, i64) {
    let by = |versions: &str| {
        format!(
            "select count(*)::text from tasks t join workers w on w.boot = t.worker
            where t.status = 'succeeded' and w.schema_version {versions}"
        )
    };
    (number(url, &by(&format!("= {SCHEMA_VERSION}"))).await, number(url, &by("> 9000")).await)
}

/// A beat reads from nowhere, so it takes none of the arguments that the others have.
fn beat_of(home: &Home) -> Member {
    let mut command = home.command(&["beat"]);
    let beat = Member::of(command.stderr(Stdio::piped()).stdout(Stdio::null()));
    beat.until_says("beat runs");
    beat
}

fn migrate(next: &Home) -> String {
    let output = next.run(&["migrate"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

async fn version(url: &str) -> i64 {
    number(url, "select max(version)::text from schema_history").await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_builds_work_side_by_side_and_the_old_one_is_not_broken_before_it_has_ended() {
    let binary = tokio::task::spawn_blocking(next_build).await.unwrap();
    let address = upstream(ROWS).await;
    let old = postgres_home().await.reaching(address);
    let url = old.database_url.clone().unwrap();
    let next = Home { database_url: Some(url.clone()), binary, ..sqlite_home() }.reaching(address);
    let mut tally = Tally::new("upgrade", "postgres");

    let mut web = Arc::new(old.web().await);
    std::fs::create_dir_all(next.data_dir()).unwrap();
    std::fs::copy(old.data_dir().join("master.key"), next.data_dir().join("master.key")).unwrap();
    let (mut worker, frozen) = (old.worker("acquisition", 2), old.worker("acquisition", 2));
    let mut beat = beat_of(&old);
    let config = json!({
        "url": format!("http://{address}/rows"), "records": "$.results", "dedupe": "none",
        "pagination": { "type": "next_link", "next": "$.next" }
    });
    let mut sources = Vec::new();
    for n in 0..4 {
        sources.push(web.source(&format!("rows{n}"), "api", config.clone()).await);
    }
    let body = json!({ "name": "scheduled", "source_type": "api", "config": config, "fetch_interval": 1 });
    assert_eq!(web.send("POST", "/api/acquisition/sources/", Some(body)).await.0, 201);
    let runs = sources.iter().map(|_| AtomicUsize::new(0)).collect();
    let load = Arc::new(Load { server: Mutex::new(web.clone()), sources, runs, enough: AtomicBool::new(false) });
    let readers: Vec<_> = (0..4).map(|n| tokio::spawn(load.clone().run_until_enough(n))).collect();
    load.goes_on("the old build works").await;

    // Expanding: at once. Contracting: not while the old ones live, and each is named.
    let said = migrate(&next);
    let expanded = format!("from version {SCHEMA_VERSION} to {EXPANDED}");
    assert!(said.contains(&expanded) && said.contains(&format!("version {CONTRACTED} waits")), "{said}");
    let pids = [web.child.id(), worker.child.id(), frozen.child.id(), beat.child.id()];
    assert!(pids.iter().all(|pid| said.contains(&format!("pid {pid},"))), "{pids:?}: {said}");
    load.goes_on("the old build works on the expanded schema").await;
    old.ok(&["healthcheck"]);

    // Side by side.
    let successor = Arc::new(next.web().await);
    let (_new_worker, _new_beat) = (next.worker("acquisition", 2), beat_of(&next));
    let before = run_by(&url).await;
    *load.server.lock().unwrap() = successor.clone();
    until("tasks run in both builds", async || {
        let now = run_by(&url).await;
        now.0 > before.0 && now.1 > before.1
    })
    .await;
    load.goes_on("both builds work").await;
    let said = migrate(&next);
    assert!(
        said.contains(&format!("version {CONTRACTED} waits"))
            && !said.contains(&format!("pid {},", successor.child.id()))
    );
    assert_eq!(version(&url).await, EXPANDED);

    // One by one the old ones end; one is only stopped, so that nobody can tell it from the dead; one dies.
    assert_eq!(Arc::get_mut(&mut web).expect("nobody asks it any more").terminate(), Some(0));
    assert_eq!(worker.terminate(), Some(0));
    let said = migrate(&next);
    assert!(
        said.contains(&format!("pid {},", frozen.child.id())) && !said.contains(&format!("pid {},", worker.child.id()))
    );
    let lost = Instant::now();
    frozen.signal("-STOP");
    beat.kill();
    let said = migrate(&next);
    assert!(said.contains(&format!("from version {EXPANDED} to {CONTRACTED}")), "{said}");
    load.goes_on("what the stopped one held goes on").await;
    tally.recovered(lost.elapsed());

    // It wakes, believes in nothing any more, and is not let in again. A new one does not even start.
    let before = run_by(&url).await.0;
    frozen.signal("-CONT");
    frozen.until_says("was taken for dead");
    until("it says what is wrong", async || {
        let asked = old.run(&["healthcheck"]);
        asked.status.code() == Some(1)
            && String::from_utf8_lossy(&asked.stderr).contains(&format!("version {CONTRACTED}"))
    })
    .await;
    load.goes_on("the next build alone").await;
    assert_eq!(run_by(&url).await.0, before, "it has done nothing more");
    for role in [&["beat"][..], &["worker", "acquisition"], &["web", "--bind", "127.0.0.1:0"], &["migrate"]] {
        let refused = old.run(role);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(3), "{role:?}: {said}");
        assert!(said.contains(&format!("schema version {CONTRACTED}")) && said.contains("newer matome"), "{said}");
    }

    load.enough.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
    for (source, runs) in load.sources.iter().zip(&load.runs) {
        let runs = runs.load(Ordering::SeqCst);
        let id = source.to_string();
        let exported =
            next.ok(&["data", "export", "--source", &id, "--server", &successor.base, "--token", &successor.token]);
        let value = |line: &str| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
        let expected = (0..runs).flat_map(|_| 0..ROWS as u64);
        tally.compare(expected, exported.lines().map(value), &format!("source {source}"));
        tally.tasks += runs;
    }
    let (fires, doubled) = matome_testbed::fires(&url).await;
    assert!(fires > 0 && doubled == 0, "{fires} fires, {doubled} doubled");
    assert_eq!(number(&url, "select count(*)::text from tasks where status = 'failed'").await, 0);
    next.ok(&["db", "check", "--full"]);
    tally.tell();
}

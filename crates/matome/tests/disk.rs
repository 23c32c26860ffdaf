//! A disk that is full to its last byte under a server that works, and is free again a little later.
//!
//! `scripts/fault/disk` makes that disk and runs this; it needs root, so the suite has `disk_full` instead, whose disk is a
//! quota.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::load::{Load, ROWS};
use support::{Home, Server, Tally, postgres_home, sqlite_home, until, upstream};
use tempfile::TempDir;

/// How long it stays full once that is known.
const FULL: Duration = Duration::from_secs(5);

/// The small disk. `MATOME_TEST_TABLESPACE` is a folder on it, too.
fn disk() -> PathBuf {
    std::env::var_os("MATOME_TEST_DISK").expect("run scripts/fault/disk: it makes a small disk").into()
}

/// Fills a disk to its last byte, and empties it when dropped.
struct Filling(PathBuf);

impl Filling {
    fn of(disk: &Path) -> Self {
        let path = disk.join("filling");
        let mut file = File::create(&path).unwrap();
        for bytes in [1 << 20, 1 << 12, 1] {
            let piece = vec![0_u8; bytes];
            while file.write_all(&piece).is_ok() {}
        }
        Self(path)
    }

    /// Takes what was freed since.
    fn again(&self) {
        let mut file = OpenOptions::new().append(true).open(&self.0).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn storage(server: &Server) -> String {
    let reply = server.client.get(format!("{}/readyz", server.base)).send().await.unwrap();
    let body: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
    body["checks"]["storage"].as_str().unwrap_or_default().to_owned()
}

async fn suffer(home: Home) {
    let upstream = upstream(ROWS).await;
    let home = home.reaching(upstream);
    let mut server = home.serve().await;
    let mut tally = Tally::new("disk", home.name);
    let load = Load::start(&server, upstream).await;
    let filling = Filling::of(&disk());
    until("the server knows", async || {
        filling.again();
        storage(&server).await == "disk_full"
    })
    .await;
    let known = Instant::now();
    until("it stays that way", async || {
        filling.again();
        known.elapsed() > FULL
    })
    .await;
    let body = json!({ "name": "more", "source_type": "file", "config": { "path": "x.ndjson" } });
    let (status, refused) = server.send("POST", "/api/acquisition/sources/", Some(body)).await;
    assert_eq!(status, 507, "{}: {refused}", home.name);
    assert!(server.try_get("/api/acquisition/data/?page_size=1").await.is_some(), "{}: reading goes on", home.name);
    drop(filling);
    let calm = Instant::now();
    until("there is room", async || storage(&server).await == "ok").await;
    tally.recovered(calm.elapsed());
    load.settle(&home, &server, &mut tally).await;
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_database_waits_for_room_and_goes_on() {
    let home = sqlite_home();
    let dir = TempDir::new_in(disk()).unwrap();
    std::fs::create_dir(dir.path().join("files")).unwrap();
    suffer(Home { dir, ..home }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_tablespace_is_full_is_waited_for() {
    assert!(std::env::var_os("MATOME_TEST_TABLESPACE").is_some(), "run scripts/fault/disk");
    suffer(postgres_home().await).await;
}

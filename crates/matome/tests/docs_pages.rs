//! The documentation pages in a real browser: they show the operations and ask no other host for anything.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::sqlite_home;
use tempfile::TempDir;

/// The page after its scripts ran, and every address that it asked for.
fn visit(url: &str) -> (String, Vec<String>) {
    let profile = TempDir::new().unwrap();
    let netlog = profile.path().join("net.json");
    let output = Command::new(browser())
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--virtual-time-budget=15000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
        .arg(format!("--log-net-log={}", netlog.display()))
        .arg(url)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), addresses(&netlog))
}

fn browser() -> &'static str {
    let found = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    found
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("Chromium is there: scripts/install-missing installs it")
}

/// The addresses that pages asked for; what the browser itself looks up (its updates, its time) has no page as its origin.
fn addresses(netlog: &Path) -> Vec<String> {
    let log: serde_json::Value = serde_json::from_slice(&std::fs::read(netlog).unwrap()).unwrap();
    let requests = log["events"].as_array().unwrap().iter().map(|event| &event["params"]);
    let by_pages = requests.filter(|params| params["initiator"].as_str().is_some_and(|by| by.starts_with("http")));
    let mut found: Vec<String> = by_pages.filter_map(|params| params["url"].as_str()).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn documentation_pages_show_the_operations_without_a_foreign_request() {
    let home = sqlite_home();
    let server = home.serve().await;
    for (path, shows) in [("/api/docs/", "acquisition_sources_list"), ("/api/redoc/", "/api/acquisition/sources/")] {
        let url = format!("{}{path}", server.base);
        let (dom, asked) = tokio::task::spawn_blocking(move || visit(&url)).await.unwrap();
        assert!(dom.contains(shows), "{path} does not show `{shows}`:\n{:.3000}", dom);
        assert!(asked.iter().any(|url| url.ends_with(".js")), "the log has the page's scripts: {asked:?}");
        let foreign: Vec<_> = asked.iter().filter(|url| !url.starts_with(&server.base)).collect();
        assert!(foreign.is_empty(), "{path} asks for {foreign:?}");
    }
}

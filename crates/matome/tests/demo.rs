//! `matome demo` does what it promises, and goes on with its data.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::{Command, Stdio};

use tempfile::TempDir;

fn demo(dir: &TempDir) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_matome"))
        .args(["demo", "--once"])
        .current_dir(dir.path())
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn line<'a>(text: &'a str, name: &str) -> &'a str {
    let found = text.lines().find(|line| line.split_whitespace().nth(1) == Some(name));
    found.unwrap_or_else(|| panic!("no line about `{name}` in:\n{text}"))
}

#[test]
fn the_demo_shows_the_main_job_and_goes_on_with_its_data() {
    let dir = TempDir::new().unwrap();
    let text = demo(&dir);
    for (name, rows) in [("customers", "120"), ("orders", "240"), ("products", "8"), ("readings", "300")] {
        let line = line(&text, name);
        assert!(line.contains('✓') && line.contains(rows), "{line}");
    }
    assert!(line(&text, "rates").contains("503"), "a source in retry is printed as such:\n{text}");
    assert!(line(&text, "readings").contains("4 in quarantine"), "{text}");
    assert!(line(&text, "sales_by_region").contains('✓'), "{text}");
    assert!(line(&text, "daily_temperature").contains('✓'), "{text}");
    assert!(text.contains("curl -s -H 'Authorization: Bearer mtm_"), "{text}");

    let again = demo(&dir);
    assert!(line(&again, "orders").contains("its file has not changed"), "{again}");
    assert!(line(&again, "customers").contains("not modified"), "{again}");
    assert!(line(&again, "readings").contains("300"), "{again}");
}

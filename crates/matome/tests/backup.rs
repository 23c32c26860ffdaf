//! `matome db backup` and `restore` on the real binary: under load, elsewhere, and when they must refuse.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use support::{Home, sqlite_home, until, write};

fn refused(output: &Output, code: i32, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(says) && text.contains("\nhelp: "), "`{says}` is not in: {text}");
}

fn with_files(home: &Home, args: &[&str]) -> String {
    let output = home.command(args).env("FILE_ROOTS", home.files()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn checked(home: &Home) {
    let verdicts = home.ok(&["db", "check", "--full"]);
    assert!(!verdicts.contains("violated"), "{verdicts}");
}

/// `n` of each stored record, in order of storing.
fn numbers(home: &Home, source: &str) -> Vec<u64> {
    let lines = home.ok(&["data", "export", "--source", source]);
    lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap()).collect()
}

fn backed_up(home: &Home, to: &Path, more: &[&str]) -> Value {
    let mut args = vec!["db", "backup", to.to_str().unwrap(), "-o", "json"];
    args.extend(more);
    serde_json::from_str(&home.ok(&args)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_whole_and_a_run_goes_on_from_it_without_loss_or_doubles() {
    const RECORDS: u64 = 60_000;
    let home = sqlite_home();
    let lines: String = (0..RECORDS).map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "x".repeat(60))).collect();
    write(&home.files().join("many.ndjson"), lines);
    let mut server = home.serve().await;
    let source = server.source("many", "file", json!({ "path": "many.ndjson" })).await;
    let instance = backed_up(&home, &home.dir.path().join("before"), &[])["instance_id"].clone();
    let task = server.start("acquisition", source).await;
    let some_stored = async || server.get("/api/acquisition/data/?page_size=1").await["count"].as_u64() > Some(2_000);
    until("some records are stored", some_stored).await;
    let backup = home.dir.path().join("during");
    let manifest = backed_up(&home, &backup, &[]);
    assert_eq!(server.ended(&task).await["status"], "succeeded");
    assert_eq!(manifest["instance_id"], instance);
    assert_eq!(server.terminate(), Some(0));

    let other = Home { dir: sqlite_home().dir, ..sqlite_home() };
    let restored: Value =
        serde_json::from_str(&other.ok(&["db", "restore", backup.to_str().unwrap(), "-o", "json"])).unwrap();
    assert_ne!(restored["instance_id"], instance);
    checked(&other);
    let stored = numbers(&other, "many").len() as u64;
    assert!((2_000..RECORDS).contains(&stored), "the backup was not made during the run: {stored}");

    // The task that ran is taken up in the copy; then nothing is missing and nothing twice.
    std::fs::copy(home.files().join("many.ndjson"), other.files().join("many.ndjson")).unwrap();
    let mut server = other.serve().await;
    let task = server.get("/api/acquisition/tasks/?ordering=id").await["results"][0]["id"].clone();
    assert_eq!(server.ended(&format!("/api/acquisition/tasks/{task}/")).await["status"], "succeeded");
    assert_eq!(server.terminate(), Some(0));
    for home in [&home, &other] {
        let found = numbers(home, "many");
        assert_eq!(found.len() as u64, RECORDS);
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), (0..RECORDS).collect());
        checked(home);
    }
}

#[test]
fn a_backup_has_a_manifest_and_the_key_only_when_asked_for() {
    let home = sqlite_home();
    home.ok(&["token", "create", "--role", "admin"]);
    let auth = r#"auth={"type":"bearer","token":"s3cret"}"#;
    home.ok(&["source", "add", "users", "--url", "https://example.com/users", "--set", auth]);
    let plain = home.dir.path().join("plain");
    let output = home.run(&["db", "backup", plain.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("master.key is not in it, and 1 secrets"), "{output:?}");
    assert!(!plain.join("master.key").exists());
    let manifest: Value = serde_json::from_slice(&std::fs::read(plain.join("manifest.json")).unwrap()).unwrap();
    for member in ["matome_version", "schema_version", "instance_id", "made_at", "sha256", "size_bytes"] {
        assert!(!manifest[member].is_null(), "{member}: {manifest}");
    }
    let with_key = home.dir.path().join("with-key");
    backed_up(&home, &with_key, &["--with-key"]);
    let key = with_key.join("master.key");
    for file in ["master.key", "matome.db", "manifest.json"] {
        assert_eq!(std::fs::metadata(with_key.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(std::fs::read(&key).unwrap(), std::fs::read(home.data_dir().join("master.key")).unwrap());
    assert_eq!(std::fs::metadata(&with_key).unwrap().permissions().mode() & 0o777, 0o700);

    let with_secrets = sqlite_home();
    with_secrets.ok(&["db", "restore", with_key.to_str().unwrap()]);
    with_secrets.ok(&["source", "show", "users"]);
    let without = sqlite_home();
    let output = without.run(&["db", "restore", plain.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 secrets need the key"), "{output:?}");
    refused(&without.run(&["source", "list"]), 3, "master.key");
    // Nothing half-made is left anywhere.
    for dir in [home.dir.path(), with_secrets.data_dir().as_path()] {
        let names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().all(|name| !name.contains(".part") && name != "restoring"), "{names:?}");
    }
}

#[test]
fn a_backup_is_replaced_only_by_force_and_a_directory_gets_one_in_it() {
    let home = sqlite_home();
    home.ok(&["token", "create", "--role", "admin"]);
    let to = home.dir.path().join("one");
    backed_up(&home, &to, &[]);
    let first = std::fs::read(to.join("manifest.json")).unwrap();
    refused(&home.run(&["db", "backup", to.to_str().unwrap()]), 6, "is a backup already");
    assert_eq!(std::fs::read(to.join("manifest.json")).unwrap(), first);
    home.ok(&["source", "add", "a", "--path", "a.csv"]);
    let sha256 = backed_up(&home, &to, &["--force"])["sha256"].clone();
    assert!(!String::from_utf8(first).unwrap().contains(sha256.as_str().unwrap()));

    let into = home.dir.path().join("backups");
    std::fs::create_dir(&into).unwrap();
    let path = backed_up(&home, &into, &[])["path"].clone();
    assert!(Path::new(path.as_str().unwrap()).starts_with(&into), "{path}");
    let empty = sqlite_home();
    refused(&empty.run(&["db", "backup", to.to_str().unwrap(), "--force"]), 3, "no database");
    assert!(to.join("matome.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_leaves_what_is_there_unless_told_and_refuses_what_is_damaged_or_in_use() {
    let home = sqlite_home();
    home.ok(&["source", "add", "old", "--path", "a.csv"]);
    let backup = home.dir.path().join("backup");
    backed_up(&home, &backup, &["--with-key"]);
    let from = backup.to_str().unwrap();

    let other = sqlite_home();
    other.ok(&["source", "add", "mine", "--path", "a.csv"]);
    refused(&other.run(&["db", "restore", from]), 6, "has a database already");
    {
        let _server = other.serve().await;
        refused(&other.run(&["db", "restore", from, "--force"]), 6, "in use");
    }
    let restored: Value = serde_json::from_str(&other.ok(&["db", "restore", from, "--force", "-o", "json"])).unwrap();
    assert!(other.ok(&["source", "list"]).contains("old"));
    let aside = restored["kept_aside"].as_str().unwrap();
    let kept = sqlite_home();
    std::fs::create_dir(kept.data_dir()).unwrap();
    std::fs::copy(aside, kept.data_dir().join("matome.db")).unwrap();
    assert!(kept.ok(&["source", "list"]).contains("mine"), "what was there is whole");

    let mut bytes = std::fs::read(backup.join("matome.db")).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    write(&backup.join("matome.db"), bytes);
    let target = sqlite_home();
    refused(&target.run(&["db", "restore", from]), 3, "is not what was backed up");
    assert!(!target.data_dir().join("matome.db").exists());
    refused(&target.run(&["db", "restore", target.dir.path().to_str().unwrap()]), 2, "is no backup");
}

#[test]
fn progress_of_a_backup_is_told_as_json_when_asked_for() {
    let home = sqlite_home();
    home.ok(&["token", "create", "--role", "admin"]);
    let to = home.dir.path().join("backup");
    let output = home.run(&["db", "backup", to.to_str().unwrap(), "--progress", "json", "-o", "json"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let events: Vec<Value> = stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(events.iter().any(|event| event["progress"] == "backup" && event["state"] == "hashed"), "{stderr}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap();
    assert!(!with_files(&home, &["source", "list", "-o", "json"]).is_empty());
}

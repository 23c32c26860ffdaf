//! `matome db copy`, and backup and restore on PostgreSQL: every row arrives under its id, or nothing does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use matome_store::db::{DataDir, Db};
use matome_testbed::{postgres_schema, run_script, texts};
use serde_json::{Value, json};
use support::{Home, postgres_home, sqlite_home, upstream, write};

fn refused(output: &Output, code: i32, why: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(why), "{why} is not in: {stderr}");
    stderr
}

fn with_files(home: &Home, args: &[&str]) -> String {
    let output = home.command(args).env("FILE_ROOTS", home.files()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Where `--from` and `--to` find a home.
fn end(home: &Home) -> String {
    home.database_url.clone().unwrap_or_else(|| format!("sqlite:{}", home.data_dir().display()))
}

fn copy(from: &Home, to: &Home) -> Output {
    matome(&["db", "copy", "--from", &end(from), "--to", &end(to), "-o", "json"]).output().unwrap()
}

/// The binary with a command that names its databases itself.
fn matome(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_matome"));
    command.args(args).env_remove("DATABASE_URL").env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// A home on a PostgreSQL schema without tables.
async fn empty_postgres() -> Home {
    Home { database_url: Some(postgres_schema().await), name: "postgres", ..sqlite_home() }
}

/// Something in most of the tables: records with versions and quarantine, results, a schedule, a secret, ended tasks, a
/// push that waits.
fn fill(home: &Home) {
    let lines = "{\"id\":1,\"名前\":\"山田\\t\\\\\",\"n\":12345678901234567890.5}\n{\"id\":2,\"名前\":\"😀\\n\\\"\"}\n{bad\n{\"id\":3,\"x\":null}\n";
    write(&home.files().join("orders.ndjson"), lines);
    with_files(
        home,
        &[
            "source",
            "add",
            "受注",
            "--path",
            "orders.ndjson",
            "--set",
            "key=id",
            "--description",
            "一行目\n二行目\t\\N",
        ],
    );
    with_files(home, &["source", "run", "受注", "--wait"]);
    write(&home.files().join("orders.ndjson"), lines.replace("12345678901234567890.5", "0.1"));
    with_files(home, &["source", "run", "受注", "--wait"]);
    let auth = r#"auth={"type":"bearer","token":"s3cret"}"#;
    home.ok(&["source", "add", "api", "--url", "https://example.com/users", "--set", auth, "--interval", "3600"]);
    home.ok(&["aggregate", "add", "件数", "--sql", "select count(*) as n from \"受注\""]);
    with_files(home, &["aggregate", "run", "件数", "--wait"]);
    home.ok(&["source", "add", "sent", "--type", "push"]);
    // Ids that were given and removed are not given again.
    home.ok(&["source", "add", "gone", "--path", "gone.csv"]);
    home.ok(&["source", "delete", "gone", "--yes"]);
    // Last, so that it waits with its body: no command behind it works.
    home.ok(&["source", "push", "sent", &home.files().join("orders.ndjson").display().to_string()]);
}

/// What a home answers about all that it keeps.
fn everything(home: &Home) -> Vec<String> {
    let canonical = |text: String| serde_json::from_str::<Value>(&text).map_or(text, |value| value.to_string());
    let ask = |args: &[&str]| canonical(home.ok(args));
    vec![
        ask(&["source", "list", "-o", "json"]),
        ask(&["aggregate", "list", "-o", "json"]),
        ask(&["task", "list", "-o", "json"]),
        ask(&["task", "list", "--queue", "aggregation", "-o", "json"]),
        ask(&["data", "query", "--source", "受注", "--limit", "100", "-o", "json"]),
        ask(&["data", "query", "--aggregation", "件数", "-o", "json"]),
        ask(&["quarantine", "list", "-o", "json"]),
        ask(&["schedule", "list", "-o", "json"]),
        ask(&["source", "schema", "受注", "-o", "json"]),
    ]
}

fn checked(home: &Home) {
    let checked = home.ok(&["db", "check", "--full"]);
    assert!(!checked.contains("violated"), "{}: {checked}", home.name);
}

/// Adds a source and reads it; its ids are new ones.
fn goes_on(home: &Home) {
    write(&home.files().join("more.ndjson"), "{\"n\":1}\n");
    with_files(home, &["source", "add", "more", "--path", "more.ndjson"]);
    let sources: Vec<Value> = serde_json::from_str(&home.ok(&["source", "list", "-o", "json"])).unwrap();
    assert_eq!(sources.last().unwrap()["id"], 5, "id 4 was given to what is gone: {sources:?}");
    with_files(home, &["source", "run", "more", "--wait"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_there_and_back_keeps_every_row_under_its_id() {
    let first = sqlite_home();
    fill(&first);
    let there = empty_postgres().await;
    let told = copy(&first, &there);
    assert!(told.status.success(), "{told:?}");
    assert!(String::from_utf8_lossy(&told.stderr).contains("1 secrets need it"), "{told:?}");
    let groups: Vec<Value> = serde_json::from_slice(&told.stdout).unwrap();
    let records = groups.iter().find(|group| group["table"] == "acquired_data").unwrap();
    assert_eq!((&records["source"], &records["rows"]), (&json!(1), &json!(4)), "{records}");
    let back = sqlite_home();
    let output = copy(&there, &back);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(groups, serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap(), "the same rows by value");

    for home in [&there, &back] {
        std::fs::create_dir_all(home.data_dir()).unwrap();
        std::fs::copy(first.data_dir().join("master.key"), home.data_dir().join("master.key")).unwrap();
        assert_eq!(everything(home), everything(&first), "{}", home.name);
        checked(home);
        goes_on(home);
        checked(home);
    }
    // Each is an installation of its own.
    let mut ids =
        BTreeSet::from([texts(there.database_url.as_deref().unwrap(), "select instance_id::text from instance")
            .await
            .remove(0)]);
    for home in [&first, &back] {
        let db = Db::open_embedded(DataDir::acquire(&home.data_dir()).unwrap()).await.unwrap();
        ids.insert(matome_store::migrate::instance_id(&mut db.read().await.unwrap().conn()).await.unwrap().to_string());
        db.close().await;
    }
    assert_eq!(ids.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_cannot_hold_is_named_before_anything_is_written() {
    let home = sqlite_home();
    fill(&home);
    let db = Db::open_embedded(DataDir::acquire(&home.data_dir()).unwrap()).await.unwrap();
    let spoil = db.write(|conn| {
        Box::pin(async move {
            conn.execute("update data_sources set fetch_interval = 3000000000 where id = 2", &[]).await?;
            conn.execute("update data_sources set description = 'a' || char(0) || 'b' where id = 1", &[]).await
        })
    });
    spoil.await.unwrap();
    db.close().await;
    let there = empty_postgres().await;
    let said = refused(&copy(&home, &there), 3, "cannot hold some of the rows; nothing was written");
    assert!(said.contains("data_sources.fetch_interval (id 2): 3000000000"), "{said}");
    assert!(said.contains("data_sources.description (id 1)") && said.contains("NUL"), "{said}");
    let tables = "select count(*)::text from pg_class where relnamespace = current_schema()::regnamespace";
    assert_eq!(texts(there.database_url.as_deref().unwrap(), tables).await, ["0"]);

    let server = postgres_home().await;
    fill(&server);
    let url = server.database_url.as_deref().unwrap();
    run_script(url, "update acquired_data set acquired_at = 'infinity' where id = 1").await;
    let back = sqlite_home();
    refused(&copy(&server, &back), 3, "acquired_data.acquired_at (id 1): the time infinity is out of range");
    assert!(!back.data_dir().join("matome.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_rows_and_ends_that_are_none_are_refused() {
    let (home, full) = (sqlite_home(), postgres_home().await);
    fill(&home);
    // Migrated and without rows is empty.
    assert!(copy(&home, &full).status.success());
    refused(&copy(&home, &full), 6, "the target is not empty");
    let other = sqlite_home();
    other.ok(&["migrate"]);
    refused(&copy(&full, &other), 6, "has a database already");
    refused(&copy(&home, &other), 2, "both databases are embedded");
    let nowhere = sqlite_home();
    refused(&copy(&nowhere, &empty_postgres().await), 3, "no database");
    let wrong = matome(&["db", "copy", "--from", &end(&home), "--to", "mysql://u:secret@h/d"]).output().unwrap();
    assert!(!refused(&wrong, 2, "is no database to copy").contains("secret"));
    let django = empty_postgres().await;
    run_script(django.database_url.as_deref().unwrap(), "create table data_sources (id integer primary key)").await;
    refused(&copy(&home, &django), 6, "the target is not empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_killed_leaves_nothing_and_runs_again() {
    let home = sqlite_home();
    let lines: String = (0..20_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    write(&home.files().join("many.ndjson"), lines);
    with_files(&home, &["source", "add", "many", "--path", "many.ndjson"]);
    with_files(&home, &["source", "run", "many", "--wait"]);
    let there = empty_postgres().await;
    let killed = |from: &Home, to: &Home| {
        let args = ["db", "copy", "--from", &end(from), "--to", &end(to), "--progress", "json"];
        let mut child = matome(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let begun = lines.any(|line| line.contains("\"state\":\"copying\""));
        child.kill().unwrap();
        assert!(begun && !child.wait().unwrap().success(), "it was killed while it copied");
    };
    killed(&home, &there);
    let url = there.database_url.as_deref().unwrap();
    refused(&there.run(&["db", "check"]), 3, "matome migrate");
    let again = copy(&home, &there);
    assert!(again.status.success(), "{again:?}");
    assert_eq!(texts(url, "select count(*)::text from acquired_data").await, ["20000"]);
    checked(&there);
    let back = sqlite_home();
    killed(&there, &back);
    assert!(!back.data_dir().join("matome.db").exists());
    assert!(copy(&there, &back).status.success());
    checked(&back);
    assert!(!back.data_dir().join("restoring").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_postgres_under_load_is_whole_and_restores_to_either() {
    const ROWS: usize = 2_000;
    let mut home = postgres_home().await;
    let address = upstream(ROWS).await;
    home.extra = vec!["--egress-allow".into(), format!("127.0.0.1/32:{}", address.port())];
    let mut server = home.serve().await;
    let config = json!({
        "url": format!("http://{address}/rows"), "records": "$.results", "dedupe": "none",
        "pagination": { "type": "next_link", "next": "$.next" }
    });
    let id = server.source("rows", "api", config).await;
    let task = server.start("acquisition", id).await;
    support::until("some records are stored", async || {
        server.get("/api/acquisition/data/").await["count"].as_i64() > Some(100)
    })
    .await;
    let backup = home.dir.path().join("backup");
    let manifest: Value =
        serde_json::from_str(&home.ok(&["db", "backup", backup.to_str().unwrap(), "--with-key", "-o", "json"]))
            .unwrap();
    server.ended(&task).await;
    assert_eq!(server.terminate(), Some(0));

    let restored = [sqlite_home(), empty_postgres().await];
    for other in &restored {
        let told: Value =
            serde_json::from_str(&other.ok(&["db", "restore", backup.to_str().unwrap(), "-o", "json"])).unwrap();
        assert_eq!(told["restored_from"], manifest["instance_id"]);
        assert_ne!(told["instance_id"], manifest["instance_id"]);
        assert!(other.data_dir().join("master.key").exists());
        checked(other);
    }
    // The task that ran is taken up again; then nothing is missing and nothing twice.
    for mut other in restored {
        other.extra = home.extra.clone();
        let server = other.serve().await;
        assert_eq!(server.ended(&task).await["status"], "succeeded", "{}", other.name);
        let rows = server.all("/api/acquisition/data/").await;
        let found: BTreeSet<i64> = rows.iter().map(|row| row["raw_data"]["n"].as_i64().unwrap()).collect();
        assert_eq!((rows.len(), found.len()), (ROWS, ROWS), "{}", other.name);
    }
    let full = postgres_home().await;
    fill(&full);
    refused(&full.run(&["db", "restore", backup.to_str().unwrap()]), 6, "key");
}

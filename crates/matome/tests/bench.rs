//! `matome bench` measures every figure it promises, on both databases. What the figures are is no matter of a test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn bench(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_matome"));
    command.arg("bench").args(args).arg("--dir").arg(dir.path()).stdin(Stdio::null());
    command.env("DATABASE_URL", std::env::var("MATOME_TEST_DATABASE_URL").expect("run with scripts/with-postgres"));
    command
}

#[test]
fn every_figure_is_measured_on_both_databases_and_nothing_is_left_behind() {
    let dir = TempDir::new().unwrap();
    let groups = ["ingest", "database", "list", "join", "remove", "memory", "start"];
    let output = bench(&dir, &[&groups[..], &["--quick", "--full", "-o", "json"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let find = |database: &str, what: &str| find(&figures, database, what);
    for database in ["sqlite", "postgres"] {
        for what in [
            "2000 CSV rows, first load",
            "2000 CSV rows, read again",
            "400 NDJSON records of 1 KB, first load",
            "400 NDJSON records of 1 KB, read again",
            "orders.csv at 5000 rows, first load",
            "events.ndjson at 5000 rows, read again",
        ] {
            let figure = find(database, what);
            let peer = if database == "sqlite" { "bare insert" } else { "psql \\copy" };
            assert_eq!(figure["peer"]["name"], peer, "{figure}");
            assert!(figure["ratio"].as_f64().unwrap() > 0.0, "{figure}");
            assert!(figure["met"].is_boolean() && figure["unit"] == "rows/s", "{figure}");
            assert!(figure["cpu_seconds"].as_f64().unwrap() >= 0.0, "{figure}");
            assert!((5.0..2_000.0).contains(&figure["peak_mib"].as_f64().unwrap()), "{figure}");
        }
        let list = find(database, "list of 20 records of 2400, with count");
        assert!(list["note"].as_str().unwrap().contains("p99"), "{list}");
        for what in ["list of 20 sources", "join", "2000 records removed"] {
            assert!(find(database, what)["value"].as_f64().unwrap() > 0.0);
        }
        let beside = find(database, "a write beside it, p99");
        assert!(beside["note"].as_str().unwrap().contains("longest"), "{beside}");
        assert!((5.0..2_000.0).contains(&find(database, "serve, idle")["value"].as_f64().unwrap()));
        assert!(find(database, "peak while reading a file of 1 MiB")["value"].as_f64().unwrap() > 5.0);
        assert!(find(database, "serve ready")["value"].as_f64().unwrap() > 0.0);
    }
    for what in [
        "2000 rows of the table orders, first load",
        "2000 rows of the table orders, read again",
        "400 rows of the table events, first load",
        "400 rows of the table events, read again",
    ] {
        let figure = find("postgres", what);
        assert_eq!(figure["peer"]["name"], "psql COPY | psql COPY", "{figure}");
        assert!(figure["ratio"].as_f64().unwrap() > 0.0 && figure["met"].is_boolean(), "{figure}");
    }
    for what in
        ["orders: schema drift", "events: canonical form", "demo", "engine child, none", "engine child that waits"]
    {
        assert!(find("", what)["value"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the scratch directory is removed");
}

fn find<'a>(figures: &'a [Value], database: &str, what: &str) -> &'a Value {
    let is_it = |figure: &&Value| figure["database"] == database && figure["what"].as_str().unwrap().contains(what);
    let found = figures.iter().find(is_it);
    found.unwrap_or_else(|| panic!("no `{what}` on `{database}` in {figures:#?}"))
}

#[test]
fn tasks_are_measured_beside_the_released_celery_on_the_same_redis() {
    let dir = TempDir::new().unwrap();
    let output = bench(&dir, &["tasks", "--quick", "-o", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let find = |database: &str, what: &str| find(&figures, database, what);
    for database in ["sqlite", "postgres"] {
        for what in ["tasks, -c 8", "tasks, -c 64", "p99 at 50/s", "p99, one at a time"] {
            let figure = find(database, what);
            assert!(figure["value"].as_f64().unwrap() > 0.0, "{figure}");
            assert_eq!(figure["peer"]["name"], "Celery 5.7", "{figure}");
            assert!(figure["peer"]["value"].as_f64().unwrap() > 0.0, "{figure}");
        }
        assert!(find(database, "of 2000 lanes")["value"].as_f64().unwrap() > 0.0);
    }
    let killed = find("postgres", "worker killed");
    assert!(killed["value"].as_f64().unwrap() < 10.0, "{killed}");
    assert!(killed["note"].as_str().unwrap().contains("of Celery's 8"), "{killed}");
    let memory = find("postgres", "worker -c 8");
    assert!(memory["value"].as_f64().unwrap() > 1.0 && memory["peer"]["value"].as_f64().unwrap() > 20.0, "{memory}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the scratch directory is removed");
}

#[test]
fn sources_are_measured_without_their_peers_where_these_are_not_installed() {
    let (dir, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut command = bench(&dir, &["sources", "--quick", "-o", "json"]);
    let output = command.env("XDG_CACHE_HOME", cache.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    for peer in ["dlt", "Airbyte CDK", "DuckDB"] {
        assert!(told.contains(&format!("bench: {peer}")) && told.contains("scripts/install-missing --bench"), "{told}");
    }
    let figures: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for (database, what) in [
        ("sqlite", "400 records of an API, 100 a page"),
        ("sqlite", "400 records of an API, 1000 a page"),
        ("postgres", "400 records of an API, 100 a page"),
        ("postgres", "400 records of an API, 1000 a page"),
        ("postgres", "2000 rows of the table orders"),
        ("postgres", "400 rows of the table events"),
        ("sqlite", "2000 CSV rows"),
        ("sqlite", "400 NDJSON records of 1 KB"),
    ] {
        let figure = find(&figures, database, what);
        assert!(figure["value"].as_f64().unwrap() > 0.0 && figure["unit"] == "records/s", "{figure}");
        assert!(figure["per_cpu_second"].as_f64().unwrap() > 0.0, "{figure}");
        assert!((5.0..2_000.0).contains(&figure["peak_mib"].as_f64().unwrap()), "{figure}");
        assert!(figure["peer"].is_null() && figure["note"].as_str().unwrap().contains("here"), "{figure}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the scratch directory is removed");
}

#[test]
fn a_table_has_the_groups_that_were_asked_for() {
    let dir = TempDir::new().unwrap();
    let output = bench(&dir, &["start", "--quick"]).env_remove("DATABASE_URL").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("what\tdatabase\tfigure\tpeer\tratio\tbudget\tmet"), "{table}");
    assert!(table.contains("serve ready after its start") && !table.contains("tasks/s"), "{table}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("SQLite only"));
}

#[test]
fn a_wrong_name_or_database_is_told() {
    let dir = TempDir::new().unwrap();
    let output = bench(&dir, &["speed"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ingest, database, sources, list, join, remove, tasks"));
    let output = bench(&dir, &["start", "--database-url", "mysql://host/name"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let output = bench(&dir, &["start", "--rows", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

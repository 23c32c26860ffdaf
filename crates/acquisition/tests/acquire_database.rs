//! Acquisition tasks from a table on real PostgreSQL and MariaDB servers to the store, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use matome_connector::{FileRoots, HttpClient, Policy, Registry};
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use matome_store::counters;
use matome_store::db::Db;
use matome_tasks::{Advice, Handler as _, TaskContext};
use matome_testbed::databases;
use serde_json::{Value, json};
use support::{Bench, count};
use tempfile::TempDir;
use url::Url;

/// A table on a test server, in a schema or database of its own.
struct Table {
    url: String,
    engine: &'static str,
}

impl Table {
    async fn new(script: &str) -> Self {
        let table = Self { url: matome_testbed::postgres_schema().await, engine: "postgres" };
        table.run(script).await;
        table
    }

    async fn on_mariadb(script: &str) -> Self {
        Self { url: matome_testbed::mysql_database(script).await, engine: "mysql" }
    }

    async fn run(&self, script: &str) {
        matome_testbed::run_script(&self.url, script).await;
    }

    async fn bench(&self, db: &Db, options: Value) -> Bench {
        let url = Url::parse(&self.url).unwrap();
        let schema = self.url.rsplit_once("%3D").map(|(_, schema)| schema);
        let mut config = json!({
            "engine": self.engine, "host": url.host_str(), "port": url.port(), "database": &url.path()[1..],
            "user": url.username(), "password": url.password(), "tls": {"mode": "disable"}, "schema": schema,
        });
        for (name, value) in options.as_object().unwrap() {
            config[name] = value.clone();
        }
        // A null takes an option out.
        config.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let dir = TempDir::new().unwrap();
        let roots = FileRoots::open([dir.path()]).unwrap();
        let mut bench = Bench::with_config(db, dir, SourceType::Database, &config.to_string()).await;
        let policy = Policy::new(["127.0.0.1".parse().unwrap()]);
        bench.registry = Registry::new(roots, HttpClient::new(policy), Clock::system());
        bench
    }
}

async fn counted(bench: &Bench) -> i64 {
    let mut reader = bench.db.read().await.unwrap();
    counters::of_source(&mut reader.conn(), counters::ACQUIRED_DATA, bench.source_id).await.unwrap()
}

#[tokio::test]
async fn each_change_of_a_table_is_stored_once_as_a_version() {
    for bed in databases().await {
        let table = Table::new(
            "create table orders (id int primary key, total numeric, changed timestamptz);
            insert into orders select n, n / 8.0, now() - interval '1 day' from generate_series(1, 2500) n",
        )
        .await;
        let options = json!({"table": "orders", "key": "id", "incremental": {"cursor": "changed"}});
        let bench = table.bench(&bed.db, options).await;
        let names = ["read", "stored", "updated", "duplicate", "quarantined"];
        let counts = |result: &serde_json::value::RawValue| names.map(|name| count(result, name));
        let result = bench.run().await.unwrap().result;
        assert_eq!(counts(&result), [2500, 2500, 0, 0, 0], "{} {result}", bed.name);
        // All of them have the mark itself, so they come again, and are known.
        let result = bench.run().await.unwrap().result;
        assert_eq!(counts(&result), [2500, 0, 0, 2500, 0], "{} {result}", bed.name);
        table
            .run(
                "update orders set total = 99999999999999999999.25, changed = now() where id = 7;
                insert into orders values (2501, 0.1, now() - interval '1 minute'), (2502, 'NaN', now() - interval '2 days')",
            )
            .await;
        let result = bench.run().await.unwrap().result;
        // What is older than the overlap before the mark is not looked at.
        assert_eq!(counts(&result), [2501, 2, 1, 2499, 0], "{} {result}", bed.name);
        let result = bench.run().await.unwrap().result;
        assert_eq!(counts(&result), [2, 0, 0, 2, 0], "{} {result}", bed.name);
        let stored = bench.stored().await;
        assert!(stored.iter().any(|text| text.contains(r#""id":7,"total":99999999999999999999.25"#)), "{}", bed.name);
        assert_eq!(stored.len(), 2502, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_killed_read_goes_on_and_stores_what_a_whole_read_does() {
    const ROWS: usize = 16_000;
    let table = Table::new(&format!(
        "create table events (id int primary key, at timestamptz, body text);
        insert into events select n, timestamptz '2026-01-01' + interval '1 second' * (n / 1000), repeat('x', 200)
            from generate_series(1, {ROWS}) n;
        create table equal as select n % 10 as n, repeat('y', 200) as body from generate_series(1, {ROWS}) n",
    ))
    .await;
    let on_mariadb = Table::on_mariadb(&format!(
        "create table events (id int primary key, at datetime, body text);
        insert into events select seq, timestamp'2026-01-01 00:00:00' + interval seq div 1000 second, repeat('x', 200) from seq_1_to_{ROWS};
        create table equal as select seq % 10 as n, repeat('y', 200) as body from seq_1_to_{ROWS}",
    ))
    .await;
    let by_time = json!({"cursor": "at"});
    let by_columns = json!({"cursor": "at", "tie_break": "body"});
    for bed in databases().await {
        for (table, options) in [
            (&table, json!({"table": "events", "dedupe": "none", "incremental": by_time})),
            (&table, json!({"table": "events", "key": "id", "incremental": by_time})),
            (&table, json!({"table": "events", "dedupe": "hash", "incremental": by_columns})),
            (&table, json!({"table": "events", "dedupe": "hash"})),
            (&table, json!({"table": "equal"})),
            (&on_mariadb, json!({"table": "events", "dedupe": "none", "incremental": by_time})),
            (&on_mariadb, json!({"table": "events", "key": "id", "incremental": by_time})),
            (&on_mariadb, json!({"table": "equal"})),
        ] {
            let bench = table.bench(&bed.db, options.clone()).await;
            let mut task = bench.claim().await;
            let mut kills = 0;
            let begun = std::time::Instant::now();
            loop {
                let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
                let handler = bench.handler();
                let before = counted(&bench).await;
                let run = tokio::spawn({
                    let task = task.clone();
                    async move { handler.run(task, ctx).await }
                });
                // As if the process died: after a page at least, twice where there are pages enough.
                while kills < 2 && !run.is_finished() && counted(&bench).await == before {
                    tokio::task::yield_now().await;
                }
                if kills < 2 && !run.is_finished() {
                    run.abort();
                    let _ = run.await;
                    kills += 1;
                    task = bench.take_over(&task).await;
                    continue;
                }
                run.await.unwrap().unwrap_or_else(|err| panic!("{} {options}: {err:?}", bed.name));
                break;
            }
            println!("{} {} {options}: killed {kills} times, {:?}", bed.name, table.engine, begun.elapsed());
            assert!(kills > 0, "{} {options}: it was faster than a kill", bed.name);
            bench.abandon(&task).await;
            let stored = bench.stored().await;
            assert_eq!(stored.len(), ROWS, "{} {options}", bed.name);
            let distinct: std::collections::BTreeSet<&String> = stored.iter().collect();
            assert_eq!(distinct.len(), if options["table"] == "equal" { 10 } else { ROWS }, "{} {options}", bed.name);
            // And the next read adds nothing.
            let result = bench.run().await.unwrap().result;
            assert_eq!(count(&result, "stored"), 0, "{} {options}: {result}", bed.name);
        }
    }
}

#[tokio::test]
async fn why_a_read_failed_is_told_by_a_short_word() {
    for bed in databases().await {
        let table = Table::new("create table t (id int); insert into t values (1)").await;
        for (options, reason, advice) in [
            (json!({"table": "t", "password": "wr0ng"}), "auth", Advice::Fail),
            (json!({"table": "u"}), "not_found", Advice::Fail),
            (json!({"table": "t", "host": "10.1.2.3"}), "denied", Advice::Fail),
            (json!({"table": "t", "tls": {"mode": "require"}}), "tls", Advice::Fail),
            (json!({"schema": null, "query": "select 1 / 0 as n"}), "query", Advice::Fail),
            (json!({"table": "t", "port": 1}), "unreached", Advice::Retry { after: None }),
        ] {
            let mut options = options;
            options["timeout_secs"] = json!(5);
            let bench = table.bench(&bed.db, options).await;
            let err = bench.run().await.unwrap_err();
            assert_eq!((err.reason.as_str(), err.advice), (reason, advice), "{}: {err:?}", bed.name);
            assert!(!format!("{err:?}").contains("wr0ng"), "{err:?}");
            assert!(err.position.as_ref().unwrap().get().contains("postgres://"), "{err:?}");
        }
    }
}

#[tokio::test]
async fn a_task_that_is_stopped_leaves_no_session_behind() {
    for bed in databases().await {
        let table =
            Table::new("create table t as select n as id, repeat('x', 1000) as body from generate_series(1, 50000) n")
                .await;
        let (_, schema) = table.url.rsplit_once("%3D").unwrap();
        let bench = table.bench(&bed.db, json!({"table": "t", "options": {"application_name": schema}})).await;
        let task = bench.claim().await;
        let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
        let (handler, stop) = (bench.handler(), ctx.stop.clone());
        let run = tokio::spawn({
            let task = task.clone();
            async move { handler.run(task, ctx).await }
        });
        while counted(&bench).await == 0 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        assert!(run.await.unwrap().is_err(), "{}", bed.name);
        let sql = format!("select pid::text from pg_stat_activity where application_name = '{schema}'");
        let gone = async {
            while !matome_testbed::texts(&table.url, &sql).await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
        gone.unwrap_or_else(|_| panic!("{}: the session is still there", bed.name));
    }
}

//! What is stored is judged again on both databases: by today's rules and key, without the source.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::Path;

use matome_model::clock::{Clock, Timestamp};
use matome_model::source::SourceType;
use matome_model::task::{LaneKind, Queue};
use matome_store::check::check;
use matome_store::db::Db;
use matome_store::source_bytes::{self, Counted};
use matome_store::tasks::{self, NewTask};
use matome_tasks::{ClaimedTask, Handler as _, TaskContext, TaskError, TaskOutcome};
use matome_testbed::{TestDb, databases};
use serde_json::Value;
use support::failpoint::{Failpoint, Side};
use support::{Bench, json};
use tempfile::TempDir;
use uuid::Uuid;

async fn claim(bench: &Bench, since: Option<Timestamp>, applies: bool) -> ClaimedTask {
    let source_id = bench.source_id;
    let claim = bench.db.write(move |conn| {
        Box::pin(async move {
            let now = Clock::system().now();
            let payload = tasks::only_stored(since, applies);
            let new = NewTask { payload, ..NewTask::manual(LaneKind::Source, source_id, now) };
            tasks::enqueue(conn, &new, now).await?;
            tasks::claim(conn, Queue::Acquisition, Uuid::new_v4(), 1, now).await
        })
    });
    claim.await.unwrap().pop().unwrap()
}

async fn revalidate(bench: &Bench, since: Option<Timestamp>) -> Result<TaskOutcome, TaskError> {
    run(bench, since, true).await
}

async fn run(bench: &Bench, since: Option<Timestamp>, applies: bool) -> Result<TaskOutcome, TaskError> {
    // The source itself is not there any more.
    let _ = std::fs::remove_file(bench.dir.path().join("data.ndjson"));
    let task = claim(bench, since, applies).await;
    let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
    let result = bench.handler().run(task.clone(), ctx).await;
    bench.abandon(&task).await;
    result
}

async fn done(bench: &Bench) -> Value {
    serde_json::from_str(revalidate(bench, None).await.unwrap().result.get()).unwrap()
}

/// What a task says that only looks.
async fn reported(bench: &Bench) -> Value {
    serde_json::from_str(run(bench, None, false).await.unwrap().result.get()).unwrap()
}

/// Replaces what stands behind `path` in the config of a source.
async fn configure(bench: &Bench, options: &str) {
    let path = bench.dir.path().canonicalize().unwrap().join("data.ndjson");
    let config = format!(r#"{{"path":{},"files":"all"{options}}}"#, serde_json::to_string(&path).unwrap());
    let id = bench.source_id;
    let set = bench.db.write(move |conn| {
        Box::pin(async move {
            let config = json(&config);
            let sql = "update data_sources set config = $2, config_rev = config_rev + 1 where id = $1";
            conn.execute(sql, &[id.into(), (&*config).into()]).await
        })
    });
    set.await.unwrap();
}

fn lines(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// `id version` of the records that have an identity, in the order of their ids.
async fn identities(bench: &Bench) -> Vec<(i64, Option<Vec<u8>>, i64)> {
    let mut reader = bench.db.read().await.unwrap();
    let sql = "select id, key_hash, version from acquired_data where source_id = $1 order by id";
    let rows = reader.conn().fetch_all(sql, &[bench.source_id.into()]).await.unwrap();
    let identity = |row: &matome_store::db::Row| {
        (row.int("id").unwrap(), row.opt_bytes("key_hash").unwrap(), row.int("version").unwrap())
    };
    rows.iter().map(identity).collect()
}

/// Where the reads of a source stand.
async fn place_of_reads(bench: &Bench) -> String {
    let mut reader = bench.db.read().await.unwrap();
    let sql = "select state from checkpoints where source_id = $1 and purpose = 'live'";
    let row = reader.conn().fetch_one(sql, &[bench.source_id.into()]).await.unwrap();
    row.json("state").unwrap().get().to_owned()
}

async fn quarantined(bench: &Bench) -> Vec<(String, String, String)> {
    let mut reader = bench.db.read().await.unwrap();
    let sql = "select reason, status, raw from quarantine where source_id = $1 order by id";
    let rows = reader.conn().fetch_all(sql, &[bench.source_id.into()]).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let one = |row: &matome_store::db::Row| {
        (row.text("reason").unwrap(), row.text("status").unwrap(), text(row.bytes("raw").unwrap()))
    };
    rows.iter().map(one).collect()
}

async fn positions(bench: &Bench) -> Vec<Value> {
    let mut reader = bench.db.read().await.unwrap();
    let sql = "select position from quarantine where source_id = $1 order by id";
    let rows = reader.conn().fetch_all(sql, &[bench.source_id.into()]).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(row.json("position").unwrap().get()).unwrap()).collect()
}

async fn assert_holds(bed: &TestDb) {
    for verdict in check(&mut bed.snapshot().await, true).await.unwrap() {
        assert!(verdict.holds(), "{}: {verdict:?}", bed.name);
    }
}

#[tokio::test]
async fn what_breaks_a_new_rule_goes_to_quarantine_and_comes_back_without_it() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db.with_page_rows(4), r#","dedupe":"hash""#).await;
        bench.write_file(&(0..20).map(|n| format!(r#"{{"id":{n},"n":{}}}"#, n % 5)).collect::<Vec<_>>());
        bench.run().await.unwrap();
        let place = place_of_reads(&bench).await;
        let as_it_is = done(&bench).await;
        assert_eq!((&as_it_is["read"], &as_it_is["unchanged"]), (&20.into(), &20.into()), "{}: {as_it_is}", bed.name);

        configure(
            &bench,
            r#","dedupe":"hash","validation":{"rules":[{"field":"n","max":3},{"field":"n","unique":true}]}"#,
        )
        .await;
        let told = reported(&bench).await;
        let report = &told["report"];
        assert_eq!((&told["read"], &told["quarantined"]), (&20.into(), &0.into()), "{}: {told}", bed.name);
        assert_eq!(
            (&report["unchanged"], &report["quarantined"], &report["reasons"]),
            (&16.into(), &4.into(), &serde_json::json!({"rule": 4})),
            "{}: {told}",
            bed.name
        );
        let examples = report["examples"].as_array().unwrap();
        let english = examples[0]["detail"]["english"].as_str().unwrap();
        assert!(
            examples.len() == 4 && examples[0]["reason"] == "rule" && english.contains("/n"),
            "{}: {told}",
            bed.name
        );
        assert_eq!((bench.stored().await.len(), quarantined(&bench).await.len()), (20, 0), "{}: only told", bed.name);
        let judged = done(&bench).await;
        assert_eq!(
            (&judged["read"], &judged["unchanged"], &judged["quarantined"]),
            (&20.into(), &16.into(), &4.into()),
            "{}: {judged}",
            bed.name
        );
        let position = positions(&bench).await.remove(0);
        assert_eq!(
            (&position["acquired_data"], &position["line"]),
            (&examples[0]["id"], &5.into()),
            "{}: {position}",
            bed.name
        );
        assert_eq!(bench.stored().await.len(), 16, "{}", bed.name);
        let bad = quarantined(&bench).await;
        assert_eq!(bad.len(), 4, "{}: {bad:?}", bed.name);
        let first = ("rule".to_owned(), "held".to_owned(), r#"{"id":4,"n":4}"#.to_owned());
        assert_eq!(bad[0], first, "{}: with the bytes that it came with", bed.name);
        assert_holds(&bed).await;
        // Nothing more to be found, and what still does not fit is left alone.
        let again = done(&bench).await;
        assert_eq!((&again["unchanged"], &again["quarantined"]), (&16.into(), &0.into()), "{}: {again}", bed.name);

        configure(&bench, r#","dedupe":"hash""#).await;
        let told = reported(&bench).await;
        assert_eq!(
            (&told["report"]["unchanged"], &told["report"]["replayed"], &told["read"]),
            (&16.into(), &4.into(), &20.into()),
            "{}: {told}",
            bed.name
        );
        assert_eq!(bench.stored().await.len(), 16, "{}: only told", bed.name);
        let back = done(&bench).await;
        assert_eq!(
            (&back["unchanged"], &back["replayed"], &back["stored"], &back["read"]),
            (&16.into(), &4.into(), &4.into(), &20.into()),
            "{}: {back}",
            bed.name
        );
        assert_eq!(bench.stored().await.len(), 20, "{}", bed.name);
        assert!(quarantined(&bench).await.iter().all(|(_, status, _)| status == "replayed"), "{}", bed.name);

        // Once more against the rule: rows of the quarantine that were replayed are held again.
        configure(&bench, r#","dedupe":"hash","validation":{"rules":[{"field":"n","max":3}]}"#).await;
        assert_eq!(done(&bench).await["quarantined"], 4, "{}", bed.name);
        let held = quarantined(&bench).await;
        assert!(held.len() == 4 && held.iter().all(|(_, status, _)| status == "held"), "{}: {held:?}", bed.name);
        assert_eq!(place_of_reads(&bench).await, place, "{}: no read was moved", bed.name);
        assert_holds(&bed).await;
    }
}

/// As if all had been read so from the beginning, with the ids and times that it has.
#[tokio::test]
async fn a_new_key_tells_records_apart_as_reading_them_so_would_have() {
    const TEXTS: &[&str] = &[
        r#"{"day":1,"id":1,"n":1}"#,
        r#"{"day":1,"id":2,"n":1}"#,
        r#"{"day":2,"id":1,"n":1}"#,
        r#"{"day":2,"id":3,"n":1}"#,
        r#"{"day":3,"id":1,"n":2}"#,
        r#"{"day":3,"n":2}"#,
        r#"{"day":4,"id":2,"n":1}"#,
        r#"{"day":5,"id":1,"n":2}"#,
    ];
    for bed in databases().await {
        for (before, after) in [
            (r#","dedupe":"hash""#, r#","key":"id""#),
            (r#","dedupe":"none""#, r#","key":"id""#),
            (r#","key":"day""#, r#","key":"id""#),
            (r#","dedupe":"rows""#, r#","key":"id""#),
            (r#","dedupe":"none""#, r#","dedupe":"hash""#),
            (r#","key":["day","n"]"#, r#","dedupe":"none""#),
        ] {
            let told = format!("{} {before} to {after}", bed.name);
            let bench = Bench::new(&bed.db.with_page_rows(3), before).await;
            bench.write_file(&lines(TEXTS));
            bench.run().await.unwrap();
            let ids: Vec<i64> = identities(&bench).await.into_iter().map(|(id, ..)| id).collect();
            configure(&bench, after).await;
            let told_before = reported(&bench).await;
            assert_eq!(identities(&bench).await.len(), ids.len(), "{told}: only told");
            let result = done(&bench).await;
            assert_eq!(told_before["report"]["quarantined"], result["quarantined"], "{told}: {told_before}");
            // One that lost its identity to a record before it, in another page, is found without one.
            let changed = [&told_before["report"], &result].map(|counts| counts["changed"].as_u64().unwrap());
            assert!(changed[0] >= changed[1], "{told}: {told_before}, {result}");
            let found = identities(&bench).await;
            assert!(found.iter().all(|(id, ..)| ids.contains(id)), "{told}: {found:?}");

            let fresh = Bench::new(&bed.db, after).await;
            fresh.write_file(
                &lines(TEXTS)
                    .into_iter()
                    .filter(|text| text.contains("id") || !after.contains("\"id\""))
                    .collect::<Vec<_>>(),
            );
            fresh.run().await.unwrap();
            let expected: Vec<_> =
                identities(&fresh).await.into_iter().map(|(_, key, version)| (key, version)).collect();
            let found: Vec<_> = found.into_iter().map(|(_, key, version)| (key, version)).collect();
            assert_eq!(found, expected, "{told}: {result}");
            assert_holds(&bed).await;
            let again = done(&bench).await;
            assert_eq!(again.get("changed"), None, "{told}: {again}");
            let report = reported(&bench).await;
            assert_eq!(report["report"]["changed"], 0, "{told}: {report}");
        }
    }
}

/// Records that were read under the new key before the old ones are told apart by it.
#[tokio::test]
async fn what_was_read_meanwhile_takes_its_place_behind_what_was_there() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db.with_page_rows(2), r#","dedupe":"hash""#).await;
        let texts = [r#"{"id":1,"n":1}"#, r#"{"id":2,"n":1}"#, r#"{"id":1,"n":2}"#];
        bench.write_file(&lines(&texts));
        bench.run().await.unwrap();
        configure(&bench, r#","key":"id""#).await;
        bench.write_file(&lines(&[r#"{"id":2,"n":1}"#, r#"{"id":1,"n":3}"#]));
        bench.run().await.unwrap();
        done(&bench).await;
        let versions: Vec<(bool, i64)> =
            identities(&bench).await.into_iter().map(|(_, key, version)| (key.is_some(), version)).collect();
        // The second reading of key 2 says what the first said.
        assert_eq!(versions, [(true, 1), (true, 1), (true, 2), (false, 1), (true, 3)], "{}", bed.name);
        assert_holds(&bed).await;
    }
}

#[tokio::test]
async fn only_what_is_young_enough_is_looked_at() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","dedupe":"hash""#).await;
        bench.write_file(&lines(&[r#"{"n":1}"#, r#"{"n":2}"#]));
        bench.run().await.unwrap();
        let between = Clock::system().now();
        bench.write_file(&lines(&[r#"{"n":3}"#]));
        bench.run().await.unwrap();
        configure(&bench, r#","dedupe":"hash","validation":{"rules":[{"field":"n","max":0}]}"#).await;
        let result: Value =
            serde_json::from_str(revalidate(&bench, Some(between)).await.unwrap().result.get()).unwrap();
        assert_eq!((&result["read"], &result["quarantined"]), (&1.into(), &1.into()), "{}: {result}", bed.name);
        assert_eq!(bench.stored().await, [r#"{"n":1}"#, r#"{"n":2}"#], "{}", bed.name);
        let none: Value =
            serde_json::from_str(revalidate(&bench, Some(Clock::system().now())).await.unwrap().result.get()).unwrap();
        assert_eq!(none["read"], 0, "{}: {none}", bed.name);
        assert_holds(&bed).await;
    }
}

#[tokio::test]
async fn a_batch_that_is_refused_stays_as_it_is_and_says_where() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db.with_page_rows(2), r#","dedupe":"hash""#).await;
        bench.write_file(&lines(&[r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#, r#"{"n":9}"#]));
        bench.run().await.unwrap();
        let options = r#","dedupe":"hash","validation":{"rules":[{"field":"n","max":5}],"policy":"reject_batch"}"#;
        configure(&bench, options).await;
        let refused = revalidate(&bench, None).await.unwrap_err();
        assert_eq!(refused.reason, "rejected", "{}: {refused:?}", bed.name);
        assert!(refused.position.unwrap().get().contains("\"line\":4"), "{}", bed.name);
        let result: Value = serde_json::from_str(refused.result.unwrap().get()).unwrap();
        assert_eq!((&result["read"], &result["quarantined"]), (&2.into(), &0.into()), "{}: {result}", bed.name);
        assert_eq!(bench.stored().await.len(), 4, "{}", bed.name);
        let told = reported(&bench).await;
        assert_eq!(
            (&told["read"], &told["report"]["quarantined"]),
            (&4.into(), &1.into()),
            "{}: a report tells of all: {told}",
            bed.name
        );
        assert_holds(&bed).await;
    }
}

#[tokio::test]
async fn of_a_source_without_records_there_is_nothing_to_tell_or_do() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","dedupe":"hash","validation":{"rules":[{"field":"n","max":1}]}"#).await;
        let told = reported(&bench).await;
        assert_eq!((&told["read"], &told["report"]["quarantined"]), (&0.into(), &0.into()), "{}: {told}", bed.name);
        assert_eq!(done(&bench).await["read"], 0, "{}", bed.name);
        assert_holds(&bed).await;
    }
}

/// The task in a process that dies at a commit, and then to its end in another one: its result, and whether there was such a commit.
async fn through_a_death(bench: &Bench, task: ClaimedTask, at: usize, side: Side) -> (Value, bool) {
    let failpoint = Failpoint::new(at, side, true);
    let dying = bench.handler_on(&bench.db.with_commit_hook(failpoint.clone()));
    let ctx = TaskContext::new(bench.db.clone(), task.task.id, task.fence);
    let mut outcome = tokio::select! {
        biased;
        () = failpoint.death() => None,
        outcome = dying.run(task.clone(), ctx) => outcome.ok(),
    };
    let mut last = task;
    if failpoint.has_fired() {
        last = bench.take_over(&last).await;
        let ctx = TaskContext::new(bench.db.clone(), last.task.id, last.fence);
        outcome = Some(bench.handler().run(last.clone(), ctx).await.unwrap());
    }
    bench.abandon(&last).await;
    (serde_json::from_str(outcome.unwrap().result.get()).unwrap(), failpoint.has_fired())
}

/// A process that dies while it reports: another one goes on, and nothing is counted twice.
async fn every_commit_of_a_report(bed: TestDb) {
    let lines: Vec<String> = (0..10).map(|n| format!(r#"{{"id":{n},"n":{}}}"#, n % 3)).collect();
    let mut at = 0;
    loop {
        let mut has_fired = false;
        for side in [Side::Before, Side::After] {
            let told = format!("{} commit {at} {side:?}", bed.name);
            let rules = r#","dedupe":"hash","validation":{"rules":[{"field":"n","max":1}]}"#;
            let bench = Bench::new(&bed.db.with_page_rows(3), rules).await;
            bench.write_file(&lines);
            bench.run().await.unwrap();
            configure(&bench, r#","dedupe":"hash","validation":{"rules":[{"field":"n","min":1}]}"#).await;
            let task = claim(&bench, None, false).await;
            let (result, fired) = through_a_death(&bench, task, at, side).await;
            has_fired |= fired;
            let report = &result["report"];
            let found = ["unchanged", "quarantined", "replayed"].map(|name| report[name].clone());
            assert_eq!(found, [3, 4, 3].map(Value::from), "{told}: {result}");
            assert_eq!(report["examples"].as_array().unwrap().len(), 4, "{told}: {result}");
            assert_eq!(bench.stored().await.len(), 7, "{told}");
        }
        if !has_fired {
            break;
        }
        at += 1;
    }
    assert!(at > 4, "{}: {at} commits", bed.name);
    assert_holds(&bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_commit_of_a_report_counts_nothing_twice_on_sqlite() {
    every_commit_of_a_report(matome_testbed::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_commit_of_a_report_counts_nothing_twice_on_postgres() {
    every_commit_of_a_report(matome_testbed::postgres().await).await;
}

/// Each commit fails once before it happens and once after, in a process that dies of it; another one takes over.
async fn every_commit(bed: TestDb) {
    let lines: Vec<String> = (0..10).map(|n| format!(r#"{{"id":{n},"n":{}}}"#, n % 3)).collect();
    let mut at = 0;
    loop {
        let mut has_fired = false;
        for side in [Side::Before, Side::After] {
            let told = format!("{} commit {at} {side:?}", bed.name);
            let bench = Bench::new(
                &bed.db.with_page_rows(3),
                r#","dedupe":"hash","validation":{"rules":[{"field":"n","max":1}]}"#,
            )
            .await;
            bench.write_file(&lines);
            bench.run().await.unwrap();
            assert_eq!(bench.stored().await.len(), 7, "{told}");
            // What was bad is good, what was good is bad, and all of it is told apart by another key.
            configure(&bench, r#","key":"id","validation":{"rules":[{"field":"n","min":1}]}"#).await;
            let task = claim(&bench, None, true).await;
            let (result, fired) = through_a_death(&bench, task, at, side).await;
            has_fired |= fired;
            let told_counts = ["read", "changed", "quarantined", "replayed", "stored"].map(|name| result[name].clone());
            assert_eq!(told_counts, [10, 3, 4, 3, 3].map(Value::from), "{told}: {result}");
            let expected: Vec<String> = lines.iter().filter(|line| !line.contains("\"n\":0")).cloned().collect();
            assert_eq!(bench.stored().await, support::canonical(&expected), "{told}");
            assert_holds(&bed).await;
        }
        if !has_fired {
            break;
        }
        at += 1;
    }
    assert!(at > 6, "{}: {at} commits", bed.name);
    let faults = at * 2;
    println!("{}: {at} commits, {faults} faults", bed.name);
    println!("row revalidation {} {faults} {} 0 0 -", bed.name, faults * lines.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_commit_changes_nothing_of_what_comes_out_on_sqlite() {
    every_commit(matome_testbed::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_commit_changes_nothing_of_what_comes_out_on_postgres() {
    every_commit(matome_testbed::postgres().await).await;
}

/// A source of rows.
async fn csv(db: &Db, options: &str, text: &str) -> Bench {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("data.csv"), text).unwrap();
    let config = csv_config(dir.path(), options);
    Bench::with_config(db, dir, SourceType::File, &config).await
}

fn csv_config(dir: &Path, options: &str) -> String {
    let path = serde_json::to_string(&dir.canonicalize().unwrap().join("data.csv")).unwrap();
    format!(r#"{{"path":{path},"files":"all"{options}}}"#)
}

/// Another config; the file is out of reach until [`put_back`].
async fn without_file(bench: &Bench, options: &str) {
    let dir = bench.dir.path();
    let _ = std::fs::rename(dir.join("data.csv"), dir.join("away"));
    bench.set_config(&csv_config(dir, options)).await;
}

fn put_back(bench: &Bench) {
    std::fs::rename(bench.dir.path().join("away"), bench.dir.path().join("data.csv")).unwrap();
}

/// Bytes of the records of a source as they are kept count of, and as they are.
async fn bytes(bench: &Bench) -> (i64, i64) {
    while source_bytes::count_next(&bench.db, bench.source_id).await.unwrap() != Counted::All {}
    let mut reader = bench.db.read().await.unwrap();
    let mut conn = reader.conn();
    let sql = "select sum(octet_length(cast(raw_data as text))) as n from acquired_data where source_id = $1";
    let there = conn.fetch_one(sql, &[bench.source_id.into()]).await.unwrap().int("n").unwrap();
    (source_bytes::total(&mut conn, bench.source_id).await.unwrap(), there)
}

#[tokio::test]
async fn stored_texts_get_the_types_of_today_and_keep_their_place() {
    const TEXT: &str = "id,n,s\n1,10,007\n2,1.50,b\n3,x,c\n4,,d\n5,10,e\n";
    const TYPED: &str = r#","types":{"n":"number"}"#;
    for bed in databases().await {
        for dedupe in [r#","dedupe":"rows""#, r#","dedupe":"hash""#, r#","key":"id""#, r#","dedupe":"none""#] {
            let told = format!("{} {dedupe}", bed.name);
            let bench = csv(&bed.db.with_page_rows(2), dedupe, TEXT).await;
            bench.run().await.unwrap();
            let (counted, there) = bytes(&bench).await;
            assert_eq!(counted, there, "{told}");
            let before = bench.stored().await;
            let ids: Vec<i64> = identities(&bench).await.into_iter().map(|(id, ..)| id).collect();

            without_file(&bench, &format!("{dedupe}{TYPED}")).await;
            let report = reported(&bench).await["report"].take();
            assert_eq!(
                (&report["unchanged"], &report["changed"], &report["reasons"]),
                (&0.into(), &4.into(), &serde_json::json!({"schema": 1})),
                "{told}: {report}"
            );
            assert_eq!(bench.stored().await, before, "{told}: only told");
            let result = done(&bench).await;
            assert_eq!((&result["changed"], &result["quarantined"]), (&4.into(), &1.into()), "{told}: {result}");
            assert_holds(&bed).await;
            let typed = bench.stored().await;
            let texts =
                [r#"{"id":"1","n":10,"s":"007"}"#, r#"{"id":"2","n":1.5,"s":"b"}"#, r#"{"id":"4","n":null,"s":"d"}"#];
            assert!(
                typed.len() == 4 && texts.iter().all(|text| typed.contains(&(*text).to_owned())),
                "{told}: {typed:?}"
            );
            let kept: Vec<i64> = identities(&bench).await.into_iter().map(|(id, ..)| id).collect();
            assert_eq!(kept, [ids[0], ids[1], ids[3], ids[4]], "{told}");
            let bad = ("schema".to_owned(), "held".to_owned(), r#"{"id":"3","n":"x","s":"c"}"#.to_owned());
            assert_eq!(quarantined(&bench).await, std::slice::from_ref(&bad), "{told}");
            let (counted, there) = bytes(&bench).await;
            assert_eq!(counted, there, "{told}");
            assert_eq!(done(&bench).await["unchanged"], 4, "{told}: nothing more to be found");

            // As a read by the types of today.
            let fresh = csv(&bed.db, &format!("{dedupe}{TYPED}"), TEXT).await;
            fresh.run().await.unwrap();
            assert_eq!(fresh.stored().await, typed, "{told}");

            // What did not fit comes back when it does, and goes again when it does not.
            without_file(&bench, dedupe).await;
            let back = done(&bench).await;
            assert_eq!((&back["unchanged"], &back["replayed"]), (&4.into(), &1.into()), "{told}: {back}");
            assert!(bench.stored().await.contains(&bad.2), "{told}");
            without_file(&bench, &format!("{dedupe}{TYPED}")).await;
            assert_eq!(done(&bench).await["quarantined"], 1, "{told}");
            assert_eq!(quarantined(&bench).await, [bad], "{told}");
            assert_holds(&bed).await;

            put_back(&bench);
            let read: Value = serde_json::from_str(bench.run().await.unwrap().result.get()).unwrap();
            let stored = if dedupe.contains("none") { 4 } else { 0 };
            assert_eq!(read["stored"], stored, "{told}: what is read has the same types: {read}");
            assert_holds(&bed).await;
        }
    }
}

#[tokio::test]
async fn versions_and_tombstones_follow_a_key_that_gets_a_type() {
    const DELETES: &str = r#","key":"id","deletes":"tombstone""#;
    for bed in databases().await {
        let bench = csv(&bed.db.with_page_rows(2), DELETES, "id,n\n1,a\n2,b\n3,c\n").await;
        bench.run().await.unwrap();
        std::fs::write(bench.dir.path().join("data.csv"), "id,n\n1,a2\n2,b\n").unwrap();
        bench.run().await.unwrap();
        let versions = async || -> Vec<i64> { identities(&bench).await.into_iter().map(|(.., n)| n).collect() };
        let before = versions().await;
        assert_eq!(before, [1, 1, 1, 2, 2], "{}", bed.name);
        let typed = format!(r#"{DELETES},"types":{{"id":"integer"}}"#);
        without_file(&bench, &typed).await;
        let result = done(&bench).await;
        assert_eq!((&result["changed"], &result["quarantined"]), (&5.into(), &0.into()), "{}: {result}", bed.name);
        assert_eq!(versions().await, before, "{}", bed.name);
        assert_holds(&bed).await;
        put_back(&bench);
        let read: Value = serde_json::from_str(bench.run().await.unwrap().result.get()).unwrap();
        assert_eq!((&read["duplicate"], read.get("deleted")), (&2.into(), None), "{}: {read}", bed.name);
        assert_eq!(versions().await, before, "{}", bed.name);
        assert_holds(&bed).await;
    }
}

#[tokio::test]
async fn tombstones_follow_a_new_key() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","key":"id","deletes":"tombstone""#).await;
        let line = |id: usize| format!(r#"{{"code":"c{id}","id":{id}}}"#);
        bench.write_file(&(0..4).map(line).collect::<Vec<_>>());
        bench.run().await.unwrap();
        bench.write_file(&(0..3).map(line).collect::<Vec<_>>());
        bench.run().await.unwrap();
        configure(&bench, r#","key":"code","deletes":"tombstone""#).await;
        let result = done(&bench).await;
        assert_eq!((&result["read"], &result["changed"]), (&5.into(), &5.into()), "{}: {result}", bed.name);
        let found = identities(&bench).await;
        assert_eq!(found[3].1, found[4].1, "{}: the last is gone under its new key", bed.name);
        assert_eq!((found[3].2, found[4].2), (1, 2), "{}", bed.name);
        assert_holds(&bed).await;
        bench.write_file(&(0..3).map(line).collect::<Vec<_>>());
        let read: Value = serde_json::from_str(bench.run().await.unwrap().result.get()).unwrap();
        assert_eq!((&read["duplicate"], read.get("deleted")), (&3.into(), None), "{}: {read}", bed.name);
    }
}

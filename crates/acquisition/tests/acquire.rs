//! One acquisition task from a file to the store, on both databases.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use matome_acquisition::sample;
use matome_model::source::SourceType;
use matome_store::checkpoints::{self, CheckpointKey, LIVE};
use matome_tasks::{Advice, Handler as _, StopReason, TaskContext};
use matome_testbed::databases;
use support::{Bench, canonical, count, many_lines};

#[tokio::test]
async fn a_file_is_stored_and_read_again_adds_only_its_new_rows() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, "").await;
        let mut lines = many_lines(2_500);
        bench.write_file(&lines);
        let result = bench.run().await.unwrap().result;
        assert_eq!((count(&result, "read"), count(&result, "stored")), (2_500, 2_500), "{}", bed.name);
        assert_eq!(count(&result, "pages"), 2_500_u64.div_ceil(u64::try_from(bed.db.page_rows()).unwrap()));
        let bytes = lines.iter().map(|line| line.len() as u64 + 1).sum::<u64>();
        assert_eq!((count(&result, "bytes"), count(&result, "requests")), (bytes, 0));

        let result = bench.run().await.unwrap().result;
        assert_eq!((count(&result, "stored"), count(&result, "duplicate")), (0, 2_500), "{}", bed.name);

        lines.insert(3, r#"{"new":1}"#.to_owned());
        lines.insert(1_200, lines[7].clone());
        lines.push(r#"{"new":1}"#.to_owned());
        bench.write_file(&lines);
        let result = bench.run().await.unwrap().result;
        assert_eq!((count(&result, "stored"), count(&result, "duplicate")), (3, 2_500), "{}", bed.name);
        assert_eq!(bench.stored().await, canonical(&lines));
    }
}

/// The same key at the beginning, in the middle and at the end of a file of several pages.
#[tokio::test]
async fn a_log_of_changes_adds_only_its_new_changes_when_it_is_read_again() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","key":"id""#).await;
        let state = |state: &str| format!(r#"{{"id":0,"state":"{state}"}}"#);
        let rows = bed.db.page_rows() + 100;
        let mut log = vec![state("on")];
        log.extend((1..rows).map(|id| format!(r#"{{"id":{id}}}"#)));
        log.push(state("off"));
        log.extend((rows..2 * rows).map(|id| format!(r#"{{"id":{id}}}"#)));
        log.push(state("on"));
        for (added, of) in [("", 3), ("", 0), ("off", 1), ("", 0), ("on", 1)] {
            log.extend((!added.is_empty()).then(|| state(added)));
            bench.write_file(&log);
            let result = bench.run().await.unwrap().result;
            let first = if of == 3 { 2 * rows - 1 } else { 0 };
            let stored = u64::try_from(of + first).unwrap();
            let known = u64::try_from(log.len()).unwrap() - stored;
            let (found, updated) = ((count(&result, "stored"), count(&result, "duplicate")), count(&result, "updated"));
            assert_eq!(found, (stored, known), "{}, added: {added}", bed.name);
            assert_eq!(updated, if of == 3 { 2 } else { stored }, "{}, added: {added}", bed.name);
        }
        assert_eq!(bench.stored().await, canonical(&log), "{}", bed.name);
    }
}

#[tokio::test]
async fn bad_lines_go_to_quarantine_and_good_ones_are_stored() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, "").await;
        let lines = [r#"{"a":1}"#, r#"{"a":"\u0000"}"#, r#"{"a":"\ud800"}"#, "{", r#"{"a":2}"#].map(str::to_owned);
        bench.write_file(&lines);
        let result = bench.run().await.unwrap().result;
        assert_eq!(
            (count(&result, "read"), count(&result, "stored"), count(&result, "quarantined")),
            (5, 2, 3),
            "{}",
            bed.name
        );
        let mut reader = bed.db.read().await.unwrap();
        let sql = "select reason, raw, position from quarantine order by id";
        let rows = reader.conn().fetch_all(sql, &[]).await.unwrap();
        for (row, (line, reason)) in rows.iter().zip([(2, "nul_character"), (3, "lone_surrogate"), (4, "invalid_json")])
        {
            assert_eq!(row.text("reason").unwrap(), reason);
            assert_eq!(row.bytes("raw").unwrap(), lines[line - 1].as_bytes());
            let position = row.json("position").unwrap();
            assert!(position.get().replace(' ', "").contains(&format!("\"line\":{line}")), "{position}");
        }
        let metadata = reader.conn().fetch_one("select metadata from acquired_data order by id limit 1", &[]).await;
        let metadata = metadata.unwrap().json("metadata").unwrap();
        assert!(metadata.get().contains("data.ndjson") && metadata.get().contains("\"task\""), "{metadata}");
    }
}

#[tokio::test]
async fn a_read_that_was_cut_off_ends_with_the_rows_of_one_that_was_not() {
    for bed in databases().await {
        let modes = [("rows", false), ("hash", true), ("none", false), (r#"key","key":["n","name"#, true)];
        for (dedupe, expect_once) in modes {
            let end = if dedupe.contains("key") { "]" } else { "" };
            let bench = Bench::new(&bed.db, &format!(r#","dedupe":"{dedupe}"{end}"#)).await;
            // Enough for some ten pages on either database.
            let lines = many_lines(bed.db.page_rows() * 8);
            bench.write_file(&lines);
            for pages in [1, 3] {
                let task = bench.claim().await;
                let ctx = TaskContext::new(bed.db.clone(), task.task.id, task.fence);
                let before = pages_committed(&bench).await;
                let handler = bench.handler();
                let run = tokio::spawn({
                    let task = task.clone();
                    async move { handler.run(task, ctx).await }
                });
                let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
                while pages_committed(&bench).await < before + pages && !run.is_finished() {
                    assert!(tokio::time::Instant::now() < deadline, "no page was committed");
                    tokio::task::yield_now().await;
                }
                assert!(!run.is_finished(), "it was to be cut off");
                run.abort();
                let _ = run.await;
                bench.abandon(&task).await;
            }
            bench.run().await.unwrap();
            let mut expected = canonical(&lines);
            if expect_once {
                expected.dedup();
            }
            assert!(bench.stored().await == expected, "{} {dedupe}", bed.name);
        }
    }
}

#[tokio::test]
async fn the_result_of_a_task_sums_up_what_all_its_attempts_stored() {
    for bed in databases().await {
        for dedupe in ["none", "hash", "rows"] {
            let bench = Bench::new(&bed.db, &format!(r#","dedupe":"{dedupe}""#)).await;
            let lines = many_lines(bed.db.page_rows() * 5);
            bench.write_file(&lines);
            let first = bench.claim().await;
            let (handler, ctx) = (bench.handler(), TaskContext::new(bed.db.clone(), first.task.id, first.fence));
            let (task, before) = (first.clone(), pages_committed(&bench).await);
            let run = tokio::spawn(async move { handler.run(task, ctx).await });
            while pages_committed(&bench).await < before + 2 {
                assert!(!run.is_finished(), "it was to be cut off");
                tokio::task::yield_now().await;
            }
            run.abort();
            let _ = run.await;
            let second = bench.take_over(&first).await;
            let ctx = TaskContext::new(bed.db.clone(), second.task.id, second.fence);
            let result = bench.handler().run(second, ctx).await.unwrap().result;
            let stored = u64::try_from(bench.stored().await.len()).unwrap();
            assert_eq!(count(&result, "stored"), stored, "{} {dedupe}", bed.name);
            let all = u64::try_from(lines.len()).unwrap();
            match dedupe {
                // Goes on behind the last record, so each was read once.
                "hash" => assert_eq!(count(&result, "read"), all, "{}", bed.name),
                _ => assert_eq!((count(&result, "read"), stored), (all, all), "{} {dedupe}", bed.name),
            }
            assert_eq!(
                count(&result, "read"),
                count(&result, "stored") + count(&result, "duplicate"),
                "{} {dedupe}",
                bed.name
            );
        }
    }
}

/// `dedupe: none` appends each read, so this one showed as a file stored twice.
#[tokio::test]
async fn a_worker_that_dies_after_the_last_page_has_nothing_read_again() {
    for bed in databases().await {
        for dedupe in ["rows", "hash", "none"] {
            let bench = Bench::new(&bed.db, &format!(r#","dedupe":"{dedupe}""#)).await;
            let lines: Vec<String> = (0..10).map(|n| format!("{{\"n\":{n}}}")).collect();
            bench.write_file(&lines);
            let first = bench.claim().await;
            for attempt in 0..2 {
                let task = if attempt == 0 { first.clone() } else { bench.take_over(&first).await };
                assert_eq!(task.task.id, first.task.id);
                let ctx = TaskContext::new(bed.db.clone(), task.task.id, task.fence);
                // The first time nobody hears that it ended well.
                bench.handler().run(task, ctx).await.unwrap();
            }
            assert_eq!(bench.stored().await, canonical(&lines), "{} {dedupe}", bed.name);
        }
    }
}

/// 129 to 134 of the corpus of bad input, from a file to the store.
#[tokio::test]
async fn a_key_makes_versions_and_what_has_none_goes_to_quarantine() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, r#","key":["r","a.code"]"#).await;
        let read = async |lines: &[&str]| {
            bench.write_file(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
            let result = bench.run().await.unwrap().result;
            ["stored", "updated", "duplicate", "quarantined"].map(|name| count(&result, name))
        };
        let first = [
            r#"{"r":"eu","a":{"code":1},"v":"A"}"#,
            r#"{"r":"us","a":{"code":1},"v":"A"}"#,
            r#"{"r":"eu","a":{"code":"1"},"v":"A"}"#,
            r#"{"r":"eu"}"#,
            r#"{"r":null,"a":{"code":1}}"#,
            r#"{"r":"eu","a":{"code":{}}}"#,
            r#"{"r":["eu"],"a":{"code":1}}"#,
            r#"{"r":"eu","a":1}"#,
        ];
        assert_eq!(read(&first).await, [3, 0, 0, 5], "{}", bed.name);
        assert_eq!(read(&first).await, [0, 0, 3, 5], "{}: the same delivered again", bed.name);
        let changed = r#"{"r":"eu","a":{"code":1.0},"v":"B"}"#;
        assert_eq!(read(&[changed, first[1]]).await, [1, 1, 1, 0], "{}", bed.name);
        assert_eq!(read(&[first[0]]).await, [1, 1, 0, 0], "{}: A, B, A", bed.name);
        let other = r#"{"r":"eu","a":{"code":1},"v":"C"}"#;
        assert_eq!(read(&[other, changed, changed]).await, [2, 2, 1, 0], "{}: two changes in one page", bed.name);

        let mut reader = bed.db.read().await.unwrap();
        let mut conn = reader.conn();
        let sql = "select raw_data, version from acquired_data order by id";
        let rows = conn.fetch_all(sql, &[]).await.unwrap();
        let mut versions = Vec::new();
        for row in &rows {
            let record: serde_json::Value = serde_json::from_str(row.json("raw_data").unwrap().get()).unwrap();
            if record["r"] == "eu" && record["a"]["code"] == 1 {
                versions.push((record["v"].as_str().unwrap().to_owned(), row.int("version").unwrap()));
            }
        }
        let expected: Vec<(String, i64)> = "ABACB".chars().map(String::from).zip(1..).collect();
        assert_eq!(versions, expected, "{}", bed.name);
        let sql = "select detail, raw, reason from quarantine order by id";
        let bad = conn.fetch_all(sql, &[]).await.unwrap();
        for (row, (line, found)) in bad.iter().zip([
            (3, "the key `a.code` is missing"),
            (4, "the key `r` is null"),
            (5, "the key `a.code` is an object"),
            (6, "the key `r` is an array"),
            (7, "the key `a.code` is missing"),
        ]) {
            assert_eq!(row.text("reason").unwrap(), "key");
            assert_eq!(row.bytes("raw").unwrap(), first[line].as_bytes(), "{}", bed.name);
            assert!(row.text("detail").unwrap().starts_with(found), "{}", row.text("detail").unwrap());
        }
        assert_eq!(bad.len(), 5, "{}", bed.name);
        drop(reader);

        let config = format!(r#"{{"path":"{}","key":"r"}}"#, bench.dir.path().join("data.ndjson").display());
        bench.write_file(&[first[0].to_owned(), "{}".to_owned()]);
        let shown =
            sample(&bench.registry, SourceType::File, &config, None, None, 10, Duration::from_secs(10)).await.unwrap();
        assert_eq!((shown.records.len(), shown.quarantined[0].reason), (1, "key"), "a test of the source says so");
    }
}

async fn pages_committed(bench: &Bench) -> i64 {
    let key = CheckpointKey { source_id: bench.source_id, stream: String::new(), purpose: LIVE.to_owned() };
    let mut reader = bench.db.read().await.unwrap();
    checkpoints::find(&mut reader.conn(), &key).await.unwrap().map_or(0, |checkpoint| checkpoint.page_seq)
}

#[tokio::test]
async fn a_task_that_must_stop_says_so_and_a_lost_lease_stores_nothing() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, "").await;
        bench.write_file(&many_lines(10));
        for (reason, advice) in [
            (StopReason::Drain, Advice::Interrupted),
            (StopReason::Cancelled, Advice::Interrupted),
            (StopReason::LeaseLost, Advice::Fenced),
        ] {
            let task = bench.claim().await;
            let ctx = TaskContext::new(bed.db.clone(), task.task.id, task.fence);
            ctx.stop_with(reason);
            let err = bench.handler().run(task.clone(), ctx).await.unwrap_err();
            assert_eq!(err.advice, advice, "{}", bed.name);
            bench.abandon(&task).await;
        }
        // The worker does not know yet that its lease is gone.
        let task = bench.claim().await;
        bench.abandon(&task).await;
        let ctx = TaskContext::new(bed.db.clone(), task.task.id, task.fence);
        let err = bench.handler().run(task, ctx).await.unwrap_err();
        assert_eq!(err.advice, Advice::Fenced, "{}", bed.name);
        assert!(bench.stored().await.is_empty());
    }
}

#[tokio::test]
async fn a_read_that_fails_keeps_its_pages_and_says_why() {
    for bed in databases().await {
        let bench = Bench::new(&bed.db, "").await;
        let err = bench.run().await.unwrap_err();
        assert_eq!((err.advice, err.reason.as_str()), (Advice::Fail, "no_file"), "{}", bed.name);
        assert!(err.message.english.contains("data.ndjson"), "{}", err.message);
        assert_eq!(count(err.result.as_deref().unwrap(), "read"), 0);

        let draft = Bench::with_config(&bed.db, tempfile::TempDir::new().unwrap(), SourceType::File, "{}").await;
        let err = draft.run().await.unwrap_err();
        assert_eq!((err.advice, err.reason.as_str()), (Advice::Fail, "draft"));

        // A directory behind good files: their rows are stored, the failure names the place.
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::write(root.join("1.csv"), "a,b\n1,2\n").unwrap();
        std::fs::write(root.join("2.csv"), "a,a\n1,2\n").unwrap();
        let config = format!(r#"{{"path":"{}/*.csv"}}"#, root.display());
        let files = Bench::with_config(&bed.db, dir, SourceType::File, &config).await;
        let err = files.run().await.unwrap_err();
        assert_eq!(err.advice, Advice::Fail, "{err:?}");
        assert!(err.position.as_ref().unwrap().get().contains("2.csv"), "{err:?}");
        assert_eq!(count(err.result.as_deref().unwrap(), "stored"), 1);
        assert_eq!(files.stored().await, [r#"{"a":"1","b":"2"}"#]);
    }
}

#[tokio::test]
async fn a_sample_shows_the_first_records_and_stores_nothing() {
    let dir = tempfile::TempDir::new().unwrap();
    let root = dir.path().canonicalize().unwrap();
    std::fs::write(root.join("a.ndjson"), "{\"b\":1.0,\"a\":2}\n{\n{\"c\":3}\n{\"d\":4}\n").unwrap();
    let config = format!(r#"{{"path":"{}/a.ndjson"}}"#, root.display());
    let registry = support::registry(&root);
    let limit = Duration::from_secs(10);
    let found = sample(&registry, SourceType::File, &config, None, None, 3, limit).await.unwrap();
    let records: Vec<&str> = found.records.iter().map(|record| record.get()).collect();
    assert_eq!(records, [r#"{"a":2,"b":1}"#, r#"{"c":3}"#]);
    let [bad] = &found.quarantined[..] else { panic!("{:?}", found.quarantined) };
    assert_eq!((bad.reason, bad.raw.as_str(), found.complete), ("invalid_json", "{", false));
    assert!(sample(&registry, SourceType::File, &config, None, None, 10, limit).await.unwrap().complete);
    let err = sample(&registry, SourceType::File, "{}", None, None, 1, limit).await.unwrap_err();
    assert!(err.to_string().contains("draft"), "{err}");
}

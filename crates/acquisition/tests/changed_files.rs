//! Sources of several files read only what is new or changed, and store what a read of everything would.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::io::Write as _;
use std::path::Path;

use matome_model::source::SourceType;
use matome_store::db::Db;
use matome_testbed::databases;
use support::{Bench, canonical, count};
use tempfile::TempDir;

async fn bench(db: &Db, options: &str) -> Bench {
    Bench::with_config(db, TempDir::new().unwrap(), SourceType::File, &format!(r#"{{"path":"*.ndjson"{options}}}"#))
        .await
}

fn write(bench: &Bench, name: &str, lines: &[&str]) {
    fs::write(bench.dir.path().join(name), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

fn append(bench: &Bench, name: &str, text: &str) {
    fs::File::options().append(true).open(bench.dir.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap();
}

/// What is read, stored and passed over.
async fn run(bench: &Bench) -> (u64, u64, u64) {
    let result = bench.run().await.unwrap().result;
    (count(&result, "read"), count(&result, "stored"), count(&result, "not_modified"))
}

const X: &str = r#"{"v":"x"}"#;
const Y: &str = r#"{"v":"y"}"#;
const Z: &str = r#"{"v":"z"}"#;

#[tokio::test]
async fn equal_rows_of_new_files_and_of_what_is_added_are_all_kept() {
    for bed in databases().await {
        let bench = bench(&bed.db, "").await;
        write(&bench, "a.ndjson", &[X, Y]);
        write(&bench, "b.ndjson", &[X]);
        assert_eq!(run(&bench).await, (3, 3, 0), "{}", bed.name);
        assert_eq!(run(&bench).await, (0, 0, 2), "nothing changed: {}", bed.name);
        write(&bench, "c.ndjson", &[X, Z, X]);
        assert_eq!(run(&bench).await, (3, 3, 2), "a new file: {}", bed.name);
        append(&bench, "b.ndjson", &format!("{X}\n{Y}\n"));
        assert_eq!(run(&bench).await, (2, 2, 2), "rows were added: {}", bed.name);
        // One row of a file went and one came: only a read of everything tells how many equal ones there are.
        write(&bench, "a.ndjson", &[X, Z]);
        assert_eq!(run(&bench).await, (8, 1, 0), "a file was written anew: {}", bed.name);
        assert_eq!(run(&bench).await, (0, 0, 3), "{}", bed.name);
        fs::remove_file(bench.dir.path().join("c.ndjson")).unwrap();
        assert_eq!(run(&bench).await, (0, 0, 2), "a file is gone: {}", bed.name);
        let all = [X, X, X, X, X, Y, Y, Z, Z].map(str::to_owned);
        let mut stored = bench.stored().await;
        stored.sort();
        assert_eq!(stored.len(), 9, "{}", bed.name);
        let expected: Vec<String> = canonical(&all);
        let differs = stored.iter().filter(|row| !expected.contains(row)).count();
        assert_eq!(differs, 0, "{}", bed.name);
    }
}

#[tokio::test]
async fn a_log_gives_its_new_lines_only_and_a_half_one_again() {
    for bed in databases().await {
        let bench = bench(&bed.db, r#","dedupe":"none""#).await;
        write(&bench, "a.ndjson", &[X, Y]);
        assert_eq!(run(&bench).await, (2, 2, 0), "{}", bed.name);
        append(&bench, "a.ndjson", &format!("{Z}\n{X}"));
        assert_eq!(run(&bench).await, (2, 2, 0), "{}", bed.name);
        append(&bench, "a.ndjson", "\n");
        // The last line had no end, so it may not have been all of it.
        assert_eq!(run(&bench).await, (1, 1, 0), "{}", bed.name);
        assert_eq!(run(&bench).await, (0, 0, 1), "{}", bed.name);
        // Rotated: the old log has another name, with a line that came last, and the new one begins anew.
        append(&bench, "a.ndjson", &format!("{X}\n"));
        fs::rename(bench.dir.path().join("a.ndjson"), bench.dir.path().join("a.1")).unwrap();
        write(&bench, "a.ndjson", &[Y]);
        assert_eq!(run(&bench).await, (2, 2, 0), "{}", bed.name);
        assert_eq!(run(&bench).await, (0, 0, 1), "{}", bed.name);
        // Cut off and written on: all of it is new.
        write(&bench, "a.ndjson", &[]);
        assert_eq!(run(&bench).await, (0, 0, 0), "{}", bed.name);
        append(&bench, "a.ndjson", &format!("{Z}\n"));
        assert_eq!(run(&bench).await, (1, 1, 0), "{}", bed.name);
    }
}

#[tokio::test]
async fn rows_of_a_rotated_file_are_stored_once_and_equal_ones_of_the_new_one_too() {
    for bed in databases().await {
        let bench = bench(&bed.db, r#","dedupe":"rows""#).await;
        write(&bench, "a.ndjson", &[X, Y, X]);
        assert_eq!(run(&bench).await, (3, 3, 0), "{}", bed.name);
        append(&bench, "a.ndjson", &format!("{Z}\n"));
        fs::rename(bench.dir.path().join("a.ndjson"), bench.dir.path().join("a.1.ndjson")).unwrap();
        write(&bench, "a.ndjson", &[Y, Y]);
        assert_eq!(run(&bench).await, (3, 3, 0), "{}", bed.name);
        assert_eq!(run(&bench).await, (0, 0, 2), "{}", bed.name);
        // A file that takes the place of one that the pattern does not match any more has its equal rows counted.
        fs::rename(bench.dir.path().join("a.ndjson"), bench.dir.path().join("a.2")).unwrap();
        write(&bench, "a.ndjson", &[Y, Z]);
        assert_eq!(run(&bench).await, (6, 1, 0), "{}", bed.name);
        assert_eq!(bench.stored().await.len(), 7, "{}", bed.name);
    }
}

#[tokio::test]
async fn hashes_and_keys_pass_over_what_did_not_change() {
    for bed in databases().await {
        // What is known by its key may have changed at any place.
        for (options, added) in [(r#","dedupe":"hash""#, (1, 1, 1)), (r#","key":"v""#, (2, 1, 1))] {
            let bench = bench(&bed.db, options).await;
            write(&bench, "a.ndjson", &[X, Y]);
            write(&bench, "b.ndjson", &[X]);
            assert_eq!(run(&bench).await, (3, 2, 0), "{} {options}", bed.name);
            append(&bench, "b.ndjson", &format!("{Z}\n"));
            assert_eq!(run(&bench).await, added, "{} {options}", bed.name);
        }
        let all = bench(&bed.db, r#","files":"all""#).await;
        write(&all, "a.ndjson", &[X, Y]);
        assert_eq!(run(&all).await, (2, 2, 0));
        assert_eq!(run(&all).await, (2, 0, 0), "asked for");
    }
}

fn many(path: &Path, rows: usize) {
    let text: String = (0..rows).map(|n| format!("{{\"n\":{}}}\n", n % (rows / 2))).collect();
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_read_of_new_files_that_was_cut_off_stores_each_row_once() {
    for bed in databases().await {
        for dedupe in ["rows", "none", "hash"] {
            let bench = bench(&bed.db, &format!(r#","dedupe":"{dedupe}""#)).await;
            let rows = bed.db.page_rows() * 6;
            many(&bench.dir.path().join("a.ndjson"), rows);
            bench.run().await.unwrap();
            // The same rows again, in files that are new.
            for name in ["b.ndjson", "c.ndjson"] {
                many(&bench.dir.path().join(name), rows);
            }
            for pages in [1, 7] {
                bench.cut_off(pages).await;
            }
            let result = bench.run().await.unwrap().result;
            let expected = if dedupe == "hash" { rows / 2 } else { rows * 3 };
            assert_eq!(bench.stored().await.len(), expected, "{} {dedupe}", bed.name);
            assert!(count(&result, "read") < u64::try_from(rows * 2).unwrap(), "{} {dedupe}: it went on", bed.name);
            assert_eq!(run(&bench).await, (0, 0, 3), "{} {dedupe}", bed.name);
        }
    }
}

#[tokio::test]
async fn a_longer_file_in_the_place_of_one_that_was_begun_fails_one_task_and_all_of_it_is_stored() {
    let lines = |word: &str, rows: usize| (0..rows).map(|n| format!("{{\"{word}\":{n}}}\n")).collect::<String>();
    for bed in databases().await {
        for dedupe in ["rows", "none"] {
            let bench = bench(&bed.db, &format!(r#","dedupe":"{dedupe}""#)).await;
            write(&bench, "a.ndjson", &[X, Y]);
            bench.run().await.unwrap();
            let (path, rows) = (bench.dir.path().join("b.ndjson"), bed.db.page_rows() * 6);
            fs::write(&path, lines("old", rows)).unwrap();
            bench.cut_off(1).await;
            fs::write(&path, lines("new", rows + 1)).unwrap();
            let error = bench.run().await.unwrap_err();
            assert!(format!("{error:?}").contains("file_changed"), "{} {dedupe}: {error:?}", bed.name);
            bench.run().await.unwrap();
            let stored = bench.stored().await;
            let times = |part: &str| stored.iter().filter(|row| row.contains(part)).count();
            let old = times("old");
            assert!(old > 0 && old < rows, "{} {dedupe}: {old}", bed.name);
            assert_eq!((times("new"), stored.len()), (rows + 1, rows + 3 + old), "{} {dedupe}", bed.name);
            assert_eq!(run(&bench).await, (0, 0, 2), "{} {dedupe}", bed.name);
        }
    }
}

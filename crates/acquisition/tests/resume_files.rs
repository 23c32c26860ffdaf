//! A read of files that was cut off goes on inside of them and stores what an undisturbed one does, also where records of a whole
//! read are compared with what is stored: by their keys, or counted.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;

use futures::StreamExt as _;
use matome_model::canonical::Canonicaliser;
use matome_model::source::SourceType;
use matome_store::acquired_data;
use matome_store::db::Db;
use matome_tasks::Advice;
use matome_testbed::databases;
use support::{Bench, count};
use tempfile::TempDir;

/// Records of a page, so that a file has many.
const PAGE: usize = 100;
/// Ids of a file.
const IDS: usize = 6 * PAGE;

/// `rows` are counted, the others are known by `id`.
const MODES: [&str; 2] = [r#","dedupe":"rows""#, r#","key":"id""#];

async fn bench(db: &Db, options: &str) -> Bench {
    let config = format!(r#"{{"path":"*.ndjson"{options}}}"#);
    Bench::with_config(&db.with_page_rows(PAGE), TempDir::new().unwrap(), SourceType::File, &config).await
}

/// Each id with each of these values, all ids with the first, then all with the second.
fn text(ids: usize, values: &[&str]) -> String {
    let all = values.iter().flat_map(|value| (0..ids).map(move |id| (id, value)));
    all.map(|(id, value)| format!("{{\"id\":{id},\"v\":\"{value}\"}}\n")).collect()
}

fn write(bench: &Bench, name: &str, text: &str) {
    fs::write(bench.dir.path().join(name), text).unwrap();
}

fn append(bench: &Bench, name: &str, text: &str) {
    fs::File::options().append(true).open(bench.dir.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap();
}

async fn run(bench: &Bench) -> (u64, u64) {
    let result = bench.run().await.unwrap().result;
    (count(&result, "read"), count(&result, "stored"))
}

/// All that is stored: of each identity the versions in their order.
async fn versions(bench: &Bench) -> BTreeMap<(Option<Vec<u8>>, i64), String> {
    let mut reader = bench.db.read().await.unwrap();
    let mut conn = reader.conn();
    let rows: Vec<_> = acquired_data::stream(&mut conn, bench.source_id, i64::MAX).collect().await;
    let mut canonicaliser = Canonicaliser::default();
    let mut text = |raw: &str| canonicaliser.canonicalise(raw.as_bytes()).unwrap().text.to_owned();
    rows.into_iter().map(Result::unwrap).map(|row| ((row.key, row.version), text(&row.raw_data))).collect()
}

/// How often each text is stored, or how the values of each id follow each other.
async fn values(bench: &Bench) -> BTreeMap<String, String> {
    let mut values = BTreeMap::<String, String>::new();
    for text in versions(bench).await.into_values() {
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        *values.entry(record["id"].to_string()).or_default() += record["v"].as_str().unwrap();
    }
    values
}

#[tokio::test]
async fn a_read_of_a_large_file_that_was_cut_off_goes_on_in_it_and_stores_what_an_undisturbed_one_does() {
    for bed in databases().await {
        for (options, files) in [(MODES[0], "changed"), (MODES[0], "all"), (MODES[1], "changed")] {
            let options = format!(r#"{options},"files":"{files}""#);
            let (disturbed, undisturbed) = (bench(&bed.db, &options).await, bench(&bed.db, &options).await);
            // Contents that come back, in one read and in a later one, so that much of it waits for the end of the read.
            for values in [vec!["a", "b", "a"], vec!["b", "a", "b", "c"]] {
                let (text, told) = (text(IDS, &values), format!("{} {options} {values:?}", bed.name));
                write(&disturbed, "x.ndjson", &text);
                write(&undisturbed, "x.ndjson", &text);
                let rows = u64::try_from(IDS * values.len()).unwrap();
                assert_eq!(run(&undisturbed).await.0, rows, "{told}");
                disturbed.cut_off(3).await;
                disturbed.cut_off(5).await;
                let read = run(&disturbed).await.0;
                assert!(read <= rows - rows / 3, "{told}: it read {read} of {rows}");
                assert!(versions(&disturbed).await == versions(&undisturbed).await, "{told}");
            }
            let read = if files == "all" { u64::try_from(IDS * 4).unwrap() } else { 0 };
            assert_eq!(run(&disturbed).await, (read, 0), "{} {options}", bed.name);
        }
    }
}

#[tokio::test]
async fn a_compressed_file_is_passed_over_as_far_as_it_was_read() {
    for bed in databases().await {
        for options in MODES {
            let (disturbed, undisturbed) = (bench(&bed.db, options).await, bench(&bed.db, options).await);
            let text = text(IDS, &["a", "b", "a"]);
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(text.as_bytes()).unwrap();
            let packed = packed.finish().unwrap();
            for bench in [&disturbed, &undisturbed] {
                fs::write(bench.dir.path().join("x.ndjson"), &packed).unwrap();
            }
            let (rows, _) = run(&undisturbed).await;
            disturbed.cut_off(9).await;
            let read = run(&disturbed).await.0;
            assert!(read <= rows / 2, "{} {options}: it read {read} of {rows}", bed.name);
            assert!(versions(&disturbed).await == versions(&undisturbed).await, "{} {options}", bed.name);
        }
    }
}

#[tokio::test]
async fn versions_do_not_go_back_where_a_file_is_another_one_by_now() {
    for bed in databases().await {
        let bench = bench(&bed.db, r#","key":"id""#).await;
        let first = |value: &str| format!("{{\"id\":\"first\",\"v\":\"{value}\"}}\n");
        write(&bench, "x.ndjson", &(first("a") + &text(IDS, &["a", "b"])));
        // Some ids have had both values by then.
        bench.cut_off(8).await;
        write(&bench, "x.ndjson", &(first("b") + &text(IDS, &["a", "b", "c"])));
        let error = bench.run().await.unwrap_err();
        assert!(format!("{error:?}").contains("file_changed"), "{}: {error:?}", bed.name);
        assert!(matches!(error.advice, Advice::Retry { .. }), "{}: the task begins anew by itself", bed.name);
        run(&bench).await;
        let values = values(&bench).await;
        assert_eq!((values.len(), values["\"first\""].as_str()), (IDS + 1, "ab"), "{}", bed.name);
        let others = values.iter().filter(|(id, _)| *id != "\"first\"");
        assert_eq!(others.filter(|(_, values)| *values != "abc").count(), 0, "{}", bed.name);
        assert_eq!(run(&bench).await, (0, 0), "{}", bed.name);
    }
}

#[tokio::test]
async fn a_file_that_grew_behind_a_read_that_was_cut_off_is_for_the_next_read() {
    for bed in databases().await {
        let bench = bench(&bed.db, r#","key":"id""#).await;
        write(&bench, "a.ndjson", &text(IDS, &["a", "b"]));
        write(&bench, "b.ndjson", &text(IDS, &["b", "c"]));
        bench.cut_off(15).await;
        append(&bench, "a.ndjson", "{\"id\":0,\"v\":\"z\"}\n");
        run(&bench).await;
        assert_eq!(values(&bench).await.values().filter(|all| *all != "abc").count(), 0, "{}", bed.name);
        let read = run(&bench).await.0;
        assert_eq!(read, u64::try_from(IDS * 2 + 1).unwrap(), "{}", bed.name);
        assert!(values(&bench).await["0"].ends_with('z'), "{}", bed.name);
    }
}

#[tokio::test]
async fn what_changed_in_a_part_that_was_read_before_a_read_was_cut_off_is_found_by_the_next_one() {
    for bed in databases().await {
        for options in MODES {
            let bench = bench(&bed.db, options).await;
            let text = text(3 * IDS, &["a"]);
            write(&bench, "x.ndjson", &text);
            bench.cut_off(8).await;
            // Between the bytes that tell one file from another, and longer at its end.
            let (line, changed) = ("{\"id\":400,\"v\":\"a\"}", "{\"id\":400,\"v\":\"b\"}");
            assert!(text.find(line).is_some_and(|at| at > 4096), "{}", bed.name);
            write(&bench, "x.ndjson", &format!("{}{{\"id\":-1,\"v\":\"a\"}}\n", text.replace(line, changed)));
            run(&bench).await;
            let told = format!("{} {options}", bed.name);
            assert_eq!(values(&bench).await["-1"], "a", "{told}");
            run(&bench).await;
            assert!(values(&bench).await["400"].contains('b'), "{told}");
            assert_eq!(run(&bench).await, (0, 0), "{told}");
        }
    }
}

#[tokio::test]
async fn a_read_of_added_rows_that_was_cut_off_counts_all_of_them_when_a_file_was_written_anew_meanwhile() {
    for bed in databases().await {
        let (disturbed, undisturbed) = (bench(&bed.db, MODES[0]).await, bench(&bed.db, MODES[0]).await);
        for bench in [&disturbed, &undisturbed] {
            write(bench, "a.ndjson", &text(10, &["a", "b"]));
            run(bench).await;
            write(bench, "b.ndjson", &text(IDS, &["a", "a"]));
        }
        disturbed.cut_off(3).await;
        for bench in [&disturbed, &undisturbed] {
            write(bench, "a.ndjson", &text(10, &["b", "b", "a"]));
        }
        // It is cut off once more, in the read of all that is begun anew.
        disturbed.cut_off(4).await;
        run(&disturbed).await;
        run(&undisturbed).await;
        let (stored, expected) = (disturbed.stored().await, undisturbed.stored().await);
        assert_eq!(stored.len(), expected.len(), "{}", bed.name);
        assert!(stored == expected, "{}", bed.name);
        assert_eq!(run(&disturbed).await, (0, 0), "{}", bed.name);
    }
}

//! The supervisor against children that are not the engine: they show how each way of failing is told.

use std::fs;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array};
use arrow_ipc::writer::StreamWriter;
use matome_model::engine::{Failure, FailureCode, Schema};
use tempfile::TempDir;

use super::*;

/// An engine whose children are `/bin/sh -c script`.
fn shell(script: &str) -> (Engine, TempDir) {
    let root = tempfile::tempdir().unwrap();
    let settings = EngineSettings {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        scratch_root: root.path().join("scratch"),
        slots: 1,
    };
    (Engine::new(settings), root)
}

fn frame(frame: Frame, payload: &[u8]) -> Vec<u8> {
    [&frame.head(u32::try_from(payload.len()).unwrap())[..], payload].concat()
}

/// An engine whose children send `frames`, whatever they are asked.
fn canned(frames: &[Vec<u8>]) -> (Engine, TempDir) {
    let root = tempfile::tempdir().unwrap();
    let answer = root.path().join("answer");
    fs::write(&answer, frames.concat()).unwrap();
    let settings = EngineSettings {
        program: "/bin/cat".into(),
        arguments: vec![answer.into()],
        scratch_root: root.path().join("scratch"),
        slots: 1,
    };
    (Engine::new(settings), root)
}

fn limits(seconds: u64) -> Limits {
    Limits { seconds, ..Limits::default() }
}

fn header() -> Vec<u8> {
    frame(Frame::Header, &serde_json::to_vec(&RunHeader { inputs: vec![] }).unwrap())
}

#[tokio::test]
async fn refusal_of_the_child_is_passed_on() {
    let failure = Failure::new(FailureCode::Refused, ("no table is called `x`", "無い"), ("did you mean `y`?", ""));
    let (engine, _root) = canned(&[frame(Frame::Failure, &serde_json::to_vec(&failure).unwrap())]);
    let err = engine.validate("select * from x").await.unwrap_err();
    assert!(matches!(err, EngineError::Refused { .. }), "{err:?}");
    assert_eq!(err.to_string(), "no table is called `x` (did you mean `y`?)");
    assert!(!err.retryable());
}

#[tokio::test]
async fn rows_come_in_pages_until_the_trailer() {
    let batch = |from: i64| {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 4));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    };
    let mut arrow = Vec::new();
    let mut writer = StreamWriter::try_new(&mut arrow, &batch(0).schema()).unwrap();
    writer.write(&batch(0)).unwrap();
    writer.write(&batch(4)).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let trailer = RunTrailer { rows: 8, bytes: 64, truncated: false, plan: "plan".to_owned(), elapsed_ms: 1 };
    // Pieces end anywhere.
    let mut frames = vec![header()];
    frames.extend(arrow.chunks(7).map(|piece| frame(Frame::Arrow, piece)));
    frames.push(frame(Frame::Trailer, &serde_json::to_vec(&trailer).unwrap()));
    let (engine, _root) = canned(&frames);

    let mut rows =
        engine.prepare().await.unwrap().run("select n from t", BTreeMap::new(), limits(60), None).await.unwrap();
    assert_eq!(rows.next_page(3, 1_000).await.unwrap().unwrap(), [r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#]);
    assert_eq!(rows.next_page(10, 14).await.unwrap().unwrap(), [r#"{"n":3}"#, r#"{"n":4}"#]);
    assert_eq!(rows.next_page(10, 1).await.unwrap().unwrap().len(), 1);
    assert_eq!(rows.next_page(10, 1_000).await.unwrap().unwrap().len(), 2);
    assert_eq!(rows.next_page(10, 1_000).await.unwrap(), None);
    assert_eq!(rows.next_page(10, 1_000).await.unwrap(), None);
    assert_eq!(rows.summary(), Some(&trailer));
}

#[tokio::test]
async fn child_that_ends_early_is_told_with_its_last_words() {
    let (engine, _root) = shell("echo oh no >&2; exit 3");
    let err = engine.validate("select 1").await.unwrap_err();
    let told = err.to_string();
    assert!(told.starts_with("the SQL engine ended with code 3 ("), "{told}");
    assert!(told.ends_with("; it wrote: oh no"), "{told}");
    assert!(err.retryable());
}

#[tokio::test]
async fn result_without_its_trailer_is_an_error() {
    let (engine, _root) = canned(&[header()]);
    let mut rows = engine.prepare().await.unwrap().run("select 1", BTreeMap::new(), limits(60), None).await.unwrap();
    let err = rows.next_page(10, 10).await.unwrap_err();
    assert!(matches!(err, EngineError::Crashed { .. }), "{err:?}");
}

#[tokio::test]
async fn signals_are_told_as_what_they_mean() {
    for (script, words) in [
        ("kill -9 $$", "was killed from outside"),
        ("echo memory allocation of 9 bytes failed >&2; kill -6 $$", "ran out of memory"),
        ("echo thread has overflowed its stack >&2; kill -6 $$", "overflowed its stack"),
        ("kill -24 $$", "processor time"),
        ("kill -4 $$", "was ended by signal 4"),
    ] {
        let (engine, _root) = shell(script);
        let err = engine.validate("select 1").await.unwrap_err();
        assert!(err.to_string().contains(words), "{script}: {err}");
    }
}

#[tokio::test]
async fn late_child_is_killed_and_its_folder_removed() {
    let (engine, root) = shell("exec /bin/sleep 1000");
    let mut preparation = engine.prepare().await.unwrap();
    let scratch = preparation.scratch().to_owned();
    preparation.table(Table { schema: Schema::Sources, name: "t".to_owned() }).await.unwrap();
    let err = preparation.run("select 1", BTreeMap::new(), limits(0), None).await.unwrap_err();
    assert!(matches!(err, EngineError::Limit { code: FailureCode::TimeLimit, .. }), "{err:?}");
    assert!(!scratch.exists());
    drop(engine);
    assert_eq!(fs::read_dir(root.path().join("scratch")).unwrap().count(), 0);
}

#[tokio::test]
async fn validation_does_not_wait_for_runs() {
    let failure = Failure::new(FailureCode::Query, ("x", "x"), ("", ""));
    let (engine, _root) = canned(&[frame(Frame::Failure, &serde_json::to_vec(&failure).unwrap())]);
    let run = engine.prepare().await.unwrap();
    assert!(engine.validate("select 1").await.is_err());
    drop(run);
    engine.prepare().await.unwrap();
}

#[tokio::test]
async fn noise_is_no_frame() {
    let (engine, _root) = shell("echo hello world; exec /bin/sleep 1000");
    let err = engine.validate("select 1").await.unwrap_err();
    assert_eq!(err.to_string(), "the SQL engine failed: the child sent what is no frame");
}

#[tokio::test]
async fn missing_program_is_named() {
    let root = tempfile::tempdir().unwrap();
    let settings = EngineSettings {
        program: "/no/such/program".into(),
        arguments: vec![],
        scratch_root: root.path().to_owned(),
        slots: 1,
    };
    let err = Engine::new(settings).validate("select 1").await.unwrap_err();
    assert_eq!(err.to_string(), "the SQL engine `/no/such/program` cannot be started");
}

#[tokio::test]
async fn child_gets_no_environment_and_its_own_folder() {
    let (engine, _root) = shell("/usr/bin/env >&2; pwd >&2; exit 1");
    let err = engine.validate("select 1").await.unwrap_err();
    let EngineError::Crashed { stderr, .. } = &err else { panic!("{err:?}") };
    let unexpected =
        stderr.lines().filter(|line| !["PWD=", "_=", "SHLVL=", "OLDPWD="].iter().any(|own| line.starts_with(own)));
    let lines: Vec<&str> = unexpected.collect();
    assert!(matches!(lines.as_slice(), [folder] if folder.contains("/scratch/engine-")), "{stderr}");
}

#[tokio::test]
async fn waiting_child_that_died_is_replaced() {
    let failure = Failure::new(FailureCode::Query, ("x", "x"), ("", ""));
    let (engine, _root) = canned(&[frame(Frame::Failure, &serde_json::to_vec(&failure).unwrap())]);
    // `cat` does not wait for a request, so each child that was started ahead may be gone by the time it is wanted.
    for _ in 0..5 {
        let err = engine.validate("select 1").await.unwrap_err();
        assert!(matches!(err, EngineError::Query { .. }), "{err:?}");
    }
}

#[tokio::test]
async fn spooled_rows_are_lines_with_tabs() {
    let (engine, _root) = shell("read x");
    let mut preparation = engine.prepare().await.unwrap();
    let mut spool = preparation.table(Table { schema: Schema::Sources, name: "t".to_owned() }).await.unwrap();
    let time = chrono::DateTime::from_timestamp_micros(5).unwrap();
    let identity = super::Identity { hash: "abc", key: Some(&[0, 255]), version: 2 };
    spool.row(1, time, Some(identity), "{\"a\":\n\"\\n\"}").await.unwrap();
    spool.row(2, time, None, "{}").await.unwrap();
    assert_eq!(spool.finish().await.unwrap(), 2);
    let text = fs::read_to_string(preparation.scratch().join("table-0")).unwrap();
    assert_eq!(text, "1\t5\tabc\t2\t00ff\t{\"a\": \"\\n\"}\n2\t5\t\t\t\t{}\n");
}

#[test]
fn leftovers_are_cleared_and_others_kept() {
    let (engine, root) = shell("true");
    engine.clear_scratch().unwrap();
    let scratch = root.path().join("scratch");
    fs::create_dir_all(scratch.join("engine-old/inner")).unwrap();
    fs::create_dir_all(scratch.join("other")).unwrap();
    engine.clear_scratch().unwrap();
    assert!(!scratch.join("engine-old").exists() && scratch.join("other").exists());
}

//! What stores and directories of servers have in common: patterns, what is new, and what is not there.

use matome_connector::{Advice, ConnectorError, PlaceFault, ReadRequest};
use serde_json::{Value, json};

use super::peer::{connector_to_all_of_here, told};
use super::same::read;
use super::stands::{Azure, Gcs, S3, Sftp, Stand};
use crate::reading::read_until;

async fn failure(config: &Value) -> ConnectorError {
    let (read, error) = super::peer::read(&*connector_to_all_of_here(&config.to_string())).await;
    assert!(read.is_empty(), "{read:?}");
    error.unwrap()
}

/// What a pattern matches, hidden names apart, in the order of the names.
async fn patterns_match_as_in_a_directory(stand: &impl Stand) {
    for name in ["a.csv", "b.csv", "c 1+2.csv", "d.txt", ".h.csv", "sub/e.csv", "sub/deep/f.csv", ".x/g.csv", "東.csv"]
    {
        stand.put(&format!("in/{name}"), format!("n\n{name}\n").as_bytes());
    }
    stand.put("inner.csv", b"n\ninner\n");
    for (pattern, names) in [
        ("in/*.csv", vec!["a.csv", "b.csv", "c 1+2.csv", "東.csv"]),
        ("in/[ab].csv", vec!["a.csv", "b.csv"]),
        ("in/{a,d}.*", vec!["a.csv", "d.txt"]),
        ("in/**/*.csv", vec!["a.csv", "b.csv", "c 1+2.csv", "sub/deep/f.csv", "sub/e.csv", "東.csv"]),
        ("in/*/e.csv", vec!["sub/e.csv"]),
        ("in/.*.csv", vec![".h.csv"]),
        ("in*.csv", vec!["inner"]),
        ("*/sub/?.csv", vec!["sub/e.csv"]),
    ] {
        let read = read(stand, pattern, &json!({"format": "csv"})).await;
        let wanted: Vec<String> = names.iter().map(|name| format!(r#"{{"n":"{name}"}}"#)).collect();
        assert_eq!(read, wanted, "{pattern}");
    }
}

/// Only what is new or another version is read again.
async fn only_what_changed_is_read_again(stand: &impl Stand) {
    let mut checkpoint = None;
    let mut reads = Vec::new();
    // Some servers tell whole seconds, so the size changes with each version, too.
    let steps: [&[(&str, &str)]; 4] = [&[("a", "1"), ("b", "2")], &[], &[("b", "33")], &[("c", "444")]];
    for step in steps {
        for (name, value) in step {
            stand.put(&format!("{name}.csv"), format!("n\n{value}\n").as_bytes());
        }
        let config = stand.config("*.csv").to_string();
        let request = ReadRequest { checkpoint: checkpoint.take(), ..ReadRequest::default() };
        let (read, error) = read_until(&*connector_to_all_of_here(&config), request).await;
        assert!(error.is_none(), "{}", told(&error.unwrap()));
        checkpoint = Some(read.last().unwrap().checkpoint.clone());
        let not_modified: u64 = read.iter().map(|batch| batch.stats.not_modified).sum();
        let items = crate::support::shown(read.into_iter().flat_map(|batch| batch.items));
        reads.push((items.join(" "), not_modified));
    }
    let wanted = [(r#"{"n":"1"} {"n":"2"}"#, 0), ("", 2), (r#"{"n":"33"}"#, 1), (r#"{"n":"444"}"#, 2)];
    assert_eq!(reads, wanted.map(|(text, count)| (text.to_owned(), count)));
}

async fn what_is_not_there_is_told(stand: &impl Stand) {
    stand.put("there.csv", b"n\n1\n");
    for name in ["missing.csv", "missing-*.csv", "missing/**/*.csv"] {
        let config = stand.config(name);
        let error = failure(&config).await;
        assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::Missing, .. }), "{name}: {error:?}");
        assert!(error.advice() == Advice::Fail && told(&error).contains("`path`"), "{}", told(&error));
        let path = config["path"].as_str().unwrap();
        assert!(told(&error).contains(path.rsplit('/').next().unwrap()), "{}", told(&error));
    }
}

async fn as_a_place<S: Stand>(stand: impl Fn() -> S) {
    patterns_match_as_in_a_directory(&stand()).await;
    only_what_changed_is_read_again(&stand()).await;
    what_is_not_there_is_told(&stand()).await;
}

#[tokio::test]
async fn s3() {
    as_a_place(S3::new).await;
}

#[tokio::test]
async fn google() {
    as_a_place(Gcs::new).await;
}

#[tokio::test]
async fn azure() {
    as_a_place(Azure::new).await;
}

#[tokio::test]
async fn sftp() {
    as_a_place(Sftp::new).await;
}

//! What stores and directories of servers have in common: patterns, what is new, and what is not there.

use std::time::Duration;

use matome_connector::{Advice, ConnectorError, PlaceFault, ReadRequest};
use matome_model::source::SourceType;
use serde_json::{Value, json};

use super::peer::{connector_to_all_of_here, registry_to_all_of_here, told};
use super::same::read;
use super::stands::{Azure, Gcs, S3, Sftp, Stand};
use crate::compressed::gzip;
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
async fn only_what_changed_is_read_again(stand: &impl Stand, path: &str) {
    let mut checkpoint = None;
    let mut reads = Vec::new();
    // Some servers tell whole seconds, so the size changes with each version, too.
    let steps: [&[(&str, &str)]; 4] = [&[("a", "1"), ("b", "2")], &[], &[("b", "33")], &[("c", "444")]];
    for step in steps {
        for (name, value) in step {
            stand.put(&format!("{name}.csv"), format!("n\n{value}\n").as_bytes());
        }
        let mut config = stand.config(path);
        config["format"] = "csv".into();
        let config = config.to_string();
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

/// One object is asked for under the condition that it is another version.
async fn one_is_read_when_it_changed(stand: &impl Stand) {
    let mut checkpoint = None;
    for (value, read_again) in [("1", true), ("1", false), ("22", true), ("22", false)] {
        if read_again {
            stand.put("one.csv", format!("n\n{value}\n").as_bytes());
        }
        let request = ReadRequest { checkpoint: checkpoint.take(), ..ReadRequest::default() };
        let config = stand.config("one.csv").to_string();
        let (read, error) = read_until(&*connector_to_all_of_here(&config), request).await;
        assert!(error.is_none(), "{}", told(&error.unwrap()));
        checkpoint = Some(read.last().unwrap().checkpoint.clone());
        assert_eq!(read.iter().map(|batch| batch.stats.not_modified).sum::<u64>(), u64::from(!read_again), "{value}");
        let items = crate::support::shown(read.into_iter().flat_map(|batch| batch.items));
        let wanted = if read_again { vec![format!(r#"{{"n":"{value}"}}"#)] } else { Vec::new() };
        assert_eq!(items, wanted);
    }
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

/// The files directly in a directory, by the extension of their format.
async fn a_directory_is_read_as_on_this_machine(stand: &impl Stand) {
    for name in ["a.csv", "B.CSV", "c 1+2.csv", "d.tsv", ".h.csv", "sub/e.csv", "[1]/f.csv"] {
        stand.put(&format!("in/{name}"), format!("n\n{name}\n").as_bytes());
    }
    stand.put("in/g.csv.gz", &gzip(b"n\ng\n"));
    stand.put("inner.csv", b"n\ninner\n");
    for (path, names) in [("in/", &["B.CSV", "a.csv", "c 1+2.csv", "g"][..]), ("in/[1]/", &["[1]/f.csv"])] {
        let read = read(stand, path, &json!({"format": "csv"})).await;
        let wanted: Vec<String> = names.iter().map(|name| format!(r#"{{"n":"{name}"}}"#)).collect();
        assert_eq!(read, wanted, "{path}");
    }
    let mut none = stand.config("in/sub/");
    none["format"] = "ndjson".into();
    let error = failure(&none).await;
    assert!(matches!(error, ConnectorError::EmptyDirectory { .. }), "{error:?}");
    assert!(told(&error).contains(none["path"].as_str().unwrap()), "{}", told(&error));
    // What is proposed for it.
    let registry = registry_to_all_of_here();
    let asked = stand.config("in/").to_string();
    let proposal = registry.probe(SourceType::File, &asked, Duration::from_secs(20)).await.unwrap();
    assert_eq!(proposal.options.get("format"), Some(&json!("csv")), "{:?}", proposal.findings);
}

async fn as_a_place<S: Stand>(stand: impl Fn() -> S) {
    patterns_match_as_in_a_directory(&stand()).await;
    a_directory_is_read_as_on_this_machine(&stand()).await;
    only_what_changed_is_read_again(&stand(), "*.csv").await;
    only_what_changed_is_read_again(&stand(), "").await;
    one_is_read_when_it_changed(&stand()).await;
    what_is_not_there_is_told(&stand()).await;
}

/// Without its `/` the name of a directory is that of an object.
async fn an_object_is_no_directory(stand: &impl Stand) {
    stand.put("in/a.csv", b"n\n1\n");
    let mut config = stand.config("in");
    config["format"] = "csv".into();
    let error = failure(&config).await;
    assert!(matches!(error, ConnectorError::Place { fault: PlaceFault::Missing, .. }), "{error:?}");
    assert!(told(&error).contains("ends with `/`"), "{}", told(&error));
}

#[tokio::test]
async fn s3() {
    as_a_place(S3::new).await;
    an_object_is_no_directory(&S3::new()).await;
}

#[tokio::test]
async fn google() {
    as_a_place(Gcs::new).await;
    an_object_is_no_directory(&Gcs::new()).await;
}

#[tokio::test]
async fn azure() {
    as_a_place(Azure::new).await;
    an_object_is_no_directory(&Azure::new()).await;
}

#[tokio::test]
async fn sftp() {
    as_a_place(Sftp::new).await;
}

//! What is proposed for files that are looked at, and reading a directory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use matome_connector::{ConnectorError, FileRoots, HttpClient, Policy, Proposal, Registry};
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::archives::archive;
use crate::compressed::gzip;
use crate::support::{failure, records};

async fn probe(root: &Path, config: Value) -> Result<Proposal, ConnectorError> {
    let roots = FileRoots::open([root]).unwrap();
    let registry = Registry::new(roots, HttpClient::new(Policy::default()), Clock::system());
    registry.probe(SourceType::File, &config.to_string(), Duration::from_secs(20)).await
}

/// What is proposed for a file of this name and content; what is proposed reads it.
async fn proposed(name: &str, content: &[u8]) -> Value {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join(name), content).unwrap();
    let options = probe(root.path(), json!({ "path": name })).await.unwrap().options;
    let mut config = options.clone();
    config.insert("path".to_owned(), name.into());
    let read = records(&root, &Value::Object(config).to_string()).await.unwrap();
    assert!(!read.is_empty() && read.iter().all(|record| record.starts_with('{')), "{name}: {read:?}");
    options.into()
}

#[tokio::test]
async fn the_format_of_a_file_is_told_by_its_content_where_its_name_does_not() {
    let rows: String = (5..20).map(|n| format!("能登ソース;{n}0;表示は十分です、東京都千代田区\n")).collect();
    let (sjis, ..) = encoding_rs::SHIFT_JIS.encode(&rows);
    let sjis = [&encoding_rs::SHIFT_JIS.encode("商品;単価;備考\n").0[..], &sjis[..]].concat();
    let utf16: Vec<u8> = "\u{feff}id,name\n1,東京\n22,大阪\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, content, wanted) in [
        ("a.ndjson", b"{\"a\":1}\n{\"a\":2}\n".to_vec(), json!({})),
        ("a.log", b"{\"a\":1}\n{\"a\":2}\n".to_vec(), json!({"format": "ndjson"})),
        ("a.json", b"{\"a\":1}\n{\"a\":2}\n".to_vec(), json!({"format": "ndjson"})),
        ("a.json", b"{\"meta\":1,\"rows\":[{\"a\":1}]}".to_vec(), json!({"records": "$.rows"})),
        ("orders", b"[{\"a\":1}]".to_vec(), json!({"format": "json"})),
        (
            "a.txt",
            b"id\tname\n1\tx\n22\ty\n".to_vec(),
            json!({"format": "csv", "delimiter": "\t", "types": {"id": "number"}}),
        ),
        ("a.tsv", b"x\ty\na\tb\n".to_vec(), json!({})),
        ("a.csv", b"x\ty\na\tb\n".to_vec(), json!({"delimiter": "\t"})),
        ("a.csv", sjis, json!({"encoding": "shift_jis", "delimiter": ";", "types": {"単価": "number"}})),
        ("a.csv", utf16, json!({"types": {"id": "number"}})),
        ("a.dat", gzip(b"a,b\nx,y\n"), json!({"format": "csv"})),
        ("feed", b"<feed><t/><e><x>1</x></e><e/></feed>".to_vec(), json!({"format": "xml", "records": "feed/e"})),
        (
            "a.zip",
            archive(&[("in/b.csv", b"a,b\nx,y\n"), ("in/c.csv", b"a,b\nx,y\n"), ("README.txt", b"hello")]),
            json!({"format": "csv", "member": "**/*.csv"}),
        ),
    ] {
        assert_eq!(proposed(name, &content).await, wanted, "{name}: {}", content.escape_ascii());
    }
}

#[tokio::test]
async fn files_that_say_nothing_are_refused_with_what_to_do() {
    let root = TempDir::new().unwrap();
    for (name, content, problem) in [
        ("a.bin", &b"\x01\x00\x02\x00\x00\x01"[..], "set `format`"),
        ("empty", b"", "set `format`"),
        ("page", b"<!DOCTYPE html><html></html>", "HTML"),
    ] {
        fs::write(root.path().join(name), content).unwrap();
        let error = probe(root.path(), json!({ "path": name })).await.unwrap_err();
        assert!(matches!(error, ConnectorError::Document { .. }) && error.to_string().contains(problem), "{error}");
    }
    let error = probe(root.path(), json!({"path": "none.csv"})).await.unwrap_err();
    assert!(matches!(error, ConnectorError::NoMatch { .. }), "{error}");
    let error = probe(root.path(), json!({"path": "a.bin", "formt": "csv"})).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Config(_)), "{error}");
}

#[tokio::test]
async fn what_a_config_says_is_kept_and_a_key_is_only_told_of() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("orders.txt"), "id;n\n1;5\n22;5\n").unwrap();
    let config =
        json!({"path": "orders.txt", "format": "csv", "delimiter": ";", "types": "infer", "encoding": "utf-8"});
    let found = probe(root.path(), config).await.unwrap();
    assert_eq!(Value::Object(found.options), json!({}));
    let key = found.findings.iter().find(|finding| finding.option == "key").unwrap();
    assert!(key.words.english.contains("`key=id`"), "{key:?}");
}

#[tokio::test]
async fn no_more_than_the_beginning_of_a_large_file_is_read() {
    let root = TempDir::new().unwrap();
    let rows: String = (0..400_000).map(|n| format!("{n},x\n")).collect();
    fs::write(root.path().join("a.csv"), format!("id,name\n{rows}")).unwrap();
    let found = probe(root.path(), json!({"path": "a.csv"})).await.unwrap();
    assert_eq!(Value::Object(found.options), json!({"types": {"id": "number"}}));
    assert!(found.stats.bytes <= 2 << 20, "{:?}", found.stats);
}

#[tokio::test]
async fn a_directory_is_the_files_in_it_whose_names_say_the_format() {
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("exports/deep")).unwrap();
    for (name, content) in [
        ("a.csv", &b"n\n1\n"[..]),
        ("b.CSV", b"n\n2\n"),
        ("c.csv.gz", &gzip(b"n\n3\n")),
        ("d.tsv", b"n\n9\n"),
        ("notes.md", b"x"),
        (".hidden.csv", b"n\n9\n"),
        ("deep/e.csv", b"n\n9\n"),
    ] {
        fs::write(root.path().join("exports").join(name), content).unwrap();
    }
    let found = probe(root.path(), json!({"path": "exports"})).await.unwrap();
    assert_eq!(found.options["format"], "csv");
    let rows = [r#"{"n":"1"}"#, r#"{"n":"2"}"#, r#"{"n":"3"}"#];
    for path in ["exports".to_owned(), "exports/".to_owned(), format!("{}/exports", root.path().display())] {
        let config = json!({"path": path, "format": "csv"}).to_string();
        assert_eq!(records(&root, &config).await.unwrap(), rows, "{path}");
    }
    let error = failure(&root, r#"{"path":"exports","format":"parquet"}"#).await;
    assert!(matches!(&error, ConnectorError::EmptyDirectory { .. }), "{error}");
    assert!(error.to_string().contains("`exports/*.txt`"), "{error}");
    let error = probe(root.path(), json!({"path": "exports/deep", "format": "json"})).await.unwrap_err();
    assert!(matches!(error, ConnectorError::EmptyDirectory { .. }), "{error}");
    fs::write(root.path().join("x.ndjson"), "{}\n").unwrap();
    let whole = json!({"path": root.path(), "format": "ndjson"}).to_string();
    assert_eq!(records(&root, &whole).await.unwrap(), ["{}"], "the root itself");
    assert_eq!(records(&root, r#"{"path":".","format":"ndjson"}"#).await.unwrap(), ["{}"]);
}

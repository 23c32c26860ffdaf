//! The same files give the same records wherever they are: each real server beside a directory.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::peer;
use super::stands::{Azure, Gcs, Nginx, S3, Sftp, Stand};
use crate::archives::archive;
use crate::compressed::gzip;
use crate::support::records;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new("../matome/tests/fixtures/files").join(name)).unwrap()
}

/// Reads what `options` name there.
pub async fn read(stand: &impl Stand, name: &str, options: &Value) -> Vec<String> {
    let mut config = stand.config(name);
    for (key, value) in options.as_object().unwrap() {
        config[key] = value.clone();
    }
    let (read, error) = peer::read(&*peer::connector_to_all_of_here(&config.to_string())).await;
    assert!(error.is_none(), "{name}: {}", peer::told(&error.unwrap()));
    read
}

/// Puts files of each way to be read on a server and beneath a directory, and reads both.
async fn the_same_as_in_a_directory(stand: &impl Stand) {
    let rows: String = (0..30_000).map(|n| format!("{n},row {n},{}.5\n", n % 7)).collect();
    let rows = format!("id,name,amount\n{rows}").into_bytes();
    let utf16: Vec<u8> = "\u{feff}[{\"n\":\"東京\"}]".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let files = [
        ("rows.csv", rows.clone(), json!({"types": "infer"})),
        ("rows 1+2.csv.gz", gzip(&rows), json!({})),
        ("packed.zip", archive(&[("a.csv", &rows), ("b/c.csv", b"id\n1\n")]), json!({"format": "csv"})),
        ("text.json", utf16, json!({})),
        ("types.parquet", fixture("types.parquet"), json!({})),
        ("book.xlsx", fixture("book.xlsx"), json!({})),
        ("books.xml.xz", fixture("books.xml.xz"), json!({})),
        ("東京.ndjson", b"{\"n\":1}\n".to_vec(), json!({})),
        ("empty.csv", Vec::new(), json!({})),
    ];
    let root = TempDir::new().unwrap();
    for (name, bytes, options) in files {
        fs::write(root.path().join(name), &bytes).unwrap();
        stand.put(name, &bytes);
        let mut config = options.clone();
        config["path"] = name.into();
        let here = records(&root, &config.to_string()).await.unwrap();
        assert!(!here.is_empty() || bytes.is_empty(), "{name}");
        let there = read(stand, name, &options).await;
        assert!(here == there, "{name}: {} here, {} there", here.len(), there.len());
    }
}

#[tokio::test]
async fn over_http() {
    the_same_as_in_a_directory(&Nginx::new()).await;
}

#[tokio::test]
async fn from_s3() {
    the_same_as_in_a_directory(&S3::new()).await;
}

#[tokio::test]
async fn from_google() {
    the_same_as_in_a_directory(&Gcs::new()).await;
}

#[tokio::test]
async fn from_azure() {
    the_same_as_in_a_directory(&Azure::new()).await;
}

#[tokio::test]
async fn over_sftp() {
    the_same_as_in_a_directory(&Sftp::new()).await;
}

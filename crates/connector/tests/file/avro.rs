//! Avro as fastavro writes it with each codec (the fixtures of the end-to-end test): every value exactly as it was put in.

use std::fs;
use std::path::Path;

use matome_connector::{Advice, Item, ReadRequest};
use tempfile::TempDir;

use crate::compressed::gzip;
use crate::support::{connector, failure, read_all};

const CODECS: [&str; 6] = ["null", "deflate", "snappy", "zstandard", "bzip2", "xz"];

fn fixture(codec: &str) -> Vec<u8> {
    let fixtures = Path::new("../matome/tests/fixtures/files");
    fs::read(fixtures.join(format!("types-{codec}.avro"))).unwrap()
}

async fn items(root: &TempDir, config: &str) -> Vec<Item> {
    let batches = read_all(&*connector(Some(root.path()), config), ReadRequest::default()).await.unwrap();
    batches.into_iter().flat_map(|batch| batch.items).collect()
}

const FIRST: &str = concat!(
    r#"{"id":9007199254740993,"price":12345678901234567890123456.789012345678,"fee":-12.34,"#,
    r#""at":"2026-01-01T00:00:00.123456Z","local":"2026-01-31T09:30:00.005","day":"1969-12-31","clock":"09:30:00.000001","#,
    r#""key":"123e4567-e89b-12d3-a456-426614174000","ratio":0.1,"small":0.1,"name":"東京","blob":"00ff","code":"0102","#,
    r#""state":"PAID","tags":["a","b"],"kv":{"k":1},"where":{"lat":35.68,"in":{"lat":1,"in":null}},"again":"OPEN","paid":true}"#,
);

#[tokio::test]
async fn avro_keeps_every_value_with_each_codec() {
    let root = TempDir::new().unwrap();
    for codec in CODECS {
        fs::write(root.path().join("a.avro"), fixture(codec)).unwrap();
        fs::write(root.path().join("b.avro.gz"), gzip(&fixture(codec))).unwrap();
        for path in ["a.avro", "b.avro.gz"] {
            let read = items(&root, &format!(r#"{{"path":"{path}"}}"#)).await;
            assert_eq!(String::from_utf8_lossy(read[0].raw()), FIRST, "{codec} {path}");
            let second = String::from_utf8_lossy(read[1].raw()).into_owned();
            assert!(
                second.contains(r#""price":-0.000000000001,"#)
                    && second.contains(r#""kv":{"n":null,"s":"x"},"where":null"#)
            );
            let Item::Rejected { detail, position, .. } = &read[2] else { panic!("NaN has no form in JSON") };
            assert_eq!((detail.english.as_str(), position.record), ("column `ratio`: NaN is not a number in JSON", 3));
            assert_eq!(read.len(), 3, "{codec}");
        }
    }
}

#[tokio::test]
async fn a_damaged_block_ends_the_read_behind_what_came_before() {
    let root = TempDir::new().unwrap();
    for codec in CODECS {
        let whole = fixture(codec);
        // Inside of the last block, which has one record.
        let damaged = [&whole[..whole.len() - 40], &[0xaa; 8], &whole[whole.len() - 32..]].concat();
        let other_marker = [&whole[..whole.len() - 1], b"x"].concat();
        for bytes in [damaged, other_marker, whole[..whole.len() - 20].to_vec()] {
            fs::write(root.path().join("a.avro"), bytes).unwrap();
            let connector = connector(Some(root.path()), r#"{"path":"a.avro"}"#);
            let mut reader = connector.read(ReadRequest::default()).await.unwrap();
            let first = reader.next().await.unwrap().unwrap();
            if !["snappy", "bzip2", "xz"].contains(&codec) && first.items.len() == 3 {
                // Without a checksum other bytes may be another record.
                continue;
            }
            assert_eq!(first.items.len(), 2, "{codec}");
            let error = reader.next().await.unwrap_err();
            assert!(
                error.to_string().contains("block 3 (at byte ") && error.advice() == Advice::Fail,
                "{codec}: {error}"
            );
            assert_eq!(error.position().unwrap().record, 2, "{codec}: {error}");
        }
    }
    fs::write(root.path().join("a.avro"), "id,name\n").unwrap();
    let error = failure(&root, r#"{"path":"a.avro"}"#).await;
    assert!(error.to_string().contains("no Avro file"), "{error}");
}

#[tokio::test]
async fn a_read_of_blocks_resumes_behind_each_checkpoint() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.avro"), fixture("deflate")).unwrap();
    let config = r#"{"path":"a.avro","dedupe":"none"}"#;
    let request = ReadRequest { resume_inside: true, max_items: 1, ..ReadRequest::default() };
    let batches = read_all(&*connector(Some(root.path()), config), request.clone()).await.unwrap();
    let request = ReadRequest { checkpoint: Some(batches[0].checkpoint.clone()), ..request };
    let rest = read_all(&*connector(Some(root.path()), config), request).await.unwrap();
    let rest: Vec<Item> = rest.into_iter().flat_map(|batch| batch.items).collect();
    assert_eq!((rest.len(), rest[0].position().record), (2, 2));
}

//! Compressed files: found by their first bytes, read to their last stream, stopped at a bomb and at what is broken.

use std::fs;
use std::io::Write;

use matome_connector::{Advice, ConnectorError, ReadRequest};
use tempfile::TempDir;

use crate::support::{cause, connector, failure, records, shown};

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `printf '{"n":1}\n{"n":2}\n' | xz -9`
const XZ: &[u8] = b"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x1c\x00\x00\x00\x10\xcf\x58\xcc\x01\x00\x0f{\"n\":1}\n{\"n\":2}\n\x00\
    \xfe\x69\xd7\x44\xbe\x2b\x1d\x1c\x00\x01\x28\x10\xe5\x0b\x6c\x60\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a";

type Compress = fn(&[u8]) -> Vec<u8>;
const CODECS: [(&str, &str, Compress); 3] = [("gzip", "gz", gzip), ("zstd", "zst", zstd), ("bzip2", "bz2", bzip2)];

#[tokio::test]
async fn each_codec_is_found_by_its_first_bytes_and_read_to_its_last_stream() {
    let root = TempDir::new().unwrap();
    for (codec, extension, compress) in CODECS {
        let bytes = [compress(b"{\"n\":1}\n{\"n\""), compress(b":2}\n")].concat();
        for (name, options) in [
            (format!("{codec}.ndjson"), String::new()),
            (format!("{codec}.ndjson.{extension}"), format!(r#","compression":"{codec}""#)),
        ] {
            fs::write(root.path().join(&name), &bytes).unwrap();
            let read = records(&root, &format!(r#"{{"path":"{name}"{options}}}"#)).await.unwrap();
            assert_eq!(read, [r#"{"n":1}"#, r#"{"n":2}"#], "{name}");
        }
    }
    fs::write(root.path().join("a.ndjson.xz"), [XZ, XZ].concat()).unwrap();
    assert_eq!(records(&root, r#"{"path":"a.ndjson.xz"}"#).await.unwrap().len(), 4);
    fs::write(root.path().join("a.txt"), "BZh9 is no bzip2\n1\n").unwrap();
    let read = records(&root, r#"{"path":"a.txt","format":"csv"}"#).await.unwrap();
    assert_eq!(read, [r#"{"BZh9 is no bzip2":"1"}"#]);
}

#[tokio::test]
async fn what_is_cut_off_or_changed_fails_with_its_place_behind_what_came_whole() {
    let root = TempDir::new().unwrap();
    // More than a buffer, and nothing that becomes much shorter.
    let mut state = 1_u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 16
    };
    let text: String = (0..20_000).map(|_| format!("{{\"n\":{}}}\n", number())).collect();
    for (codec, extension, compress) in CODECS {
        let whole = compress(text.as_bytes());
        let mut changed = whole.clone();
        let middle = whole.len() / 2;
        changed[middle] ^= 0x55;
        let path = root.path().join(format!("a.ndjson.{extension}"));
        let config = format!(r#"{{"path":"a.ndjson.{extension}"}}"#);
        for (bytes, is_cut) in [(&whole[..middle], true), (&whole[..whole.len() - 3], true), (&changed, false)] {
            fs::write(&path, bytes).unwrap();
            let connector = connector(Some(root.path()), &config);
            let mut reader = connector.read(ReadRequest::default()).await.unwrap();
            let mut read = Vec::new();
            let error = loop {
                match reader.next().await {
                    Ok(Some(batch)) => read.extend(batch.items),
                    Ok(None) => panic!("{codec} was read to its end"),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, ConnectorError::Io { action: "decompressing it", .. }), "{codec}: {error}");
            assert!(cause(&error).contains("(within the first "), "{codec}: {}", cause(&error));
            assert_eq!(error.advice(), Advice::Fail, "{codec}");
            assert_eq!(error.position().unwrap().record, read.len() as u64, "{codec}");
            // A checksum comes behind what it is of.
            if is_cut {
                assert!(text.starts_with(&shown(read).join("\n")), "{codec}");
            }
        }
        fs::write(&path, "{}\n").unwrap();
        let declared = format!(r#"{{"path":"a.ndjson.{extension}","compression":"{codec}"}}"#);
        assert_eq!(failure(&root, &declared).await.advice(), Advice::Fail, "{codec}");
    }
    for cut in [XZ.len() - 1, 40, 20] {
        fs::write(root.path().join("a.ndjson.xz"), &XZ[..cut]).unwrap();
        assert_eq!(failure(&root, r#"{"path":"a.ndjson.xz"}"#).await.advice(), Advice::Fail, "{cut}");
    }
}

#[tokio::test]
async fn a_bomb_of_each_codec_is_stopped() {
    let root = TempDir::new().unwrap();
    for (codec, extension, compress) in CODECS {
        fs::write(root.path().join(format!("a.ndjson.{extension}")), compress(&vec![b' '; 64 << 20])).unwrap();
        let error = failure(&root, &format!(r#"{{"path":"a.ndjson.{extension}"}}"#)).await;
        assert!(cause(&error).contains("200 times"), "{codec}: {}", cause(&error));
        assert_eq!(error.advice(), Advice::Fail, "{codec}");
    }
}

#[tokio::test]
async fn a_zstd_stream_that_asks_for_more_memory_than_it_may_have_is_refused() {
    let root = TempDir::new().unwrap();
    // A window of 2^30 bytes, and one block that repeats a space.
    fs::write(root.path().join("a.ndjson.zst"), b"\x28\xb5\x2f\xfd\x00\xa0\x03\x00\x10 ").unwrap();
    let error = failure(&root, r#"{"path":"a.ndjson.zst"}"#).await;
    assert!(cause(&error).contains("memory"), "{}", cause(&error));
}

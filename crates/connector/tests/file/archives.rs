//! Zip archives: each member is a document, wherever its name points.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use matome_connector::{Advice, ConnectorError, ReadRequest};
use tempfile::TempDir;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

use crate::compressed::gzip;
use crate::support::{cause, connector, failure, read_all, records, shown};

pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (index, (name, bytes)) in members.iter().enumerate() {
        let method = if index % 2 == 0 { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn write(root: &TempDir, members: &[(&str, &[u8])]) {
    fs::write(root.path().join("a.zip"), archive(members)).unwrap();
}

const CONFIG: &str = r#"{"path":"a.zip","format":"ndjson"}"#;

#[tokio::test]
async fn members_are_documents_in_the_order_of_their_names() {
    let root = TempDir::new().unwrap();
    let compressed = gzip(b"{\"n\":4}\n");
    write(
        &root,
        &[
            ("b/c.ndjson", b"{\"n\":2}\n{\"n\":3}\n"),
            ("a.ndjson", b"{\"n\":1}\n"),
            ("d.ndjson.gz", &compressed),
            ("__MACOSX/a.ndjson", b"not read"),
            ("b/.DS_Store", b"not read"),
        ],
    );
    let batches = read_all(&*connector(Some(root.path()), CONFIG), ReadRequest::default()).await.unwrap();
    let bytes: u64 = batches.iter().map(|batch| batch.stats.bytes).sum();
    assert!(bytes > 0);
    let items: Vec<_> = batches.into_iter().flat_map(|batch| batch.items).collect();
    let places: Vec<_> = items
        .iter()
        .map(|item| (item.position().document.rsplit("a.zip").next().unwrap().to_owned(), item.position().record))
        .collect();
    let place = |name: &str, record| (name.to_owned(), record);
    assert_eq!(
        places,
        [place("!/a.ndjson", 1), place("!/b/c.ndjson", 1), place("!/b/c.ndjson", 2), place("!/d.ndjson.gz", 1)]
    );
    assert_eq!(shown(items), [r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#, r#"{"n":4}"#]);
    let some = records(&root, r#"{"path":"a.zip","format":"ndjson","member":"b/*"}"#).await.unwrap();
    assert_eq!(some, [r#"{"n":2}"#, r#"{"n":3}"#]);
    let none = failure(&root, r#"{"path":"a.zip","format":"ndjson","member":"x*"}"#).await;
    assert!(none.to_string().contains("`member`") && none.advice() == Advice::Fail, "{none}");
}

/// An archive whose members have names in `encoding` that do not say so, as Windows and its programs write them.
fn archive_with_names_in(encoding: &'static encoding_rs::Encoding, members: &[(&str, &[u8])]) -> Vec<u8> {
    let names: Vec<Vec<u8>> = members.iter().map(|(name, _)| encoding.encode(name).0.into_owned()).collect();
    // As long as they will be, and of ASCII, which needs no flag; nothing else in the archive is written so.
    let plain: Vec<String> = names.iter().enumerate().map(|(n, name)| ["A", "B", "C"][n].repeat(name.len())).collect();
    let members: Vec<(&str, &[u8])> =
        plain.iter().map(String::as_str).zip(members.iter().map(|(_, bytes)| *bytes)).collect();
    let mut bytes = archive(&members);
    for (plain, name) in plain.iter().zip(&names) {
        let places: Vec<usize> =
            (0..bytes.len() - plain.len()).filter(|at| bytes[*at..].starts_with(plain.as_bytes())).collect();
        assert_eq!(places.len(), 2, "{plain}");
        places.into_iter().for_each(|at| bytes[at..at + name.len()].copy_from_slice(name));
    }
    bytes
}

#[tokio::test]
async fn names_in_code_page_932_are_read_and_matched() {
    let root = TempDir::new().unwrap();
    let members: [(&str, &[u8]); 3] = [
        ("売上表/東京支店.ndjson", b"{\"n\":1}\n"),
        ("売上表/大阪ソース.ndjson", b"{\"n\":2}\n"),
        ("在庫一覧表.ndjson", b"{\"n\":3}\n"),
    ];
    fs::write(root.path().join("a.zip"), archive_with_names_in(encoding_rs::SHIFT_JIS, &members)).unwrap();
    let all = read_all(&*connector(Some(root.path()), CONFIG), ReadRequest::default()).await.unwrap();
    let items = all.into_iter().flat_map(|batch| batch.items);
    let names: Vec<String> =
        items.map(|item| item.position().document.rsplit("!/").next().unwrap().to_owned()).collect();
    assert_eq!(names, ["在庫一覧表.ndjson", "売上表/大阪ソース.ndjson", "売上表/東京支店.ndjson"]);
    let config = r#"{"path":"a.zip","format":"ndjson","member":"売上表/*.ndjson"}"#;
    assert_eq!(records(&root, config).await.unwrap(), [r#"{"n":2}"#, r#"{"n":1}"#]);
    // In what the standard means, they stay.
    let old = encoding_rs::IBM866;
    fs::write(root.path().join("a.zip"), archive_with_names_in(old, &[("отчёт.ndjson", b"{\"n\":1}\n")])).unwrap();
    assert_eq!(records(&root, CONFIG).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_read_of_a_version_with_other_names_of_members_goes_on() {
    let root = TempDir::new().unwrap();
    let members: [(&str, &[u8]); 2] =
        [("店.ndjson", b"{\"n\":1}\n{\"n\":2}\n"), ("社.ndjson", b"{\"n\":3}\n{\"n\":4}\n")];
    fs::write(root.path().join("a.zip"), archive_with_names_in(encoding_rs::SHIFT_JIS, &members)).unwrap();
    let connector = connector(Some(root.path()), r#"{"path":"a.zip","format":"ndjson","dedupe":"none"}"#);
    let request = ReadRequest { resume_inside: true, max_items: 1, ..ReadRequest::default() };
    let batches = read_all(&*connector, request.clone()).await.unwrap();
    assert_eq!(shown(batches[..4].iter().flat_map(|batch| batch.items.clone()))[2], r#"{"n":3}"#);
    // It was cut off behind the first record of the member that came first by the names in code page 437.
    let old = batches[2].checkpoint.get().replace("社", "Ä╨");
    let checkpoint = Some(serde_json::value::RawValue::from_string(old).unwrap());
    let rest = read_all(&*connector, ReadRequest { checkpoint, ..request }).await.unwrap();
    let rest = shown(rest.into_iter().flat_map(|batch| batch.items));
    assert_eq!(rest, [r#"{"n":4}"#, r#"{"n":1}"#, r#"{"n":2}"#]);
}

#[tokio::test]
async fn the_names_of_members_lead_nowhere() {
    let (root, beside) = (TempDir::new().unwrap(), TempDir::with_prefix("beside").unwrap());
    let outside = beside.path().join("x.ndjson");
    let names = ["../../x.ndjson", "/etc/x.ndjson", "C:\\x.ndjson", outside.to_str().unwrap()];
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &b"{}\n"[..])).collect();
    write(&root, &members);
    assert_eq!(records(&root, CONFIG).await.unwrap().len(), 4);
    assert!(!outside.exists() && !Path::new("/etc/x.ndjson").exists());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing is written beside the archive");
}

/// Changes each header of an archive: `at` bytes behind its signature.
fn patch(bytes: &mut [u8], signature: &[u8; 4], change: impl Fn(&mut [u8])) {
    let starts: Vec<usize> = (0..bytes.len() - 4).filter(|at| &bytes[*at..*at + 4] == signature).collect();
    assert!(!starts.is_empty());
    for start in starts {
        change(&mut bytes[start..]);
    }
}

#[tokio::test]
async fn archives_that_two_programs_would_read_differently_are_refused() {
    let root = TempDir::new().unwrap();
    let nested = archive(&[("a.ndjson", b"{}\n")]);
    let plain = archive(&[("a.ndjson", b"{\"n\":1}\n"), ("b.ndjson", b"{\"n\":2}\n")]);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = plain.clone();
        change(&mut bytes);
        bytes
    };
    const LOCAL: &[u8; 4] = b"PK\x03\x04";
    const CENTRAL: &[u8; 4] = b"PK\x01\x02";
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("nested", archive(&[("b.ndjson", &nested)]), "an archive inside of an archive"),
        (
            "encrypted",
            with(&|bytes| {
                patch(bytes, LOCAL, |header| header[6] |= 1);
                patch(bytes, CENTRAL, |header| header[8] |= 1);
            }),
            "`a.ndjson` is encrypted",
        ),
        (
            "two of one name",
            with(&|bytes| {
                patch(bytes, LOCAL, |header| header[30] = b'a');
                patch(bytes, CENTRAL, |header| header[46] = b'a');
            }),
            "two members of the same name",
        ),
        ("names that differ", with(&|bytes| patch(bytes, LOCAL, |header| header[30] = b'z')), "inconsistency"),
        (
            "a link",
            with(&|bytes| {
                patch(bytes, CENTRAL, |header| {
                    header[5] = 3;
                    header[38..42].copy_from_slice(&(0o120_777_u32 << 16).to_le_bytes());
                })
            }),
            "symbolic link",
        ),
        ("members that overlap", with(&|bytes| patch(bytes, CENTRAL, |header| header[42..46].fill(0))), "overlap"),
        ("cut off", plain[..plain.len() - 30].to_vec(), ""),
        ("damaged", with(&|bytes| patch(bytes, CENTRAL, |header| header[16] ^= 1)), ""),
    ];
    for (what, bytes, says) in cases {
        fs::write(root.path().join("a.zip"), &bytes).unwrap();
        let error = failure(&root, CONFIG).await;
        assert!(matches!(error, ConnectorError::Io { action: "decompressing it", .. }), "{what}: {error}");
        assert!(cause(&error).contains(says), "{what}: {}", cause(&error));
        assert_eq!(error.advice(), Advice::Fail, "{what}");
    }
    fs::write(root.path().join("a.zip"), archive(&[])).unwrap();
    assert_eq!(failure(&root, CONFIG).await.advice(), Advice::Fail);
}

#[tokio::test]
async fn a_bomb_in_an_archive_is_stopped_also_in_many_members() {
    let root = TempDir::new().unwrap();
    let spaces = vec![b' '; 8 << 20];
    let names: Vec<String> = (0..9).map(|n| format!("{n}.ndjson")).collect();
    // Every second member is stored, which is no bomb by itself.
    let members: Vec<(&str, &[u8])> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (name.as_str(), if n % 2 == 0 { &spaces[..] } else { b"{}" }))
        .collect();
    write(&root, &members);
    let error = failure(&root, CONFIG).await;
    assert!(cause(&error).contains("200 times"), "{}", cause(&error));
}

#[tokio::test]
async fn a_read_resumes_exactly_inside_of_a_member() {
    let root = TempDir::new().unwrap();
    let lines =
        |from: u32, to: u32| -> Vec<u8> { (from..to).flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect() };
    write(&root, &[("a.ndjson", &lines(0, 25)), ("b.ndjson", &lines(25, 37))]);
    fs::write(root.path().join("b.zip"), archive(&[("a.ndjson", &lines(37, 40))])).unwrap();
    let connector = connector(Some(root.path()), r#"{"path":"*.zip","format":"ndjson","dedupe":"none"}"#);
    let request = ReadRequest { resume_inside: true, max_items: 10, ..ReadRequest::default() };
    let batches = read_all(&*connector, request.clone()).await.unwrap();
    let all = shown(batches.iter().flat_map(|batch| batch.items.clone()));
    assert_eq!(all.len(), 40);
    let mut done = 0;
    for batch in &batches[..batches.len() - 1] {
        done += batch.items.len();
        let request = ReadRequest { checkpoint: Some(batch.checkpoint.clone()), ..request.clone() };
        let rest = read_all(&*connector, request).await.unwrap();
        assert_eq!(shown(rest.into_iter().flat_map(|batch| batch.items)), all[done..]);
    }
}

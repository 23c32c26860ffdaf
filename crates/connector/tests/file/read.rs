//! Finding files, and reading them from the start or from where a read stopped.

use std::fs;
use std::io::Write;

use matome_connector::{Advice, ConnectorError, Item, ReadRequest, sample};
use serde_json::value::RawValue;
use tempfile::TempDir;

use crate::support::{connector, failure, read_all, records, shown};

#[tokio::test]
async fn ndjson_is_read_line_by_line_with_its_positions() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.ndjson"), "\u{feff}{\"n\":1}\r\n\n  \n{\"n\":1e400}\n{bad\n{\"n\":\"last\"}")
        .unwrap();
    let batches =
        read_all(&*connector(Some(root.path()), r#"{"path":"a.ndjson"}"#), ReadRequest::default()).await.unwrap();
    let bytes: u64 = batches.iter().map(|batch| batch.stats.bytes).sum();
    assert_eq!(bytes, fs::metadata(root.path().join("a.ndjson")).unwrap().len());
    let items: Vec<Item> = batches.into_iter().flat_map(|batch| batch.items).collect();
    let lines: Vec<_> = items.iter().map(|item| (item.position().line.unwrap(), item.position().record)).collect();
    assert_eq!(lines, [(1, 1), (4, 2), (5, 3), (6, 4)]);
    assert!(items[0].position().document.ends_with("/a.ndjson"));
    assert_eq!(shown(items), [r#"{"n":1}"#, r#"{"n":1e400}"#, "{bad", r#"{"n":"last"}"#]);
}

#[tokio::test]
async fn a_line_at_the_limit_passes_and_one_past_it_is_rejected_alone() {
    const LIMIT: usize = 16 * 1024 * 1024;
    let root = TempDir::new().unwrap();
    let line = |size: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(size - 8));
    fs::write(root.path().join("a.ndjson"), format!("{}\n{}\n{{}}\n", line(LIMIT), line(LIMIT + 1))).unwrap();
    let items =
        sample(&*connector(Some(root.path()), r#"{"path":"a.ndjson"}"#), 9, Default::default()).await.unwrap().items;
    assert_eq!(items[0].raw().len(), LIMIT);
    assert!(matches!(&items[1], Item::Rejected { raw, .. } if raw.len() == 64 * 1024));
    assert_eq!((items[2].raw(), items[2].position().line), (&b"{}"[..], Some(3)));
}

#[tokio::test]
async fn json_documents_stream_by_their_path() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.json"), r#"{"meta":{"results":0},"data":{"results":[{"id":1},{"id":2}]}}"#).unwrap();
    assert_eq!(
        records(&root, r#"{"path":"a.json","records":"$.data.results"}"#).await.unwrap(),
        [r#"{"id":1}"#, r#"{"id":2}"#]
    );
    let error = failure(&root, r#"{"path":"a.json","records":"$.rows"}"#).await;
    assert!(error.to_string().contains("`$.rows`") && error.advice() == Advice::Fail, "{error}");
    fs::write(root.path().join("b.json"), "[{\"id\":1},\n{\"id\":2},\n").unwrap();
    let error = failure(&root, r#"{"path":"b.json"}"#).await;
    assert_eq!(error.position().unwrap().line, Some(3), "{error}");
}

#[tokio::test]
async fn shift_jis_csv_becomes_japanese_text() {
    let root = TempDir::new().unwrap();
    let (bytes, _, failed) = encoding_rs::SHIFT_JIS.encode("商品,単価,備考\r\n能登ソース,1200,\"表示,\r\n十分\"\r\n");
    assert!(!failed);
    let mut bytes = bytes.into_owned();
    bytes.extend(b"\x81\xff,1,2\r\nok,1,2\r\n");
    fs::write(root.path().join("a.csv"), &bytes).unwrap();
    let read = records(&root, r#"{"path":"a.csv","encoding":"shift_jis","types":{"単価":"integer"}}"#).await.unwrap();
    assert_eq!(
        read,
        [
            r#"{"商品":"能登ソース","単価":1200,"備考":"表示,\r\n十分"}"#,
            "encoding at line 4",
            r#"{"商品":"ok","単価":1,"備考":"2"}"#
        ]
    );
}

#[tokio::test]
async fn delimiters_inside_of_characters_and_utf_16_are_decoded_first() {
    let root = TempDir::new().unwrap();
    // The second byte of this character is a vertical bar.
    let (bytes, ..) = encoding_rs::SHIFT_JIS.encode("名|値\nポ|1\n");
    assert!(bytes.iter().filter(|&&byte| byte == b'|').count() > 2);
    fs::write(root.path().join("a.csv"), &bytes).unwrap();
    let read = records(&root, r#"{"path":"a.csv","encoding":"shift_jis","delimiter":"|"}"#).await.unwrap();
    assert_eq!(read, [r#"{"名":"ポ","値":"1"}"#]);
    let utf16: Vec<u8> = "\u{feff}名,値\n東京,1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(root.path().join("b.csv"), utf16).unwrap();
    assert_eq!(records(&root, r#"{"path":"b.csv"}"#).await.unwrap(), [r#"{"名":"東京","値":"1"}"#]);
}

#[tokio::test]
async fn patterns_match_beneath_the_root_in_order() {
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("2024/deep")).unwrap();
    for (name, n) in [
        ("b.ndjson", 2),
        ("a.ndjson", 1),
        (".hidden.ndjson", 9),
        ("2024/c.ndjson", 3),
        ("2024/deep/d.ndjson", 4),
        ("e.txt", 9),
    ] {
        fs::write(root.path().join(name), format!("{{\"n\":{n}}}\n")).unwrap();
    }
    let one = |n: u32| format!("{{\"n\":{n}}}");
    assert_eq!(records(&root, r#"{"path":"*.ndjson"}"#).await.unwrap(), [one(1), one(2)]);
    assert_eq!(records(&root, r#"{"path":"20*/*.ndjson"}"#).await.unwrap(), [one(3)]);
    assert_eq!(records(&root, r#"{"path":"**/*.ndjson"}"#).await.unwrap(), [one(3), one(4), one(1), one(2)]);
    let absolute = format!(r#"{{"path":"{}/{{a,b}}.ndjson"}}"#, root.path().display());
    assert_eq!(records(&root, &absolute).await.unwrap(), [one(1), one(2)]);
    let error = failure(&root, r#"{"path":"*.csv"}"#).await;
    assert!(matches!(error, ConnectorError::NoMatch { .. }) && error.advice() == Advice::Fail, "{error}");
    fs::write(root.path().join("odd[1].ndjson"), "{}\n").unwrap();
    assert_eq!(records(&root, r#"{"path":"odd[1].ndjson"}"#).await.unwrap(), ["{}"]);
}

#[tokio::test]
async fn nothing_outside_of_the_roots_is_read() {
    let (root, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(outside.path().join("secret.ndjson"), "{}\n").unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.ndjson"), root.path().join("link.ndjson")).unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("dir")).unwrap();
    let outside_path = format!(r#"{{"path":"{}/secret.ndjson"}}"#, outside.path().display());
    for config in
        [r#"{"path":"link.ndjson"}"#, r#"{"path":"dir/secret.ndjson"}"#, r#"{"path":"*.ndjson"}"#, &outside_path]
    {
        let error = failure(&root, config).await;
        assert!(matches!(error, ConnectorError::OutsideRoots { .. }), "{config}: {error}");
        assert!(error.to_string().contains("--file-root"), "{error}");
    }
    let error = read_all(&*connector(None, r#"{"path":"a.csv"}"#), ReadRequest::default()).await.unwrap_err();
    assert!(matches!(error, ConnectorError::NoFileRoot { .. }) && error.to_string().contains("--file-root"), "{error}");
}

#[tokio::test]
async fn links_inside_of_the_root_are_followed_and_pipes_are_refused() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.ndjson"), "{}\n").unwrap();
    std::os::unix::fs::symlink("a.ndjson", root.path().join("link.ndjson")).unwrap();
    assert_eq!(records(&root, r#"{"path":"link.ndjson"}"#).await.unwrap(), ["{}"]);
    let made = std::process::Command::new("mkfifo").arg(root.path().join("pipe.ndjson")).status().unwrap();
    assert!(made.success());
    assert!(matches!(failure(&root, r#"{"path":"pipe.ndjson"}"#).await, ConnectorError::NotRegular { .. }));
    fs::create_dir(root.path().join("dir.ndjson")).unwrap();
    assert!(matches!(failure(&root, r#"{"path":"dir.ndjson"}"#).await, ConnectorError::EmptyDirectory { .. }));
}

fn numbered(from: u32, to: u32) -> String {
    (from..to).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

#[tokio::test]
async fn batches_are_full_and_a_read_resumes_exactly_behind_each_checkpoint() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.ndjson"), numbered(0, 25)).unwrap();
    fs::write(root.path().join("b.ndjson"), numbered(25, 37)).unwrap();
    let connector = connector(Some(root.path()), r#"{"path":"*.ndjson","dedupe":"none"}"#);
    let request = |checkpoint: Option<Box<RawValue>>, resume_inside| ReadRequest {
        checkpoint,
        resume_inside,
        max_items: 10,
        ..ReadRequest::default()
    };
    let batches = read_all(&*connector, request(None, true)).await.unwrap();
    let sizes: Vec<usize> = batches.iter().map(|batch| batch.items.len()).collect();
    assert_eq!(sizes, [10, 10, 5, 10, 2, 0]);
    let all = shown(batches.iter().flat_map(|batch| batch.items.clone()));
    assert_eq!(all.len(), 37);
    let mut done = 0;
    for batch in &batches[..5] {
        done += batch.items.len();
        let rest = read_all(&*connector, request(Some(batch.checkpoint.clone()), true)).await.unwrap();
        assert_eq!(shown(rest.into_iter().flat_map(|batch| batch.items)), all[done..]);
    }
    let anew = read_all(&*connector, request(Some(batches[2].checkpoint.clone()), false)).await.unwrap();
    assert_eq!(anew.iter().map(|batch| batch.items.len()).sum::<usize>(), 37);
    let complete = batches[5].checkpoint.clone();
    let again = read_all(&*connector, request(Some(complete.clone()), true)).await.unwrap();
    let (items, stats) = (again.iter().map(|batch| batch.items.len()).sum::<usize>(), again[0].stats);
    assert_eq!((items, stats.not_modified, stats.bytes), (0, 2, 0), "nothing changed");
    let config = r#"{"path":"*.ndjson","dedupe":"none","files":"all"}"#;
    let again = read_all(&*self::connector(Some(root.path()), config), request(Some(complete), true)).await.unwrap();
    assert_eq!(again.iter().map(|batch| batch.items.len()).sum::<usize>(), 37);
}

#[tokio::test]
async fn a_read_does_not_resume_inside_of_another_file() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("a.ndjson");
    fs::write(&path, numbered(0, 25)).unwrap();
    let connector = connector(Some(root.path()), r#"{"path":"*.ndjson"}"#);
    let request = ReadRequest { resume_inside: true, max_items: 10, ..ReadRequest::default() };
    let checkpoint = read_all(&*connector, request.clone()).await.unwrap()[0].checkpoint.clone();
    let request = ReadRequest { checkpoint: Some(checkpoint), ..request };
    let mut grown = fs::OpenOptions::new().append(true).open(&path).unwrap();
    grown.write_all(numbered(25, 30).as_bytes()).unwrap();
    let rest = read_all(&*connector, request.clone()).await.unwrap();
    assert_eq!(rest.iter().map(|batch| batch.items.len()).sum::<usize>(), 20);
    fs::write(&path, numbered(0, 3)).unwrap();
    let error = read_all(&*connector, request.clone()).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Changed { .. }) && error.advice() == Advice::Fail, "{error}");
    fs::remove_file(&path).unwrap();
    fs::write(root.path().join("z.ndjson"), "{}").unwrap();
    assert!(matches!(read_all(&*connector, request).await.unwrap_err(), ConnectorError::Changed { .. }));
}

#[tokio::test]
async fn records_before_a_fatal_place_are_handed_on() {
    let root = TempDir::new().unwrap();
    let rows: String = (0..25).map(|n| format!("{{\"n\":{n}}},")).collect();
    fs::write(root.path().join("a.json"), format!("[{rows}] x")).unwrap();
    let connector = connector(Some(root.path()), r#"{"path":"a.json"}"#);
    let mut reader = connector.read(ReadRequest { max_items: 10, ..ReadRequest::default() }).await.unwrap();
    for items in [10, 10, 5] {
        assert_eq!(reader.next().await.unwrap().unwrap().items.len(), items);
    }
    let error = reader.next().await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Document { position, .. } if position.record == 25), "{error}");
}

#[tokio::test]
async fn a_read_can_be_cancelled() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.ndjson"), numbered(0, 10)).unwrap();
    let request = ReadRequest::default();
    request.cancel.cancel();
    let error = read_all(&*connector(Some(root.path()), r#"{"path":"a.ndjson"}"#), request).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Cancelled));
}

#[tokio::test]
async fn a_sample_has_the_first_records_and_says_whether_there_are_more() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a.ndjson"), numbered(0, 3)).unwrap();
    let connector = connector(Some(root.path()), r#"{"path":"a.ndjson"}"#);
    let first = sample(&*connector, 2, Default::default()).await.unwrap();
    assert_eq!((first.items.len(), first.complete), (2, false));
    let all = sample(&*connector, 5, Default::default()).await.unwrap();
    assert_eq!((all.items.len(), all.complete), (3, true));
}

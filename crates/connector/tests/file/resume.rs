//! Going on inside of a file: by the place of the next record, with the numbers that a whole read gives.

use std::fs;
use std::io::Write as _;

use matome_connector::{Batch, ConnectorError, Item, ReadRequest};
use serde_json::value::RawValue;
use tempfile::TempDir;

use crate::support::{connector, read_all};

fn request(checkpoint: Option<Box<RawValue>>, max_items: usize) -> ReadRequest {
    ReadRequest { checkpoint, resume_inside: true, max_items, ..ReadRequest::default() }
}

async fn read(root: &TempDir, config: &str, request: ReadRequest) -> Vec<Batch> {
    read_all(&*connector(Some(root.path()), config), request).await.unwrap()
}

fn items(batches: &[Batch]) -> Vec<Item> {
    batches.iter().flat_map(|batch| batch.items.clone()).collect()
}

fn bytes(batches: &[Batch]) -> u64 {
    batches.iter().map(|batch| batch.stats.bytes).sum()
}

/// SplitMix64: the same texts on every machine.
fn text(seed: u64, pieces: &[&str]) -> String {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33).unwrap()
    };
    (0..40).map(|_| pieces[next() % pieces.len()]).collect()
}

/// Formats, with what their files are made of.
fn formats() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let fixed = r#"{"path":"a","format":"fixed","columns":[{"name":"a","width":1},{"name":"b","width":2}]"#;
    let bare = r#"{"path":"a","format":"fixed","line_breaks":false,"columns":[{"name":"a","width":3}]"#;
    vec![
        (
            r#"{"path":"a","format":"ndjson""#,
            "",
            vec!["{\"a\":1}\n", "{\"a\":2}\r\n", "\n", "  \n", "{bad\n", "\u{feff}{}\n", "{\"a\":\"東\"}", "\n"],
        ),
        (
            r#"{"path":"a","format":"csv""#,
            "\u{feff}x,y\r\n",
            vec![
                "1,2\n",
                "3,\"a\nb\"\r\n",
                "\"\"\"\",4\r",
                "\n",
                "1,2,3\n",
                "5,",
                "\"x\" y,z\n",
                "\r\n",
                "\"",
                "東,6\n",
            ],
        ),
        (r#"{"path":"a","format":"csv","header":false"#, "", vec!["1\n", "\n", "\r", "\"2\r\n2\"\r\n", "3", "\r\n"]),
        (fixed, "", vec!["abc\n", "東京都\r\n", "ab\n", "\n", "abcd", "x"]),
        (bare, "", vec!["abc", "def", "ab", "\n"]),
    ]
}

#[tokio::test]
async fn a_read_that_is_cut_off_anywhere_gives_the_same_records_with_the_same_positions() {
    for (config, header, pieces) in formats() {
        let config = format!(r#"{config},"dedupe":"none"}}"#);
        for seed in 0..12 {
            let root = TempDir::new().unwrap();
            let text = format!("{header}{}", text(seed, &pieces));
            fs::write(root.path().join("a"), &text).unwrap();
            let whole = read(&root, &config, request(None, 1)).await;
            let all = items(&whole);
            let mut done = 0;
            for batch in &whole[..whole.len() - 1] {
                done += batch.items.len();
                let rest = read(&root, &config, request(Some(batch.checkpoint.clone()), 3)).await;
                assert_eq!(items(&rest), all[done..], "{config} behind record {done} of {text:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_was_added_to_a_file_is_read_with_the_numbers_that_a_whole_read_gives() {
    for (config, header, pieces) in formats() {
        let config = format!(r#"{config},"dedupe":"none","files":"changed"}}"#);
        for seed in 20..26 {
            let text = format!("{header}{}", text(seed, &pieces));
            let root = TempDir::new().unwrap();
            fs::write(root.path().join("a"), &text).unwrap();
            let all = items(&read(&root, &config, request(None, 1000)).await);
            let starts = pieces_of(&text);
            for cut in starts {
                let path = root.path().join("a");
                fs::write(&path, &text[..cut]).unwrap();
                let first = read(&root, &config, request(None, 1000)).await;
                let checkpoint = first.last().unwrap().checkpoint.clone();
                fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&text.as_bytes()[cut..]).unwrap();
                let second = items(&read(&root, &config, request(Some(checkpoint), 1000)).await);
                // Of a record that was cut in two the half is there besides, and behind it all is as it would be.
                let first = items(&first);
                assert!(all.ends_with(&second), "{config} cut at {cut} of {text:?}: {second:?}");
                let halves = first.len() + second.len() - all.len();
                assert!(halves <= 1, "{config} cut at {cut} of {text:?}: {first:?} and {second:?}");
                let same = first.len() - halves;
                assert_eq!(first[..same], all[..same], "{config} cut at {cut} of {text:?}");
            }
        }
    }
}

/// Some places between characters.
fn pieces_of(text: &str) -> Vec<usize> {
    text.char_indices().map(|(at, _)| at).filter(|at| *at > 0).step_by(3).collect()
}

#[tokio::test]
async fn a_large_file_is_not_read_again_before_the_place_where_a_read_stopped() {
    let rows = |from: u32, to: u32| (from..to).map(|n| format!("{n},{}\n", "x".repeat(90))).collect::<String>();
    let (sjis, ..) = encoding_rs::SHIFT_JIS.encode("番号,東京\n");
    for (header, encoding) in [("n,x\n".as_bytes(), "utf-8"), (&sjis, "shift_jis")] {
        let root = TempDir::new().unwrap();
        let path = root.path().join("a.csv");
        fs::write(&path, [header, rows(0, 50_000).as_bytes()].concat()).unwrap();
        let config = format!(r#"{{"path":"a.csv","dedupe":"none","files":"changed","encoding":"{encoding}"}}"#);
        let whole = read(&root, &config, request(None, 5000)).await;
        let rest = read(&root, &config, request(Some(whole[7].checkpoint.clone()), 5000)).await;
        assert_eq!(items(&rest), items(&whole)[40_000..]);
        let size = fs::metadata(&path).unwrap().len();
        assert!(bytes(&rest) < size / 4, "{} of {size} bytes", bytes(&rest));

        let complete = whole.last().unwrap().checkpoint.clone();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(rows(50_000, 50_003).as_bytes()).unwrap();
        let added = read(&root, &config, request(Some(complete), 5000)).await;
        let lines: Vec<_> = items(&added).iter().map(|item| (item.position().line, item.position().record)).collect();
        assert_eq!(lines, [(Some(50_002), 50_001), (Some(50_003), 50_002), (Some(50_004), 50_003)]);
        assert!(bytes(&added) < 100_000, "{} bytes", bytes(&added));
    }
}

#[tokio::test]
async fn what_can_not_be_entered_in_the_middle_is_passed_over_instead() {
    let root = TempDir::new().unwrap();
    let text: String = (0..100).map(|n| format!("{n},東京\n")).collect();
    let utf16: Vec<u8> = format!("n,x\n{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(root.path().join("utf16.csv"), utf16).unwrap();
    fs::write(root.path().join("gzip.csv"), crate::compressed::gzip(format!("n,x\n{text}").as_bytes())).unwrap();
    fs::write(root.path().join("a.json"), "[{\"n\":1},{\"n\":2},{\"n\":3}]").unwrap();
    for (config, size) in [
        (r#"{"path":"utf16.csv","encoding":"utf-16le","dedupe":"none"}"#, 30),
        (r#"{"path":"gzip.csv","dedupe":"none"}"#, 30),
        (r#"{"path":"a.json","dedupe":"none"}"#, 1),
    ] {
        let whole = read(&root, config, request(None, size)).await;
        assert!(!whole[0].checkpoint.get().contains("boundary"), "{config}: {}", whole[0].checkpoint);
        let rest = read(&root, config, request(Some(whole[0].checkpoint.clone()), size)).await;
        assert_eq!(items(&rest), items(&whole)[size..], "{config}");
    }
}

#[tokio::test]
async fn a_longer_file_that_does_not_begin_with_what_was_read_is_told_of_once_and_read_from_its_start() {
    let lines = |word: &str, to: u32| (0..to).map(|n| format!("{{\"{word}\":{n}}}\n")).collect::<String>();
    let old = lines("old", 3000);
    // As long as before: all of it is another one, or only its end.
    let other_head = lines("new", 3000);
    let other_end = old.replace("{\"old\":2999}", "{\"new\":2999}");
    for (name, codec) in [("a.ndjson", "none"), ("a.ndjson.gz", "gzip")] {
        for new in [&other_head, &other_end] {
            let pack = |text: &str| match codec {
                "gzip" => crate::compressed::gzip(text.as_bytes()),
                _ => text.as_bytes().to_vec(),
            };
            let root = TempDir::new().unwrap();
            let path = root.path().join(name);
            fs::write(&path, pack(&old)).unwrap();
            let config = format!(r#"{{"path":"{name}","dedupe":"none"}}"#);
            let whole = read(&root, &config, request(None, 1000)).await;
            // The same inode, and longer, as if something had been added.
            let longer = [pack(new), pack(&lines("more", 2000))].concat();
            assert!(longer.len() > pack(&old).len());
            fs::write(&path, longer).unwrap();
            let connector = connector(Some(root.path()), &config);
            let mut reader = connector.read(request(Some(whole[1].checkpoint.clone()), 1000)).await.unwrap();
            let turned_back = reader.next().await.unwrap().unwrap();
            assert!(turned_back.items.is_empty());
            let error = reader.next().await.unwrap_err();
            assert!(matches!(error, ConnectorError::Changed { records: 2000, .. }), "{name}: {error}");
            assert!(error.to_string().contains("it was written anew"), "{error}");
            let anew = read(&root, &config, request(Some(turned_back.checkpoint), 1000)).await;
            assert_eq!(items(&anew), items(&read(&root, &config, request(None, 1000)).await), "{name}");
        }
    }
}

#[tokio::test]
async fn a_file_that_begins_with_what_was_read_has_grown_and_may_do_so_again() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("a.csv");
    let rows = |from: u32, to: u32| (from..to).map(|n| format!("{n},東京\n")).collect::<String>();
    let config = r#"{"path":"a.csv","dedupe":"none"}"#;
    fs::write(&path, format!("n,x\n{}", rows(0, 5000))).unwrap();
    let mut checkpoint = read(&root, config, request(None, 1000)).await[1].checkpoint.clone();
    for (end, done) in [(6000, 2000), (7000, 3000), (8000, 4000)] {
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(rows(end - 1000, end).as_bytes()).unwrap();
        let rest = read(&root, config, request(Some(checkpoint), 1000)).await;
        assert_eq!(items(&rest).len(), usize::try_from(end).unwrap() - done);
        checkpoint = rest[0].checkpoint.clone();
    }
}

#[tokio::test]
async fn a_file_that_is_gone_is_told_of_once_and_the_files_behind_it_are_read() {
    for files in ["changed", "all"] {
        let root = TempDir::new().unwrap();
        let write = |name: &str, lines: usize| fs::write(root.path().join(name), "{}\n".repeat(lines));
        ["a.ndjson", "b.ndjson"].into_iter().for_each(|name| write(name, 20).unwrap());
        let config = format!(r#"{{"path":"*.ndjson","dedupe":"none","files":"{files}"}}"#);
        let stopped = read(&root, &config, request(None, 15)).await[2].checkpoint.clone();
        fs::remove_file(root.path().join("b.ndjson")).unwrap();
        write("c.ndjson", 12).unwrap();
        let connector = connector(Some(root.path()), &config);
        let mut reader = connector.read(request(Some(stopped), 100)).await.unwrap();
        let turned_back = reader.next().await.unwrap().unwrap().checkpoint;
        let error = reader.next().await.unwrap_err();
        assert!(matches!(error, ConnectorError::Changed { records: 15, .. }), "{error}");
        let rest = read(&root, &config, request(Some(turned_back), 100)).await;
        assert_eq!(items(&rest).len(), 12, "{files}");
    }
}

#[tokio::test]
async fn a_checkpoint_of_a_version_without_places_is_gone_on_from() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("a.ndjson");
    fs::write(&path, "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n").unwrap();
    let config = r#"{"path":"a.ndjson","dedupe":"none","files":"changed"}"#;
    let whole = read(&root, config, request(None, 1)).await;
    let old = |batch: &Batch| {
        let mut state: serde_json::Value = serde_json::from_str(batch.checkpoint.get()).unwrap();
        for new in ["boundary", "fingerprint", "files_ends", "done_ends"] {
            state.as_object_mut().unwrap().remove(new);
        }
        RawValue::from_string(state.to_string()).unwrap()
    };
    let rest = read(&root, config, request(Some(old(&whole[0])), 1)).await;
    assert_eq!(items(&rest), items(&whole)[1..]);
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"a\":4}\n").unwrap();
    let added = items(&read(&root, config, request(Some(old(&whole[3])), 1)).await);
    assert_eq!((added.len(), added[0].position().line), (1, Some(4)));
}

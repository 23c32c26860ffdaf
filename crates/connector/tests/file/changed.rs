//! Only what is new or changed is read, unless the config wants all; also by the checkpoints of versions that read all.

use std::fs;
use std::io::Write as _;

use matome_connector::{Batch, ReadRequest};
use serde_json::value::RawValue;
use tempfile::TempDir;

use crate::support::{connector, read_all};

async fn read(
    root: &TempDir,
    config: &str,
    dedupe: &str,
    checkpoint: Option<&RawValue>,
) -> (usize, u64, Box<RawValue>) {
    let request = ReadRequest {
        checkpoint: checkpoint.map(ToOwned::to_owned),
        resume_inside: dedupe == "none",
        counts_equals: dedupe == "rows",
        ..ReadRequest::default()
    };
    let batches: Vec<Batch> = read_all(&*connector(Some(root.path()), config), request).await.unwrap();
    let items = batches.iter().map(|batch| batch.items.len()).sum();
    let passed = batches.iter().map(|batch| batch.stats.not_modified).sum();
    (items, passed, batches.last().unwrap().checkpoint.clone())
}

#[tokio::test]
async fn one_file_is_read_when_it_changed_and_each_time_when_the_config_says_so() {
    for dedupe in ["none", "rows", "hash"] {
        let root = TempDir::new().unwrap();
        let path = root.path().join("a.ndjson");
        fs::write(&path, "{\"n\":1}\n{\"n\":2}\n").unwrap();
        let config = format!(r#"{{"path":"a.ndjson","dedupe":"{dedupe}"}}"#);
        let (items, _, first) = read(&root, &config, dedupe, None).await;
        assert_eq!(items, 2, "{dedupe}");
        let (items, passed, second) = read(&root, &config, dedupe, Some(&first)).await;
        assert_eq!((items, passed), (0, 1), "{dedupe}");
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"n\":3}\n").unwrap();
        let (items, passed, third) = read(&root, &config, dedupe, Some(&second)).await;
        assert_eq!((items, passed), (if dedupe == "hash" { 3 } else { 1 }, 0), "{dedupe}");
        let all = format!(r#"{{"path":"a.ndjson","dedupe":"{dedupe}","files":"all"}}"#);
        assert_eq!(read(&root, &all, dedupe, Some(&third)).await.0, 3, "{dedupe}");
    }
}

#[tokio::test]
async fn what_a_version_read_that_kept_no_list_of_files_is_not_read_again() {
    for dedupe in ["none", "rows"] {
        let root = TempDir::new().unwrap();
        let path = root.path().join("a.csv");
        fs::write(&path, "n\n1\n2\n").unwrap();
        let all = format!(r#"{{"path":"a.csv","dedupe":"{dedupe}","files":"all"}}"#);
        let (_, _, old) = read(&root, &all, dedupe, None).await;
        assert!(!old.get().contains("\"files\""), "{old}");
        let config = format!(r#"{{"path":"a.csv","dedupe":"{dedupe}"}}"#);
        let (items, passed, _) = read(&root, &config, dedupe, Some(&old)).await;
        assert_eq!((items, passed), (0, 1), "{dedupe}");
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"3\n").unwrap();
        let (items, passed, _) = read(&root, &config, dedupe, Some(&old)).await;
        assert_eq!((items, passed), (1, 0), "{dedupe}");
        fs::write(&path, "n\n4\n5\n6\n7\n").unwrap();
        assert_eq!(read(&root, &config, dedupe, Some(&old)).await.0, 4, "{dedupe}: written anew");
    }
}

#[tokio::test]
async fn lines_above_the_header_that_came_first_are_no_rows_when_the_rest_comes() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("a.csv");
    let config = r##"{"path":"a.csv","dedupe":"none","comment":"#"}"##;
    let mut checkpoint = None;
    for (added, rows) in [("# made by x\n", 0), ("# on Monday\nn,m\n", 0), ("1,2\n# half", 1), ("\n3,4\n", 2)] {
        fs::OpenOptions::new().create(true).append(true).open(&path).unwrap().write_all(added.as_bytes()).unwrap();
        let (items, _, next) = read(&root, config, "none", checkpoint.as_deref()).await;
        // A line that has no end is read again, with the row before it.
        assert_eq!(items, rows, "{added:?}");
        checkpoint = Some(next);
    }
}

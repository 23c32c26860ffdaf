//! Files that are renamed, or copied and cut off, while they are written to: each line is read once.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use matome_connector::{Batch, ReadRequest};
use serde_json::value::RawValue;
use tempfile::TempDir;

use crate::support::{connector, read_all, shown};

/// A log, and a source that reads it.
struct Log {
    root: TempDir,
    config: String,
    dedupe: &'static str,
    checkpoint: Option<Box<RawValue>>,
    written: u32,
    read: Vec<String>,
}

impl Log {
    fn new(path: &str, dedupe: &'static str) -> Self {
        let config = format!(r#"{{"path":"{path}","format":"ndjson","dedupe":"{dedupe}"}}"#);
        Self { root: TempDir::new().unwrap(), config, dedupe, checkpoint: None, written: 0, read: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&mut self, name: &str, lines: u32) {
        let text: String = (0..lines).map(|n| format!("{{\"n\":{}}}\n", self.written + n)).collect();
        self.written += lines;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn copy_and_truncate(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        fs::File::options().write(true).open(self.path(from)).unwrap().set_len(0).unwrap();
    }

    async fn batches(&self, max_items: usize) -> Vec<Batch> {
        let request = ReadRequest {
            checkpoint: self.checkpoint.clone(),
            resume_inside: self.dedupe == "none",
            counts_equals: self.dedupe == "rows",
            max_items,
            ..ReadRequest::default()
        };
        read_all(&*connector(Some(self.root.path()), &self.config), request).await.unwrap()
    }

    /// Makes room for one more old file where there are `old` of them.
    fn rename_older(&self, old: usize) {
        for old in (1..=old).rev() {
            self.rename(&format!("app.log.{old}"), &format!("app.log.{}", old + 1));
        }
    }

    /// Reads, and says how many records came.
    async fn read(&mut self) -> usize {
        let batches = self.batches(1000).await;
        self.checkpoint = Some(batches.last().unwrap().checkpoint.clone());
        let read = shown(batches.into_iter().flat_map(|batch| batch.items));
        self.read.extend(read.iter().cloned());
        read.len()
    }

    /// Each line that was written came, and none twice.
    fn is_complete(&self) {
        let mut read = self.read.clone();
        read.sort();
        let mut written: Vec<String> = (0..self.written).map(|n| format!("{{\"n\":{n}}}")).collect();
        written.sort();
        assert_eq!(read, written, "{}", self.config);
    }
}

#[tokio::test]
async fn a_renamed_file_is_read_on_under_its_new_name() {
    for dedupe in ["none", "rows"] {
        let mut log = Log::new("app.log*", dedupe);
        log.write("app.log", 3);
        assert_eq!(log.read().await, 3);
        for round in 0..3 {
            log.write("app.log", 2);
            log.rename_older(round);
            log.rename("app.log", "app.log.1");
            // Whoever writes has the old file open for a while.
            log.write("app.log.1", 1);
            log.write("app.log", 4);
            assert_eq!(log.read().await, 7, "{dedupe} {round}");
            assert_eq!(log.read().await, 0, "{dedupe} {round}");
            log.write("app.log.1", 1);
            assert_eq!(log.read().await, 1, "{dedupe} {round}: what came late");
        }
        log.is_complete();
    }
}

#[tokio::test]
async fn a_copy_of_a_file_that_was_cut_off_is_what_was_read() {
    for dedupe in ["none", "rows"] {
        let mut log = Log::new("app*", dedupe);
        log.write("app.log", 3);
        assert_eq!(log.read().await, 3);
        for round in 0..3 {
            log.write("app.log", 2);
            log.rename_older(round);
            log.copy_and_truncate("app.log", "app.log.1");
            if round != 1 {
                log.write("app.log", 4);
            }
            assert_eq!(log.read().await, if round == 1 { 2 } else { 6 }, "{dedupe} {round}");
            assert_eq!(log.read().await, 0, "{dedupe} {round}");
            log.write("app.log", 1);
            assert_eq!(log.read().await, 1, "{dedupe} {round}");
        }
        log.is_complete();
    }
}

#[tokio::test]
async fn the_last_lines_of_a_file_are_read_under_a_name_that_the_path_does_not_match() {
    for copies in [false, true] {
        for name in ["app.log.1", "app-20260131.log", "app.log-20260131"] {
            let mut log = Log::new("app.log", "none");
            log.write("app.log", 3);
            assert_eq!(log.read().await, 3);
            // Neither is what was read.
            fs::write(log.path("app.log.bak"), "{\"other\":1}\n").unwrap();
            fs::write(log.path("apple.log"), fs::read(log.path("app.log")).unwrap()).unwrap();
            log.write("app.log", 2);
            match copies {
                true => log.copy_and_truncate("app.log", name),
                false => log.rename("app.log", name),
            }
            log.write("app.log", 4);
            assert_eq!(log.read().await, 6, "{name} {copies}");
            assert_eq!(log.read().await, 0, "{name} {copies}");
            log.write("app.log", 1);
            assert_eq!(log.read().await, 1, "{name} {copies}");
            log.is_complete();
        }
    }
}

#[tokio::test]
async fn the_last_lines_come_where_equal_rows_are_counted_too() {
    let mut log = Log::new("app.log", "rows");
    log.write("app.log", 3);
    log.read().await;
    log.write("app.log", 2);
    log.rename("app.log", "app.log.1");
    log.write("app.log", 4);
    // The rows of the new file are counted as those of one that was written anew.
    let batches = log.batches(1000).await;
    assert!(batches.iter().all(|batch| !batch.is_addition));
    assert_eq!(log.read().await, 6);
    log.is_complete();
}

#[tokio::test]
async fn a_read_that_was_cut_off_before_and_behind_a_rotation_gives_each_line_once() {
    for path in ["app.log*", "app.log"] {
        // Behind so many records of the first read the log is rotated, and behind so many of the second it is cut off again.
        for (first, second) in [(2, 1), (2, 4), (5, 2), (5, 6), (7, 3), (7, 8)] {
            let mut log = Log::new(path, "none");
            log.write("app.log", 9);
            let take = |log: &mut Log, batches: Vec<Batch>, count: usize| {
                log.checkpoint = Some(batches[count - 1].checkpoint.clone());
                log.read.extend(shown(batches.into_iter().take(count).flat_map(|batch| batch.items)));
            };
            let batches = log.batches(1).await;
            take(&mut log, batches, first);
            log.write("app.log", 1);
            log.rename("app.log", "app.log.1");
            log.write("app.log", 5);
            let batches = log.batches(1).await;
            let count = second.min(batches.len() - 1);
            take(&mut log, batches, count);
            log.read().await;
            assert_eq!(log.read().await, 0, "{path} {first} {second}");
            log.is_complete();
        }
    }
}

#[tokio::test]
async fn a_file_that_begins_anew_with_other_lines_is_read_as_a_whole() {
    let mut log = Log::new("*.log", "none");
    log.write("a.log", 3);
    log.write("b.log", 3);
    assert_eq!(log.read().await, 6);
    // Written over, with a copy of the other one beside it that is none of its own.
    fs::remove_file(log.path("a.log")).unwrap();
    log.write("a.log", 2);
    fs::copy(log.path("b.log"), log.path("c.log")).unwrap();
    assert_eq!(log.read().await, 5, "a copy of a file that is still there is another file");
}

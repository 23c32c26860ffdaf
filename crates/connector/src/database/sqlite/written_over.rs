//! Whether somebody wrote over a database file while it was read. Who writes by SQLite waits until readers have ended; a copy
//! over the file does not, and leaves them with parts of both.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A file, and what it was like when a read began.
pub(super) struct Watched {
    path: PathBuf,
    begun: Option<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: (i64, i64),
}

impl Watched {
    /// To be called once the read keeps those who write by SQLite away.
    pub(super) fn begin(path: PathBuf) -> Self {
        let begun = look(&path);
        Self { path, begun }
    }

    /// How long it was.
    pub(super) fn size(&self) -> Option<u64> {
        self.begun.map(|begun| begun.size)
    }

    /// How it changed since, in English and in Japanese.
    pub(super) fn change(&self) -> Option<(&'static str, &'static str)> {
        let (before, now) = (self.begun?, look(&self.path)?);
        // Another file took its name, and the one that is open stays what it was.
        let is_it = (before.device, before.inode) == (now.device, now.inode);
        let written_over = ("it was written over while it was read", "読んでいる間に上書きされました");
        (is_it && before != now).then_some(written_over)
    }
}

// Not by a handle of its own: to close that would take the locks of all reads of this process off the file.
fn look(path: &Path) -> Option<State> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(State {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified_ns: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

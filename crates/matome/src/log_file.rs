//! The log of a server in a file, which begins anew before it grows large.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes of a file; a line is never split.
const LIMIT: u64 = 16 << 20;
/// Older files that are kept: `matome.log.1` is the newest of them.
const OLDER: usize = 5;

/// A file of log lines. Cheap to clone.
///
/// A line that cannot be written is lost, and nothing else: a server must not stop because its log has no room.
#[derive(Clone, Debug)]
pub struct LogFile(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl LogFile {
    /// Opens the file at its end; makes it, and its directory, when they are not there.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, LIMIT)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir)?;
        }
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self(Arc::new(Mutex::new(State { path: path.to_owned(), file, size, limit }))))
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn older(path: &Path, n: usize) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{n}"));
    name.into()
}

impl State {
    /// Moves the file aside and begins a new one; goes on with the old one where that fails.
    fn begin_anew(&mut self) {
        for n in (1..OLDER).rev() {
            let _ = std::fs::rename(older(&self.path, n), older(&self.path, n + 1));
        }
        if std::fs::rename(&self.path, older(&self.path, 1)).is_ok()
            && let Ok(file) = append(&self.path)
        {
            self.file = file;
        }
        self.size = 0;
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if state.size > 0 && state.size.saturating_add(length) > state.limit {
            state.begin_anew();
        }
        if state.file.write_all(line).is_ok() {
            state.size = state.size.saturating_add(length);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_begins_anew_at_its_limit_and_keeps_five_older_ones() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("logs/matome.log");
        let mut log = LogFile::with_limit(&path, 20).unwrap();
        for n in 10..40 {
            log.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        let read = |n| std::fs::read_to_string(if n == 0 { path.clone() } else { older(&path, n) });
        assert_eq!(read(0).unwrap(), "line 38\nline 39\n");
        assert_eq!(read(1).unwrap(), "line 36\nline 37\n");
        assert_eq!(read(OLDER).unwrap(), "line 28\nline 29\n");
        assert!(read(OLDER + 1).is_err());
        // A process that starts again goes on where the last one stopped.
        let mut log = LogFile::with_limit(&path, 20).unwrap();
        log.write_all(b"x\n").unwrap();
        assert_eq!(read(0).unwrap(), "line 38\nline 39\nx\n");
        log.write_all(b"a long line that alone is more than the limit\n").unwrap();
        assert_eq!(read(0).unwrap().lines().count(), 1);
        assert_eq!(read(1).unwrap(), "line 38\nline 39\nx\n");
    }
}

//! The data directory of an embedded installation: held by one process at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Result, StoreError};

/// The database in a data directory.
pub(super) const DATABASE_FILE: &str = "matome.db";

/// A data directory that this process holds until the value is dropped. It contains `matome.db`,
/// `master.key`, the lock file and the control socket.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
    was_unclean: bool,
    /// The file has not been checked since a process left it without ending.
    owes_check: AtomicBool,
}

impl DataDir {
    /// Makes the directory when it is new (mode 0700) and takes its lock.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process holds it, [`StoreError::DataDir`] when it cannot be used.
    pub fn acquire(path: &Path) -> Result<Self> {
        let failed = |what: &str| {
            let (path, what) = (path.to_owned(), what.to_owned());
            move |source| StoreError::DataDir { path, what, source }
        };
        make_private_dir(path).map_err(failed("making the directory failed"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join("matome.lock"))
            .map_err(failed("opening its lock file failed"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed("locking it failed")(source)),
        }
        // The lock file holds the process id while the directory is in use and is emptied on a clean end.
        let was_unclean = lock.metadata().is_ok_and(|meta| meta.len() > 0);
        let owes_check = AtomicBool::new(was_unclean);
        let mut dir = Self { path: path.to_owned(), lock, was_unclean, owes_check };
        dir.lock.set_len(0).map_err(failed("writing its lock file failed"))?;
        writeln!(dir.lock, "{}", std::process::id()).map_err(failed("writing its lock file failed"))?;
        Ok(dir)
    }

    /// Whether the last process that held it did not end cleanly.
    pub fn was_unclean(&self) -> bool {
        self.was_unclean
    }

    /// Whether the file has still to be checked because of that. If it is not, the next process has to.
    pub(crate) fn owes_check(&self) -> bool {
        self.owes_check.load(Ordering::Relaxed)
    }

    /// The file was checked.
    pub(crate) fn checked(&self) {
        self.owes_check.store(false, Ordering::Relaxed);
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The SQLite file in it.
    pub fn database_file(&self) -> PathBuf {
        self.path.join(DATABASE_FILE)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if !self.owes_check() {
            // When this fails the next start only checks the file more thoroughly.
            let _ = self.lock.set_len(0);
        }
    }
}

/// Makes the file of a database, still empty, for its owner alone (mode 0600) where there is none: others may be able to look
/// into its directory. Returns whether it is new.
pub(crate) fn make_database_file(file: &Path) -> Result<bool> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let made = match options.open(file) {
        Ok(_) => Ok(true),
        // One of no bytes was made so by a process that ended at once.
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => file.metadata().map(|meta| meta.len() == 0),
        Err(err) => Err(err),
    };
    let failed =
        |source| StoreError::DataDir { path: file.to_owned(), what: "making the database failed".to_owned(), source };
    made.map_err(failed)
}

fn make_private_dir(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

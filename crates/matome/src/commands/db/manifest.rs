//! What a backup says about itself: `manifest.json`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::failure::{Exit, Failure, said};
use crate::message::Message;

/// Name of the manifest in a backup.
pub const MANIFEST: &str = "manifest.json";
/// Name of the database in a backup, as in a data directory.
pub const DATABASE: &str = "matome.db";
/// Name of the key in a backup, as in a data directory.
pub const KEY: &str = "master.key";
/// The form of backup that this version writes and reads.
const FORMAT: u32 = 1;

/// The manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Form of the backup.
    pub format: u32,
    /// Version of matome that made it.
    pub matome_version: String,
    /// Version of the schema.
    pub schema_version: i64,
    /// The installation that it was made of.
    pub instance_id: String,
    /// When (RFC 3339).
    pub made_at: String,
    /// Length of `matome.db`.
    pub size_bytes: u64,
    /// SHA-256 of `matome.db`, 64 hex digits.
    pub sha256: String,
    /// Secrets in the database, which need the master key.
    pub secrets: i64,
    /// Whether `master.key` is there too.
    pub with_key: bool,
}

impl Manifest {
    /// The number of the form that is written.
    pub fn format() -> u32 {
        FORMAT
    }

    /// Reads the manifest of a backup.
    ///
    /// # Errors
    /// When `dir` is no backup, or one of a form that this version does not know.
    pub fn read(dir: &Path) -> Result<Self, Failure> {
        let no_backup = || {
            Failure::new(Exit::Usage, Message::NotBackup { dir: dir.display().to_string() }).help(Message::GiveBackup)
        };
        let text = std::fs::read_to_string(dir.join(MANIFEST)).map_err(|err| no_backup().because(&err))?;
        let manifest: Self = serde_json::from_str(&text).map_err(|err| no_backup().because(&err))?;
        if manifest.format != FORMAT {
            return Err(no_backup().why(said(format!("format {}, not {FORMAT}", manifest.format))));
        }
        Ok(manifest)
    }
}

/// SHA-256 of a file and its length; `each` is told how much is behind.
///
/// # Errors
/// When it cannot be read.
pub fn hash_file(path: &Path, mut each: impl FnMut(u64)) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer, mut length) = (Sha256::new(), vec![0; 1 << 20], 0u64);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            let hex = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok((hex, length));
        }
        hash.update(&buffer[..n]);
        length += n as u64;
        each(length);
    }
}

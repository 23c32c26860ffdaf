//! Rows on their way to the child: one file for each table, see [`matome_model::engine::TableInput`].

use std::io::Write;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::error::EngineError;

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 256 << 10;

const TAKES_ALL: &str = "a vector takes all bytes";

/// What tells an acquired record apart.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// 64 hex digits; empty when there are none.
    pub hash: &'a str,
    /// Hash of its key, when its source has one.
    pub key: Option<&'a [u8]>,
    /// Version of the key, from 1.
    pub version: i64,
}

/// Writes the rows of one table. Dropped without [`TableSpool::finish`], the table misses its last rows.
#[derive(Debug)]
pub struct TableSpool {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
    rows: u64,
    bytes: u64,
}

impl TableSpool {
    pub(super) async fn create(path: &Path) -> Result<Self, EngineError> {
        let file =
            File::create_new(path).await.map_err(|source| EngineError::Spool { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file, pending: Vec::with_capacity(BUFFER_BYTES), rows: 0, bytes: 0 })
    }

    /// Adds a row. `record` is the text of one JSON object; aggregated rows have no identity.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn row(
        &mut self,
        id: i64,
        time: DateTime<Utc>,
        identity: Option<Identity<'_>>,
        record: &str,
    ) -> Result<(), EngineError> {
        let micros = time.timestamp_micros();
        write!(self.pending, "{id}\t{micros}\t").expect(TAKES_ALL);
        match identity {
            Some(Identity { hash, key, version }) => {
                write!(self.pending, "{hash}\t{version}\t").expect(TAKES_ALL);
                key.into_iter().flatten().for_each(|byte| write!(self.pending, "{byte:02x}").expect(TAKES_ALL));
            }
            None => self.pending.extend_from_slice(b"\t\t"),
        }
        self.pending.push(b'\t');
        let start = self.pending.len();
        self.pending.extend_from_slice(record.as_bytes());
        // A line feed in JSON can only stand between tokens; here it would end the row.
        for byte in &mut self.pending[start..] {
            if *byte == b'\n' {
                *byte = b' ';
            }
        }
        self.pending.push(b'\n');
        self.rows += 1;
        if self.pending.len() >= BUFFER_BYTES {
            self.write().await?;
        }
        Ok(())
    }

    /// Rows and bytes so far.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        (self.rows, self.bytes + self.pending.len() as u64)
    }

    /// Writes what is pending; returns how many rows the table has.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn finish(mut self) -> Result<u64, EngineError> {
        self.write().await?;
        // tokio hands writes to a thread; only a flush tells how the last one went.
        self.file.flush().await.map_err(|source| EngineError::Spool { path: self.path.clone(), source })?;
        Ok(self.rows)
    }

    async fn write(&mut self) -> Result<(), EngineError> {
        self.file
            .write_all(&self.pending)
            .await
            .map_err(|source| EngineError::Spool { path: self.path.clone(), source })?;
        self.bytes += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

//! Giving free room of an embedded file back to the disk: pages of removed rows go, a few at a time, beside the work.
//!
//! A file that matome made keeps a map of its pages (`auto_vacuum`, incremental), so the last ones can be moved into free
//! places and the file be cut. PostgreSQL has autovacuum for the same.

use std::time::{Duration, Instant};

use sqlx::ConnectOptions as _;

use super::{Backend, Conn, Db, sqlite_options};
use crate::error::Result;

/// What stays free of a file, one part of so many: the next records go there, and the file need not grow for them.
const KEPT: i64 = 8;
/// Less than so many pages (4 MiB) are not worth moving others.
const FEWEST: i64 = 1_024;

/// The pages of an embedded file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// All of them.
    pub all: i64,
    /// Those that nothing is in.
    pub free: i64,
    /// Bytes of one.
    pub size_bytes: i64,
    /// Whether free ones can be given back: not in files that older versions made.
    pub can_shrink: bool,
}

const PAGES: &str = "select (select page_count from pragma_page_count()) as pages,
(select freelist_count from pragma_freelist_count()) as free, (select page_size from pragma_page_size()) as bytes,
(select auto_vacuum from pragma_auto_vacuum()) as mode";

impl Pages {
    /// Of the database behind a connection, which is SQLite.
    ///
    /// # Errors
    /// When the database is gone.
    pub async fn of(conn: &mut Conn<'_>) -> Result<Self> {
        let row = conn.fetch_one(PAGES, &[]).await?;
        Ok(Self {
            all: row.int("pages")?,
            free: row.int("free")?,
            size_bytes: row.int("bytes")?,
            can_shrink: row.int("mode")? == 2,
        })
    }

    /// Free pages that are more than are kept.
    pub fn excess(&self) -> i64 {
        let excess = self.free - self.all / KEPT;
        if excess < FEWEST { 0 } else { excess }
    }
}

impl Db {
    /// Gives up to `most` pages of an embedded file back to the disk, if more than an eighth of it is free. Returns how long
    /// the writer was held; `None` when there is nothing to give back.
    ///
    /// # Errors
    /// When the database refuses a statement or is gone.
    pub async fn give_back(&self, most: i64) -> Result<Option<Duration>> {
        let Backend::Sqlite { file, .. } = &*self.backend else { return Ok(None) };
        let pages = Pages::of(&mut self.read().await?.conn()).await?;
        let excess = pages.excess();
        if excess == 0 || !pages.can_shrink {
            return Ok(None);
        }
        let step = excess.min(most);
        let cut = self.write_page(move |conn| {
            Box::pin(async move {
                let began = Instant::now();
                conn.execute_script(format!("pragma incremental_vacuum({step})")).await?;
                Ok(began.elapsed())
            })
        });
        let held = cut.await?;
        if excess - step < FEWEST {
            // The file is cut when all of the log is in it; nobody may write for some time.
            let mut beside = sqlite_options(file).connect().await?;
            Conn::Sqlite(&mut beside).fetch_all("pragma wal_checkpoint(passive)", &[]).await?;
            let _ = sqlx::Connection::close(beside).await;
        }
        Ok(Some(held))
    }
}

//! Moving SQLite's write-ahead log into the database file, beside the writer instead of in it.
//!
//! New records go to random places of two indexes, so a page of them changes thousands of file pages, and to move these
//! costs about as much as to write them. By itself SQLite does that inside of the commit that passes a limit, and all
//! that waits for the writer waits for it. Here a connection of its own does it while the writer goes on. A log starts
//! anew only when all of it is moved, which a writer at work always prevents by a few more commits: so the writer moves
//! that rest, a small one, itself.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{Connection as _, Row as _, SqliteConnection};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Frames (changed pages) in the log from which on it is moved: 128 MiB. The longer it is, the more often a page is in it
/// that needs to be moved once only; with half of this, moving beside the writer gained nothing.
const ENOUGH: i64 = 32_000;
/// So many are left to the writer: some milliseconds.
const REST: i64 = 1_000;
/// The limit for SQLite itself, should all this not keep up.
pub(super) const BACKSTOP: &str = "96000";

/// Where a log is moved in the background. Used by the writer only.
#[derive(Debug)]
pub(super) struct Checkpoints {
    ask: Arc<Notify>,
    state: Arc<Mutex<State>>,
    end: Arc<Notify>,
    worker: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The log is short.
    Idle,
    /// The other connection is moving it.
    Moving,
    /// Nearly all of it is moved.
    Moved,
}

impl Checkpoints {
    /// Starts on a connection of its own to the writer's file.
    pub(super) fn start(conn: SqliteConnection) -> Self {
        let (ask, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let state = Arc::new(Mutex::new(State::Idle));
        let worker = tokio::spawn(work(conn, Arc::clone(&ask), Arc::clone(&end), Arc::clone(&state)));
        Self { ask, state, end, worker }
    }

    /// To be called by the writer between two transactions that held records.
    pub(super) async fn after_commit(&self, writer: &mut SqliteConnection) {
        // An error here is one of the disk: the log stays, nothing is lost, and the next commit says what is wrong.
        match self.state() {
            State::Moving => {}
            State::Moved => {
                let _ = frames(writer, "pragma wal_checkpoint(passive)").await;
                self.set(State::Idle);
            }
            State::Idle => {
                if frames(writer, "pragma wal_checkpoint(noop)").await.is_some_and(|(log, _)| log >= ENOUGH) {
                    self.set(State::Moving);
                    self.ask.notify_one();
                }
            }
        }
    }

    /// Ends it, so that the writer's connection is the last one.
    pub(super) async fn close(self) {
        self.end.notify_one();
        let _ = self.worker.await;
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

async fn work(mut conn: SqliteConnection, ask: Arc<Notify>, end: Arc<Notify>, state: Arc<Mutex<State>>) {
    loop {
        tokio::select! {
            biased;
            () = end.notified() => break,
            () = ask.notified() => {}
        }
        // Each pass moves what the writer added during the one before. They go on while each finds half as much at most; then the
        // rest is the writer's, also where it is large because the writer is quicker than the disk: more passes would only
        // let the log grow.
        let mut before = i64::MAX;
        loop {
            let begun = frames(&mut conn, "pragma wal_checkpoint(passive)").await;
            let now = frames(&mut conn, "pragma wal_checkpoint(noop)").await;
            match begun.zip(now).map(|((_, moved), (log, _))| log - moved) {
                Some(left) if left > REST && left <= before / 2 => before = left,
                _ => break,
            }
        }
        *state.lock().unwrap_or_else(PoisonError::into_inner) = State::Moved;
    }
    let _ = conn.close().await;
}

/// Frames in the log, and how many of them are in the database file too.
async fn frames(conn: &mut SqliteConnection, pragma: &'static str) -> Option<(i64, i64)> {
    let row = sqlx::query(pragma).fetch_one(conn).await.ok()?;
    Some((row.try_get(1).ok()?, row.try_get(2).ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use crate::db::{DataDir, Db};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_log_starts_anew_while_pages_go_on_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open_embedded(DataDir::acquire(dir.path()).unwrap()).await.unwrap();
        db.write(|conn| {
            Box::pin(async move { conn.execute_script("create table t (id integer primary key, b blob)".into()).await })
        })
        .await
        .unwrap();
        let fill = "with recursive n (i) as (select 1 union all select i + 1 from n where i < 1000)
            insert into t (b) select zeroblob(4000) from n";
        let log = dir.path().join("matome.db-wal");
        // Bytes 12 to 16 of the log count how often it was started (sqlite.org/fileformat2.html, "WAL header").
        let started = || {
            let mut head = [0; 16];
            std::fs::File::open(&log).unwrap().read_exact(&mut head).unwrap();
            head[12..].to_vec()
        };
        let page = async |sql| db.write_page(move |conn| Box::pin(async move { conn.execute(sql, &[]).await })).await;
        for _ in 0..33 {
            page(fill).await.unwrap();
        }
        // Far from the limit at which SQLite does it by itself.
        let (first, begun) = (started(), std::time::Instant::now());
        while started() == first {
            assert!(begun.elapsed().as_secs() < 60, "the log never starts anew");
            page("insert into t (b) values (null)").await.unwrap();
        }
        let rows =
            db.read().await.unwrap().conn().fetch_one("select count(*) as n from t where b is not null", &[]).await;
        assert_eq!(rows.unwrap().int("n").unwrap(), 33_000);
        db.close().await;
        assert!(!dir.path().join("matome.db-wal").exists(), "the file alone is whole after an orderly end");
    }
}

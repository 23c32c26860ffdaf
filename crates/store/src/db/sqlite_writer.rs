//! The one writer of an embedded database: every change goes through it, several in one commit.
//!
//! SQLite has one writer at a time, and a durable commit costs one fsync. So units of work queue here; each
//! runs in a SAVEPOINT of its own, and those that wait together share a commit. Control work (claims,
//! heartbeats, API writes) goes before pages of data, at most one page is in a commit, and an answer is sent
//! only when the commit is durable.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::SqliteConnection;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Work;
use super::conn::Conn;
use super::sqlite_checkpoints::Checkpoints;
use crate::error::{Result, StoreError};

/// Units that wait for the writer at most; the next caller waits for a place.
const CONTROL_QUEUE: usize = 1024;
const DATA_QUEUE: usize = 16;
/// Units that share one commit at most.
const UNITS_PER_COMMIT: usize = 256;
/// A commit is not held open longer than this for further units.
const COMMIT_WINDOW: Duration = Duration::from_millis(15);

#[derive(Clone, Debug)]
pub(super) struct SqliteWriter {
    control: mpsc::Sender<Box<dyn Unit>>,
    data: mpsc::Sender<Box<dyn Unit>>,
    end: Arc<Notify>,
    ended: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// A unit of work with its reply channel, whatever its result type.
trait Unit: Send {
    /// Runs it; `Err` when its savepoint has to be rolled back.
    fn run<'a>(&'a mut self, conn: &'a mut SqliteConnection) -> BoxFuture<'a, Result<(), ()>>;
    /// Sends the result after the commit, or the commit's error.
    fn answer(self: Box<Self>, commit: Option<StoreError>);
}

struct Pending<T> {
    work: Option<Work<T>>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send + 'static> Unit for Pending<T> {
    fn run<'a>(&'a mut self, conn: &'a mut SqliteConnection) -> BoxFuture<'a, Result<(), ()>> {
        Box::pin(async move {
            let work = self.work.take().expect("a unit runs once");
            let mut conn = Conn::Sqlite(conn);
            // A defect in one unit must not take the writer away from all the others.
            let result = AssertUnwindSafe(work(&mut conn)).catch_unwind().await.unwrap_or(Err(StoreError::Closed));
            let outcome = if result.is_ok() { Ok(()) } else { Err(()) };
            self.result = Some(result);
            outcome
        })
    }

    fn answer(self: Box<Self>, commit: Option<StoreError>) {
        let result = match (self.result, commit) {
            (Some(Err(err)), _) | (_, Some(err)) => Err(err),
            (Some(ok), None) => ok,
            (None, None) => Err(StoreError::Closed),
        };
        // The caller may have gone; its work is done all the same.
        let _ = self.reply.send(result);
    }
}

impl SqliteWriter {
    /// Starts the writer on `conn`. It ends when the last handle is dropped.
    pub(super) fn start(conn: SqliteConnection, checkpoints: Checkpoints) -> Self {
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let (data, data_queue) = mpsc::channel(DATA_QUEUE);
        let end = Arc::new(Notify::new());
        let ended = tokio::spawn(run(conn, checkpoints, control_queue, data_queue, Arc::clone(&end)));
        Self { control, data, end, ended: Arc::new(Mutex::new(Some(ended))) }
    }

    /// Ends the writer after what waits already, and closes its connection.
    pub(super) async fn close(&self) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            self.end.notify_one();
            let _ = ended.await;
        }
    }

    pub(super) async fn submit<T: Send + 'static>(&self, is_data: bool, work: Work<T>) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let unit: Box<dyn Unit> = Box::new(Pending { work: Some(work), result: None, reply });
        let queue = if is_data { &self.data } else { &self.control };
        queue.send(unit).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

async fn run(
    mut conn: SqliteConnection,
    checkpoints: Checkpoints,
    mut control: mpsc::Receiver<Box<dyn Unit>>,
    mut data: mpsc::Receiver<Box<dyn Unit>>,
    end: Arc<Notify>,
) {
    loop {
        let first = tokio::select! {
            biased;
            Some(unit) = control.recv() => (unit, false),
            Some(unit) = data.recv() => (unit, true),
            () = end.notified() => break,
            else => break,
        };
        if commit_together(&mut conn, first, &mut control, &mut data).await {
            checkpoints.after_commit(&mut conn).await;
        }
    }
    checkpoints.close().await;
    // The last connection to close moves the WAL into the file, so that the file alone is whole.
    let _ = sqlx::Connection::close(conn).await;
}

/// Returns whether a page of data was in it.
async fn commit_together(
    conn: &mut SqliteConnection,
    (first, mut has_data): (Box<dyn Unit>, bool),
    control: &mut mpsc::Receiver<Box<dyn Unit>>,
    data: &mut mpsc::Receiver<Box<dyn Unit>>,
) -> bool {
    // What stands between two units goes in one call: each call is a change of threads to the connection and back.
    if let Err(err) = statement(conn, "begin immediate; savepoint unit").await {
        first.answer(Some(err));
        return false;
    }
    let started = Instant::now();
    let mut done: Vec<Box<dyn Unit>> = Vec::new();
    let mut broken = None;
    let mut next = Some(first);
    while let Some(mut unit) = next.take() {
        let ran = unit.run(conn).await;
        done.push(unit);
        if done.len() < UNITS_PER_COMMIT && started.elapsed() < COMMIT_WINDOW {
            next = control.try_recv().ok();
            if next.is_none() && !has_data {
                next = data.try_recv().ok();
                has_data = next.is_some();
            }
        }
        // A unit that fails takes only its own changes back, and leaves its savepoint to the next. A commit ends the
        // last one.
        let between = match (ran, next.is_some()) {
            (Ok(()), true) => "release unit; savepoint unit",
            (Err(()), true) => "rollback to unit",
            (Ok(()), false) => "commit",
            (Err(()), false) => "rollback to unit; commit",
        };
        if let Err(err) = statement(conn, between).await {
            broken = Some(err);
            done.extend(next.take());
        }
    }
    let Some(err) = broken else {
        done.into_iter().for_each(|unit| unit.answer(None));
        return has_data;
    };
    // A full disk or an I/O error has rolled back already; then this does nothing.
    let _ = statement(conn, "rollback").await;
    let message = err.to_string();
    let mut err = Some(err);
    for unit in done {
        let each = err.take().unwrap_or_else(|| StoreError::Unreachable(sqlx::Error::Protocol(message.clone())));
        unit.answer(Some(each));
    }
    false
}

async fn statement(conn: &mut SqliteConnection, sql: &'static str) -> Result<()> {
    sqlx::query(sql).execute(conn).await.map(drop).map_err(StoreError::from)
}

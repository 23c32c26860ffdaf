//! A commit that fails, and a process that goes on behind it.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, LocalBoxFuture};
use matome_model::clock::{Clock, Timestamp};
use matome_store::db::{CommitHook, Conn, Db};
use matome_store::error::{Result, StoreError};
use tokio::sync::Notify;

/// Of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    /// The commit happens and nobody hears of it.
    After,
}

/// The number of a commit that does not come.
const NONE: usize = usize::MAX;

/// A scenario comes to its end sooner, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets commit number `at` fail.
#[derive(Debug)]
pub struct Failpoint {
    at: usize,
    side: Side,
    dies: bool,
    commits: AtomicUsize,
    fired: AtomicBool,
    dead: Notify,
}

impl Failpoint {
    pub fn new(at: usize, side: Side, dies: bool) -> Arc<Self> {
        let (commits, fired) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { at, side, dies, commits, fired, dead: Notify::new() })
    }

    /// Lets a process run into the fault, and its `heir` go on when it dies of it. Both come to an end.
    pub async fn befall(&self, told: &str, process: LocalBoxFuture<'_, ()>, heir: LocalBoxFuture<'_, ()>) {
        let life = async {
            tokio::select! {
                biased;
                () = self.death() => false,
                () = process => true,
            }
        };
        let has_ended = tokio::time::timeout(PATIENCE, life).await;
        let has_ended = has_ended.unwrap_or_else(|_| panic!("{told}: comes to no end"));
        assert_eq!(self.has_fired(), self.at != NONE, "{told}");
        if !has_ended {
            let ended = tokio::time::timeout(PATIENCE, heir).await;
            ended.unwrap_or_else(|_| panic!("{told}: the second process comes to no end"));
        }
    }

    /// Returns when the process is dead: what it still does is not done.
    pub async fn death(&self) {
        self.dead.notified().await;
    }

    pub fn has_fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }

    /// How many commits there were.
    pub fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }

    fn fire(&self) -> StoreError {
        self.fired.store(true, Ordering::SeqCst);
        if self.dies {
            self.dead.notify_one();
        }
        let io = std::io::Error::other("a failpoint");
        match self.side {
            Side::Before => StoreError::Unreachable(io.into()),
            Side::After => StoreError::CommitUnknown(io.into()),
        }
    }
}

impl Display for Failpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "commit {} {:?}, dies: {}", self.at, self.side, self.dies)
    }
}

/// Runs a scenario into each fault there is: at each of its commits, on both sides, in a process that goes on and in one that
/// dies of it. Returns how many commits it has without a fault.
pub async fn each_fault(suffer: impl AsyncFn(Arc<Failpoint>)) -> usize {
    let none = Failpoint::new(NONE, Side::Before, false);
    suffer(none.clone()).await;
    let commits = none.commits();
    for at in 0..commits {
        for side in [Side::Before, Side::After] {
            for dies in [false, true] {
                suffer(Failpoint::new(at, side, dies)).await;
            }
        }
    }
    commits
}

impl CommitHook for Failpoint {
    fn before(&self) -> Result<usize> {
        if self.dies && self.fired.load(Ordering::SeqCst) {
            return Err(self.fire());
        }
        let number = self.commits.fetch_add(1, Ordering::SeqCst);
        match number == self.at && self.side == Side::Before {
            true => Err(self.fire()),
            false => Ok(number),
        }
    }

    fn after(&self, number: usize) -> Result<()> {
        match number == self.at && self.side == Side::After {
            true => Err(self.fire()),
            false => Ok(()),
        }
    }
}

/// Does a unit of work until it is confirmed.
pub async fn write<T, F>(db: &Db, work: F) -> T
where
    T: Send + 'static,
    F: for<'a, 'c> Fn(&'a mut Conn<'c>, Timestamp) -> BoxFuture<'a, Result<T>> + Clone + Send + 'static,
{
    for _ in 0..3 {
        let (work, now) = (work.clone(), Clock::system().now());
        match db.write(move |conn| work(conn, now)).await {
            Ok(done) => return done,
            Err(err) => assert!(err.is_transient(), "{err:?}"),
        }
    }
    // A process that is dead waits for its end here.
    std::future::pending().await
}

//! Values that may be dropped at any moment: kept for some time under a name, read back by any process, never waited for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};
use tokio::sync::Semaphore;

use super::link::{ANSWER_WITHIN, Link};
use super::rest::Rest;

/// Whoever asks has another way, so Redis answers within this time or is left alone for a while.
const LOOK_FOR: Duration = Duration::from_millis(50);
/// A value stays so long.
const LASTS: Duration = Duration::from_secs(300);
/// Bytes that a process keeps in [`LASTS`] at most: with what is left of the time before it has twice as many in Redis.
const BUDGET: u64 = 16 << 20;
/// Values that are on their way at once; more are not kept.
const ON_THEIR_WAY: usize = 8;

/// The connection for them, shared by all who ask.
pub(crate) struct Kept {
    connection: Mutex<Option<MultiplexedConnection>>,
    rest: Rest,
    /// Bytes since then.
    spent: Mutex<(u64, Instant)>,
    on_their_way: Arc<Semaphore>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            connection: Mutex::default(),
            rest: Rest::default(),
            spent: Mutex::new((0, Instant::now())),
            on_their_way: Arc::new(Semaphore::new(ON_THEIR_WAY)),
        }
    }
}

impl Kept {
    fn connection(&self) -> Option<MultiplexedConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Leaves Redis alone for a while, and this connection for good.
    fn give_up(&self) {
        self.rest.begin();
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether so many bytes may be kept.
    fn affords(&self, bytes: usize) -> bool {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.1.elapsed() >= LASTS {
            *spent = (0, Instant::now());
        }
        spent.0 += bytes as u64;
        spent.0 <= BUDGET
    }
}

impl Link {
    /// The value under `name`, as `Bus::kept` says.
    pub(crate) async fn kept(self: &Arc<Self>, name: &str) -> Option<Vec<u8>> {
        if self.kept.rest.is_on() {
            return None;
        }
        let Some(mut connection) = self.kept.connection() else {
            self.reach();
            return None;
        };
        let get = cmd("GET").arg(format!("{}:{name}", self.prefix)).to_owned();
        match tokio::time::timeout(LOOK_FOR, get.query_async::<Option<Vec<u8>>>(&mut connection)).await {
            Ok(Ok(value)) => value,
            // Something else under our name.
            Ok(Err(err)) if err.code() == Some("WRONGTYPE") => None,
            // What is wrong is told by those parts of the link that always have something to do.
            Ok(Err(_)) | Err(_) => {
                self.kept.give_up();
                None
            }
        }
    }

    /// Connects behind: to reach a server may take longer than whoever asks can wait.
    fn reach(self: &Arc<Self>) {
        let Ok(way) = Arc::clone(&self.kept.on_their_way).try_acquire_owned() else { return };
        let link = Arc::clone(self);
        self.spawn(async move {
            if link.kept_connection().await.is_err() {
                link.kept.give_up();
            }
            drop(way);
        });
    }

    /// Keeps a value, as `Bus::keep` says.
    pub(crate) fn keep(self: &Arc<Self>, name: &str, value: impl FnOnce() -> Vec<u8>) {
        let Ok(way) = Arc::clone(&self.kept.on_their_way).try_acquire_owned() else { return };
        if self.kept.rest.is_on() {
            return;
        }
        let value = value();
        if !self.kept.affords(value.len()) {
            return;
        }
        let set =
            cmd("SET").arg(format!("{}:{name}", self.prefix)).arg(value).arg("EX").arg(LASTS.as_secs()).to_owned();
        let link = Arc::clone(self);
        self.spawn(async move {
            let set = async { set.query_async::<()>(&mut link.kept_connection().await?).await };
            if set.await.is_err() {
                link.kept.give_up();
            }
            drop(way);
        });
    }

    async fn kept_connection(&self) -> RedisResult<MultiplexedConnection> {
        if let Some(connection) = self.kept.connection() {
            return Ok(connection);
        }
        let connection = self.connect(ANSWER_WITHIN).await?;
        Ok(self.kept.connection.lock().unwrap_or_else(PoisonError::into_inner).insert(connection).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_keeps_no_more_than_it_may() {
        let kept = Kept::default();
        let mib = 1 << 20;
        assert_eq!((0..100).filter(|_| kept.affords(mib)).count(), 16);
        assert!(!kept.affords(mib));
    }
}

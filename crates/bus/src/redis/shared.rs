//! A small value that several processes change together, without a script in Redis: read under `WATCH`, changed here, written
//! in a transaction that fails when somebody else was faster.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};
use tokio::sync::Mutex;

use super::link::{Link, Part};
use super::rest::Rest;

/// How often a change is tried when others change the same value.
const TRIES: usize = 16;

/// The connection for such changes; one at a time, since `WATCH` belongs to a connection.
#[derive(Default)]
pub(crate) struct Changes {
    connection: Mutex<Option<MultiplexedConnection>>,
    rest: Rest,
}

impl Link {
    /// Changes the value under `name`, as `Bus::update` says.
    pub(crate) async fn update<T>(
        &self,
        name: &str,
        change: impl Fn(Option<&[u8]>, Duration) -> (Option<(Vec<u8>, Duration)>, T),
    ) -> Option<T> {
        if self.changes.rest.is_on() {
            return None;
        }
        let mut connection = self.changes.connection.lock().await;
        match self.change(&mut connection, &format!("{}:{name}", self.prefix), &change).await {
            Ok(changed) => {
                self.works(Part::Change);
                changed
            }
            Err(err) => {
                *connection = None;
                self.changes.rest.begin();
                self.complain(Part::Change, &err);
                None
            }
        }
    }

    async fn change<T>(
        &self,
        connection: &mut Option<MultiplexedConnection>,
        key: &str,
        change: &impl Fn(Option<&[u8]>, Duration) -> (Option<(Vec<u8>, Duration)>, T),
    ) -> RedisResult<Option<T>> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.connect_for(Part::Change).await?),
        };
        for _ in 0..TRIES {
            let _: () = cmd("WATCH").arg(key).query_async(connection).await?;
            let read: RedisResult<Option<Vec<u8>>> = cmd("GET").arg(key).query_async(connection).await;
            let value = match read {
                // Not ours, whatever it is: it is written over.
                Err(err) if err.code() == Some("WRONGTYPE") => None,
                read => read?,
            };
            let (secs, micros): (u64, u64) = cmd("TIME").query_async(connection).await?;
            let now = Duration::from_secs(secs) + Duration::from_micros(micros);
            let (new, outcome) = change(value.as_deref(), now);
            let Some((new, lasts)) = new else {
                let _: () = cmd("UNWATCH").query_async(connection).await?;
                return Ok(Some(outcome));
            };
            let lasts = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX).max(1);
            let mut transaction = redis::pipe();
            transaction.atomic().cmd("SET").arg(key).arg(new).arg("PX").arg(lasts);
            let written: Option<Vec<redis::Value>> = transaction.query_async(connection).await?;
            if written.is_some() {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }
}

//! The bus between processes. Each queue has a link of its own to its Redis database:
//!
//! - `{instance}:{queue}:work`, a list of bare tokens, at most [`TOKENS`]. A token says "look", nothing more. A process adds
//!   at most one in [`PAUSE`]; one with a worker that has a free slot takes them by `BLPOP` on a connection of its own.
//! - `{instance}:{queue}:NAME`, small values that processes change together, such as the budgets of a host.
//! - `{instance}:{queue}:answer:HASH`, answers of the API about one version of a result, for some minutes.
//! - `{instance}:{queue}:stop` and `{instance}:{queue}:events`, channels.
//! - `{instance}:{queue}:celery`, see [`crate::celery::mailbox`].
//!
//! Nothing is ever read back that anything depends on, so every failure has the same answer: say so now and then, connect
//! again soon, and let workers poll meanwhile.

mod kept;
mod link;
mod look;
mod rest;
mod shared;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use matome_model::field_error::Words;
use matome_model::task::Queue;
use uuid::Uuid;

use crate::Here;
use crate::event::TaskEvent;
use link::Link;
pub use look::RedisState;
pub use tls::RedisTls;

/// Tokens of a queue that are kept at most: no more workers than that have to look for new work at once.
const TOKENS: usize = 128;
/// Between two messages of a process at least.
const PAUSE: Duration = Duration::from_millis(5);

/// Where Redis is. An address names a database by its number, as in `redis://host/3`, only where this says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisUrls {
    /// The server; its number is not heeded: acquisition has database 1, aggregation 0.
    pub shared: Option<String>,
    /// The same for both queues, its number heeded if it has one.
    pub broker: Option<String>,
    /// Of the acquisition queue, its number heeded.
    pub acquisition: Option<String>,
    /// Of the aggregation queue, its number heeded.
    pub aggregation: Option<String>,
    /// Files for those that begin with `rediss://`.
    pub tls: RedisTls,
}

impl RedisUrls {
    /// Whether no server is named.
    pub fn is_empty(&self) -> bool {
        let Self { shared, broker, acquisition, aggregation, tls: _ } = self;
        [shared, broker, acquisition, aggregation].into_iter().all(Option::is_none)
    }

    /// The address of a queue's database.
    fn of(&self, queue: Queue) -> Result<Option<redis::ConnectionInfo>, BusError> {
        let (own, number) = match queue {
            Queue::Acquisition => (&self.acquisition, 1),
            Queue::Aggregation => (&self.aggregation, 0),
        };
        if let Some(url) = own {
            return parse(url).map(Some);
        }
        let with = |url: &String| {
            let info = parse(url)?;
            let settings = info.redis_settings().clone().set_db(number);
            Ok(Some(info.set_redis_settings(settings)))
        };
        match (&self.broker, &self.shared) {
            (Some(url), _) if names_a_database(url) => parse(url).map(Some),
            (Some(url), _) | (None, Some(url)) => with(url),
            (None, None) => Ok(None),
        }
    }
}

fn names_a_database(url: &str) -> bool {
    redis::parse_redis_url(url).is_some_and(|url| {
        url.path().trim_matches('/').parse::<u32>().is_ok() || url.query_pairs().any(|(name, _)| name == "db")
    })
}

fn parse(url: &str) -> Result<redis::ConnectionInfo, BusError> {
    use redis::IntoConnectionInfo as _;
    // The address may hold a password, so it is never told.
    let wrong = |what: &str| BusError::Address(what.to_owned());
    if redis::parse_redis_url(url).is_none() {
        return Err(wrong("it does not begin with `redis://` or `rediss://`"));
    }
    url.into_connection_info().map_err(|err| wrong(err.detail().unwrap_or("it cannot be read")))
}

/// Redis cannot be used as it was said.
#[derive(Debug)]
pub enum BusError {
    /// The address cannot be one. What is wrong with it, without the address: it may hold a password.
    Address(String),
    /// What is wrong with the files of TLS, or with an address beside them.
    Tls(Words),
}

impl std::fmt::Display for BusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(what) => write!(f, "this is no address of a Redis server: {what}"),
            Self::Tls(what) => f.write_str(&what.english),
        }
    }
}

impl std::error::Error for BusError {}

/// The links of both queues.
#[derive(Debug)]
pub(crate) struct Redis {
    acquisition: Option<Arc<Link>>,
    aggregation: Option<Arc<Link>>,
}

impl Redis {
    pub(crate) fn start(
        instance_id: Uuid,
        urls: &RedisUrls,
        here: &Arc<Here>,
        is_hushed: bool,
    ) -> Result<Self, BusError> {
        let from = rand::random();
        let start = |queue| {
            let info = urls.of(queue)?;
            let prefix = format!("{instance_id}:{queue}");
            info.map(|info| Link::start(&prefix, info, &urls.tls, queue, from, Arc::clone(here), is_hushed)).transpose()
        };
        Ok(Self { acquisition: start(Queue::Acquisition)?, aggregation: start(Queue::Aggregation)? })
    }

    pub(crate) fn link(&self, queue: Queue) -> Option<&Arc<Link>> {
        match queue {
            Queue::Acquisition => self.acquisition.as_ref(),
            Queue::Aggregation => self.aggregation.as_ref(),
        }
    }

    fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        [&self.acquisition, &self.aggregation].into_iter().flatten()
    }

    pub(crate) fn wake(&self, queue: Queue) {
        if let Some(link) = self.link(queue) {
            link.wake();
        }
    }

    pub(crate) fn stop(&self, queue: Queue) {
        if let Some(link) = self.link(queue) {
            link.stop();
        }
    }

    pub(crate) fn tell(&self, event: TaskEvent) {
        if let Some(link) = self.link(event.queue) {
            link.tell(event);
        }
    }

    pub(crate) fn listen_for_stops(&self, queue: Queue) {
        if let Some(link) = self.link(queue) {
            link.listen_for_stops();
        }
    }

    pub(crate) fn listen_for_events(&self) {
        self.links().for_each(Link::listen_for_events);
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.links().find_map(|link| link.trouble())
    }

    pub(crate) async fn close(&self) {
        for link in self.links() {
            link.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases(urls: &RedisUrls) -> [Option<i64>; 2] {
        [Queue::Acquisition, Queue::Aggregation]
            .map(|queue| urls.of(queue).expect("an address").map(|info| info.redis_settings().db()))
    }

    fn some(url: &str) -> Option<String> {
        Some(url.to_owned())
    }

    #[test]
    fn the_number_in_an_address_counts_only_where_it_is_meant() {
        let shared = RedisUrls { shared: some("redis://h:1/7"), ..RedisUrls::default() };
        assert_eq!(databases(&shared), [Some(1), Some(0)]);
        let own = RedisUrls { acquisition: some("redis://h/4"), ..shared.clone() };
        assert_eq!(databases(&own), [Some(4), Some(0)]);
        assert_eq!(databases(&RedisUrls { broker: some("redis://h/5"), ..shared.clone() }), [Some(5), Some(5)]);
        assert_eq!(databases(&RedisUrls { broker: some("redis://h"), ..shared }), [Some(1), Some(0)]);
        let one = RedisUrls { aggregation: some("redis://h"), ..RedisUrls::default() };
        assert_eq!(databases(&one), [None, Some(0)]);
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for url in ["amqp://user:hunter2@h", "localhost:6379", "redis://:hunter2@h/x", ""] {
            let urls = RedisUrls { shared: some(url), ..RedisUrls::default() };
            let err = urls.of(Queue::Acquisition).expect_err(url);
            assert!(!err.to_string().contains("hunter2"), "{err}");
        }
    }
}

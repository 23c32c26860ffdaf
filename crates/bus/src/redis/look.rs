//! What a Redis server says of itself, for `doctor`.

use std::collections::HashMap;

use matome_model::task::Queue;
use redis::{AsyncConnectionConfig, Client, RedisResult, cmd};

use super::RedisUrls;
use super::link::{ANSWER_WITHIN, told};

/// The Redis server of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisState {
    /// `7.0.15`
    pub version: String,
    /// Bytes that it may hold; 0: as many as there are.
    pub max_memory: u64,
    /// What it does when it is full: `noeviction`.
    pub eviction: String,
    /// Whether it follows another server, and so takes nothing from us.
    pub is_replica: bool,
}

impl RedisUrls {
    /// Asks the server of `queue`; none when there is no address.
    ///
    /// # Errors
    /// Why it cannot be used, without its address: that may hold a password.
    pub async fn look(&self, queue: Queue) -> Result<Option<RedisState>, String> {
        let Some(info) = self.of(queue).map_err(|err| err.to_string())? else { return Ok(None) };
        let settings = info.redis_settings().clone().set_db(0);
        let client = self.tls.client(info.set_redis_settings(settings)).map_err(|err| err.to_string())?;
        ask(&client).await.map(Some).map_err(|err| told(&err))
    }
}

async fn ask(client: &Client) -> RedisResult<RedisState> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let text: String = cmd("INFO").query_async(&mut connection).await?;
    let said: HashMap<&str, &str> = text.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let word = |name: &str| said.get(name).copied().unwrap_or_default();
    Ok(RedisState {
        version: word("redis_version").to_owned(),
        max_memory: word("maxmemory").parse().unwrap_or(0),
        eviction: word("maxmemory_policy").to_owned(),
        is_replica: word("role") == "slave",
    })
}

//! What has to leave after a commit: written with the effect that causes it, sent at least once.

use matome_model::clock::Timestamp;
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;

use crate::db::{Arg, Conn};
use crate::error::Result;

/// A message that was not sent yet.
#[derive(Clone, Debug)]
pub struct Message {
    /// Key; messages leave in its order.
    pub id: i64,
    /// Whom it is for.
    pub topic: String,
    /// A JSON object.
    pub payload: Box<RawValue>,
}

/// Writes a message in the transaction that causes it.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn push(conn: &mut Conn<'_>, topic: &str, payload: &RawValue, now: Timestamp) -> Result<()> {
    let sql = "insert into outbox (topic, payload, created_at) values ($1, $2, $3)";
    conn.execute(sql, &[topic.into(), payload.into(), now.into()]).await.map(drop)
}

/// The oldest messages that were not sent, at most `limit`. On PostgreSQL those that another sender has in
/// hand are left out, until the caller's transaction ends.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn unsent(conn: &mut Conn<'_>, limit: i64) -> Result<Vec<Message>> {
    let sql = conn.pick(
        "select id, topic, payload from outbox where sent_at is null order by id limit $1 for update skip locked",
        "select id, topic, payload from outbox where sent_at is null order by id limit $1",
    );
    let rows = conn.fetch_all(sql, &[limit.into()]).await?;
    rows.iter()
        .map(|row| Ok(Message { id: row.int("id")?, topic: row.text("topic")?, payload: row.json("payload")? }))
        .collect()
}

/// Says that messages were sent.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn mark_sent(conn: &mut Conn<'_>, ids: &[i64], now: Timestamp) -> Result<()> {
    let sql = format!("update outbox set sent_at = $2 where {}", conn.any_of("id", 1));
    conn.execute(AssertSqlSafe(sql), &[Arg::Ints(ids), now.into()]).await.map(drop)
}

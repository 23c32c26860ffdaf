//! Takes messages of Celery producers off the lists of a queue, and tells the producers how their calls ended.
//!
//! A message moves to a list of ours in the same command that takes it off the producer's, and leaves that list only after
//! it was accepted elsewhere. So a process that dies in between loses nothing: another finds the message there.

use std::time::Duration;

use matome_model::task::Queue;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, RedisResult};

use super::lists;
use crate::Bus;

/// Messages of one list that are taken at once.
const BATCH: usize = 100;

/// Redis may take so long for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Seconds that a result is kept, as Celery's default `result_expires`.
const RESULT_SECS: u64 = 86_400;

/// A message that was taken, and how urgent its list is.
#[derive(Clone, Debug)]
pub struct Taken {
    /// As it lay there.
    pub message: Vec<u8>,
    /// 0 is the most urgent list of the queue, where a producer without priorities puts everything; unknown for a message
    /// that another process took and left.
    pub urgency: Option<usize>,
}

/// The lists of one queue, in its database of Redis. Connects when it is used, and again after an error.
#[derive(Debug)]
pub struct Mailbox {
    bus: Bus,
    queue: Queue,
    connection: Option<MultiplexedConnection>,
    lists: Vec<String>,
    /// Messages that were taken and are not accepted yet, of all processes.
    taken: String,
}

impl Mailbox {
    /// The lists of `queue` as Celery names it (`acquisition_queue`); none where Redis is not used.
    pub fn new(bus: Bus, queue: Queue) -> Option<Self> {
        let (lists, taken) = (lists(&format!("{queue}_queue")), bus.celery_list(queue)?);
        Some(Self { bus, queue, connection: None, lists, taken })
    }

    /// Takes what lies on the lists, the most urgent first, up to a bound; empty when nothing does.
    ///
    /// # Errors
    /// When Redis does not answer, or refuses; what was taken until then is found by [`Mailbox::left_over`].
    pub async fn take(&mut self) -> RedisResult<Vec<Taken>> {
        let mut lengths = Pipeline::new();
        for list in &self.lists {
            lengths.llen(list);
        }
        let lengths: Vec<usize> = self.ask(&lengths).await?;
        let mut moves = Pipeline::new();
        let mut urgencies = Vec::new();
        for (urgency, (list, length)) in self.lists.iter().zip(lengths).enumerate() {
            for _ in 0..length.min(BATCH) {
                // Producers push at the left end.
                moves.cmd("LMOVE").arg(list).arg(&self.taken).arg("RIGHT").arg("LEFT");
                urgencies.push(urgency);
            }
        }
        if urgencies.is_empty() {
            return Ok(Vec::new());
        }
        // Another process may have been quicker.
        let moved: Vec<Option<Vec<u8>>> = self.ask(&moves).await?;
        let taken = urgencies.into_iter().zip(moved);
        Ok(taken.filter_map(|(urgency, message)| Some(Taken { message: message?, urgency: Some(urgency) })).collect())
    }

    /// Messages that were taken and not accepted: by a process that died, by another at this moment, or before an error.
    /// Accepting one twice must do no harm.
    ///
    /// # Errors
    /// When Redis does not answer, or refuses.
    pub async fn left_over(&mut self) -> RedisResult<Vec<Taken>> {
        let last = -(isize::try_from(BATCH).unwrap_or(isize::MAX));
        let mut range = Pipeline::new();
        range.lrange(&self.taken, last, -1);
        let (messages,): (Vec<Vec<u8>>,) = self.ask(&range).await?;
        // The oldest are at the right end.
        Ok(messages.into_iter().rev().map(|message| Taken { message, urgency: None }).collect())
    }

    /// Forgets messages that were accepted.
    ///
    /// # Errors
    /// When Redis does not answer, or refuses; they are seen again then.
    pub async fn accepted(&mut self, messages: &[Taken]) -> RedisResult<()> {
        let mut forget = Pipeline::new();
        for taken in messages {
            forget.lrem(&self.taken, -1, &taken.message);
        }
        self.ask::<Vec<usize>>(&forget).await.map(|_| ())
    }

    /// Tells producers: keys and values of [`super::result_key`] and [`super::result`].
    ///
    /// # Errors
    /// When Redis does not answer, or refuses: they may have been told or not, and are told again.
    pub async fn answer(&mut self, results: &[(String, String)]) -> RedisResult<()> {
        let mut answers = Pipeline::new();
        for (key, value) in results {
            answers.set_ex(key, value, RESULT_SECS).ignore();
            answers.publish(key, value).ignore();
        }
        self.ask(&answers).await
    }

    async fn ask<T: redis::FromRedisValue>(&mut self, pipeline: &Pipeline) -> RedisResult<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.bus.connect(self.queue, ANSWER_WITHIN).await.unwrap_or_else(|| Err(unused()))?,
        };
        let answer: Result<T, RedisError> = pipeline.query_async(&mut connection).await;
        if answer.is_ok() {
            self.connection = Some(connection);
        }
        answer
    }
}

fn unused() -> RedisError {
    (redis::ErrorKind::InvalidClientConfig, "Redis is not used for this queue").into()
}

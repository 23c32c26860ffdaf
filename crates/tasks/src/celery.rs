//! The intake: makes tasks of what Celery producers put on the list of a queue, and tells them how their calls ended.
//!
//! Messages may come twice and answers may be given twice; what makes each call one task is its row in SQL.

use std::time::{Duration, Instant};

use matome_bus::Bus;
use matome_bus::celery::mailbox::{Mailbox, Taken};
use matome_bus::celery::{Order, Outcome, Refused, result, result_key};
use matome_model::clock::Clock;
use matome_model::complaint::Complaint;
use matome_model::task::{Priority, Queue};
use matome_store::celery_calls::{self, BadMessage, Call, Ended, How, Received};
use matome_store::db::Db;
use matome_store::error::{Result, StoreError};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::trace::accepted;

/// Between two looks at the lists.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks at what somebody took and did not accept.
const LEFT_OVER_EVERY: Duration = Duration::from_secs(5);
/// Between two removals of old calls.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// Answers, or removed rows, of one step.
const BATCH: i64 = 200;

/// Takes what producers put on one queue. Any number may run.
#[derive(Debug)]
pub struct CeleryIntake {
    db: Db,
    bus: Bus,
    clock: Clock,
    mailbox: Mailbox,
    queue: Queue,
    /// The Python task that producers call.
    task: String,
    /// When left-over messages and old calls were looked at.
    looked: Option<Instant>,
    forgot: Option<Instant>,
}

/// What keeps the intake from going on.
#[derive(Debug)]
enum Stuck {
    Redis(String),
    Database(StoreError),
}

impl From<StoreError> for Stuck {
    fn from(err: StoreError) -> Self {
        Self::Database(err)
    }
}

impl CeleryIntake {
    /// The intake of `queue`, whose producers call the Python task `task`.
    pub fn new(db: Db, bus: Bus, clock: Clock, mailbox: Mailbox, queue: Queue, task: String) -> Self {
        Self { db, bus, clock, mailbox, queue, task, looked: None, forgot: None }
    }

    /// Takes messages until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut complaint = Complaint::default();
        while !shutdown.is_cancelled() {
            match self.tick().await {
                Ok(()) if complaint.over() => {
                    tracing::info!(queue = %self.queue, "calls of Celery producers are taken again");
                }
                Ok(()) => {}
                Err(stuck) => {
                    if let Some(kept_back) = complaint.due(Instant::now()) {
                        let (what, why) = match &stuck {
                            Stuck::Redis(why) => ("Redis", why.clone()),
                            Stuck::Database(err) => ("the database", err.to_string()),
                        };
                        let queue = self.queue;
                        tracing::warn!(%queue, error = why, kept_back, "calls of Celery producers wait for {what}");
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Takes and answers all there is.
    async fn tick(&mut self) -> std::result::Result<(), Stuck> {
        if self.looked.is_none_or(|at| at.elapsed() >= LEFT_OVER_EVERY) {
            let left = self.mailbox.left_over().await.map_err(redis)?;
            self.accept(left).await?;
            self.looked = Some(Instant::now());
        }
        loop {
            let taken = self.mailbox.take().await.map_err(redis)?;
            if taken.is_empty() {
                break;
            }
            self.accept(taken).await?;
        }
        let (queue, now) = (self.queue, self.clock.now());
        while let Some(received) = self
            .db
            .write(move |conn| Box::pin(async move { celery_calls::enqueue_due(conn, queue, now).await }))
            .await?
        {
            self.count(received);
        }
        while self.answer().await? == BATCH.unsigned_abs() as usize {}
        if self.forgot.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
            self.forgot = Some(Instant::now());
            self.db.write(move |conn| Box::pin(async move { celery_calls::forget(conn, now, BATCH).await })).await?;
        }
        Ok(())
    }

    /// Keeps each message, then takes it from the list of what was taken.
    async fn accept(&mut self, messages: Vec<Taken>) -> std::result::Result<(), Stuck> {
        if messages.is_empty() {
            return Ok(());
        }
        for taken in &messages {
            let received = self.keep(taken).await?;
            self.count(received);
        }
        self.mailbox.accepted(&messages).await.map_err(redis)
    }

    async fn keep(&self, taken: &Taken) -> Result<Received> {
        let (queue, now) = (self.queue, self.clock.now());
        match self.read(taken) {
            Ok(call) => {
                self.db.write(move |conn| Box::pin(async move { celery_calls::receive(conn, &call, now).await })).await
            }
            Err(Refused { id, reason }) => {
                tracing::warn!(%queue, celery_id = id, "a message of a Celery producer cannot become a task: {reason}");
                let bad = BadMessage { caller: id, queue, reason, message: taken.message.clone() };
                self.db.write(move |conn| Box::pin(async move { celery_calls::keep_bad(conn, &bad, now).await })).await
            }
        }
    }

    fn read(&self, taken: &Taken) -> std::result::Result<Call, Refused> {
        let order = Order::read(&taken.message)?;
        if order.task != self.task {
            let reason = format!(
                "it calls `{}`, and this queue takes `{}` (setting celery_{}_task)",
                order.task, self.task, self.queue
            );
            return Err(Refused { id: Some(order.id), reason });
        }
        // What a producer without priorities sends is a run by hand.
        let priority = match taken.urgency {
            Some(1) => Some(Priority::Normal),
            Some(2..) => Some(Priority::Low),
            _ => None,
        };
        Ok(Call {
            call_key: order.id,
            queue: self.queue,
            object_id: order.object_id,
            priority,
            due_at: order.eta,
            expires: order.expires,
            ignores_result: order.ignores_result,
        })
    }

    fn count(&self, received: Received) {
        let outcome = match received {
            Received::Enqueued(task) => {
                self.bus.wake(self.queue);
                accepted(self.queue, &task, self.clock.now());
                "enqueued"
            }
            Received::Waits => "waits",
            Received::Expired => "expired",
            Received::Refused => "refused",
            Received::Known => "known",
        };
        metrics::counter!("matome_celery_calls_total", "queue" => self.queue.as_str(), "outcome" => outcome)
            .increment(1);
    }

    /// Tells the callers of what has ended; returns how many.
    async fn answer(&mut self) -> std::result::Result<usize, Stuck> {
        let ended = celery_calls::to_answer(&mut self.db.read().await?.conn(), self.queue, BATCH).await?;
        if ended.is_empty() {
            return Ok(0);
        }
        let answers: Vec<(String, String)> =
            ended.iter().map(|call| (result_key(&call.call_key), told(call))).collect();
        self.mailbox.answer(&answers).await.map_err(redis)?;
        let (ids, now) = (ended.iter().map(|call| call.id).collect::<Vec<_>>(), self.clock.now());
        self.db.write(move |conn| Box::pin(async move { celery_calls::mark_answered(conn, &ids, now).await })).await?;
        Ok(ended.len())
    }
}

fn redis(err: impl std::fmt::Display) -> Stuck {
    Stuck::Redis(err.to_string())
}

/// What a task keeps of its last failure, as far as a producer wants to know.
#[derive(Deserialize)]
struct TaskFailure {
    message: String,
    #[serde(default)]
    causes: Vec<String>,
}

fn told(call: &Ended) -> String {
    let failed = |message: &str| result(&call.call_key, Outcome::Failed(message), call.at);
    match &call.how {
        How::Succeeded(counts) => result(&call.call_key, Outcome::Succeeded(counts), call.at),
        How::Failed(error) => match serde_json::from_str::<TaskFailure>(error.get()) {
            Ok(TaskFailure { message, causes }) => failed(&[vec![message], causes].concat().join(": ")),
            Err(_) => failed(error.get()),
        },
        How::Cancelled => result(&call.call_key, Outcome::Revoked("cancelled"), call.at),
        How::Expired => result(&call.call_key, Outcome::Revoked("expired"), call.at),
        How::Refused(reason) => failed(&format!("matome cannot do this call: {reason}")),
        How::Forgotten => failed("the task ended, and its history was removed before its result could be delivered"),
    }
}

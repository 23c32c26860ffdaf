//! The beat: turns schedules into tasks, wakes workers for what has come due, and keeps the house. Any number
//! may run at the same time.

use std::time::{Duration, Instant};

use matome_bus::Bus;
use matome_model::clock::Clock;
use matome_model::task::Queue;
use matome_store::db::Db;
use matome_store::error::Result;
use matome_store::{schedules, tasks, triggers};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::liveness::{BEAT_EVERY, DEAD_AFTER};
use crate::sweeper::Sweeper;

/// Between two looks at the schedules.
const TICK: Duration = Duration::from_millis(500);
/// Schedules that fire in one transaction at most: a claim waits for their lanes.
const FIRE_AT_ONCE: i64 = 100;
/// Between two searches for what should never be.
const REPAIR_EVERY: Duration = Duration::from_secs(30);

/// The beat of this process.
#[derive(Debug)]
pub struct Beat {
    db: Db,
    bus: Bus,
    clock: Clock,
    sweeper: Sweeper,
    swept: Instant,
    repaired: Instant,
}

impl Beat {
    /// A beat in the process `own` (none when it runs no tasks).
    pub fn new(db: Db, bus: Bus, clock: Clock, own: Option<Uuid>) -> Self {
        let now = Instant::now();
        Self { db, bus, clock, sweeper: Sweeper::new(own, DEAD_AFTER), swept: now, repaired: now }
    }

    /// The same beat where an attempt may take so long.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { sweeper: self.sweeper.with_deadline(deadline), ..self }
    }

    /// Beats until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                result = self.tick() => {
                    if let Err(err) = result {
                        tracing::warn!(error = %err, "the beat could not reach the database");
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn tick(&mut self) -> Result<()> {
        while self.fire().await? == FIRE_AT_ONCE {}
        while self.follow().await? == FIRE_AT_ONCE {}
        for queue in Queue::ALL {
            self.promote(*queue).await?;
        }
        if self.swept.elapsed() >= BEAT_EVERY {
            self.swept = Instant::now();
            if self.sweeper.look(&self.db, self.clock.now()).await?.total() > 0 {
                Queue::ALL.iter().for_each(|queue| self.bus.wake(*queue));
            }
        }
        if self.repaired.elapsed() >= REPAIR_EVERY {
            self.repaired = Instant::now();
            self.repair().await?;
        }
        Ok(())
    }

    async fn fire(&self) -> Result<i64> {
        let now = self.clock.now();
        let fired = self
            .db
            .write(move |conn| Box::pin(async move { schedules::fire_due(conn, now, FIRE_AT_ONCE).await }))
            .await?;
        for fired in &fired {
            self.bus.wake(fired.queue);
            let outcome = if fired.coalesced { "coalesced" } else { "enqueued" };
            metrics::counter!("matome_schedules_fired_total", "queue" => fired.queue.as_str(), "outcome" => outcome)
                .increment(1);
        }
        Ok(i64::try_from(fired.len()).unwrap_or(i64::MAX))
    }

    /// Enqueues the aggregations that run after what has changed; returns how many changes there were.
    async fn follow(&self) -> Result<i64> {
        let now = self.clock.now();
        let fired =
            self.db.write(move |conn| Box::pin(async move { triggers::fire(conn, now, FIRE_AT_ONCE).await })).await?;
        for (outcome, count) in [("enqueued", fired.enqueued), ("coalesced", fired.coalesced)] {
            metrics::counter!("matome_triggers_fired_total", "outcome" => outcome)
                .increment(u64::try_from(count).unwrap_or(u64::MAX));
        }
        if fired.enqueued > 0 {
            self.bus.wake(Queue::Aggregation);
        }
        Ok(i64::try_from(fired.changes).unwrap_or(i64::MAX))
    }

    async fn promote(&self, queue: Queue) -> Result<()> {
        let now = self.clock.now();
        let ready = self.db.write(move |conn| Box::pin(async move { tasks::promote(conn, queue, now).await })).await?;
        if ready > 0 {
            self.bus.wake(queue);
        }
        Ok(())
    }

    async fn repair(&self) -> Result<()> {
        let now = self.clock.now();
        let repaired = self.db.write(move |conn| Box::pin(async move { tasks::repair(conn, now).await })).await?;
        let found = [
            ("leaked_lease", repaired.leaked_leases),
            ("orphaned_task", repaired.orphaned_tasks),
            ("idle_lane", repaired.idle_lanes),
        ];
        for (kind, count) in found {
            metrics::counter!("matome_invariant_violation_total", "kind" => kind)
                .increment(u64::try_from(count).unwrap_or(u64::MAX));
        }
        if repaired.total() > 0 {
            tracing::error!(?repaired, "states that should never be were repaired");
        }
        Ok(())
    }
}

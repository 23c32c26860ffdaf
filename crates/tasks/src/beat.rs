//! The beat: turns schedules into tasks, wakes workers for what has come due, and keeps the house. Any number
//! may run at the same time.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use matome_bus::Bus;
use matome_model::clock::{Clock, Timestamp};
use matome_model::complaint::Complaint;
use matome_model::task::{Queue, Trigger};
use matome_store::db::Db;
use matome_store::error::Result;
use matome_store::schedules::{self, Fired};
use matome_store::tasks::Repaired;
use matome_store::workers::DEAD_AFTER;
use matome_store::{tasks, triggers};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::sweeper::Sweeper;
use crate::trace::created;

/// Between two looks at the schedules.
const TICK: Duration = Duration::from_millis(500);
/// Schedules that fire in one transaction at most: a claim waits for their lanes.
const FIRE_AT_ONCE: i64 = 500;
/// A wall clock that ran on so much more than time did, between two looks, was set.
const JUMP: TimeDelta = TimeDelta::minutes(10);
/// Between two looks for dead workers: they are found by several looks, and their tasks should not wait for long.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
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
    /// Both clocks at the last look at the schedules.
    looked: Option<(Timestamp, Duration)>,
}

impl Beat {
    /// A beat in the process `own` (none when it runs no tasks).
    pub fn new(db: Db, bus: Bus, clock: Clock, own: Option<Uuid>) -> Self {
        // They begin at zero: who watches them sees a rise only of what was there before.
        count_violations(Repaired::default());
        let now = Instant::now();
        Self { db, bus, clock, sweeper: Sweeper::new(own, DEAD_AFTER), swept: now, repaired: now, looked: None }
    }

    /// The same beat where an attempt may take so long.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { sweeper: self.sweeper.with_deadline(deadline), ..self }
    }

    /// Beats until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut complaint = Complaint::default();
        // It begins at zero: who watches it sees a rise only of what was there before.
        metrics::counter!("matome_clock_jumps_total").increment(0);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                result = self.tick() => match result {
                    Ok(()) if complaint.over() => tracing::info!("the beat reaches the database again"),
                    Ok(()) => {}
                    Err(err) => if let Some(kept_back) = complaint.due(Instant::now()) {
                        tracing::warn!(error = %err, kept_back, "the beat could not reach the database");
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
        self.fire_due().await?;
        while self.follow().await? == FIRE_AT_ONCE {}
        for queue in Queue::ALL {
            self.promote(*queue).await?;
        }
        if self.swept.elapsed() >= SWEEP_EVERY {
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

    /// Makes the tasks of all schedules that are due; returns how many tasks.
    ///
    /// A wall clock that was just set on far is not believed at once: the schedules are left alone this once. When it
    /// still says so at the next look, what it skipped counts as missed. A clock that was set back fires nothing until
    /// it comes to the next nominal times again.
    ///
    /// # Errors
    /// When the database refuses a statement or is gone.
    pub async fn fire_due(&mut self) -> Result<usize> {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        let last = self.looked.replace((now, monotonic));
        if let Some((then, before)) = last {
            let passed = TimeDelta::from_std(monotonic.saturating_sub(before)).unwrap_or(TimeDelta::MAX);
            let jumped = (now - then) - passed;
            if jumped > JUMP {
                tracing::warn!(jumped_secs = jumped.num_seconds(), "clock_jump: the clock was set on; schedules wait");
                metrics::counter!("matome_clock_jumps_total").increment(1);
                return Ok(0);
            }
        }
        let mut made = 0;
        loop {
            let fired = self
                .db
                .write(move |conn| Box::pin(async move { schedules::fire_due(conn, now, FIRE_AT_ONCE).await }))
                .await?;
            made += self.tell(&fired, now);
            if fired.len() < usize::try_from(FIRE_AT_ONCE).unwrap_or(usize::MAX) {
                return Ok(made);
            }
        }
    }

    /// Wakes the queues and counts what became of the schedules that were due.
    fn tell(&self, fired: &[Fired], since: Timestamp) -> usize {
        for queue in Queue::ALL {
            let of_queue = || fired.iter().filter(|fired| fired.queue == Some(*queue));
            let made: usize = of_queue().map(|fired| fired.made.len()).sum();
            if made > 0 {
                self.bus.wake(*queue);
            }
            of_queue().flat_map(|fired| &fired.made).for_each(|task| created(*queue, Trigger::Schedule, *task, since));
            for (outcome, count) in [
                ("enqueued", made),
                ("coalesced", of_queue().filter(|fired| fired.coalesced).count()),
                ("missed", of_queue().filter(|fired| fired.missed).count()),
            ] {
                let counter =
                    metrics::counter!("matome_schedules_fired_total", "queue" => queue.as_str(), "outcome" => outcome);
                counter.increment(u64::try_from(count).unwrap_or(u64::MAX));
            }
        }
        for fired in fired.iter().filter(|fired| fired.unreadable) {
            tracing::error!(
                schedule.id = fired.schedule_id,
                "a schedule cannot be read; it is left as it is and looked at again in a minute"
            );
        }
        fired.iter().map(|fired| fired.made.len()).sum()
    }

    /// Enqueues the aggregations that run after what has changed; returns how many changes there were.
    async fn follow(&self) -> Result<i64> {
        let now = self.clock.now();
        let fired =
            self.db.write(move |conn| Box::pin(async move { triggers::fire(conn, now, FIRE_AT_ONCE).await })).await?;
        for (outcome, count) in [("enqueued", fired.enqueued.len()), ("coalesced", fired.coalesced)] {
            metrics::counter!("matome_triggers_fired_total", "outcome" => outcome)
                .increment(u64::try_from(count).unwrap_or(u64::MAX));
        }
        if !fired.enqueued.is_empty() {
            self.bus.wake(Queue::Aggregation);
        }
        fired.enqueued.iter().for_each(|task| created(Queue::Aggregation, Trigger::After, *task, now));
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
        count_violations(repaired);
        if repaired.total() > 0 {
            tracing::error!(?repaired, "states that should never be were repaired");
        }
        Ok(())
    }
}

/// Adds to the metrics what should never have been.
fn count_violations(repaired: Repaired) {
    for (kind, count) in [
        ("leaked_lease", repaired.leaked_leases),
        ("orphaned_task", repaired.orphaned_tasks),
        ("idle_lane", repaired.idle_lanes),
    ] {
        metrics::counter!("matome_invariant_violation_total", "kind" => kind)
            .increment(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

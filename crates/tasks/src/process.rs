//! One process that runs tasks: its heartbeat, and the tasks it believes to hold.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use matome_model::clock::Clock;
use matome_model::complaint::Complaint;
use matome_model::task::Fence;
use matome_store::db::Db;
use matome_store::error::Result;
use matome_store::migrate::Schema;
use matome_store::tasks::{End, Finish, RetryPolicy, finish};
use matome_store::workers::{self, Beat, HeldLease, NewWorker};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::handler::{ClaimedTask, StopReason, Streams, TaskContext};
use crate::liveness::{BEAT_EVERY, Pulse, SELF_FENCE_AFTER, boot_time};

/// However often somebody asks for a heartbeat out of turn, so long passes between two.
const BEAT_AT_MOST_EVERY: Duration = Duration::from_millis(250);
/// A task that may, and has run so long, makes room for another of its lane that is due.
const YIELD_AFTER: Duration = Duration::from_secs(60);
/// Whether a running task is to be cancelled is looked for so often: a wake-up may be lost, and a person waits.
const LOOK_FOR_CANCELS_EVERY: Duration = Duration::from_millis(500);
/// A lease that the database shows for so long without a task of ours behind it is given back.
const UNKNOWN_LEASE_AFTER: Duration = Duration::from_secs(10);

/// A registered process with a heartbeat. Its workers, one for each queue, share it.
#[derive(Debug)]
pub struct Process {
    inner: Arc<Inner>,
    end: CancellationToken,
    heartbeat: JoinHandle<()>,
}

/// Tells whether a process commits its heartbeats. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Heart(Pulse);

impl Heart {
    /// Whether it committed one lately.
    pub fn beats(&self) -> bool {
        self.0.is_fresh()
    }
}

/// What the heartbeat and the workers share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    worker: NewWorker,
    pulse: Pulse,
    yield_after: Duration,
    running: Mutex<HashMap<(i64, i64), TaskContext>>,
    early: Notify,
}

impl Process {
    /// Registers the process and starts its heartbeat.
    ///
    /// # Errors
    /// When the database refuses the registration or is gone.
    pub async fn start(db: Db, clock: Clock, worker: NewWorker) -> Result<Self> {
        Self::start_yielding(db, clock, worker, YIELD_AFTER).await
    }

    /// As [`Process::start`], with another time until a task makes room for another of its lane.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub async fn start_yielding(db: Db, clock: Clock, worker: NewWorker, yield_after: Duration) -> Result<Self> {
        let inner = Arc::new(Inner {
            db,
            clock,
            worker,
            pulse: Pulse::start(SELF_FENCE_AFTER, boot_time),
            yield_after,
            running: Mutex::default(),
            early: Notify::new(),
        });
        inner.register().await?;
        // It begins at zero: who watches it sees a rise only of what was there before.
        metrics::counter!("matome_heartbeat_errors_total").increment(0);
        let end = CancellationToken::new();
        let heartbeat = tokio::spawn(Arc::clone(&inner).beat_until(end.clone()));
        Ok(Self { inner, end, heartbeat })
    }

    /// The id that guards its leases.
    pub fn boot(&self) -> Uuid {
        self.inner.worker.boot
    }

    /// Asks every running task to return and forgets its lease, for an end without waiting.
    pub fn abandon(&self) {
        self.inner.lose_all();
    }

    /// The same, and says that it is gone: whatever it held is taken up elsewhere at once.
    ///
    /// # Errors
    /// When the database refuses the statement or is gone; then a sweeper notices a little later.
    pub async fn void(&self) -> Result<()> {
        self.abandon();
        let (boot, now) = (self.inner.worker.boot, self.inner.clock.now());
        self.inner.db.write(move |conn| Box::pin(async move { workers::gone(conn, boot, now).await })).await
    }

    /// Whether its heart beats, for those who watch.
    pub fn heart(&self) -> Heart {
        Heart(self.inner.pulse.clone())
    }

    pub(crate) fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }

    /// Ends the heartbeat and signs off. Call it when the workers have ended: they need it until then.
    pub async fn stop(self) {
        self.end.cancel();
        let _ = self.heartbeat.await;
        let (boot, now) = (self.inner.worker.boot, self.inner.clock.now());
        let gone = self.inner.db.write(move |conn| Box::pin(async move { workers::gone(conn, boot, now).await }));
        if let Err(err) = gone.await {
            tracing::warn!(error = %err, "this process could not sign off; a sweeper will notice");
        }
    }
}

impl Inner {
    pub(crate) fn boot(&self) -> Uuid {
        self.worker.boot
    }

    /// Whether this process may claim: a process that missed its heartbeats must not, and without room to write a task
    /// would only fail.
    pub(crate) fn may_claim(&self) -> bool {
        self.pulse.is_fresh() && !self.db.is_full()
    }

    /// Makes the context of a claimed task; from now on a lost lease or a cancel reaches it.
    pub(crate) fn begin(&self, task: &ClaimedTask, streams: Arc<Streams>) -> TaskContext {
        let (pulse, streams) = (self.pulse.clone(), Some(streams));
        let ctx = TaskContext::with_pulse(self.db.clone(), task.task.id, task.fence, pulse, streams);
        self.running().insert(key(&task.fence), ctx.clone());
        ctx
    }

    /// Forgets a task whose end is written.
    pub(crate) fn end(&self, fence: &Fence) {
        self.running().remove(&key(fence));
    }

    /// Asks for a heartbeat soon: somebody may have cancelled a running task.
    pub(crate) fn beat_soon(&self) {
        if !self.running().is_empty() {
            self.early.notify_one();
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<(i64, i64), TaskContext>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose_all(&self) {
        self.running().values().for_each(|ctx| ctx.stop_with(StopReason::LeaseLost));
    }

    async fn register(&self) -> Result<()> {
        let (worker, now) = (self.worker.clone(), self.clock.now());
        let begun = boot_time();
        self.db
            .write(move |conn| Box::pin(async move { workers::register(conn, &worker, Schema::BUILT, now).await }))
            .await?;
        self.pulse.beat(begun);
        Ok(())
    }

    async fn beat_until(self: Arc<Self>, end: CancellationToken) {
        tokio::select! {
            () = end.cancelled() => {}
            () = self.beat_for_ever() => {}
            () = self.watch_for_ever() => {}
            () = self.hear_cancels_for_ever() => {}
        }
    }

    async fn hear_cancels_for_ever(&self) {
        loop {
            tokio::time::sleep(LOOK_FOR_CANCELS_EVERY).await;
            // What cannot be read now, the next look or the heartbeat finds.
            if !self.running().is_empty()
                && let Ok(cancelled) = self.cancelled().await
            {
                let running = self.running();
                let contexts = cancelled.iter().filter_map(|fence| running.get(&key(fence)));
                contexts.for_each(|ctx| ctx.stop_with(StopReason::Cancelled));
            }
        }
    }

    async fn cancelled(&self) -> Result<Vec<Fence>> {
        let mut reader = self.db.read().await?;
        workers::cancelled(&mut reader.conn(), self.worker.boot).await
    }

    async fn beat_for_ever(&self) {
        let mut unknown: HashMap<(i64, i64), Instant> = HashMap::new();
        let mut complaint = Complaint::default();
        loop {
            tokio::time::sleep(BEAT_AT_MOST_EVERY).await;
            let rest = BEAT_EVERY.saturating_sub(BEAT_AT_MOST_EVERY);
            let _ = tokio::time::timeout(rest, self.early.notified()).await;
            match self.beat_once(&mut unknown).await {
                Ok(()) if complaint.over() => tracing::info!("the heartbeat is written again"),
                Ok(()) => {}
                Err(err) => {
                    if let Some(kept_back) = complaint.due(Instant::now()) {
                        tracing::warn!(error = %err, kept_back, "the heartbeat was not written");
                    }
                    metrics::counter!("matome_heartbeat_errors_total").increment(1);
                }
            }
        }
    }

    /// The heartbeat may itself be what hangs, so its age is watched beside it; and after the process or the machine
    /// was suspended this is among the first things that run, since its wait is the shortest.
    async fn watch_for_ever(&self) {
        let mut was_fresh = true;
        loop {
            tokio::time::sleep(SELF_FENCE_AFTER / 8).await;
            let is_fresh = self.pulse.is_fresh();
            if !is_fresh {
                if was_fresh {
                    tracing::warn!("no heartbeat was committed for {SELF_FENCE_AFTER:?}: all tasks are stopped");
                }
                self.lose_all();
            }
            was_fresh = is_fresh;
        }
    }

    async fn beat_once(&self, unknown: &mut HashMap<(i64, i64), Instant>) -> Result<()> {
        // Registered before the transaction begins, hence seen by it, unless lost.
        let believed: Vec<((i64, i64), TaskContext)> =
            self.running().iter().map(|(key, ctx)| (*key, ctx.clone())).collect();
        let begun = boot_time();
        let (boot, now) = (self.worker.boot, self.clock.now());
        let beat = self.db.write(move |conn| Box::pin(async move { workers::beat(conn, boot, false, now).await }));
        let held = match tokio::time::timeout(SELF_FENCE_AFTER, beat).await {
            // Only its lateness matters, and `watch_for_ever` acts on that.
            Err(_) => return Ok(()),
            Ok(beat) => match beat? {
                Beat::Alive(held) => held,
                Beat::DeclaredDead => {
                    tracing::warn!("this process was taken for dead: its tasks run elsewhere");
                    self.lose_all();
                    return self.register().await;
                }
            },
        };
        self.pulse.beat(begun);
        let held: HashMap<(i64, i64), HeldLease> =
            held.into_iter().map(|lease| ((lease.lane_id, lease.lease_epoch), lease)).collect();
        for (key, ctx) in believed {
            match held.get(&key) {
                None => ctx.stop_with(StopReason::LeaseLost),
                Some(lease) if lease.cancel_requested => ctx.stop_with(StopReason::Cancelled),
                Some(lease) if lease.others_wait => ctx.yield_after(self.yield_after),
                Some(_) => {}
            }
        }
        self.give_back_unknown(&held, unknown).await
    }

    /// A claim whose commit was not confirmed may have leased lanes that no worker of ours knows about.
    async fn give_back_unknown(
        &self,
        held: &HashMap<(i64, i64), HeldLease>,
        unknown: &mut HashMap<(i64, i64), Instant>,
    ) -> Result<()> {
        let known: Vec<(i64, i64)> = self.running().keys().copied().collect();
        unknown.retain(|key, _| held.contains_key(key) && !known.contains(key));
        for key in held.keys().filter(|key| !known.contains(key)) {
            unknown.entry(*key).or_insert_with(Instant::now);
        }
        let finishes: Vec<Finish> = held
            .iter()
            .filter(|(key, _)| unknown.get(key).is_some_and(|since| since.elapsed() > UNKNOWN_LEASE_AFTER))
            .map(|((lane_id, lease_epoch), lease)| Finish {
                task_id: lease.task_id,
                fence: Fence { lane_id: *lane_id, lease_epoch: *lease_epoch, worker: self.worker.boot },
                end: End::Released { result: None },
            })
            .collect();
        if finishes.is_empty() {
            return Ok(());
        }
        tracing::warn!(leases = finishes.len(), "leases without a task are given back");
        let now = self.clock.now();
        let give_back = self.db.write(move |conn| {
            Box::pin(async move { finish(conn, &finishes, &RetryPolicy::default(), now).await.map(drop) })
        });
        give_back.await
    }
}

fn key(fence: &Fence) -> (i64, i64) {
    (fence.lane_id, fence.lease_epoch)
}

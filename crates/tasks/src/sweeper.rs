//! Finding dead workers by the heartbeat counters that stand still, by this process's own monotonic clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use matome_model::clock::Timestamp;
use matome_model::task::Fence;
use matome_store::db::Db;
use matome_store::error::Result;
use matome_store::tasks::{Stolen, steal, steal_lease};
use matome_store::workers;
use uuid::Uuid;

use crate::worker::ATTEMPT_DEADLINE;

/// A lease may outlive the longest attempt by so much: for the page that its worker lets it finish.
const OVERDUE_MARGIN: Duration = Duration::from_secs(600);
/// Looks at which a counter must have stood still, however much time has passed: after a pause of the
/// observer itself, time alone proves nothing.
const STILL_LOOKS: u32 = 3;

/// What one observer has seen of the others' heartbeats. Any number may observe.
#[derive(Debug)]
pub struct Sweeper {
    own: Option<Uuid>,
    dead_after: Duration,
    seen: HashMap<Uuid, Seen>,
    /// How long a lease may last, by this process's own clock.
    overdue_after: Duration,
    leases: HashMap<(i64, i64), Instant>,
}

#[derive(Debug)]
struct Seen {
    beat_seq: i64,
    since: Instant,
    looks: u32,
}

impl Sweeper {
    /// An observer in process `own`, which it never takes for dead.
    pub fn new(own: Option<Uuid>, dead_after: Duration) -> Self {
        // It begins at zero: who watches it sees a rise only of what was there before.
        metrics::counter!("matome_leases_stolen_total").increment(0);
        Self {
            own,
            dead_after,
            seen: HashMap::new(),
            overdue_after: ATTEMPT_DEADLINE + OVERDUE_MARGIN,
            leases: HashMap::new(),
        }
    }

    /// The same observer where an attempt may take so long. A worker stops its attempts itself; this is for one that
    /// cannot, although its heart beats.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { overdue_after: deadline + OVERDUE_MARGIN, ..self }
    }

    /// The same observer where a lease may last so long.
    #[must_use]
    pub fn overdue_after(self, overdue_after: Duration) -> Self {
        Self { overdue_after, ..self }
    }

    /// Looks once; takes the lanes back from workers that are dead or gone.
    ///
    /// # Errors
    /// When the database refuses a statement or is gone.
    pub async fn look(&mut self, db: &Db, now: Timestamp) -> Result<Stolen> {
        let (beats, gone, leases) = {
            let mut reader = db.read().await?;
            let mut conn = reader.conn();
            (
                workers::beats(&mut conn).await?,
                workers::holders_gone(&mut conn).await?,
                workers::leased(&mut conn).await?,
            )
        };
        let mut stolen = Stolen::default();
        for (boot, beat_seq) in self.still(beats) {
            end_sessions(db, boot, beat_seq).await?;
            let declared = db.write(move |conn| {
                Box::pin(async move {
                    match workers::declare_dead(conn, boot, beat_seq, now).await? {
                        true => steal(conn, boot, now).await.map(Some),
                        false => Ok(None),
                    }
                })
            });
            if let Some(taken) = declared.await? {
                let (name, tasks) = (name(db, boot).await, taken.total());
                tracing::warn!(worker = %boot, tasks, "the worker `{name}` is dead; its tasks go to others");
                add(&mut stolen, taken);
            }
        }
        for boot in gone.into_iter().filter(|boot| Some(*boot) != self.own) {
            // Declared dead by somebody else: by a migration, say.
            end_sessions(db, boot, ANY_BEAT).await?;
            add(&mut stolen, db.write(move |conn| Box::pin(async move { steal(conn, boot, now).await })).await?);
        }
        for fence in self.overdue(&leases) {
            let taken = db.write(move |conn| Box::pin(async move { steal_lease(conn, &fence, now).await })).await?;
            if taken.total() > 0 {
                let (lane_id, worker, name) = (fence.lane_id, fence.worker, name(db, fence.worker).await);
                tracing::warn!(lane.id = lane_id, worker = %worker, "an attempt of `{name}` that does not end lost its lease");
            }
            add(&mut stolen, taken);
        }
        metrics::counter!("matome_leases_stolen_total").increment(u64::try_from(stolen.total()).unwrap_or(0));
        Ok(stolen)
    }

    /// The leases that this observer has seen for too long.
    fn overdue(&mut self, leases: &[Fence]) -> Vec<Fence> {
        let now = Instant::now();
        let seen = std::mem::take(&mut self.leases);
        let mut overdue = Vec::new();
        for fence in leases {
            let key = (fence.lane_id, fence.lease_epoch);
            let since = seen.get(&key).copied().unwrap_or(now);
            if now.duration_since(since) >= self.overdue_after {
                overdue.push(*fence);
            }
            self.leases.insert(key, since);
        }
        overdue
    }

    /// The workers whose counters have stood still for too long.
    fn still(&mut self, beats: Vec<(Uuid, i64)>) -> Vec<(Uuid, i64)> {
        self.seen.retain(|boot, _| beats.iter().any(|(live, _)| live == boot));
        let mut dead = Vec::new();
        for (boot, beat_seq) in beats.into_iter().filter(|(boot, _)| Some(*boot) != self.own) {
            let seen = self.seen.entry(boot).or_insert_with(|| Seen { beat_seq, since: Instant::now(), looks: 0 });
            if seen.beat_seq != beat_seq {
                *seen = Seen { beat_seq, since: Instant::now(), looks: 0 };
                continue;
            }
            seen.looks += 1;
            if seen.looks > STILL_LOOKS && seen.since.elapsed() >= self.dead_after {
                dead.push((boot, beat_seq));
            }
        }
        dead
    }
}

/// Of those that are gone no beat is too new.
const ANY_BEAT: i64 = 0;

/// Ends what a worker that stands still may have locked: whoever takes its lanes back would wait for a session that was stopped
/// within a transaction. One that was only slow loses that transaction and tries again.
async fn end_sessions(db: &Db, boot: Uuid, beat_seq: i64) -> Result<()> {
    let ended =
        db.write(move |conn| Box::pin(async move { workers::end_sessions(conn, boot, beat_seq).await })).await?;
    if ended > 0 {
        let name = name(db, boot).await;
        tracing::warn!(worker = %boot, sessions = ended, "database sessions of `{name}`, which stands still, were ended");
    }
    Ok(())
}

/// What a worker is called, for the log; its boot id when that cannot be read now.
async fn name(db: &Db, boot: Uuid) -> String {
    let read = async { workers::name(&mut db.read().await?.conn(), boot).await };
    read.await.unwrap_or_else(|_| boot.to_string())
}

fn add(sum: &mut Stolen, more: Stolen) {
    sum.waiting += more.waiting;
    sum.cancelled += more.cancelled;
    sum.poisoned += more.poisoned;
}

//! Claim, page, finish, enqueue, cancel, steal, beat: each step is a statement of `store`, or several of which no
//! other session can notice that they are not one (they read and write rows that the transaction has locked already;
//! the last of them goes with the commit).

mod actor;
mod beat;
mod claim;
mod invariants;
mod outside;
mod requests;
mod sweeper;
mod worker;

use std::hash::{Hash, Hasher};
use std::rc::Rc;

pub use actor::Actor;
use actor::{Change, Fire, Lease, Sweep, Work};
use invariants::broken;

use crate::explore::{Model, Step};
use crate::sql::{Row, Sql, Status, Tables};

/// `POISON_AFTER` and `RetryPolicy::max_attempts`, small enough to be reached.
const POISON_AFTER: u8 = 2;
const MAX_ATTEMPTS: u8 = 2;
/// Ticks of an observer's clock until a counter that stands still means death, and how far the wall clock jumps.
const TTL: u8 = 1;
const JUMP: u8 = 10;

/// A protocol that looks right and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Lanes are locked, tasks picked and both leased in one statement: the picks are of its snapshot.
    OneStatementClaim,
    /// A finish ends the lease and computes `ready` in one statement, without the lane locked before it.
    FinishWithoutLaneLock,
    /// A cancel believes the status that it read before it held the lane.
    CancelReadsBeforeLock,
    /// A cancel changes the task first and its lane after.
    CancelWithoutLaneLock,
    /// An enqueue looks at what waits before it holds the lane.
    EnqueueWithoutLaneLock,
    /// A sweeper takes back the tasks it saw running, by their ids.
    RescueById,
    /// A sweeper compares the time of the last beat with a wall clock.
    WallClockExpiry,
    /// A task whose worker dies waits again, however often that was.
    StealWithoutLimit,
    /// A task that fails waits again, however often that was.
    RetryWithoutLimit,
    /// A page commits on the word of the fence it read at its start.
    FenceOnlyAtStart,
    /// A steal ends the lease but leaves its epoch, and a claim takes the epoch it finds.
    LeaseKeepsEpoch,
    /// A claim counts what reads from the host without holding the host's row.
    HostCountedWithoutLock,
    /// A claim holds the host's row, and believes what it counted before it had waited for that.
    HostCountedBeforeLock,
    /// Two beats may fire the same time, and no unique index stops the second.
    FireWithoutLockAndIndex,
}

/// What all states of a search have in common.
#[derive(Debug)]
pub struct Rules {
    pub mutant: Option<Mutant>,
    /// A circle of waits is a counterexample; else one of them is rolled back and the search goes on.
    pub deadlock_is_wrong: bool,
    /// Attempts may fail.
    pub failures: bool,
    /// Ends and the next claim share a transaction, as `Worker::write` does it.
    pub joined: bool,
    /// Time passes: sweepers count ticks. Else they may take anybody for dead at any moment.
    pub timed: bool,
    /// One transaction at a time, as SQLite's writer does it.
    pub one_writer: bool,
    /// Last nominal time that is due.
    pub due: u8,
    /// All lanes read from one host: so many at a time.
    pub host: Option<u8>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            mutant: None,
            deadlock_is_wrong: true,
            failures: false,
            joined: false,
            timed: false,
            one_writer: false,
            due: 0,
            host: None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct World {
    rules: Rc<Rules>,
    sql: Sql,
    actors: Vec<Actor>,
    /// Workers that may still die.
    crashes: u8,
    tick: u8,
    jumped: bool,
    wrong: Option<&'static str>,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.sql, &self.actors, self.crashes, self.tick, self.jumped, self.wrong.is_some()).hash(state);
    }
}

/// What an actor can do now.
enum Can {
    Steps(Vec<Step<World>>),
    /// Waits for a row that this session holds.
    Waits(usize),
    Nothing,
}

impl World {
    pub fn new(rules: Rules, tables: Tables, actors: Vec<Actor>, crashes: u8) -> Self {
        let sql = Sql::new(tables, actors.len());
        Self { rules: Rc::new(rules), sql, actors, crashes, tick: 0, jumped: false, wrong: None }
    }

    pub fn name(&self, n: usize) -> String {
        self.actors.get(n).map_or_else(|| "time".to_owned(), |actor| actor.name(n))
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.rules.mutant == Some(mutant)
    }

    fn wall(&self) -> u8 {
        self.tick + if self.jumped { JUMP } else { 0 }
    }

    /// The state after actor `n` did something; it stands between two pieces of work then when `rests`.
    fn then(&self, n: usize, rests: bool, what: &'static str, act: impl FnOnce(&mut World)) -> Step<World> {
        let mut next = self.clone();
        act(&mut next);
        Step { actor: n, what, next, rests }
    }

    fn one(&self, n: usize, rests: bool, what: &'static str, act: impl FnOnce(&mut World)) -> Can {
        Can::Steps(vec![self.then(n, rests, what, act)])
    }

    /// Commits, and looks at what that did.
    fn commit(&mut self, n: usize) {
        let before = self.sql.commit(n);
        if self.wrong.is_none() {
            self.wrong = broken(&before, &self.sql.committed);
        }
        if self.rules.host.is_some_and(|most| self.sql.committed.leased() > most) {
            self.wrong = Some("more tasks read from a host than may");
        }
    }

    fn actor_can(&self, n: usize) -> Can {
        match self.actors[n] {
            Actor::Worker { .. } => self.worker_can(n),
            Actor::Sweeper { .. } => self.sweeper_can(n),
            Actor::Canceller { task, change } => self.canceller_can(n, usize::from(task), change),
            Actor::Enqueuer { lane, task, change } => self.enqueuer_can(n, lane, task, change),
            Actor::Beat { task, fires, at } => self.beat_can(n, task, fires, at),
        }
    }

    /// `RECOMPUTE` behind the lane's lock; with `lanes::release` the lease ends.
    fn release(&mut self, n: usize, lane: usize) {
        let ready = self.sql.snapshot(n).first_pending(lane).is_some();
        self.sql.change(n, Row::Lane(lane), |seen| {
            (seen.lanes[lane].lease, seen.lanes[lane].ready) = (None, ready);
        });
    }

    fn recompute(&mut self, n: usize, lane: usize) {
        let ready = self.sql.snapshot(n).first_pending(lane).is_some();
        self.sql.change(n, Row::Lane(lane), |seen| seen.lanes[lane].ready = ready);
    }

    /// Sessions that wait in a circle.
    fn deadlocked(&self, waits: &[Option<usize>]) -> Vec<usize> {
        let in_circle = |from: usize| {
            let mut at = from;
            for _ in 0..waits.len() {
                match waits[at] {
                    Some(next) if next == from => return true,
                    Some(next) => at = next,
                    None => return false,
                }
            }
            false
        };
        (0..waits.len()).filter(|n| in_circle(*n)).collect()
    }

    /// The transaction is gone; whoever it was begins anew.
    fn give_up(&mut self, n: usize) {
        self.sql.rollback(n);
        match &mut self.actors[n] {
            Actor::Worker { work, .. } => match *work {
                Work::Page { lease, pages } => *work = Work::Running { lease, pages },
                Work::Ended { lease, end, .. } => *work = Work::Ending { lease, end },
                Work::Stale { lease, .. } => *work = Work::Running { lease, pages: 0 },
                _ => self.set_work(n, Work::Idle),
            },
            Actor::Sweeper { sweep, .. } => *sweep = Sweep::Looking,
            Actor::Canceller { change, .. } | Actor::Enqueuer { change, .. } => *change = Change::Begin,
            Actor::Beat { at, .. } => *at = Fire::Idle,
        }
    }

    /// Whether the actor has an open transaction.
    fn is_inside(&self, n: usize) -> bool {
        match self.actors[n] {
            Actor::Worker { work, .. } => matches!(
                work,
                Work::Locking { .. }
                    | Work::Picked { .. }
                    | Work::Page { .. }
                    | Work::Ended { .. }
                    | Work::Stale { .. }
            ),
            Actor::Sweeper { sweep, .. } => matches!(sweep, Sweep::Stealing { .. } | Sweep::Stolen { .. }),
            Actor::Canceller { change, .. } | Actor::Enqueuer { change, .. } => {
                !matches!(change, Change::Begin | Change::Done)
            }
            Actor::Beat { at, .. } => at != Fire::Idle,
        }
    }
}

impl Model for World {
    fn steps(&self) -> Vec<Step<Self>> {
        let mut steps = Vec::new();
        let mut waits = vec![None; self.actors.len()];
        // Only one transaction is open on SQLite: whoever has begun goes on.
        let writing = (0..self.actors.len()).find(|n| self.rules.one_writer && self.is_inside(*n));
        for (n, waits) in waits.iter_mut().enumerate() {
            if writing.is_some_and(|writer| writer != n) {
                continue;
            }
            match self.actor_can(n) {
                Can::Steps(more) => steps.extend(more),
                Can::Waits(holder) => *waits = Some(holder),
                Can::Nothing => {}
            }
        }
        for n in self.deadlocked(&waits) {
            let wrong = self.rules.deadlock_is_wrong;
            steps.push(self.then(n, true, "waits in a circle and is rolled back", |next| {
                if wrong {
                    next.wrong = Some("a deadlock");
                }
                next.give_up(n);
            }));
        }
        let mut outside = self.world_can();
        outside.retain(|step| waits.get(step.actor).copied().flatten().is_none());
        steps.extend(outside);
        steps
    }

    fn wrong(&self) -> Option<String> {
        self.wrong.map(str::to_owned)
    }
}

fn small(n: usize) -> u8 {
    u8::try_from(n).unwrap()
}

fn holds(seen: &Tables, boot: u8, lease: Lease) -> bool {
    let lane = seen.lanes[usize::from(lease.lane)];
    lane.epoch == lease.epoch && lane.lease == Some((boot, lease.task))
}

fn waits_in(seen: &Tables, task: usize, lane: usize) -> bool {
    seen.tasks[task].status == Status::Pending && usize::from(seen.tasks[task].lane) == lane
}

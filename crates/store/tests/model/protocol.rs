//! Claim, page, finish, enqueue, cancel, steal, beat: each step is a statement of `store`, or several of which no
//! other session can notice that they are not one (they read and write rows that the transaction has locked already;
//! the last of them goes with the commit).

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use crate::explore::{Model, Step};
use crate::sql::{LANES, Row, Sql, Status, TASKS, Tables};

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

/// A lease as its holder remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    lane: u8,
    task: u8,
    epoch: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Succeeded,
    Retry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    Idle,
    /// The claim's first statement has begun: free lanes, and what waited in them then.
    Locking {
        free: [bool; LANES],
        waiting: [Option<u8>; LANES],
    },
    /// Holds the lane; the host comes next. What it counted before, where that matters.
    Hosting {
        lane: u8,
        counted: Option<u8>,
    },
    Picked {
        lane: u8,
        task: u8,
    },
    Running {
        lease: Lease,
        pages: u8,
    },
    /// Read the fence, wrote the page's rows.
    Page {
        lease: Lease,
        pages: u8,
    },
    Ending {
        lease: Lease,
        end: End,
    },
    /// Holds the lane; what it read of its task there.
    Ended {
        lease: Lease,
        end: End,
        cancel_requested: bool,
    },
    /// A finish that computed `ready` by its snapshot, before it waits for the lane.
    Stale {
        lease: Lease,
        ready: bool,
    },
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sweep {
    Looking,
    Stealing {
        boot: u8,
    },
    Stolen {
        boot: u8,
        lanes: [bool; LANES],
    },
    /// Saw this task running.
    Rescuing {
        task: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    Begin,
    /// Believes that the task waits.
    Read {
        waits: bool,
    },
    Locked {
        waits: bool,
    },
    /// Has written its task; its lane comes next.
    Written,
    /// Has computed `ready` by its snapshot, before it waits for the lane.
    Computed {
        ready: bool,
    },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fire {
    Idle,
    Due { fire: u8 },
    Locked { fire: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A slot of a worker process.
    Worker {
        boot: u8,
        claims: u8,
        pages: u8,
        has_beaten: bool,
        work: Work,
    },
    Sweeper {
        seen: [(u8, u8); 2],
        looks: u8,
        sweep: Sweep,
    },
    Canceller {
        task: u8,
        change: Change,
    },
    Enqueuer {
        lane: u8,
        task: u8,
        change: Change,
    },
    /// Makes task `task` + n of its nth fire.
    Beat {
        task: u8,
        fires: u8,
        at: Fire,
    },
}

impl Actor {
    pub fn worker(boot: u8, claims: u8, pages: u8) -> Self {
        Self::Worker { boot, claims, pages, has_beaten: false, work: Work::Idle }
    }

    pub fn sweeper(looks: u8) -> Self {
        Self::Sweeper { seen: [(0, 0); 2], looks, sweep: Sweep::Looking }
    }

    pub fn canceller(task: u8) -> Self {
        Self::Canceller { task, change: Change::Begin }
    }

    pub fn enqueuer(lane: u8, task: u8) -> Self {
        Self::Enqueuer { lane, task, change: Change::Begin }
    }

    pub fn beat(task: u8, fires: u8) -> Self {
        Self::Beat { task, fires, at: Fire::Idle }
    }

    pub fn name(&self, n: usize) -> String {
        let kind = match self {
            Self::Worker { .. } => "worker",
            Self::Sweeper { .. } => "sweeper",
            Self::Canceller { .. } => "canceller",
            Self::Enqueuer { .. } => "enqueuer",
            Self::Beat { .. } => "beat",
        };
        format!("{kind} {n}")
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

    fn set_work(&mut self, n: usize, to: Work) {
        if let Actor::Worker { work, claims, .. } = &mut self.actors[n] {
            // A claim is used up by what it leads to.
            *claims -= u8::from(to == Work::Idle && *work != Work::Idle);
            *work = to;
        }
    }

    fn worker_can(&self, n: usize) -> Can {
        let Actor::Worker { boot, claims, pages, work, .. } = self.actors[n] else { unreachable!() };
        match work {
            Work::Dead => Can::Nothing,
            Work::Idle if claims == 0 => Can::Nothing,
            Work::Idle => self.begin_claim(n),
            Work::Locking { free, waiting } => self.lock_lane(n, boot, pages, free, waiting),
            Work::Hosting { lane, counted } => self.lock_host(n, usize::from(lane), counted),
            Work::Picked { lane, task } => self.lease(n, boot, pages, usize::from(lane), usize::from(task)),
            Work::Running { lease, pages: 0 } => {
                let ends: &[End] = if self.rules.failures { &[End::Succeeded, End::Retry] } else { &[End::Succeeded] };
                let step = |end: &End| {
                    let what = match end {
                        End::Succeeded => "the task has done its work",
                        End::Retry => "the attempt fails",
                    };
                    self.then(n, false, what, |next| next.set_work(n, Work::Ending { lease, end: *end }))
                };
                Can::Steps(ends.iter().map(step).collect())
            }
            // lease::peek, then the inserts, which nobody sees
            Work::Running { lease, pages } => {
                let holds = holds(&self.sql.snapshot(n), boot, lease);
                match holds {
                    true => self.one(n, false, "page: the fence is read, rows are written", |next| {
                        next.set_work(n, Work::Page { lease, pages });
                    }),
                    false => self.one(n, true, "page: the fence is lost, seen at the start", |next| {
                        next.set_work(n, Work::Idle);
                    }),
                }
            }
            Work::Page { lease, pages } => self.commit_page(n, boot, lease, pages),
            Work::Ending { lease, end } => self.lock_for_end(n, boot, lease, end),
            Work::Ended { lease, end, cancel_requested } => self.write_end(n, lease, end, cancel_requested),
            Work::Stale { lease, ready } => self.write_stale_end(n, boot, lease, ready),
        }
    }

    /// `LOCK_FREE`, the snapshot it begins with.
    fn begin_claim(&self, n: usize) -> Can {
        let seen = self.sql.snapshot(n);
        let is_full = self.rules.host.is_some_and(|most| seen.leased() >= most);
        let free: [bool; LANES] =
            std::array::from_fn(|lane| !is_full && seen.lanes[lane].ready && seen.lanes[lane].lease.is_none());
        if free.iter().all(|free| !free) {
            return Can::Nothing;
        }
        let waiting = std::array::from_fn(|lane| match self.is(Mutant::OneStatementClaim) {
            true => seen.first_pending(lane).and_then(|task| u8::try_from(task).ok()),
            false => None,
        });
        self.one(n, false, "claim: looks for free lanes", |next| next.set_work(n, Work::Locking { free, waiting }))
    }

    /// `LOCK_FREE` takes a row (`skip locked`, and its condition again on the newest version), then `PICK` with a
    /// snapshot of its own. Any of the free lanes may come first in virtual time.
    fn lock_lane(&self, n: usize, boot: u8, pages: u8, free: [bool; LANES], waiting: [Option<u8>; LANES]) -> Can {
        let newest = self.sql.snapshot(n);
        let can_lock = |lane: &usize| {
            let row = newest.lanes[*lane];
            free[*lane] && self.sql.held_by_other(n, Row::Lane(*lane)).is_none() && row.ready && row.lease.is_none()
        };
        let lanes: Vec<usize> = (0..LANES).filter(can_lock).collect();
        if lanes.is_empty() {
            return self.one(n, true, "claim: nothing is free any more", |next| {
                next.commit(n);
                next.set_work(n, Work::Idle);
            });
        }
        if self.is(Mutant::OneStatementClaim) {
            let step = |lane: &usize| {
                let (lane, task) = (*lane, waiting[*lane].map(usize::from));
                self.then(n, false, "claim: leases the lane and starts what its snapshot had waiting", |next| {
                    let Some(task) = task else { return next.set_work(n, Work::Idle) };
                    let lease = next.lease_lane(n, boot, lane, task);
                    let waits = next.sql.snapshot(n).tasks[task].status == Status::Pending;
                    if waits {
                        next.start_task(n, lease);
                    }
                    next.commit(n);
                    next.set_work(n, Work::Running { lease, pages });
                })
            };
            return Can::Steps(lanes.iter().map(step).collect());
        }
        let step = |lane: &usize| {
            let lane = *lane;
            if self.rules.host.is_some() {
                return self.then(n, false, "claim: locks a lane that reads from the host", |next| {
                    next.sql.lock(n, Row::Lane(lane));
                    let counted = next.is(Mutant::HostCountedBeforeLock).then(|| next.sql.snapshot(n).leased());
                    next.set_work(n, Work::Hosting { lane: small(lane), counted });
                });
            }
            self.then(n, false, "claim: locks a lane, then picks its first waiting task", |next| {
                next.sql.lock(n, Row::Lane(lane));
                next.pick(n, lane);
            })
        };
        Can::Steps(lanes.iter().map(step).collect())
    }

    /// `hosts::room`, then `PICK`. The lane stays locked while it waits for the host.
    fn lock_host(&self, n: usize, lane: usize, counted: Option<u8>) -> Can {
        let locks = !self.is(Mutant::HostCountedWithoutLock);
        if let Some(holder) = self.sql.held_by_other(n, Row::Host).filter(|_| locks) {
            return Can::Waits(holder);
        }
        let reading = counted.unwrap_or_else(|| self.sql.snapshot(n).leased());
        if self.rules.host.is_some_and(|most| reading >= most) {
            return self.one(n, true, "claim: the host is full", |next| {
                next.commit(n);
                next.set_work(n, Work::Idle);
            });
        }
        self.one(n, false, "claim: holds the host, which has room, and picks the lane's first waiting task", |next| {
            if locks {
                next.sql.lock(n, Row::Host);
            }
            next.pick(n, lane);
        })
    }

    fn pick(&mut self, n: usize, lane: usize) {
        match self.sql.snapshot(n).first_pending(lane) {
            Some(task) => self.set_work(n, Work::Picked { lane: small(lane), task: small(task) }),
            None => {
                self.sql.change(n, Row::Lane(lane), |seen| seen.lanes[lane].ready = false);
                self.commit(n);
                self.set_work(n, Work::Idle);
            }
        }
    }

    fn lease_lane(&mut self, n: usize, boot: u8, lane: usize, task: usize) -> Lease {
        let keeps = self.is(Mutant::LeaseKeepsEpoch);
        self.sql.change(n, Row::Lane(lane), |seen| {
            let row = &mut seen.lanes[lane];
            row.epoch += u8::from(!keeps || row.epoch == 0);
            row.lease = Some((boot, small(task)));
        });
        Lease { lane: small(lane), task: small(task), epoch: self.sql.snapshot(n).lanes[lane].epoch }
    }

    fn start_task(&mut self, n: usize, lease: Lease) {
        let task = usize::from(lease.task);
        self.sql.change(n, Row::Task(task), |seen| {
            let row = &mut seen.tasks[task];
            (row.status, row.epoch, row.started) = (Status::Running, Some(lease.epoch), true);
        });
    }

    /// `LEASE`, `START`, commit.
    fn lease(&self, n: usize, boot: u8, pages: u8, lane: usize, task: usize) -> Can {
        if let Some(holder) = self.sql.held_by_other(n, Row::Task(task)) {
            return Can::Waits(holder);
        }
        self.one(n, false, "claim: leases the lane, starts the task, commits", |next| {
            let lease = next.lease_lane(n, boot, lane, task);
            if next.sql.snapshot(n).tasks[task].status != Status::Pending {
                next.wrong = Some("a claim that holds the lane finds its task changed under its hands");
                return;
            }
            next.start_task(n, lease);
            next.commit(n);
            next.set_work(n, Work::Running { lease, pages });
        })
    }

    /// `lease::lock`, checkpoint, `MADE_PROGRESS`, commit.
    fn commit_page(&self, n: usize, boot: u8, lease: Lease, pages: u8) -> Can {
        let (lane, task) = (usize::from(lease.lane), usize::from(lease.task));
        let blind = self.is(Mutant::FenceOnlyAtStart);
        for row in [Row::Lane(lane), Row::Task(task)] {
            if let Some(holder) = self.sql.held_by_other(n, row) {
                return Can::Waits(holder);
            }
        }
        if !blind && !holds(&self.sql.snapshot(n), boot, lease) {
            return self.one(n, true, "page: the fence is lost, all of it rolls back", |next| {
                next.sql.rollback(n);
                next.set_work(n, Work::Idle);
            });
        }
        self.one(n, false, "page: commits", |next| {
            let before = next.sql.committed.lanes[lane];
            next.sql.change(n, Row::Lane(lane), |seen| seen.lanes[lane].pages += 1);
            next.sql.change(n, Row::Task(task), |seen| {
                let row = &mut seen.tasks[task];
                if row.status == Status::Running && row.epoch == Some(lease.epoch) {
                    (row.attempt, row.crashes) = (0, 0);
                }
            });
            next.commit(n);
            if (before.lease, before.epoch) != (Some((boot, lease.task)), lease.epoch) {
                next.wrong = Some("a page commits although its lease was lost");
            }
            // The same worker may hold the lane again, for another attempt: told apart by who began that one.
            let holders = next.actors.iter().enumerate().filter(|(other, actor)| {
                let leases = matches!(actor, Actor::Worker { boot: b, work: Work::Running { lease: l, .. }
                    | Work::Page { lease: l, .. } | Work::Ending { lease: l, .. }, .. }
                    if *b == boot && *l == lease);
                *other != n && leases
            });
            if holders.count() > 0 {
                next.wrong = Some("two attempts pass the same fence");
            }
            next.set_work(n, Work::Running { lease, pages: pages - 1 });
        })
    }

    /// `lanes::lock`, then `READ`.
    fn lock_for_end(&self, n: usize, boot: u8, lease: Lease, end: End) -> Can {
        let (lane, task) = (usize::from(lease.lane), usize::from(lease.task));
        if self.is(Mutant::FinishWithoutLaneLock) {
            let seen = self.sql.snapshot(n);
            let ready = (0..TASKS).any(|other| other != task && waits_in(&seen, other, lane));
            return self.one(n, false, "finish: computes what is ready, lane not locked", |next| {
                next.set_work(n, Work::Stale { lease, ready });
            });
        }
        if let Some(holder) = self.sql.held_by_other(n, Row::Lane(lane)) {
            return Can::Waits(holder);
        }
        let seen = self.sql.snapshot(n);
        if !holds(&seen, boot, lease) || seen.tasks[task].status != Status::Running {
            return self.one(n, true, "finish: the lease is lost, nothing is changed", |next| {
                next.sql.rollback(n);
                next.set_work(n, Work::Idle);
            });
        }
        let cancel_requested = seen.tasks[task].cancel_requested;
        self.one(n, false, "finish: locks the lane, reads the task", |next| {
            next.sql.lock(n, Row::Lane(lane));
            next.set_work(n, Work::Ended { lease, end, cancel_requested });
        })
    }

    /// `end::APPLY`, `RECOMPUTE` with release, commit; or the next claim in the same transaction.
    fn write_end(&self, n: usize, lease: Lease, end: End, cancel_requested: bool) -> Can {
        let (lane, task) = (usize::from(lease.lane), usize::from(lease.task));
        if let Some(holder) = self.sql.held_by_other(n, Row::Task(task)) {
            return Can::Waits(holder);
        }
        let joined = self.rules.joined;
        let what = if joined { "finish: ends task and lease" } else { "finish: ends task and lease, commits" };
        self.one(n, !joined, what, |next| {
            let unlimited = next.is(Mutant::RetryWithoutLimit);
            next.sql.change(n, Row::Task(task), |seen| {
                let row = &mut seen.tasks[task];
                row.epoch = None;
                row.attempt += u8::from(end == End::Retry);
                row.status = match end {
                    End::Succeeded => Status::Succeeded,
                    End::Retry if cancel_requested => Status::Cancelled,
                    End::Retry if row.attempt >= MAX_ATTEMPTS && !unlimited => Status::Failed,
                    End::Retry => Status::Pending,
                };
            });
            next.release(n, lane);
            next.set_work(n, Work::Idle);
            if !joined {
                return next.commit(n);
            }
            let Actor::Worker { claims, .. } = next.actors[n] else { unreachable!() };
            match next.begin_claim(n) {
                Can::Steps(mut steps) if claims > 0 => *next = steps.remove(0).next,
                _ => next.commit(n),
            }
        })
    }

    fn write_stale_end(&self, n: usize, boot: u8, lease: Lease, ready: bool) -> Can {
        let (lane, task) = (usize::from(lease.lane), usize::from(lease.task));
        for row in [Row::Lane(lane), Row::Task(task)] {
            if let Some(holder) = self.sql.held_by_other(n, row) {
                return Can::Waits(holder);
            }
        }
        self.one(n, true, "finish: ends task and lease, commits", |next| {
            if holds(&next.sql.snapshot(n), boot, lease) {
                next.sql.change(n, Row::Lane(lane), |seen| {
                    (seen.lanes[lane].lease, seen.lanes[lane].ready) = (None, ready);
                });
                next.sql.change(n, Row::Task(task), |seen| {
                    (seen.tasks[task].status, seen.tasks[task].epoch) = (Status::Succeeded, None);
                });
            }
            next.commit(n);
            next.set_work(n, Work::Idle);
        })
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

    fn set_sweep(&mut self, n: usize, to: Sweep) {
        if let Actor::Sweeper { sweep, .. } = &mut self.actors[n] {
            *sweep = to;
        }
    }

    fn sweeper_can(&self, n: usize) -> Can {
        let Actor::Sweeper { seen, looks, sweep } = self.actors[n] else { unreachable!() };
        match sweep {
            Sweep::Looking if looks == 0 => Can::Nothing,
            Sweep::Looking => self.look(n, seen),
            Sweep::Stealing { boot } => self.lock_leased(n, boot),
            Sweep::Stolen { boot, lanes } => self.take_back(n, boot, lanes),
            Sweep::Rescuing { task } => self.rescue(n, usize::from(task)),
        }
    }

    /// `workers::beats` and `holders_gone`; `DECLARE_DEAD` opens the transaction that steals.
    fn look(&self, n: usize, seen: [(u8, u8); 2]) -> Can {
        let now = self.sql.snapshot(n);
        let mut steps = Vec::new();
        for (boot, worker) in now.workers.iter().enumerate().filter(|(_, worker)| worker.registered) {
            let used = |next: &mut World| {
                if let Actor::Sweeper { looks, .. } = &mut next.actors[n] {
                    *looks -= 1;
                }
            };
            let holds = now.lanes.iter().any(|lane| lane.lease.is_some_and(|(holder, _)| usize::from(holder) == boot));
            if self.is(Mutant::RescueById) {
                for lane in 0..LANES {
                    let of_boot = now.lanes[lane].lease.is_some_and(|(holder, _)| usize::from(holder) == boot);
                    for task in now.running(lane).filter(|_| of_boot) {
                        steps.push(self.then(n, false, "sweep: sees a task running for too long", |next| {
                            used(next);
                            next.set_sweep(n, Sweep::Rescuing { task: small(task) });
                        }));
                    }
                }
                continue;
            }
            if worker.gone {
                if holds {
                    steps.push(self.then(n, false, "sweep: somebody who is gone holds a lane", |next| {
                        used(next);
                        next.set_sweep(n, Sweep::Stealing { boot: small(boot) });
                    }));
                }
                continue;
            }
            let dead = match self.rules.timed {
                false => true,
                true if self.is(Mutant::WallClockExpiry) => self.wall().saturating_sub(worker.last_beat_at) > TTL,
                true if boot >= seen.len() => false,
                true if worker.beat_seq != seen[boot].0 => {
                    let (seq, tick) = (worker.beat_seq, self.tick);
                    steps.push(self.then(n, true, "sweep: the counter has moved", |next| {
                        if let Actor::Sweeper { seen, .. } = &mut next.actors[n] {
                            seen[boot] = (seq, tick);
                        }
                    }));
                    false
                }
                true => self.tick - seen[boot].1 > TTL,
            };
            if !dead || self.sql.held_by_other(n, Row::Worker(boot)).is_some() {
                continue;
            }
            steps.push(self.then(n, false, "sweep: declares a worker dead", |next| {
                used(next);
                let row = next.sql.snapshot(n).workers[boot];
                let beats = |actor: &Actor| {
                    matches!(actor, Actor::Worker { boot: b, work, .. } if usize::from(*b) == boot && *work != Work::Dead)
                };
                if next.rules.timed && next.actors.iter().any(beats) {
                    next.wrong = Some("a worker that beats is declared dead");
                }
                // `where beat_seq = $2 and gone_at is null`
                if row.gone || (next.rules.timed && row.beat_seq != worker.beat_seq) {
                    return next.set_sweep(n, Sweep::Looking);
                }
                next.sql.change(n, Row::Worker(boot), |seen| seen.workers[boot].gone = true);
                next.set_sweep(n, Sweep::Stealing { boot: small(boot) });
            }));
        }
        if steps.is_empty() { Can::Nothing } else { Can::Steps(steps) }
    }

    /// `lanes::lock_leased` (`skip locked`).
    fn lock_leased(&self, n: usize, boot: u8) -> Can {
        self.one(n, false, "sweep: locks the lanes of the dead", |next| {
            let seen = next.sql.snapshot(n);
            let lanes = std::array::from_fn(|lane| {
                let is_its = seen.lanes[lane].lease.is_some_and(|(holder, _)| holder == boot);
                is_its && next.sql.held_by_other(n, Row::Lane(lane)).is_none()
            });
            (0..LANES).filter(|lane| lanes[*lane]).for_each(|lane| next.sql.lock(n, Row::Lane(lane)));
            next.set_sweep(n, Sweep::Stolen { boot, lanes });
        })
    }

    /// `RUNNING`, `BUMP`, `end::APPLY`, `RECOMPUTE` with release, commit.
    fn take_back(&self, n: usize, _boot: u8, lanes: [bool; LANES]) -> Can {
        let seen = self.sql.snapshot(n);
        for lane in (0..LANES).filter(|lane| lanes[*lane]) {
            for task in seen.running(lane) {
                if let Some(holder) = self.sql.held_by_other(n, Row::Task(task)) {
                    return Can::Waits(holder);
                }
            }
        }
        self.one(n, true, "sweep: takes lanes and tasks back, commits", |next| {
            let seen = next.sql.snapshot(n);
            for lane in (0..LANES).filter(|lane| lanes[*lane]) {
                if !next.is(Mutant::LeaseKeepsEpoch) {
                    next.sql.change(n, Row::Lane(lane), |seen| seen.lanes[lane].epoch += 1);
                }
                for task in seen.running(lane) {
                    next.crashed(n, task);
                }
                next.release(n, lane);
            }
            next.commit(n);
            next.set_sweep(n, Sweep::Looking);
        })
    }

    fn crashed(&mut self, n: usize, task: usize) {
        let unlimited = self.is(Mutant::StealWithoutLimit);
        self.sql.change(n, Row::Task(task), |seen| {
            let row = &mut seen.tasks[task];
            row.crashes += 1;
            row.epoch = None;
            row.status = match row.cancel_requested {
                true => Status::Cancelled,
                false if row.crashes >= POISON_AFTER && !unlimited => Status::Failed,
                false => Status::Pending,
            };
        });
    }

    /// `update tasks set status = 'pending' where id = $1`, and the lane of that task.
    fn rescue(&self, n: usize, task: usize) -> Can {
        let lane = usize::from(self.sql.committed.tasks[task].lane);
        for row in [Row::Lane(lane), Row::Task(task)] {
            if let Some(holder) = self.sql.held_by_other(n, row) {
                return Can::Waits(holder);
            }
        }
        self.one(n, true, "sweep: takes the task back by its id, commits", |next| {
            next.crashed(n, task);
            next.sql.change(n, Row::Lane(lane), |seen| seen.lanes[lane].epoch += 1);
            next.release(n, lane);
            next.commit(n);
            next.set_sweep(n, Sweep::Looking);
        })
    }

    fn set_change(&mut self, n: usize, to: Change) {
        if let Actor::Canceller { change, .. } | Actor::Enqueuer { change, .. } = &mut self.actors[n] {
            *change = to;
        }
    }

    /// `tasks::cancel`.
    fn canceller_can(&self, n: usize, task: usize, change: Change) -> Can {
        let seen = self.sql.snapshot(n);
        let lane = usize::from(seen.tasks[task].lane);
        match change {
            Change::Begin if seen.tasks[task].status == Status::Absent => Can::Nothing,
            Change::Begin if self.is(Mutant::CancelReadsBeforeLock) => {
                let waits = seen.tasks[task].status == Status::Pending;
                self.one(n, false, "cancel: reads the status", |next| next.set_change(n, Change::Read { waits }))
            }
            Change::Begin if self.is(Mutant::CancelWithoutLaneLock) => {
                if let Some(holder) = self.sql.held_by_other(n, Row::Task(task)) {
                    return Can::Waits(holder);
                }
                self.one(n, false, "cancel: ends the waiting task, lane not locked", |next| {
                    if seen.tasks[task].status != Status::Pending {
                        return next.set_change(n, Change::Done);
                    }
                    next.sql.change(n, Row::Task(task), |seen| seen.tasks[task].status = Status::Cancelled);
                    next.set_change(n, Change::Written);
                })
            }
            Change::Begin | Change::Read { .. } => {
                if let Some(holder) = self.sql.held_by_other(n, Row::Lane(lane)) {
                    return Can::Waits(holder);
                }
                self.one(n, false, "cancel: locks the lane", |next| {
                    next.sql.lock(n, Row::Lane(lane));
                    let waits = matches!(change, Change::Read { waits: true });
                    next.set_change(n, Change::Locked { waits });
                })
            }
            Change::Locked { waits } => {
                if let Some(holder) = self.sql.held_by_other(n, Row::Task(task)) {
                    return Can::Waits(holder);
                }
                self.one(n, true, "cancel: ends or asks the task, commits", |next| {
                    let believes = next.is(Mutant::CancelReadsBeforeLock);
                    let status = next.sql.snapshot(n).tasks[task].status;
                    if if believes { waits } else { status == Status::Pending } {
                        next.sql.change(n, Row::Task(task), |seen| seen.tasks[task].status = Status::Cancelled);
                        next.recompute(n, lane);
                    } else if status == Status::Running {
                        next.sql.change(n, Row::Task(task), |seen| seen.tasks[task].cancel_requested = true);
                    }
                    next.commit(n);
                    next.set_change(n, Change::Done);
                })
            }
            Change::Written | Change::Computed { .. } => self.lane_after_task(n, lane, change),
            Change::Done => Can::Nothing,
        }
    }

    /// `RECOMPUTE` of a lane that is not locked: its sub-select reads, then it waits for the lane.
    fn lane_after_task(&self, n: usize, lane: usize, change: Change) -> Can {
        let Change::Computed { ready } = change else {
            let ready = self.sql.snapshot(n).first_pending(lane).is_some();
            return self.one(n, false, "computes what is ready, lane not locked", |next| {
                next.set_change(n, Change::Computed { ready });
            });
        };
        if let Some(holder) = self.sql.held_by_other(n, Row::Lane(lane)) {
            return Can::Waits(holder);
        }
        self.one(n, true, "writes the lane, commits", |next| {
            next.sql.change(n, Row::Lane(lane), |seen| seen.lanes[lane].ready = ready);
            next.commit(n);
            next.set_change(n, Change::Done);
        })
    }

    /// Inserts the task unless one like it waits that was not tried yet (`WAITING`, `same`).
    fn insert(&mut self, n: usize, lane: u8, task: u8, fire: Option<u8>) {
        let seen = self.sql.snapshot(n);
        let is_same = |other: &usize| {
            let row = &seen.tasks[*other];
            waits_in(&seen, *other, usize::from(lane))
                && match fire {
                    None => row.fire.is_none() || row.attempt > 0,
                    Some(_) => row.fire.is_some(),
                }
        };
        let made_before = |other: &usize| fire.is_some() && seen.tasks[*other].fire == fire;
        let has_index = !self.is(Mutant::FireWithoutLockAndIndex);
        if (0..TASKS).any(|other| is_same(&other) || has_index && made_before(&other)) {
            return;
        }
        let task = usize::from(task);
        self.sql.change(n, Row::Task(task), |seen| {
            let row = &mut seen.tasks[task];
            (row.status, row.lane, row.fire) = (Status::Pending, lane, fire);
        });
    }

    /// `tasks::enqueue` of a run by hand.
    fn enqueuer_can(&self, n: usize, lane: u8, task: u8, change: Change) -> Can {
        let at = usize::from(lane);
        match change {
            Change::Begin if self.is(Mutant::EnqueueWithoutLaneLock) => {
                self.one(n, false, "enqueue: looks what waits, inserts, lane not locked", |next| {
                    next.insert(n, lane, task, None);
                    next.set_change(n, Change::Written);
                })
            }
            Change::Begin | Change::Read { .. } => {
                if let Some(holder) = self.sql.held_by_other(n, Row::Lane(at)) {
                    return Can::Waits(holder);
                }
                self.one(n, false, "enqueue: locks the lane", |next| {
                    next.sql.lock(n, Row::Lane(at));
                    next.set_change(n, Change::Locked { waits: false });
                })
            }
            Change::Locked { .. } => {
                self.one(n, true, "enqueue: inserts what does not wait already, commits", |next| {
                    next.insert(n, lane, task, None);
                    next.recompute(n, at);
                    next.commit(n);
                    next.set_change(n, Change::Done);
                })
            }
            Change::Written | Change::Computed { .. } => self.lane_after_task(n, at, change),
            Change::Done => Can::Nothing,
        }
    }

    fn set_fire(&mut self, n: usize, to: Fire) {
        if let Actor::Beat { at, fires, .. } = &mut self.actors[n] {
            *fires -= u8::from(to == Fire::Idle);
            *at = to;
        }
    }

    /// `schedules::fire_due`, one schedule of lane 0.
    fn beat_can(&self, n: usize, task: u8, fires: u8, at: Fire) -> Can {
        match at {
            Fire::Idle if fires == 0 => Can::Nothing,
            Fire::Idle => {
                let fire = self.sql.snapshot(n).next_at;
                let unlocked = self.is(Mutant::FireWithoutLockAndIndex);
                if fire > self.rules.due || (!unlocked && self.sql.held_by_other(n, Row::Schedule).is_some()) {
                    return Can::Nothing;
                }
                self.one(n, false, "beat: locks the schedule that is due, moves it on", |next| {
                    if !unlocked {
                        next.sql.change(n, Row::Schedule, |seen| seen.next_at = fire + 1);
                    }
                    next.set_fire(n, Fire::Due { fire });
                })
            }
            Fire::Due { fire } => {
                if let Some(holder) = self.sql.held_by_other(n, Row::Lane(0)) {
                    return Can::Waits(holder);
                }
                self.one(n, false, "beat: locks the lane", |next| {
                    next.sql.lock(n, Row::Lane(0));
                    next.set_fire(n, Fire::Locked { fire });
                })
            }
            Fire::Locked { fire } => {
                if let Some(holder) = self.sql.held_by_other(n, Row::Schedule) {
                    return Can::Waits(holder);
                }
                self.one(n, true, "beat: makes the task, commits", |next| {
                    next.sql.change(n, Row::Schedule, |seen| seen.next_at = seen.next_at.max(fire + 1));
                    next.insert(n, 0, task + fire, Some(fire));
                    next.recompute(n, 0);
                    next.commit(n);
                    next.set_fire(n, Fire::Idle);
                })
            }
        }
    }

    /// Deaths, restarts, beats, and time.
    fn world_can(&self) -> Vec<Step<World>> {
        let mut steps = Vec::new();
        for n in 0..self.actors.len() {
            let Actor::Worker { boot, work, has_beaten, claims, pages } = self.actors[n] else { continue };
            if work == Work::Dead {
                // Under a new boot id.
                if usize::from(boot) + 2 < self.sql.committed.workers.len() && !self.rules.timed {
                    steps.push(self.then(n, true, "starts again", |next| {
                        next.actors[n] =
                            Actor::Worker { boot: boot + 2, claims, pages, has_beaten: false, work: Work::Idle };
                        next.sql.change(n, Row::Worker(usize::from(boot + 2)), |seen| {
                            seen.workers[usize::from(boot + 2)].registered = true;
                        });
                        next.commit(n);
                    }));
                }
                continue;
            }
            if self.crashes > 0 && work != Work::Idle {
                steps.push(self.then(n, true, "dies", |next| {
                    next.sql.rollback(n);
                    next.crashes -= 1;
                    next.set_work(n, Work::Dead);
                }));
            }
            let row = Row::Worker(usize::from(boot));
            if self.rules.timed && !has_beaten && self.sql.held_by_other(n, row).is_none() {
                steps.push(self.then(n, true, "shows that it lives", |next| {
                    let wall = next.wall();
                    // Another session of the process; alone in its transaction.
                    let worker = &mut next.sql.committed.workers[usize::from(boot)];
                    (worker.beat_seq, worker.last_beat_at) = (worker.beat_seq + 1, wall);
                    if let Actor::Worker { has_beaten, .. } = &mut next.actors[n] {
                        *has_beaten = true;
                    }
                }));
            }
        }
        if self.rules.timed {
            let time = self.actors.len();
            let all_beat = self.actors.iter().all(|actor| match actor {
                Actor::Worker { has_beaten, work, .. } => *has_beaten || *work == Work::Dead,
                _ => true,
            });
            if all_beat && self.tick < 2 * TTL + 1 {
                steps.push(self.then(time, true, "a tick passes", |next| {
                    next.tick += 1;
                    for actor in &mut next.actors {
                        if let Actor::Worker { has_beaten, .. } = actor {
                            *has_beaten = false;
                        }
                    }
                }));
            }
            if !self.jumped {
                steps.push(self.then(time, true, "the wall clock jumps ahead", |next| next.jumped = true));
            }
        }
        steps
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

impl World {
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

/// What a commit broke: the invariants of ARCHITECTURE.md as far as these tables show them.
fn broken(before: &Tables, after: &Tables) -> Option<&'static str> {
    for task in 0..TASKS {
        let (old, new) = (&before.tasks[task], &after.tasks[task]);
        if old.status.is_terminal() && old != new {
            return Some("an ended task changes");
        }
        if new.crashes > POISON_AFTER || (new.crashes == POISON_AFTER && !new.status.is_terminal()) {
            return Some("a task outlives the deaths that make it poison");
        }
        if new.attempt > MAX_ATTEMPTS || (new.attempt == MAX_ATTEMPTS && !new.status.is_terminal()) {
            return Some("a task is tried beyond its last attempt");
        }
        let same_fire = |other: &usize| after.tasks[*other].fire == new.fire;
        if new.fire.is_some() && (0..TASKS).filter(same_fire).count() > 1 {
            return Some("one fire makes two tasks");
        }
    }
    for lane in 0..LANES {
        let (old, row) = (&before.lanes[lane], &after.lanes[lane]);
        let running: Vec<usize> = after.running(lane).collect();
        if running.len() > 1 {
            return Some("two tasks of a lane run");
        }
        if row.epoch < old.epoch {
            return Some("an epoch goes back");
        }
        match (row.lease, running.first()) {
            (None, None) => {}
            (Some((_, leased)), Some(task)) => {
                if usize::from(leased) != *task || after.tasks[*task].epoch != Some(row.epoch) {
                    return Some("a lane is leased to another task than runs");
                }
            }
            (Some(_), None) => return Some("a lane is leased to a task that does not run"),
            (None, Some(_)) => return Some("a task runs without a lease"),
        }
        let untried = |by_hand: bool| {
            let is = |task: &usize| {
                let row = &after.tasks[*task];
                waits_in(after, *task, lane) && !row.started && row.fire.is_none() == by_hand
            };
            (0..TASKS).filter(is).count()
        };
        if untried(true) > 1 || untried(false) > 1 {
            return Some("two equal tasks wait in a lane");
        }
        if row.lease.is_none() && row.ready != after.first_pending(lane).is_some() {
            return match row.ready {
                true => Some("an empty lane is said to be ready"),
                false => Some("a lane is idle for ever although a task waits"),
            };
        }
    }
    None
}

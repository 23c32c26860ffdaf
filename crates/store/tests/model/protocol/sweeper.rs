//! A sweeper: it watches heartbeats, declares workers dead and takes their lanes back.

use super::actor::{Actor, Sweep, Work};
use super::{Can, Mutant, POISON_AFTER, TTL, World, small};
use crate::sql::{LANES, Row, Status};

impl World {
    fn set_sweep(&mut self, n: usize, to: Sweep) {
        if let Actor::Sweeper { sweep, .. } = &mut self.actors[n] {
            *sweep = to;
        }
    }

    pub(super) fn sweeper_can(&self, n: usize) -> Can {
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
}

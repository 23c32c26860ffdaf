//! What happens to the processes: deaths, restarts, heartbeats, and time.

use super::actor::{Actor, Work};
use super::{TTL, World};
use crate::explore::Step;
use crate::sql::Row;

impl World {
    pub(super) fn world_can(&self) -> Vec<Step<World>> {
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
}

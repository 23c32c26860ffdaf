//! A beat: it fires what is due.

use super::actor::{Actor, Fire};
use super::{Can, Mutant, World};
use crate::sql::Row;

impl World {
    fn set_fire(&mut self, n: usize, to: Fire) {
        if let Actor::Beat { at, fires, .. } = &mut self.actors[n] {
            *fires -= u8::from(to == Fire::Idle);
            *at = to;
        }
    }

    /// `schedules::fire_due`, one schedule of lane 0.
    pub(super) fn beat_can(&self, n: usize, task: u8, fires: u8, at: Fire) -> Can {
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
}

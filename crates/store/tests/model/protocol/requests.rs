//! What somebody asks for: to cancel a task, to run one.

use super::actor::{Actor, Change};
use super::{Can, Mutant, World, waits_in};
use crate::sql::{Row, Status, TASKS};

impl World {
    fn set_change(&mut self, n: usize, to: Change) {
        if let Actor::Canceller { change, .. } | Actor::Enqueuer { change, .. } = &mut self.actors[n] {
            *change = to;
        }
    }

    /// `tasks::cancel`.
    pub(super) fn canceller_can(&self, n: usize, task: usize, change: Change) -> Can {
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
    pub(super) fn insert(&mut self, n: usize, lane: u8, task: u8, fire: Option<u8>) {
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
    pub(super) fn enqueuer_can(&self, n: usize, lane: u8, task: u8, change: Change) -> Can {
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
}

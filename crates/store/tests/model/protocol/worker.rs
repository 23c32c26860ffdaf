//! A slot of a worker: it claims, commits pages, and ends its task.

use super::actor::{Actor, End, Lease, Work};
use super::{Can, MAX_ATTEMPTS, Mutant, World, holds, waits_in};
use crate::sql::{Row, Status, TASKS};

impl World {
    pub(super) fn set_work(&mut self, n: usize, to: Work) {
        if let Actor::Worker { work, claims, .. } = &mut self.actors[n] {
            // A claim is used up by what it leads to.
            *claims -= u8::from(to == Work::Idle && *work != Work::Idle);
            *work = to;
        }
    }

    pub(super) fn worker_can(&self, n: usize) -> Can {
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
}

//! A claim: `LOCK_FREE`, `hosts::room`, `PICK`, `LEASE`, `START`.

use super::actor::{Lease, Work};
use super::{Can, Mutant, World, small};
use crate::sql::{LANES, Row, Status};

impl World {
    /// `LOCK_FREE`, the snapshot it begins with.
    pub(super) fn begin_claim(&self, n: usize) -> Can {
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
    pub(super) fn lock_lane(
        &self,
        n: usize,
        boot: u8,
        pages: u8,
        free: [bool; LANES],
        waiting: [Option<u8>; LANES],
    ) -> Can {
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
    pub(super) fn lock_host(&self, n: usize, lane: usize, counted: Option<u8>) -> Can {
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
    pub(super) fn lease(&self, n: usize, boot: u8, pages: u8, lane: usize, task: usize) -> Can {
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
}

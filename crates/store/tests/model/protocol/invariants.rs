//! What must hold after every commit.

use super::{MAX_ATTEMPTS, POISON_AFTER, waits_in};
use crate::sql::{LANES, TASKS, Tables};

/// What a commit broke: the invariants of ARCHITECTURE.md as far as these tables show them.
pub(super) fn broken(before: &Tables, after: &Tables) -> Option<&'static str> {
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

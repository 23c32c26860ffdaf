//! Whether there is room to write. A full disk is a state: it is noticed early, shown, and left by itself.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Room that must be there to go on: what a page and its write-ahead log need many times over.
const MARGIN: u64 = 16 << 20;
/// A server whose disk was full is tried again after the first time, and ever later up to the second while it still is; how
/// much room it has nobody tells us.
const SERVER_PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// The state.
#[derive(Debug, Default)]
pub(super) struct Room {
    is_full: AtomicBool,
    /// Bytes that the database may have; 0 means as many as the disk has.
    quota: AtomicU64,
    /// The same in pages.
    pages: AtomicU64,
    refused: Mutex<Option<Refusal>>,
}

/// The last time that a write was refused.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    at: Instant,
    /// Until it is tried again.
    pause: Duration,
}

impl Refusal {
    /// One more, after `last`: another try after a pause that met a full disk again makes the next pause longer.
    fn after(last: Option<Self>, at: Instant, was_full: bool) -> Self {
        let pause = match last {
            Some(last) if was_full => last.pause,
            Some(last) if at.duration_since(last.at) < last.pause * 2 => (last.pause * 2).min(SERVER_PAUSES.1),
            _ => SERVER_PAUSES.0,
        };
        Self { at, pause }
    }
}

impl Room {
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// A write was refused for want of room.
    pub(super) fn refused(&self) {
        {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            *refused = Some(Refusal::after(*refused, Instant::now(), self.is_full()));
        }
        self.set(true);
    }

    pub(super) fn limit(&self, bytes: u64, pages: u64) {
        self.quota.store(bytes, Ordering::Relaxed);
        self.pages.store(pages, Ordering::Relaxed);
    }

    /// Pages that the database may have, if it has a quota.
    pub(super) fn pages(&self) -> Option<u64> {
        Some(self.pages.load(Ordering::Relaxed)).filter(|pages| *pages > 0)
    }

    /// Judges by what can be measured: bytes of the file, bytes of it that are free for reuse, and the disk around it.
    pub(super) fn judge(&self, file: &Path, used: u64, reusable: u64) {
        let on_disk = rustix::fs::statvfs(file).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let quota = self.quota.load(Ordering::Relaxed);
        let (left, margin) = match quota {
            0 => (on_disk, MARGIN),
            quota => (on_disk.min(quota.saturating_sub(used)), MARGIN.min(quota / 8)),
        };
        let room = left.saturating_add(reusable);
        // Two marks, so that it does not go to and fro at one.
        if room < margin / 2 {
            self.set(true);
        } else if room >= margin {
            self.set(false);
        }
    }

    /// Where nothing can be measured time must do.
    pub(super) fn forgive(&self) {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.is_none_or(|refusal| refusal.at.elapsed() >= refusal.pause) {
            self.set(false);
        }
    }

    fn set(&self, is_full: bool) {
        if self.is_full.swap(is_full, Ordering::Relaxed) == is_full {
            return;
        }
        if is_full {
            tracing::error!("no room to write: new work waits until there is; what is stored is safe");
        } else {
            tracing::info!("there is room to write again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_full_near_its_end_and_free_again_when_pages_can_be_used_again() {
        let (room, here) = (Room::default(), Path::new("."));
        room.limit(8 << 20, 2048);
        room.judge(here, 1 << 20, 0);
        assert!(!room.is_full());
        room.judge(here, (8 << 20) - 1000, 0);
        assert!(room.is_full());
        // Between the marks it stays as it is.
        room.judge(here, (8 << 20) - 1000, 700 << 10);
        assert!(room.is_full());
        room.judge(here, (8 << 20) - 1000, 1 << 20);
        assert!(!room.is_full());
    }

    #[test]
    fn a_server_that_stays_full_is_tried_ever_later_and_soon_again_after_a_good_time() {
        let begun = Instant::now();
        let at = |secs| begun + Duration::from_secs(secs);
        let first = Refusal::after(None, at(0), false);
        // What else is refused before the pause is over makes it no longer.
        let beside = Refusal::after(Some(first), at(1), true);
        let pauses: Vec<u64> = std::iter::successors(Some(beside), |last| {
            Some(Refusal::after(Some(*last), last.at + last.pause + Duration::from_secs(1), false))
        })
        .map(|refusal| refusal.pause.as_secs())
        .take(7)
        .collect();
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(Refusal::after(Some(beside), at(3600), false).pause, SERVER_PAUSES.0);
    }

    #[test]
    fn a_refused_write_is_full_until_something_says_otherwise() {
        let room = Room::default();
        room.refused();
        room.forgive();
        assert!(room.is_full());
    }
}

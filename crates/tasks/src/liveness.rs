//! Whether this process may still believe in its leases: it may as long as it committed a heartbeat lately.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two heartbeats of a process.
pub const BEAT_EVERY: Duration = Duration::from_secs(2);
/// Without a committed heartbeat for so long, a process stops believing in its leases.
pub const SELF_FENCE_AFTER: Duration = Duration::from_secs(4);
/// A worker whose heartbeat counter stands still for so long, by the observer's own clock, is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(6);

/// The last committed heartbeat of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(Option<Arc<Beats>>);

#[derive(Debug)]
struct Beats {
    since: Instant,
    last_millis: AtomicU64,
    fence_after: Duration,
}

impl Pulse {
    /// A pulse that starts now.
    pub(crate) fn start(fence_after: Duration) -> Self {
        Self(Some(Arc::new(Beats { since: Instant::now(), last_millis: AtomicU64::new(0), fence_after })))
    }

    /// A pulse that never goes stale.
    pub(crate) fn eternal() -> Self {
        Self(None)
    }

    /// A heartbeat has been committed that was begun at `begun`.
    pub(crate) fn beat(&self, begun: Instant) {
        if let Some(beats) = &self.0 {
            let millis = begun.saturating_duration_since(beats.since).as_millis();
            beats.last_millis.fetch_max(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }

    /// Whether the last committed heartbeat is young enough.
    pub(crate) fn is_fresh(&self) -> bool {
        let Some(beats) = &self.0 else { return true };
        let last = Duration::from_millis(beats.last_millis.load(Ordering::SeqCst));
        beats.since.elapsed().saturating_sub(last) < beats.fence_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_without_beats_goes_stale_and_a_beat_revives_it() {
        let pulse = Pulse::start(Duration::ZERO);
        assert!(!pulse.is_fresh());
        let pulse = Pulse::start(Duration::from_secs(60));
        pulse.beat(Instant::now());
        assert!(pulse.is_fresh());
        assert!(Pulse::eternal().is_fresh());
    }
}

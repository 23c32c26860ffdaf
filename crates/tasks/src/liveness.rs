//! Whether this process may still believe in its leases: it may as long as it committed a heartbeat lately.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Between two heartbeats of a process.
pub const BEAT_EVERY: Duration = Duration::from_secs(2);
/// Without a committed heartbeat for so long, a process stops believing in its leases.
pub const SELF_FENCE_AFTER: Duration = Duration::from_secs(4);

/// Time since the machine started. Unlike `Instant` it goes on while the machine is suspended, so a process that was
/// away, stopped or asleep, sees at once how long.
pub(crate) fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither is ever negative.
    let (secs, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    Duration::new(secs, nanos)
}

/// The last committed heartbeat of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(Option<Arc<Beats>>);

#[derive(Debug)]
struct Beats {
    now: fn() -> Duration,
    last_millis: AtomicU64,
    fence_after: Duration,
}

impl Pulse {
    /// A pulse that starts now, by the clock `now`.
    pub(crate) fn start(fence_after: Duration, now: fn() -> Duration) -> Self {
        let pulse = Self(Some(Arc::new(Beats { now, last_millis: AtomicU64::new(0), fence_after })));
        pulse.beat(now());
        pulse
    }

    /// A pulse that never goes stale.
    pub(crate) fn eternal() -> Self {
        Self(None)
    }

    /// A heartbeat has been committed that was begun at `begun` of the pulse's clock.
    pub(crate) fn beat(&self, begun: Duration) {
        if let Some(beats) = &self.0 {
            beats.last_millis.fetch_max(u64::try_from(begun.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }

    /// Whether the last committed heartbeat is young enough.
    pub(crate) fn is_fresh(&self) -> bool {
        let Some(beats) = &self.0 else { return true };
        let last = Duration::from_millis(beats.last_millis.load(Ordering::SeqCst));
        (beats.now)().saturating_sub(last) < beats.fence_after
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static NOW: Mutex<Duration> = Mutex::new(Duration::from_secs(1000));

    fn now() -> Duration {
        *NOW.lock().expect("no test panics with it")
    }

    #[test]
    fn a_process_that_slept_longer_than_its_pulse_lasts_wakes_without_its_leases() {
        let pulse = Pulse::start(SELF_FENCE_AFTER, now);
        assert!(pulse.is_fresh());
        *NOW.lock().expect("no test panics with it") += SELF_FENCE_AFTER;
        assert!(!pulse.is_fresh());
        // Only a beat that begins after the sleep revives it.
        pulse.beat(now() - SELF_FENCE_AFTER);
        assert!(!pulse.is_fresh());
        pulse.beat(now());
        assert!(pulse.is_fresh());
        assert!(Pulse::eternal().is_fresh());
    }

    #[test]
    fn boot_time_goes_on() {
        let before = boot_time();
        std::thread::sleep(Duration::from_millis(2));
        assert!(before > Duration::ZERO && boot_time() > before);
    }
}

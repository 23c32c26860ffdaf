//! Trouble that lasts is told now and then, not each time it is met: a log line a second helps nobody.

use std::time::{Duration, Instant};

/// The same trouble is told so often.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What was told of one kind of trouble.
#[derive(Debug, Default)]
pub struct Complaint {
    told: Option<Instant>,
    kept_back: u64,
}

impl Complaint {
    /// The trouble was met at `now`. Returns whether to tell it, with the number of times that it was kept back.
    pub fn due(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now.duration_since(told) < AGAIN_AFTER) {
            self.kept_back += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.kept_back))
    }

    /// The trouble is not there (any more). Returns whether it was told: then its end is worth a line too.
    pub fn over(&mut self) -> bool {
        self.kept_back = 0;
        self.told.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lasting_trouble_is_told_twice_a_minute_and_its_end_once() {
        let (mut complaint, begun) = (Complaint::default(), Instant::now());
        let told: Vec<u64> =
            (0..600).filter_map(|tick| complaint.due(begun + Duration::from_millis(100) * tick)).collect();
        assert_eq!(told, [0, 299]);
        assert!(complaint.over());
        assert!(!complaint.over());
        assert_eq!(complaint.due(begun + Duration::from_secs(61)), Some(0));
    }
}

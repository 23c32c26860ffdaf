//! Waiting for what may heal by itself, such as a database that does not answer yet.

use std::time::{Duration, Instant};

use matome_model::complaint::Complaint;
use tracing::warn;

use crate::failure::{Exit, Failure};

/// Between two tries: so long at first, ever longer up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How one process waits.
#[derive(Debug)]
pub struct Patience {
    complaint: Complaint,
    pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { complaint: Complaint::default(), pause: RETRY.0 }
    }
}

impl Patience {
    /// Whether the same may succeed a little later.
    pub fn helps(failure: &Failure) -> bool {
        failure.exit == Exit::Unreachable
    }

    /// Waits until it is time for another try; the log is told now and then what for.
    pub async fn wait(&mut self, failure: &Failure) {
        if let Some(tries) = self.complaint.due(Instant::now()) {
            let why = failure.why.as_ref().map(|why| why.english.clone()).unwrap_or_default();
            let help = failure.help.as_ref().map(|help| help.english.clone()).unwrap_or_default();
            warn!(tries, why, help, "waiting: {}", failure.what.english);
        }
        tokio::time::sleep(self.pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        self.pause = (self.pause * 2).min(RETRY.1);
    }
}

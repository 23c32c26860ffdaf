//! How long work waited before it had a connection: what a pool that is too small costs, seen before anything fails.

use std::future::Future;
use std::time::Instant;

use super::Work;

/// Waits for a connection to `work`: `read` or `write`.
pub(super) async fn timed<T>(
    work: &'static str,
    connection: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let asked = Instant::now();
    let got = connection.await;
    waited(work, asked);
    got
}

/// `work` for the one writer of an embedded database, which tells how long it waited for its turn.
pub(super) fn until_begun<T: Send + 'static>(work: Work<T>) -> Work<T> {
    let asked = Instant::now();
    Box::new(move |conn| {
        waited("write", asked);
        work(conn)
    })
}

fn waited(work: &'static str, since: Instant) {
    metrics::histogram!("matome_db_wait_seconds", "work" => work).record(since.elapsed().as_secs_f64());
}

//! What is removed behind: data of deleted sources, rows of runs that nobody sees, free room of an embedded file. In small
//! batches, so that nothing else waits long.

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use matome_model::clock::Clock;
use matome_model::complaint::Complaint;
use matome_store::adoption::ids;
use matome_store::db::Db;
use matome_store::error::Result;
use matome_store::{aggregation_runs, aggregation_sources, data_sources, pushes, removals};
use tokio_util::sync::CancellationToken;

/// Rows of one transaction.
const BATCH: i64 = 500;
/// What one transaction that removes records should take: on SQLite everybody who writes waits for it.
const HELD: Duration = Duration::from_millis(12);
/// Between two looks when there was nothing to do.
const IDLE: Duration = Duration::from_secs(5);
/// Between two looks whether there is room to write.
const LOOK: Duration = Duration::from_secs(2);
/// Between two looks at the retention of sources.
const RETENTION_EVERY: Duration = Duration::from_secs(300);

/// Between two looks at the range of ids.
const IDS_EVERY: Duration = Duration::from_secs(3600);

/// Keeps house until `shutdown`.
pub async fn run(db: Db, clock: Clock, shutdown: CancellationToken) {
    // Retention of a large source takes its time, and the rest must not wait for it.
    tokio::join!(retain(&db, &clock, &shutdown), clear(&db, &clock, &shutdown), watch_ids(&db, &shutdown));
}

/// How many records are removed at a time, or pages of the file given back: as many as fit into [`HELD`] on this machine.
#[derive(Clone, Copy, Debug)]
struct Pace(i64);

impl Pace {
    const FEWEST: i64 = 50;
    const MOST: i64 = 5_000;

    /// After at most `self` of them took so long. One batch says little, the last one of a removal nothing: it may have had a
    /// single record. So it goes halfway, and up by an eighth at most.
    fn after(self, took: Duration) -> Self {
        let fits = HELD.as_micros().saturating_mul(u128::from(self.0.unsigned_abs())) / took.as_micros().max(1);
        let fits = i64::try_from(fits).unwrap_or(Self::MOST).min(self.0 + self.0 / 4);
        Self(i64::midpoint(self.0, fits).clamp(Self::FEWEST, Self::MOST))
    }
}

async fn clear(db: &Db, clock: &Clock, shutdown: &CancellationToken) {
    let mut looked = None::<Instant>;
    let (mut pace, mut space) = (Pace(BATCH), Pace(BATCH));
    let (mut unmeasured, mut stuck) = (Complaint::default(), Complaint::default());
    while !shutdown.is_cancelled() {
        if looked.is_none_or(|at| at.elapsed() >= LOOK) {
            looked = Some(Instant::now());
            if let Err(err) = db.look_for_room().await
                && let Some(kept_back) = unmeasured.due(Instant::now())
            {
                tracing::warn!(error = %err, kept_back, "how much room there is cannot be found out");
            }
        }
        let pause = match once(db, clock, &mut pace, &mut space).await {
            Ok(true) => Duration::from_millis(10),
            Ok(false) => IDLE,
            Err(err) => {
                if let Some(kept_back) = stuck.due(Instant::now()) {
                    tracing::warn!(error = %err, kept_back, "housekeeping could not go on");
                }
                IDLE
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Tells when half of the ids that an adopted database can give are used.
async fn watch_ids(db: &Db, shutdown: &CancellationToken) {
    let watched = async {
        loop {
            match ids_used(db).await {
                Ok(ranges) => {
                    for range in ranges {
                        metrics::gauge!("matome_database_id_used_ratio", "table" => range.table).set(range.used());
                        if range.is_scarce() {
                            tracing::warn!(
                                table = range.table,
                                "more than half of the ids that `{}` can have are used; run `matome migrate --widen-ids`",
                                range.table
                            );
                        }
                    }
                }
                Err(err) => tracing::warn!(error = %err, "how many ids are used cannot be found out"),
            }
            tokio::time::sleep(IDS_EVERY).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = watched => {}
    }
}

async fn ids_used(db: &Db) -> Result<Vec<ids::IdRange>> {
    ids::ranges(&mut db.read().await?.conn()).await
}

/// Removes what the retention of sources says.
async fn retain(db: &Db, clock: &Clock, shutdown: &CancellationToken) {
    let applied = async {
        loop {
            match matome_acquisition::apply_retention(db, clock.now()).await {
                Ok(0) => {}
                Ok(records) => tracing::info!(records, "retention removed {records} records"),
                Err(err) => tracing::warn!(error = %err, "retention could not go on"),
            }
            tokio::time::sleep(RETENTION_EVERY).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = applied => {}
    }
}

/// One batch of each kind; returns whether there may be more.
async fn once(db: &Db, clock: &Clock, pace: &mut Pace, space: &mut Pace) -> Result<bool> {
    // As pages of data: claims and heartbeats go first.
    let sources = db.write_page(|conn| data_sources::remove_deleted_batch(conn, BATCH).boxed()).await?;
    let aggregations = db.write(|conn| aggregation_sources::remove_deleted_batch(conn, BATCH).boxed()).await?;
    let now = clock.now();
    let rows = pace.0;
    let removed = db.write_page(move |conn| {
        async move {
            // Not counting what it waited for its turn.
            let began = Instant::now();
            let more = removals::remove_batch(conn, rows, now).await?;
            Ok((more, began.elapsed()))
        }
        .boxed()
    });
    let (records, took) = removed.await?;
    if records {
        *pace = pace.after(took);
    }
    let keys = db.write_page(move |conn| pushes::forget(conn, now, BATCH).boxed()).await?;
    // Found beside the writer, which has nothing to do most of the time.
    let leftover = aggregation_runs::leftover(&mut db.read().await?.conn()).await?;
    if let Some(leftover) = leftover {
        db.write(move |conn| async move { aggregation_runs::remove(conn, leftover, BATCH, now).await }.boxed()).await?;
    }
    // Last: what was removed is free now.
    let given_back = db.give_back(space.0).await?;
    if let Some(took) = given_back {
        *space = space.after(took);
    }
    Ok(sources || records || aggregations || keys > 0 || leftover.is_some() || given_back.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_becomes_as_large_as_fits_its_time() {
        let mut pace = Pace(BATCH);
        // A machine that removes ten records a millisecond.
        for _ in 0..20 {
            pace = pace.after(Duration::from_micros(pace.0.unsigned_abs() * 100));
        }
        assert!((119..=122).contains(&pace.0), "{pace:?}");
        assert_eq!(Pace(800).after(Duration::ZERO).0, 900);
        for _ in 0..20 {
            pace = pace.after(Duration::from_secs(1));
        }
        assert_eq!(pace.0, Pace::FEWEST);
    }
}

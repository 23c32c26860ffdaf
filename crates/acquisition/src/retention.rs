//! Retention: removes the records that a source's config no longer wants, the oldest first, a few at a time.

use matome_connector::{Retention, retention_of};
use matome_model::clock::Timestamp;
use matome_store::db::Db;
use matome_store::error::Result;
use matome_store::retention::{self, Old, Place};
use matome_store::source_bytes::{self, Counted};
use matome_store::{counters, removals};

/// Records that are looked at, and removed at most, in one transaction.
const BATCH: i64 = 500;

/// Applies the retention of every source once, as of `now`; returns how many records were removed. Between two
/// batches everybody else gets their turn.
///
/// # Errors
/// When the database refuses a statement or is gone; what was removed stays removed.
pub async fn apply_retention(db: &Db, now: Timestamp) -> Result<u64> {
    let sources = retention::sources(&mut db.read().await?.conn()).await?;
    let mut removed = 0;
    for source in sources {
        if let Some(limits) = retention_of(source.config.get()) {
            removed += apply(db, source.source_id, limits, now).await?;
        }
    }
    metrics::counter!("matome_retention_removed_records_total").increment(removed);
    Ok(removed)
}

async fn apply(db: &Db, source_id: i64, limits: Retention, now: Timestamp) -> Result<u64> {
    let before = limits.max_age.and_then(|age| now.checked_sub_signed(age));
    let most_bytes = match limits.max_bytes {
        Some(most) if count_bytes(db, source_id).await? => i64::try_from(most).ok(),
        _ => None,
    };
    let (mut place, mut removed) = (Place::start(), 0);
    loop {
        let (old, stored, bytes) = {
            let mut reader = db.read().await?;
            let mut conn = reader.conn();
            let old = retention::oldest(&mut conn, source_id, place, BATCH, most_bytes.is_some()).await?;
            let stored = counters::of_source(&mut conn, counters::ACQUIRED_DATA, source_id).await?;
            let bytes = if most_bytes.is_some() { source_bytes::total(&mut conn, source_id).await? } else { 0 };
            (old, stored, bytes)
        };
        let Some(last) = old.last() else { return Ok(removed) };
        place = last.place;
        let most = limits.max_records.and_then(|most| i64::try_from(most).ok()).unwrap_or(i64::MAX);
        let mut excess = stored.saturating_sub(most).max(0);
        let mut excess_bytes = bytes.saturating_sub(most_bytes.unwrap_or(i64::MAX)).max(0);
        let is_expired = |old: &Old| before.is_some_and(|before| old.place.acquired_at < before);
        let oldest_expired = is_expired(last);
        let mut ids = Vec::new();
        for old in &old {
            let is_too_much = excess > 0 || excess_bytes > 0;
            let goes = (is_expired(old) || is_too_much) && (old.is_superseded || !limits.keep_newest);
            if goes {
                ids.push(old.place.id);
                excess -= 1;
                excess_bytes -= old.bytes;
            }
        }
        if !ids.is_empty() {
            removed += db
                .write_page(move |conn| Box::pin(async move { removals::remove(conn, source_id, &ids).await }))
                .await?;
        }
        if excess <= 0 && excess_bytes <= 0 && !oldest_expired {
            return Ok(removed);
        }
        tokio::task::yield_now().await;
    }
}

/// Counts the bytes of the records that came since the last time; whether they are all counted now.
async fn count_bytes(db: &Db, source_id: i64) -> Result<bool> {
    let mut was_anew = false;
    loop {
        match source_bytes::count_next(db, source_id).await? {
            Counted::All => return Ok(true),
            Counted::Some => {}
            // Twice in a row is no accident of a removal: nothing is removed by a number that does not hold.
            Counted::Anew if was_anew => {
                tracing::warn!(
                    source.id = source_id,
                    "the bytes of source {source_id} cannot be counted: run `matome db check`"
                );
                return Ok(false);
            }
            Counted::Anew => was_anew = true,
        }
        tokio::task::yield_now().await;
    }
}

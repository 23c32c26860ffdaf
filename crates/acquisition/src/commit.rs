//! Committing a page: tried again while the database is away, and certain about what happened.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matome_store::acquired_data::{self, Committed, Page};
use matome_store::checkpoints;
use matome_store::db::Db;
use matome_store::error::StoreError;
use matome_tasks::trace;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// Waits between tries; the database is given about a quarter of a minute to come back.
const WAITS: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
    Duration::from_millis(4000),
    Duration::from_millis(8000),
];

/// Where a page turned out to be after a commit that was not confirmed.
enum Found {
    Committed,
    NotCommitted,
    Fenced,
}

/// Commits a page exactly once. When a commit is not confirmed, the checkpoint tells whether it happened.
///
/// # Errors
/// [`StoreError::Fenced`] when the lease is lost; else the last error after all tries, or at once when `stop`
/// is cancelled meanwhile.
pub(crate) async fn commit(db: &Db, page: Arc<Page>, stop: &CancellationToken) -> Result<Committed, StoreError> {
    let span = trace::page(page.records.len());
    commit_once(db, page, stop).instrument(span).await
}

async fn commit_once(db: &Db, page: Arc<Page>, stop: &CancellationToken) -> Result<Committed, StoreError> {
    // Left here by the transaction, for when only its commit fails to answer.
    let outcome: Arc<Mutex<Option<Committed>>> = Arc::default();
    let mut unconfirmed = false;
    let mut waits = WAITS.into_iter();
    loop {
        let (left, unit) = (outcome.clone(), page.clone());
        let result = db
            .write_page(move |conn| {
                Box::pin(async move {
                    let committed = acquired_data::commit_page(conn, &unit).await?;
                    *left.lock().unwrap_or_else(PoisonError::into_inner) = Some(committed.clone());
                    Ok(committed)
                })
            })
            .await;
        let err = match result {
            Ok(committed) => return Ok(committed),
            Err(err) => err,
        };
        unconfirmed |= matches!(err, StoreError::CommitUnknown(_));
        // While the first commit may still be under way, a second try runs into its rows or its checkpoint.
        let is_collision = matches!(err, StoreError::CheckpointMoved { .. } | StoreError::Unique { .. });
        let may_pass = err.is_transient() || unconfirmed && is_collision;
        if !may_pass {
            return Err(err);
        }
        let Some(wait) = waits.next() else { return Err(err) };
        tracing::warn!(
            source.id = page.checkpoint.key.source_id, task.id = page.task_id, error = %err,
            "a page could not be committed, trying again in {} ms", wait.as_millis()
        );
        tokio::select! {
            () = stop.cancelled() => return Err(err),
            () = tokio::time::sleep(wait) => {}
        }
        if unconfirmed {
            match find(db, &page).await {
                Ok(Found::Committed) => {
                    let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
                    return Ok(outcome.expect("a commit comes after the end of its transaction"));
                }
                Ok(Found::Fenced) => {
                    let (lane_id, lease_epoch) = (page.fence.lane_id, page.fence.lease_epoch);
                    return Err(StoreError::Fenced { lane_id, lease_epoch });
                }
                // The next try finds out whether the database is back.
                Ok(Found::NotCommitted) | Err(_) => {}
            }
        }
    }
}

async fn find(db: &Db, page: &Page) -> Result<Found, StoreError> {
    let mut reader = db.read().await?;
    let before = page.checkpoint.page_seq;
    Ok(match checkpoints::find(&mut reader.conn(), &page.checkpoint.key).await? {
        Some(checkpoint) if checkpoint.lease_epoch != page.fence.lease_epoch => Found::Fenced,
        Some(checkpoint) if checkpoint.page_seq == before + 1 => Found::Committed,
        Some(checkpoint) if checkpoint.page_seq == before => Found::NotCommitted,
        _ => Found::Fenced,
    })
}

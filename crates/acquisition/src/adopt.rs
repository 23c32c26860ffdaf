//! Before the first read of a source that the original application made: hash and identity of the records that are there.

use matome_model::canonical::{Canonicaliser, Limits};
use matome_model::record_key::RecordKey;
use matome_model::source::Dedupe;
use matome_store::acquired_data::renewal::StoredRow;
use matome_store::adoption::fill::{self, FillPage, Hashed, Pending};
use matome_tasks::{TaskContext, TaskError};

use crate::handler::{AcquisitionHandler, go_on, store_error};

/// Whose records are filled, and how they are told apart.
pub(crate) struct Fill {
    pub(crate) source_id: i64,
    pub(crate) config_rev: i64,
    pub(crate) dedupe: Dedupe,
    pub(crate) record_key: Option<RecordKey>,
    pub(crate) pending: Pending,
}

impl AcquisitionHandler {
    /// Fills all of them, page by page; a later attempt goes on behind the last page.
    pub(crate) async fn fill(&self, fill: Fill, ctx: &TaskContext) -> Result<(), TaskError> {
        let Fill { source_id, config_rev, dedupe, record_key, mut pending } = fill;
        let mut filled = 0;
        loop {
            go_on(ctx)?;
            let limit = i64::try_from(self.db.page_rows()).unwrap_or(i64::MAX);
            let records = {
                let mut reader = self.db.read().await?;
                fill::next(&mut reader.conn(), source_id, pending, limit, self.db.page_bytes()).await?
            };
            filled += records.len();
            // Behind the last record there is nothing: those that were to come were removed.
            let done_id = records.last().map_or(pending.up_to_id, |last| last.id);
            let key = record_key.clone();
            let records = tokio::task::spawn_blocking(move || hashed(records, key.as_ref())).await.map_err(|err| {
                let mut failed = TaskError::panicked();
                failed.causes = matome_model::field_error::chain(Some(&err));
                failed
            })?;
            let (fence, now) = (ctx.fence, self.clock.now());
            let page = FillPage { fence, source_id, config_rev, dedupe, records, done_id, now };
            self.db
                .write_page(move |conn| Box::pin(async move { fill::commit(conn, &page).await }))
                .await
                .map_err(|err| store_error(err, ctx))?;
            pending.done_id = done_id;
            if done_id >= pending.up_to_id {
                tracing::info!(
                    source.id = source_id,
                    records = filled,
                    "hashed {filled} adopted records of source {source_id}"
                );
                return Ok(());
            }
        }
    }
}

fn hashed(records: Vec<StoredRow>, key: Option<&RecordKey>) -> Vec<Hashed> {
    // What is stored stays, whatever a reader would say of its size.
    let mut canonicaliser = Canonicaliser::new(Limits::NONE);
    let each = |StoredRow { id, raw_data, data_hash: found_hash, .. }| {
        let Ok(canonical) = canonicaliser.canonicalise(raw_data.get().as_bytes()) else {
            return Hashed { id, hash: None, key: None, found_hash };
        };
        let key = key.and_then(|key| key.identity(canonical.text).ok());
        Hashed { id, hash: Some(canonical.hash), key, found_hash }
    };
    records.into_iter().map(each).collect()
}

//! Records that come back from the quarantine: read from the inbox through the same canonical form, checks and page
//! transaction as those of a connector.

use std::sync::Arc;

use matome_connector::{Item, Position, RowReader};
use matome_model::canonical::{Canonicaliser, Limits};
use matome_model::record_key::RecordKey;
use matome_model::source::Dedupe;
use matome_model::validation::{Judge, Policy};
use matome_store::acquired_data::tombstones::Deletes;
use matome_store::acquired_data::{Page, PageCounts, Progress};
use matome_store::checkpoints::{self, Advance, CheckpointKey};
use matome_store::inbox::{self, Place, Taken, TakenRecord};
use matome_tasks::{TaskContext, TaskError};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::commit::commit;
use crate::counts::Counts;
use crate::handler::{AcquisitionHandler, go_on, store_error};
use crate::prepare::{Preparer, StoredSchema};
use crate::reread::{PutAside, read_again};

/// Which source stream is drained, and how its records are told apart and judged.
pub(crate) struct Drain {
    pub(crate) task_id: i64,
    pub(crate) key: CheckpointKey,
    pub(crate) config_rev: i64,
    pub(crate) dedupe: Dedupe,
    pub(crate) record_key: Option<RecordKey>,
    pub(crate) judge: Option<Judge>,
    pub(crate) schema: StoredSchema,
    /// What reads rows that could not be read.
    pub(crate) rows: Option<RowReader>,
}

impl AcquisitionHandler {
    /// Commits all that waits in the inbox of a source stream, page by page, and adds it to `counts`.
    pub(crate) async fn drain(&self, drain: Drain, ctx: &TaskContext, counts: &mut Counts) -> Result<(), TaskError> {
        let (fence, key, config_rev, now) = (ctx.fence, drain.key.clone(), drain.config_rev, self.clock.now());
        let held = self
            .db
            .write(move |conn| Box::pin(async move { checkpoints::hold(conn, &fence, &key, config_rev, now).await }))
            .await
            .map_err(|err| store_error(err, ctx))?;
        // A page cannot be refused here: it would come back for ever. What breaks the rules is held again.
        let judge = drain.judge.map(|judge| match judge.policy() {
            Policy::RejectBatch => judge.with_policy(Policy::Quarantine),
            Policy::Quarantine | Policy::Warn => judge,
        });
        let mut preparer =
            Preparer::new(drain.task_id, Limits::default(), drain.record_key, judge).measured_by(drain.schema);
        // Content that is stored is stored: there is no whole read in which to count equal rows.
        let dedupe = if drain.dedupe == Dedupe::Rows { Dedupe::Hash } else { drain.dedupe };
        let mut page_seq = held.page_seq;
        loop {
            go_on(ctx)?;
            let waiting = {
                let mut reader = self.db.read().await?;
                let (source_id, stream) = (drain.key.source_id, &drain.key.stream);
                inbox::next(&mut reader.conn(), source_id, stream, self.db.page_bytes()).await?
            };
            if waiting.is_empty() {
                return Ok(());
            }
            let mut prepared = preparer.begin(waiting.len(), 0);
            let mut taken = Vec::with_capacity(waiting.len());
            for record in waiting {
                let before = prepared.records.len();
                let put_aside = PutAside {
                    raw: record.raw,
                    reason: &record.reason,
                    position: &record.position,
                    is_kept: record.is_kept,
                };
                match read_again(drain.rows.as_ref(), put_aside) {
                    Item::Record { raw, position } => preparer
                        .record(&mut prepared, raw, position, Some(record.quarantine_id))
                        .map_err(|refused| crate::failure::from_refused(*refused))?,
                    rejected @ Item::Rejected { .. } => preparer.reject(&mut prepared, rejected),
                }
                let place = if prepared.records.len() > before {
                    Place::Record(before)
                } else {
                    Place::Quarantined(prepared.quarantined.len() - 1)
                };
                taken.push(TakenRecord { id: record.id, quarantine_id: record.quarantine_id, place });
            }
            preparer.end(&mut prepared);
            let (before, told) = (*counts, prepared.told);
            let after = move |page: PageCounts| {
                let mut counts = before;
                counts.add_replayed(page, told);
                counts.to_json()
            };
            // It takes a read of the source to know all of its fields.
            prepared.schema.settles = false;
            let page = Page {
                fence: ctx.fence,
                task_id: drain.task_id,
                acquired_at: self.clock.now(),
                dedupe,
                occurrences: None,
                keyed: None,
                records: prepared.records,
                quarantined: prepared.quarantined,
                checkpoint: Advance {
                    key: drain.key.clone(),
                    page_seq,
                    config_rev: held.config_rev,
                    state: held.state.get().to_owned(),
                    is_exact: false,
                    begins_anew: false,
                },
                ends_read: false,
                is_fetch: false,
                settles: None,
                progress: Some(Progress(Arc::new(after))),
                inbox: Some(Taken { records: taken, read_ended: held.read_ended }),
                pushes: None,
                schema: prepared.schema,
                deletes: Deletes::default(),
            };
            let committed = commit(&self.db, Arc::new(page), &ctx.stop).await.map_err(|err| store_error(err, ctx))?;
            page_seq += 1;
            counts.add_replayed(committed.counts, told);
        }
    }
}

/// Where a record in quarantine stood, as its row tells it, or one that is stored, as its metadata does.
pub(crate) fn position(told: &RawValue) -> Position {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Told {
        document: String,
        line: Option<u64>,
        record: u64,
        request: Option<u64>,
        headers: Option<Box<RawValue>>,
    }
    let Told { document, line, record, request, headers } = serde_json::from_str(told.get()).unwrap_or_default();
    let canonical = |headers: Box<RawValue>| {
        let mut canonicaliser = Canonicaliser::new(Limits::NONE);
        canonicaliser.canonicalise(headers.get().as_bytes()).ok().map(|headers| headers.text.into())
    };
    Position { document: document.into(), request, line, record, headers: headers.and_then(canonical) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_position_reads_back_whatever_the_database_made_of_it() {
        let told = RawValue::from_string(r#"{"line": 7, "document": "a.csv"}"#.to_owned()).unwrap();
        let expected = Position { document: "a.csv".into(), request: None, line: Some(7), record: 0, headers: None };
        assert_eq!(position(&told), expected);
        let told = RawValue::from_string(r#"{"record": 3, "request": 2, "document": "http://h/"}"#.to_owned()).unwrap();
        assert_eq!(position(&told).request, Some(2));
        let told =
            RawValue::from_string(r#"{"headers": {"b": "2", "a": "1"}, "document": "push 3"}"#.to_owned()).unwrap();
        assert_eq!(position(&told).headers.as_deref(), Some(r#"{"a":"1","b":"2"}"#));
        assert_eq!(&*position(&RawValue::from_string("{}".to_owned()).unwrap()).document, "");
    }
}

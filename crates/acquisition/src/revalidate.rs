//! Going through what is stored of a source, without a request: each record is judged by what its source says today, as if it
//! had just been read ([`matome_store::acquired_data::renewal`]). Then those that are held in quarantine are tried again.

use std::sync::Arc;

use matome_connector::{Item, Quality, RowReader};
use matome_model::canonical::{Canonicaliser, Limits};
use matome_model::clock::Timestamp;
use matome_model::drift::DriftPolicy;
use matome_model::record_key::RecordKey;
use matome_model::source::Dedupe;
use matome_model::validation::Policy;
use matome_store::acquired_data::renewal::{
    self, Content, Kept, Part, REVALIDATION, REVALIDATION_REPORT, RenewalCounts, RenewalPage, RenewalProgress,
    StoredRow,
};
use matome_store::checkpoints::{self, Advance, CheckpointKey};
use matome_store::quarantine::{self, BadRecord, Held};
use matome_store::retention::Place;
use matome_tasks::{TaskContext, TaskError};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use crate::counts::Counts;
use crate::drain::{Drain, position};
use crate::failure::from_refused;
use crate::handler::{AcquisitionHandler, go_on, judge, store_error};
use crate::prepare::{Preparer, Refused};
use crate::reread::{PutAside, read_again};

/// Whose records are looked at, and what they must be.
pub(crate) struct Revalidation {
    pub(crate) task_id: i64,
    /// That of ordinary reads.
    pub(crate) key: CheckpointKey,
    pub(crate) config_rev: i64,
    pub(crate) dedupe: Dedupe,
    pub(crate) record_key: Option<RecordKey>,
    pub(crate) quality: Quality,
    /// What reads rows that could not be read, and the values of those that were.
    pub(crate) rows: Option<RowReader>,
    /// Only what was acquired, or put aside, at this time or later.
    pub(crate) since: Option<Timestamp>,
    /// Whether what is found is done; else it is told.
    pub(crate) applies: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct State {
    version: u32,
    /// Records up to this id are done.
    record: i64,
    /// All of them are.
    are_records_done: bool,
    /// Records in quarantine up to this id are done.
    held: i64,
    /// Those behind this id were put aside meanwhile.
    held_up_to: i64,
}

impl State {
    /// Whether stored records are left.
    pub(crate) fn has_records(&self) -> bool {
        !self.are_records_done
    }

    /// Whether records in quarantine are left.
    pub(crate) fn has_held(&self) -> bool {
        self.held < self.held_up_to
    }
}

/// How far a task has come that goes through what is stored.
pub(crate) struct Course {
    pub(crate) key: CheckpointKey,
    pub(crate) state: State,
    /// No page of it is committed.
    pub(crate) is_new: bool,
    config_rev: i64,
    page_seq: i64,
}

impl Course {
    /// The step to the state behind a page.
    pub(crate) fn advance(&self, next: State) -> Advance {
        let state = to_raw_value(&next).expect("numbers are JSON").get().to_owned();
        let (key, page_seq, config_rev) = (self.key.clone(), self.page_seq, self.config_rev);
        Advance { key, page_seq, config_rev, state, is_exact: true, begins_anew: false }
    }

    /// That step is committed.
    pub(crate) fn move_to(&mut self, next: State) {
        self.state = next;
        self.page_seq += 1;
    }
}

/// What a page of stored records is made of.
pub(crate) struct Judged {
    pub(crate) kept: Vec<Kept>,
    pub(crate) rejected: Vec<(i64, BadRecord)>,
    pub(crate) warned: u64,
    /// The state behind it.
    pub(crate) next: State,
}

impl AcquisitionHandler {
    /// Goes through all of it, page by page; a later attempt goes on behind the last page.
    pub(crate) async fn revalidate(
        &self,
        what: &Revalidation,
        ctx: &TaskContext,
        counts: &mut Counts,
    ) -> Result<(), TaskError> {
        let mut course = self.course_of(what, ctx).await?;
        let mut preparer = self.preparer(what).await?;
        while course.state.has_records() {
            go_on(ctx)?;
            let (judged, back) = self.judged(what, &course, preparer).await?;
            preparer = back;
            self.renew(what, &mut course, judged, ctx, counts).await?;
        }
        while course.state.has_held() {
            go_on(ctx)?;
            let (fit, next, back) = self.fit(what, &course, preparer).await?;
            preparer = back;
            self.take_in(what, &mut course, fit, next, ctx, counts).await?;
        }
        Ok(())
    }

    /// Where a task begins, or goes on behind the last page of the attempt before.
    pub(crate) async fn course_of(&self, what: &Revalidation, ctx: &TaskContext) -> Result<Course, TaskError> {
        // It does not depend on what is read meanwhile.
        ctx.may_yield();
        let purpose = if what.applies { REVALIDATION } else { REVALIDATION_REPORT };
        let own = CheckpointKey { purpose: purpose.to_owned(), ..what.key.clone() };
        let (fence, key, now) = (ctx.fence, own.clone(), self.clock.now());
        let (task_id, config_rev) = (what.task_id, what.config_rev);
        let begin = self.db.write(move |conn| {
            Box::pin(async move { checkpoints::begin(conn, &fence, &key, task_id, config_rev, true, now).await })
        });
        let begun = begin.await.map_err(|err| store_error(err, ctx))?;
        let is_new = begun.state.get() == "{}";
        let state = match is_new {
            true => self.start_of(what).await?,
            false => serde_json::from_str(begun.state.get()).unwrap_or_default(),
        };
        Ok(Course { key: own, state, is_new, config_rev, page_seq: begun.page_seq })
    }

    async fn start_of(&self, what: &Revalidation) -> Result<State, TaskError> {
        let (source_id, stream) = (what.key.source_id, &what.key.stream);
        let mut reader = self.db.read().await?;
        let mut conn = reader.conn();
        let held_up_to = quarantine::highest(&mut conn, source_id, stream, since(what)).await?;
        let first = match what.since {
            None => None,
            Some(since) => Some(renewal::first_since(&mut conn, source_id, stream, since).await?),
        };
        let (record, are_records_done) = match first {
            None => (0, false),
            Some(Some(first)) => (first - 1, false),
            Some(None) => (0, true),
        };
        Ok(State { version: 1, record, are_records_done, held: 0, held_up_to })
    }

    /// What judges one record by itself. No schema is learned of what is stored: that it has taught already.
    pub(crate) async fn preparer(&self, what: &Revalidation) -> Result<Preparer, TaskError> {
        let judge = judge(&what.quality, what.dedupe).map(|judge| judge.of_single_records());
        // A report tells of all that would be refused, not of the first alone.
        let judge = judge.map(|judge| match judge.policy() {
            Policy::RejectBatch if !what.applies => judge.with_policy(Policy::Quarantine),
            _ => judge,
        });
        let preparer = Preparer::new(what.task_id, Limits::default(), what.record_key.clone(), judge);
        Ok(match what.quality.drift {
            DriftPolicy::AcceptNew => preparer,
            DriftPolicy::Freeze | DriftPolicy::Quarantine => {
                let schema = self.schema(&what.key, DriftPolicy::Quarantine).await?;
                if schema.settled { preparer.measured_by(schema) } else { preparer }
            }
        })
    }

    /// The next page of stored records.
    pub(crate) async fn judged(
        &self,
        what: &Revalidation,
        course: &Course,
        preparer: Preparer,
    ) -> Result<(Judged, Preparer), TaskError> {
        let (own, state) = (&course.key, course.state);
        let records = {
            let mut reader = self.db.read().await?;
            // Nobody stores anything of this stream while its lane is held: behind the last record there is nothing.
            let part = Part { source_id: own.source_id, stream: &own.stream, after: state.record, up_to: i64::MAX };
            let limit = i64::try_from(self.db.page_rows()).unwrap_or(i64::MAX);
            renewal::next(&mut reader.conn(), part, limit, self.db.page_bytes()).await?
        };
        let next = match records.last() {
            Some(last) => State { record: last.id, ..state },
            None => State { are_records_done: true, ..state },
        };
        let (key, rows) = (what.record_key.clone(), what.rows.clone());
        let work = move |preparer: &mut Preparer| judge_all(preparer, records, key.as_ref(), rows.as_ref(), next);
        let (judged, preparer) = off_threads(preparer, work).await?;
        Ok((judged.map_err(|refused| from_refused(*refused))?, preparer))
    }

    async fn renew(
        &self,
        what: &Revalidation,
        course: &mut Course,
        judged: Judged,
        ctx: &TaskContext,
        counts: &mut Counts,
    ) -> Result<(), TaskError> {
        let Judged { kept, rejected, warned, next } = judged;
        let (read, before) = ((kept.len() + rejected.len()) as u64, *counts);
        let progress = move |page: RenewalCounts| {
            let mut counts = before;
            counts.add_renewed(page, read, warned);
            counts.to_json()
        };
        let page = RenewalPage {
            fence: ctx.fence,
            task_id: what.task_id,
            dedupe: what.dedupe,
            checkpoint: course.advance(next),
            kept,
            rejected,
            now: self.clock.now(),
            progress: RenewalProgress(Arc::new(progress)),
        };
        let commit = self.db.write_page(move |conn| Box::pin(async move { renewal::commit(conn, &page).await }));
        counts.add_renewed(commit.await.map_err(|err| store_error(err, ctx))?, read, warned);
        course.move_to(next);
        Ok(())
    }

    /// The next records in quarantine that would be stored today, by id, and the state behind those that were looked at.
    pub(crate) async fn fit(
        &self,
        what: &Revalidation,
        course: &Course,
        preparer: Preparer,
    ) -> Result<(Vec<i64>, State, Preparer), TaskError> {
        let state = course.state;
        let held = {
            let mut reader = self.db.read().await?;
            let (of, between) = ((what.key.source_id, what.key.stream.as_str()), (state.held, state.held_up_to));
            let takes_rows = what.rows.is_some();
            quarantine::held(&mut reader.conn(), of, between, since(what), self.db.page_bytes(), takes_rows).await?
        };
        let next = State { held: held.last().map_or(state.held_up_to, |last| last.id), ..state };
        let rows = what.rows.clone();
        let (fit, preparer) = off_threads(preparer, move |preparer| fit(preparer, held, rows.as_ref())).await?;
        Ok((fit, next, preparer))
    }

    /// Brings them back through the inbox, as a replay by hand does; the others stay as they are.
    async fn take_in(
        &self,
        what: &Revalidation,
        course: &mut Course,
        fit: Vec<i64>,
        next: State,
        ctx: &TaskContext,
        counts: &mut Counts,
    ) -> Result<(), TaskError> {
        let (step, fence, task_id, now) = (course.advance(next), ctx.fence, what.task_id, self.clock.now());
        let is_any = !fit.is_empty();
        let take = self.db.write_page(move |conn| {
            Box::pin(async move { renewal::take_in(conn, &fence, task_id, &step, &fit, now).await })
        });
        take.await.map_err(|err| store_error(err, ctx))?;
        if is_any {
            let drain = Drain {
                task_id,
                key: what.key.clone(),
                config_rev: what.config_rev,
                dedupe: what.dedupe,
                record_key: what.record_key.clone(),
                judge: judge(&what.quality, what.dedupe),
                schema: self.schema(&what.key, drain_policy(what.quality.drift)).await?,
                rows: what.rows.clone(),
            };
            self.drain(drain, ctx, counts).await?;
        }
        course.move_to(next);
        Ok(())
    }
}

/// A page cannot be refused where it would come back for ever.
pub(crate) fn drain_policy(policy: DriftPolicy) -> DriftPolicy {
    match policy {
        DriftPolicy::Freeze => DriftPolicy::Quarantine,
        policy => policy,
    }
}

fn since(what: &Revalidation) -> Timestamp {
    what.since.unwrap_or(Place::start().acquired_at)
}

/// Work on many records, away from the async threads.
async fn off_threads<T: Send + 'static>(
    mut preparer: Preparer,
    work: impl FnOnce(&mut Preparer) -> T + Send + 'static,
) -> Result<(T, Preparer), TaskError> {
    let done = tokio::task::spawn_blocking(move || {
        let done = work(&mut preparer);
        (done, preparer)
    });
    done.await.map_err(|err| {
        let mut failed = TaskError::panicked();
        failed.causes = matome_model::field_error::chain(Some(&err));
        failed
    })
}

fn judge_all(
    preparer: &mut Preparer,
    records: Vec<StoredRow>,
    key: Option<&RecordKey>,
    rows: Option<&RowReader>,
    next: State,
) -> Result<Judged, Box<Refused>> {
    // What is stored stays what it is, whatever its size: for the bytes of a record that goes, and for tombstones.
    let mut canonicaliser = Canonicaliser::new(Limits::NONE);
    let mut judged = Judged { kept: Vec::with_capacity(records.len()), rejected: Vec::new(), warned: 0, next };
    for record in records {
        let StoredRow { id, raw_data, metadata, data_hash, key_hash, version, is_deleted } = record;
        let found = (data_hash, key_hash, version);
        let retyped = rows.map_or(Ok(None), |rows| rows.retype(raw_data.get()));
        if is_deleted {
            let retyped = retyped.ok().flatten();
            let raw = retyped.as_deref().unwrap_or(raw_data.get().as_bytes());
            let canonical = canonicaliser.canonicalise(raw).ok();
            let text = canonical.as_ref().filter(|_| retyped.is_some()).map(|canonical| canonical.text.to_owned());
            let key = canonical.and_then(|canonical| key.and_then(|key| key.identity(canonical.text).ok()));
            judged.kept.push(Kept { content: Content { id, hash: None, key, is_deleted }, text, found });
            continue;
        }
        let mut page = preparer.begin(1, 0);
        let (position, raw) = (position(&metadata), raw_data.get().as_bytes().to_vec());
        let is_retyped = matches!(retyped, Ok(Some(_)));
        match retyped {
            Ok(retyped) => preparer.record(&mut page, retyped.unwrap_or(raw), position, None)?,
            Err((reason, detail)) => {
                preparer.reject(&mut page, Item::Rejected { raw, reason, detail, position, fields: None });
            }
        }
        match page.quarantined.pop() {
            Some(mut bad) => {
                // As it came or nearly so: the database may have put spaces between.
                if let Ok(canonical) = canonicaliser.canonicalise(raw_data.get().as_bytes()) {
                    bad.raw = canonical.text.as_bytes().to_vec();
                    bad.raw_length = bad.raw.len() as u64;
                }
                bad.position = format!("{{\"acquired_data\":{id},{}", &bad.position[1..]);
                judged.rejected.push((id, bad));
            }
            None => {
                let record = page.records.get(0);
                let content = Content { id, hash: Some(*record.hash), key: record.key, is_deleted };
                let text = is_retyped.then(|| record.text.to_owned());
                judged.kept.push(Kept { content, text, found });
                judged.warned += page.told.warned;
            }
        }
    }
    Ok(judged)
}

/// The ids of those that would be stored.
fn fit(preparer: &mut Preparer, held: Vec<Held>, rows: Option<&RowReader>) -> Vec<i64> {
    let is_fit = |preparer: &mut Preparer, raw: Vec<u8>, held: &Held| {
        let put_aside = PutAside { raw, reason: &held.reason, position: &held.position, is_kept: true };
        let Item::Record { raw, position } = read_again(rows, put_aside) else { return false };
        let mut page = preparer.begin(1, 0);
        preparer.record(&mut page, raw, position, None).is_ok() && page.quarantined.is_empty()
    };
    let mut fit = Vec::new();
    for mut held in held {
        if let Some(raw) = held.raw.take()
            && is_fit(preparer, raw, &held)
        {
            fit.push(held.id);
        }
    }
    fit
}

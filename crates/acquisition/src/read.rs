//! One read of a source stream: from its checkpoint on it is fetched and committed page by page.

use std::sync::{Arc, Mutex, PoisonError};

use matome_connector::{Connector, ConnectorError, Quality, ReadRequest};
use matome_model::record_key::RecordKey;
use matome_model::source::{Dedupe, SourceType};
use matome_store::acquired_data::tombstones;
use matome_store::acquired_data::{KeyedRead, Occurrences, Page, PageCounts, Progress};
use matome_store::checkpoints::{self, Advance, Checkpoint, CheckpointKey};
use matome_store::data_sources::DataSource;
use matome_store::tasks::TaskRow;
use matome_tasks::{TaskContext, TaskError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::commit::commit;
use crate::counts::{Counts, Withheld};
use crate::failure::{from_connector, from_refused, too_many_bad};
use crate::fetch::{Fetched, Pages, fetch};
use crate::handler::{AcquisitionHandler, judge, stopped, store_error};
use crate::keeper::Keeper;
use crate::prepare::{Prepared, Preparer};
use crate::pushed;

/// One read of one source stream.
pub(crate) struct Read {
    pub(crate) task_id: i64,
    dedupe: Dedupe,
    record_key: Option<RecordKey>,
    pub(crate) key: CheckpointKey,
    config_rev: i64,
    /// Where the read began.
    pub(crate) begun: Checkpoint,
    occurrences: Option<Arc<Mutex<Occurrences>>>,
    keyed: Option<Arc<Mutex<KeyedRead>>>,
    /// What its records must be.
    quality: Quality,
    /// It has no end.
    is_stream: bool,
    /// Whether it reads what was sent.
    is_push: bool,
    /// Whether it goes on behind the last record that is committed.
    resumes_inside: bool,
    pub(crate) how: How,
    /// The source that has the secrets it is read with.
    pub(crate) secrets_of: i64,
}

/// What is special about a read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// It begins anew, whatever was read before.
    pub(crate) full: bool,
    /// It gives all that the source has, and the keys that it does not give are marked. Every attempt begins anew.
    pub(crate) is_whole: bool,
    /// That most of them are gone is no mistake.
    pub(crate) confirm_deletes: bool,
}

impl AcquisitionHandler {
    /// Takes the checkpoint, in the lease of this task.
    #[expect(clippy::too_many_arguments, reason = "what a read is made of")]
    pub(crate) async fn begin(
        &self,
        task: &TaskRow,
        ctx: &TaskContext,
        key: CheckpointKey,
        source: &DataSource,
        (dedupe, record_key): (Dedupe, Option<RecordKey>),
        quality: Quality,
        how: How,
    ) -> Result<Read, TaskError> {
        let (fence, task_id, config_rev, now) = (ctx.fence, task.id, source.config_rev, self.clock.now());
        // A stream has no end at which its versions could be settled: each of its pages is compared by itself.
        let is_stream = source.source_type == SourceType::Websocket;
        let (begun, occurrences, keyed) = loop {
            let of = key.clone();
            let begin = self.db.write(move |conn| {
                Box::pin(async move {
                    let begun = checkpoints::begin(conn, &fence, &of, task_id, config_rev, how.full, now).await?;
                    Ok(match dedupe {
                        Dedupe::Rows => {
                            let seen = Occurrences::begin(conn, &of, &begun).await?;
                            seen.map(|seen| (begun, Some(seen), None))
                        }
                        Dedupe::Key if !is_stream => {
                            let read = KeyedRead::begin(conn, &of, &begun).await?;
                            let read = read.map(|read| if how.is_whole { read.of_all() } else { read });
                            read.map(|read| (begun, None, Some(read)))
                        }
                        Dedupe::Key | Dedupe::Hash | Dedupe::None => Some((begun, None, None)),
                    })
                })
            });
            if let Some(all) = begin.await.map_err(|err| store_error(err, ctx))? {
                break all;
            }
        };
        let occurrences = occurrences.map(|occurrences| Arc::new(Mutex::new(occurrences)));
        let keyed = keyed.map(|keyed| Arc::new(Mutex::new(keyed)));
        let is_push = source.source_type == SourceType::Push;
        let secrets_of = source.id;
        // What is stored of a file stays its content when the read goes on. A page of an API is asked for again, and may be another one.
        let resumes_inside = match dedupe {
            Dedupe::None => true,
            Dedupe::Hash | Dedupe::Rows | Dedupe::Key => source.source_type == SourceType::File && !how.is_whole,
        };
        Ok(Read {
            task_id: task.id,
            dedupe,
            record_key,
            key,
            config_rev,
            begun,
            occurrences,
            keyed,
            quality,
            is_stream,
            is_push,
            resumes_inside,
            how,
            secrets_of,
        })
    }

    /// Fetches and commits page by page, the next one while the one before commits.
    pub(crate) async fn read(
        &self,
        connector: Box<dyn Connector>,
        read: Read,
        ctx: &TaskContext,
        counts: &mut Counts,
    ) -> Result<(), TaskError> {
        let (mut fetched, _fetching) = self.start(connector, &read, ctx, ctx.stop.child_token()).await?;
        let mut page_seq = read.begun.page_seq;
        loop {
            let next = tokio::select! {
                biased;
                () = ctx.stop.cancelled() => return Err(stopped(ctx)),
                next = fetched.recv() => next,
            };
            let (prepared, is_last) = match next {
                Some(Fetched::Page(prepared)) => (prepared, false),
                Some(Fetched::Last(prepared)) => (prepared, true),
                Some(Fetched::Failed(ConnectorError::Cancelled)) => return Err(stopped(ctx)),
                Some(Fetched::Failed(err)) => return Err(from_connector(&err)),
                Some(Fetched::Refused(refused)) => return Err(from_refused(*refused)),
                Some(Fetched::Ended) | None => return Err(from_connector(&ConnectorError::Broken)),
            };
            let waits = self.store(&read, ctx, prepared, page_seq, is_last, counts).await?;
            page_seq += 1;
            if is_last {
                if waits {
                    self.settle(read.task_id, &read.key, ctx, counts).await?;
                }
                return self.sweep(&read, ctx, counts).await;
            }
        }
    }

    /// Starts the fetching side of a read. It ends when what comes second is dropped.
    pub(crate) async fn start(
        &self,
        connector: Box<dyn Connector>,
        read: &Read,
        ctx: &TaskContext,
        cancel: CancellationToken,
    ) -> Result<(mpsc::Receiver<Fetched>, JoinSet<()>), TaskError> {
        // `rows` counts the equal rows of a whole read, so none of it may be passed over as read or unchanged, unless the connector
        // tells what it adds, or goes on exactly.
        let counts_equals = read.dedupe == Dedupe::Rows;
        let may_pass_over = !counts_equals || read.resumes_inside || connector.tells_additions();
        let goes_on = may_pass_over && read.begun.state.get() != "{}" && !read.how.is_whole;
        let judge = judge(&read.quality, read.dedupe);
        let schema = self.schema(&read.key, read.quality.drift).await?;
        let preparer = Preparer::new(read.task_id, self.limits, read.record_key.clone(), judge).measured_by(schema);
        let page = (self.db.page_rows(), self.db.page_bytes());
        let (sender, fetched) = mpsc::channel(1);
        let pages = Pages::new(sender, page, self.gathers && connector.may_be_gathered(), &preparer);
        let (max_items, max_bytes) = pages.batch();
        let request = ReadRequest {
            checkpoint: goes_on.then(|| read.begun.state.clone()),
            resume_inside: read.resumes_inside,
            counts_equals,
            compares_reads: matches!(read.dedupe, Dedupe::Rows | Dedupe::Key),
            max_items,
            max_bytes,
            cancel,
            keeper: Some(Arc::new(Keeper::new(self.db.clone(), self.vault.clone(), read.secrets_of))),
        };
        let mut fetching = JoinSet::new();
        let leased = ctx.clone();
        let fetching_side = fetch(connector, request, preparer, pages, move || leased.lease_valid());
        fetching.spawn(fetching_side.in_current_span());
        Ok((fetched, fetching))
    }

    /// Commits one page and counts it; whether records of the read wait for its end.
    pub(crate) async fn store(
        &self,
        read: &Read,
        ctx: &TaskContext,
        prepared: Prepared,
        page_seq: i64,
        is_last: bool,
        counts: &mut Counts,
    ) -> Result<bool, TaskError> {
        if !ctx.lease_valid() {
            return Err(stopped(ctx));
        }
        if let Some(occurrences) = &read.occurrences {
            let mut occurrences = occurrences.lock().unwrap_or_else(PoisonError::into_inner);
            if prepared.begins_anew {
                occurrences.begin_anew();
            }
            if prepared.is_addition {
                occurrences.see_all();
            }
        }
        if read.how.is_whole {
            counts.deletes_withheld = counts.deletes_withheld.or(Withheld::of(&prepared));
        }
        let told = prepared.told;
        let schema = prepared.schema.new.as_ref().map(|new| (new.version, new.changes.clone()));
        let page = Arc::new(self.page(read, ctx, prepared, page_seq, is_last, *counts));
        let timer = std::time::Instant::now();
        let committed = commit(&self.db, page, &ctx.stop).await.map_err(|err| store_error(err, ctx))?;
        metrics::histogram!("matome_acquisition_page_commit_seconds").record(timer.elapsed().as_secs_f64());
        let mut waits = false;
        if let Some(occurrences) = &read.occurrences {
            occurrences.lock().unwrap_or_else(PoisonError::into_inner).advance(committed.seen);
        } else if let Some(keyed) = &read.keyed {
            let mut keyed = keyed.lock().unwrap_or_else(PoisonError::into_inner);
            keyed.advance(committed.seen);
            waits = keyed.has_repeats();
        }
        counts.add(committed.counts, told);
        if let Some((version, changes)) = schema.filter(|(version, _)| *version > 1) {
            tracing::info!(
                source.id = read.key.source_id,
                schema.version = version,
                changes,
                "the schema of source {} is now version {version}",
                read.key.source_id
            );
            metrics::counter!("matome_source_schema_drift_total").increment(1);
        }
        if counts.exceed(read.quality.limit) {
            return Err(too_many_bad(counts.quarantined, counts.read));
        }
        Ok(waits)
    }

    fn page(
        &self,
        read: &Read,
        ctx: &TaskContext,
        prepared: Prepared,
        page_seq: i64,
        is_last: bool,
        before: Counts,
    ) -> Page {
        let told = prepared.told;
        let after = move |page: PageCounts| {
            let mut counts = before;
            counts.add(page, told);
            counts.to_json()
        };
        let pushes = read.is_push.then(|| pushed::progress(&prepared.checkpoint));
        Page {
            fence: ctx.fence,
            task_id: read.task_id,
            acquired_at: self.clock.now(),
            dedupe: read.dedupe,
            occurrences: read.occurrences.clone(),
            keyed: read.keyed.clone(),
            records: prepared.records,
            quarantined: prepared.quarantined,
            checkpoint: Advance {
                key: read.key.clone(),
                page_seq,
                config_rev: read.config_rev,
                state: prepared.checkpoint,
                // A whole read that is begun again is given all of it again; so is one that counts equal records, where no checkpoint
                // is handed over.
                is_exact: prepared.is_exact
                    && !read.how.is_whole
                    && (read.dedupe != Dedupe::Rows || read.resumes_inside),
                begins_anew: prepared.begins_anew,
            },
            ends_read: is_last,
            is_fetch: read.is_stream,
            settles: None,
            progress: Some(Progress(Arc::new(after))),
            inbox: None,
            pushes,
            schema: prepared.schema,
            deletes: tombstones::Deletes {
                begins_sweep: is_last && read.how.is_whole && before.deletes_withheld.is_none(),
                gone: Vec::new(),
            },
        }
    }
}

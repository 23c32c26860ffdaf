//! The handler of acquisition tasks.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_connector::{
    Connector, ConnectorError, Deletes, ParsedConfig, Quality, ReadRequest, ReadStats, Registry, validate_config,
};
use matome_model::canonical::Limits;
use matome_model::clock::{Clock, Timestamp};
use matome_model::drift::{DriftPolicy, Shape, Watch};
use matome_model::record_key::RecordKey;
use matome_model::say;
use matome_model::source::{Dedupe, HostUse, SourceType};
use matome_model::task::LaneKind;
use matome_model::validation::Judge;
use matome_store::acquired_data::tombstones;
use matome_store::acquired_data::{KeyedRead, Occurrences, Page, PageCounts, Progress, Records, SchemaStep};
use matome_store::adoption::fill::{self, Pending};
use matome_store::checkpoints::{self, Advance, Checkpoint, CheckpointKey, LIVE};
use matome_store::data_sources::{self, DataSource};
use matome_store::db::Db;
use matome_store::error::StoreError;
use matome_store::hosts;
use matome_store::inbox;
use matome_store::secrets::{self, Vault};
use matome_store::source_schemas;
use matome_store::tasks::TaskRow;
use matome_tasks::{Advice, ClaimedTask, Handler, StopReason, TaskContext, TaskError, TaskOutcome};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::adopt::Fill;
use crate::commit::commit;
use crate::counts::{Counts, Withheld, count_records};
use crate::drain::Drain;
use crate::failure::{from_connector, from_refused, too_many_bad};
use crate::keeper::Keeper;
use crate::prepare::{Prepared, Preparer, Refused, StoredSchema};
use crate::pushed::{self, PushConnector};
use crate::revalidate::{Revalidation, drain_policy};

/// Batches with fewer bytes are prepared where they are; the others leave the async threads alone.
const PREPARE_INLINE_BYTES: usize = 64 << 10;

/// Reads the source of a task and stores what is new.
pub struct AcquisitionHandler {
    pub(crate) db: Db,
    registry: Registry,
    vault: Vault,
    pub(crate) clock: Clock,
    limits: Limits,
}

/// What a task's payload may ask for; what it does not know, it leaves to others.
#[derive(Debug, Default, Deserialize)]
struct Options {
    /// Forget the checkpoint and read everything.
    #[serde(default)]
    full: bool,
    /// What is read, where it is not the source.
    #[serde(default)]
    only: Option<Only>,
    /// Of what is stored, only this and what is younger.
    #[serde(default)]
    since: Option<Timestamp>,
    /// That most keys of the source are gone is no mistake.
    #[serde(default)]
    confirm_deletes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Only {
    /// What waits in the inbox.
    Inbox,
    /// What is stored, to be judged again.
    Stored,
}

/// What the fetching side hands to the committing side.
pub(crate) enum Fetched {
    Page(Prepared),
    /// The last page, after which the source has no more.
    Last(Prepared),
    Failed(ConnectorError),
    /// A page of which nothing may be stored.
    Refused(Box<Refused>),
    /// A stream has ended; all its pages came before.
    Ended,
}

/// What a task begins with.
struct Loaded {
    source: DataSource,
    /// With the secrets in place.
    config: Box<RawValue>,
    /// Whether something waits in its inbox.
    is_waiting: bool,
    /// Records of the original application that have no identity yet.
    adopted: Option<Pending>,
}

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
    pub(crate) how: How,
}

/// What is special about a read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// It begins anew, whatever was read before.
    full: bool,
    /// It gives all that the source has, and the keys that it does not give are marked. Every attempt begins anew.
    is_whole: bool,
    /// That most of them are gone is no mistake.
    pub(crate) confirm_deletes: bool,
}

impl Handler for AcquisitionHandler {
    fn run(&self, task: ClaimedTask, ctx: TaskContext) -> BoxFuture<'_, Result<TaskOutcome, TaskError>> {
        let span = tracing::info_span!("acquisition.run", task.id = task.task.id, source.id = task.task.object_id);
        self.acquire(task.task, ctx).instrument(span).boxed()
    }
}

impl AcquisitionHandler {
    /// A handler that stores in `db` what the connectors of `registry` read; `vault` opens the secrets of
    /// their configs.
    pub fn new(db: Db, registry: Registry, vault: Vault, clock: Clock) -> Self {
        // They begin at zero: who watches them sees a rise only of what was there before.
        count_records(&Counts::default(), &Counts::default());
        Self { db, registry, vault, clock, limits: Limits::default() }
    }

    async fn acquire(&self, task: TaskRow, ctx: TaskContext) -> Result<TaskOutcome, TaskError> {
        let options: Options = serde_json::from_str(task.payload.get()).map_err(|err| {
            let what = ("the task's payload is not valid", "タスクの内容が正しくありません");
            TaskError::because(Advice::Fail, "payload", what, Some(&err))
        })?;
        let Loaded { source, config, is_waiting, adopted } = self.load(&task).await?;
        let config = validate_config(source.source_type, config.get())
            .map_err(|errors| from_connector(&ConnectorError::Config(errors)))?;
        let Some(common) = config.common() else { return Err(from_connector(&ConnectorError::Draft)) };
        let (dedupe, record_key, quality) = (common.dedupe, common.key.clone(), common.quality.clone());
        let is_whole = common.deletes == Deletes::Tombstone && config.gives_all(options.full);
        if let Some(deadline) = common.deadline {
            ctx.set_deadline(deadline);
        }
        if let Some(host) = config.host() {
            self.count_for(task.lane_id, source.id, host).await?;
        }
        let goes_on = config.goes_on();
        let is_push = matches!(config, ParsedConfig::Push(_));
        let connector: Box<dyn Connector> = match config {
            ParsedConfig::Push(config) => Box::new(PushConnector {
                db: self.db.clone(),
                source_id: source.id,
                stream: task.stream.clone(),
                config: *config,
            }),
            config => self.registry.connector(config).map_err(|err| from_connector(&err))?,
        };

        if let Some(pending) = adopted {
            let (source_id, config_rev, record_key) = (source.id, source.config_rev, record_key.clone());
            self.fill(Fill { source_id, config_rev, dedupe, record_key, pending }, &ctx).await?;
        }
        let started = std::time::Instant::now();
        let key = CheckpointKey { source_id: task.object_id, stream: task.stream.clone(), purpose: LIVE.to_owned() };
        // What the attempts before this one committed.
        let earlier: Counts =
            task.progress.as_ref().and_then(|counts| serde_json::from_str(counts.get()).ok()).unwrap_or_default();
        let mut counts = earlier;
        // Whatever the task is for: so what waits is read even when the task that was to read it is gone.
        if is_waiting {
            let drain = Drain {
                task_id: task.id,
                key: key.clone(),
                config_rev: source.config_rev,
                dedupe,
                record_key: record_key.clone(),
                judge: judge(&quality, dedupe),
                // A page cannot be refused here: it would come back for ever.
                schema: self.schema(&key, drain_policy(quality.drift)).await?,
            };
            let drained = self.drain(drain, &ctx, &mut counts).await;
            drained.map_err(|err| err.with_result(counts.to_json()))?;
        }
        if options.only == Some(Only::Inbox) {
            count_records(&earlier, &counts);
            return Ok(TaskOutcome::new(&counts));
        }
        if options.only == Some(Only::Stored) {
            let (task_id, config_rev, since) = (task.id, source.config_rev, options.since);
            let what = Revalidation { task_id, key, config_rev, dedupe, record_key, quality, since };
            let done = self.revalidate(&what, &ctx, &mut counts).await;
            count_records(&earlier, &counts);
            return done.map(|()| TaskOutcome::new(&counts)).map_err(|err| err.with_result(counts.to_json()));
        }
        self.settle_left(&task, &key, source.config_rev, &ctx, &mut counts).await?;
        let identity = (dedupe, record_key);
        let how = How { full: options.full, is_whole, confirm_deletes: options.confirm_deletes };
        let read = self.begin(&task, &ctx, key, &source, identity, quality, how).await?;
        // What was sent meanwhile waits for this task, however often it was begun.
        if read.begun.read_ended && !is_push {
            // One of them committed the last page and died before it could say so.
            self.sweep(&read, &ctx, &mut counts).await.map_err(|err| err.with_result(counts.to_json()))?;
            return Ok(TaskOutcome::new(&counts));
        }
        let result = if connector.is_stream() {
            self.listen(connector, read, &source, &task, &ctx, &mut counts).await
        } else {
            // Where another attempt starts where this one stops, to stop for another task of the lane loses nothing.
            if goes_on && !options.full && !is_whole {
                ctx.may_yield();
            }
            if is_whole {
                // An attempt before this one may have met what this one does not.
                counts.deletes_withheld = None;
            }
            self.read(connector, read, &ctx, &mut counts).await
        };
        count_records(&earlier, &counts);
        match result {
            Ok(()) => {
                let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(
                    source.id = task.object_id,
                    task.id = task.id,
                    records = counts.stored - earlier.stored,
                    duration_ms,
                    "stored {} records from source `{}`",
                    counts.stored - earlier.stored,
                    source.name
                );
                Ok(TaskOutcome::new(&counts))
            }
            Err(err) => Err(err.with_result(counts.to_json())),
        }
    }

    async fn load(&self, task: &TaskRow) -> Result<Loaded, TaskError> {
        let source_id = task.object_id;
        let mut reader = self.db.read().await?;
        let mut conn = reader.conn();
        let Some(source) = data_sources::find(&mut conn, source_id).await? else {
            return Err(TaskError::fail(
                "source_gone",
                say!("source {source_id} does not exist", "データソース {source_id} がありません"),
            ));
        };
        match secrets::reveal(&mut conn, &self.vault, LaneKind::Source, source_id, &source.config).await {
            Ok(config) => {
                let is_waiting = inbox::is_waiting(&mut conn, source_id, &task.stream).await?;
                let adopted = fill::pending(&mut conn, source_id).await?;
                Ok(Loaded { source, config, is_waiting, adopted })
            }
            Err(err @ StoreError::Secret { .. }) => Err(TaskError::from_store(Advice::Fail, "secret", &err)),
            Err(err) => Err(err.into()),
        }
    }

    /// Has the tasks of a source counted for its host, if they are not: a source that an earlier version saved names none.
    async fn count_for(&self, lane_id: i64, source_id: i64, host: HostUse) -> Result<(), TaskError> {
        let known = hosts::of_lane(&mut self.db.read().await?.conn(), lane_id).await?;
        if known.is_none() {
            let set = self.db.write(move |conn| {
                Box::pin(async move { hosts::set(conn, LaneKind::Source, source_id, Some(&host)).await })
            });
            set.await?;
        }
        Ok(())
    }

    /// The schema of a source stream as it stands; nobody but the task that holds the lane changes it.
    pub(crate) async fn schema(&self, key: &CheckpointKey, policy: DriftPolicy) -> Result<StoredSchema, TaskError> {
        let stored = {
            let mut reader = self.db.read().await?;
            source_schemas::current(&mut reader.conn(), key.source_id, &key.stream).await?
        };
        Ok(stored_schema(stored, policy))
    }

    /// Takes the checkpoint, in the lease of this task.
    #[expect(clippy::too_many_arguments, reason = "what a read is made of")]
    async fn begin(
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
                        Dedupe::Rows => Some((begun, Some(Occurrences::begin(conn, &of).await?), None)),
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
            how,
        })
    }

    /// Fetches and commits page by page, the next one while the one before commits.
    async fn read(
        &self,
        connector: Box<dyn Connector>,
        read: Read,
        ctx: &TaskContext,
        counts: &mut Counts,
    ) -> Result<(), TaskError> {
        // `rows` counts the equal rows of a whole read, so none of it may be passed over as read or unchanged.
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
        // tells what it adds.
        let counts_equals = read.dedupe == Dedupe::Rows;
        let goes_on =
            (!counts_equals || connector.tells_additions()) && read.begun.state.get() != "{}" && !read.how.is_whole;
        let request = ReadRequest {
            checkpoint: goes_on.then(|| read.begun.state.clone()),
            resume_inside: read.dedupe == Dedupe::None,
            counts_equals,
            max_items: self.db.page_rows(),
            max_bytes: self.db.page_bytes(),
            cancel,
            keeper: Some(Arc::new(Keeper::new(self.db.clone(), self.vault.clone(), read.key.source_id))),
        };
        let (sender, fetched) = mpsc::channel(1);
        let mut fetching = JoinSet::new();
        let judge = judge(&read.quality, read.dedupe);
        let schema = self.schema(&read.key, read.quality.drift).await?;
        let preparer = Preparer::new(read.task_id, self.limits, read.record_key.clone(), judge).measured_by(schema);
        fetching.spawn(fetch(connector, request, preparer, sender, ctx.clone()).in_current_span());
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
        if let Some(occurrences) = read.occurrences.as_ref().filter(|_| prepared.is_addition) {
            occurrences.lock().unwrap_or_else(PoisonError::into_inner).see_all();
        }
        if read.how.is_whole {
            counts.deletes_withheld = counts.deletes_withheld.or(Withheld::of(&prepared));
        }
        let (stats, warned) = (prepared.stats, prepared.warned);
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
        counts.add(committed.counts, stats, warned);
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
        let (stats, warned) = (prepared.stats, prepared.warned);
        let after = move |page: PageCounts| {
            let mut counts = before;
            counts.add(page, stats, warned);
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
                // A whole read that is begun again is given all of it again.
                is_exact: prepared.is_exact && !read.how.is_whole,
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

/// Reads and prepares pages until the source has no more. One page is held back until it is known whether
/// it is the last, so that the end of a read needs no transaction of its own.
async fn fetch(
    connector: Box<dyn Connector>,
    request: ReadRequest,
    mut preparer: Preparer,
    pages: mpsc::Sender<Fetched>,
    ctx: TaskContext,
) {
    let checkpoint = request.checkpoint.as_deref().map_or("{}", RawValue::get).to_owned();
    let is_stream = connector.is_stream();
    let mut held: Option<Prepared> = None;
    let mut reader = match connector.read(request).await {
        Ok(reader) => reader,
        Err(err) => {
            let _ = pages.send(Fetched::Failed(err)).await;
            return;
        }
    };
    // A closed channel means that nobody wants the rest.
    loop {
        // After a suspend this may be the first thing that runs: nothing more is asked of the source then.
        if !ctx.lease_valid() {
            return;
        }
        match reader.next().await {
            Ok(Some(batch)) => {
                let bytes: usize = batch.items.iter().map(|item| item.raw().len()).sum();
                let prepared = if bytes < PREPARE_INLINE_BYTES {
                    preparer.prepare(batch)
                } else {
                    let done = tokio::task::spawn_blocking(move || {
                        let prepared = preparer.prepare(batch);
                        (preparer, prepared)
                    });
                    let Ok((back, prepared)) = done.await else { return };
                    preparer = back;
                    prepared
                };
                let prepared = match prepared {
                    Ok(prepared) => prepared,
                    Err(refused) => {
                        if let Some(page) = held
                            && pages.send(Fetched::Page(page)).await.is_err()
                        {
                            return;
                        }
                        let _ = pages.send(Fetched::Refused(refused)).await;
                        return;
                    }
                };
                if is_stream {
                    // The next page may be long in coming.
                    if pages.send(Fetched::Page(prepared)).await.is_err() {
                        return;
                    }
                } else if let Some(page) = &mut held
                    && prepared.is_empty()
                {
                    // Only the checkpoint moved: it goes with the page before.
                    page.follow(prepared);
                } else if let Some(page) = held.replace(prepared)
                    && pages.send(Fetched::Page(page)).await.is_err()
                {
                    return;
                }
            }
            Ok(None) if is_stream => {
                let _ = pages.send(Fetched::Ended).await;
                return;
            }
            Ok(None) => {
                let empty = || Prepared {
                    records: Records::default(),
                    quarantined: Vec::new(),
                    checkpoint,
                    is_exact: false,
                    is_addition: false,
                    stats: ReadStats::default(),
                    warned: 0,
                    schema: SchemaStep::default(),
                };
                let _ = pages.send(Fetched::Last(held.unwrap_or_else(empty))).await;
                return;
            }
            Err(err) => {
                if let Some(page) = held
                    && pages.send(Fetched::Page(page)).await.is_err()
                {
                    return;
                }
                let _ = pages.send(Fetched::Failed(err)).await;
                return;
            }
        }
    }
}

/// A watch over what is stored. What cannot be read any more is learned anew.
pub(crate) fn stored_schema(stored: Option<source_schemas::SourceSchema>, policy: DriftPolicy) -> StoredSchema {
    let version = stored.as_ref().map_or(0, |stored| stored.version);
    let shape = stored.as_ref().and_then(|stored| Shape::from_json(stored.fields.get()).ok());
    let accepts = stored.as_ref().map_or(0, |stored| stored.accepts);
    let settled = shape.is_some() && stored.is_some_and(|stored| stored.settled);
    StoredSchema { watch: Watch::new(policy, shape.unwrap_or_default(), !settled), version, settled, accepts }
}

/// Judges the records of one read, if they have to be something.
pub(crate) fn judge(quality: &Quality, dedupe: Dedupe) -> Option<Judge> {
    // Where equal records are kept, a record that comes twice clashes with itself.
    let repeats_count = matches!(dedupe, Dedupe::Rows | Dedupe::None);
    quality.validation.clone().map(|validation| Judge::new(validation, repeats_count))
}

/// Between two pages: whether another one may be begun.
pub(crate) fn go_on(ctx: &TaskContext) -> Result<(), TaskError> {
    match ctx.stop_reason().is_some() || !ctx.lease_valid() {
        true => Err(stopped(ctx)),
        false => Ok(()),
    }
}

pub(crate) fn stopped(ctx: &TaskContext) -> TaskError {
    match ctx.stop_reason() {
        Some(StopReason::LeaseLost) => TaskError::lease_lost(),
        _ => TaskError::interrupted(),
    }
}

pub(crate) fn store_error(err: StoreError, ctx: &TaskContext) -> TaskError {
    match &err {
        // Somebody reset the source: what it says now is read by the next attempt, at once.
        StoreError::CheckpointMoved { .. } => TaskError::from_store(Advice::Interrupted, "reset", &err),
        _ if err.is_transient() && ctx.stop_reason().is_some() => stopped(ctx),
        _ => err.into(),
    }
}

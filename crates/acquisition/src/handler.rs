//! The handler of acquisition tasks: what a task is for, and what it begins with.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_connector::{Connector, ConnectorError, Deletes, ParsedConfig, Quality, Registry, validate_config};
use matome_model::canonical::Limits;
use matome_model::clock::{Clock, Timestamp};
use matome_model::drift::{DriftPolicy, Shape, Watch};
use matome_model::say;
use matome_model::source::{Dedupe, HostUse};
use matome_model::task::LaneKind;
use matome_model::validation::Judge;
use matome_store::adoption::fill::{self, Pending};
use matome_store::checkpoints::{CheckpointKey, LIVE};
use matome_store::data_sources::{self, DataSource};
use matome_store::db::Db;
use matome_store::error::StoreError;
use matome_store::hosts;
use matome_store::inbox;
use matome_store::secrets::Vault;
use matome_store::source_schemas;
use matome_store::tasks::TaskRow;
use matome_tasks::{Advice, ClaimedTask, Handler, StopReason, TaskContext, TaskError, TaskOutcome};
use serde::Deserialize;
use tracing::Instrument as _;

use crate::adopt::Fill;
use crate::counts::{Counts, count_records};
use crate::credentials::{RevealError, Revealed, reveal};
use crate::drain::Drain;
use crate::failure::from_connector;
use crate::prepare::StoredSchema;
use crate::pushed::PushConnector;
use crate::read::How;
use crate::report::Reported;
use crate::revalidate::{Revalidation, drain_policy};

/// Reads the source of a task and stores what is new.
pub struct AcquisitionHandler {
    pub(crate) db: Db,
    registry: Registry,
    pub(crate) vault: Vault,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    /// Short pages may be stored as one.
    pub(crate) gathers: bool,
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
    /// The same, only to tell what would become of it.
    Report,
}

/// What a task begins with.
struct Loaded {
    source: DataSource,
    config: Revealed,
    /// Whether something waits in its inbox.
    is_waiting: bool,
    /// Records of the original application that have no identity yet.
    adopted: Option<Pending>,
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
        Self { db, registry, vault, clock, limits: Limits::default(), gathers: true }
    }

    /// The same handler, which stores each page as the source gave it, however busy the database is: so that who breaks things on
    /// purpose knows how many commits there are.
    #[must_use]
    pub fn storing_pages_apart(self) -> Self {
        Self { gathers: false, ..self }
    }

    async fn acquire(&self, task: TaskRow, ctx: TaskContext) -> Result<TaskOutcome, TaskError> {
        let options: Options = serde_json::from_str(task.payload.get()).map_err(|err| {
            let what = ("the task's payload is not valid", "タスクの内容が正しくありません");
            TaskError::because(Advice::Fail, "payload", what, Some(&err))
        })?;
        let Loaded { source, config, is_waiting, adopted } = self.load(&task).await?;
        let Revealed { config, owner } = config;
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
        let rows = config.row_reader();
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
        let is_report = options.only == Some(Only::Report);
        // Whatever else the task is for: so what waits is read even when the task that was to read it is gone.
        if is_waiting && !is_report {
            let drain = Drain {
                task_id: task.id,
                key: key.clone(),
                config_rev: source.config_rev,
                dedupe,
                record_key: record_key.clone(),
                judge: judge(&quality, dedupe),
                // A page cannot be refused here: it would come back for ever.
                schema: self.schema(&key, drain_policy(quality.drift)).await?,
                rows: rows.clone(),
            };
            let drained = self.drain(drain, &ctx, &mut counts).await;
            drained.map_err(|err| err.with_result(counts.to_json()))?;
        }
        if options.only == Some(Only::Inbox) {
            count_records(&earlier, &counts);
            return Ok(TaskOutcome::new(&counts));
        }
        if is_report || options.only == Some(Only::Stored) {
            let (task_id, config_rev, since, applies) = (task.id, source.config_rev, options.since, !is_report);
            let what = Revalidation { task_id, key, config_rev, dedupe, record_key, quality, rows, since, applies };
            if is_report {
                let mut found = Reported::of_earlier(task.progress.as_deref());
                let done = self.report(&what, &ctx, &mut found).await;
                return done.map(|()| TaskOutcome::new(&found)).map_err(|err| err.with_result(found.to_json()));
            }
            let done = self.revalidate(&what, &ctx, &mut counts).await;
            count_records(&earlier, &counts);
            return done.map(|()| TaskOutcome::new(&counts)).map_err(|err| err.with_result(counts.to_json()));
        }
        self.settle_left(&task, &key, source.config_rev, &ctx, &mut counts).await?;
        let identity = (dedupe, record_key);
        let how = How { full: options.full, is_whole, confirm_deletes: options.confirm_deletes };
        let mut read = self.begin(&task, &ctx, key, &source, identity, quality, how).await?;
        read.secrets_of = owner;
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
        match reveal(&mut conn, &self.vault, &source).await {
            Ok(config) => {
                let is_waiting = inbox::is_waiting(&mut conn, source_id, &task.stream).await?;
                let adopted = fill::pending(&mut conn, source_id).await?;
                Ok(Loaded { source, config, is_waiting, adopted })
            }
            Err(RevealError::Credentials(words)) => Err(TaskError::fail("config", words)),
            Err(RevealError::Store(err @ StoreError::Secret { .. })) => {
                Err(TaskError::from_store(Advice::Fail, "secret", &err))
            }
            Err(RevealError::Store(err)) => Err(err.into()),
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

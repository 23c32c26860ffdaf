//! The handler of aggregation tasks: plan, spool, run, write, publish.
//!
//! Rows of a run are written in fenced pages that nobody sees; one last transaction makes the run current.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_model::canonical::{Canonicaliser, Rejected};
use matome_model::clock::Clock;
use matome_model::engine::Limits;
use matome_store::aggregated_data;
use matome_store::aggregation_sources;
use matome_store::db::Db;
use matome_tasks::{Advice, ClaimedTask, Handler, StopReason, TaskContext, TaskError, TaskOutcome};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tracing::Instrument as _;

use crate::config::AggregationConfig;
use crate::engine::{Engine, EngineError, RowStream};
use crate::inputs::{self, Input, InputError, Planned};

/// Computes an aggregation and publishes its rows.
#[derive(Debug)]
pub struct AggregationHandler {
    db: Db,
    engine: Engine,
    clock: Clock,
    /// Time comes from the aggregation's config, the rest from here.
    limits: Limits,
}

/// What a finished task says.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    rows: u64,
    run: i64,
    inputs: Vec<&'a Input>,
    elapsed_ms: u64,
}

/// Lineage of a row.
#[derive(Debug, Serialize)]
struct RowMetadata<'a> {
    run: i64,
    task: i64,
    inputs: Vec<&'a Input>,
}

/// Lineage of a run: an input with the schema that the engine saw.
#[derive(Debug, Serialize)]
struct Lineage<'a> {
    #[serde(flatten)]
    input: &'a Input,
    columns: &'a [(String, matome_model::inference::ColumnType)],
}

impl Handler for AggregationHandler {
    fn run(&self, task: ClaimedTask, ctx: TaskContext) -> BoxFuture<'_, Result<TaskOutcome, TaskError>> {
        let span = tracing::info_span!("aggregation.run", task.id = task.task.id, source.id = task.task.object_id);
        async move {
            tokio::select! {
                result = self.aggregate(&task, &ctx) => result,
                // Nothing is visible before the end, so there is no page to finish: dropping the run ends its child.
                () = ctx.stop.cancelled() => Err(TaskError::interrupted()),
            }
        }
        .instrument(span)
        .boxed()
    }
}

impl AggregationHandler {
    /// A handler that runs SQL in children of `engine`, within `limits`.
    pub fn new(db: Db, engine: Engine, clock: Clock, limits: Limits) -> Self {
        Self { db, engine, clock, limits }
    }

    async fn aggregate(&self, task: &ClaimedTask, ctx: &TaskContext) -> Result<TaskOutcome, TaskError> {
        let source_id = task.task.object_id;
        let config = self.config(source_id).await?;
        let sql = config
            .sql
            .as_deref()
            .ok_or_else(|| TaskError::fail("draft", "the aggregation is a draft: its config has no `sql`"))?;
        let limits = Limits { seconds: config.timeout_secs, ..self.limits };

        let (planned, mut rows) = start(&self.db, &self.engine, sql, limits, None).await?;
        let lineage = lineage(&planned, &rows);
        let run_id = self.begin(ctx, source_id, task.task.id, lineage).await?;
        let metadata = to_json(&RowMetadata { run: run_id, task: task.task.id, inputs: inputs_of(&planned) });
        let written = self.write_rows(ctx, source_id, run_id, &metadata, &mut rows).await?;

        let summary = rows.summary();
        let plan = summary.map(|summary| summary.plan.clone()).unwrap_or_default();
        let elapsed_ms = summary.map_or(0, |summary| summary.elapsed_ms);
        let lineage = self::lineage(&planned, &rows);
        let (fence, now) = (ctx.fence, self.clock.now());
        let row_count = i64::try_from(written).unwrap_or(i64::MAX);
        self.db
            .write(move |conn| {
                async move {
                    aggregated_data::publish(conn, &fence, source_id, run_id, row_count, &plan, &lineage, now).await
                }
                .boxed()
            })
            .await?;
        Ok(TaskOutcome::new(&Outcome { rows: written, run: run_id, inputs: inputs_of(&planned), elapsed_ms }))
    }

    async fn config(&self, source_id: i64) -> Result<AggregationConfig, TaskError> {
        let mut reader = self.db.read().await?;
        let source = aggregation_sources::find(&mut reader.conn(), source_id)
            .await?
            .ok_or_else(|| TaskError::fail("deleted", "the aggregation was deleted"))?;
        let invalid =
            |what: String| TaskError::fail("config", format!("the config of `{}` is not valid: {what}", source.name));
        let value = serde_json::from_str(source.config.get()).map_err(|err| invalid(err.to_string()))?;
        AggregationConfig::parse(&value).map_err(|errors| {
            let told: Vec<String> =
                errors.iter().map(|error| format!("{}: {}", error.path.join("."), error.message)).collect();
            invalid(told.join("; "))
        })
    }

    async fn begin(
        &self,
        ctx: &TaskContext,
        source_id: i64,
        task_id: i64,
        lineage: Box<RawValue>,
    ) -> Result<i64, TaskError> {
        let (fence, now) = (ctx.fence, self.clock.now());
        let begun = self.db.write(move |conn| {
            async move { aggregated_data::begin_run(conn, &fence, source_id, task_id, &lineage, now).await }.boxed()
        });
        Ok(begun.await?)
    }

    /// Writes the rows page by page as they come; the child waits while a page is written.
    async fn write_rows(
        &self,
        ctx: &TaskContext,
        source_id: i64,
        run_id: i64,
        metadata: &RawValue,
        rows: &mut RowStream,
    ) -> Result<u64, TaskError> {
        #[derive(Serialize)]
        struct Progress {
            rows: u64,
        }
        let mut canonicaliser = Canonicaliser::default();
        // One time for all rows of a run, so that lists by time show a run as one block.
        let now = self.clock.now();
        let mut written = 0;
        while let Some(page) = rows.next_page(self.db.page_rows(), self.db.page_bytes()).await.map_err(from_engine)? {
            if !ctx.lease_valid() {
                return Err(TaskError::new(Advice::Fenced, "lease_lost", "the lease was lost"));
            }
            let count = page.len() as u64;
            let page = canonical(&mut canonicaliser, page, written)?;
            let (fence, metadata) = (ctx.fence, metadata.to_owned());
            self.db
                .write_page(move |conn| {
                    async move {
                        aggregated_data::insert_page(conn, &fence, source_id, run_id, &page, &metadata, now).await
                    }
                    .boxed()
                })
                .await?;
            written += count;
            ctx.progress(&Progress { rows: written }).await;
        }
        debug_assert!(ctx.stop_reason() != Some(StopReason::LeaseLost), "a lost lease cannot commit a page");
        Ok(written)
    }
}

/// Plans the inputs of `sql`, hands them to a child and starts it; rows may come.
pub(crate) async fn start(
    db: &Db,
    engine: &Engine,
    sql: &str,
    limits: Limits,
    preview_rows: Option<u64>,
) -> Result<(Vec<Planned>, RowStream), TaskError> {
    let validated = engine.validate(sql).await.map_err(from_engine)?;
    let mut planned = inputs::plan(db, &validated.tables).await.map_err(from_input)?;
    let mut child = engine.prepare().await.map_err(from_engine)?;
    inputs::spool(db, &mut planned, &mut child).await.map_err(from_input)?;
    let rows = child.run(sql, limits, preview_rows).await.map_err(from_engine)?;
    Ok((planned, rows))
}

/// The canonical form of result rows. A row that has none fails the run: a result without it would be wrong.
pub(crate) fn canonical(
    canonicaliser: &mut Canonicaliser,
    mut page: Vec<String>,
    before: u64,
) -> Result<Vec<String>, TaskError> {
    for (n, row) in page.iter_mut().enumerate() {
        *row = match canonicaliser.canonicalise(row.as_bytes()) {
            Ok(canonical) => canonical.text.to_owned(),
            Err(rejected) => return Err(unstorable(&rejected, before + n as u64 + 1)),
        };
    }
    Ok(page)
}

fn unstorable(rejected: &Rejected, row: u64) -> TaskError {
    TaskError::fail("result", format!("row {row} of the result cannot be stored: {rejected}"))
}

fn inputs_of(planned: &[Planned]) -> Vec<&Input> {
    planned.iter().map(|planned| &planned.input).collect()
}

fn lineage(planned: &[Planned], rows: &RowStream) -> Box<RawValue> {
    let columns_of = |input: &Input| {
        let seen = rows.header().inputs.iter().find(|seen| seen.table.to_string() == input.table);
        seen.map(|seen| seen.columns.as_slice()).unwrap_or_default()
    };
    let lineage: Vec<Lineage<'_>> =
        planned.iter().map(|planned| Lineage { input: &planned.input, columns: columns_of(&planned.input) }).collect();
    to_json(&lineage)
}

fn to_json(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).expect("numbers and text are JSON")
}

pub(crate) fn from_engine(err: EngineError) -> TaskError {
    let advice = if err.retryable() { Advice::Retry { after: None } } else { Advice::Fail };
    let reason = match &err {
        EngineError::Refused { .. } => "sql_refused",
        EngineError::Query { .. } => "sql_failed",
        EngineError::Limit { .. } => "limit",
        EngineError::Crashed { .. } => "engine_crashed",
        EngineError::Start { .. } | EngineError::Engine { .. } => "engine",
        EngineError::Spool { .. } => "scratch",
    };
    TaskError::from_error(advice, reason, &err)
}

fn from_input(err: InputError) -> TaskError {
    match err {
        InputError::Unknown(unknown) => TaskError::fail("unknown_table", format!("{unknown} ({})", unknown.hint)),
        InputError::Store(err) => err.into(),
        InputError::Engine(err) => from_engine(err),
    }
}

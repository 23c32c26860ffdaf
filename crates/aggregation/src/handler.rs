//! The handler of aggregation tasks: plan, spool, run, write, publish.
//!
//! Rows of a run are written in fenced pages that nobody sees; one last transaction makes the run visible.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_model::canonical::{Canonicaliser, Rejected};
use matome_model::clock::Clock;
use matome_model::engine::{Limits, Parameter, ParameterType};
use matome_model::field_error::{FieldError, Words};
use matome_model::say;
use matome_store::aggregated_data::{self, Keys, Page};
use matome_store::aggregation_runs::{self, Effect, NewRun, Publication, Retention};
use matome_store::aggregation_sources::{self, AggregationSource};
use matome_store::db::Db;
use matome_store::error::StoreError;
use matome_tasks::{Advice, ClaimedTask, Handler, StopReason, TaskContext, TaskError, TaskOutcome, trace};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tracing::Instrument as _;

use crate::config::{AggregationConfig, Mode, bind};
use crate::engine::{Engine, EngineError, RowStream};
use crate::inputs::{self, Input, InputError, Planned};
use crate::key::{Key, KeyError};
use crate::options::RunOptions;

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
    /// Rows of earlier runs whose place the new ones took.
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded: Option<u64>,
    run: i64,
    inputs: Vec<&'a Input>,
    elapsed_ms: u64,
}

/// What a task says whose run was published by an earlier attempt, which then died.
#[derive(Debug, Serialize)]
struct Published {
    rows: i64,
    run: i64,
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
        if let Some(outcome) = self.published_before(source_id, task.task.id).await? {
            return Ok(outcome);
        }
        let (source, config) = self.config(source_id).await?;
        if let Some(seconds) = config.deadline_secs {
            ctx.set_deadline(Duration::from_secs(seconds));
        }
        let sql = config.sql.as_deref().ok_or_else(|| {
            TaskError::fail(
                "draft",
                (
                    "the aggregation is a draft: its config has no `sql`",
                    "集約は下書きです。config に `sql` がありません",
                ),
            )
        })?;
        let options = RunOptions::parse(&task.task.payload).map_err(|err| {
            let what = ("the task's payload is not valid", "タスクの内容が正しくありません");
            TaskError::because(Advice::Fail, "payload", what, Some(&err))
        })?;
        let limits = Limits { seconds: config.timeout_secs, ..self.limits };
        let parameters =
            bind(&config.params, &options.params).map_err(|errors| TaskError::fail("params", told(&errors)))?;
        let params = params_shown(&parameters);
        let writing = self.writing(&source, &config, &options).await?;

        let (planned, mut rows) = start(&self.db, &self.engine, sql, parameters, limits, None).await?;
        let new = NewRun {
            source_id,
            task_id: task.task.id,
            effect: writing.effect,
            inputs: lineage(&planned, &rows),
            params,
        };
        let run_id = self.begin(ctx, new).await?;
        let metadata = to_json(&RowMetadata { run: run_id, task: task.task.id, inputs: inputs_of(&planned) });
        let run = Run { source_id, run_id, metadata, writing };
        let written = self.write_rows(ctx, &run, &mut rows).await?;

        let summary = rows.summary();
        let elapsed_ms = summary.map_or(0, |summary| summary.elapsed_ms);
        let now = self.clock.now();
        let publication = Publication {
            source_id,
            run_id,
            effect: run.writing.effect,
            rows: i64::try_from(written.rows).unwrap_or(i64::MAX),
            superseded: i64::try_from(written.superseded).unwrap_or(i64::MAX),
            key: run.writing.key.as_ref().map(Key::stored),
            plan: summary.map(|summary| summary.plan.clone()).unwrap_or_default(),
            inputs: lineage(&planned, &rows),
            retention: Retention {
                runs: config.keep_runs.map(i64::from),
                since: config.keep_days.map(|days| now - chrono::TimeDelta::days(i64::from(days))),
            },
            now,
        };
        let fence = ctx.fence;
        self.db
            .write(move |conn| async move { aggregation_runs::publish(conn, &fence, &publication).await }.boxed())
            .instrument(trace::publish())
            .await?;
        let superseded = (run.writing.effect == Effect::Upsert).then_some(written.superseded);
        Ok(TaskOutcome::new(&Outcome {
            rows: written.rows,
            superseded,
            run: run_id,
            inputs: inputs_of(&planned),
            elapsed_ms,
        }))
    }

    /// The outcome of an earlier attempt that published its run and died before it could say so: rows must not be
    /// appended twice.
    async fn published_before(&self, source_id: i64, task_id: i64) -> Result<Option<TaskOutcome>, TaskError> {
        let mut reader = self.db.read().await?;
        let found = aggregation_runs::published_by(&mut reader.conn(), source_id, task_id).await?;
        Ok(found.map(|(run, rows)| TaskOutcome::new(&Published { rows, run })))
    }

    /// What the run does with the rows that are shown. A run that adds to them must find them stored as it would.
    async fn writing(
        &self,
        source: &AggregationSource,
        config: &AggregationConfig,
        options: &RunOptions,
    ) -> Result<Writing, TaskError> {
        let key = (config.mode == Mode::Upsert).then(|| Key::new(&config.key));
        let effect = match config.mode {
            _ if options.replace => Effect::Replace,
            Mode::Replace => Effect::Replace,
            Mode::Append => Effect::Append,
            Mode::Upsert => Effect::Upsert,
        };
        if effect != Effect::Replace {
            let mut reader = self.db.read().await?;
            let shown = aggregation_runs::shown(&mut reader.conn(), source.id).await?;
            if shown.rows > 0 && shown.key != key.as_ref().map(Key::stored) {
                let (under, in_japanese) = match &shown.key {
                    None => ("without a key".to_owned(), "キーなしで".to_owned()),
                    Some(key) => (format!("under the key {key}"), format!("キー {key} で")),
                };
                let name = &source.name;
                return Err(TaskError::fail(
                    "key",
                    say!(
                        "the rows that are shown were stored {under}, so this run cannot be added to them: run once with \
                         `replace`, as in `matome aggregate run {name} --replace`, which shows the rows of that run alone",
                        "いま見えている行は{in_japanese}保存されているため、この実行を加えられません。一度 `replace` を付けて、\
                         `matome aggregate run {name} --replace` のように実行してください。その実行の行だけが見えるようになります"
                    ),
                ));
            }
        }
        Ok(Writing { effect, key })
    }

    async fn config(&self, source_id: i64) -> Result<(AggregationSource, AggregationConfig), TaskError> {
        let mut reader = self.db.read().await?;
        let source = aggregation_sources::find(&mut reader.conn(), source_id)
            .await?
            .ok_or_else(|| TaskError::fail("deleted", ("the aggregation was deleted", "集約は削除されました")))?;
        let invalid = |what: Words| {
            let (name, Words { english, japanese }) = (&source.name, what);
            let words = say!(
                "the config of `{name}` is not valid: {english}",
                "`{name}` の config が正しくありません: {japanese}"
            );
            TaskError::fail("config", words)
        };
        let value = serde_json::from_str(source.config.get()).map_err(|err| invalid(Words::quoted(err.to_string())))?;
        let config = AggregationConfig::parse(&value).map_err(|errors| invalid(told(&errors)))?;
        Ok((source, config))
    }

    async fn begin(&self, ctx: &TaskContext, run: NewRun) -> Result<i64, TaskError> {
        let (fence, now) = (ctx.fence, self.clock.now());
        let begun =
            self.db.write(move |conn| async move { aggregation_runs::begin(conn, &fence, &run, now).await }.boxed());
        Ok(begun.await?)
    }

    /// Writes the rows page by page as they come; the child waits while a page is written.
    async fn write_rows(&self, ctx: &TaskContext, run: &Run, rows: &mut RowStream) -> Result<Written, TaskError> {
        #[derive(Serialize)]
        struct Progress {
            rows: u64,
        }
        let mut canonicaliser = Canonicaliser::default();
        // One time for all rows of a run, so that lists by time show a run as one block.
        let aggregated_at = self.clock.now();
        let mut written = Written::default();
        loop {
            let page = rows.next_page(self.db.page_rows(), self.db.page_bytes()).await.map_err(from_engine)?;
            if let (0, Some(key)) = (written.rows, &run.writing.key) {
                key.check(&rows.columns()).map_err(from_key)?;
            }
            let Some(page) = page else { break };
            if !ctx.lease_valid() {
                return Err(TaskError::lease_lost());
            }
            let count = page.len() as u64;
            let rows = canonical(&mut canonicaliser, page, written.rows)?;
            let keys = match &run.writing.key {
                None => None,
                Some(key) => Some(Keys {
                    hashes: key.hashes(&rows, written.rows).map_err(from_key)?,
                    supersede: run.writing.effect == Effect::Upsert,
                }),
            };
            let (source_id, run_id, metadata) = (run.source_id, run.run_id, run.metadata.clone());
            let page = Page { source_id, run_id, rows, keys, metadata, aggregated_at };
            written.superseded += self.write_page(ctx, run, page).await?;
            written.rows += count;
            ctx.progress(&Progress { rows: written.rows }).await;
        }
        debug_assert!(ctx.stop_reason() != Some(StopReason::LeaseLost), "a lost lease cannot commit a page");
        Ok(written)
    }

    async fn write_page(&self, ctx: &TaskContext, run: &Run, page: Page) -> Result<u64, TaskError> {
        let (fence, page) = (ctx.fence, std::sync::Arc::new(page));
        let unit = page.clone();
        let written = self
            .db
            .write_page(move |conn| async move { aggregated_data::insert_page(conn, &fence, &unit).await }.boxed())
            .instrument(trace::page(page.rows.len()));
        match (written.await, &run.writing.key, &page.keys) {
            (Err(StoreError::Unique { .. }), Some(key), Some(Keys { hashes, .. })) => {
                let mut reader = self.db.read().await?;
                let met = aggregated_data::key_in_run(&mut reader.conn(), run.source_id, run.run_id, hashes).await?;
                let told = met.and_then(|met| key.met_before(&page.rows, hashes, &met)).map(from_key);
                Err(told.unwrap_or_else(|| {
                    TaskError::fail(
                        "key",
                        ("two rows of the result have the same key", "結果に同じキーの行が二つあります"),
                    )
                }))
            }
            (written, ..) => Ok(written?),
        }
    }
}

/// Faults of a definition in one line.
pub fn told(errors: &[FieldError]) -> Words {
    Words::joined(errors.iter().map(|error| {
        let path = error.path.join(".");
        error.message.clone().map(|message| format!("{path}: {message}"))
    }))
}

/// Parameters as a run keeps them: names with values.
fn params_shown(parameters: &BTreeMap<String, Parameter>) -> Box<RawValue> {
    let shown: BTreeMap<&str, serde_json::Value> = parameters
        .iter()
        .map(|(name, parameter)| {
            let value = match (parameter.kind, parameter.value.as_deref()) {
                (ParameterType::Boolean, Some(text)) => (text == "true").into(),
                (ParameterType::Integer, Some(text)) => {
                    text.parse::<i64>().map_or_else(|_| text.into(), serde_json::Value::from)
                }
                (_, text) => text.into(),
            };
            (name.as_str(), value)
        })
        .collect();
    to_json(&shown)
}

/// What a run does with the rows that are shown.
#[derive(Debug)]
struct Writing {
    effect: Effect,
    key: Option<Key>,
}

/// A run that has begun.
#[derive(Debug)]
struct Run {
    source_id: i64,
    run_id: i64,
    metadata: Box<RawValue>,
    writing: Writing,
}

/// What was written of a run.
#[derive(Debug, Default)]
struct Written {
    rows: u64,
    superseded: u64,
}

/// Why a run has no rows to come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Input(#[from] InputError),
}

impl From<StartError> for TaskError {
    fn from(err: StartError) -> Self {
        match err {
            StartError::Engine(err) | StartError::Input(InputError::Engine(err)) => from_engine(err),
            StartError::Input(err) => from_input(err),
        }
    }
}

/// Plans the inputs of `sql`, hands them to a child and starts it; rows may come.
pub(crate) async fn start(
    db: &Db,
    engine: &Engine,
    sql: &str,
    parameters: BTreeMap<String, Parameter>,
    limits: Limits,
    preview_rows: Option<u64>,
) -> Result<(Vec<Planned>, RowStream), StartError> {
    let validated = engine.validate(sql).await?;
    let mut planned = inputs::plan(db, &validated.tables).await?;
    let mut child = engine.prepare().await?;
    inputs::spool(db, &mut planned, &mut child).await?;
    let rows = child.run(sql, parameters, limits, preview_rows).await?;
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
    let Words { english, japanese } = rejected.words();
    TaskError::fail(
        "result",
        say!("row {row} of the result cannot be stored: {english}", "結果の {row} 行目を保存できません: {japanese}"),
    )
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
    TaskError::because(advice, reason, err.words(), std::error::Error::source(&err))
}

fn from_key(err: KeyError) -> TaskError {
    TaskError::fail("key", err.words())
}

fn from_input(err: InputError) -> TaskError {
    match err {
        InputError::Unknown(unknown) => TaskError::fail("unknown_table", unknown.words()),
        InputError::Store(err) => err.into(),
        InputError::Engine(err) => from_engine(err),
    }
}

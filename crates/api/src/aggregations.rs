//! Aggregation sources: `/api/aggregation/sources/` and their actions.

use axum::response::Response;
use chrono::TimeDelta;
use http::{Method, StatusCode};
use matome_aggregation::RunOptions;
use matome_aggregation::config::{AggregationConfig, bind};
use matome_model::clock::{Timestamp, iso8601};
use matome_model::field_error::{FieldError, Words};
use matome_model::say;
use matome_model::source::SourceStatus;
use matome_model::task::{LaneKind, Priority, Queue};
use matome_store::aggregation_sources::{self, AggregationFields, AggregationSource, LISTING};
use matome_store::db::Conn;
use matome_store::error::StoreError;
use matome_store::tasks::{self, NewTask};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::after;
use crate::auth::Permission::{Read, Write};
use crate::body::{Fields, Given};
use crate::config::{add_faults, with_zone};
use crate::endpoint::{Call, Endpoint, json_answer, json_at, no_content};
use crate::error::{ApiError, FieldErrors, Result};
use crate::list::List;
use crate::message::{Message, language_of};
use crate::openapi::{Answer, OperationDoc};
use crate::state::TrialError;
use crate::tasks::accepted;
use crate::trial;

const NOUN: &str = "AggregationSource";
/// Rows that `preview` shows.
const PREVIEW_ROWS: usize = 20;

const LIST: List = List { listing: &LISTING, references: None, counter: None };

/// A source as clients see it.
#[derive(Serialize)]
struct SourceView {
    id: i64,
    name: String,
    description: Option<String>,
    status: SourceStatus,
    config: Box<RawValue>,
    current_run: Option<i64>,
    created_at: String,
    updated_at: String,
}

fn view(source: AggregationSource) -> SourceView {
    SourceView {
        id: source.id,
        name: source.name,
        description: source.description,
        status: source.status,
        config: source.config,
        current_run: source.current_run_id,
        created_at: iso8601(source.created_at),
        updated_at: iso8601(source.updated_at),
    }
}

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    const ONE: Answer = Answer::One(NOUN);
    let action = |path, name, id, summary, status, answer| (path, name, OperationDoc::new(id, summary, status, answer));
    let run = action(
        "/api/aggregation/sources/{id}/run/",
        "Aggregation Source Run",
        "aggregation_sources_run",
        "Compute an aggregation now; the waiting task if one waits.",
        202,
        Answer::One("AggregationTask"),
    );
    let pause = action(
        "/api/aggregation/sources/{id}/pause/",
        "Aggregation Source Pause",
        "aggregation_sources_pause",
        "Stop scheduling an aggregation.",
        200,
        ONE,
    );
    let resume = action(
        "/api/aggregation/sources/{id}/resume/",
        "Aggregation Source Resume",
        "aggregation_sources_resume",
        "Schedule an aggregation again.",
        200,
        ONE,
    );
    let preview = action(
        "/api/aggregation/sources/{id}/preview/",
        "Aggregation Source Preview",
        "aggregation_sources_preview",
        "Compute an aggregation's first rows and store nothing.",
        200,
        Answer::One("AggregationPreview"),
    );
    vec![
        Endpoint::json("/api/aggregation/sources/", "Aggregation Source List")
            .on(Method::GET, Read, |call| async move { LIST.page(&call, view).await })
            .first_page(&LIST, None, view)
            .doc(
                OperationDoc::new("aggregation_sources_list", "List aggregation sources.", 200, Answer::Page(NOUN))
                    .filtered_by(&LISTING),
            )
            .on(Method::POST, Write, create_source)
            .doc(
                OperationDoc::new("aggregation_sources_create", "Make an aggregation source.", 201, ONE)
                    .taking("AggregationSourceRequest"),
            ),
        Endpoint::json("/api/aggregation/sources/{id}/", "Aggregation Source Instance")
            .on(Method::GET, Read, find_source)
            .doc(OperationDoc::new("aggregation_sources_retrieve", "Show an aggregation source.", 200, ONE))
            .on(Method::PUT, Write, |call| change_source(call, false))
            .doc(
                OperationDoc::new("aggregation_sources_update", "Replace an aggregation source.", 200, ONE)
                    .taking("AggregationSourceRequest"),
            )
            .on(Method::PATCH, Write, |call| change_source(call, true))
            .doc(
                OperationDoc::new("aggregation_sources_partial_update", "Change an aggregation source.", 200, ONE)
                    .taking("PatchedAggregationSourceRequest"),
            )
            .on(Method::DELETE, Write, delete_source)
            .doc(OperationDoc::new(
                "aggregation_sources_destroy",
                "Delete an aggregation source and, behind, its rows.",
                204,
                Answer::Empty,
            )),
        Endpoint::json(run.0, run.1).on(Method::POST, Write, run_source).doc(run.2.taking("AggregationRunRequest")),
        Endpoint::json(pause.0, pause.1)
            .on(Method::POST, Write, |call| set_status(call, SourceStatus::Inactive))
            .doc(pause.2),
        Endpoint::json(resume.0, resume.1)
            .on(Method::POST, Write, |call| set_status(call, SourceStatus::Active))
            .doc(resume.2),
        Endpoint::json(preview.0, preview.1).on(Method::POST, Write, preview_source).doc(preview.2),
    ]
}

/// What a body says about a source.
struct Changes {
    name: Given<String>,
    description: Given<String>,
    status: Given<SourceStatus>,
    config: Option<Box<RawValue>>,
}

/// Reads and checks a body; `current` is the source that it changes.
async fn read_changes(call: &Call, partial: bool, current: Option<&AggregationSource>) -> Result<Changes> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, partial);
    let name = fields.name("name", 255);
    let description = fields.text_or_null("description");
    let status = fields.choice("status", false, SourceStatus::parse);
    let config = fields.object("config");
    let mut errors = fields.errors;

    if let Given::Value(name) = &name {
        let mut reader = call.state.db.read().await?;
        let taken = aggregation_sources::find_by_name(&mut reader.conn(), name).await?;
        if taken.is_some_and(|other| current.is_none_or(|source| source.id != other.id)) {
            errors.add(&["name"], Message::NameTaken { noun: "aggregation source" });
        }
    }
    let config = match config {
        Given::Value(config) => {
            let zone = call.state.settings.time_zone.as_deref();
            Some(zone.and_then(|zone| with_zone(&config, zone)).unwrap_or(config))
        }
        Given::Absent | Given::Null => None,
    };
    if let Some(config) = &config {
        match parse(config) {
            Ok(AggregationConfig { sql: Some(sql), params, .. }) => {
                // The engine's child reads it; a web process never does.
                match call.state.previewer.validate(sql).await {
                    Err(refused) => {
                        errors.add(&["config", "sql"], Message::Said(refused.message));
                    }
                    Ok(named) => {
                        for name in named.iter().filter(|name| !params.contains_key(*name)) {
                            errors.add(&["config", "sql"], Message::Said(undeclared(name)));
                        }
                    }
                }
            }
            Ok(_) => {}
            Err(faults) => add_faults(&mut errors, faults),
        }
    }
    errors.into_result()?;
    Ok(Changes { name, description, status, config })
}

fn undeclared(name: &str) -> Words {
    Words::new(
        format!(
            "`${name}` is not declared: add it to `params` with its type, as in {{\"{name}\": {{\"type\": \"text\"}}}}."
        ),
        format!(
            "`${name}`は宣言されていません。{{\"{name}\": {{\"type\": \"text\"}}}}のように、型とともに`params`に加えてください。"
        ),
    )
}

/// Reads a config; what it says about time and mode, not what it means.
fn parse(config: &RawValue) -> Result<AggregationConfig, Vec<FieldError>> {
    let value = serde_json::from_str(config.get())
        .map_err(|err| vec![FieldError::new(&[], Words::new(err.to_string(), err.to_string()))])?;
    AggregationConfig::parse(&value)
}

async fn create_source(call: Call) -> Result<Response> {
    let changes = read_changes(&call, false, None).await?;
    let Given::Value(name) = changes.name else { return Err(ApiError::field("name", Message::Required)) };
    let empty = || RawValue::from_string("{}".to_owned()).expect("an empty object is JSON");
    let fields = AggregationFields {
        name,
        description: changes.description.or_nullable(None),
        status: changes.status.or(SourceStatus::Active),
        config: changes.config.unwrap_or_else(empty),
    };
    let now = call.state.clock.now();
    let written = call.state.db.write(move |conn| {
        Box::pin(async move {
            let errors = check_after(conn, 0, &fields).await?;
            if !errors.is_empty() {
                return Ok(Written::Refused(errors));
            }
            let id = aggregation_sources::create(conn, &fields, now).await?;
            align(conn, id, &fields, now).await?;
            Ok(Written::from(aggregation_sources::find(conn, id).await?))
        })
    });
    let source = written.await.map_err(name_taken)?.into_result()?;
    let location = format!("/api/aggregation/sources/{}/", source.id);
    Ok(json_at(StatusCode::CREATED, &location, &view(source)))
}

/// What became of a definition that was to be written.
enum Written {
    Source(Box<AggregationSource>),
    Refused(FieldErrors),
    Missing,
}

impl From<Option<AggregationSource>> for Written {
    fn from(source: Option<AggregationSource>) -> Self {
        source.map_or(Self::Missing, |source| Self::Source(Box::new(source)))
    }
}

impl Written {
    fn into_result(self) -> Result<AggregationSource> {
        match self {
            Self::Source(source) => Ok(*source),
            Self::Refused(errors) => Err(errors.into()),
            Self::Missing => Err(ApiError::NotFound(Message::NoMatch { noun: NOUN })),
        }
    }
}

/// What is wrong with what a source is to run after.
async fn check_after(conn: &mut Conn<'_>, id: i64, fields: &AggregationFields) -> Result<FieldErrors, StoreError> {
    match parse(&fields.config) {
        Ok(config) => after::check(conn, id, &fields.name, &config).await,
        // A config of the original application that means nothing to us stays as it is.
        Err(_) => Ok(FieldErrors::default()),
    }
}

/// Brings the schedule, the triggers and the lane of a source in line with it.
pub(crate) async fn align(
    conn: &mut Conn<'_>,
    id: i64,
    fields: &AggregationFields,
    now: Timestamp,
) -> Result<(), StoreError> {
    let config = parse(&fields.config).ok().filter(|config| !config.is_draft());
    after::set(conn, id, config.as_ref()).await?;
    let config = config.unwrap_or_default();
    let interval = config.refresh_interval_secs.and_then(|secs| i64::try_from(secs).ok());
    match config.schedule.plan(interval) {
        None => {
            matome_store::schedules::remove(conn, LaneKind::Aggregation, id).await?;
        }
        Some(plan) => {
            let is_enabled = fields.status == SourceStatus::Active;
            matome_store::schedules::upsert(conn, LaneKind::Aggregation, id, &plan, is_enabled, now).await?;
        }
    }
    matome_store::lanes::set_share(conn, LaneKind::Aggregation, id, config.share).await?;
    let is_paused = fields.status == SourceStatus::Inactive;
    matome_store::lanes::set_paused(conn, LaneKind::Aggregation, id, is_paused, now).await.map(drop)
}

fn name_taken(err: StoreError) -> ApiError {
    match err {
        StoreError::Unique { constraint, .. } if constraint.contains("name") => {
            ApiError::field("name", Message::NameTaken { noun: "aggregation source" })
        }
        other => other.into(),
    }
}

async fn find(call: &Call) -> Result<AggregationSource> {
    let id = call.id(NOUN)?;
    let mut reader = call.state.db.read().await?;
    aggregation_sources::find(&mut reader.conn(), id).await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))
}

async fn find_source(call: Call) -> Result<Response> {
    Ok(json_answer(StatusCode::OK, &view(find(&call).await?)))
}

async fn change_source(call: Call, partial: bool) -> Result<Response> {
    let current = find(&call).await?;
    let changes = read_changes(&call, partial, Some(&current)).await?;
    after::refuse_rename(&call, LaneKind::Aggregation, &current.name, &changes.name).await?;
    let (now, id) = (call.state.clock.now(), current.id);
    let written = call.state.db.write(move |conn| {
        Box::pin(async move {
            // Source, schedule, lane: the order in which everybody locks them.
            let Some(current) = aggregation_sources::find_for_update(conn, id).await? else {
                return Ok(Written::Missing);
            };
            let fields = AggregationFields {
                name: changes.name.or(current.name),
                description: changes.description.or_nullable(current.description),
                status: changes.status.or(current.status),
                config: changes.config.unwrap_or(current.config),
            };
            let errors = check_after(conn, id, &fields).await?;
            if !errors.is_empty() {
                return Ok(Written::Refused(errors));
            }
            aggregation_sources::update(conn, id, &fields, now.max(current.updated_at + TimeDelta::microseconds(1)))
                .await?;
            align(conn, id, &fields, now).await?;
            Ok(Written::from(aggregation_sources::find(conn, id).await?))
        })
    });
    let source = written.await.map_err(name_taken)?.into_result()?;
    call.state.bus.wake(Queue::Aggregation);
    Ok(json_answer(StatusCode::OK, &view(source)))
}

async fn delete_source(call: Call) -> Result<Response> {
    let (id, now) = (call.id(NOUN)?, call.state.clock.now());
    let written = call.state.db.write(move |conn| {
        Box::pin(async move {
            if !aggregation_sources::mark_deleted(conn, id, now).await? {
                return Ok(false);
            }
            matome_store::schedules::remove(conn, LaneKind::Aggregation, id).await?;
            matome_store::triggers::remove(conn, id).await?;
            tasks::cancel_all(conn, LaneKind::Aggregation, id, now).await?;
            Ok(true)
        })
    });
    if written.await? { Ok(no_content()) } else { Err(ApiError::NotFound(Message::NoMatch { noun: NOUN })) }
}

async fn run_source(call: Call) -> Result<Response> {
    let source = find(&call).await?;
    let config = check_runnable(&source)?;
    if source.status == SourceStatus::Inactive {
        return Err(ApiError::field("status", Message::PausedCannotRun));
    }
    let (now, id) = (call.state.clock.now(), source.id);
    let (options, priority) = run_options(&call, &config)?;
    let payload = serde_json::value::to_raw_value(&options).expect("options are JSON");
    let new = NewTask { payload, priority: Some(priority), ..NewTask::manual(LaneKind::Aggregation, id, now) };
    let queued = call.state.db.write(move |conn| {
        Box::pin(async move {
            // Nothing is queued for a source that is being deleted.
            if aggregation_sources::find_for_update(conn, id).await?.is_none() {
                return Ok(None);
            }
            tasks::enqueue(conn, &new, now).await.map(Some)
        })
    });
    let queued = queued.await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    accepted(&call, Queue::Aggregation, queued.task.id).await
}

/// What the body asks of a run.
fn run_options(call: &Call, config: &AggregationConfig) -> Result<(RunOptions, Priority)> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, true);
    let replace = fields.boolean("replace").or(false);
    let params = fields.object("params");
    let priority = fields.choice("priority", false, Priority::parse).or(Priority::High);
    let mut errors = fields.errors;
    let params = given_params(params, config, &mut errors);
    errors.into_result()?;
    Ok((RunOptions { replace, params }, priority))
}

/// Values of parameters, each checked.
fn given_params(
    params: Given<Box<RawValue>>,
    config: &AggregationConfig,
    errors: &mut FieldErrors,
) -> serde_json::Map<String, serde_json::Value> {
    let params = match params {
        Given::Value(params) => serde_json::from_str(params.get()).expect("a body's object is one"),
        Given::Absent | Given::Null => serde_json::Map::new(),
    };
    if let Err(faults) = bind(&config.params, &params) {
        for fault in faults {
            errors.add(&fault.path, Message::Said(fault.message));
        }
    }
    params
}

/// Refuses drafts and configs that do not validate, naming what is missing.
fn check_runnable(source: &AggregationSource) -> Result<AggregationConfig> {
    let mut errors = FieldErrors::default();
    match parse(&source.config) {
        Ok(config) if config.is_draft() => errors.add(&["config"], Message::DraftCannotRun { needs: "`sql`" }),
        Ok(config) => return Ok(config),
        Err(faults) => add_faults(&mut errors, faults),
    }
    Err(errors.into())
}

async fn set_status(call: Call, status: SourceStatus) -> Result<Response> {
    let (id, now) = (call.id(NOUN)?, call.state.clock.now());
    let written = call.state.db.write(move |conn| {
        Box::pin(async move {
            let Some(current) = aggregation_sources::find_for_update(conn, id).await? else { return Ok(None) };
            let fields = AggregationFields {
                name: current.name,
                description: current.description,
                status,
                config: current.config,
            };
            let changed_at = now.max(current.updated_at + TimeDelta::microseconds(1));
            aggregation_sources::set_status(conn, id, status, changed_at).await?;
            align(conn, id, &fields, now).await?;
            aggregation_sources::find(conn, id).await
        })
    });
    let source = written.await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    call.state.bus.wake(Queue::Aggregation);
    Ok(json_answer(StatusCode::OK, &view(source)))
}

/// The config to preview: that of the body, so that it can be tried before it is saved, else the stored one; and values for
/// its parameters.
fn preview_config(
    call: &Call,
    source: AggregationSource,
) -> Result<(Box<RawValue>, serde_json::Map<String, serde_json::Value>)> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, true);
    let config = fields.object("config");
    let params = fields.object("params");
    fields.errors.into_result()?;
    let tried = AggregationSource { config: config.or(source.config.clone()), ..source };
    let config = check_runnable(&tried)?;
    let mut errors = FieldErrors::default();
    let params = given_params(params, &config, &mut errors);
    errors.into_result()?;
    Ok((tried.config, params))
}

async fn preview_source(call: Call) -> Result<Response> {
    let source = find(&call).await?;
    let (config, params) = preview_config(&call, source)?;
    let limit = call.state.settings.trial_limit;
    let tried = tokio::time::timeout(limit, call.state.previewer.preview(config, params, PREVIEW_ROWS)).await;
    let secs = limit.as_secs();
    let timed_out = |_| {
        let message = say!(
            "the query did not give its first rows within {secs} s",
            "クエリが{secs}秒以内に最初の行を返しませんでした"
        );
        TrialError::new(message, Vec::new())
    };
    Ok(trial::answer(language_of(&call.headers), tried.map_err(timed_out).flatten()))
}

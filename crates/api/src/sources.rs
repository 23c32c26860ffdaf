//! Data sources: `/api/acquisition/sources/` and their actions.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::Response;
use chrono::TimeDelta;
use http::{Method, StatusCode};
use matome_acquisition::{Keeper, RevealError, reveal, sample};
use matome_connector::{Change, Deletes, FieldError, ParsedConfig, change, secret_paths, validate_config};
use matome_model::canonical::{Canonicaliser, Limits};
use matome_model::clock::{Timestamp, iso8601};
use matome_model::field_error::Words;
use matome_model::schedule::interval_beside_cron;
use matome_model::source::{SourceStatus, SourceType};
use matome_model::task::{LaneKind, Priority, Queue};
use matome_store::adoption;
use matome_store::counters;
use matome_store::data_sources::{self, DataSource, LISTING, SourceFields};
use matome_store::db::Conn;
use matome_store::error::StoreError;
use matome_store::migrate;
use matome_store::removals::{self, Reset};
use matome_store::secrets;
use matome_store::source_schemas;
use matome_store::tasks::{self, NewTask};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::auth::Permission::{Read, Write};
use crate::body::{Fields, Given};
use crate::config::{self, Checked, add_faults};
use crate::endpoint::{Call, Endpoint, json_answer, json_at, no_content};
use crate::error::{ApiError, FieldErrors, Result};
use crate::list::{List, time};
use crate::message::{Message, language_of};
use crate::openapi::{Answer, OperationDoc};
use crate::state::TrialError;
use crate::tasks::accepted;
use crate::trial;

const NOUN: &str = "DataSource";
const MAX_INTERVAL: i64 = 2_147_483_647;
/// Records that `test` shows.
const TEST_RECORDS: i64 = 10;
/// Records that it may be asked for.
const MAX_TEST_RECORDS: i64 = 1_000;

const LIST: List = List { listing: &LISTING, references: None, counter: None };

/// A source as clients see it.
#[derive(Serialize)]
struct SourceView {
    id: i64,
    name: String,
    source_type: SourceType,
    description: Option<String>,
    status: SourceStatus,
    config: Box<RawValue>,
    fetch_interval: i64,
    last_fetched_at: Option<String>,
    created_at: String,
    updated_at: String,
}

fn view(source: DataSource) -> SourceView {
    SourceView {
        id: source.id,
        name: source.name,
        source_type: source.source_type,
        description: source.description,
        status: source.status,
        config: source.config,
        fetch_interval: source.fetch_interval,
        last_fetched_at: source.last_fetched_at.map(iso8601),
        created_at: iso8601(source.created_at),
        updated_at: iso8601(source.updated_at),
    }
}

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    const ONE: Answer = Answer::One(NOUN);
    let action = |path, name, id, summary, status, answer| (path, name, OperationDoc::new(id, summary, status, answer));
    let run = action(
        "/api/acquisition/sources/{id}/run/",
        "Data Source Run",
        "acquisition_sources_run",
        "Read a source now, with `full` from its start; the waiting task if one waits.",
        202,
        Answer::One("AcquisitionTask"),
    );
    let reset = action(
        "/api/acquisition/sources/{id}/reset/",
        "Data Source Reset",
        "acquisition_sources_reset",
        "Forget how far a source was read, and with `data` remove its records: 202 while that goes on behind.",
        200,
        ONE,
    );
    let revalidate = action(
        "/api/acquisition/sources/{id}/revalidate/",
        "Data Source Revalidate",
        "acquisition_sources_revalidate",
        "Tell what the config of today would make of what is stored and of what is in quarantine; with `apply` do it. Nothing \
         is read from the source.",
        202,
        Answer::One("AcquisitionTask"),
    );
    let pause = action(
        "/api/acquisition/sources/{id}/pause/",
        "Data Source Pause",
        "acquisition_sources_pause",
        "Stop scheduling a source.",
        200,
        ONE,
    );
    let resume = action(
        "/api/acquisition/sources/{id}/resume/",
        "Data Source Resume",
        "acquisition_sources_resume",
        "Schedule a source again.",
        200,
        ONE,
    );
    let test = action(
        "/api/acquisition/sources/{id}/test/",
        "Data Source Test",
        "acquisition_sources_test",
        "Read a source's first records and store nothing.",
        200,
        Answer::One("SourceTest"),
    );
    vec![
        Endpoint::json("/api/acquisition/sources/", "Data Source List")
            .on(Method::GET, Read, |call| async move { LIST.page(&call, view).await })
            .first_page(&LIST, None, view)
            .doc(
                OperationDoc::new("acquisition_sources_list", "List data sources.", 200, Answer::Page(NOUN))
                    .filtered_by(&LISTING),
            )
            .on(Method::POST, Write, create_source)
            .doc(
                OperationDoc::new("acquisition_sources_create", "Make a data source.", 201, ONE)
                    .taking("DataSourceRequest"),
            ),
        Endpoint::json("/api/acquisition/sources/{id}/", "Data Source Instance")
            .on(Method::GET, Read, find_source)
            .doc(OperationDoc::new("acquisition_sources_retrieve", "Show a data source.", 200, ONE))
            .on(Method::PUT, Write, |call| change_source(call, false))
            .doc(
                OperationDoc::new("acquisition_sources_update", "Replace a data source.", 200, ONE)
                    .taking("DataSourceRequest"),
            )
            .on(Method::PATCH, Write, |call| change_source(call, true))
            .doc(
                OperationDoc::new("acquisition_sources_partial_update", "Change a data source.", 200, ONE)
                    .taking("PatchedDataSourceRequest"),
            )
            .on(Method::DELETE, Write, delete_source)
            .doc(OperationDoc::new(
                "acquisition_sources_destroy",
                "Delete a data source and, behind, its data.",
                204,
                Answer::Empty,
            )),
        Endpoint::json(run.0, run.1).on(Method::POST, Write, run_source).doc(run.2.taking("DataSourceRunRequest")),
        Endpoint::json(reset.0, reset.1)
            .on(Method::POST, Write, reset_source)
            .doc(reset.2.taking("DataSourceResetRequest")),
        Endpoint::json(revalidate.0, revalidate.1)
            .on(Method::POST, Write, revalidate_source)
            .doc(revalidate.2.taking("DataSourceRevalidateRequest")),
        Endpoint::json(pause.0, pause.1)
            .on(Method::POST, Write, |call| set_status(call, SourceStatus::Inactive))
            .doc(pause.2),
        Endpoint::json(resume.0, resume.1)
            .on(Method::POST, Write, |call| set_status(call, SourceStatus::Active))
            .doc(resume.2),
        Endpoint::json(test.0, test.1).on(Method::POST, Write, test_source).doc(test.2.taking("SourceTestRequest")),
    ]
}

/// What a body says about a source.
struct Changes {
    name: Given<String>,
    source_type: Given<SourceType>,
    description: Given<String>,
    status: Given<SourceStatus>,
    config: Option<Checked>,
    fetch_interval: Given<i64>,
    on_change: Given<OnChange>,
}

/// What becomes of stored records when a config reads other ones, or tells them apart otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnChange {
    /// They stay; the next read starts from the beginning.
    Full,
    /// They are removed.
    Reset,
}

impl OnChange {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "full" => Some(Self::Full),
            "reset" => Some(Self::Reset),
            _ => None,
        }
    }
}

/// Reads and checks a body; `current` is the source that it changes, with the paths of its stored secrets.
async fn read_changes(call: &Call, partial: bool, current: Option<(&DataSource, &[String])>) -> Result<Changes> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, partial);
    let name = fields.name("name", 255);
    let source_type = fields.choice("source_type", true, SourceType::parse);
    let description = fields.text_or_null("description");
    let status = fields.choice("status", false, SourceStatus::parse);
    let config = fields.object("config");
    let fetch_interval = fields.integer("fetch_interval", MAX_INTERVAL);
    let on_change = fields.choice("on_change", false, OnChange::parse);
    let mut errors = fields.errors;

    if let Given::Value(name) = &name {
        let mut reader = call.state.db.read().await?;
        let taken = data_sources::find_by_name(&mut reader.conn(), name).await?;
        if taken.is_some_and(|other| current.is_none_or(|(source, _)| source.id != other.id)) {
            errors.add(&["name"], Message::NameTaken { noun: "data source" });
        }
    }
    let now_type = match (&source_type, current) {
        (Given::Value(given), _) => Some(*given),
        (_, Some((source, _))) => Some(source.source_type),
        _ => None,
    };
    // A config of another application is left alone until somebody changes it, or the type it is for.
    let is_other_type = current.is_some_and(|(source, _)| now_type != Some(source.source_type));
    let given = match config {
        Given::Value(config) => Some(config),
        Given::Absent | Given::Null if is_other_type => current.map(|(source, _)| source.config.clone()),
        Given::Absent | Given::Null => None,
    };
    let config = match (given, now_type) {
        (Some(config), Some(source_type)) => {
            let kept = current.map_or(&[][..], |(_, kept)| kept);
            Some(config::check(
                &config,
                secret_paths(config.get()),
                kept,
                call.state.settings.time_zone.as_deref(),
                |text| faults(source_type, text),
                &mut errors,
            ))
        }
        _ => None,
    };
    let is_new = config.is_some();
    let decides = config.as_ref().map(|checked| &checked.stored).or(current.map(|(source, _)| &source.config));
    let fetch_interval = match decides {
        Some(config) => interval_beside(config, fetch_interval, is_new, &mut errors),
        None => fetch_interval,
    };
    errors.into_result()?;
    Ok(Changes { name, source_type, description, status, config, fetch_interval, on_change })
}

fn faults(source_type: SourceType, config: &str) -> Vec<FieldError> {
    validate_config(source_type, config).err().unwrap_or_default()
}

/// A stored config, if it validates; secrets do not matter for that.
fn parsed(source_type: SourceType, config: &RawValue) -> Option<ParsedConfig> {
    let filled = config::filled_in(config, &secret_paths(config.get()));
    validate_config(source_type, filled.get()).ok()
}

/// What a body means for the interval of a source whose config will be `config`: beside `cron` there is none.
fn interval_beside(config: &RawValue, given: Given<i64>, is_new: bool, errors: &mut FieldErrors) -> Given<i64> {
    if !has_cron(config) {
        return given;
    }
    match given {
        Given::Value(secs) if secs > 0 => {
            errors.add(&["fetch_interval"], Message::Said(interval_beside_cron()));
            Given::Absent
        }
        // The interval of before, or the one that sources have by default, gives way.
        Given::Absent if is_new => Given::Value(0),
        given => given,
    }
}

fn has_cron(config: &RawValue) -> bool {
    let config: serde_json::Value = serde_json::from_str(config.get()).unwrap_or_default();
    config.get("schedule").is_some_and(|schedule| schedule.get("cron").is_some())
}

async fn create_source(call: Call) -> Result<Response> {
    let changes = read_changes(&call, false, None).await?;
    let (Given::Value(name), Given::Value(source_type)) = (changes.name, changes.source_type) else {
        return Err(ApiError::field("name", Message::Required));
    };
    let checked = changes.config;
    let empty = || RawValue::from_string("{}".to_owned()).expect("an empty object is JSON");
    let fields = SourceFields {
        name,
        source_type,
        description: changes.description.or_nullable(None),
        status: changes.status.or(SourceStatus::Active),
        config: checked.as_ref().map_or_else(empty, |checked| checked.stored.clone()),
        // Its tasks come with what is sent.
        fetch_interval: changes.fetch_interval.or(if source_type == SourceType::Push { 0 } else { 3600 }),
    };
    let (vault, now) = (call.state.vault.clone(), call.state.clock.now());
    let written = call.state.db.write(move |conn| {
        Box::pin(async move {
            if is_ahead(conn, &fields).await? {
                return Ok(None);
            }
            let id = data_sources::create(conn, &fields, now).await?;
            if let Some(checked) = &checked {
                for (path, secret) in &checked.secrets {
                    secrets::save(conn, &vault, LaneKind::Source, id, path, secret).await?;
                }
            }
            align(conn, id, &fields, now).await?;
            data_sources::find(conn, id).await
        })
    });
    let source = written.await.map_err(name_taken)?.ok_or_else(upgrade_first)?;
    let location = format!("/api/acquisition/sources/{}/", source.id);
    Ok(json_at(StatusCode::CREATED, &location, &view(source)))
}

/// Whether not all processes of the installation may know such a source: one of the type push, or one with tombstones.
async fn is_ahead(conn: &mut Conn<'_>, fields: &SourceFields) -> Result<bool, StoreError> {
    let config = parsed(fields.source_type, &fields.config);
    let deletes = config.as_ref().and_then(ParsedConfig::common).map(|common| common.deletes).unwrap_or_default();
    let needed = match (fields.source_type, deletes) {
        (_, Deletes::Tombstone) => migrate::TOMBSTONES,
        (SourceType::Push, _) => migrate::PUSH_SOURCES,
        _ => return Ok(false),
    };
    Ok(migrate::version(conn).await? < needed)
}

fn upgrade_first() -> ApiError {
    ApiError::Conflict(Message::Said(Words::new(
        "A process of an older matome may still run, which knows no sources of the type \"push\" and no `deletes`. Upgrade all of \
         them, run `matome migrate`, and try again.",
        "\"push\" 型や `deletes` を知らない古い版の matome がまだ動いているかもしれません。すべてを新しくし、`matome migrate` を実行\
         してから、もう一度試してください。",
    )))
}

/// Brings the schedule and the lane of a source in line with it.
pub(crate) async fn align(
    conn: &mut Conn<'_>,
    id: i64,
    fields: &SourceFields,
    now: Timestamp,
) -> Result<(), StoreError> {
    let config = parsed(fields.source_type, &fields.config);
    let options = config.as_ref().and_then(ParsedConfig::schedule).cloned().unwrap_or_default();
    match options.plan(Some(fields.fetch_interval)) {
        None => {
            matome_store::schedules::remove(conn, LaneKind::Source, id).await?;
        }
        Some(plan) => {
            let is_runnable = config.as_ref().is_some_and(|config| !config.is_draft());
            let is_enabled = fields.status == SourceStatus::Active && is_runnable;
            matome_store::schedules::upsert(conn, LaneKind::Source, id, &plan, is_enabled, now).await?;
        }
    }
    let share = config.as_ref().and_then(ParsedConfig::common).map(|common| common.share).unwrap_or_default();
    matome_store::lanes::set_share(conn, LaneKind::Source, id, share).await?;
    let host = config.as_ref().and_then(ParsedConfig::host);
    matome_store::hosts::set(conn, LaneKind::Source, id, host.as_ref()).await?;
    let is_paused = fields.status == SourceStatus::Inactive || removals::holds(conn, id).await?;
    matome_store::lanes::set_paused(conn, LaneKind::Source, id, is_paused, now).await.map(drop)
}

fn name_taken(err: StoreError) -> ApiError {
    match err {
        StoreError::Unique { constraint, .. } if constraint.contains("name") => {
            ApiError::field("name", Message::NameTaken { noun: "data source" })
        }
        other => other.into(),
    }
}

async fn find(call: &Call) -> Result<DataSource> {
    let id = call.id(NOUN)?;
    let mut reader = call.state.db.read().await?;
    data_sources::find(&mut reader.conn(), id).await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))
}

async fn find_source(call: Call) -> Result<Response> {
    Ok(json_answer(StatusCode::OK, &view(find(&call).await?)))
}

async fn change_source(call: Call, partial: bool) -> Result<Response> {
    let current = find(&call).await?;
    let kept = {
        let mut reader = call.state.db.read().await?;
        secrets::paths(&mut reader.conn(), LaneKind::Source, current.id).await?
    };
    let changes = read_changes(&call, partial, Some((&current, &kept))).await?;
    crate::after::refuse_rename(&call, LaneKind::Source, &current.name, &changes.name).await?;
    let (vault, now, id) = (call.state.vault.clone(), call.state.clock.now(), current.id);
    let written = call.state.db.write(move |conn| {
        Box::pin(async move {
            // Source, schedule, lane: the order in which everybody locks them.
            let Some(current) = data_sources::find_for_update(conn, id).await? else { return Ok(Written::Missing) };
            let (before, source_type) = (current.config.clone(), current.source_type);
            let fields = SourceFields {
                name: changes.name.or(current.name),
                source_type: changes.source_type.or(current.source_type),
                description: changes.description.or_nullable(current.description),
                status: changes.status.or(current.status),
                config: changes.config.as_ref().map_or(current.config, |checked| checked.stored.clone()),
                fetch_interval: changes.fetch_interval.or(current.fetch_interval),
            };
            if is_ahead(conn, &fields).await? {
                return Ok(Written::TooSoon);
            }
            let what = match fields.source_type == source_type {
                true => change(&canonical(&before), &canonical(&fields.config)),
                false => Change::Identity(vec!["source_type"]),
            };
            let on_change = match &what {
                Change::Identity(options) => match ask(conn, id, options, changes.on_change).await? {
                    Ok(on_change) => on_change,
                    Err(asked) => return Ok(Written::Asks(asked)),
                },
                Change::Besides | Change::Reading => None,
            };
            let changed_at = now.max(current.updated_at + TimeDelta::microseconds(1));
            data_sources::update(conn, id, &fields, what == Change::Besides, changed_at).await?;
            if let Some(checked) = &changes.config {
                secrets::forget_others(conn, LaneKind::Source, id, &checked.secret_paths).await?;
                for (path, secret) in &checked.secrets {
                    secrets::save(conn, &vault, LaneKind::Source, id, path, secret).await?;
                }
            }
            if on_change == Some(OnChange::Reset) {
                removals::reset(conn, id, true, now).await?;
            }
            align(conn, id, &fields, now).await?;
            Ok(data_sources::find(conn, id).await?.map_or(Written::Missing, |source| Written::Done(Box::new(source))))
        })
    });
    let source = match written.await.map_err(name_taken)? {
        Written::Done(source) => *source,
        Written::Missing => return Err(ApiError::NotFound(Message::NoMatch { noun: NOUN })),
        Written::TooSoon => return Err(upgrade_first()),
        Written::Asks(asked) => return Err(ApiError::field("on_change", Message::Said(asked))),
    };
    call.state.bus.wake(Queue::Acquisition);
    Ok(json_answer(StatusCode::OK, &view(source)))
}

/// What became of a change.
enum Written {
    Missing,
    /// It becomes one that processes of an older binary cannot read.
    TooSoon,
    /// It was not made: the client has to say what becomes of the records.
    Asks(Words),
    Done(Box<DataSource>),
}

/// What becomes of the records that are stored: as the client says; `None` when there are none.
async fn ask(
    conn: &mut Conn<'_>,
    id: i64,
    options: &[&str],
    given: Given<OnChange>,
) -> Result<Result<Option<OnChange>, Words>, StoreError> {
    let stored = counters::of_source(conn, counters::ACQUIRED_DATA, id).await?;
    // Records of the original application have no identity before the first read: it will go by the config of that time.
    let has_identity = adoption::fill::pending(conn, id).await?.is_none();
    if stored <= 0 || !has_identity || removals::holds(conn, id).await? {
        return Ok(Ok(None));
    }
    if let Given::Value(on_change) = given {
        return Ok(Ok(Some(on_change)));
    }
    let options = options.iter().map(|option| format!("`{option}`")).collect::<Vec<_>>().join(", ");
    Ok(Err(Words::new(
        format!(
            "{stored} records are stored, and {options} decides what is read or what makes records the same. Say what \
             becomes of them: \"full\" keeps them and reads all from the start, \"reset\" removes them."
        ),
        format!(
            "{stored} 件のレコードが保存されており、{options} は何を読むか、何を同じレコードとするかを決めます。それらをどうするか\
             指定してください: \"full\" は残して最初から読み直し、\"reset\" は取り除きます。"
        ),
    )))
}

/// A config as all are compared: PostgreSQL writes JSON in its own way.
fn canonical(config: &RawValue) -> String {
    let limits = Limits { record_bytes: usize::MAX, keys: usize::MAX, ..Limits::default() };
    let canonical = Canonicaliser::new(limits).canonicalise(config.get().as_bytes()).map(|done| done.text.to_owned());
    canonical.unwrap_or_else(|_| config.get().to_owned())
}

async fn delete_source(call: Call) -> Result<Response> {
    let (id, now) = (call.id(NOUN)?, call.state.clock.now());
    let written = call.state.db.write(move |conn| {
        Box::pin(async move {
            if !data_sources::mark_deleted(conn, id, now).await? {
                return Ok(false);
            }
            matome_store::schedules::remove(conn, LaneKind::Source, id).await?;
            tasks::cancel_all(conn, LaneKind::Source, id, now).await?;
            matome_store::hosts::forget_limit(conn, LaneKind::Source, id).await?;
            Ok(true)
        })
    });
    if written.await? { Ok(no_content()) } else { Err(ApiError::NotFound(Message::NoMatch { noun: NOUN })) }
}

async fn run_source(call: Call) -> Result<Response> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, true);
    let full = fields.boolean("full").or(false);
    let confirm_deletes = fields.boolean("confirm_deletes").or(false);
    let priority = fields.choice("priority", false, Priority::parse).or(Priority::High);
    let errors = fields.errors;
    let id = runnable(&call, errors).await?;
    start(&call, id, priority, run_payload(full, confirm_deletes)).await
}

async fn revalidate_source(call: Call) -> Result<Response> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, true);
    let since = match fields.text_or_null("since") {
        Given::Value(text) => match time(&text) {
            Some(since) => Some(since),
            None => {
                fields.errors.add(&["since"], Message::FilterTime);
                None
            }
        },
        Given::Absent | Given::Null => None,
    };
    let apply = fields.boolean("apply").or(false);
    let priority = fields.choice("priority", false, Priority::parse).or(Priority::High);
    let errors = fields.errors;
    let id = runnable(&call, errors).await?;
    start(&call, id, priority, tasks::only_stored(since, apply)).await
}

/// The id of a source that can be run, when nothing is wrong with the request either.
async fn runnable(call: &Call, errors: FieldErrors) -> Result<i64> {
    let source = find(call).await?;
    errors.into_result()?;
    check_runnable(&source)?;
    if source.status == SourceStatus::Inactive {
        return Err(ApiError::field("status", Message::PausedCannotRun));
    }
    Ok(source.id)
}

/// Queues a task by hand.
async fn start(call: &Call, id: i64, priority: Priority, payload: Box<RawValue>) -> Result<Response> {
    let now = call.state.clock.now();
    let queued = call.state.db.write(move |conn| {
        Box::pin(async move {
            // Nothing is queued for a source that is being deleted.
            if data_sources::find_for_update(conn, id).await?.is_none() {
                return Ok(None);
            }
            let new = NewTask { priority: Some(priority), payload, ..NewTask::manual(LaneKind::Source, id, now) };
            tasks::enqueue(conn, &new, now).await.map(Some)
        })
    });
    let queued = queued.await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    accepted(call, Queue::Acquisition, queued.task.id).await
}

/// What a run by hand asks for; one that asks for nothing is as all others.
fn run_payload(full: bool, confirm_deletes: bool) -> Box<RawValue> {
    let asked = [("full", full), ("confirm_deletes", confirm_deletes)];
    let options: BTreeMap<&str, bool> = asked.into_iter().filter(|(_, asked)| *asked).collect();
    to_raw_value(&options).expect("an object of booleans is JSON")
}

async fn reset_source(call: Call) -> Result<Response> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, true);
    let data = fields.boolean("data").or(false);
    let errors = fields.errors;
    let id = find(&call).await?.id;
    errors.into_result()?;
    let now = call.state.clock.now();
    let reset = call.state.db.write(move |conn| Box::pin(async move { removals::reset(conn, id, data, now).await }));
    let status = match reset.await? {
        Reset::Missing => return Err(ApiError::NotFound(Message::NoMatch { noun: NOUN })),
        Reset::Done => StatusCode::OK,
        Reset::Removing => StatusCode::ACCEPTED,
    };
    Ok(json_answer(status, &view(find(&call).await?)))
}

/// Refuses drafts and configs that do not validate, naming what is missing.
pub(crate) fn check_runnable(source: &DataSource) -> Result<()> {
    let filled = config::filled_in(&source.config, &secret_paths(source.config.get()));
    let mut errors = FieldErrors::default();
    match validate_config(source.source_type, filled.get()) {
        Ok(config) if config.is_draft() => {
            let needs = match source.source_type {
                SourceType::File => "`path`",
                SourceType::Api | SourceType::Websocket => "`url`",
                SourceType::Database => "`engine`, where it is, and `table` or `query`",
                SourceType::Push => "`format`, for example \"auto\"",
            };
            errors.add(&["config"], Message::DraftCannotRun { needs });
        }
        Ok(_) => {}
        Err(faults) => add_faults(&mut errors, faults),
    }
    errors.into_result()
}

async fn set_status(call: Call, status: SourceStatus) -> Result<Response> {
    let (id, now) = (call.id(NOUN)?, call.state.clock.now());
    let written = call.state.db.write(move |conn| {
        Box::pin(async move {
            let Some(current) = data_sources::find_for_update(conn, id).await? else { return Ok(None) };
            let fields = SourceFields {
                name: current.name,
                source_type: current.source_type,
                description: current.description,
                status,
                config: current.config,
                fetch_interval: current.fetch_interval,
            };
            let changed_at = now.max(current.updated_at + TimeDelta::microseconds(1));
            data_sources::set_status(conn, id, status, changed_at).await?;
            align(conn, id, &fields, now).await?;
            data_sources::find(conn, id).await
        })
    });
    let source = written.await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    call.state.bus.wake(Queue::Acquisition);
    Ok(json_answer(StatusCode::OK, &view(source)))
}

async fn test_source(call: Call) -> Result<Response> {
    let source = find(&call).await?;
    check_runnable(&source)?;
    let body = call.body()?;
    let mut fields = Fields::new(&body, true);
    let count = fields.integer("records", MAX_TEST_RECORDS).or(TEST_RECORDS);
    fields.errors.into_result()?;
    let language = language_of(&call.headers);
    let (revealed, schema) = {
        let mut reader = call.state.db.read().await?;
        let mut conn = reader.conn();
        let schema = source_schemas::current(&mut conn, source.id, "").await?;
        let revealed = match reveal(&mut conn, &call.state.vault, &source).await {
            Ok(revealed) => revealed,
            Err(RevealError::Store(err)) => return Err(err.into()),
            Err(RevealError::Credentials(message)) => {
                let error = TrialError { message, causes: Vec::new(), position: None, help: None };
                return Ok(trial::answer(language, Err::<(), _>(error)));
            }
        };
        (revealed, schema)
    };
    let count = usize::try_from(count).unwrap_or_default();
    let limit = call.state.settings.trial_limit;
    let keeper = Arc::new(Keeper::new(call.state.db.clone(), call.state.vault.clone(), revealed.owner));
    let (registry, source_type) = (&call.state.registry, source.source_type);
    let tried = sample(registry, source_type, revealed.config.get(), schema, Some(keeper), count, limit).await;
    Ok(trial::answer(language, tried.map(|sample| sample.spoken(language)).map_err(Into::into)))
}

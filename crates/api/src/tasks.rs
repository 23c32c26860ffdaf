//! Tasks of both queues: lists, `cancel` and `retry`.

use axum::response::Response;
use http::{Method, StatusCode};
use matome_bus::TaskEvent;
use matome_model::clock::iso8601;
use matome_model::kept_error;
use matome_model::task::{LaneKind, Priority, Queue, TaskStatus, Trigger};
use matome_store::listing::Query;
use matome_store::tasks::{self, Queued, Retried, TaskRow};
use matome_store::{aggregation_sources, data_sources, task_history};
use matome_tasks::trace;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::auth::Permission::{Read, Write};
use crate::body::{Fields, Given};
use crate::endpoint::{Call, Endpoint, json_answer, json_at};
use crate::error::{ApiError, Result};
use crate::list::List;
use crate::message::{Language, Message, language_of};
use crate::openapi::{Answer, OperationDoc};

/// A task as clients see it.
#[derive(Serialize)]
struct TaskView {
    id: i64,
    source: i64,
    task_id: Uuid,
    status: TaskStatus,
    trigger: Trigger,
    priority: Priority,
    stream: String,
    attempt: i64,
    retry_of: Option<i64>,
    cancel_requested: bool,
    run_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    progress: Option<Box<RawValue>>,
    result: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
    created_at: String,
}

fn view(task: TaskRow, language: Language) -> TaskView {
    TaskView {
        id: task.id,
        source: task.object_id,
        task_id: task.task_uuid,
        status: task.status,
        trigger: task.cause,
        priority: task.priority,
        stream: task.stream,
        attempt: task.attempt,
        retry_of: task.retry_of,
        cancel_requested: task.cancel_requested_at.is_some(),
        run_at: iso8601(task.run_at),
        started_at: task.started_at.map(iso8601),
        finished_at: task.finished_at.map(iso8601),
        progress: task.progress,
        result: task.result,
        error: task.error.map(|error| kept_error::shown(error, language)),
        created_at: iso8601(task.created_at),
    }
}

/// What differs between the two queues.
struct Resource {
    queue: Queue,
    kind: LaneKind,
    noun: &'static str,
    paths: [&'static str; 5],
    ids: [&'static str; 5],
    names: [&'static str; 5],
}

const ACQUISITION: Resource = Resource {
    queue: Queue::Acquisition,
    kind: LaneKind::Source,
    noun: "AcquisitionTask",
    paths: [
        "/api/acquisition/tasks/",
        "/api/acquisition/tasks/{id}/",
        "/api/acquisition/tasks/{id}/cancel/",
        "/api/acquisition/tasks/{id}/retry/",
        "/api/acquisition/tasks/retry/",
    ],
    ids: [
        "acquisition_tasks_list",
        "acquisition_tasks_retrieve",
        "acquisition_tasks_cancel",
        "acquisition_tasks_retry",
        "acquisition_tasks_retry_failed",
    ],
    names: [
        "Acquisition Task List",
        "Acquisition Task Instance",
        "Acquisition Task Cancel",
        "Acquisition Task Retry",
        "Acquisition Tasks Retry",
    ],
};
const AGGREGATION: Resource = Resource {
    queue: Queue::Aggregation,
    kind: LaneKind::Aggregation,
    noun: "AggregationTask",
    paths: [
        "/api/aggregation/tasks/",
        "/api/aggregation/tasks/{id}/",
        "/api/aggregation/tasks/{id}/cancel/",
        "/api/aggregation/tasks/{id}/retry/",
        "/api/aggregation/tasks/retry/",
    ],
    ids: [
        "aggregation_tasks_list",
        "aggregation_tasks_retrieve",
        "aggregation_tasks_cancel",
        "aggregation_tasks_retry",
        "aggregation_tasks_retry_failed",
    ],
    names: [
        "Aggregation Task List",
        "Aggregation Task Instance",
        "Aggregation Task Cancel",
        "Aggregation Task Retry",
        "Aggregation Tasks Retry",
    ],
};

/// The endpoints of both queues.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    [&ACQUISITION, &AGGREGATION].into_iter().flat_map(of).collect()
}

fn of(resource: &'static Resource) -> [Endpoint; 5] {
    let listing = task_history::listing(resource.queue);
    let one = Answer::One(resource.noun);
    let doc = |n: usize, summary, status, answer| OperationDoc::new(resource.ids[n], summary, status, answer);
    let endpoint = |n: usize| Endpoint::json(resource.paths[n], resource.names[n]);
    [
        endpoint(0)
            .on(Method::GET, Read, move |call| async move {
                List { listing, references: Some(resource.kind), counter: None }
                    .page(&call, |task| view(task, language_of(&call.headers)))
                    .await
            })
            .doc(doc(0, "List tasks, newest first.", 200, Answer::Page(resource.noun)).filtered_by(listing)),
        endpoint(1)
            .on(Method::GET, Read, move |call| async move {
                let task = find(&call, resource.queue, call.id(resource.noun)?).await?;
                Ok(json_answer(StatusCode::OK, &view(task, language_of(&call.headers))))
            })
            .doc(doc(1, "Show a task.", 200, one)),
        endpoint(2).on(Method::POST, Write, move |call| cancel_task(call, resource)).doc(doc(
            2,
            "Cancel a task: a waiting one at once, a running one within two seconds.",
            200,
            one,
        )),
        endpoint(3).on(Method::POST, Write, move |call| retry_task(call, resource)).doc(doc(
            3,
            "Run a failed or cancelled task again, as a new task.",
            202,
            one,
        )),
        endpoint(4).on(Method::POST, Write, move |call| retry_failed(call, resource)).doc(
            doc(4, "Run again what failed last of each source, or of one.", 202, Answer::One("TasksRetried"))
                .taking("TasksRetryRequest"),
        ),
    ]
}

fn noun(queue: Queue) -> &'static str {
    match queue {
        Queue::Acquisition => ACQUISITION.noun,
        Queue::Aggregation => AGGREGATION.noun,
    }
}

async fn find(call: &Call, queue: Queue, id: i64) -> Result<TaskRow> {
    let mut reader = call.state.db.read().await?;
    let row = task_history::listing(queue).find(&mut reader.conn(), &Query::default(), id).await?;
    let row = row.ok_or(ApiError::NotFound(Message::NoMatch { noun: noun(queue) }))?;
    Ok(TaskRow::try_from(&row)?)
}

/// 202 with the task and where it is found; wakes the workers.
pub(crate) async fn accepted(call: &Call, queue: Queue, task_id: i64) -> Result<Response> {
    call.state.bus.wake(queue);
    let task = find(call, queue, task_id).await?;
    trace::accepted(queue, &Queued { id: task.id, uuid: task.task_uuid, cause: task.cause }, call.state.clock.now());
    call.state.bus.tell(TaskEvent { queue, task_id, status: task.status });
    let location = format!("/api/{queue}/tasks/{task_id}/");
    Ok(json_at(StatusCode::ACCEPTED, &location, &view(task, language_of(&call.headers))))
}

async fn cancel_task(call: Call, resource: &'static Resource) -> Result<Response> {
    // First of all: is it there, and of this queue?
    let task = find(&call, resource.queue, call.id(resource.noun)?).await?;
    if task.status.is_terminal() {
        return Err(ApiError::Conflict(Message::TaskEnded { id: task.id, status: task.status.as_str() }));
    }
    let (id, now) = (task.id, call.state.clock.now());
    call.state.db.write(move |conn| Box::pin(async move { tasks::cancel(conn, id, now).await })).await?;
    call.state.bus.stop(resource.queue);
    let task = find(&call, resource.queue, id).await?;
    call.state.bus.tell(TaskEvent { queue: resource.queue, task_id: id, status: task.status });
    Ok(json_answer(StatusCode::OK, &view(task, language_of(&call.headers))))
}

/// How many tasks one request may ask for, and asks for when it does not say.
const MOST_RETRIED: i64 = 10_000;
const RETRIED: i64 = 1_000;
/// Retried in one transaction.
const RETRIED_AT_ONCE: usize = 100;

/// `priority` of a run by hand, for the document.
pub(crate) fn run_priority() -> serde_json::Value {
    let words: Vec<&str> = Priority::ALL.iter().map(|priority| priority.as_str()).collect();
    json!({
        "type": "string", "enum": words, "default": Priority::High.as_str(),
        "description": "How soon it runs; critical: next, before all that waits.",
    })
}

/// The body of a retry in bulk, for the document.
pub(crate) fn bulk_retry_request() -> serde_json::Value {
    json!({"type": "object", "properties": {
        "source": {
            "type": ["integer", "null"], "format": "int64", "default": null,
            "description": "Of this source or aggregation alone.",
        },
        "limit": {
            "type": "integer", "minimum": 1, "maximum": MOST_RETRIED, "default": RETRIED,
            "description": "Tasks at most.",
        },
    }})
}

/// The answer to it.
pub(crate) fn bulk_retry_answer() -> serde_json::Value {
    json!({"type": "object", "required": ["retried", "more"], "properties": {
        "retried": {"type": "integer", "description": "New tasks."},
        "more": {"type": "boolean", "description": "The limit was reached: ask again."},
    }})
}

#[derive(Serialize)]
struct RetriedView {
    retried: usize,
    more: bool,
}

async fn retry_failed(call: Call, resource: &'static Resource) -> Result<Response> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, true);
    let source = match fields.integer_or_null("source", i64::MAX) {
        Given::Value(id) => Some(id),
        Given::Absent | Given::Null => None,
    };
    let limit = fields.integer("limit", MOST_RETRIED).or(RETRIED);
    if limit == 0 {
        fields.errors.add(&["limit"], Message::TooSmall { least: 1 });
    }
    fields.errors.into_result()?;
    if let Some(id) = source {
        find_object(&call, resource.kind, id).await?;
    }
    let (limit, kind) = (usize::try_from(limit).unwrap_or(usize::MAX), resource.kind);
    let (mut retried, mut below) = (0, i64::MAX);
    while retried < limit {
        let (now, at_once) = (call.state.clock.now(), RETRIED_AT_ONCE.min(limit - retried));
        let some = call.state.db.write(move |conn| {
            Box::pin(async move { tasks::retry_failed(conn, kind, source, below, at_once, now).await })
        });
        let some = some.await?;
        retried += some.tasks.len();
        some.tasks.iter().for_each(|task| trace::accepted(resource.queue, task, now));
        call.state.bus.wake(resource.queue);
        match some.next_below {
            Some(next) => below = next,
            None => return Ok(json_answer(StatusCode::ACCEPTED, &RetriedView { retried, more: false })),
        }
    }
    Ok(json_answer(StatusCode::ACCEPTED, &RetriedView { retried, more: true }))
}

/// Refuses the id of what is not there.
async fn find_object(call: &Call, kind: LaneKind, id: i64) -> Result<()> {
    let mut reader = call.state.db.read().await?;
    let mut conn = reader.conn();
    let (is_there, noun) = match kind {
        LaneKind::Source => (data_sources::find(&mut conn, id).await?.is_some(), "DataSource"),
        LaneKind::Aggregation => (aggregation_sources::find(&mut conn, id).await?.is_some(), "AggregationSource"),
    };
    if is_there { Ok(()) } else { Err(ApiError::NotFound(Message::NoMatch { noun })) }
}

async fn retry_task(call: Call, resource: &'static Resource) -> Result<Response> {
    let task = find(&call, resource.queue, call.id(resource.noun)?).await?;
    let (id, now, kind) = (task.id, call.state.clock.now(), resource.kind);
    let retried =
        call.state.db.write(move |conn| Box::pin(async move { tasks::retry_ended(conn, id, kind, now).await })).await?;
    match retried {
        Retried::Accepted(queued) => accepted(&call, resource.queue, queued.task.id).await,
        Retried::Missing => Err(ApiError::NotFound(Message::NoMatch { noun: resource.noun })),
        Retried::Refused(task) => {
            Err(ApiError::Conflict(Message::TaskNotEnded { id: task.id, status: task.status.as_str() }))
        }
    }
}

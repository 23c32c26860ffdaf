//! What is sent to sources of the type `push`: `/api/acquisition/sources/{id}/records/` for those who have a token,
//! `webhook/` for those who sign what they send.
//!
//! An answer of 202 means that everything is kept: the body and the task that will read it are one transaction.

use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, header};
use matome_bus::TaskEvent;
use matome_connector::file::Format;
use matome_connector::push::{Delivery, PushConfig, Refusal};
use matome_connector::{ParsedConfig, secret_paths, validate_config};
use matome_model::field_error::Words;
use matome_model::source::SourceType;
use matome_model::task::{LaneKind, Queue, TaskStatus};
use matome_store::data_sources::{self, DataSource};
use matome_store::pushes::{self, Accepted, NewPush, Push};
use matome_store::secrets;
use matome_tasks::trace;
use serde::Serialize;
use serde_json::{Value, json};

use crate::auth::Permission::{Public, Write};
use crate::config;
use crate::endpoint::{Call, Endpoint, json_at};
use crate::error::{ApiError, Result};
use crate::intake::{self, Received, Way};
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc, add_header, reference};
use crate::sources::check_runnable;

const NOUN: &str = "DataSource";
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Seconds after which a sender may try again for whose source too much waits.
const FULL_RETRY_SECS: u64 = 60;

/// A push as its sender sees it.
#[derive(Serialize)]
struct PushView {
    id: i64,
    /// The task that reads it.
    task: i64,
    /// `waiting`, or `read`: every record is stored or in quarantine.
    status: &'static str,
    /// How many there are.
    records: i64,
}

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let records = OperationDoc::new(
        "acquisition_sources_records_create",
        "Send records to a source of the type `push`: kept before the answer, read by a task.",
        202,
        Answer::One("Push"),
    );
    let webhook = OperationDoc::new(
        "acquisition_sources_webhook_create",
        "Deliver a webhook to a source of the type `push`, signed as its `webhook` says.",
        202,
        Answer::One("Push"),
    );
    vec![
        Endpoint::json("/api/acquisition/sources/{id}/records/", "Data Source Records")
            .on(Method::POST, Write, |call| async move { counted(Way::Records, receive(call).await) })
            .streamed()
            .doc(records.amended(describe_records)),
        Endpoint::json("/api/acquisition/sources/{id}/webhook/", "Data Source Webhook")
            .on(Method::POST, Public, |call| async move { counted(Way::Webhook, deliver(call).await) })
            .streamed()
            .doc(webhook.amended(describe_webhook)),
    ]
}

/// Begins the metric at zero for each outcome.
pub(crate) fn begin_metrics() {
    for way in [Way::Records, Way::Webhook] {
        for outcome in ["accepted", "duplicate", "conflict", "refused", "unauthenticated", "busy", "failed"] {
            metrics::counter!("matome_push_requests_total", "way" => way.as_str(), "outcome" => outcome).increment(0);
        }
    }
}

fn counted(way: Way, answered: Result<(Response, &'static str)>) -> Result<Response> {
    let outcome = match &answered {
        Ok((_, outcome)) => *outcome,
        Err(err) => match err.status() {
            StatusCode::UNPROCESSABLE_ENTITY => "conflict",
            StatusCode::UNAUTHORIZED => "unauthenticated",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "busy",
            status if status.is_client_error() => "refused",
            _ => "failed",
        },
    };
    metrics::counter!("matome_push_requests_total", "way" => way.as_str(), "outcome" => outcome).increment(1);
    answered.map(|(response, _)| response)
}

async fn receive(mut call: Call) -> Result<(Response, &'static str)> {
    let source = find(&call).await?;
    if source.source_type != SourceType::Push {
        let source_type = source.source_type;
        return Err(ApiError::field(
            "source_type",
            Message::Said(Words::new(
                format!(
                    "Records can be sent to sources of the type \"push\"; this one reads by itself (\"{source_type}\")."
                ),
                format!(
                    "レコードを送れるのは \"push\" 型のデータソースだけです。これは自分で読みに行きます (\"{source_type}\")。"
                ),
            )),
        ));
    }
    check_runnable(&source)?;
    let filled = config::filled_in(&source.config, &secret_paths(source.config.get()));
    let push_config = parsed(filled.get()).ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    let key = match one(&call.headers, IDEMPOTENCY_KEY) {
        Ok(key) if key.is_none_or(is_key) => key.map(str::to_owned),
        _ => {
            let words = Words::new(
                "Send one key of 1 to 255 visible ASCII characters, a UUID for example, or none.",
                "1〜255 文字の表示できる ASCII 文字のキー (UUID など) を一つ指定するか、指定しないでください。",
            );
            return Err(ApiError::field(IDEMPOTENCY_KEY, Message::Said(words)));
        }
    };
    let format = format_of(&push_config, &call.headers)?;
    let is_gzip = intake::is_gzip(&call.headers)?;
    let limit = call.state.settings.push_limit;
    let body = call.take_body();
    let received = call.state.intake.read(body, Way::Records, limit).await?;
    let delivery = Delivery { key, key_decides: false };
    let headers = push_config.headers_of_records(&call.headers);
    keep(&call, source.id, &push_config, Sent { format, is_gzip, headers, received, delivery }).await
}

/// Until the sender is known it learns nothing but that the signature is not good; the log has the reason.
async fn deliver(mut call: Call) -> Result<(Response, &'static str)> {
    let nothing = || ApiError::NotFound(Message::NoMatch { noun: NOUN });
    let source = find(&call).await?;
    let push_config = match source.source_type {
        SourceType::Push => reveal(&call, &source).await?,
        _ => None,
    };
    let push_config = push_config.ok_or_else(nothing)?;
    let webhook = push_config.webhook.as_ref().ok_or_else(nothing)?;
    let headers = call.headers.clone();
    let header = |name: &str| one(&headers, name).ok().flatten();
    webhook.expects(header).map_err(|why| refuse(&call, source.id, why))?;
    let limit = call.state.settings.push_limit;
    let body = call.take_body();
    let received = call.state.intake.read(body, Way::Webhook, limit).await?;
    let now = call.state.clock.now();
    let delivery = webhook.verify(header, &received.bytes, now).map_err(|why| refuse(&call, source.id, why))?;
    let format = format_of(&push_config, &call.headers)?;
    let is_gzip = intake::is_gzip(&call.headers)?;
    let headers = push_config.headers_of_delivery(&headers);
    keep(&call, source.id, &push_config, Sent { format, is_gzip, headers, received, delivery }).await
}

fn refuse(call: &Call, source_id: i64, why: Refusal) -> ApiError {
    if let Some(kept_back) = call.state.intake.refused() {
        tracing::warn!(source.id = source_id, reason = %why, kept_back, "a webhook of source {source_id} was refused");
    }
    ApiError::Unauthenticated(Message::BadSignature)
}

/// What came of a sender that may send.
struct Sent {
    format: Format,
    is_gzip: bool,
    /// Those that the source keeps.
    headers: Option<String>,
    received: Received,
    delivery: Delivery,
}

async fn keep(call: &Call, source_id: i64, push_config: &PushConfig, sent: Sent) -> Result<(Response, &'static str)> {
    let Sent { format, is_gzip, headers, received, delivery: Delivery { key, key_decides } } = sent;
    let limit = call.state.settings.push_limit;
    let (received, records) = intake::look_through(received, is_gzip, push_config.document(format), limit).await?;
    let now = call.state.clock.now();
    let kept = call.state.db.write_page(move |conn| {
        Box::pin(async move {
            let identity = if key_decides { pushes::Identity::Key } else { pushes::Identity::Body };
            let new =
                NewPush::new(source_id, key, identity, format.as_str(), received.bytes, records).with_headers(headers);
            pushes::accept(conn, &new, now).await
        })
    });
    let (push, outcome) = match kept.await? {
        Accepted::New(push, task) => {
            let queue = Queue::Acquisition;
            call.state.bus.wake(queue);
            trace::accepted(queue, &task, now);
            call.state.bus.tell(TaskEvent { queue, task_id: task.id, status: TaskStatus::Pending });
            (push, "accepted")
        }
        Accepted::Known(push) => (push, "duplicate"),
        Accepted::Other(push) => return Err(ApiError::Unprocessable(Message::KeyOfOther { id: push.id })),
        Accepted::Full { pushes, bytes } => {
            return Err(ApiError::TooMany { message: Message::TooMuchWaits { pushes, bytes }, secs: FULL_RETRY_SECS });
        }
        Accepted::NoSource => return Err(ApiError::NotFound(Message::NoMatch { noun: NOUN })),
    };
    Ok((answer(push), outcome))
}

fn answer(Push { id, task_id, record_count, is_read }: Push) -> Response {
    let status = if is_read { "read" } else { "waiting" };
    let view = PushView { id, task: task_id, status, records: record_count };
    let location = format!("/api/acquisition/tasks/{task_id}/");
    json_at(if is_read { StatusCode::OK } else { StatusCode::ACCEPTED }, &location, &view)
}

async fn find(call: &Call) -> Result<DataSource> {
    let id = call.id(NOUN)?;
    let mut reader = call.state.db.read().await?;
    data_sources::find(&mut reader.conn(), id).await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))
}

/// The config with its secrets in place, if it is one that takes records.
async fn reveal(call: &Call, source: &DataSource) -> Result<Option<PushConfig>> {
    let mut reader = call.state.db.read().await?;
    let (vault, kind) = (&call.state.vault, LaneKind::Source);
    let revealed = secrets::reveal(&mut reader.conn(), vault, kind, source.id, &source.config).await?;
    Ok(parsed(revealed.get()))
}

fn parsed(config: &str) -> Option<PushConfig> {
    match validate_config(SourceType::Push, config) {
        Ok(ParsedConfig::Push(config)) => Some(*config),
        _ => None,
    }
}

fn format_of(config: &PushConfig, headers: &HeaderMap) -> Result<Format> {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    config.format_of(content_type).map_err(ApiError::MediaType)
}

/// The value of a header, when there is one; an error when there are several, or it is no text.
fn one<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        _ => Err(()),
    }
}

fn is_key(key: &str) -> bool {
    (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Schemas of the OpenAPI document.
pub(crate) fn schemas() -> Value {
    let id = json!({"type": "integer", "format": "int64"});
    json!({
        "Push": {
            "type": "object", "required": ["id", "task", "status", "records"],
            "properties": {
                "id": id, "task": id,
                "status": {
                    "type": "string", "enum": ["waiting", "read"],
                    "description": "`read`: every record is stored, known or in quarantine.",
                },
                "records": {"type": "integer", "description": "Records in it, bad ones included."},
            },
        },
    })
}

fn describe_answers(described: &mut Value) {
    let told = |description: &str, schema: &str| json!({"description": description, "content": {"application/json": {"schema": reference(schema)}}});
    let responses = &mut described["responses"];
    responses["200"] = told("It was sent before, and has been read.", "Push");
    responses["400"] = told("The body is empty or broken, or the source takes no records.", "FieldErrors");
    responses["413"] = told("The body is too large.", "Detail");
    responses["415"] = told("The Content-Type or Content-Encoding is not taken.", "Detail");
    responses["422"] = told("Something else was sent under this key.", "Detail");
    responses["429"] = told("Too much waits to be read: try again after `Retry-After` seconds.", "Detail");
    responses["503"] = told("The server takes as much as it can: try again after `Retry-After` seconds.", "Detail");
}

fn describe_records(described: &mut Value) {
    describe_answers(described);
    let record = json!({"type": "object", "additionalProperties": true});
    let text = json!({"schema": {"type": "string"}});
    described["requestBody"] = json!({"required": true, "content": {
        "application/json": {"schema": {"oneOf": [record, {"type": "array", "items": record}]}},
        "application/x-ndjson": text,
        "text/csv": text,
    }});
    let key = json!({"type": "string", "minLength": 1, "maxLength": 255});
    let what = "What is sent again under the same key is answered as before and not stored again.";
    add_header(described, IDEMPOTENCY_KEY, key, what);
}

fn describe_webhook(described: &mut Value) {
    describe_answers(described);
    let detail = json!({"application/json": {"schema": reference("Detail")}});
    described["responses"]["401"] = json!({"description": "The signature is missing or not valid.", "content": detail});
    let any = json!({"schema": {"type": "object", "additionalProperties": true}});
    described["requestBody"] = json!({"required": true, "content": {"application/json": any}});
}

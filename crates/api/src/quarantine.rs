//! What is done with records in quarantine: their bytes taken away, replayed, discarded.

use axum::body::Body as HttpBody;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use matome_connector::{secret_paths, validate_config};
use matome_model::canonical::Canonicaliser;
use matome_model::source::SourceStatus;
use matome_model::task::Queue;
use matome_store::data_sources;
use matome_store::quarantine::{self, Done, Replay, Unfit, Which};
use matome_tasks::trace;
use serde::Serialize;
use serde_json::{Value, json};

use crate::auth::Permission::{Read, Write};
use crate::body::{Fields, Given};
use crate::config;
use crate::endpoint::{Call, Endpoint, json_answer, no_content};
use crate::error::{ApiError, FieldErrors, Result};
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc, view};
use crate::sources::check_runnable;
use crate::tasks::accepted;

const NOUN: &str = "QuarantinedRecord";
/// Ids that one request may name.
const MAX_IDS: usize = 1_000;
/// Rows that one request by filter looks at; the answer says behind which id to go on.
const MAX_ROWS: i64 = 10_000;
/// Rows of one transaction: with their bytes they may be large.
const REPLAY_BATCH: i64 = 50;
const DISCARD_BATCH: i64 = 500;

/// What was done to many records.
#[derive(Default, Serialize)]
struct DoneView {
    /// How many it was done to.
    done: u64,
    /// How many were left as they are.
    skipped: u64,
    /// Where to go on; null: nothing is left.
    after: Option<i64>,
    /// The tasks that read the replayed ones.
    tasks: Vec<i64>,
}

impl DoneView {
    fn add(&mut self, done: Done) {
        self.done += done.done;
        self.skipped += done.skipped;
        self.tasks.extend(done.tasks.iter().map(|task| task.id));
        self.tasks.sort_unstable();
        self.tasks.dedup();
    }
}

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    const MANY: &str = "QuarantineSelectionRequest";
    let doc = OperationDoc::new;
    let many = Answer::One("QuarantineDone");
    vec![
        Endpoint::json("/api/acquisition/quarantine/replay/", "Quarantine Replay")
            .on(Method::POST, Write, replay_many)
            .doc(
                doc("acquisition_quarantine_replay_many", "Read records in quarantine again.", 202, many).taking(MANY),
            ),
        Endpoint::json("/api/acquisition/quarantine/discard/", "Quarantine Discard")
            .on(Method::POST, Write, discard_many)
            .doc(
                doc("acquisition_quarantine_discard_many", "Remove records from quarantine for good.", 200, many)
                    .taking(MANY),
            ),
        Endpoint::other("/api/acquisition/quarantine/{id}/raw/", "Quarantine Raw").on(Method::GET, Read, raw).doc(doc(
            "acquisition_quarantine_raw",
            "Download the kept bytes of a record in quarantine.",
            200,
            Answer::Bytes,
        )),
        Endpoint::json("/api/acquisition/quarantine/{id}/replay/", "Quarantine Record Replay")
            .on(Method::POST, Write, replay)
            .doc(
                doc(
                    "acquisition_quarantine_replay",
                    "Read a record in quarantine again, as it is kept or corrected.",
                    202,
                    Answer::One("AcquisitionTask"),
                )
                .taking("QuarantineReplayRequest"),
            ),
        Endpoint::json("/api/acquisition/quarantine/{id}/discard/", "Quarantine Record Discard")
            .on(Method::POST, Write, discard)
            .doc(doc(
                "acquisition_quarantine_discard",
                "Remove a record from quarantine for good.",
                204,
                Answer::Empty,
            )),
    ]
}

/// What the OpenAPI document says of bodies and answers.
pub(crate) fn schemas() -> Value {
    let id = json!({"type": "integer", "format": "int64"});
    let text_or_null = json!({"type": ["string", "null"]});
    json!({
        "QuarantineReplayRequest": {
            "type": "object",
            "properties": {"raw": {
                "type": "string", "description": "The corrected record, one JSON object; without it the kept bytes.",
            }},
        },
        "QuarantineSelectionRequest": {
            "type": "object",
            "description": "Either `ids`, or `source` with `reason`, `status` (of those to discard) and `after`.",
            "properties": {
                "ids": {"type": "array", "items": id, "minItems": 1, "maxItems": 1000},
                "source": id, "reason": text_or_null,
                "status": {"type": "string", "enum": ["held", "replayed"], "default": "held"},
                "after": {
                    "type": "integer", "format": "int64", "default": 0,
                    "description": "Go on behind this id: what the answer before gave as `after`.",
                },
            },
        },
        "QuarantineDone": view(json!({
            "done": {"type": "integer"},
            "skipped": {"type": "integer", "description": "Records that were left as they are."},
            "after": {"type": ["integer", "null"], "format": "int64", "description": "Where to go on; null: the end."},
            "tasks": {"type": "array", "items": id},
        })),
    })
}

fn missing() -> ApiError {
    ApiError::NotFound(Message::NoMatch { noun: NOUN })
}

async fn raw(call: Call) -> Result<Response> {
    let id = call.id(NOUN)?;
    let bytes = quarantine::raw(&mut call.state.db.read().await?.conn(), id).await?.ok_or_else(missing)?;
    let mut response = Response::new(HttpBody::from(bytes));
    let headers = response.headers_mut();
    // Never shown by a browser: the bytes are those of a stranger.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let name = format!("attachment; filename=\"quarantine-{id}.bin\"");
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_str(&name).expect("digits are fit for a header"));
    Ok(response)
}

async fn replay(call: Call) -> Result<Response> {
    let id = call.id(NOUN)?;
    let corrected = corrected(&call)?;
    let of_rows = check_sources(&call, &[id]).await?;
    let now = call.state.clock.now();
    let replayed = call.state.db.write(move |conn| {
        Box::pin(async move {
            let corrected = corrected.as_deref().map(str::as_bytes);
            quarantine::replay(conn, id, corrected, &of_rows, now).await
        })
    });
    match replayed.await? {
        Replay::Missing => Err(missing()),
        Replay::Unfit(unfit) => Err(ApiError::Conflict(why_unfit(id, unfit))),
        Replay::Accepted { task_id } => accepted(&call, Queue::Acquisition, task_id).await,
    }
}

fn why_unfit(id: i64, unfit: Unfit) -> Message {
    match unfit {
        Unfit::Replaying => Message::Replaying { id },
        Unfit::Replayed => Message::Replayed { id },
        Unfit::Cut { kept, length } => Message::RawCut { kept, length },
        Unfit::NoObject => Message::RawNoObject,
        Unfit::Parent => Message::RawOfParent,
    }
}

/// The corrected record of the body, if there is one.
fn corrected(call: &Call) -> Result<Option<String>> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, true);
    let raw = fields.verbatim("raw");
    fields.errors.into_result()?;
    let Given::Value(raw) = raw else { return Ok(None) };
    // It would come straight back: say so now.
    match Canonicaliser::default().canonicalise(raw.as_bytes()) {
        Ok(_) => Ok(Some(raw)),
        Err(rejected) => Err(ApiError::field("raw", Message::BadRecord { what: rejected.words() })),
    }
}

/// Refuses when a source of these records could not read them: paused, a draft, a config that does not validate. Returns the
/// sources whose records need not be JSON.
async fn check_sources(call: &Call, ids: &[i64]) -> Result<Vec<i64>> {
    let sources = quarantine::sources_of(&mut call.state.db.read().await?.conn(), ids).await?;
    let mut of_rows = Vec::new();
    for id in sources {
        of_rows.extend(check_source(call, id).await?.then_some(id));
    }
    Ok(of_rows)
}

async fn check_source(call: &Call, id: i64) -> Result<bool> {
    let source = data_sources::find(&mut call.state.db.read().await?.conn(), id).await?.ok_or_else(missing)?;
    check_runnable(&source)?;
    if source.status == SourceStatus::Inactive {
        return Err(ApiError::field("status", Message::PausedCannotRun));
    }
    let filled = config::filled_in(&source.config, &secret_paths(source.config.get()));
    Ok(validate_config(source.source_type, filled.get()).is_ok_and(|config| config.row_reader().is_some()))
}

async fn discard(call: Call) -> Result<Response> {
    let id = call.id(NOUN)?;
    let which = Which::Ids(vec![id]);
    let done =
        call.state.db.write(move |conn| Box::pin(async move { quarantine::discard(conn, &which).await })).await?;
    match done {
        Done { done: 1, .. } => {
            tracing::info!(quarantine.id = id, "discarded record {id} of the quarantine");
            Ok(no_content())
        }
        Done { last_id: Some(_), .. } => Err(ApiError::Conflict(Message::Replaying { id })),
        Done { .. } => Err(missing()),
    }
}

async fn replay_many(call: Call) -> Result<Response> {
    let selection = selection(&call, false).await?;
    let of_rows = match &selection {
        Selection::Ids(ids) => check_sources(&call, ids).await?,
        Selection::Matching { source_id, .. } => match check_source(&call, *source_id).await? {
            true => vec![*source_id],
            false => Vec::new(),
        },
    };
    let done = in_batches(&call, &selection, &Action::Replay { of_rows }).await?;
    Ok(json_answer(StatusCode::ACCEPTED, &done))
}

async fn discard_many(call: Call) -> Result<Response> {
    let selection = selection(&call, true).await?;
    let done = in_batches(&call, &selection, &Action::Discard).await?;
    if let Selection::Matching { source_id, reason, .. } = &selection {
        tracing::info!(
            source.id = source_id,
            records = done.done,
            reason = reason.as_deref().unwrap_or("any"),
            "discarded {} records of the quarantine",
            done.done
        );
    } else {
        tracing::info!(records = done.done, "discarded {} records of the quarantine", done.done);
    }
    Ok(json_answer(StatusCode::OK, &done))
}

/// Which records a body means.
enum Selection {
    Ids(Vec<i64>),
    Matching { source_id: i64, reason: Option<String>, status: &'static str, after: i64 },
}

/// `{"ids": [...]}`, or `{"source": id, "reason": "...", "after": id}`; with `any_status` also `status`.
async fn selection(call: &Call, any_status: bool) -> Result<Selection> {
    let body = call.body()?;
    let mut fields = Fields::new(&body, true);
    let ids = fields.ids("ids", MAX_IDS);
    let source = fields.integer("source", i64::MAX);
    let reason = fields.text_or_null("reason").or_nullable(None);
    let after = fields.integer("after", i64::MAX).or(0);
    let status = match any_status {
        true => fields.choice("status", false, |word| match word {
            "held" => Some("held"),
            "replayed" => Some("replayed"),
            _ => None,
        }),
        false => Given::Absent,
    };
    let mut errors: FieldErrors = fields.errors;
    let selection = match (ids, source) {
        (Given::Value(ids), Given::Absent) => Some(Selection::Ids(ids)),
        (Given::Absent, Given::Value(source_id)) => {
            let found = data_sources::find(&mut call.state.db.read().await?.conn(), source_id).await?;
            if found.is_none() {
                errors.add(&["source"], Message::FilterReference);
            }
            Some(Selection::Matching { source_id, reason, status: status.or("held"), after })
        }
        _ => {
            errors.add(&["ids"], Message::IdsOrSource);
            None
        }
    };
    errors.into_result()?;
    selection.ok_or_else(|| ApiError::field("ids", Message::IdsOrSource))
}

/// What is done to many.
#[derive(Clone)]
enum Action {
    /// Records of the sources `of_rows` need not be JSON.
    Replay {
        of_rows: Vec<i64>,
    },
    Discard,
}

impl Action {
    /// Rows of one transaction.
    fn batch(&self) -> i64 {
        match self {
            Self::Replay { .. } => REPLAY_BATCH,
            Self::Discard => DISCARD_BATCH,
        }
    }

    async fn take(&self, call: &Call, which: Which) -> Result<Done> {
        let (action, now) = (self.clone(), call.state.clock.now());
        let written = call.state.db.write(move |conn| {
            Box::pin(async move {
                match action {
                    Self::Replay { of_rows } => quarantine::replay_many(conn, &which, &of_rows, now).await,
                    Self::Discard => quarantine::discard(conn, &which).await,
                }
            })
        });
        let done = written.await?;
        if !done.tasks.is_empty() {
            // The first are read while the others are still being put in.
            call.state.bus.wake(Queue::Acquisition);
        }
        done.tasks.iter().for_each(|task| trace::accepted(Queue::Acquisition, task, now));
        Ok(done)
    }
}

/// Does it to the selection, some rows a transaction, up to what one request may do.
async fn in_batches(call: &Call, selection: &Selection, action: &Action) -> Result<DoneView> {
    let batch = action.batch();
    let mut view = DoneView::default();
    match selection {
        Selection::Ids(ids) => {
            for ids in ids.chunks(usize::try_from(batch).unwrap_or(usize::MAX)) {
                view.add(action.take(call, Which::Ids(ids.to_vec())).await?);
            }
        }
        Selection::Matching { source_id, reason, status, after } => {
            let mut after = *after;
            let mut left = MAX_ROWS;
            while left > 0 {
                let (limit, reason) = (batch.min(left), reason.clone());
                let which = Which::Matching { source_id: *source_id, reason, status, after, limit };
                let done = action.take(call, which).await?;
                let looked_at = i64::try_from(done.done + done.skipped).unwrap_or(i64::MAX);
                let last_id = done.last_id;
                view.add(done);
                view.after = last_id.filter(|_| looked_at == limit);
                let Some(last_id) = view.after else { break };
                after = last_id;
                left -= looked_at;
            }
        }
    }
    Ok(view)
}

//! The gaps of a stream: times in which messages may have been sent that nobody can send again.

use axum::response::Response;
use http::{Method, StatusCode};
use matome_connector::websocket::{Gap, gaps_of};
use matome_store::checkpoints::{self, CheckpointKey, LIVE};
use matome_store::data_sources;
use serde::Serialize;
use serde_json::{Value, json};

use crate::auth::Permission::Read;
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::{ApiError, Result};
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc, view as described};

const NOUN: &str = "DataSource";

#[derive(Serialize)]
struct GapsView {
    source: i64,
    /// Since its place in the stream was last forgotten.
    count: u64,
    /// The latest hundred, the newest first.
    gaps: Vec<Gap>,
}

pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::json("/api/acquisition/sources/{id}/gaps/", "Data Source Gaps").on(Method::GET, Read, show).doc(
        OperationDoc::new(
            "acquisition_sources_gaps",
            "Show when a stream was not listened to and could not be resumed.",
            200,
            Answer::One("SourceGaps"),
        ),
    )]
}

/// What the OpenAPI document says of the answer.
pub(crate) fn schemas() -> Value {
    let time = json!({"type": "string", "format": "date-time"});
    json!({
        "SourceGaps": described(json!({
            "source": {"type": "integer", "format": "int64"},
            "count": {"type": "integer", "format": "int64"},
            "gaps": {"type": "array", "items": described(json!({
                "from": time, "until": time,
                "reason": {"type": "string", "enum": ["closed", "broken", "silence", "unreadable", "stopped"]},
                "code": {"type": ["integer", "null"]}, "message": {"type": ["string", "null"]},
            }))},
        })),
    })
}

async fn show(call: Call) -> Result<Response> {
    let id = call.id(NOUN)?;
    let mut reader = call.state.db.read().await?;
    let mut conn = reader.conn();
    data_sources::find(&mut conn, id).await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    let key = CheckpointKey { source_id: id, stream: String::new(), purpose: LIVE.to_owned() };
    let checkpoint = checkpoints::find(&mut conn, &key).await?;
    let (count, mut gaps) = checkpoint.map(|checkpoint| gaps_of(&checkpoint.state)).unwrap_or_default();
    gaps.reverse();
    Ok(json_answer(StatusCode::OK, &GapsView { source: id, count, gaps }))
}

//! The schema that a source's records have shown, its history, and accepting a new one after a freeze.

use axum::response::Response;
use http::{Method, StatusCode};
use matome_model::clock::iso8601;
use matome_store::source_schemas::{self, SchemaVersion};
use matome_store::{data_sources, db::Conn};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::auth::Permission::{Read, Write};
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::{ApiError, Result};
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc, reference, view as described};

const NOUN: &str = "DataSource";

/// The schema of a source as clients see it.
#[derive(Serialize)]
struct SchemaView {
    source: i64,
    /// 0 before the first record.
    version: i64,
    learning: bool,
    fields: Box<RawValue>,
    changed_at: Option<String>,
    history: Vec<VersionView>,
}

#[derive(Serialize)]
struct VersionView {
    version: i64,
    changes: Box<RawValue>,
    task: i64,
    created_at: String,
}

pub(crate) fn endpoints() -> Vec<Endpoint> {
    const ONE: Answer = Answer::One("SourceSchema");
    vec![
        Endpoint::json("/api/acquisition/sources/{id}/schema/", "Data Source Schema")
            .on(Method::GET, Read, show)
            .doc(OperationDoc::new("acquisition_sources_schema", "Show the schema of a source's records.", 200, ONE)),
        Endpoint::json("/api/acquisition/sources/{id}/schema/accept/", "Data Source Schema Accept")
            .on(Method::POST, Write, accept)
            .doc(OperationDoc::new(
                "acquisition_sources_schema_accept",
                "Have the next read take in all that is new in its records.",
                200,
                ONE,
            )),
    ]
}

/// What the OpenAPI document says of bodies and answers.
pub(crate) fn schemas() -> Value {
    let id = json!({"type": "integer", "format": "int64"});
    let text = json!({"type": "string"});
    let text_or_null = json!({"type": ["string", "null"]});
    let time = json!({"type": "string", "format": "date-time"});
    let time_or_null = json!({"type": ["string", "null"], "format": "date-time"});
    let object = json!({"type": "object", "additionalProperties": true});
    json!({
        "SourceTestRequest": {
            "type": "object",
            "properties": {"records": {"type": "integer", "minimum": 0, "maximum": 1000, "default": 10}},
        },
        "SchemaDifference": described(json!({
            "field": {"type": "string", "description": "JSON pointer; `*` stands for the items of an array."},
            "old": text_or_null, "new": text,
        })),
        "SourceSchema": described(json!({
            "source": id, "version": {"type": "integer"},
            "learning": {
                "type": "boolean",
                "description": "Whether the next read, up to its end, takes in all that is new, whatever `drift` says.",
            },
            "fields": object, "changed_at": time_or_null,
            "history": {"type": "array", "items": described(json!({
                "version": {"type": "integer"}, "task": id, "created_at": time,
                "changes": {"type": "array", "items": reference("SchemaDifference")},
            }))},
        })),
    })
}

async fn show(call: Call) -> Result<Response> {
    let id = call.id(NOUN)?;
    let mut reader = call.state.db.read().await?;
    let mut conn = reader.conn();
    data_sources::find(&mut conn, id).await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    Ok(json_answer(StatusCode::OK, &view(&mut conn, id).await?))
}

async fn accept(call: Call) -> Result<Response> {
    let id = call.id(NOUN)?;
    let accepted = call.state.db.write(move |conn| {
        Box::pin(async move {
            if data_sources::find(conn, id).await?.is_none() {
                return Ok(false);
            }
            source_schemas::accept_next(conn, id, "").await?;
            Ok(true)
        })
    });
    if !accepted.await? {
        return Err(ApiError::NotFound(Message::NoMatch { noun: NOUN }));
    }
    tracing::info!(source.id = id, "the next read of source {id} takes in what is new in its records");
    show(call).await
}

async fn view(conn: &mut Conn<'_>, id: i64) -> Result<SchemaView> {
    let current = source_schemas::current(conn, id, "").await?;
    let history = source_schemas::history(conn, id, "").await?;
    let empty = || RawValue::from_string("{}".to_owned()).expect("an empty object is JSON");
    Ok(SchemaView {
        source: id,
        version: current.as_ref().map_or(0, |current| current.version),
        learning: current.as_ref().is_none_or(|current| !current.settled),
        changed_at: current.as_ref().map(|current| iso8601(current.created_at)),
        fields: current.map_or_else(empty, |current| current.fields),
        history: history.into_iter().map(version).collect(),
    })
}

fn version(version: SchemaVersion) -> VersionView {
    VersionView {
        version: version.version,
        changes: version.changes,
        task: version.task_id,
        created_at: iso8601(version.created_at),
    }
}

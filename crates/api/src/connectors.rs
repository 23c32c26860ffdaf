//! The types of sources and what their configs may say: `/api/acquisition/connectors/`. A form is made of it, and editors check with it.

use axum::response::Response;
use http::{Method, StatusCode};
use matome_connector::config_schema;
use matome_model::source::SourceType;
use serde::Serialize;
use serde_json::{Value, json};

use crate::auth::Permission::Read;
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::Result;
use crate::openapi::{Answer, OperationDoc, view};

/// A type of source as clients see it.
#[derive(Serialize)]
struct ConnectorView {
    source_type: SourceType,
    config_schema: Value,
}

pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::json("/api/acquisition/connectors/", "Connector List").on(Method::GET, Read, list_connectors).doc(
        OperationDoc::new(
            "acquisition_connectors",
            "The types of sources, each with the JSON Schema of its config.",
            200,
            Answer::One("Connectors"),
        ),
    )]
}

/// What the OpenAPI document says of the answer.
pub(crate) fn schemas() -> Value {
    let types: Vec<&str> = SourceType::ALL.iter().map(|source_type| source_type.as_str()).collect();
    json!({
        "Connectors": view(json!({"results": {"type": "array", "items": view(json!({
            "source_type": {"type": "string", "enum": types},
            "config_schema": {
                "type": "object", "additionalProperties": true,
                "description": "JSON Schema (draft 2020-12). Secrets are `writeOnly`; which options go together is told when a source is saved.",
            },
        }))}})),
    })
}

async fn list_connectors(_: Call) -> Result<Response> {
    let of = |source_type: &SourceType| ConnectorView {
        source_type: *source_type,
        config_schema: config_schema(*source_type),
    };
    let results: Vec<ConnectorView> = SourceType::ALL.iter().map(of).collect();
    Ok(json_answer(StatusCode::OK, &json!({ "results": results })))
}

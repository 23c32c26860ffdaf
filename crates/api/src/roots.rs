//! The roots of the two groups, which list their resources.

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Map, Value};

use crate::auth::Permission::Read;
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::Result;

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::json("/api/acquisition/", "Api Root")
            .on(Method::GET, Read, |call| async move { links(&call, &["sources", "data", "tasks", "quarantine"]) }),
        Endpoint::json("/api/aggregation/", "Api Root")
            .on(Method::GET, Read, |call| async move { links(&call, &["sources", "data", "tasks"]) }),
    ]
}

fn links(call: &Call, names: &[&str]) -> Result<Response> {
    let root = format!("{}{}/", call.origin, call.path.trim_end_matches('/'));
    let links: Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), Value::String(format!("{root}{name}/")))).collect();
    Ok(json_answer(StatusCode::OK, &links))
}

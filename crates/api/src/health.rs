//! For those who watch: `/livez`, `/readyz`, `/metrics`.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use matome_store::db::Db;
use serde_json::{Map, Value, json};

use crate::auth::Permission::{Public, Read};
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::{ApiError, Result};
use crate::message::Message;

const CHECK_LIMIT: Duration = Duration::from_secs(2);

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::other("/livez", "Liveness")
            .on(Method::GET, Public, |_| async { Ok(json_answer(StatusCode::OK, &json!({"status": "ok"}))) }),
        Endpoint::other("/readyz", "Readiness").on(Method::GET, Public, ready),
        Endpoint::other("/metrics", "Metrics").on(Method::GET, Read, metrics),
    ]
}

async fn ready(call: Call) -> Result<Response> {
    let mut checks = Map::new();
    let mut is_ready = true;
    let mut check = |name: &str, outcome: Result<(), String>| {
        is_ready &= outcome.is_ok();
        checks.insert(name.to_owned(), Value::String(outcome.err().unwrap_or_else(|| "ok".to_owned())));
    };
    check("database", database(&call.state.db).await);
    let is_full = call.state.db.is_full();
    check("storage", if is_full { Err("disk_full".to_owned()) } else { Ok(()) });
    let draining = call.state.draining.is_cancelled();
    check("running", if draining { Err("the process is stopping".to_owned()) } else { Ok(()) });
    let (status, word) =
        if is_ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    Ok(json_answer(status, &json!({"status": word, "checks": checks})))
}

async fn database(db: &Db) -> Result<(), String> {
    let question = async {
        let mut reader = db.read().await?;
        reader.conn().fetch_one("select 1 as one", &[]).await.map(drop)
    };
    match tokio::time::timeout(CHECK_LIMIT, question).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(err)) => {
            // Names and addresses of the database are nobody's business out there.
            tracing::warn!(error = %err, "the database does not answer");
            Err("the database does not answer".to_owned())
        }
        Err(_) => Err(format!("the database does not answer within {} s", CHECK_LIMIT.as_secs())),
    }
}

async fn metrics(call: Call) -> Result<Response> {
    let Some(handle) = &call.state.metrics else { return Err(ApiError::NotFound(Message::NotFound)) };
    let (used, open) = call.state.db.connections();
    let gauge = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    metrics::gauge!("matome_db_connections", "state" => "used").set(gauge(used));
    metrics::gauge!("matome_db_connections", "state" => "idle").set(gauge(open.saturating_sub(used)));
    metrics::gauge!("matome_db_full").set(if call.state.db.is_full() { 1.0 } else { 0.0 });
    let mut response = Response::new(Body::from(handle.render()));
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    Ok(response)
}

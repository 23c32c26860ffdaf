//! For those who watch: `/livez`, `/readyz`, `/metrics`.

use std::time::Duration;

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderValue, Method, StatusCode, header};
use matome_bus::Bus;
use matome_store::db::Db;
use matome_store::error::StoreError;
use matome_store::migrate;
use matome_tasks::Heart;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::auth::Permission::{Public, Read};
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::{ApiError, Result};
use crate::message::Message;

const CHECK_LIMIT: Duration = Duration::from_secs(2);

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::other("/livez", "Liveness").for_any_host().on(Method::GET, Public, |_| async { Ok(live().await) }),
        Endpoint::other("/readyz", "Readiness").for_any_host().on(Method::GET, Public, ready),
        Endpoint::other("/metrics", "Metrics").on(Method::GET, Read, metrics),
    ]
}

async fn ready(call: Call) -> Result<Response> {
    Ok(call.state.health.answer().await)
}

/// What tells whether a process is ready. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    /// The database.
    pub db: Db,
    /// The bus; workers poll without it, so it does not make a process unready.
    pub bus: Bus,
    /// Cancelled when the process is about to stop.
    pub draining: CancellationToken,
    /// The heart of the process; none where it has none.
    pub heart: Option<Heart>,
}

impl Health {
    /// The answer of `/readyz`: the outcome of each check, and 503 when one of them fails.
    async fn answer(&self) -> Response {
        let mut checks = Map::new();
        let mut is_ready = true;
        let mut check = |name: &str, outcome: std::result::Result<(), String>| {
            is_ready &= outcome.is_ok();
            checks.insert(name.to_owned(), Value::String(outcome.err().unwrap_or_else(|| "ok".to_owned())));
        };
        let schema = match database(&self.db).await {
            Ok(schema) => {
                check("database", Ok(()));
                schema
            }
            Err(what) => {
                check("database", Err(what));
                Ok(())
            }
        };
        check("schema", schema);
        check("storage", if self.db.is_full() { Err("disk_full".to_owned()) } else { Ok(()) });
        if let Some(heart) = &self.heart {
            let late = || Err("no heartbeat was committed for some seconds".to_owned());
            check("heartbeat", if heart.beats() { Ok(()) } else { late() });
        }
        let is_draining = self.draining.is_cancelled();
        check("running", if is_draining { Err("the process is stopping".to_owned()) } else { Ok(()) });
        if self.bus.is_shared() {
            let told =
                self.bus.trouble().map_or("ok".to_owned(), |what| format!("not used, tasks start later: {what}"));
            checks.insert("redis".to_owned(), Value::String(told));
        }
        readiness(is_ready, checks)
    }
}

fn readiness(is_ready: bool, checks: Map<String, Value>) -> Response {
    let (status, word) =
        if is_ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    json_answer(status, &json!({"status": word, "checks": checks}))
}

/// `/livez` and `/readyz` alone, for a process without an API.
pub fn health_router(health: Health) -> Router {
    let ready = move || {
        let health = health.clone();
        async move { health.answer().await }
    };
    Router::new().route("/livez", get(live)).route("/readyz", get(ready))
}

/// What a process answers that lives and still waits for something that the check `check` is about.
pub fn not_started(path: &str, check: &str, trouble: &str) -> Response {
    match path.trim_end_matches('/') {
        "/livez" => json_answer(StatusCode::OK, &json!({"status": "ok"})),
        "/readyz" => readiness(false, Map::from_iter([(check.to_owned(), Value::String(trouble.to_owned()))])),
        _ => {
            let detail = "this server is starting";
            let mut answer = json_answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "detail": detail }));
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            answer
        }
    }
}

async fn live() -> Response {
    json_answer(StatusCode::OK, &json!({"status": "ok"}))
}

/// Whether the database answers; and if it does, whether its schema is one that this process works with: others may have
/// upgraded it meanwhile.
async fn database(db: &Db) -> Result<Result<(), String>, String> {
    let question = async { migrate::check_on(&mut db.read().await?.conn()).await };
    match tokio::time::timeout(CHECK_LIMIT, question).await {
        Ok(Ok(())) => Ok(Ok(())),
        Ok(Err(err @ StoreError::SchemaVersion { .. })) => Ok(Err(err.to_string())),
        Ok(Err(err)) => {
            // Names and addresses of the database are nobody's business out there.
            tracing::warn!(error = %err, "the database does not answer");
            Err("the database does not answer".to_owned())
        }
        Err(_) => Err(format!("the database does not answer within {} s", CHECK_LIMIT.as_secs())),
    }
}

async fn metrics(call: Call) -> Result<Response> {
    match &call.state.metrics {
        Some(metrics) => Ok(metrics.answer().await),
        None => Err(ApiError::NotFound(Message::NotFound)),
    }
}

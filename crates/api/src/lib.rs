//! The REST API: the original design's paths in the shape of Django REST framework, OpenAPI, authentication.
//!
//! [`router`] makes the whole from an [`ApiState`]. Everything about a path stands in one table of endpoints:
//! its methods, the permission that each needs, its handler and its place in the OpenAPI document. To add one, add
//! it to the `endpoints` function of its module; an operation without a permission does not compile.

// The schemas of the OpenAPI document are one large `json!`.
#![recursion_limit = "256"]

mod adoption;
mod after;
mod aggregations;
mod auth;
mod body;
mod celery_names;
mod config;
mod connectors;
mod cors;
mod docs;
mod endpoint;
mod error;
mod export;
mod gaps;
mod health;
mod history;
mod host;
mod intake;
mod kept;
mod lanes;
mod list;
mod message;
mod monitoring;
mod openapi;
mod probe;
mod pushes;
mod quarantine;
mod records;
mod removals;
mod roots;
mod runs;
mod schedules;
mod source_schema;
mod sources;
mod state;
mod tasks;
mod tokens;
mod trial;

use axum::Router;
use axum::extract::Request;

pub use adoption::{Settled, settle_adopted};
pub use auth::{LocalOwner, Permission};
pub use body::BODY_LIMIT;
pub use celery_names::CeleryNames;

pub use health::{Health, health_router, not_started};
pub use intake::Intake;
pub use monitoring::{Metrics, metrics_router};
pub use state::{ApiSettings, ApiState, Preview, Previewer, TrialError};

use endpoint::Endpoint;

/// The whole API.
pub fn router(state: ApiState) -> Router {
    let fallback = {
        let state = state.clone();
        move |request: Request| endpoint::not_found(state.clone(), request)
    };
    pushes::begin_metrics();
    let router = endpoints().into_iter().fold(Router::new(), |router, endpoint| endpoint.mount(router, &state));
    router.fallback(fallback)
}

/// Every route with the permission that each of its methods needs.
pub fn permissions() -> Vec<(&'static str, String, Permission)> {
    let all = endpoints();
    let of = |endpoint: &Endpoint| -> Vec<_> {
        let each = endpoint.operations.iter();
        each.map(|operation| (endpoint.path, operation.method.to_string(), operation.permission)).collect()
    };
    all.iter().flat_map(of).collect()
}

fn endpoints() -> Vec<Endpoint> {
    let mut all = roots::endpoints();
    all.extend(sources::endpoints());
    all.extend(source_schema::endpoints());
    all.extend(connectors::endpoints());
    all.extend(probe::endpoints());
    all.extend(gaps::endpoints());
    all.extend(pushes::endpoints());
    all.extend(aggregations::endpoints());
    let mut records = records::endpoints();
    removals::add_to(&mut records);
    all.extend(records);
    all.extend(quarantine::endpoints());
    all.extend(runs::endpoints());
    all.extend(history::endpoints());
    all.extend(export::endpoints());
    all.extend(tasks::endpoints());
    all.extend(schedules::endpoints());
    all.extend(lanes::endpoints());
    all.extend(tokens::endpoints());
    let document = openapi::document(&all);
    all.extend(docs::endpoints(document));
    all.extend(health::endpoints());
    all
}

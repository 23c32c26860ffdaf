//! Runs of aggregations: `/api/aggregation/runs/`.

use axum::response::Response;
use http::{Method, StatusCode};
use matome_model::clock::iso8601;
use matome_model::task::LaneKind;
use matome_store::listing::Query;
use matome_store::listing::runs::{AggregationRun, LISTING};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::Permission::Read;
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::{ApiError, Result};
use crate::list::List;
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc};

const NOUN: &str = "AggregationRun";

const LIST: List = List { listing: &LISTING, references: Some(LaneKind::Aggregation), counter: None };

/// A run as clients see it.
#[derive(Serialize)]
struct RunView {
    id: i64,
    source: i64,
    task: i64,
    status: String,
    mode: String,
    rows: i64,
    superseded: i64,
    kept: bool,
    params: Box<RawValue>,
    inputs: Box<RawValue>,
    plan: Option<String>,
    started_at: String,
    published_at: Option<String>,
}

fn view(run: AggregationRun) -> RunView {
    RunView {
        id: run.id,
        source: run.source_id,
        task: run.task_id,
        status: run.status,
        mode: run.mode,
        rows: run.rows,
        superseded: run.superseded,
        kept: run.kept,
        params: run.params,
        inputs: run.inputs,
        plan: run.plan,
        started_at: iso8601(run.started_at),
        published_at: run.published_at.map(iso8601),
    }
}

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let list = OperationDoc::new(
        "aggregation_runs_list",
        "List runs of aggregations with their lineage, newest first.",
        200,
        Answer::Page(NOUN),
    );
    vec![
        Endpoint::json("/api/aggregation/runs/", "Aggregation Run List")
            .on(Method::GET, Read, |call| async move { LIST.page(&call, view).await })
            .doc(list.filtered_by(&LISTING)),
        Endpoint::json("/api/aggregation/runs/{id}/", "Aggregation Run Instance").on(Method::GET, Read, find).doc(
            OperationDoc::new("aggregation_runs_retrieve", "Show a run of an aggregation.", 200, Answer::One(NOUN)),
        ),
    ]
}

async fn find(call: Call) -> Result<Response> {
    let id = call.id(NOUN)?;
    let mut reader = call.state.db.read().await?;
    let row = LISTING.find(&mut reader.conn(), &Query::default(), id).await?;
    let row = row.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    Ok(json_answer(StatusCode::OK, &view(AggregationRun::try_from(&row)?)))
}

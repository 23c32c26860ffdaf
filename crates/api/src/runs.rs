//! Runs of aggregations: `/api/aggregation/runs/`.

use axum::response::Response;
use http::{Method, StatusCode};
use matome_model::clock::iso8601;
use matome_model::field_error::Words;
use matome_model::task::LaneKind;
use matome_store::aggregated_data;
use matome_store::listing::runs::{AggregationRun, LISTING};
use matome_store::listing::{AfterRun, Query};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::Permission::Read;
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::{ApiError, Result};
use crate::list::List;
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc, Parameter};

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

pub(crate) const RUN: Parameter =
    Parameter { name: "run", what: "The rows that this run made, as long as they are kept.", kind: "integer" };
pub(crate) const AS_OF_RUN: Parameter = Parameter {
    name: "as_of_run",
    what: "What its aggregation showed after this run, as long as that is kept.",
    kind: "integer",
};

fn given<'c>(call: &'c Call, parameter: &Parameter) -> Option<&'c str> {
    call.parameter(parameter.name).filter(|text| !text.is_empty())
}

/// Whether the query string asks for the rows that a run made.
///
/// # Errors
/// When it asks for a version besides.
pub(crate) fn is_given(call: &Call) -> Result<bool> {
    let run = given(call, &RUN).is_some();
    if run && given(call, &AS_OF_RUN).is_some() {
        let words = Words::new(
            "Give either `run`, for what a run made, or `as_of_run`, for all that was shown after it.",
            "実行が作った行なら `run`、その実行のあとに表示されていたすべてなら `as_of_run` の、どちらか一方を指定してください。",
        );
        return Err(ApiError::field(AS_OF_RUN.name, Message::Said(words)));
    }
    Ok(run)
}

/// The version that `as_of_run` asks for: of this aggregation, or of any.
pub(crate) async fn as_of(call: &Call, source: Option<i64>) -> Result<Option<AfterRun>> {
    let Some(run) = published(call, &AS_OF_RUN, source).await? else { return Ok(None) };
    let mut reader = call.state.db.read().await?;
    let (_, is_kept) = aggregated_data::is_kept(&mut reader.conn(), run.source_id, run.id).await?;
    if !is_kept {
        return Err(ApiError::field(AS_OF_RUN.name, gone(run.id)));
    }
    Ok(Some(AfterRun { source_id: run.source_id, run_id: run.id }))
}

/// The run of this aggregation whose rows `run` asks for.
pub(crate) async fn made_by(call: &Call, source: i64) -> Result<Option<i64>> {
    match published(call, &RUN, Some(source)).await? {
        Some(run) if !run.kept => Err(ApiError::field(RUN.name, gone(run.id))),
        run => Ok(run.map(|run| run.id)),
    }
}

/// The published run that a parameter names.
async fn published(call: &Call, parameter: &Parameter, source: Option<i64>) -> Result<Option<AggregationRun>> {
    let Some(text) = given(call, parameter) else { return Ok(None) };
    let id = text.parse().map_err(|_| ApiError::field(parameter.name, Message::FilterNumber))?;
    let mut reader = call.state.db.read().await?;
    let row = LISTING.find(&mut reader.conn(), &Query::default(), id).await?;
    let run = row.as_ref().map(AggregationRun::try_from).transpose()?;
    let run = run.filter(|run| run.published_at.is_some() && source.is_none_or(|source| source == run.source_id));
    run.map(Some).ok_or_else(|| ApiError::field(parameter.name, Message::FilterReference))
}

fn gone(id: i64) -> Message {
    Message::Said(Words::new(
        format!(
            "What run {id} left is not kept any more. `keep_runs` and `keep_days` of the aggregation say how long it is."
        ),
        format!("実行 {id} の結果はもう保存されていません。保存期間は集計の `keep_runs` と `keep_days` で決まります。"),
    ))
}

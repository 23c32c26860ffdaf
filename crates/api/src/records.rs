//! What was stored: acquired records, aggregated rows, quarantine. All of it is read-only.

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use matome_model::clock::iso8601;
use matome_model::task::LaneKind;
use matome_store::error::StoreError;
use matome_store::listing::acquired::{self, AcquiredRecord};
use matome_store::listing::aggregated::{self, AggregatedRow};
use matome_store::listing::quarantined::{self, QuarantinedRecord};
use matome_store::listing::{Listing, Query};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::Permission::Read;
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::{ApiError, Result};
use crate::history;
use crate::kept;
use crate::list::List;
use crate::message::{Language, Message, language_of};
use crate::openapi::{Answer, OperationDoc};
use crate::runs;

pub(crate) const ACQUIRED: List = List {
    listing: &acquired::LISTING,
    references: Some(LaneKind::Source),
    counter: Some(|conn, source| Box::pin(acquired::count(conn, source))),
};
const AGGREGATED: List = List {
    listing: &aggregated::LISTING,
    references: Some(LaneKind::Aggregation),
    counter: Some(|conn, source| Box::pin(aggregated::count(conn, source))),
};
/// With `?run=ID`: rows of an older run, as long as they are kept.
const AGGREGATED_OF_RUN: List =
    List { listing: &aggregated::LISTING_OF_RUNS, references: Some(LaneKind::Aggregation), counter: None };
const QUARANTINE: List = List {
    listing: &quarantined::LISTING,
    references: Some(LaneKind::Source),
    counter: Some(|conn, source| Box::pin(quarantined::count(conn, source))),
};

/// A record as clients see it.
#[derive(Serialize)]
pub(crate) struct AcquiredView {
    id: i64,
    source: i64,
    raw_data: Box<RawValue>,
    metadata: Box<RawValue>,
    data_hash: Option<String>,
    acquired_at: String,
    created_at: String,
    stream: String,
    version: i64,
    key_hash: Option<String>,
    deleted: bool,
}

pub(crate) fn acquired_view(record: AcquiredRecord) -> AcquiredView {
    AcquiredView {
        id: record.id,
        source: record.source_id,
        raw_data: record.raw_data,
        metadata: record.metadata,
        data_hash: record.data_hash,
        acquired_at: iso8601(record.acquired_at),
        created_at: iso8601(record.created_at),
        stream: record.stream,
        version: record.version,
        key_hash: record.key_hash.map(|key| key.iter().map(|byte| format!("{byte:02x}")).collect()),
        deleted: record.is_deleted,
    }
}

/// An aggregated row as clients see it.
#[derive(Serialize)]
struct AggregatedView {
    id: i64,
    source: i64,
    data: Box<RawValue>,
    metadata: Box<RawValue>,
    aggregated_at: String,
    created_at: String,
    run: Option<i64>,
}

fn aggregated_view(row: AggregatedRow) -> AggregatedView {
    AggregatedView {
        id: row.id,
        source: row.source_id,
        data: row.data,
        metadata: row.metadata,
        aggregated_at: iso8601(row.aggregated_at),
        created_at: iso8601(row.created_at),
        run: row.run_id,
    }
}

/// A quarantined record as clients see it.
#[derive(Serialize)]
struct QuarantineView {
    id: i64,
    source: i64,
    stream: String,
    task: i64,
    reason: String,
    detail: String,
    position: Box<RawValue>,
    raw: String,
    raw_encoding: &'static str,
    raw_length: i64,
    seen: i64,
    created_at: String,
    last_seen_at: String,
    status: String,
    replay_task: Option<i64>,
    outcome: Option<String>,
    outcome_detail: Option<String>,
    replayed_at: Option<String>,
}

fn quarantine_view(record: QuarantinedRecord, language: Language) -> QuarantineView {
    let (raw, raw_encoding) = match String::from_utf8(record.raw) {
        Ok(text) => (text, "utf-8"),
        Err(err) => (STANDARD.encode(err.as_bytes()), "base64"),
    };
    QuarantineView {
        id: record.id,
        source: record.source_id,
        stream: record.stream,
        task: record.task_id,
        reason: record.reason,
        detail: record.detail.text(language).to_owned(),
        position: record.position,
        raw,
        raw_encoding,
        raw_length: record.raw_length,
        seen: record.seen,
        created_at: iso8601(record.created_at),
        last_seen_at: iso8601(record.last_seen_at),
        status: record.status,
        replay_task: record.replay_task,
        outcome: record.outcome,
        outcome_detail: record.outcome_detail.map(|detail| detail.text(language).to_owned()),
        replayed_at: record.replayed_at.map(iso8601),
    }
}

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let doc = OperationDoc::new;
    vec![
        Endpoint::json("/api/acquisition/data/", "Acquired Data List")
            .on(Method::GET, Read, history::list_records)
            .first_page(&ACQUIRED, Some(acquired::TOTAL), acquired_view)
            .doc(
                doc("acquisition_data_list", "List acquired records, newest first.", 200, Answer::Page("AcquiredData"))
                    .filtered_by(&acquired::LISTING)
                    .with(history::WHICH_VERSIONS),
            ),
        Endpoint::json("/api/acquisition/data/{id}/", "Acquired Data Instance")
            .on(Method::GET, Read, |call| one(call, &acquired::LISTING, "AcquiredData", acquired_view))
            .doc(doc("acquisition_data_retrieve", "Show an acquired record.", 200, Answer::One("AcquiredData"))),
        Endpoint::json("/api/acquisition/quarantine/", "Quarantine List")
            .on(Method::GET, Read, |call| async move {
                QUARANTINE.page(&call, |record| quarantine_view(record, language_of(&call.headers))).await
            })
            .doc(
                doc(
                    "acquisition_quarantine_list",
                    "List quarantined records with their bytes, newest first.",
                    200,
                    Answer::Page("QuarantinedRecord"),
                )
                .filtered_by(&quarantined::LISTING),
            ),
        Endpoint::json("/api/acquisition/quarantine/{id}/", "Quarantine Instance")
            .on(Method::GET, Read, |call| {
                let language = language_of(&call.headers);
                one(call, &quarantined::LISTING, "QuarantinedRecord", move |record| quarantine_view(record, language))
            })
            .doc(doc(
                "acquisition_quarantine_retrieve",
                "Show a quarantined record.",
                200,
                Answer::One("QuarantinedRecord"),
            )),
        Endpoint::json("/api/aggregation/data/", "Aggregated Data List").on(Method::GET, Read, list_rows).doc(
            doc(
                "aggregation_data_list",
                "List the shown rows of aggregations, newest first; `run` lists those that one run made.",
                200,
                Answer::Page("AggregatedData"),
            )
            .filtered_by(&aggregated::LISTING)
            .with(&[runs::AS_OF_RUN])
            .amended(kept::describe),
        ),
        Endpoint::json("/api/aggregation/data/{id}/", "Aggregated Data Instance")
            .on(Method::GET, Read, |call| one(call, &aggregated::LISTING, "AggregatedData", aggregated_view))
            .doc(doc("aggregation_data_retrieve", "Show an aggregated row.", 200, Answer::One("AggregatedData"))),
    ]
}

async fn list_rows(call: Call) -> Result<Response> {
    if runs::is_given(&call)? {
        return AGGREGATED_OF_RUN.page(&call, aggregated_view).await;
    }
    let after_run = runs::as_of(&call, None).await?;
    let shown = match one_source(&call) {
        Some(id) if after_run.is_none() => {
            let mut reader = call.state.db.read().await?;
            aggregated::version(&mut reader.conn(), id).await?
        }
        _ => None,
    };
    let page = Box::pin(async {
        let query = AGGREGATED.query(&call).await?;
        AGGREGATED.page_of(&call, Query { after_run, ..query }, aggregated_view).await
    });
    match shown {
        Some(version) => kept::answer(&call, &version, page).await,
        None => page.await,
    }
}

/// The aggregation to which the list is confined, whatever else it is filtered by.
fn one_source(call: &Call) -> Option<i64> {
    call.parameter("source")?.parse().ok()
}

async fn one<T, V>(call: Call, listing: &'static Listing, noun: &'static str, view: impl Fn(T) -> V) -> Result<Response>
where
    T: for<'r> TryFrom<&'r matome_store::db::Row, Error = StoreError>,
    V: Serialize,
{
    let id = call.id(noun)?;
    let mut reader = call.state.db.read().await?;
    let row = listing.find(&mut reader.conn(), &Query::default(), id).await?;
    let row = row.ok_or(ApiError::NotFound(Message::NoMatch { noun }))?;
    Ok(json_answer(StatusCode::OK, &view(T::try_from(&row)?)))
}

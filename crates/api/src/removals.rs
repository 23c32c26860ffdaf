//! Removing stored records: one at once, or those of a source and a time in batches behind.

use axum::response::Response;
use chrono::TimeDelta;
use http::{Method, StatusCode};
use matome_model::clock::{Timestamp, iso8601};
use matome_model::field_error::Words;
use matome_store::data_sources;
use matome_store::listing::Query;
use matome_store::listing::acquired::{self, AcquiredRecord};
use matome_store::removals::{self, Removal};
use serde::Serialize;

use crate::auth::Permission::Write;
use crate::endpoint::{Call, Endpoint, json_answer, no_content};
use crate::error::{ApiError, FieldErrors, Result};
use crate::list::time;
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc, Parameter};

const NOUN: &str = "AcquiredData";

/// What the query string of a removal may say.
const WHICH: &[Parameter] = &[
    Parameter { name: "source", what: "Id of the source; required.", kind: "integer" },
    Parameter { name: "acquired_at__lt", what: "Acquired before this time.", kind: "date-time" },
    Parameter { name: "acquired_at__lte", what: "Acquired not after this time.", kind: "date-time" },
    Parameter { name: "acquired_at__gte", what: "Acquired not before this time.", kind: "date-time" },
    Parameter { name: "acquired_at__gt", what: "Acquired after this time.", kind: "date-time" },
];

/// Adds the removal of records to the endpoints of records.
pub(crate) fn add_to(endpoints: &mut [Endpoint]) {
    for endpoint in endpoints {
        let taken = std::mem::replace(endpoint, Endpoint::json("", ""));
        *endpoint = match taken.path {
            "/api/acquisition/data/" => taken.on(Method::DELETE, Write, remove_some).doc(
                OperationDoc::new(
                    "acquisition_data_bulk_destroy",
                    "Remove records of a source by their time, in batches behind.",
                    202,
                    Answer::One("RecordRemoval"),
                )
                .with(WHICH),
            ),
            "/api/acquisition/data/{id}/" => taken.on(Method::DELETE, Write, remove_one).doc(OperationDoc::new(
                "acquisition_data_destroy",
                "Remove an acquired record.",
                204,
                Answer::Empty,
            )),
            _ => taken,
        };
    }
}

/// A removal as clients see it.
#[derive(Serialize)]
struct RemovalView {
    id: i64,
    source: i64,
    #[serde(rename = "acquired_at__gte")]
    from: Option<String>,
    #[serde(rename = "acquired_at__lt")]
    before: Option<String>,
}

/// What a request wants removed. What it says and we do not understand must not be passed over here.
fn read(call: &Call) -> Result<(i64, Removal)> {
    let mut errors = FieldErrors::default();
    let mut source = None;
    let mut removal = Removal::default();
    for (name, text) in &call.query {
        let tick = TimeDelta::microseconds(1);
        let bound = |errors: &mut FieldErrors| {
            let time = time(text);
            if time.is_none() {
                errors.add(&[name], Message::FilterTime);
            }
            time
        };
        let later = |bound: Option<Timestamp>, other: Option<Timestamp>| bound.max(other);
        let earlier = |bound: Option<Timestamp>, other: Option<Timestamp>| match (bound, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        match name.as_str() {
            "source" => match text.parse::<i64>() {
                Ok(id) => source = Some(id),
                Err(_) => errors.add(&[name], Message::FilterReference),
            },
            "acquired_at__lt" => removal.before = earlier(removal.before, bound(&mut errors)),
            "acquired_at__lte" => {
                removal.before = earlier(removal.before, bound(&mut errors).map(|time| time + tick));
            }
            "acquired_at__gte" => removal.from = later(removal.from, bound(&mut errors)),
            "acquired_at__gt" => removal.from = later(removal.from, bound(&mut errors).map(|time| time + tick)),
            _ => {
                let known: Vec<&str> = WHICH.iter().map(|parameter| parameter.name).collect();
                errors.add(&[name], Message::Said(Words::unknown_option(None, &known)));
            }
        }
    }
    if source.is_none() {
        errors.add(&["source"], Message::Required);
    }
    if errors.is_empty() && removal == Removal::default() {
        let words = Words::new(
            "Give a time. To remove all records of the source, POST {\"data\": true} to its `reset/`.",
            "時刻を指定してください。データソースのすべてのレコードを取り除くには、その `reset/` に {\"data\": true} を POST します。",
        );
        errors.add(&["acquired_at__lt"], Message::Said(words));
    }
    errors.into_result()?;
    Ok((source.unwrap_or_default(), removal))
}

async fn remove_some(call: Call) -> Result<Response> {
    let (source_id, removal) = read(&call)?;
    let now = call.state.clock.now();
    let requested = call.state.db.write(move |conn| {
        Box::pin(async move {
            if data_sources::find_for_update(conn, source_id).await?.is_none() {
                return Ok(None);
            }
            removals::request(conn, source_id, &removal, now).await.map(Some)
        })
    });
    let id = requested.await?.ok_or_else(|| ApiError::field("source", Message::FilterReference))?;
    let view =
        RemovalView { id, source: source_id, from: removal.from.map(iso8601), before: removal.before.map(iso8601) };
    Ok(json_answer(StatusCode::ACCEPTED, &view))
}

async fn remove_one(call: Call) -> Result<Response> {
    let id = call.id(NOUN)?;
    let removed = call.state.db.write(move |conn| {
        Box::pin(async move {
            let Some(row) = acquired::LISTING.find(conn, &Query::default(), id).await? else { return Ok(0) };
            let record = AcquiredRecord::try_from(&row)?;
            removals::remove(conn, record.source_id, &[id]).await
        })
    });
    match removed.await? {
        0 => Err(ApiError::NotFound(Message::NoMatch { noun: NOUN })),
        _ => Ok(no_content()),
    }
}

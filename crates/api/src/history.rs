//! Records over time: all versions of a key, what changed between two of them, and what was there at a time.

use axum::response::Response;
use chrono::DateTime;
use http::{Method, StatusCode};
use matome_model::canonical::{Canonicaliser, Limits};
use matome_model::clock::Timestamp;
use matome_model::difference::{self, Change};
use matome_model::field_error::Words;
use matome_store::acquired_data::Versions;
use matome_store::db::Conn;
use matome_store::error::StoreError;
use matome_store::listing::acquired::{self, AcquiredRecord};
use matome_store::listing::{Column, ColumnKind, Condition, Lookup, Order, Query, Value};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::Permission::Read;
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::{ApiError, FieldErrors, Result};
use crate::list::{Envelope, List, link, page_size, time};
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc, Parameter};
use crate::records::{ACQUIRED, acquired_view};

const NOUN: &str = "AcquiredData";

/// The newest version of each key only.
const NEWEST: List = List { listing: &acquired::LISTING_OF_NEWEST, counter: None, ..ACQUIRED };

pub(crate) const AS_OF: Parameter = Parameter {
    name: "as_of",
    what: "What was there at this time: of each key the version that was the newest then, unless it was gone. A list needs `source` with it, \
           is not counted, and goes on at `next` only.",
    kind: "date-time",
};
pub(crate) const LATEST: Parameter = Parameter {
    name: "latest",
    what: "The newest version of each key only; none of keys that are gone.",
    kind: "boolean",
};
const CURSOR: Parameter = Parameter { name: "cursor", what: "Where a list with `as_of` goes on.", kind: "string" };
/// The parameters with which a list of records chooses among versions.
pub(crate) const WHICH_VERSIONS: &[Parameter] = &[AS_OF, LATEST, CURSOR];

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    const AGAINST: &[Parameter] = &[Parameter {
        name: "against",
        what: "Id of the record to compare with; the version before, when it is left out.",
        kind: "integer",
    }];
    let doc = OperationDoc::new;
    vec![
        Endpoint::json("/api/acquisition/data/{id}/history/", "Acquired Data History")
            .on(Method::GET, Read, list_versions)
            .doc(doc(
                "acquisition_data_history",
                "List all versions of a record's key, the newest first.",
                200,
                Answer::Page(NOUN),
            )),
        Endpoint::json("/api/acquisition/data/{id}/diff/", "Acquired Data Difference")
            .on(Method::GET, Read, compare)
            .doc(
                doc("acquisition_data_diff", "Show what changed in a record.", 200, Answer::One("RecordDiff"))
                    .with(AGAINST),
            ),
    ]
}

/// Which versions the query string asks for.
pub(crate) fn wanted(call: &Call) -> Result<Versions> {
    let given = |name| call.parameter(name).filter(|text| !text.is_empty());
    let mut errors = FieldErrors::default();
    let as_of = given("as_of").and_then(|text| {
        let as_of = time(text);
        if as_of.is_none() {
            errors.add(&["as_of"], Message::FilterTime);
        }
        as_of
    });
    let latest = match given("latest").map(str::to_ascii_lowercase).as_deref() {
        None | Some("false" | "0") => false,
        Some("true" | "1") => true,
        Some(_) => {
            errors.add(&["latest"], Message::FilterBoolean);
            false
        }
    };
    errors.into_result()?;
    Ok(match as_of {
        Some(time) => Versions::AsOf(time),
        None if latest => Versions::Newest,
        None => Versions::All,
    })
}

pub(crate) async fn list_records(call: Call) -> Result<Response> {
    match wanted(&call)? {
        Versions::All => ACQUIRED.page(&call, acquired_view).await,
        Versions::Newest => NEWEST.page(&call, acquired_view).await,
        Versions::AsOf(time) => list_as_of(&call, time).await,
    }
}

async fn list_as_of(call: &Call, as_of: Timestamp) -> Result<Response> {
    let query = ACQUIRED.query(call).await?;
    let names_source = |condition: &Condition| condition.column.name == "source" && condition.lookup == Lookup::Exact;
    if !query.conditions.iter().any(names_source) {
        let words = Words::new(
            "Give the source whose records you want as of that time.",
            "その時点のレコードを見るデータソースを指定してください。",
        );
        return Err(ApiError::field("source", Message::Said(words)));
    }
    let after = match call.parameter("cursor").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(place(text).ok_or(ApiError::NotFound(Message::InvalidPage))?),
    };
    let size = page_size(call);
    let mut reader = call.state.db.read().await?;
    let rows = acquired::LISTING.rows_as_of(&mut reader.conn(), &query, as_of, after, size + 1).await?;
    drop(reader);
    let mut records = rows.iter().map(AcquiredRecord::try_from).collect::<Result<Vec<_>, StoreError>>()?;
    let has_more = records.len() > usize::try_from(size).unwrap_or(usize::MAX);
    if has_more {
        records.pop();
    }
    let next = records
        .last()
        .filter(|_| has_more)
        .map(|last| link(call, "cursor", &format!("{}_{}", last.acquired_at.timestamp_micros(), last.id)));
    let results: Vec<_> = records.into_iter().map(acquired_view).collect();
    Ok(json_answer(StatusCode::OK, &Envelope { count: None, next, previous: None, results }))
}

/// The time and id in a cursor.
fn place(cursor: &str) -> Option<(Timestamp, i64)> {
    let (micros, id) = cursor.split_once('_')?;
    Some((DateTime::from_timestamp_micros(micros.parse().ok()?)?, id.parse().ok()?))
}

async fn find(conn: &mut Conn<'_>, id: i64) -> Result<Option<AcquiredRecord>> {
    let row = acquired::LISTING.find(conn, &Query::default(), id).await?;
    Ok(row.as_ref().map(AcquiredRecord::try_from).transpose()?)
}

async fn list_versions(call: Call) -> Result<Response> {
    let id = call.id(NOUN)?;
    let mut reader = call.state.db.read().await?;
    let record = find(&mut reader.conn(), id).await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    drop(reader);
    let is = |column: &'static Column, value| Condition { column, lookup: Lookup::Exact, value };
    let conditions = match record.key_hash {
        Some(key) => vec![
            is(&acquired::SOURCE, Value::Int(record.source_id)),
            is(&acquired::STREAM, Value::Text(record.stream)),
            is(&acquired::KEY_HASH, Value::Bytes(key)),
        ],
        // Without an identity it is a version of nothing else.
        None => vec![is(&ID, Value::Int(id))],
    };
    let order = vec![Order { column: &acquired::VERSION, descending: true }];
    let query = Query { conditions, order, ..Query::default() };
    ACQUIRED.page_of(&call, query, acquired_view).await
}

#[derive(Serialize)]
struct DiffView {
    record: i64,
    version: i64,
    against: Option<i64>,
    against_version: Option<i64>,
    changes: Vec<Change>,
}

async fn compare(call: Call) -> Result<Response> {
    let id = call.id(NOUN)?;
    let mut reader = call.state.db.read().await?;
    let mut conn = reader.conn();
    let record = find(&mut conn, id).await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))?;
    let against = match call.parameter("against").filter(|text| !text.is_empty()) {
        Some(text) => {
            let found = match text.parse() {
                Ok(id) => find(&mut conn, id).await?,
                Err(_) => None,
            };
            Some(found.ok_or_else(|| ApiError::field("against", Message::FilterReference))?)
        }
        None => match acquired::version_before(&mut conn, &record).await? {
            Some(id) => find(&mut conn, id).await?,
            None => None,
        },
    };
    drop(reader);
    let old = against.as_ref().map_or_else(nothing, content);
    let changes = difference::between(&old, &content(&record)).map_err(|err| {
        let column = "acquired_data.raw_data".to_owned();
        StoreError::Inconsistent { column, what: format!("record {id} or the one it is compared with: {err}") }
    })?;
    let diff = DiffView {
        record: id,
        version: record.version,
        against: against.as_ref().map(|against| against.id),
        against_version: against.as_ref().map(|against| against.version),
        changes,
    };
    Ok(json_answer(StatusCode::OK, &diff))
}

fn nothing() -> String {
    "{}".to_owned()
}

/// What a version says; a tombstone says nothing.
fn content(record: &AcquiredRecord) -> String {
    if record.is_deleted { nothing() } else { canonical(&record.raw_data) }
}

/// The canonical text of a stored record; rows of the original application may have none and stay as they are.
fn canonical(stored: &RawValue) -> String {
    let limits = Limits { record_bytes: usize::MAX, keys: usize::MAX, ..Limits::default() };
    match Canonicaliser::new(limits).canonicalise(stored.get().as_bytes()) {
        Ok(canonical) => canonical.text.to_owned(),
        Err(_) => stored.get().to_owned(),
    }
}

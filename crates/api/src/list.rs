//! Lists: filters, search, ordering and pages from the query string, in Django REST framework's words.

use axum::response::Response;
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use futures::future::BoxFuture;
use http::StatusCode;
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use matome_model::task::LaneKind;
use matome_store::db::{Conn, Row};
use matome_store::error::StoreError;
use matome_store::listing::{Column, ColumnKind, Condition, Listing, Lookup, Order, Query, Value, fold};
use matome_store::{aggregation_sources, data_sources};
use serde::Serialize;
use uuid::Uuid;

use crate::auth::{self, Permission};
use crate::endpoint::{Call, json_answer};
use crate::error::{ApiError, FieldErrors, Result};
use crate::message::Message;

const PAGE_SIZE: i64 = 20;
const MAX_PAGE_SIZE: i64 = 100;
/// Values that one `__in` may have; a request line has no room for many more.
const MAX_IN: usize = 1000;

/// The envelope of every list.
#[derive(Serialize)]
pub(crate) struct Envelope<T> {
    /// Null where rows are not counted.
    pub(crate) count: Option<i64>,
    pub(crate) next: Option<String>,
    pub(crate) previous: Option<String>,
    pub(crate) results: Vec<T>,
}

/// How a list counts its rows when no more than sources are filtered by.
pub(crate) type Counter =
    for<'a, 'c> fn(&'a mut Conn<'c>, Option<i64>) -> BoxFuture<'a, matome_store::error::Result<i64>>;

/// A list of the API.
pub(crate) struct List {
    /// Where its rows come from.
    pub(crate) listing: &'static Listing,
    /// What `source` refers to.
    pub(crate) references: Option<LaneKind>,
    /// Counts without looking at the rows; none where counting them is cheap.
    pub(crate) counter: Option<Counter>,
}

impl List {
    /// Answers with one page.
    pub(crate) async fn page<T, V>(&self, call: &Call, view: impl Fn(T) -> V) -> Result<Response>
    where
        T: for<'r> TryFrom<&'r Row, Error = StoreError>,
        V: Serialize,
    {
        let query = self.query(call).await?;
        self.page_of(call, query, view).await
    }

    /// As [`List::page`], of a query that the path asks for.
    pub(crate) async fn page_of<T, V>(&self, call: &Call, query: Query, view: impl Fn(T) -> V) -> Result<Response>
    where
        T: for<'r> TryFrom<&'r Row, Error = StoreError>,
        V: Serialize,
    {
        let size = page_size(call);
        let mut reader = call.state.db.read().await?;
        let count = self.count(&mut reader.conn(), &query).await?;
        let last = ((count + size - 1) / size).max(1);
        let page = match call.parameter("page") {
            None => 1,
            Some("last") => last,
            Some(text) => text
                .parse::<i64>()
                .ok()
                .filter(|page| (1..=last).contains(page))
                .ok_or(ApiError::NotFound(Message::InvalidPage))?,
        };
        let rows = self.listing.rows(&mut reader.conn(), &query, size, (page - 1) * size).await?;
        drop(reader);
        Self::envelope(call, count, (page, last), &rows, view)
    }

    /// The first page of all rows, for whoever shows a valid token: what most requests for a list are.
    pub(crate) async fn first_page<T, V>(
        &self,
        call: &Call,
        token: &str,
        total: Option<&str>,
        view: impl Fn(T) -> V,
    ) -> Result<Response>
    where
        T: for<'r> TryFrom<&'r Row, Error = StoreError>,
        V: Serialize,
    {
        let now = call.state.clock.now();
        let mut reader = call.state.db.read().await?;
        let found = self.listing.first_page(&mut reader.conn(), token, total, PAGE_SIZE, now).await?;
        drop(reader);
        let Some(found) = found else { return Err(ApiError::Unauthenticated(Message::InvalidToken)) };
        auth::note_use(&call.state, &found.bearer, now);
        if !Permission::Read.is_granted_to(found.bearer.role) {
            return Err(ApiError::Forbidden);
        }
        let last = ((found.total + PAGE_SIZE - 1) / PAGE_SIZE).max(1);
        Self::envelope(call, found.total, (1, last), &found.rows, view)
    }

    fn envelope<T, V>(
        call: &Call,
        count: i64,
        (page, last): (i64, i64),
        rows: &[Row],
        view: impl Fn(T) -> V,
    ) -> Result<Response>
    where
        T: for<'r> TryFrom<&'r Row, Error = StoreError>,
        V: Serialize,
    {
        let results = rows.iter().map(|row| T::try_from(row).map(&view)).collect::<Result<Vec<V>, StoreError>>()?;
        let to = |page: i64| link(call, "page", &if page > 1 { page.to_string() } else { String::new() });
        let next = (page < last).then(|| to(page + 1));
        let previous = (page > 1).then(|| to(page - 1));
        Ok(json_answer(StatusCode::OK, &Envelope { count: Some(count), next, previous, results }))
    }

    async fn count(&self, conn: &mut Conn<'_>, query: &Query) -> Result<i64> {
        if let Some(counter) = self.counter
            && query.search.is_empty()
            && query.after_run.is_none()
        {
            match query.conditions.as_slice() {
                [] => return Ok(counter(conn, None).await?),
                [one] if one.column.kind == ColumnKind::Reference => match &one.value {
                    Value::Int(id) => return Ok(counter(conn, Some(*id)).await?),
                    Value::Many(ids) => {
                        let mut ids: Vec<i64> = ids
                            .iter()
                            .filter_map(|id| if let Value::Int(id) = id { Some(*id) } else { None })
                            .collect();
                        ids.sort_unstable();
                        ids.dedup();
                        let mut sum = 0;
                        for id in ids {
                            sum += counter(conn, Some(id)).await?;
                        }
                        return Ok(sum);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        Ok(self.listing.count(conn, query).await?)
    }

    /// What the query string asks for. Unknown parameters are ignored, as Django does.
    pub(crate) async fn query(&self, call: &Call) -> Result<Query> {
        let mut errors = FieldErrors::default();
        let mut query = Query::default();
        let mut keys: Vec<&str> = call.query.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let Some((column, lookup)) = self.filter(key) else { continue };
            let text = call.parameter(key).unwrap_or_default();
            if text.is_empty() {
                continue;
            }
            match value(column, lookup, text) {
                Ok(value) => query.conditions.push(Condition { column, lookup, value }),
                Err(message) => errors.add(&[key], message),
            }
        }
        if let Some(search) = call.parameter("search") {
            if search.contains('\0') {
                errors.add(&["search"], Message::FilterNul);
            }
            if !self.listing.search.is_empty() {
                let terms = search.split(|c: char| c.is_whitespace() || c == ',').filter(|term| !term.is_empty());
                query.search = terms.map(fold).collect();
            }
        }
        for term in call.parameter("ordering").unwrap_or_default().split(',') {
            let (name, descending) = term.trim().strip_prefix('-').map_or((term.trim(), false), |name| (name, true));
            if let Some(column) = self.listing.column(name).filter(|column| column.sortable) {
                query.order.push(Order { column, descending });
            }
        }
        self.check_references(call, &query, &mut errors).await?;
        errors.into_result()?;
        Ok(query)
    }

    fn filter(&self, key: &str) -> Option<(&'static Column, Lookup)> {
        let (name, suffix) = key.find("__").map_or((key, ""), |at| key.split_at(at));
        let lookup = Lookup::ALL.iter().copied().find(|lookup| lookup.suffix() == suffix || suffix == "__exact")?;
        let column = self.listing.column(name)?;
        lookup.fits(column).then_some((column, lookup))
    }

    async fn check_references(&self, call: &Call, query: &Query, errors: &mut FieldErrors) -> Result<()> {
        let Some(kind) = self.references else { return Ok(()) };
        for condition in query.conditions.iter().filter(|condition| condition.column.kind == ColumnKind::Reference) {
            let ids = match &condition.value {
                Value::Many(values) => values.as_slice(),
                one => std::slice::from_ref(one),
            };
            let mut reader = call.state.db.read().await?;
            for id in ids {
                let Value::Int(id) = id else { continue };
                let exists = match kind {
                    LaneKind::Source => data_sources::find(&mut reader.conn(), *id).await?.is_some(),
                    LaneKind::Aggregation => aggregation_sources::find(&mut reader.conn(), *id).await?.is_some(),
                };
                if !exists {
                    let suffix = if condition.lookup == Lookup::In { "__in" } else { "" };
                    errors.add(&[format!("{}{suffix}", condition.column.name)], Message::FilterReference);
                    break;
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn page_size(call: &Call) -> i64 {
    let wanted = call.parameter("page_size").and_then(|text| text.parse::<i64>().ok()).filter(|size| *size > 0);
    wanted.unwrap_or(PAGE_SIZE).min(MAX_PAGE_SIZE)
}

/// The same list at another place: with this value of `parameter`, or without it.
pub(crate) fn link(call: &Call, parameter: &str, value: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in call.query.iter().filter(|(key, _)| key != parameter) {
        query.append_pair(key, value);
    }
    if !value.is_empty() {
        query.append_pair(parameter, value);
    }
    let query = query.finish();
    // The canonical path, whichever was asked for.
    let path = call.path.trim_end_matches('/');
    if query.is_empty() { format!("{}{path}/", call.origin) } else { format!("{}{path}/?{query}", call.origin) }
}

fn value(column: &Column, lookup: Lookup, text: &str) -> Result<Value, Message> {
    if text.contains('\0') {
        return Err(Message::FilterNul);
    }
    match lookup {
        Lookup::IsNull => boolean(text),
        Lookup::In => {
            let values = text.split(',').map(str::trim).filter(|part| !part.is_empty()).take(MAX_IN);
            values.map(|part| one(column, part)).collect::<Result<_, _>>().map(Value::Many)
        }
        Lookup::Icontains => Ok(Value::Text(fold(text))),
        _ => one(column, text),
    }
}

fn boolean(text: &str) -> Result<Value, Message> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(Value::Bool(true)),
        "false" | "0" => Ok(Value::Bool(false)),
        _ => Err(Message::FilterBoolean),
    }
}

fn one(column: &Column, text: &str) -> Result<Value, Message> {
    match column.kind {
        ColumnKind::Int => text.parse().map(Value::Int).map_err(|_| Message::FilterNumber),
        ColumnKind::Reference => text.parse().map(Value::Int).map_err(|_| Message::FilterReference),
        ColumnKind::Text | ColumnKind::Folded(_) => Ok(Value::Text(text.to_owned())),
        ColumnKind::Choice(words) => {
            // The original design's word for a task that went well.
            let word = if text == "success" && words.contains(&"succeeded") { "succeeded" } else { text };
            if words.contains(&word) {
                Ok(Value::Text(word.to_owned()))
            } else {
                Err(Message::FilterChoice { given: text.to_owned() })
            }
        }
        ColumnKind::Time => time(text).map(Value::Time).ok_or(Message::FilterTime),
        ColumnKind::Key => key(text)
            .map(Value::Bytes)
            .ok_or_else(|| Message::Said(Words::new("Enter 32 hexadecimal digits.", "16進数32桁を入力してください。"))),
        ColumnKind::Bool => boolean(text),
        ColumnKind::Uuid => Uuid::parse_str(text).map(Value::Uuid).map_err(|_| Message::FilterUuid),
    }
}

fn key(text: &str) -> Option<Vec<u8>> {
    let is_key = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_key.then(|| u128::from_str_radix(text, 16).ok().map(|key| key.to_be_bytes().to_vec())).flatten()
}

/// ISO 8601 with or without zone (UTC then), or a date alone.
pub(crate) fn time(text: &str) -> Option<Timestamp> {
    // A `+` that was not escaped arrives as a space.
    let repaired = match text.rsplit_once(' ') {
        Some((time, zone)) if time.contains('T') => format!("{time}+{zone}"),
        _ => text.to_owned(),
    };
    let time = DateTime::parse_from_rfc3339(&repaired).map(|time| time.with_timezone(&Utc)).ok();
    let naive = || {
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
            .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
            .map(|time| time.and_utc())
    };
    let time = time.or_else(naive)?;
    // The range that both databases keep.
    let year = chrono::Datelike::year(&time);
    (1..=9999).contains(&year).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_the_forms_people_write() {
        let midnight = "2026-11-23T00:00:00Z".parse::<Timestamp>().unwrap();
        for text in [
            "2026-11-23",
            "2026-11-23T00:00:00Z",
            "2026-11-23T09:00:00+09:00",
            "2026-11-23T09:00:00 09:00",
            "2026-11-23 00:00:00.000",
            "2026-11-23T00:00",
        ] {
            assert_eq!(time(text), Some(midnight), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "99999-01-01T00:00:00Z"] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}

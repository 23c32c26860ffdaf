//! Schedules: `/api/schedules/`, and the times at which they, or any cron expression, fire next.
//!
//! They are made and changed with their source or aggregation; here they are looked at.

use axum::response::Response;
use http::{Method, StatusCode};
use matome_model::clock::{Timestamp, iso8601};
use matome_model::schedule::{Cron, Misfire, Overlap, Plan, ScheduleOptions, Timing, local_iso8601, parse_zone};
use matome_model::task::LaneKind;
use matome_store::schedules::{self, LISTING, Schedule};
use serde::Serialize;

use crate::auth::Permission::Read;
use crate::endpoint::{Call, Endpoint, json_answer};
use crate::error::{ApiError, FieldErrors, Result};
use crate::list::List;
use crate::message::Message;
use crate::openapi::{Answer, OperationDoc};

const NOUN: &str = "Schedule";
/// Times that `next` shows.
const TIMES: i64 = 10;
const MAX_TIMES: i64 = 1000;

const LIST: List = List { listing: &LISTING, references: None, counter: None };

/// A schedule as clients see it.
#[derive(Serialize)]
struct ScheduleView {
    id: i64,
    kind: LaneKind,
    object_id: i64,
    name: String,
    enabled: bool,
    cron: Option<String>,
    timezone: Option<&'static str>,
    interval_secs: Option<i64>,
    misfire: Misfire,
    overlap: Overlap,
    jitter_secs: u64,
    next_at: String,
    last_at: Option<String>,
}

fn view(schedule: Schedule) -> ScheduleView {
    let (cron, interval) = match &schedule.plan.timing {
        Timing::Cron(cron) => (Some(cron), None),
        Timing::Interval(every) => (None, Some(every.num_seconds())),
    };
    ScheduleView {
        id: schedule.id,
        kind: schedule.kind,
        object_id: schedule.object_id,
        name: schedule.name,
        enabled: schedule.enabled,
        cron: cron.map(|cron| cron.as_str().to_owned()),
        timezone: cron.map(|cron| cron.zone().name()),
        interval_secs: interval,
        misfire: schedule.plan.misfire,
        overlap: schedule.plan.overlap,
        jitter_secs: schedule.plan.jitter_secs,
        next_at: iso8601(schedule.next_at),
        last_at: schedule.last_at.map(iso8601),
    }
}

/// The times of a schedule.
#[derive(Serialize)]
struct NextView {
    enabled: bool,
    timezone: &'static str,
    results: Vec<TimeView>,
}

#[derive(Serialize)]
struct TimeView {
    local: String,
    utc: String,
}

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    const NEXT: Answer = Answer::One("ScheduleTimes");
    const N: (&str, &str) = ("n", "How many times, 1 to 1000; 10 unless given.");
    vec![
        Endpoint::json("/api/schedules/", "Schedule List")
            .on(Method::GET, Read, |call| async move { LIST.page(&call, view).await })
            .doc(
                OperationDoc::new("schedules_list", "List the schedules.", 200, Answer::Page(NOUN))
                    .filtered_by(&LISTING),
            ),
        Endpoint::json("/api/schedules/{id}/", "Schedule Instance")
            .on(Method::GET, Read, |call| async move { Ok(json_answer(StatusCode::OK, &view(find(&call).await?))) })
            .doc(OperationDoc::new("schedules_retrieve", "Show a schedule.", 200, Answer::One(NOUN))),
        Endpoint::json("/api/schedules/{id}/next/", "Schedule Next")
            .on(Method::GET, Read, next_times)
            .doc(OperationDoc::new("schedules_next", "When a schedule fires next.", 200, NEXT).asking(&[N])),
        Endpoint::json("/api/schedules/preview/", "Schedule Preview").on(Method::GET, Read, preview).doc(
            OperationDoc::new("schedules_preview", "When a cron expression would fire next.", 200, NEXT).asking(&[
                ("cron", "Five fields, or a word such as `@daily`. Required."),
                ("timezone", "A zone of the IANA database; UTC unless given."),
                N,
            ]),
        ),
    ]
}

async fn find(call: &Call) -> Result<Schedule> {
    let id = call.id(NOUN)?;
    let mut reader = call.state.db.read().await?;
    schedules::find(&mut reader.conn(), id).await?.ok_or(ApiError::NotFound(Message::NoMatch { noun: NOUN }))
}

async fn next_times(call: Call) -> Result<Response> {
    let schedule = find(&call).await?;
    let count = count(&call).map_err(|message| ApiError::field("n", message))?;
    Ok(times(&call, &schedule.plan, schedule.enabled, schedule.next_at, count))
}

async fn preview(call: Call) -> Result<Response> {
    let mut errors = FieldErrors::default();
    let count = count(&call).unwrap_or_else(|message| {
        errors.add(&["n"], message);
        0
    });
    let zone = match parse_zone(call.parameter("timezone").filter(|name| !name.is_empty()).unwrap_or("UTC")) {
        Ok(zone) => zone,
        Err(words) => {
            errors.add(&["timezone"], Message::Said(words));
            parse_zone("UTC").expect("it is a zone")
        }
    };
    let cron = match call.parameter("cron") {
        None => Err(Message::Required),
        Some(text) => Cron::parse(text, zone).map_err(Message::Said),
    };
    let plan = match cron {
        Ok(cron) => ScheduleOptions { cron: Some(cron), ..ScheduleOptions::default() }.plan(None),
        Err(message) => {
            errors.add(&["cron"], message);
            None
        }
    };
    errors.into_result()?;
    let now = call.state.clock.now();
    let Some((plan, first)) = plan.and_then(|plan| plan.first(now).map(|first| (plan, first))) else {
        return Err(ApiError::field("cron", Message::Required));
    };
    Ok(times(&call, &plan, true, first, count))
}

fn times(call: &Call, plan: &Plan, enabled: bool, next: Timestamp, count: usize) -> Response {
    let zone = plan.zone();
    let upcoming = plan.upcoming(next, call.state.clock.now(), count);
    let results =
        upcoming.into_iter().map(|at| TimeView { local: local_iso8601(at, zone), utc: iso8601(at) }).collect();
    json_answer(StatusCode::OK, &NextView { enabled, timezone: zone.name(), results })
}

fn count(call: &Call) -> Result<usize, Message> {
    let count = match call.parameter("n") {
        None | Some("") => TIMES,
        Some(text) => text.parse::<i64>().map_err(|_| Message::NoInteger)?,
    };
    match count {
        ..1 => Err(Message::TooSmall { least: 1 }),
        1..=MAX_TIMES => usize::try_from(count).map_err(|_| Message::NoInteger),
        _ => Err(Message::TooLarge { most: MAX_TIMES }),
    }
}

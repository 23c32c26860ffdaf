//! Lanes: `/api/lanes/`. What each source and aggregation is about to do, and what keeps it from it.

use http::Method;
use matome_model::clock::iso8601;
use matome_model::task::LaneKind;
use matome_store::listing::lanes::{LISTING, LaneRow};
use serde::Serialize;

use crate::auth::Permission::Read;
use crate::endpoint::Endpoint;
use crate::list::List;
use crate::openapi::{Answer, OperationDoc};

const LIST: List = List { listing: &LISTING, references: None, counter: None };

/// A lane as clients see it.
#[derive(Serialize)]
struct LaneView {
    id: i64,
    kind: LaneKind,
    object_id: i64,
    name: String,
    stream: String,
    state: String,
    next_run_at: Option<String>,
    not_before: Option<String>,
    fail_streak: i64,
    host: Option<String>,
    host_limit: Option<i64>,
    host_running: Option<i64>,
    task: Option<i64>,
    worker: Option<WorkerView>,
    leased_at: Option<String>,
}

#[derive(Serialize)]
struct WorkerView {
    host: String,
    pid: i64,
}

fn view(lane: LaneRow) -> LaneView {
    LaneView {
        id: lane.id,
        kind: lane.kind,
        object_id: lane.object_id,
        name: lane.name,
        stream: lane.stream,
        state: lane.state,
        next_run_at: lane.next_run_at.map(iso8601),
        not_before: lane.not_before.map(iso8601),
        fail_streak: lane.fail_streak,
        host: lane.host,
        host_limit: lane.host_limit,
        host_running: lane.host_running,
        task: lane.task,
        worker: lane.worker.map(|(host, pid)| WorkerView { host, pid }),
        leased_at: lane.leased_at.map(iso8601),
    }
}

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::json("/api/lanes/", "Lane List")
            .on(Method::GET, Read, |call| async move { LIST.page(&call, view).await })
            .doc(
                OperationDoc::new(
                    "lanes_list",
                    "What each source and aggregation does or waits for: running, ready, host_full, held_back, waiting, paused \
                     or idle.",
                    200,
                    Answer::Page("Lane"),
                )
                .filtered_by(&LISTING),
            ),
    ]
}

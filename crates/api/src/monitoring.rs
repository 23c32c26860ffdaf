//! `/metrics`: what processes counted themselves, and what the database says of the installation at this moment.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use chrono::TimeDelta;
use http::{HeaderValue, header};
use matome_aggregation::engine::resident_bytes;
use matome_model::clock::Clock;
use matome_store::db::Db;
use matome_store::pulse::{self, Pulse, WorkerHost};
use matome_store::pushes;
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::celery_names::{self, CeleryNames};

/// What the database may take to answer; without it the other metrics still come.
const LIMIT: Duration = Duration::from_secs(2);

/// Renders the metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    db: Db,
    clock: Clock,
    /// What they are called once more; `None`: nowhere.
    celery: Option<Arc<CeleryNames>>,
    /// Roles that were told: one that has no process any more is told as 0.
    roles: Arc<Mutex<BTreeSet<String>>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("db", &self.db).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics that `handle` renders, with those of the database `db`.
    pub fn new(handle: PrometheusHandle, db: Db, clock: Clock) -> Self {
        Self { handle, db, clock, celery: None, roles: Arc::default() }
    }

    /// The same, which tells those of tasks under the names of celery-exporter, too.
    #[must_use]
    pub fn with_celery_names(self, names: CeleryNames) -> Self {
        Self { celery: Some(Arc::new(names)), ..self }
    }

    /// The answer in Prometheus' text form.
    pub(crate) async fn answer(&self) -> Response {
        self.look_at_process();
        let looked = tokio::time::timeout(LIMIT, self.look_at_database()).await;
        let fleet = looked.ok().and_then(Result::ok);
        gauge!("matome_db_up").set(if fleet.is_some() { 1.0 } else { 0.0 });
        let mut text = self.handle.render();
        if let Some(names) = &self.celery {
            let translated = celery_names::translate(&text, names, fleet.as_ref());
            text.push_str(&translated);
        }
        let mut response = Response::new(Body::from(text));
        let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        response
    }

    fn look_at_process(&self) {
        let (used, open) = self.db.connections();
        gauge!("matome_db_connections", "state" => "used").set(number(used));
        gauge!("matome_db_connections", "state" => "idle").set(number(open.saturating_sub(used)));
        gauge!("matome_db_connections_limit").set(number(self.db.connection_limit()));
        gauge!("matome_db_full").set(if self.db.is_full() { 1.0 } else { 0.0 });
        // The children that run SQL are not part of it.
        if let Some(bytes) = resident_bytes(std::process::id()) {
            gauge!("matome_process_resident_memory_bytes").set(count(bytes.try_into().unwrap_or(i64::MAX)));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            gauge!("matome_process_open_files").set(number(files.count()));
        }
    }

    async fn look_at_database(&self) -> Result<(Pulse, Vec<WorkerHost>), matome_store::error::StoreError> {
        let now = self.clock.now();
        let (pulse, hosts, waiting) = {
            let mut reader = self.db.read().await?;
            let mut conn = reader.conn();
            let hosts = match &self.celery {
                Some(_) => pulse::worker_hosts(&mut conn, now).await?,
                None => Vec::new(),
            };
            (pulse::look(&mut conn, now).await?, hosts, pushes::all_waiting(&mut conn).await?)
        };
        gauge!("matome_push_waiting").set(count(waiting.pushes));
        gauge!("matome_push_waiting_bytes").set(count(waiting.bytes));
        for state in &pulse.queues {
            let queue = state.queue.as_str();
            gauge!("matome_queue_tasks", "queue" => queue, "state" => "waiting").set(count(state.waiting));
            gauge!("matome_queue_tasks", "queue" => queue, "state" => "due").set(count(state.due));
            gauge!("matome_queue_oldest_due_seconds", "queue" => queue).set(seconds(state.oldest));
        }
        gauge!("matome_beat_lag_seconds").set(seconds(pulse.beat_lag));
        let mut known = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(pulse.roles.iter().map(|state| state.role.clone()));
        for role in known.iter() {
            let state = pulse.roles.iter().find(|state| state.role == *role);
            let (processes, age) = state.map_or((0, TimeDelta::zero()), |state| (state.processes, state.heartbeat_age));
            gauge!("matome_workers", "role" => role.clone()).set(count(processes));
            gauge!("matome_worker_heartbeat_age_seconds", "role" => role.clone()).set(seconds(age));
        }
        drop(known);
        Ok((pulse, hosts))
    }
}

/// `/metrics` alone and without a token, for an address that only those who watch reach.
pub fn metrics_router(metrics: Metrics) -> Router {
    let answer = move || {
        let metrics = metrics.clone();
        async move { metrics.answer().await }
    };
    Router::new().route("/metrics", get(answer))
}

fn number(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is no exact number above 2^53")]
fn count(n: i64) -> f64 {
    n.max(0) as f64
}

fn seconds(time: TimeDelta) -> f64 {
    time.to_std().unwrap_or_default().as_secs_f64()
}

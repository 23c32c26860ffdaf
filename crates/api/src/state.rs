//! What the API works with; made by the binary, cheap to clone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use matome_bus::Bus;
use matome_connector::Registry;
use matome_model::clock::Clock;
use matome_model::field_error::Words;
use matome_store::db::Db;
use matome_store::secrets::Vault;
use serde_json::value::RawValue;

use crate::health::Health;
use crate::intake::Intake;
use crate::monitoring::Metrics;

/// What handlers work with.
#[derive(Clone)]
pub struct ApiState {
    /// The database.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// Encrypts the secrets of configs.
    pub vault: Vault,
    /// Makes connectors, for `test`.
    pub registry: Registry,
    /// Plans and runs aggregations without storing, for `preview`.
    pub previewer: Arc<dyn Previewer>,
    /// Wakes the workers of a queue after a commit that made work.
    pub bus: Bus,
    /// Renders `/metrics`; none where no recorder is installed.
    pub metrics: Option<Metrics>,
    /// What `/readyz` looks at.
    pub health: Health,
    /// What bodies of pushes take of the memory.
    pub intake: Intake,
    /// Settings.
    pub settings: Arc<ApiSettings>,
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiState").field("db", &self.db).field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What a user sets about the API.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Names this server answers to: exact, `.example.org` for a domain, `*` for all. Empty: loopback names
    /// and the address it listens on.
    pub allowed_hosts: Vec<String>,
    /// The address it listens on.
    pub bind: Option<IpAddr>,
    /// `http` or `https`, for absolute links.
    pub scheme: &'static str,
    /// Origins whose pages may read answers in a browser: exact, or `*` for all.
    pub cors_origins: Vec<String>,
    /// The zone of a schedule that names none; none: UTC.
    pub time_zone: Option<String>,
    /// Time that `test` and `preview` may take.
    pub trial_limit: Duration,
    /// Bytes that the body of a push may have, also when it is inflated.
    pub push_limit: usize,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            bind: None,
            scheme: "http",
            cors_origins: Vec::new(),
            time_zone: None,
            trial_limit: Duration::from_secs(30),
            push_limit: 16 << 20,
        }
    }
}

/// Runs an aggregation for its first rows, storing nothing.
pub trait Previewer: Send + Sync {
    /// Whether a statement may run at all, and the names of its parameters; whether its tables exist is not asked.
    fn validate(&self, sql: String) -> BoxFuture<'_, Result<Vec<String>, TrialError>>;

    /// The first `rows` rows of what `config` describes, with these values for its parameters.
    fn preview(
        &self,
        config: Box<RawValue>,
        params: serde_json::Map<String, serde_json::Value>,
        rows: usize,
    ) -> BoxFuture<'_, Result<Preview, TrialError>>;
}

/// First rows of an aggregation.
#[derive(Debug, serde::Serialize)]
pub struct Preview {
    /// Rows as JSON objects.
    pub rows: Vec<Box<RawValue>>,
    /// Names and types of the columns: `[{"name", "type"}]`.
    pub columns: Box<RawValue>,
    /// Whether these are all.
    pub complete: bool,
}

/// Why a trial (`test`, `preview`) did not give a result: it is the answer, not an error of the API.
#[derive(Clone, Debug)]
pub struct TrialError {
    /// What happened, for people.
    pub message: Words,
    /// What caused it, outermost first.
    pub causes: Vec<Words>,
    /// Where, as far as known.
    pub position: Option<Box<RawValue>>,
    /// What to do about it, where the message does not say that.
    pub help: Option<Box<Words>>,
}

impl TrialError {
    /// An error that has no place.
    pub fn new(message: Words, causes: Vec<Words>) -> Self {
        Self { message, causes, position: None, help: None }
    }
}

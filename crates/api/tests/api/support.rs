//! The API without a network: requests go straight into its router.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode, header};
use matome_api::{ApiSettings, ApiState, Health, Intake, Preview, Previewer, TrialError, router};
use matome_bus::Bus;
use matome_connector::{FileRoots, Registry};
use matome_egress::{HttpClient, Policy};
use matome_model::clock::Clock;
use matome_model::field_error::Words;
use matome_store::api_tokens::{self, Role};
use matome_store::db::Db;
use matome_store::secrets::Vault;
use matome_testbed::{TestDb, databases};
use secrecy::ExposeSecret as _;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub const SOURCES: &str = "/api/acquisition/sources/";
pub const AGGREGATIONS: &str = "/api/aggregation/sources/";
pub const LISTS: [&str; 6] = [
    SOURCES,
    "/api/acquisition/data/",
    "/api/acquisition/tasks/",
    AGGREGATIONS,
    "/api/aggregation/data/",
    "/api/aggregation/tasks/",
];

pub struct TestApi {
    pub name: &'static str,
    pub db: Db,
    pub files: TempDir,
    pub admin: String,
    pub viewer: String,
    pub draining: CancellationToken,
    router: Router,
    _bed: TestDb,
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

/// The API on each database.
pub async fn apis() -> Vec<TestApi> {
    let mut apis = Vec::new();
    for bed in databases().await {
        apis.push(TestApi::new(bed).await);
    }
    apis
}

impl TestApi {
    async fn new(bed: TestDb) -> Self {
        let files = TempDir::new().unwrap();
        let clock = Clock::system();
        let roots = FileRoots::open([files.path()]).unwrap();
        let draining = CancellationToken::new();
        let state = ApiState {
            db: bed.db.clone(),
            clock: clock.clone(),
            vault: Vault::from_key([9; 32]),
            registry: Registry::new(roots, HttpClient::new(Policy::new([])), clock),
            previewer: Arc::new(OneRow),
            bus: Bus::in_process(),
            metrics: None,
            health: Health { db: bed.db.clone(), bus: Bus::in_process(), draining: draining.clone(), heart: None },
            intake: Intake::default(),
            settings: Arc::new(ApiSettings { trial_limit: Duration::from_secs(5), ..ApiSettings::default() }),
        };
        let [admin, viewer] = tokens(&bed.db).await;
        Self { name: bed.name, db: bed.db.clone(), files, admin, viewer, draining, router: router(state), _bed: bed }
    }

    /// A request of the administrator.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let request = self.request(method, path, &self.admin);
        let request = match body {
            None => request.body(Body::empty()),
            Some(body) => request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())),
        };
        self.send(request.unwrap()).await
    }

    pub fn request(&self, method: &str, path: &str, token: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
    }

    pub fn router(&self) -> Router {
        self.router.clone()
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Reply { status: parts.status, headers: parts.headers, text, json }
    }

    /// GET that must be answered with 200.
    pub async fn get(&self, path: &str) -> Value {
        self.call("GET", path, None).await.expect(self.name, 200)
    }

    /// Makes a row that must be accepted.
    pub async fn make(&self, path: &str, body: Value) -> Value {
        self.call("POST", path, Some(body)).await.expect(self.name, 201)
    }

    /// The errors of a row that must be refused.
    pub async fn refused(&self, path: &str, body: Value) -> Value {
        self.call("POST", path, Some(body)).await.expect(self.name, 400)
    }
}

impl Reply {
    pub fn expect(self, name: &str, status: u16) -> Value {
        assert_eq!(self.status, status, "{name}: {}", self.text);
        self.json
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

async fn tokens(db: &Db) -> [String; 2] {
    let make = async |role| {
        let made = db.write(move |conn| {
            Box::pin(async move { api_tokens::create(conn, "test", role, None, Clock::system().now()).await })
        });
        made.await.unwrap().1.expose_secret().to_owned()
    };
    [make(Role::Admin).await, make(Role::Viewer).await]
}

/// Stands in for the engine's child, which is another process of the real binary.
struct OneRow;

impl Previewer for OneRow {
    fn validate(&self, sql: String) -> BoxFuture<'_, Result<Vec<String>, TrialError>> {
        let is_query = sql.trim_start().starts_with("select");
        let refused = || TrialError {
            message: Words::new("only queries can run", "クエリだけです"),
            causes: Vec::new(),
            position: None,
            help: None,
        };
        async move { if is_query { Ok(Vec::new()) } else { Err(refused()) } }.boxed()
    }

    fn preview(
        &self,
        config: Box<RawValue>,
        _: serde_json::Map<String, Value>,
        _: usize,
    ) -> BoxFuture<'_, Result<Preview, TrialError>> {
        async move {
            let columns = serde_json::value::to_raw_value(&json!([{"name": "sql", "type": "Utf8"}])).unwrap();
            Ok(Preview { rows: vec![config], columns, complete: true })
        }
        .boxed()
    }
}

//! The outside world of the demo: a small REST service on loopback, spoken to over real HTTP.
//!
//! `/customers` is a paged list with ETags; `/rates` answers 503 to its first requests, as services do on a bad
//! morning.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Where the service listens, so that configs of an earlier run stay right; another port when it is taken.
const PREFERRED: &str = "127.0.0.1:8765";
const CUSTOMERS: usize = 120;
const PAGE: usize = 50;
/// How many requests `/rates` refuses after a start.
const REFUSALS: u32 = 1;
const REGIONS: [&str; 6] = ["北海道", "東北", "関東", "近畿", "九州", "沖縄"];

/// A running service.
#[derive(Debug)]
pub struct Service {
    pub address: SocketAddr,
}

impl Service {
    /// Starts it; it ends with `shutdown`.
    pub async fn start(shutdown: CancellationToken) -> std::io::Result<Self> {
        let listener = match tokio::net::TcpListener::bind(PREFERRED).await {
            Ok(listener) => listener,
            Err(_) => tokio::net::TcpListener::bind("127.0.0.1:0").await?,
        };
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/customers", get(customers))
            .route("/rates", get(rates))
            .with_state(Arc::new(AtomicU32::new(0)));
        tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).into_future());
        Ok(Self { address })
    }
}

#[derive(serde::Deserialize)]
struct Page {
    #[serde(default)]
    page: usize,
}

async fn customers(Query(Page { page }): Query<Page>, headers: HeaderMap) -> Response {
    let page = page.max(1);
    let etag = HeaderValue::from_str(&format!("\"customers-{page}\"")).expect("a number is a valid header");
    if headers.get(header::IF_NONE_MATCH) == Some(&etag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    let row = |id: usize| {
        json!({ "id": id, "name": format!("お客様{id:03}"), "region": REGIONS[id * 7 % REGIONS.len()],
                "member_since": format!("20{:02}-04-01", 10 + id % 15) })
    };
    let results: Vec<_> = (1..=CUSTOMERS).skip((page - 1) * PAGE).take(PAGE).map(row).collect();
    let next = (page * PAGE < CUSTOMERS).then(|| format!("?page={}", page + 1));
    let body = json!({ "count": CUSTOMERS, "next": next, "results": results }).to_string();
    ([(header::ETAG, etag), (header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

async fn rates(State(requests): State<Arc<AtomicU32>>) -> Response {
    if requests.fetch_add(1, Ordering::SeqCst) < REFUSALS {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "2")]).into_response();
    }
    let rate = |day: i32| json!({ "date": format!("2026-10-{day:02}"), "usd_jpy": 150.25 + f64::from(day) / 8.0 });
    axum::Json((1..=28).map(rate).collect::<Vec<_>>()).into_response()
}

//! A paginated API of the benchmark's own, quick enough not to be what limits its readers: a page is a piece of a file. It is
//! served by a thread of this process, so that its CPU time is nobody's who reads from it, and can be told.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::bench::data::{Kind, Records};
use crate::bench::target::failed;
use crate::bench::usage::ThreadClock;
use crate::failure::Failure;

const SEED: u64 = 1;
/// Records of one page, whatever is asked for.
const LARGEST_PAGE: usize = 10_000;

/// What is served at `/events`, beneath the address of the API.
struct Events {
    /// Records with a comma behind each.
    file: File,
    /// Where each record begins, and where the last one ends.
    bounds: Vec<u64>,
    address: SocketAddr,
}

impl Events {
    /// A page: `{"results": [...], "next": "http://..."}`, on the last one `null`.
    fn page(&self, number: usize, size: usize) -> io::Result<Vec<u8>> {
        let last = self.bounds.len() - 1;
        let size = size.clamp(1, LARGEST_PAGE);
        let from = number.saturating_sub(1).saturating_mul(size).min(last);
        let to = (from + size).min(last);
        let mut body = b"{\"results\":[".to_vec();
        let (head, comma) = (body.len(), u64::from(to > from));
        let length = self.bounds[to] - self.bounds[from] - comma;
        body.resize(head + usize::try_from(length).map_err(io::Error::other)?, 0);
        self.file.read_exact_at(&mut body[head..], self.bounds[from])?;
        match to < last {
            true => write!(body, "],\"next\":\"http://{}/events?page={}&size={size}\"}}", self.address, number + 1)?,
            false => body.extend_from_slice(b"],\"next\":null}"),
        }
        Ok(body)
    }
}

/// Writes the records of [`Events`]; returns their bounds.
fn write(path: &Path, count: u64) -> io::Result<Vec<u64>> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let (mut records, mut line, mut json) = (Records::new(Kind::Events, SEED), String::new(), Vec::new());
    let mut bounds = vec![0];
    let mut end = 0;
    for _ in 0..count {
        json.clear();
        records.json(&mut line, &mut json);
        json.push(b',');
        out.write_all(&json)?;
        end += u64::try_from(json.len()).map_err(io::Error::other)?;
        bounds.push(end);
    }
    out.flush()?;
    Ok(bounds)
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default = "first")]
    page: usize,
    size: usize,
}

fn first() -> usize {
    1
}

async fn answer(State(events): State<Arc<Events>>, Query(asked): Query<Asked>) -> Response {
    // The file was just written, so it is in memory; and nobody else is served meanwhile who would have to wait.
    match events.page(asked.page, asked.size) {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(err) => (StatusCode::INTERNAL_SERVER_ERROR, err.to_string()).into_response(),
    }
}

/// The API, running; it ends when dropped.
#[derive(Debug)]
pub struct Api {
    address: SocketAddr,
    clock: Option<ThreadClock>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Api {
    /// Serves `count` records of about 1 KB out of a file that it makes.
    pub async fn serve(file: &Path, count: u64) -> Result<Self, Failure> {
        let bounds = write(file, count).map_err(failed)?;
        let file = File::open(file).map_err(failed)?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let events = Arc::new(Events { file, bounds, address });
        let router = Router::new().route("/events", get(answer)).with_state(events);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, (started, clock)) = (CancellationToken::new(), oneshot::channel());
        let is_over = stop.clone();
        let thread = std::thread::spawn(move || {
            let _ = started.send(ThreadClock::of_this_thread());
            let serving = async {
                match TcpListener::from_std(listener) {
                    Ok(listener) => axum::serve(listener, router).await,
                    Err(err) => Err(err),
                }
            };
            runtime.block_on(is_over.run_until_cancelled(serving));
        });
        let clock = clock.await.ok().flatten();
        Ok(Self { address, clock, stop, thread: Some(thread) })
    }

    /// The address that stands before each path.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// CPU seconds that it took since it began.
    pub fn cpu_seconds(&self) -> Option<f64> {
        self.clock.as_ref().and_then(ThreadClock::seconds)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;

    async fn get(url: String) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.get(url).send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    #[tokio::test]
    async fn each_record_is_on_one_page_and_the_last_page_has_no_next() {
        let dir = TempDir::new().unwrap();
        let api = Api::serve(&dir.path().join("events"), 25).await.unwrap();
        for size in [1, 10, 25, 1_000] {
            let (mut next, mut seen) = (Some(format!("{}/events?size={size}", api.base())), Vec::new());
            while let Some(url) = next {
                let page: Value = serde_json::from_str(&get(url).await).unwrap();
                seen.extend(page["results"].as_array().unwrap().iter().map(|record| record["seq"].as_u64().unwrap()));
                next = page["next"].as_str().map(str::to_owned);
            }
            assert_eq!(seen, (1..=25).collect::<Vec<_>>(), "{size} a page");
        }
        assert!(api.cpu_seconds().is_some());
    }

    #[tokio::test]
    async fn an_api_without_records_has_one_empty_page() {
        let dir = TempDir::new().unwrap();
        let api = Api::serve(&dir.path().join("events"), 0).await.unwrap();
        let page = get(format!("{}/events?size=10&page=7", api.base())).await;
        assert_eq!(page, "{\"results\":[],\"next\":null}");
    }
}

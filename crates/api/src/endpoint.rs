//! One table for everything: a path, its operations, and for each its permission, its name and its handler.
//!
//! The router, the permission check, `Allow`, `OPTIONS` and the OpenAPI document all come from [`Endpoint`]s.
//! An [`Operation`] cannot be made without a [`Permission`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::RequestPartsExt as _;
use axum::Router;
use axum::body::{Body as HttpBody, Bytes, HttpBody as _};
use axum::extract::{RawPathParams, Request};
use axum::response::Response;
use axum::routing::any;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use matome_store::api_tokens::Role;
use matome_store::db::Row;
use matome_store::error::StoreError;
use serde::Serialize;
use serde_json::json;

use crate::auth::{LocalOwner, Permission, authenticate, shown};
use crate::body::{BODY_LIMIT, Body};
use crate::cors::Cors;
use crate::error::{ApiError, Result};
use crate::host;
use crate::list::List;
use crate::message::{Language, Message, language_of};
use crate::openapi::OperationDoc;
use crate::state::ApiState;

/// Bytes of an unread body, and time, that a connection is worth.
const DRAIN_LIMIT: usize = 256 << 10;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// A path and what can be done with it.
pub(crate) struct Endpoint {
    /// With a trailing slash where it has one; `{id}` stands for a positive integer.
    pub(crate) path: &'static str,
    /// What `OPTIONS` calls it.
    pub(crate) name: &'static str,
    /// Whether answers are JSON, so that another `Accept` is refused.
    pub(crate) is_json: bool,
    /// Whether it answers whatever host a request names. For what puts no link and no data into its answers.
    pub(crate) is_for_any_host: bool,
    pub(crate) operations: Vec<Operation>,
}

/// One method of a path.
pub(crate) struct Operation {
    pub(crate) method: Method,
    pub(crate) permission: Permission,
    pub(crate) handler: Handler,
    /// Answers a request without a query string, and checks the token itself. For [`Permission::Read`].
    pub(crate) first_page: Option<FirstPage>,
    /// The handler reads the body itself, as [`Call::take_body`].
    pub(crate) is_streamed: bool,
    /// None: not in the OpenAPI document.
    pub(crate) doc: Option<OperationDoc>,
}

pub(crate) type Handler = Arc<dyn Fn(Call) -> BoxFuture<'static, Result<Response>> + Send + Sync>;

/// Gets the token that the request shows, of which nothing is known yet.
pub(crate) type FirstPage = Arc<dyn Fn(Call, String) -> BoxFuture<'static, Result<Response>> + Send + Sync>;

/// A request on its way to its handler: host, permission and size of the body are checked.
pub(crate) struct Call {
    pub(crate) state: ApiState,
    /// Where absolute links start.
    pub(crate) origin: String,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    /// The path's parameter, as it is written.
    pub(crate) parameter: Option<String>,
    pub(crate) bytes: Bytes,
    /// The body, of an operation that reads it itself; what is left of it is read for the next request.
    body: Arc<Mutex<HttpBody>>,
}

impl Call {
    /// The `{id}` of the path; 404 with `noun` when it is no id.
    pub(crate) fn id(&self, noun: &'static str) -> Result<i64> {
        let text = self.parameter.as_deref().unwrap_or_default();
        let is_id = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| is_id).ok_or(ApiError::NotFound(Message::NoMatch { noun }))
    }

    /// The body's fields.
    pub(crate) fn body(&self) -> Result<Body> {
        Body::parse(&self.headers, &self.bytes)
    }

    /// The body as it comes, once; for an operation that is [`Endpoint::streamed`].
    pub(crate) fn take_body(&mut self) -> HttpBody {
        std::mem::take(&mut *self.body.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The last value of a query parameter, as Django takes it.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Endpoint {
    /// A path whose answers are JSON.
    pub(crate) fn json(path: &'static str, name: &'static str) -> Self {
        Self { path, name, is_json: true, is_for_any_host: false, operations: Vec::new() }
    }

    /// A path with answers of other media types.
    pub(crate) fn other(path: &'static str, name: &'static str) -> Self {
        Self { is_json: false, ..Self::json(path, name) }
    }

    /// Has it answer whatever host a request names: those who watch a process ask it by its address.
    pub(crate) fn for_any_host(self) -> Self {
        Self { is_for_any_host: true, ..self }
    }

    /// Adds a method.
    pub(crate) fn on<F, R>(mut self, method: Method, permission: Permission, handler: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |call| Box::pin(handler(call)));
        self.operations.push(Operation {
            method,
            permission,
            handler,
            first_page: None,
            is_streamed: false,
            doc: None,
        });
        self
    }

    /// Gives the method that was added last, the GET of a list, a way to its first page of all rows in one statement
    /// with the check of the token. `total` as for [`Listing::first_page`](matome_store::listing::Listing::first_page).
    pub(crate) fn first_page<T, V>(mut self, list: &'static List, total: Option<&'static str>, view: fn(T) -> V) -> Self
    where
        T: for<'r> TryFrom<&'r Row, Error = StoreError> + 'static,
        V: Serialize + 'static,
    {
        if let Some(operation) = self.operations.last_mut().filter(|found| found.permission == Permission::Read) {
            operation.first_page = Some(Arc::new(move |call, token| {
                Box::pin(async move { list.first_page(&call, &token, total, view).await })
            }));
        }
        self
    }

    /// Has the method that was added last read its body itself, whose size it bounds.
    pub(crate) fn streamed(mut self) -> Self {
        if let Some(operation) = self.operations.last_mut() {
            operation.is_streamed = true;
        }
        self
    }

    /// Describes the method that was added last.
    pub(crate) fn doc(mut self, doc: OperationDoc) -> Self {
        if let Some(operation) = self.operations.last_mut() {
            operation.doc = Some(doc);
        }
        self
    }

    /// Methods in the order of DRF's `Allow`.
    pub(crate) fn allow(&self) -> String {
        let mut methods: Vec<&str> = self.operations.iter().map(|operation| operation.method.as_str()).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.push("OPTIONS");
        methods.join(", ")
    }

    fn is_public(&self) -> bool {
        self.operations.iter().all(|operation| operation.permission == Permission::Public)
    }

    fn operation(&self, method: &Method) -> Option<&Operation> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.operations.iter().find(|operation| operation.method == *method)
    }

    /// Adds the path to a router, with and without its trailing slash.
    pub(crate) fn mount(self, router: Router, state: &ApiState) -> Router {
        let (endpoint, state) = (Arc::new(self), state.clone());
        let path = endpoint.path;
        let serve = {
            let endpoint = endpoint.clone();
            any(move |request: Request| serve(endpoint.clone(), state.clone(), request))
        };
        let router = router.route(path, serve.clone());
        match path.strip_suffix('/') {
            Some(bare) if !bare.is_empty() => router.route(bare, serve),
            _ => router,
        }
    }
}

async fn serve(endpoint: Arc<Endpoint>, state: ApiState, request: Request) -> Response {
    let started = Instant::now();
    let language = language_of(request.headers());
    let method = request.method().clone();
    let cors = Cors::of(&state.settings, &method, request.headers());
    let (parts, mut body) = request.into_parts();
    let answer = answer(&endpoint, state, parts, &mut body, &cors).await;
    let response = answer.unwrap_or_else(|err| err.into_response(language));
    let mut response = finish(response, body, &method, language, endpoint.path, started).await;
    cors.mark(response.headers_mut());
    response
}

/// The answer to a path that is none of ours.
pub(crate) async fn not_found(state: ApiState, request: Request) -> Response {
    let started = Instant::now();
    let language = language_of(request.headers());
    let cors = Cors::of(&state.settings, request.method(), request.headers());
    let (parts, body) = request.into_parts();
    let is_local = parts.extensions.get::<LocalOwner>().is_some();
    let err = match host::origin(&state.settings, &parts, is_local) {
        Ok(_) => ApiError::NotFound(Message::NotFound),
        Err(err) => err,
    };
    let mut response = finish(err.into_response(language), body, &parts.method, language, "none", started).await;
    cors.mark(response.headers_mut());
    response
}

/// Reads what nobody read of a request's body, so that the connection can serve the next request.
///
/// The server closes a connection whose request it did not read whole, and a client that already sends the next
/// request on it would see it fail. Returns whether the end was reached soon enough.
async fn drain(body: HttpBody) -> bool {
    let mut length = 0;
    let mut stream = body.into_data_stream();
    let read = async {
        while let Some(chunk) = stream.next().await {
            length += chunk.map_or(DRAIN_LIMIT + 1, |chunk| chunk.len());
            if length > DRAIN_LIMIT {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DRAIN_TIME, read).await.unwrap_or(false)
}

async fn finish(
    mut response: Response,
    unread: HttpBody,
    method: &Method,
    language: Language,
    route: &'static str,
    started: Instant,
) -> Response {
    let is_read = drain(unread).await && response.status() != StatusCode::PAYLOAD_TOO_LARGE;
    let headers = response.headers_mut();
    if !is_read {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Language, Authorization"));
    headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    // Methods of a client's invention must not make label values.
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let word = if known.contains(method) { method.as_str().to_owned() } else { "other".to_owned() };
    metrics::histogram!("matome_http_request_duration_seconds",
        "method" => word, "route" => route, "status" => response.status().as_str().to_owned())
    .record(started.elapsed());
    if method == Method::HEAD {
        let length = response.body().size_hint().exact();
        if let Some(length) = length {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        *response.body_mut() = HttpBody::empty();
    }
    response
}

async fn answer(
    endpoint: &Endpoint,
    state: ApiState,
    mut parts: Parts,
    body: &mut HttpBody,
    cors: &Cors,
) -> Result<Response> {
    let is_local = parts.extensions.get::<LocalOwner>().is_some();
    let origin = match host::origin(&state.settings, &parts, is_local) {
        Err(ApiError::BadHost(_)) if endpoint.is_for_any_host => String::new(),
        origin => origin?,
    };
    if let Some(response) = cors.preflight(&endpoint.allow()) {
        return Ok(response);
    }
    if endpoint.is_json && !accepts_json(&parts.headers) {
        return Err(ApiError::NotAcceptable);
    }
    if !is_local
        && parts.uri.query().is_none_or(str::is_empty)
        && let Some(first_page) = endpoint.operation(&parts.method).and_then(|found| found.first_page.as_ref())
    {
        let (token, path) = (shown(&parts.headers)?.to_owned(), parts.uri.path().to_owned());
        let (query, parameter, bytes, body) = (Vec::new(), None, Bytes::new(), Arc::default());
        let call = Call { state, origin, path, query, headers: parts.headers, parameter, bytes, body };
        return first_page(call, token).await;
    }
    let role = match () {
        () if is_local => Some(Role::Admin),
        () if endpoint.is_public() => None,
        () => Some(authenticate(&state, &parts.headers).await?),
    };
    if parts.method == Method::OPTIONS {
        return Ok(describe(endpoint));
    }
    let Some(operation) = endpoint.operation(&parts.method) else {
        return Err(ApiError::MethodNotAllowed { method: parts.method.to_string(), allow: endpoint.allow() });
    };
    let is_granted = match role {
        Some(role) => operation.permission.is_granted_to(role),
        None => operation.permission == Permission::Public,
    };
    if !is_granted {
        return Err(ApiError::Forbidden);
    }
    if state.db.is_full() && adds_data(&parts.method, parts.uri.path()) {
        return Err(ApiError::DiskFull);
    }
    let has_body = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    let is_streamed = has_body && operation.is_streamed;
    let mut unread = Arc::<Mutex<HttpBody>>::default();
    let bytes = match has_body {
        true if is_streamed => {
            unread = Arc::new(Mutex::new(std::mem::take(body)));
            Bytes::new()
        }
        true => read(std::mem::take(body)).await?,
        false => Bytes::new(),
    };
    let parameter = match parts.extract::<RawPathParams>().await {
        Ok(params) => params.iter().next().map(|(_, value)| value.to_owned()),
        Err(_) => Some(String::new()),
    };
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let path = parts.uri.path().to_owned();
    let call = Call { state, origin, path, query, headers: parts.headers, parameter, bytes, body: unread.clone() };
    let answered = (operation.handler)(call).await;
    if is_streamed {
        *body = std::mem::take(&mut *unread.lock().unwrap_or_else(PoisonError::into_inner));
    }
    answered
}

/// Whether a request would need room. What gives room back, stops work or only looks is let through to a full disk.
pub(crate) fn adds_data(method: &Method, path: &str) -> bool {
    const SPARED: [&str; 7] = ["/pause", "/cancel", "/discard", "/reset", "/test", "/probe", "/preview"];
    let path = path.trim_end_matches('/');
    matches!(*method, Method::POST | Method::PUT | Method::PATCH) && !SPARED.iter().any(|action| path.ends_with(action))
}

async fn read(body: HttpBody) -> Result<Bytes> {
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let ended = |_| ApiError::BadRequest(Message::BadJson { what: "the body ended early".to_owned() });
        bytes.extend_from_slice(&chunk.map_err(ended)?);
        if bytes.len() > BODY_LIMIT {
            return Err(ApiError::TooLarge { limit: BODY_LIMIT });
        }
    }
    Ok(bytes.into())
}

fn accepts_json(headers: &HeaderMap) -> bool {
    let mut given = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    given.peek().is_none()
        || given.flat_map(|value| value.split(',')).any(|range| {
            let range = range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            matches!(range.as_str(), "" | "*/*" | "application/*" | "application/json")
        })
}

fn describe(endpoint: &Endpoint) -> Response {
    let renders: &[&str] = if endpoint.is_json { &["application/json"] } else { &[] };
    let description = endpoint.operations.iter().filter_map(|operation| operation.doc.as_ref()).map(|doc| doc.summary);
    let body = json!({
        "name": endpoint.name,
        "description": description.collect::<Vec<_>>().join(" "),
        "renders": renders,
        "parses": ["application/json"],
    });
    let mut response = json_answer(StatusCode::OK, &body);
    if let Ok(allow) = HeaderValue::from_str(&endpoint.allow()) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// A JSON answer; characters outside ASCII are sent as they are.
pub(crate) fn json_answer<T: Serialize>(status: StatusCode, body: &T) -> Response {
    let bytes = serde_json::to_vec(body).expect("what we send is JSON: keys are text and nothing fails to serialise");
    let mut response = Response::new(HttpBody::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The same with a `Location`.
pub(crate) fn json_at<T: Serialize>(status: StatusCode, location: &str, body: &T) -> Response {
    let mut response = json_answer(status, body);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// An answer without a body.
pub(crate) fn no_content() -> Response {
    let mut response = Response::new(HttpBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_accepted_unless_the_client_wants_something_else_only() {
        for (accept, wanted) in [
            (None, true),
            (Some("*/*"), true),
            (Some("text/html, application/json;q=0.9"), true),
            (Some("application/json; indent=4"), true),
            (Some("image/png"), false),
            (Some("text/html"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
            }
            assert_eq!(accepts_json(&headers), wanted, "{accept:?}");
        }
    }
}

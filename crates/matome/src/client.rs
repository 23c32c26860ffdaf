//! How a command talks to matome: always the public API, over one of three ways.
//!
//! A server by its URL; else the running `serve` of the data directory through its Unix socket; else the
//! directory is opened and the same router is called in this process.

use std::path::Path;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::Response;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use matome_model::language::Language;
use serde_json::value::RawValue;
use tower::ServiceExt as _;

use crate::app::{App, Parts, Web};
use crate::cli::ClientArgs;
use crate::console::Console;
use crate::failure::{Exit, Failure, said};
use crate::message::Message;

/// Name of the control socket in the data directory.
pub const SOCKET: &str = "matome.sock";

/// A page of answers is never larger than this.
const MAX_ANSWER: usize = 64 << 20;

/// A way to the API.
pub enum Client {
    /// A server, or the socket of one.
    Http { client: reqwest::Client, base: String, token: Option<String>, target: String },
    /// The router in this process.
    InProcess { app: Box<App>, language: Language },
}

/// What a request carries.
#[derive(Debug)]
pub struct Payload {
    pub media_type: &'static str,
    pub idempotency_key: Option<String>,
    pub bytes: Bytes,
}

impl Payload {
    fn json(text: String) -> Self {
        Self { media_type: "application/json", idempotency_key: None, bytes: text.into() }
    }

    /// The headers that go with it.
    fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let key = self.idempotency_key.as_deref().map(|key| ("idempotency-key", key));
        std::iter::once(("content-type", self.media_type)).chain(key)
    }
}

/// What the API answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub body: String,
}

impl Client {
    /// Finds the way. `waits`: for a task, which [`Client::work_on`] may then run. A data directory that is not there is an error:
    /// it is a slip of the pen more often than an empty one.
    pub async fn connect(args: &ClientArgs, console: &Console, waits: bool) -> Result<Self, Failure> {
        let storage = &args.storage;
        if args.remote.server.is_none() && storage.database_url.is_none() && !storage.data_dir.exists() {
            let dir = storage.data_dir.display().to_string();
            return Err(Failure::new(Exit::Config, Message::NoDataDirectory { dir }).help(Message::NameDataDirectory));
        }
        Self::connect_or_make(args, console, waits).await
    }

    /// As [`Client::connect`], and makes a data directory that is not there: for commands that put something into it.
    pub async fn connect_or_make(args: &ClientArgs, console: &Console, waits: bool) -> Result<Self, Failure> {
        if let Some(server) = &args.remote.server {
            if !["http://", "https://"].iter().any(|scheme| server.starts_with(scheme)) {
                let server = || server.clone();
                return Err(Failure::new(Exit::Usage, Message::NoServerUrl { server: server() })
                    .help(Message::WriteServerUrl { server: server() }));
            }
            let base = server.trim_end_matches('/').to_owned();
            let client = http_client(console).build().map_err(|err| unreachable(&base, &err))?;
            return Ok(Self::Http { client, target: base.clone(), base, token: args.remote.token.clone() });
        }
        let socket = args.storage.data_dir.join(SOCKET);
        if socket_answers(&socket).await {
            let target = socket.display().to_string();
            let client = http_client(console).unix_socket(socket).build().map_err(|err| unreachable(&target, &err))?;
            return Ok(Self::Http { client, base: "http://localhost".to_owned(), token: None, target });
        }
        let parts = if waits { Parts::waiting_command() } else { Parts::command() };
        let app = App::open(&args.storage, &args.reach, Web::default(), 512, parts).await?;
        Ok(Self::InProcess { app: Box::new(app), language: console.language })
    }

    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: String) -> Result<Answer, Failure> {
        self.send("POST", path, Some(body)).await
    }

    /// Sends one request; the answer is read whole (it is one page).
    pub async fn send(&self, method: &str, path: &str, body: Option<String>) -> Result<Answer, Failure> {
        self.request(method, path, body.map(Payload::json)).await
    }

    /// As [`Client::send`], with a body of any type.
    pub async fn request(&self, method: &str, path: &str, payload: Option<Payload>) -> Result<Answer, Failure> {
        match self {
            Self::Http { client, base, token, target } => {
                let method = method.parse().expect("methods are our own constants");
                let mut request = client.request(method, format!("{base}{path}")).timeout(Duration::from_secs(120));
                if let Some(token) = token {
                    request = request.bearer_auth(token);
                }
                if let Some(payload) = payload {
                    request = payload.headers().fold(request, |request, (name, value)| request.header(name, value));
                    request = request.body(payload.bytes);
                }
                let reply = request.send().await.map_err(|err| unreachable(target, &err))?;
                let (status, location) = (reply.status().as_u16(), location(reply.headers()));
                let body = reply.text().await.map_err(|err| unreachable(target, &err))?;
                Ok(Answer { status, location, body })
            }
            Self::InProcess { app, language } => read_whole(call(app, *language, method, path, payload).await?).await,
        }
    }

    /// The lines of a streamed answer, one after another as they arrive, until `each` says that it has enough. When the
    /// answer breaks off, that is an error.
    pub async fn lines(&self, path: &str, mut each: impl FnMut(&str) -> Result<bool, Failure>) -> Result<(), Failure> {
        let mut chunks = self.chunks(path).await?;
        let mut pending = Vec::new();
        while let Some(chunk) = chunks.next().await {
            pending.extend_from_slice(&chunk?);
            let whole = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            for line in pending[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line = std::str::from_utf8(line).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
                if !each(line)? {
                    return Ok(());
                }
            }
            pending.drain(..whole);
        }
        Ok(())
    }

    /// The bytes of an answer, as they arrive.
    pub async fn bytes(&self, path: &str, out: &mut impl std::io::Write) -> Result<(), Failure> {
        let mut chunks = self.chunks(path).await?;
        while let Some(chunk) = chunks.next().await {
            out.write_all(&chunk?).map_err(|err| Failure::from_error(Exit::Failed, &err))?;
        }
        out.flush().map_err(|err| Failure::from_error(Exit::Failed, &err))
    }

    async fn chunks(&self, path: &str) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        match self {
            Self::Http { client, base, token, target } => {
                let mut request = client.get(format!("{base}{path}"));
                if let Some(token) = token {
                    request = request.bearer_auth(token);
                }
                let reply = request.send().await.map_err(|err| unreachable(target, &err))?;
                if !reply.status().is_success() {
                    let status = reply.status().as_u16();
                    let body = reply.text().await.map_err(|err| unreachable(target, &err))?;
                    return Err(Answer { status, location: None, body }.into_failure());
                }
                let target = target.clone();
                let broke = move |err: reqwest::Error| {
                    Failure::new(Exit::Unreachable, Message::ConnectionBroke { target: target.clone() })
                        .because(&err)
                        .help(Message::TryAgainWhole)
                };
                Ok(reply.bytes_stream().map_err(broke).boxed())
            }
            Self::InProcess { app, language } => {
                let reply = call(app, *language, "GET", path, None).await?;
                if !reply.status().is_success() {
                    return Err(read_whole(reply).await?.into_failure());
                }
                let broke = |err: axum::Error| Failure::from_error(Exit::Failed, &err);
                Ok(reply.into_body().into_data_stream().map_err(broke).boxed())
            }
        }
    }

    /// Runs a task in this process where no other would: see [`App::work_on`].
    pub async fn work_on(&self, task_id: i64) -> Result<(), Failure> {
        if let Self::InProcess { app, .. } = self {
            app.work_on(task_id).await?;
        }
        Ok(())
    }

    /// Ends what this process started.
    pub async fn close(self) {
        if let Self::InProcess { app, .. } = self {
            app.stop().await;
        }
    }
}

async fn call(
    app: &App,
    language: Language,
    method: &str,
    path: &str,
    payload: Option<Payload>,
) -> Result<Response, Failure> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::ACCEPT_LANGUAGE, language.tag());
    for (name, value) in payload.iter().flat_map(Payload::headers) {
        request = request.header(name, value);
    }
    let request = request
        .extension(matome_api::LocalOwner)
        .body(payload.map(|payload| Body::from(payload.bytes)).unwrap_or_default())
        .map_err(|err| Failure::from_error(Exit::Usage, &err))?;
    Ok(app.router().oneshot(request).await.unwrap_or_else(|never| match never {}))
}

async fn read_whole(reply: Response) -> Result<Answer, Failure> {
    let (status, location) = (reply.status().as_u16(), location(reply.headers()));
    let body = axum::body::to_bytes(reply.into_body(), MAX_ANSWER)
        .await
        .map_err(|err| Failure::from_error(Exit::Failed, &err))?;
    Ok(Answer { status, location, body: String::from_utf8_lossy(&body).into_owned() })
}

impl Answer {
    /// The body as JSON, or what went wrong in words.
    pub fn into_json(self) -> Result<Box<RawValue>, Failure> {
        if (200..300).contains(&self.status) {
            let body = if self.body.is_empty() { "null".to_owned() } else { self.body };
            return RawValue::from_string(body).map_err(|err| {
                Failure::new(Exit::Unreachable, Message::AnswerNoJson).because(&err).help(Message::CheckServer)
            });
        }
        Err(self.into_failure())
    }

    fn into_failure(self) -> Failure {
        let message = match describe(&self.body) {
            Some(text) => said(text),
            None => Message::ServerAnswered { status: self.status.to_string() },
        };
        match self.status {
            400 | 415 | 422 => Failure::new(Exit::Usage, message),
            401 => Failure::new(Exit::Forbidden, message).help(Message::GiveToken),
            403 => Failure::new(Exit::Forbidden, message).help(Message::UseAdminToken),
            404 => Failure::new(Exit::NotFound, message),
            409 | 423 => Failure::new(Exit::Conflict, message),
            503 => Failure::new(Exit::Unreachable, message),
            507 => Failure::new(Exit::Failed, message).help(Message::FreeSpace),
            _ => Failure::new(Exit::Failed, message),
        }
    }
}

/// DRF's error shapes in words: `{"detail": "..."}`, `{"field": ["..."]}`, nested.
fn describe(body: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    if let Some(detail) = value.get("detail").and_then(|v| v.as_str()) {
        return Some(detail.to_owned());
    }
    let mut lines = Vec::new();
    collect(&value, "", &mut lines);
    (!lines.is_empty()).then(|| lines.join("\n       "))
}

fn collect(value: &serde_json::Value, path: &str, lines: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) if path.is_empty() => lines.push(text.clone()),
        serde_json::Value::String(text) => lines.push(format!("{path}: {text}")),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, path, lines)),
        serde_json::Value::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(member, &path, lines);
            }
        }
        _ => {}
    }
}

fn location(headers: &HeaderMap) -> Option<String> {
    headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Whether a server listens on the socket of a data directory.
pub async fn socket_answers(socket: &Path) -> bool {
    tokio::net::UnixStream::connect(socket).await.is_ok()
}

fn unreachable(target: &str, err: &reqwest::Error) -> Failure {
    Failure::new(Exit::Unreachable, Message::NoAnswer { target: target.to_owned() })
        .because(err)
        .help(Message::CheckServer)
}

/// A client that asks for answers in the user's language.
fn http_client(console: &Console) -> reqwest::ClientBuilder {
    let language = HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, HeaderValue::from_static(console.language.tag()))]);
    reqwest::Client::builder().no_proxy().default_headers(language)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_errors_are_told_with_their_path() {
        let body = r#"{"config":{"pagination":{"next":["This field is required."]}},"name":["too long"]}"#;
        let text = describe(body).unwrap();
        assert!(text.contains("config.pagination.next: This field is required."), "{text}");
        assert!(text.contains("name: too long"), "{text}");
    }

    #[test]
    fn the_exit_code_fits_the_status() {
        let exit = |status| Answer { status, location: None, body: String::new() }.into_json().unwrap_err().exit;
        assert_eq!(
            [400, 401, 404, 409, 500].map(exit),
            [Exit::Usage, Exit::Forbidden, Exit::NotFound, Exit::Conflict, Exit::Failed]
        );
    }
}

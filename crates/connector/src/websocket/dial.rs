//! Opens connections: the handshake of a WebSocket or the request for events, with credentials and the cursor.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use matome_egress::header::{self, HeaderMap, HeaderValue};
use matome_egress::{EgressError, HttpClient, Request, Response, StatusCode, Upgrade};
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use matome_model::say;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use url::Url;

use super::config::WebsocketConfig;
use super::events::Events;
use super::message::Message;
use super::socket::Socket;
use crate::api::{Auth, Tokens, Unfit, Values, is_refused, retry_after, set_param};
use crate::error::ConnectorError;
use crate::keeper::SecretKeeper;
use crate::record::{DocumentError, Position};

/// So much of a reason is repeated.
const REASON_CHARS: usize = 200;

/// Why a connection is no more.
#[derive(Debug)]
pub(super) enum Lost {
    /// The source closed it.
    Closed { code: Option<u16>, reason: String },
    /// Nothing came for this time.
    Silence(Duration),
    /// A message that is longer than can be held.
    TooLong(usize),
    /// A text message that is none.
    NotUtf8,
    /// The connection broke, or what came is no WebSocket frame.
    Broken(Box<tungstenite::Error>),
    /// The same of a body of events.
    Egress(EgressError),
}

impl Lost {
    /// The code of it in the list of gaps.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Silence(_) => "silence",
            Self::TooLong(_) | Self::NotUtf8 => "unreadable",
            Self::Broken(_) | Self::Egress(_) => "broken",
        }
    }

    /// Whether the source says by the code of its end that it does not want this client: the policy is not kept (1008), not
    /// authorized (3000), forbidden (3003), or a reason of its own (4000 to 4999).
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Closed { code: Some(1008 | 3000 | 3003 | 4000..=4999), .. })
    }

    /// The error that a read ends with when there is no other connection.
    pub(super) fn into_error(self, position: Position) -> ConnectorError {
        let position = Box::new(position);
        match self {
            Self::Closed { code, reason } => ConnectorError::Closed { position, code, reason },
            Self::Silence(silence) => ConnectorError::Silent { position, silence },
            Self::TooLong(size) => {
                let problem = say!("a message has {size} bytes", "メッセージが {size} バイトあります");
                ConnectorError::document(*position, DocumentError::anywhere(problem))
            }
            Self::NotUtf8 => {
                let problem = ("a text message is no UTF-8", "テキストのメッセージが UTF-8 ではありません");
                ConnectorError::document(*position, DocumentError::anywhere(problem))
            }
            Self::Broken(source) => ConnectorError::Frames { position, source },
            Self::Egress(source) => ConnectorError::Egress { position, source },
        }
    }
}

/// A connection on which messages come.
pub(super) enum Connection {
    Socket(Box<Socket>),
    Events(Box<Events>),
}

impl Connection {
    /// The next message. Safe to drop and ask again.
    pub(super) async fn next(&mut self) -> Result<Message, Lost> {
        match self {
            Self::Socket(socket) => socket.next().await,
            Self::Events(events) => events.next().await,
        }
    }

    pub(super) fn was_left_alone(&mut self, time: Duration) {
        match self {
            Self::Socket(socket) => socket.was_left_alone(time),
            Self::Events(events) => events.was_left_alone(time),
        }
    }

    pub(super) async fn close(self) {
        if let Self::Socket(socket) = self {
            socket.close().await;
        }
    }
}

/// What a connection is asked for.
pub(super) struct Wanted<'a> {
    /// The cursor behind which it goes on, as JSON.
    pub(super) token: Option<&'a RawValue>,
    pub(super) now: Timestamp,
    /// Where it is tried, for errors.
    pub(super) position: Position,
}

/// Opens the connections of one read.
pub(super) struct Dialer {
    config: Arc<WebsocketConfig>,
    client: HttpClient,
    tokens: Tokens,
    keeper: Option<Arc<dyn SecretKeeper>>,
    /// The access token that was sent last.
    token: Option<SecretString>,
}

impl Dialer {
    pub(super) fn new(
        config: Arc<WebsocketConfig>,
        client: HttpClient,
        tokens: Tokens,
        keeper: Option<Arc<dyn SecretKeeper>>,
    ) -> Self {
        Self { config, client, tokens, keeper, token: None }
    }

    /// Opens a connection; `None` when the source says that there will be no more events (204).
    pub(super) async fn open(&mut self, wanted: Wanted<'_>) -> Result<Option<Connection>, ConnectorError> {
        let config = self.config.clone();
        let text = wanted.token.map(text_of);
        let now = matome_model::clock::iso8601(wanted.now);
        let values = Values {
            cursor: text.as_deref(),
            cursor_is_number: wanted.token.is_some_and(|token| !token.get().starts_with('"')),
            now: &now,
            secrets: Some(&config.secrets),
            ..Values::default()
        };
        let position = &wanted.position;
        let unfit = |unfit: Unfit| ConnectorError::document(position.clone(), DocumentError::anywhere(unfit.0));
        let mut has_renewed = false;
        loop {
            let (request, key) = self.request(&values, position, wanted.now).await?;
            let egress = |source| ConnectorError::Egress { position: Box::new(position.clone()), source };
            let (headers, connection, response) = if self.config.is_events {
                (HeaderMap::new(), None, Some(self.client.send(request).await.map_err(egress)?))
            } else {
                match self.client.upgrade(request).await.map_err(egress)? {
                    Upgrade::Done { headers, connection } => (*headers, Some(connection), None),
                    Upgrade::Refused(response) => (HeaderMap::new(), None, Some(*response)),
                }
            };
            if let Some(response) = response {
                let auth = self.config.auth.as_ref();
                // A token may end before its time; that is found out once, a second refusal is meant.
                if let (true, Some(login), Some(token), false) =
                    (is_refused(response.status, auth), auth.and_then(Auth::login), &self.token, has_renewed)
                {
                    self.tokens.forget(login, self.keeper.as_ref(), token).await;
                    has_renewed = true;
                    continue;
                }
                return self.events(response, &wanted);
            }
            let Some(connection) = connection else { return Ok(None) };
            check_accepted(&headers, &key, position)?;
            let heartbeat = &self.config.heartbeat;
            let message = heartbeat.message.as_ref().map(|message| message.fill(&values)).transpose().map_err(unfit)?;
            let ping = heartbeat.ping.map(|every| (every, message));
            let mut socket = Socket::open(connection, ping, heartbeat.silence).await;
            let resumes = self.config.resume.as_ref().filter(|resume| !resume.subscribe.is_empty());
            let messages = match (resumes, wanted.token) {
                (Some(resume), Some(_)) => &resume.subscribe,
                _ => &self.config.subscribe,
            };
            for message in messages {
                let text = message.fill(&values).map_err(unfit)?;
                socket.send(text).await.map_err(|lost| self.discreet(lost).into_error(position.clone()))?;
            }
            return Ok(Some(Connection::Socket(Box::new(socket))));
        }
    }

    /// What a connection was lost over, without credentials that the source may repeat.
    pub(super) fn discreet(&self, lost: Lost) -> Lost {
        let Lost::Closed { code, mut reason } = lost else { return lost };
        let sent = self.config.auth.iter().flat_map(Auth::secrets).chain(&self.token);
        let secrets = sent.chain(self.config.secrets.values());
        for secret in secrets.map(|secret| secret.expose_secret()).filter(|secret| !secret.is_empty()) {
            reason = reason.replace(secret, "***");
        }
        let reason = reason.chars().filter(|char| !char.is_control()).take(REASON_CHARS).collect();
        Lost::Closed { code, reason }
    }

    /// The request, and the key that its answer has to know.
    async fn request(
        &mut self,
        values: &Values<'_>,
        position: &Position,
        now: Timestamp,
    ) -> Result<(Request, String), ConnectorError> {
        let config = self.config.clone();
        let mut url = config.url.clone();
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let value = value.fill(values).ok().and_then(|text| HeaderValue::from_str(&text).ok());
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        if config.is_events {
            headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            if let Ok(key) = HeaderValue::from_str(&key) {
                headers.insert(header::SEC_WEBSOCKET_KEY, key);
            }
        }
        if let Some(cursor) = values.cursor {
            self.ask_from(cursor, &mut url, &mut headers, position)?;
        }
        if let Some(auth) = &config.auth {
            if let Some(login) = auth.login() {
                let (keeper, timeout) = (self.keeper.as_ref(), config.common.timeout);
                self.token = Some(self.tokens.get(&self.client, login, keeper, timeout, now).await?);
            }
            auth.add_header(&mut headers, self.token.as_ref());
            auth.add_query(&mut url);
        }
        let timeout = config.common.timeout;
        let mut request = Request { timeout, is_stream: config.is_events, ..Request::new(url) };
        if config.is_events {
            request.body_limit = u64::MAX;
        }
        // What frames the handshake goes wherever it is redirected to; credentials and what a config adds do not.
        for name in [
            header::ACCEPT,
            header::ACCEPT_ENCODING,
            header::CACHE_CONTROL,
            header::CONNECTION,
            header::UPGRADE,
            header::SEC_WEBSOCKET_VERSION,
            header::SEC_WEBSOCKET_KEY,
        ] {
            if let Some(value) = headers.remove(&name) {
                request.headers.insert(name, value);
            }
        }
        request.origin_headers = headers;
        if let Some(auth) = &config.auth {
            auth.sign(&mut request, now);
        }
        Ok((request, key))
    }

    fn ask_from(
        &self,
        cursor: &str,
        url: &mut Url,
        headers: &mut HeaderMap,
        position: &Position,
    ) -> Result<(), ConnectorError> {
        let (param, name) = match &self.config.resume {
            Some(resume) => (resume.param.as_deref(), resume.header.clone()),
            None if self.config.is_events => (None, Some(header::HeaderName::from_static("last-event-id"))),
            None => return Ok(()),
        };
        if let Some(param) = param {
            set_param(url, param, cursor);
        }
        let Some(name) = name else { return Ok(()) };
        // Ids may be any UTF-8.
        let value = HeaderValue::from_bytes(cursor.as_bytes()).map_err(|_| {
            let problem = say!(
                "the cursor can not be sent as the header `{name}`: it has control characters",
                "カーソルに制御文字があり、ヘッダー `{name}` で送れません"
            );
            ConnectorError::document(position.clone(), DocumentError::anywhere(problem))
        })?;
        headers.insert(name, value);
        Ok(())
    }

    /// The events of an answer, or why it has none.
    fn events(&self, response: Response, wanted: &Wanted<'_>) -> Result<Option<Connection>, ConnectorError> {
        let position = Box::new(wanted.position.clone());
        let status = response.status;
        let kind = response.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if self.config.is_events && status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        if !status.is_success() && !status.is_redirection() {
            let retry_after = retry_after(&response.headers, wanted.now);
            return Err(ConnectorError::Status { position, status, retry_after });
        }
        if self.config.is_events && status == StatusCode::OK && kind == "text/event-stream" {
            let (limit, silence) = (self.config.max_message_bytes, self.config.heartbeat.silence);
            return Ok(Some(Connection::Events(Box::new(Events::new(response, limit, silence)))));
        }
        let kind = if kind.is_empty() { "-".to_owned() } else { kind.chars().take(100).collect() };
        let came = say!("`{status}` with `{kind}`", "`{status}`、種類 `{kind}`");
        Err(ConnectorError::NoStream { position, is_events: self.config.is_events, came })
    }
}

/// Whether the answer is that of a WebSocket (RFC 6455, section 4.1).
fn check_accepted(headers: &HeaderMap, key: &str, position: &Position) -> Result<(), ConnectorError> {
    let no_stream =
        |came: Words| ConnectorError::NoStream { position: Box::new(position.clone()), is_events: false, came };
    let upgrade = headers.get(header::UPGRADE).and_then(|upgrade| upgrade.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("websocket") {
        let upgrade: String = upgrade.chars().take(100).collect();
        return Err(no_stream(say!("the protocol `{upgrade}`", "プロトコル `{upgrade}`")));
    }
    let accepted = headers.get(header::SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(no_stream(Words::new(
            "an answer to another handshake (`Sec-WebSocket-Accept`)",
            "別のハンドシェイクへの応答 (`Sec-WebSocket-Accept`)",
        )));
    }
    Ok(())
}

/// The text of a cursor.
fn text_of(token: &RawValue) -> String {
    serde_json::from_str::<String>(token.get()).unwrap_or_else(|_| token.get().to_owned())
}

//! One request and its answer, with everything that all requests of a source have in common: credentials, budgets,
//! waits.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use matome_egress::header::{self, HeaderMap};
use matome_egress::{EgressError, HttpClient, Method, Request, Response, StatusCode};
use matome_model::clock::Clock;
use secrecy::{ExposeSecret, SecretString};
use url::{Origin, Url};

use super::auth::Auth;
use super::config::ApiConfig;
use super::list::Asked;
use super::tokens::Tokens;
use crate::error::{ConnectorError, RETRY_AFTER_LIMIT};
use crate::keeper::SecretKeeper;
use crate::record::{DocumentError, Position, ReadStats};

/// So much of an answer is read that is no page.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// So much one read may bring, as much as a file may have.
const READ_LIMIT_BYTES: u64 = 256 << 30;

/// Makes the requests of one read.
pub(super) struct Exchange {
    config: Arc<ApiConfig>,
    client: HttpClient,
    clock: Clock,
    tokens: Tokens,
    keeper: Option<Arc<dyn SecretKeeper>>,
    /// The requests of this read, from 1.
    requests: u64,
    /// What was done since the last batch.
    pub(super) stats: ReadStats,
    bytes: u64,
    /// The access token that was sent last.
    token: Option<SecretString>,
}

impl Exchange {
    pub(super) fn new(config: Arc<ApiConfig>, client: HttpClient, clock: Clock) -> Self {
        Self {
            config,
            client,
            clock,
            tokens: Tokens::default(),
            keeper: None,
            requests: 0,
            stats: ReadStats::default(),
            bytes: 0,
            token: None,
        }
    }

    pub(super) fn with_tokens(self, tokens: Tokens, keeper: Option<Arc<dyn SecretKeeper>>) -> Self {
        Self { tokens, keeper, ..self }
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The number of the last request.
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// A place at the page with this name, in the last request.
    pub(super) fn position(&self, name: &str) -> Position {
        Position { document: name.into(), request: Some(self.requests), line: None, record: 0, headers: None }
    }

    /// Counts bytes of pages.
    pub(super) fn count_bytes(&mut self, bytes: usize, name: &str) -> Result<(), ConnectorError> {
        self.stats.bytes += bytes as u64;
        self.bytes += bytes as u64;
        if self.bytes > READ_LIMIT_BYTES {
            let position = Box::new(self.position(name));
            return Err(ConnectorError::TooMuch { position, limit: READ_LIMIT_BYTES });
        }
        Ok(())
    }

    /// Asks for the page with this name. `conditions` are sent along; the headers of the list go to `origin` only,
    /// credentials to the origin of the source only.
    pub(super) async fn ask(
        &mut self,
        name: &str,
        asked: &Asked,
        conditions: &HeaderMap,
        origin: &Origin,
    ) -> Result<Response, ConnectorError> {
        self.requests += 1;
        let position = Box::new(self.position(name));
        let is_own = asked.url.origin() == *origin;
        if asked.method == Method::POST && !is_own {
            let error = DocumentError::anywhere((
                "the next page is on another host, and what is sent by POST goes to the host of `url` only",
                "次のページが別のホストにあります。POST で送るものは `url` のホストにしか送りません",
            ));
            return Err(ConnectorError::document(*position, error));
        }
        let auth = self.config.auth.clone().filter(|_| asked.url.origin() == *self.config.list.origin());
        let mut has_renewed = false;
        loop {
            let mut request = Request {
                method: asked.method.clone(),
                body: asked.body.clone(),
                rate: self.config.rate.budget,
                timeout: self.config.common.timeout,
                headers: conditions.clone(),
                ..Request::new(asked.url.clone())
            };
            if is_own {
                request.origin_headers = asked.headers.clone();
            } else if let Some(accept) = asked.headers.get(header::ACCEPT) {
                request.headers.insert(header::ACCEPT, accept.clone());
            }
            let mut token = None;
            if let Some(auth) = &auth {
                if let Some(login) = auth.login() {
                    let timeout = self.config.common.timeout;
                    token = Some(
                        self.tokens.get(&self.client, login, self.keeper.as_ref(), timeout, self.clock.now()).await?,
                    );
                    self.token.clone_from(&token);
                }
                auth.add_header(&mut request.origin_headers, token.as_ref());
                auth.add_query(&mut request.url);
                auth.sign(&mut request, self.clock.now());
            }
            let response = match self.client.send(request).await {
                Ok(response) => response,
                // Whole seconds, and none too early. The task goes on after it.
                Err(EgressError::Closed { wait, .. }) => {
                    return Err(ConnectorError::Spent { position, wait: Duration::from_secs(wait.as_secs() + 1) });
                }
                Err(source) => return Err(ConnectorError::Egress { position, source }),
            };
            self.stats.requests += 1;
            if let Some(wait) = self.spent(&response) {
                self.client.close_host(&asked.url, wait).await;
            }
            // A token may end before its time; that is found out once, a second refusal is meant.
            let is_refused = is_refused(response.status, auth.as_ref());
            if let (true, Some(login), Some(token), false) =
                (is_refused, auth.as_ref().and_then(Auth::login), &token, has_renewed)
            {
                self.tokens.forget(login, self.keeper.as_ref(), token).await;
                has_renewed = true;
                continue;
            }
            return Ok(response);
        }
    }

    /// An answer whose status is no success.
    pub(super) fn failure(&self, name: &str, response: &Response) -> ConnectorError {
        let (position, status) = (Box::new(self.position(name)), response.status);
        let spent = self.spent(response);
        match spent {
            // Some say 403 when a budget is used up; what is left tells it from a lack of permission.
            Some(wait) if matches!(status.as_u16(), 403 | 429) => ConnectorError::Spent { position, wait },
            _ => ConnectorError::Status { position, status, retry_after: self.retry_after(response) },
        }
    }

    /// How long the answer asks to wait.
    pub(super) fn retry_after(&self, response: &Response) -> Option<Duration> {
        retry_after(&response.headers, self.clock.now()).or_else(|| self.spent(response))
    }

    fn spent(&self, response: &Response) -> Option<Duration> {
        self.config.rate.headers.as_ref()?.wait(&response.headers, self.clock.now())
    }

    /// What a server says, without the credentials that it may repeat.
    pub(super) fn discreet(&self, mut message: String) -> String {
        let secrets = self.config.auth.iter().flat_map(Auth::secrets).chain(&self.token);
        for secret in secrets.map(|secret| secret.expose_secret()).filter(|secret| !secret.is_empty()) {
            message = message.replace(secret, "***");
        }
        message
    }

    /// Takes credentials out of an address that a server gave.
    pub(super) fn without_secrets(&self, mut url: Url) -> Url {
        url.set_fragment(None);
        // A link must not smuggle credentials in; and ours, if the server repeats them, must not be kept.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        if let Some(auth) = &self.config.auth {
            auth.strip_query(&mut url);
        }
        url
    }
}

/// Whether an answer says that a token is over: of sessions some say so by 403.
pub(crate) fn is_refused(status: StatusCode, auth: Option<&Auth>) -> bool {
    status == StatusCode::UNAUTHORIZED
        || status == StatusCode::FORBIDDEN && auth.is_some_and(|auth| matches!(auth, Auth::Session(_)))
}

/// The beginning of an answer that is no page; empty when it can not be read.
pub(crate) async fn small_body(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < SMALL_BODY_BYTES
        && let Ok(Some(piece)) = response.chunk().await
    {
        body.extend_from_slice(&piece);
    }
    body.truncate(SMALL_BODY_BYTES);
    body
}

/// What `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3). At most a day.
pub(crate) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = NaiveDateTime::parse_from_str(value, "%a, %d %b %Y %H:%M:%S GMT").ok()?.and_utc();
            (at - now).to_std().unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.min(RETRY_AFTER_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_at_most_a_day() {
        let now = DateTime::from_timestamp(784_111_777, 0).unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 2044 08:49:37 GMT", Some(86_400)),
            ("99999999999", Some(86_400)),
            ("-5", None),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{value}");
        }
    }
}

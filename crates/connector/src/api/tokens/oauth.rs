//! Access tokens of OAuth 2.0 (RFC 6749): for the credentials of a client (section 4.4), or for a refresh token
//! (section 6), which may change with each use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use matome_egress::header::{self, HeaderValue};
use matome_egress::{HttpClient, Method, Request};
use matome_model::field_error::Words;
use matome_model::say;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::form_urlencoded::Serializer;
use url::{Url, form_urlencoded};

use super::{DEFAULT_LIFE, Kept, MARGIN, place, refused, sendable};
use crate::api::exchange::small_body;
use crate::error::ConnectorError;
use crate::keeper::SecretKeeper;

/// Where the refresh token of a config is.
const REFRESH_TOKEN: &str = "/auth/refresh_token";
/// A new refresh token must not be lost between its answer and the store, so nothing waits long there.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(30);

/// `auth` of type `oauth2_client_credentials`.
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    /// Where tokens are given out.
    pub token_url: Url,
    /// Who asks.
    pub client_id: String,
    /// And proves it so.
    pub client_secret: SecretString,
    /// What for.
    pub scope: Option<String>,
    /// And towards whom.
    pub audience: Option<String>,
    /// `credentials`: whether id and secret go into the body instead of `Authorization`.
    pub in_body: bool,
}

/// `auth` of type `oauth2_refresh_token`.
#[derive(Clone, Debug)]
pub struct RefreshToken {
    /// Where tokens are given out.
    pub token_url: Url,
    /// Who asks.
    pub client_id: String,
    /// And proves it so; a public client has none.
    pub client_secret: Option<SecretString>,
    /// What access tokens are got for. The server may give another one for each use.
    pub refresh_token: SecretString,
    /// What for; default: as it was granted.
    pub scope: Option<String>,
    /// `credentials`: whether id and secret go into the body instead of `Authorization`.
    pub in_body: bool,
}

#[derive(Deserialize)]
pub(super) struct Answer {
    pub(super) access_token: SecretString,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
    #[serde(default)]
    refresh_token: Option<SecretString>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl ClientCredentials {
    pub(super) async fn fetch(&self, client: &HttpClient, timeout: Duration) -> Result<Kept, ConnectorError> {
        let asked = Instant::now();
        let answer = ask(client, Request { timeout, ..self.request() }).await?;
        Ok(Kept { secrets: vec![self.client_secret.clone()], until: answer.until(asked), token: answer.access_token })
    }

    fn request(&self) -> Request {
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", &self.scope), ("audience", &self.audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        request(&self.token_url, &self.client_id, Some(&self.client_secret), self.in_body, form)
    }
}

impl RefreshToken {
    /// The keeper is asked for the refresh token as it stands, since another process may have used the one of the
    /// config, and keeps the next one before it is relied on.
    pub(super) async fn fetch(
        &self,
        client: &HttpClient,
        keeper: Option<&Arc<dyn SecretKeeper>>,
    ) -> Result<Kept, ConnectorError> {
        let unkept = |problem| refused(&self.token_url, problem);
        let Some(keeper) = keeper else {
            return Err(unkept(Words::new(
                "a refresh token may change with each use, and here is no source that would keep the next one: add the \
                 source first (`--url`), then test it",
                "リフレッシュトークンは使うたびに変わることがあり、ここには次のトークンを保存するソースがありません。先にソースを\
                 追加し (`--url`)、それから試してください",
            )));
        };
        let outcome = Arc::new(Mutex::new(None));
        let (me, client, told) = (self.clone(), client.clone(), outcome.clone());
        let exchange = move |current: SecretString| {
            let exchange = async move {
                let (fetched, next) = me.exchange(&client, &current).await;
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(fetched);
                next
            };
            Box::pin(exchange) as futures::future::BoxFuture<'static, Option<SecretString>>
        };
        let kept = keeper.replace(REFRESH_TOKEN, Box::new(exchange)).await;
        let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (outcome, kept) {
            (Some(Err(error)), _) => Err(error),
            (_, Err(source)) => Err(ConnectorError::Unkept { position: place(&self.token_url), source }),
            (Some(Ok(fetched)), Ok(())) => Ok(fetched),
            (None, Ok(())) => Err(unkept(Words::new("it was not asked for", "要求されませんでした"))),
        }
    }

    /// An access token, and the refresh token that takes the place of `current`.
    async fn exchange(
        &self,
        client: &HttpClient,
        current: &SecretString,
    ) -> (Result<Kept, ConnectorError>, Option<SecretString>) {
        let asked = Instant::now();
        let answer = match ask(client, Request { timeout: REFRESH_TIMEOUT, ..self.request(current) }).await {
            Ok(answer) => answer,
            Err(ConnectorError::Token { position, problem: Words { english, japanese } }) => {
                let problem = say!(
                    "{english}; when the refresh token was used up or taken back, grant access anew and set `auth.refresh_token`",
                    "{japanese}。リフレッシュトークンが使用済みか取り消されたなら、アクセスを許可し直して `auth.refresh_token` を設定してください"
                );
                return (Err(ConnectorError::Token { position, problem }), None);
            }
            Err(error) => return (Err(error), None),
        };
        let is_next =
            |next: &SecretString| !next.expose_secret().is_empty() && next.expose_secret() != current.expose_secret();
        let next = answer.refresh_token.clone().filter(is_next);
        // The config of a task that runs has the one before.
        let mut secrets = vec![self.refresh_token.clone(), current.clone()];
        secrets.extend(next.clone());
        (Ok(Kept { secrets, until: answer.until(asked), token: answer.access_token }), next)
    }
}

impl RefreshToken {
    fn request(&self, current: &SecretString) -> Request {
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", current.expose_secret());
        if let Some(scope) = &self.scope {
            form.append_pair("scope", scope);
        }
        request(&self.token_url, &self.client_id, self.client_secret.as_ref(), self.in_body, form)
    }
}

impl Answer {
    /// Until when it is used.
    pub(super) fn until(&self, asked: Instant) -> Instant {
        let secs = self.expires_in.as_ref().and_then(|value| match value {
            serde_json::Value::String(text) => text.trim().parse().ok(),
            value => value.as_u64(),
        });
        let life = secs.map_or(DEFAULT_LIFE, |secs: u64| Duration::from_secs(secs.min(366 * 86_400)));
        asked + life - MARGIN.min(life / 10)
    }
}

pub(super) async fn ask(client: &HttpClient, request: Request) -> Result<Answer, ConnectorError> {
    let url = request.url.clone();
    let refused = |problem: Words| refused(&url, problem);
    let sending = client.send(request);
    let response = sending.await.map_err(|source| ConnectorError::Egress { position: place(&url), source })?;
    let status = response.status;
    let body = small_body(response).await;
    match status.as_u16() {
        200 | 201 => {}
        408 | 425 | 429 | 500..=599 => {
            return Err(ConnectorError::Status { position: place(&url), status, retry_after: None });
        }
        _ => {
            // The code is one of a few words; nothing else of the answer is repeated.
            let code = serde_json::from_slice::<Refusal>(&body).map(|refusal| refusal.error).ok();
            let code =
                code.filter(|code| code.len() <= 64 && code.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()));
            let code = code.map_or_else(String::new, |code| format!(" (`{code}`)"));
            return Err(refused(say!("the server answered {status}{code}", "サーバーが {status}{code} を返しました")));
        }
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| {
        refused(Words::new(
            "the answer is no JSON with an `access_token`",
            "応答が `access_token` を含む JSON ではありません",
        ))
    })?;
    if answer.token_type.as_ref().is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(refused(Words::new(
            "the token is not of the type `Bearer`",
            "トークンの種類が `Bearer` ではありません",
        )));
    }
    sendable(&url, "Bearer ", &answer.access_token)?;
    Ok(answer)
}

fn request(
    token_url: &Url,
    client_id: &str,
    client_secret: Option<&SecretString>,
    in_body: bool,
    mut form: Serializer<'_, String>,
) -> Request {
    let mut proof = None;
    match client_secret {
        Some(secret) if !in_body => {
            // Both are form-encoded first (RFC 6749, section 2.3.1).
            let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", encoded(client_id), encoded(secret.expose_secret()));
            proof = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).ok();
        }
        secret => {
            form.append_pair("client_id", client_id);
            if let Some(secret) = secret {
                form.append_pair("client_secret", secret.expose_secret());
            }
        }
    }
    let mut request = form_request(token_url, form);
    if let Some(mut value) = proof {
        value.set_sensitive(true);
        request.origin_headers.insert(header::AUTHORIZATION, value);
    }
    request
}

/// A request for a token that posts a form.
pub(super) fn form_request(token_url: &Url, mut form: Serializer<'_, String>) -> Request {
    let mut request = Request { method: Method::POST, ..Request::new(token_url.clone()) };
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers.insert(header::CONTENT_TYPE, form_type);
    request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    request.body = Some(form.finish().into_bytes());
    request
}

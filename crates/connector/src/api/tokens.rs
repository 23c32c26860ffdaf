//! Access tokens that a client gets for its credentials (OAuth 2.0, RFC 6749, section 4.4), kept in memory only.

use std::collections::HashMap;
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
use url::{Url, form_urlencoded};

use super::exchange::small_body;
use crate::error::ConnectorError;
use crate::record::Position;

/// How long a token is used whose life nobody told.
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);
/// A token is renewed so long before its end, or a tenth of its life if that is less.
const MARGIN: Duration = Duration::from_secs(60);
/// Clients whose tokens are kept.
const CLIENT_LIMIT: usize = 1000;

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

/// The tokens of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tokens {
    clients: Arc<Mutex<HashMap<Client, Arc<Slot>>>>,
}

/// A client, without its secret.
type Client = (String, String, Option<String>, Option<String>);
/// One client's token; locked while it is fetched, so that one request serves all who wait.
type Slot = tokio::sync::Mutex<Option<Kept>>;

struct Kept {
    /// The secret it was got with: whoever has another one gets none of this.
    secret: SecretString,
    token: SecretString,
    until: Instant,
}

impl Tokens {
    /// The token that is in use, or a new one.
    ///
    /// # Errors
    /// [`ConnectorError`] when the server refuses, or can not be reached.
    pub(crate) async fn get(
        &self,
        client: &HttpClient,
        of: &ClientCredentials,
        timeout: Duration,
    ) -> Result<SecretString, ConnectorError> {
        let slot = self.slot(of);
        let mut kept = slot.lock().await;
        if let Some(kept) = &*kept
            && kept.secret.expose_secret() == of.client_secret.expose_secret()
            && Instant::now() < kept.until
        {
            return Ok(kept.token.clone());
        }
        *kept = None;
        let fresh = fetch(client, of, timeout).await?;
        let token = fresh.token.clone();
        *kept = Some(fresh);
        Ok(token)
    }

    /// Forgets a token that was refused, unless it is another one by now.
    pub(crate) async fn forget(&self, of: &ClientCredentials, refused: &SecretString) {
        let slot = self.slot(of);
        let mut kept = slot.lock().await;
        if kept.as_ref().is_some_and(|kept| kept.token.expose_secret() == refused.expose_secret()) {
            *kept = None;
        }
    }

    fn slot(&self, of: &ClientCredentials) -> Arc<Slot> {
        let client = (of.token_url.to_string(), of.client_id.clone(), of.scope.clone(), of.audience.clone());
        // The map is whole after any panic.
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENT_LIMIT && !clients.contains_key(&client) {
            clients.clear();
        }
        clients.entry(client).or_default().clone()
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: SecretString,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

async fn fetch(client: &HttpClient, of: &ClientCredentials, timeout: Duration) -> Result<Kept, ConnectorError> {
    let mut document = of.token_url.clone();
    document.set_query(None);
    let position = || Box::new(Position { document: document.as_str().into(), request: None, line: None, record: 0 });
    let refused = |problem: Words| ConnectorError::Token { position: position(), problem };
    let asked = Instant::now();
    let sending = client.send(request(of, timeout));
    let response = sending.await.map_err(|source| ConnectorError::Egress { position: position(), source })?;
    let status = response.status;
    let body = small_body(response).await;
    match status.as_u16() {
        200 | 201 => {}
        408 | 425 | 429 | 500..=599 => {
            return Err(ConnectorError::Status { position: position(), status, retry_after: None });
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
    if answer.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(refused(Words::new(
            "the token is not of the type `Bearer`",
            "トークンの種類が `Bearer` ではありません",
        )));
    }
    let token = answer.access_token;
    if token.expose_secret().is_empty() || HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).is_err()
    {
        return Err(refused(Words::new(
            "the token has characters that a header can not carry",
            "トークンにヘッダーで送れない文字があります",
        )));
    }
    let secs = answer.expires_in.and_then(|value| match value {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        value => value.as_u64(),
    });
    let life = secs.map_or(DEFAULT_LIFE, |secs: u64| Duration::from_secs(secs.min(366 * 86_400)));
    let until = asked + life - MARGIN.min(life / 10);
    Ok(Kept { secret: of.client_secret.clone(), token, until })
}

fn request(of: &ClientCredentials, timeout: Duration) -> Request {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    for (name, value) in [("scope", &of.scope), ("audience", &of.audience)] {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    let mut request = Request { method: Method::POST, timeout, ..Request::new(of.token_url.clone()) };
    if of.in_body {
        form.append_pair("client_id", &of.client_id).append_pair("client_secret", of.client_secret.expose_secret());
    } else {
        // Both are form-encoded first (RFC 6749, section 2.3.1).
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", encoded(&of.client_id), encoded(of.client_secret.expose_secret()));
        if let Ok(mut value) = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))) {
            value.set_sensitive(true);
            request.origin_headers.insert(header::AUTHORIZATION, value);
        }
    }
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers.insert(header::CONTENT_TYPE, form_type);
    request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    request.body = Some(form.finish().into_bytes());
    request
}

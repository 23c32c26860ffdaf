//! Tokens that are got before anything can be asked for, by a login of whatever kind; kept in memory only.

mod assertion;
mod oauth;
mod session;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use matome_egress::HttpClient;
use matome_egress::header::HeaderValue;
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::error::ConnectorError;
use crate::keeper::SecretKeeper;
use crate::record::Position;

pub use assertion::JwtBearer;
pub use oauth::{ClientCredentials, RefreshToken};
pub use session::{Brings, Session};

/// How long a token is used whose life nobody told.
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);
/// A token is renewed so long before its end, or a tenth of its life if that is less.
const MARGIN: Duration = Duration::from_secs(60);
/// Logins whose tokens are kept.
const LOGIN_LIMIT: usize = 1000;

/// What a token is got with.
#[derive(Clone, Copy)]
pub(crate) enum Login<'a> {
    ClientCredentials(&'a ClientCredentials),
    RefreshToken(&'a RefreshToken),
    JwtBearer(&'a JwtBearer),
    Session(&'a Session),
}

/// The tokens of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tokens {
    logins: Arc<Mutex<HashMap<Vec<String>, Arc<Slot>>>>,
}

/// One login's token; locked while it is fetched, so that one request serves all who wait.
type Slot = tokio::sync::Mutex<Option<Kept>>;

struct Kept {
    /// The secret it was got with, and those that took its place: whoever has another one gets none of this.
    secrets: Vec<SecretString>,
    token: SecretString,
    until: Instant,
}

impl Login<'_> {
    /// What tells it from others, without its secret.
    fn name(self, keeper: Option<&Arc<dyn SecretKeeper>>) -> Vec<String> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        match self {
            Self::ClientCredentials(of) => {
                vec![of.token_url.to_string(), of.client_id.clone(), text(&of.scope), text(&of.audience)]
            }
            // Each source has a grant of its own, whatever its refresh token is by now.
            Self::RefreshToken(of) => vec![
                "refresh".to_owned(),
                of.token_url.to_string(),
                of.client_id.clone(),
                text(&of.scope),
                keeper.map(|keeper| keeper.name()).unwrap_or_default(),
            ],
            Self::JwtBearer(of) => of.name(),
            Self::Session(of) => {
                let mut name = vec!["session".to_owned(), of.login_url.to_string(), of.username.clone()];
                name.extend(of.fields.iter().flat_map(|(name, value)| [name.clone(), value.clone()]));
                name.push(format!("{:?} {:?}", of.brings, of.lifetime));
                name
            }
        }
    }

    fn secret(&self) -> &SecretString {
        match self {
            Self::ClientCredentials(of) => &of.client_secret,
            Self::RefreshToken(of) => &of.refresh_token,
            Self::JwtBearer(of) => &of.key,
            Self::Session(of) => &of.password,
        }
    }

    async fn fetch(
        self,
        client: &HttpClient,
        keeper: Option<&Arc<dyn SecretKeeper>>,
        timeout: Duration,
        now: Timestamp,
    ) -> Result<Kept, ConnectorError> {
        match self {
            Self::ClientCredentials(of) => of.fetch(client, timeout).await,
            Self::RefreshToken(of) => of.fetch(client, keeper).await,
            Self::JwtBearer(of) => of.fetch(client, timeout, now).await,
            Self::Session(of) => of.fetch(client, timeout).await,
        }
    }
}

impl Tokens {
    /// The token that is in use, or a new one; `now` is what a token is asked for with may say.
    ///
    /// # Errors
    /// [`ConnectorError`] when the server refuses, or can not be reached.
    pub(crate) async fn get(
        &self,
        client: &HttpClient,
        of: Login<'_>,
        keeper: Option<&Arc<dyn SecretKeeper>>,
        timeout: Duration,
        now: Timestamp,
    ) -> Result<SecretString, ConnectorError> {
        let slot = self.slot(of, keeper);
        let mut kept = slot.lock().await;
        let own = of.secret().expose_secret();
        if let Some(kept) = &*kept
            && kept.secrets.iter().any(|secret| secret.expose_secret() == own)
            && Instant::now() < kept.until
        {
            return Ok(kept.token.clone());
        }
        *kept = None;
        let fresh = of.fetch(client, keeper, timeout, now).await?;
        let token = fresh.token.clone();
        *kept = Some(fresh);
        Ok(token)
    }

    /// Forgets a token that was refused, unless it is another one by now.
    pub(crate) async fn forget(&self, of: Login<'_>, keeper: Option<&Arc<dyn SecretKeeper>>, refused: &SecretString) {
        let slot = self.slot(of, keeper);
        let mut kept = slot.lock().await;
        if kept.as_ref().is_some_and(|kept| kept.token.expose_secret() == refused.expose_secret()) {
            *kept = None;
        }
    }

    fn slot(&self, of: Login<'_>, keeper: Option<&Arc<dyn SecretKeeper>>) -> Arc<Slot> {
        let name = of.name(keeper);
        // The map is whole after any panic.
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        if logins.len() >= LOGIN_LIMIT && !logins.contains_key(&name) {
            logins.clear();
        }
        logins.entry(name).or_default().clone()
    }
}

/// The address that gives out tokens, without what its query may have.
fn place(url: &Url) -> Box<Position> {
    let mut document = url.clone();
    document.set_query(None);
    Box::new(Position { document: document.as_str().into(), request: None, line: None, record: 0, headers: None })
}

fn refused(url: &Url, problem: Words) -> ConnectorError {
    ConnectorError::Token { position: place(url), problem }
}

/// That a header can carry a token.
fn sendable(url: &Url, prefix: &str, token: &SecretString) -> Result<(), ConnectorError> {
    let text = token.expose_secret();
    if text.is_empty() || HeaderValue::from_str(&format!("{prefix}{text}")).is_err() {
        return Err(refused(
            url,
            Words::new(
                "the token has characters that a header can not carry",
                "トークンにヘッダーで送れない文字があります",
            ),
        ));
    }
    Ok(())
}

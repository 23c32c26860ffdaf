//! How requests say who asks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use matome_egress::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use matome_model::field_error::Words;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::config::{is_set_by_matome, not_a_header_name, not_for_a_header, set_by_matome, url};
use super::tokens::ClientCredentials;
use crate::config::Fields;

/// `auth`: the credentials of an API. Sent to the origin of `url` only.
#[derive(Clone, Debug)]
pub enum Auth {
    /// `{"type":"bearer","token":...}`.
    Bearer {
        /// Sent as `Authorization: Bearer TOKEN`.
        token: SecretString,
    },
    /// `{"type":"basic","username":...,"password":...}`.
    Basic {
        /// The name; no secret.
        username: String,
        /// The password; may be empty.
        password: SecretString,
    },
    /// `{"type":"header","name":...,"value":...}`.
    Header {
        /// The header.
        name: HeaderName,
        /// Its value.
        value: SecretString,
    },
    /// `{"type":"query","name":...,"value":...}`.
    Query {
        /// The parameter of the address.
        name: String,
        /// Its value.
        value: SecretString,
    },
    /// `{"type":"oauth2_client_credentials","token_url":...,"client_id":...,"client_secret":...}`.
    ClientCredentials(Box<ClientCredentials>),
}

impl Auth {
    /// Reads `auth`. A config is checked only with its secrets in place.
    pub(crate) fn parse(fields: &mut Fields) -> Option<Self> {
        let mut auth = fields.nested("auth")?;
        if !auth.has("type") {
            auth.require("type");
            auth.forget_rest();
        }
        let kinds = [("bearer", 0), ("basic", 1), ("header", 2), ("query", 3), ("oauth2_client_credentials", 4)];
        let parsed = match auth.choice("type", &kinds) {
            Some(0) => header_secret(&mut auth, "token", "Bearer ").map(|token| Self::Bearer { token }),
            Some(1) => {
                let username = auth.required_string("username");
                let password = auth.required_text("password").map(SecretString::from);
                if username.as_deref().is_some_and(|name| name.contains(':')) {
                    auth.fail(
                        "username",
                        Words::new("A user name with `:` can not be sent.", "`:` を含むユーザー名は送れません。"),
                    );
                }
                username.zip(password).map(|(username, password)| Self::Basic { username, password })
            }
            Some(2) => {
                let name = auth.required_string("name").and_then(|name| match name.parse::<HeaderName>() {
                    Ok(name) if !is_set_by_matome(&name) => Some(name),
                    Ok(_) => {
                        auth.fail("name", set_by_matome());
                        None
                    }
                    Err(_) => {
                        auth.fail("name", not_a_header_name());
                        None
                    }
                });
                let value = header_secret(&mut auth, "value", "");
                name.zip(value).map(|(name, value)| Self::Header { name, value })
            }
            Some(4) => client_credentials(&mut auth),
            Some(_) => {
                let name = auth.required_string("name");
                let value = auth.required_string("value").map(SecretString::from);
                name.zip(value).map(|(name, value)| Self::Query { name, value })
            }
            None => {
                auth.forget_rest();
                None
            }
        };
        fields.absorb(auth);
        parsed
    }

    /// The client whose token is sent, if one is.
    pub(crate) fn client(&self) -> Option<&ClientCredentials> {
        match self {
            Self::ClientCredentials(client) => Some(client),
            _ => None,
        }
    }

    /// The header that carries it, if one does; `token` is what [`Auth::client`] was given.
    pub(crate) fn add_header(&self, headers: &mut HeaderMap, token: Option<&SecretString>) {
        let (name, text) = match self {
            Self::ClientCredentials(_) => match token {
                Some(token) => (AUTHORIZATION, format!("Bearer {}", token.expose_secret())),
                None => return,
            },
            Self::Bearer { token } => (AUTHORIZATION, format!("Bearer {}", token.expose_secret())),
            Self::Basic { username, password } => {
                let pair = format!("{username}:{}", password.expose_secret());
                (AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)))
            }
            Self::Header { name, value } => (name.clone(), value.expose_secret().to_owned()),
            Self::Query { .. } => return,
        };
        // It parsed when the config was checked.
        if let Ok(mut value) = HeaderValue::from_str(&text) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }

    /// The secret of it.
    pub(crate) fn secret(&self) -> &SecretString {
        match self {
            Self::Bearer { token } => token,
            Self::Basic { password, .. } => password,
            Self::Header { value, .. } | Self::Query { value, .. } => value,
            Self::ClientCredentials(client) => &client.client_secret,
        }
    }

    /// Adds the parameter that carries it, if one does.
    pub(crate) fn add_query(&self, url: &mut Url) {
        if let Self::Query { name, value } = self {
            url.query_pairs_mut().append_pair(name, value.expose_secret());
        }
    }

    /// Takes the parameter out of an address, which a server may have put into a link.
    pub(crate) fn strip_query(&self, url: &mut Url) {
        let Self::Query { name, .. } = self else { return };
        if !url.query_pairs().any(|(key, _)| key == name.as_str()) {
            return;
        }
        let kept: Vec<(String, String)> = url
            .query_pairs()
            .filter(|(key, _)| key != name.as_str())
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        url.set_query(None);
        if !kept.is_empty() {
            url.query_pairs_mut().extend_pairs(kept);
        }
    }
}

fn client_credentials(auth: &mut Fields) -> Option<Auth> {
    let token_url = url(auth, "token_url");
    let client_id = auth.required_string("client_id");
    let client_secret = auth.required_string("client_secret").map(SecretString::from);
    let scope = auth.string("scope");
    let audience = auth.string("audience");
    let in_body = auth.choice("credentials", &[("header", false), ("body", true)]).unwrap_or(false);
    let (token_url, client_id, client_secret) = (token_url?, client_id?, client_secret?);
    let client = ClientCredentials { token_url, client_id, client_secret, scope, audience, in_body };
    Some(Auth::ClientCredentials(Box::new(client)))
}

fn header_secret(auth: &mut Fields, field: &str, before: &str) -> Option<SecretString> {
    let secret = auth.required_string(field)?;
    if HeaderValue::from_str(&format!("{before}{secret}")).is_err() {
        auth.fail(field, not_for_a_header());
        return None;
    }
    Some(SecretString::from(secret))
}

//! How requests say who asks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use matome_egress::Request;
use matome_egress::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use matome_model::field_error::{FieldError, Words};
use matome_model::say;
use secrecy::{ExposeSecret, SecretString};
use url::{Origin, Url};

use super::config::{is_set_by_matome, not_a_header_name, not_for_a_header, set_by_matome, url};
use super::signing::Signing;
use super::tokens::{ClientCredentials, JwtBearer, Login, RefreshToken, Session};
use crate::config::Fields;
use crate::error::ConnectorError;
use crate::sigv4::AwsSigning;

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
    /// `{"type":"oauth2_refresh_token","token_url":...,"client_id":...,"refresh_token":...}`.
    RefreshToken(Box<RefreshToken>),
    /// `{"type":"oauth2_jwt_bearer","token_url":...,"issuer":...,"key":...}`.
    JwtBearer(Box<JwtBearer>),
    /// `{"type":"session","login_url":...,"username":...,"password":...,"cookie":...}`.
    Session(Box<Session>),
    /// `{"type":"hmac","secret":...,"sign":...,"headers":{...}}`.
    Hmac(Box<Signing>),
    /// `{"type":"aws_sigv4","region":...,"service":...,"access_key_id":...,"secret_access_key":...}`.
    AwsSigV4(Box<AwsSigning>),
    /// `{"type":"same_as","source":...}`: those of the source of this name; whoever reads puts them in its place.
    SameAs {
        /// The name.
        source: String,
    },
}

impl Auth {
    /// Reads `auth`. A config is checked only with its secrets in place.
    pub(crate) fn parse(fields: &mut Fields) -> Option<Self> {
        let mut auth = fields.nested("auth")?;
        if !auth.has("type") {
            auth.require("type");
            auth.forget_rest();
        }
        let kinds = [
            ("bearer", 0),
            ("basic", 1),
            ("header", 2),
            ("query", 3),
            ("oauth2_client_credentials", 4),
            ("oauth2_refresh_token", 5),
            ("session", 6),
            ("hmac", 7),
            ("aws_sigv4", 8),
            ("same_as", 9),
            ("oauth2_jwt_bearer", 10),
        ];
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
            Some(5) => refresh_token(&mut auth),
            Some(6) => Session::parse(&mut auth).map(|session| Self::Session(Box::new(session))),
            Some(7) => Signing::parse(&mut auth).map(|signing| Self::Hmac(Box::new(signing))),
            Some(10) => JwtBearer::parse(&mut auth).map(|of| Self::JwtBearer(Box::new(of))),
            Some(9) => auth.required_string("source").map(|source| Self::SameAs { source }),
            Some(8) => AwsSigning::parse(&mut auth).map(|signing| Self::AwsSigV4(Box::new(signing))),
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

    /// That a request can be made with it.
    ///
    /// # Errors
    /// [`ConnectorError::Config`] when the credentials of another source are meant, and nobody has put them in its place.
    pub(crate) fn check(auth: Option<&Self>) -> Result<(), ConnectorError> {
        let Some(Self::SameAs { source }) = auth else { return Ok(()) };
        let words = say!(
            "Here is no source `{source}` to take credentials from: add this one first (`--url`), then test it.",
            "ここには認証情報を借りるソース `{source}` がありません。先にこのソースを追加し (`--url`)、それから試してください。"
        );
        Err(ConnectorError::Config(vec![FieldError::new(&["auth", "source"], words)]))
    }

    /// Where tokens are got, or somebody logs in.
    pub(crate) fn origin(&self) -> Option<Origin> {
        Some(match self.login()? {
            Login::ClientCredentials(of) => of.token_url.origin(),
            Login::RefreshToken(of) => of.token_url.origin(),
            Login::JwtBearer(of) => of.token_url.origin(),
            Login::Session(of) => of.login_url.origin(),
        })
    }

    /// What the token that is sent is got with, if one is.
    pub(crate) fn login(&self) -> Option<Login<'_>> {
        match self {
            Self::ClientCredentials(of) => Some(Login::ClientCredentials(of)),
            Self::RefreshToken(of) => Some(Login::RefreshToken(of)),
            Self::JwtBearer(of) => Some(Login::JwtBearer(of)),
            Self::Session(of) => Some(Login::Session(of)),
            _ => None,
        }
    }

    /// The header that carries it, if one does; `token` is what [`Auth::login`] was given.
    pub(crate) fn add_header(&self, headers: &mut HeaderMap, token: Option<&SecretString>) {
        let (name, text) = match (self, token) {
            (Self::ClientCredentials(_) | Self::RefreshToken(_) | Self::JwtBearer(_), Some(token))
            | (Self::Bearer { token }, _) => (AUTHORIZATION, format!("Bearer {}", token.expose_secret())),
            (Self::Session(session), Some(token)) => session.header(token),
            (Self::Basic { username, password }, _) => {
                let pair = format!("{username}:{}", password.expose_secret());
                (AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)))
            }
            (Self::Header { name, value }, _) => (name.clone(), value.expose_secret().to_owned()),
            _ => return,
        };
        // It parsed when the config was checked.
        if let Ok(mut value) = HeaderValue::from_str(&text) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }

    /// Its secrets.
    pub(crate) fn secrets(&self) -> Vec<&SecretString> {
        match self {
            Self::Bearer { token } => vec![token],
            Self::Basic { password, .. } => vec![password],
            Self::Header { value, .. } | Self::Query { value, .. } => vec![value],
            Self::ClientCredentials(of) => vec![&of.client_secret],
            Self::RefreshToken(of) => of.client_secret.iter().chain([&of.refresh_token]).collect(),
            Self::JwtBearer(of) => {
                let client_secret = of.client.as_ref().and_then(|(_, secret)| secret.as_ref());
                client_secret.into_iter().chain([&of.key]).collect()
            }
            Self::Session(of) => vec![&of.password],
            Self::Hmac(of) => vec![&of.secret],
            Self::SameAs { .. } => Vec::new(),
            Self::AwsSigV4(of) => [&of.key.secret].into_iter().chain(&of.key.session_token).collect(),
        }
    }

    /// Signs a request that is ready to be sent, if that is how it is done.
    pub(crate) fn sign(&self, request: &mut Request, now: DateTime<Utc>) {
        match self {
            Self::Hmac(signing) => signing.sign(request, now),
            Self::AwsSigV4(signing) => signing.sign(request, now),
            _ => {}
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

fn refresh_token(auth: &mut Fields) -> Option<Auth> {
    let token_url = url(auth, "token_url");
    let client_id = auth.required_string("client_id");
    let client_secret = auth.string("client_secret").map(SecretString::from);
    let refresh_token = auth.required_string("refresh_token").map(SecretString::from);
    let scope = auth.string("scope");
    let in_body = auth.choice("credentials", &[("header", false), ("body", true)]).unwrap_or(false);
    let (token_url, client_id, refresh_token) = (token_url?, client_id?, refresh_token?);
    let of = RefreshToken { token_url, client_id, client_secret, refresh_token, scope, in_body };
    Some(Auth::RefreshToken(Box::new(of)))
}

fn header_secret(auth: &mut Fields, field: &str, before: &str) -> Option<SecretString> {
    let secret = auth.required_string(field)?;
    if HeaderValue::from_str(&format!("{before}{secret}")).is_err() {
        auth.fail(field, not_for_a_header());
        return None;
    }
    Some(SecretString::from(secret))
}

//! Sessions: who logs in gets a token or cookies, which are sent until the API takes them no more.

use std::time::{Duration, Instant};

use matome_egress::header::{self, AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use matome_egress::{HttpClient, Method, Request};
use matome_model::field_error::Words;
use matome_model::say;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use url::{Url, form_urlencoded};

use super::{Kept, place, refused, sendable};
use crate::api::config::{is_set_by_matome, not_a_header_name, set_by_matome, url};
use crate::api::exchange::small_body;
use crate::api::value_path;
use crate::config::Fields;
use crate::error::ConnectorError;
use crate::json::{JsonPath, Splitter};

/// How long a session is used unless the config says otherwise.
const DEFAULT_LIFETIME_SECS: u64 = 3600;

/// `auth` of type `session`.
#[derive(Clone, Debug)]
pub struct Session {
    /// `login_url`: where credentials are posted to.
    pub login_url: Url,
    /// `username`; no secret.
    pub username: String,
    /// `password`.
    pub password: SecretString,
    /// `username_field`; default `username`.
    pub username_field: String,
    /// `password_field`; default `password`.
    pub password_field: String,
    /// `fields`: what else is posted.
    pub fields: Vec<(String, String)>,
    /// `send`: whether a form is posted instead of JSON.
    pub is_form: bool,
    /// What the answer brings.
    pub brings: Brings,
    /// `lifetime_secs`: how long a session is used at most; default 3600.
    pub lifetime: Duration,
}

/// What an answer to a login brings, and how it is sent.
#[derive(Clone, Debug)]
pub enum Brings {
    /// `token`: the path of a token, which goes into `header` behind `prefix`.
    Token {
        /// Where in the answer it is.
        path: JsonPath,
        /// `header`; default `Authorization`.
        header: HeaderName,
        /// `prefix`; default `Bearer ` for `Authorization`, else nothing.
        prefix: String,
    },
    /// `cookie`: the name of the cookie without which nobody is logged in. All cookies of the answer are sent.
    Cookies {
        /// The name.
        named: String,
    },
}

impl Session {
    /// Reads the fields of `auth`.
    pub(crate) fn parse(auth: &mut Fields) -> Option<Self> {
        let login_url = url(auth, "login_url");
        let username = auth.required_string("username");
        let password = auth.required_text("password").map(SecretString::from);
        let username_field = auth.string("username_field").unwrap_or_else(|| "username".to_owned());
        let password_field = auth.string("password_field").unwrap_or_else(|| "password".to_owned());
        let fields = auth.texts("fields");
        let is_form = auth.choice("send", &[("json", false), ("form", true)]).unwrap_or(false);
        let lifetime = auth.integer("lifetime_secs", 1, 366 * 86_400).unwrap_or(DEFAULT_LIFETIME_SECS);
        let brings = match (auth.has("token"), auth.has("cookie")) {
            (false, true) => auth.string("cookie").map(|named| Brings::Cookies { named }),
            (true, false) => token(auth),
            (has_token, _) => {
                auth.raw("token");
                auth.raw("cookie");
                auth.fail(
                    if has_token { "cookie" } else { "token" },
                    Words::new(
                        "Give either `token`, the path of a token in the answer, or `cookie`, the name of the cookie of the session.",
                        "`token` (応答の中のトークンのパス) か `cookie` (セッションのクッキーの名前) のどちらか一方を指定してください。",
                    ),
                );
                None
            }
        };
        Some(Self {
            login_url: login_url?,
            username: username?,
            password: password?,
            username_field,
            password_field,
            fields,
            is_form,
            brings: brings?,
            lifetime: Duration::from_secs(lifetime),
        })
    }

    /// Logs in.
    pub(super) async fn fetch(&self, client: &HttpClient, timeout: Duration) -> Result<Kept, ConnectorError> {
        let url = &self.login_url;
        let asked = Instant::now();
        let sending = client.send(Request { timeout, ..self.request() });
        let response = sending.await.map_err(|source| ConnectorError::Egress { position: place(url), source })?;
        let status = response.status;
        // Forms of web sites answer with a redirect once somebody is logged in.
        let is_done = status.is_success() || matches!(status.as_u16(), 302 | 303) && self.wants_cookies();
        match status.as_u16() {
            _ if is_done => {}
            408 | 425 | 429 | 500..=599 => {
                return Err(ConnectorError::Status { position: place(url), status, retry_after: None });
            }
            _ => {
                return Err(refused(
                    url,
                    say!("the login was answered with {status}", "ログインに {status} が返りました"),
                ));
            }
        }
        let token = match &self.brings {
            Brings::Cookies { named } => cookies(&response.headers, named).ok_or_else(|| {
                refused(
                    url,
                    say!(
                        "the answer to the login sets no cookie `{named}`",
                        "ログインの応答がクッキー `{named}` を設定しません"
                    ),
                )
            })?,
            Brings::Token { path, .. } => {
                let body = small_body(response).await;
                let found = Splitter::pick(&body, &[path]).pop().flatten();
                let text = found.and_then(|text| serde_json::from_slice::<String>(&text).ok());
                text.filter(|text| !text.is_empty()).ok_or_else(|| {
                    refused(
                        url,
                        say!(
                            "the answer to the login has no text at `{path}`",
                            "ログインの応答の `{path}` に文字列がありません"
                        ),
                    )
                })?
            }
        };
        let token = SecretString::from(token);
        let prefix = if let Brings::Token { prefix, .. } = &self.brings { prefix.as_str() } else { "" };
        sendable(url, prefix, &token)?;
        Ok(Kept { secrets: vec![self.password.clone()], token, until: asked + self.lifetime })
    }

    fn request(&self) -> Request {
        let mut request = Request { method: Method::POST, ..Request::new(self.login_url.clone()) };
        let own = [
            (self.username_field.as_str(), self.username.as_str()),
            (self.password_field.as_str(), self.password.expose_secret()),
        ];
        let others = self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all = own.into_iter().chain(others);
        let (kind, body) = match self.is_form {
            true => (
                "application/x-www-form-urlencoded",
                form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish(),
            ),
            false => {
                let members: Map<String, Value> = all.map(|(name, value)| (name.to_owned(), value.into())).collect();
                ("application/json", Value::Object(members).to_string())
            }
        };
        request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*;q=0.5"));
        request.body = Some(body.into_bytes());
        request
    }

    fn wants_cookies(&self) -> bool {
        matches!(self.brings, Brings::Cookies { .. })
    }

    /// The header that carries what the login brought.
    pub(crate) fn header(&self, token: &SecretString) -> (HeaderName, String) {
        match &self.brings {
            Brings::Cookies { .. } => (COOKIE, token.expose_secret().to_owned()),
            Brings::Token { header, prefix, .. } => (header.clone(), format!("{prefix}{}", token.expose_secret())),
        }
    }
}

fn token(auth: &mut Fields) -> Option<Brings> {
    let path = value_path(auth, "token", true, "$.token");
    let header = match auth.string("header") {
        None => Some(AUTHORIZATION),
        Some(name) => match name.parse::<HeaderName>() {
            Ok(name) if !is_set_by_matome(&name) => Some(name),
            Ok(_) => {
                auth.fail("header", set_by_matome());
                None
            }
            Err(_) => {
                auth.fail("header", not_a_header_name());
                None
            }
        },
    };
    let prefix = match auth.has("prefix") {
        true => auth.required_text("prefix"),
        // Whoever misspells it is told of it.
        false => auth.raw("prefix").and(None),
    };
    let header = header?;
    let default = if header == AUTHORIZATION { "Bearer " } else { "" };
    Some(Brings::Token { path: path?, prefix: prefix.unwrap_or_else(|| default.to_owned()), header })
}

/// The cookies that an answer sets, as a request sends them; nothing without the one that is `named`.
fn cookies(headers: &HeaderMap, named: &str) -> Option<String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for value in headers.get_all(SET_COOKIE) {
        let Ok(text) = value.to_str() else { continue };
        let Some((name, value)) = text.split(';').next().and_then(|pair| pair.split_once('=')) else { continue };
        let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
        pairs.retain(|(other, _)| *other != name);
        // An empty one is taken back.
        if !value.is_empty() {
            pairs.push((name, value));
        }
    }
    pairs.iter().any(|(name, _)| name == named).then(|| {
        let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_sent_back_as_they_stand_at_the_end_of_an_answer() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=1; Path=/; HttpOnly", "sid=x==; Secure", "a=2", "gone=; Max-Age=0", "odd"] {
            headers.append(SET_COOKIE, cookie.parse().unwrap());
        }
        assert_eq!(cookies(&headers, "sid").as_deref(), Some("sid=x==; a=2"));
        assert_eq!(cookies(&headers, "gone"), None);
        assert_eq!(cookies(&HeaderMap::new(), "sid"), None);
    }
}

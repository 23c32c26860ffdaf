//! Access tokens for an assertion that is signed here (RFC 7523, section 2.1), as service accounts have them.

use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use matome_egress::{HttpClient, Request};
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use matome_model::say;
use rand::Rng as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;
use url::form_urlencoded::Serializer;

use super::oauth::{ask, form_request};
use super::{Kept, refused};
use crate::api::config::{url, url_of};
use crate::config::Fields;
use crate::error::ConnectorError;
use crate::jwt::JwtAlgorithm;
use crate::secrets::KEPT_SECRET;

/// How long an assertion is good: for as long as its request takes, with clocks that differ.
const LIFE_SECS: u64 = 300;
/// Nobody takes one that is good for longer.
const LIFE_LIMIT_SECS: u64 = 3600;

/// `auth` of type `oauth2_jwt_bearer`.
#[derive(Clone, Debug)]
pub struct JwtBearer {
    /// Where tokens are given out.
    pub token_url: Url,
    /// `issuer`: who asks.
    pub issuer: String,
    /// `subject`: for whom, where that is somebody else.
    pub subject: Option<String>,
    /// `audience`: whom the assertion is for; by default `token_url`.
    pub audience: Option<String>,
    /// What for.
    pub scope: Option<String>,
    /// `algorithm`: how the assertion is signed.
    pub algorithm: JwtAlgorithm,
    /// What with: a private key in PEM, or a shared secret.
    pub key: SecretString,
    /// `key_id`: which key that is.
    pub key_id: Option<String>,
    /// `claims`: what else the assertion says.
    pub claims: Vec<(String, String)>,
    /// `client_id`, and `client_secret`, where the server wants them besides.
    pub client: Option<(String, Option<SecretString>)>,
    /// `lifetime_secs`: how long the assertion is good.
    pub lifetime: Duration,
}

/// What the key file of a service account of Google says.
#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: SecretString,
    #[serde(default)]
    private_key_id: Option<String>,
    token_uri: String,
}

impl JwtBearer {
    pub(crate) fn parse(auth: &mut Fields) -> Option<Self> {
        let has_file = auth.has("service_account");
        let file = auth.string("service_account").and_then(|text| match KeyFile::signer(&text) {
            Ok(file) => Some(file),
            Err(words) => {
                auth.fail("service_account", words);
                None
            }
        });
        let mut said_twice = None;
        for name in ["token_url", "issuer", "key", "key_id", "algorithm"].into_iter().filter(|_| has_file) {
            if auth.has(name) {
                auth.raw(name);
                said_twice.get_or_insert(name);
            }
        }
        if let Some(name) = said_twice {
            auth.fail(
                name,
                Words::new("`service_account` says it already.", "`service_account` にもう書かれています。"),
            );
        }
        let own = if has_file { None } else { own_key(auth) };
        let subject = auth.string("subject");
        let audience = auth.string("audience");
        let scope = auth.string("scope");
        let claims = auth.texts("claims");
        let client_id = auth.string("client_id");
        let client_secret = auth.string("client_secret").map(SecretString::from);
        if client_secret.is_some() && client_id.is_none() {
            auth.require("client_id");
        }
        let lifetime = auth.integer("lifetime_secs", 1, LIFE_LIMIT_SECS).unwrap_or(LIFE_SECS);
        let Signer { token_url, issuer, key, key_id, algorithm } = own.or(file)?;
        Some(Self {
            token_url,
            issuer,
            subject,
            audience,
            scope,
            algorithm,
            key,
            key_id,
            claims,
            client: client_id.map(|id| (id, client_secret)),
            lifetime: Duration::from_secs(lifetime),
        })
    }

    /// What tells it from others, without its secret.
    pub(super) fn name(&self) -> Vec<String> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut name = vec!["jwt".to_owned(), self.token_url.to_string(), self.issuer.clone()];
        name.extend([&self.subject, &self.audience, &self.scope, &self.key_id].map(text));
        name.push(self.client.as_ref().map(|(id, _)| id.clone()).unwrap_or_default());
        name.extend(self.claims.iter().flat_map(|(name, value)| [name.clone(), value.clone()]));
        name
    }

    pub(super) async fn fetch(
        &self,
        client: &HttpClient,
        timeout: Duration,
        now: Timestamp,
    ) -> Result<Kept, ConnectorError> {
        let request = self.request(now).map_err(|problem| refused(&self.token_url, problem))?;
        let request = Request { timeout, ..request };
        let asked = Instant::now();
        match ask(client, request).await {
            Ok(answer) => {
                Ok(Kept { secrets: vec![self.key.clone()], until: answer.until(asked), token: answer.access_token })
            }
            Err(ConnectorError::Token { position, problem: Words { english, japanese } }) => {
                let problem = say!(
                    "{english}; look at the key, at who asks for what (`issuer`, `subject`, `audience`, `scope`), and at the clock of this machine",
                    "{japanese}。鍵、誰が何を求めるか (`issuer`、`subject`、`audience`、`scope`)、このマシンの時計を確かめてください"
                );
                Err(ConnectorError::Token { position, problem })
            }
            Err(error) => Err(error),
        }
    }

    fn request(&self, now: Timestamp) -> Result<Request, Words> {
        let assertion = self.assertion(now)?;
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
        form.append_pair("assertion", &assertion);
        let client_id = self.client.as_ref().map(|(id, _)| id.as_str());
        for (name, value) in [("scope", self.scope.as_deref()), ("client_id", client_id)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        if let Some((_, Some(secret))) = &self.client {
            form.append_pair("client_secret", secret.expose_secret());
        }
        Ok(form_request(&self.token_url, form))
    }

    /// What a token is asked for with.
    fn assertion(&self, now: Timestamp) -> Result<String, Words> {
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let issued = now.timestamp();
        let audience = self.audience.as_deref().unwrap_or(self.token_url.as_str());
        let mut claims: Map<String, Value> =
            self.claims.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let own = [
            ("iss", Some(self.issuer.as_str().into())),
            ("sub", self.subject.as_deref().map(Value::from)),
            ("aud", Some(audience.into())),
            ("scope", self.scope.as_deref().map(Value::from)),
            ("iat", Some(issued.into())),
            ("exp", Some((issued + self.lifetime.as_secs().cast_signed()).into())),
            ("jti", Some(HEXLOWER.encode(&id).into())),
        ];
        claims.extend(own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        self.algorithm.signed(&self.key, self.key_id.as_deref(), claims)
    }
}

/// Who asks for tokens, where, and how that is proven.
struct Signer {
    token_url: Url,
    issuer: String,
    key: SecretString,
    key_id: Option<String>,
    algorithm: JwtAlgorithm,
}

fn own_key(auth: &mut Fields) -> Option<Signer> {
    let token_url = url(auth, "token_url");
    let issuer = auth.required_string("issuer");
    let is_given = auth.has("algorithm");
    let chosen = auth.choice("algorithm", &JwtAlgorithm::ALL);
    let is_known = chosen.is_some() || !is_given;
    let algorithm = chosen.unwrap_or(JwtAlgorithm::Rs256);
    let key = auth.required_string("key").map(SecretString::from);
    let key_id = auth.string("key_id");
    if let Some(key) = key.as_ref().filter(|key| is_known && key.expose_secret() != KEPT_SECRET)
        && let Err(words) = algorithm.check(key)
    {
        auth.fail("key", words);
    }
    Some(Signer { token_url: token_url?, issuer: issuer?, key: key?, key_id, algorithm })
}

impl KeyFile {
    /// Whoever the text of a key file is about; where that is not shown, somebody stands for it.
    fn signer(text: &str) -> Result<Signer, Words> {
        let file = match text {
            KEPT_SECRET => Self {
                client_email: String::new(),
                private_key: KEPT_SECRET.to_owned().into(),
                private_key_id: None,
                token_uri: "https://oauth2.googleapis.com/token".to_owned(),
            },
            // What serde says of it would repeat parts of the key.
            text => serde_json::from_str(text).map_err(|_| {
                Words::new(
                    "It is not the JSON text of the key file of a service account (`client_email`, `private_key`, `token_uri`).",
                    "サービスアカウントの鍵ファイルの JSON ではありません (`client_email`、`private_key`、`token_uri`)。",
                )
            })?,
        };
        let inside = |name: &'static str| move |words: Words| words.map(|text| format!("`{name}`: {text}"));
        let token_url = url_of(&file.token_uri).map_err(inside("token_uri"))?;
        let algorithm = JwtAlgorithm::Rs256;
        if text != KEPT_SECRET {
            algorithm.check(&file.private_key).map_err(inside("private_key"))?;
        }
        let Self { client_email: issuer, private_key: key, private_key_id: key_id, .. } = file;
        Ok(Signer { token_url, issuer, key, key_id, algorithm })
    }
}

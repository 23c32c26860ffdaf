//! Google Cloud Storage.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use matome_egress::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use matome_egress::{Method, Request, StatusCode};
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use matome_model::say;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::Location;
use super::listing::{Object, Page, size_of};
use super::objects::{Objects, Store, container_and_key, endpoint_of, list_of};
use super::place::Reach;
use super::web::{Server, at};
use crate::api::{small_body, url_of};
use crate::config::Fields;
use crate::error::{ConnectorError, PlaceFault};
use crate::jwt::JwtAlgorithm;
use crate::secrets::KEPT_SECRET;
use crate::sigv4::encoded;

const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// How long a token is asked for, and how long before its end another one is.
const LIFE: Duration = Duration::from_secs(3600);
const MARGIN: Duration = Duration::from_secs(300);

/// `gs://bucket/name`.
#[derive(Clone, Debug)]
pub struct GcsPlace {
    /// The bucket.
    pub bucket: String,
    /// The name of an object, a pattern of some, or a directory: empty, or with `/` at its end.
    pub key: String,
    /// `gcs.endpoint`: default `https://storage.googleapis.com`.
    pub endpoint: Url,
    /// `gcs.service_account`; without one, nobody in particular asks.
    pub credentials: Option<ServiceAccount>,
}

/// What the key file of a service account says, of which its key is a secret.
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceAccount {
    client_email: String,
    private_key: SecretString,
    #[serde(default)]
    private_key_id: Option<String>,
    #[serde(default = "google")]
    token_uri: String,
}

fn google() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

impl GcsPlace {
    pub(super) fn parse(fields: &mut Fields, path: &str) -> Option<Self> {
        let named = match container_and_key(path, "gs://bucket/orders/*.csv") {
            Ok(named) => Some(named),
            Err(words) => {
                fields.fail("path", words);
                None
            }
        };
        let (mut endpoint, mut credentials) = (None, None);
        if let Some(mut own) = fields.nested("gcs") {
            endpoint = endpoint_of(&mut own);
            credentials = own.string("service_account").and_then(|text| match ServiceAccount::parse(&text) {
                Ok(account) => account,
                Err(words) => {
                    own.fail("service_account", words);
                    None
                }
            });
            fields.absorb(own);
        }
        let (bucket, key) = named?;
        let endpoint = endpoint.or_else(|| "https://storage.googleapis.com".parse().ok())?;
        Some(Self { bucket: bucket.to_owned(), key: key.to_owned(), endpoint, credentials })
    }

    pub(super) fn open(&self, reach: Reach) -> Arc<dyn Location> {
        let reach = Arc::new(reach);
        let store = Gcs { place: self.clone(), reach: reach.clone(), token: Mutex::default() };
        Arc::new(Objects::new(Arc::new(store), reach, format!("gs://{}/", self.bucket)))
    }
}

impl ServiceAccount {
    /// Reads the text of a key file; nothing where it is not shown.
    fn parse(text: &str) -> Result<Option<Self>, Words> {
        if text == KEPT_SECRET {
            return Ok(None);
        }
        // What serde says of it would repeat parts of the key.
        let account: Self = serde_json::from_str(text).map_err(|_| {
            Words::new(
                "It is not the JSON text of the key file of a service account (`client_email`, `private_key`).",
                "サービスアカウントの鍵ファイルの JSON ではありません (`client_email`、`private_key`)。",
            )
        })?;
        url_of(&account.token_uri).map_err(|words| words.map(|text| format!("`token_uri`: {text}")))?;
        let key = JwtAlgorithm::Rs256.check(&account.private_key);
        key.map_err(|words| words.map(|text| format!("`private_key`: {text}")))?;
        Ok(Some(account))
    }

    /// What a token is asked for with (RFC 7523).
    fn assertion(&self, now: Timestamp) -> Result<String, Words> {
        let (issued, life) = (now.timestamp(), LIFE.as_secs().cast_signed());
        let claims = [
            ("iss", Value::from(self.client_email.as_str())),
            ("scope", SCOPE.into()),
            ("aud", self.token_uri.as_str().into()),
            ("iat", issued.into()),
            ("exp", (issued + life).into()),
        ];
        let claims = claims.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        JwtAlgorithm::Rs256.signed(&self.private_key, self.private_key_id.as_deref(), claims)
    }
}

struct Gcs {
    place: GcsPlace,
    reach: Arc<Reach>,
    /// The token that is in use, and until when by the monotonic clock.
    token: Mutex<Option<(SecretString, Duration)>>,
}

impl Gcs {
    async fn add(&self, request: &mut Request) -> Result<(), ConnectorError> {
        let Some(account) = &self.place.credentials else { return Ok(()) };
        let now = self.reach.means.clock.monotonic();
        let mut kept = self.token.lock().await;
        let token = match kept.as_ref().filter(|(_, until)| now < *until) {
            Some((token, _)) => token.clone(),
            None => {
                let (token, life) = self.fetch(account).await?;
                *kept = Some((token.clone(), now + life.saturating_sub(MARGIN)));
                token
            }
        };
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())) {
            value.set_sensitive(true);
            request.origin_headers.insert(AUTHORIZATION, value);
        }
        Ok(())
    }

    async fn fetch(&self, account: &ServiceAccount) -> Result<(SecretString, Duration), ConnectorError> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: String,
            expires_in: Option<u64>,
        }
        #[derive(Default, Deserialize)]
        struct Refusal {
            error: Option<String>,
            error_description: Option<String>,
        }
        let position = || at(&account.token_uri.as_str().into());
        let refused = |problem| ConnectorError::Token { position: position(), problem };
        let url = url_of(&account.token_uri).map_err(&refused)?;
        let assertion = account.assertion(self.reach.means.clock.now()).map_err(&refused)?;
        let body = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
        let mut request = Request { method: Method::POST, body: Some(body.into_bytes()), ..Request::new(url) };
        request.timeout = self.reach.timeout;
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let sent = self.reach.means.client.send(request).await;
        let response = sent.map_err(|source| ConnectorError::Egress { position: position(), source })?;
        let status = response.status;
        let body = small_body(response).await;
        if status == StatusCode::OK
            && let Ok(Answer { access_token, expires_in }) = serde_json::from_slice(&body)
        {
            return Ok((access_token.into(), Duration::from_secs(expires_in.unwrap_or(LIFE.as_secs()))));
        }
        if status.is_server_error() {
            return Err(ConnectorError::Status { position: position(), status, retry_after: None });
        }
        let Refusal { error, error_description } = serde_json::from_slice(&body).unwrap_or_default();
        let why = [error, error_description].into_iter().flatten().collect::<Vec<_>>().join(": ");
        Err(refused(say!(
            "the server answered {status} ({why}); check `gcs.service_account`, and the clock of this machine",
            "サーバーが {status} を返しました ({why})。`gcs.service_account` と、このマシンの時計を確かめてください"
        )))
    }

    async fn forget(&self) -> bool {
        self.token.lock().await.take().is_some()
    }

    fn bucket(&self) -> Url {
        let mut url = self.place.endpoint.clone();
        let path = format!("{}/storage/v1/b/{}/o", url.path().trim_end_matches('/'), encoded(&self.place.bucket));
        url.set_path(&path);
        url
    }
}

impl Server for Gcs {
    fn sign<'a>(&'a self, request: &'a mut Request) -> BoxFuture<'a, Result<(), ConnectorError>> {
        Box::pin(self.add(request))
    }

    fn version_header(&self) -> Option<HeaderName> {
        Some(HeaderName::from_static("x-goog-generation"))
    }

    fn renew(&self) -> BoxFuture<'_, bool> {
        Box::pin(self.forget())
    }

    fn explain(&self, status: StatusCode, _: &[u8]) -> Option<(PlaceFault, Words)> {
        let (code, bucket) = (status.as_u16(), &self.place.bucket);
        Some(match (code, &self.place.credentials) {
            (401 | 403, None) => (
                PlaceFault::Auth,
                say!(
                    "not everybody may read `{bucket}` ({code}); give `service_account` in `gcs`",
                    "`{bucket}` は匿名では読めません ({code})。`gcs` に `service_account` を指定してください"
                ),
            ),
            (401 | 403, Some(ServiceAccount { client_email, .. })) => (
                PlaceFault::Auth,
                say!(
                    "`{client_email}` may not do this ({code}); it needs `storage.objects.get`, and `storage.objects.list` for a pattern",
                    "`{client_email}` には権限がありません ({code})。`storage.objects.get` と、パターンには `storage.objects.list` が必要です"
                ),
            ),
            _ => return None,
        })
    }
}

impl Store for Gcs {
    fn object(&self, key: &str) -> Url {
        let mut url = self.bucket();
        let path = format!("{}/{}", url.path(), encoded(key));
        url.set_path(&path);
        url.set_query(Some("alt=media"));
        url
    }

    fn page(&self, prefix: &str, is_flat: bool, next: Option<&str>) -> Url {
        let own = [("fields", "nextPageToken,items(name,size,generation)"), ("prefix", prefix)];
        list_of(self.bucket(), &own, is_flat, ("pageToken", next))
    }

    fn read(&self, page: &[u8]) -> Result<Page, Words> {
        page_of_gcs(page)
    }

    fn accepted(&self) -> &'static str {
        // Else the store would take off what an object is compressed with, and no length would be true.
        "gzip"
    }
}

/// A page of a list of Google Cloud Storage (`objects.list`).
pub(in crate::file) fn page_of_gcs(page: &[u8]) -> Result<Page, Words> {
    #[derive(Deserialize)]
    struct Item {
        name: String,
        #[serde(default)]
        size: String,
        #[serde(default)]
        generation: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct List {
        #[serde(default)]
        items: Vec<Item>,
        next_page_token: Option<String>,
    }
    let list: List = serde_json::from_slice(page).map_err(|error| {
        say!(
            "the answer is no list of objects ({error}); check `gcs.endpoint`",
            "応答がオブジェクトの一覧ではありません ({error})。`gcs.endpoint` を確かめてください"
        )
    })?;
    let object = |item: Item| Ok(Object { size: size_of(&item.size)?, key: item.name, version: item.generation });
    let objects: Result<Vec<Object>, Words> = list.items.into_iter().map(object).collect();
    Ok(Page { objects: objects?, next: list.next_page_token.filter(|token| !token.is_empty()) })
}

//! One document at an address.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use matome_egress::header::{self, HeaderMap, HeaderName, HeaderValue};
use matome_egress::{Request, StatusCode};
use matome_model::field_error::Words;
use secrecy::SecretString;
use url::Url;

use super::place::Reach;
use super::transfer::Transfer;
use super::web::{Download, Server, Web};
use super::{Content, Entry, Location, Validators};
use crate::api::{
    Auth, belongs_into_auth, is_set_by_matome, not_a_header_name, not_for_a_header, set_by_matome, url_of,
};
use crate::config::Fields;
use crate::error::{ConnectorError, PlaceFault};
use crate::file::address::Told;

/// A document at an address.
#[derive(Clone, Debug)]
pub struct HttpPlace {
    /// `path`: the address.
    pub url: Url,
    /// `auth`: credentials, for the origin of the address.
    pub auth: Option<Auth>,
    /// `headers`: sent to the origin of the address.
    pub headers: HeaderMap,
}

impl HttpPlace {
    pub(super) fn parse(fields: &mut Fields, path: &str) -> Option<Self> {
        let auth = Auth::parse(fields);
        let headers = headers(fields);
        let url = match url_of(path) {
            Ok(url) if url.path().contains(['*', '{', '}']) || url.path().contains("%7B") => Err(Words::new(
                "An address names one document: nobody lists those that a pattern would match. Write `%2A` for a `*` that is meant.",
                "アドレスは一つの文書を指します。パターンに一致するものの一覧はありません。文字としての `*` は `%2A` と書いてください。",
            )),
            url => url,
        };
        match url {
            Ok(url) => Some(Self { url, auth, headers }),
            Err(words) => {
                fields.fail("path", words);
                None
            }
        }
    }
}

fn headers(fields: &mut Fields) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields.texts("headers") {
        let words = match (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            (Ok(name), _) if [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE].contains(&name) => {
                belongs_into_auth()
            }
            (Ok(name), _) if is_set_by_matome(&name) || CONDITIONS.contains(&name) => set_by_matome(),
            (Ok(name), Ok(value)) => {
                headers.insert(name, value);
                continue;
            }
            (Err(_), _) => not_a_header_name(),
            (_, Err(_)) => not_for_a_header(),
        };
        fields.fail("headers", words.map(|text| format!("`{name}`: {text}")));
    }
    headers
}

/// What asks for a part, or for a version.
const CONDITIONS: [HeaderName; 4] = [header::RANGE, header::IF_RANGE, header::IF_MATCH, header::IF_UNMODIFIED_SINCE];

/// The address of one read.
pub(super) struct Http {
    url: Url,
    reach: Arc<Reach>,
    web: Web,
}

impl Http {
    pub(super) fn new(place: &HttpPlace, reach: Arc<Reach>) -> Self {
        let caller = Caller {
            auth: place.auth.clone(),
            headers: place.headers.clone(),
            reach: reach.clone(),
            token: Mutex::default(),
        };
        Self { url: place.url.clone(), web: Web::new(reach.clone(), Arc::new(caller)), reach }
    }

    /// The address without its query, which may have secrets.
    fn name(&self) -> Arc<str> {
        let mut shown = self.url.clone();
        shown.set_query(None);
        shown.as_str().into()
    }

    fn download(&self, entry: &Entry) -> Download {
        Download {
            web: self.web.clone(),
            name: entry.name.clone(),
            url: self.url.clone(),
            // So that it has a length, and can be asked for from its middle on.
            accepted: "identity",
            is_written_in_place: true,
            // Whoever ends it so may mean a directory, and then a page about it comes.
            is_no_page: self.url.path().ends_with('/'),
        }
    }
}

impl HttpPlace {
    /// What the server says of the document.
    pub(in crate::file) async fn look(&self, reach: Reach) -> Result<Told, ConnectorError> {
        let http = Http::new(self, Arc::new(reach));
        let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
        let response = http.web.get(&http.name(), &self.url, headers).await?;
        let text = |name: HeaderName| {
            let value = response.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
        };
        Ok(Told { kind: text(header::CONTENT_TYPE), is_attachment: text(header::CONTENT_DISPOSITION) == "attachment" })
    }
}

impl Location for Http {
    fn find(&self, _: &str) -> Result<Vec<Entry>, ConnectorError> {
        Ok(vec![Entry { name: self.name(), place: 0, path: PathBuf::new(), stamp: None }])
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn Content>, ConnectorError> {
        Ok(Box::new(Transfer::open(entry.name.clone(), self.reach.clone(), self.download(entry))?))
    }

    fn open_unless(&self, entry: &Entry, validators: &Validators) -> Result<Option<Box<dyn Content>>, ConnectorError> {
        self.download(entry).open_unless(self.reach.clone(), validators)
    }

    fn requests(&self) -> u64 {
        self.web.answered()
    }
}

/// Who asks.
struct Caller {
    auth: Option<Auth>,
    headers: HeaderMap,
    reach: Arc<Reach>,
    /// The token that was sent last.
    token: Mutex<Option<SecretString>>,
}

impl Caller {
    async fn add(&self, request: &mut Request) -> Result<(), ConnectorError> {
        request.origin_headers = self.headers.clone();
        let Some(auth) = &self.auth else { return Ok(()) };
        let mut token = None;
        if let Some(login) = auth.login() {
            let Reach { means, keeper, timeout, .. } = &*self.reach;
            token = Some(means.tokens.get(&means.client, login, keeper.as_ref(), *timeout, means.clock.now()).await?);
            self.token.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&token);
        }
        auth.add_header(&mut request.origin_headers, token.as_ref());
        auth.add_query(&mut request.url);
        auth.sign(request, self.reach.means.clock.now());
        Ok(())
    }

    /// A token may end before its time.
    async fn forget(&self) -> bool {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(login), Some(token)) = (self.auth.as_ref().and_then(Auth::login), token) else { return false };
        self.reach.means.tokens.forget(login, self.reach.keeper.as_ref(), &token).await;
        true
    }
}

impl Server for Caller {
    fn sign<'a>(&'a self, request: &'a mut Request) -> BoxFuture<'a, Result<(), ConnectorError>> {
        Box::pin(self.add(request))
    }

    fn renew(&self) -> BoxFuture<'_, bool> {
        Box::pin(self.forget())
    }

    fn explain(&self, status: StatusCode, _: &[u8]) -> Option<(PlaceFault, Words)> {
        let code = status.as_u16();
        (matches!(code, 401 | 403) && self.auth.is_none()).then(|| {
            let words = matome_model::say!(
                "the server refuses ({code}); give credentials with `auth`, if it wants some",
                "サーバーに拒否されました ({code})。認証が必要なら `auth` で指定してください"
            );
            (PlaceFault::Auth, words)
        })
    }
}

//! An HTTP client that dials checked addresses only and never holds a whole answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Upgraded, redirect};
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::body::{ACCEPTED, Inflate, InflateError, RATIO_LIMIT};
use crate::budgets::Rate;
use crate::dial::{self, Dialer};
use crate::error::{EgressError, chain, shown};
use crate::pace::{Pace, SharedPace};
use crate::policy::Policy;
use crate::resolver::{self, Resolver, System};
use crate::tls::{Certificates, Tls, TlsFault};

/// How many redirects of one request are followed.
const REDIRECT_LIMIT: usize = 5;
/// How long the resolver, and then each connection, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long is looked, once nothing came, whether the host takes connections at all, and what it says of TLS.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// All names and values of an answer's headers together.
const HEADER_LIMIT_BYTES: usize = 64 * 1024;
/// So many bytes of a body have to come in the time that each of its pieces is waited for; else a server could hold a
/// read for years.
const BYTES_PER_TIMEOUT: u64 = 1024;
/// A resolution holds this long; then the host is resolved, and checked, anew.
const RESOLUTION_LIFETIME: Duration = Duration::from_secs(60);
/// How many hosts are remembered with their connections.
const ORIGIN_LIMIT: usize = 128;

/// Inflated bytes of one answer that are read at most, unless a request says otherwise: 256 MiB.
pub const DEFAULT_BODY_LIMIT: u64 = 256 * 1024 * 1024;

/// A request.
#[derive(Debug)]
pub struct Request {
    /// GET or POST.
    pub method: Method,
    /// `http` or `https`. User information in it is not sent.
    pub url: Url,
    /// What a POST sends. It goes to the origin of `url` only.
    pub body: Option<Vec<u8>>,
    /// A budget for the host of `url`, which each request of this client to that host keeps to from now on.
    pub rate: Option<Rate>,
    /// Sent to whatever host answers in the end.
    pub headers: HeaderMap,
    /// Sent to the origin (scheme, host, port) of `url` only, never across a redirect elsewhere: credentials.
    pub origin_headers: HeaderMap,
    /// Makes more of these for each address there that is asked, redirects included, just before it is: signatures.
    pub signer: Option<Signer>,
    /// How long to wait for the head of an answer, and then for each next piece of it.
    pub timeout: Duration,
    /// Inflated bytes that the body may have.
    pub body_limit: u64,
    /// The body is a stream of events, which come when they come: each piece is waited for as long as `timeout`, but no
    /// rate is asked of them.
    pub is_stream: bool,
}

impl Request {
    /// A GET request without headers of its own, 30 s of patience and [`DEFAULT_BODY_LIMIT`].
    pub fn new(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            body: None,
            rate: None,
            headers: HeaderMap::new(),
            origin_headers: HeaderMap::new(),
            signer: None,
            timeout: Duration::from_secs(30),
            body_limit: DEFAULT_BODY_LIMIT,
            is_stream: false,
        }
    }
}

type Headers = dyn Fn(&Request, &Url) -> HeaderMap + Send + Sync;

/// Makes the headers that say who sends a request to an address.
#[derive(Clone)]
pub struct Signer(Arc<Headers>);

impl Signer {
    /// Whatever `headers` makes of a request, and of the address that it goes to.
    pub fn new(headers: impl Fn(&Request, &Url) -> HeaderMap + Send + Sync + 'static) -> Self {
        Self(Arc::new(headers))
    }

    /// The headers for `url`.
    pub fn headers(&self, request: &Request, url: &Url) -> HeaderMap {
        (self.0)(request, url)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

/// What a server made of a request to speak another protocol.
pub enum Upgrade {
    /// It speaks that now: here is the connection.
    Done {
        /// The headers of its answer.
        headers: Box<HeaderMap>,
        /// The bytes of both directions.
        connection: Upgraded,
    },
    /// It answered as to any request.
    Refused(Box<Response>),
}

/// The head of an answer; its body is read with [`Response::chunk`].
pub struct Response {
    /// The status of the last request.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Where the answer came from, after redirects.
    pub url: Url,
    /// The address that was connected to.
    pub peer: Option<SocketAddr>,
    body: reqwest::Response,
    inflate: Option<Inflate>,
    ended: bool,
    read_bytes: u64,
    body_limit: u64,
    timeout: Duration,
    is_stream: bool,
    /// How long was waited for the body since its rate was looked at, and how many bytes came.
    waited: Duration,
    came: u64,
}

/// The origins that were reached lately, by host, port and whether TLS is spoken.
type Origins = HashMap<(String, u16, bool), Bound>;

/// One origin, the addresses that it was found to have, and the client that is bound to them.
#[derive(Clone)]
struct Bound {
    since: Instant,
    addresses: Arc<[SocketAddr]>,
    client: reqwest::Client,
}

/// Makes requests under a [`Policy`]. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct HttpClient {
    policy: Policy,
    resolver: Arc<dyn Resolver>,
    pace: Arc<Pace>,
    origins: Arc<Mutex<Origins>>,
    tls: Arc<Tls>,
}

impl HttpClient {
    /// A client that reaches what `policy` allows.
    pub fn new(policy: Policy) -> Self {
        Self::with_resolver(policy, Arc::new(System))
    }

    /// As [`HttpClient::new`], with another resolver than the machine's.
    pub fn with_resolver(policy: Policy, resolver: Arc<dyn Resolver>) -> Self {
        Self { policy, resolver, pace: Arc::default(), origins: Arc::default(), tls: Arc::default() }
    }

    /// The same, with connections of its own that have these certificates besides those of the machine.
    ///
    /// # Errors
    /// [`EgressError::Certificates`] when one can not be read, or is for another key.
    pub fn with_certificates(&self, certificates: &Certificates) -> Result<Self, EgressError> {
        Ok(Self { origins: Arc::default(), tls: Arc::new(Tls::with(certificates)?), ..self.clone() })
    }

    /// Connections for other protocols, to what this client may reach.
    pub fn dialer(&self) -> Dialer {
        Dialer::new(self.policy.clone(), self.resolver.clone())
    }

    /// From now on the budgets of hosts are kept together with other processes. Said once; clones share it.
    pub fn share_pace(&self, shared: Arc<dyn SharedPace>) {
        self.pace.share(shared);
    }

    /// The host of `url` said that it takes no requests for a time: from now on none is sent to it, by this client and by
    /// those that share its pace, whatever source asks.
    pub async fn close_host(&self, url: &Url, time: Duration) {
        self.pace.close(url.host_str().unwrap_or_default(), time).await;
    }

    /// Sends a request and follows up to five redirects, each of them checked anew. A POST is sent again only
    /// where the server asks for just that (307, 308) within the origin; else its redirect is the answer.
    ///
    /// An answer of any status is a [`Response`]. The budgets of the host are waited for; drop the future to give up.
    ///
    /// # Errors
    /// [`EgressError`]; `Denied` when the host, or one that it redirects to, may not be reached.
    pub async fn send(&self, request: Request) -> Result<Response, EgressError> {
        let (answer, url) = self.exchange(&request).await?;
        Response::start(answer, url, &request)
    }

    /// As [`HttpClient::send`], for a request whose headers ask for another protocol on its connection.
    ///
    /// # Errors
    /// As [`HttpClient::send`].
    pub async fn upgrade(&self, request: Request) -> Result<Upgrade, EgressError> {
        let (answer, url) = self.exchange(&request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Response::start(answer, url, &request).map(|response| Upgrade::Refused(Box::new(response)));
        }
        let headers = Box::new(answer.headers().clone());
        let connection = answer.upgrade().await.map_err(|error| connection(&url, "the request", error))?;
        Ok(Upgrade::Done { headers, connection })
    }

    /// The answer, and where it came from.
    async fn exchange(&self, request: &Request) -> Result<(reqwest::Response, Url), EgressError> {
        let origin = request.url.origin();
        let mut url = request.url.clone();
        let mut rate = request.rate;
        for _ in 0..=REDIRECT_LIMIT {
            check_scheme(&mut url)?;
            let bound = self.client_for(&url, request.timeout).await?;
            let turn = self.pace.turn(url.host_str().unwrap_or_default(), rate.take()).await;
            turn.map_err(|wait| EgressError::Closed { url: shown(&url), wait })?;
            let mut headers = request.headers.clone();
            if url.origin() == origin {
                // Behind the wait, since signatures are good for minutes.
                let signed = request.signer.as_ref().map(|signer| signer.headers(request, &url)).unwrap_or_default();
                for (name, value) in request.origin_headers.iter().chain(&signed) {
                    headers.insert(name.clone(), value.clone());
                }
            }
            headers.entry(header::ACCEPT_ENCODING).or_insert(HeaderValue::from_static(ACCEPTED));
            let mut sending = bound.client.request(request.method.clone(), url.clone()).headers(headers);
            if let Some(body) = &request.body {
                sending = sending.body(body.clone());
            }
            let answer = match tokio::time::timeout(request.timeout, sending.send()).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) if error.is_timeout() => return Err(bound.silent(&url, CONNECT_TIMEOUT).await),
                Ok(Err(error)) => return Err(self.lost(&bound, &url, error).await),
                Err(_) => return Err(bound.silent(&url, request.timeout).await),
            };
            self.check_peer(&answer, &url)?;
            match redirect_target(&answer, &url)? {
                Some(target) if request.method == Method::GET => url = target,
                Some(target) if matches!(answer.status().as_u16(), 307 | 308) && target.origin() == origin => {
                    url = target;
                }
                _ => return Ok((answer, url)),
            }
        }
        Err(EgressError::Redirects { url: shown(&request.url), limit: REDIRECT_LIMIT })
    }

    /// Why a request got no answer.
    async fn lost(&self, bound: &Bound, url: &Url, error: reqwest::Error) -> EgressError {
        match connection(url, "the request", error) {
            EgressError::Connection { url: shown, action, source } if was_never_sent(&source) => {
                match self.fault_of(bound, url).await {
                    Some(fault) => EgressError::Handshake { url: shown, fault, source },
                    None => EgressError::Connection { url: shown, action, source },
                }
            }
            told => told,
        }
    }

    /// What a server says of TLS to who connects and asks nothing. One that refuses what it was shown says so after the handshake; where
    /// that comes before the request is handed over, the transport has heard it and keeps it to itself.
    async fn fault_of(&self, bound: &Bound, url: &Url) -> Option<TlsFault> {
        if url.scheme() != "https" {
            return None;
        }
        let name = ServerName::try_from(url.host_str()?.trim_matches(['[', ']']).to_owned()).ok()?;
        let tls = TlsConnector::from(Arc::new(self.tls.config_for(url).ok()?));
        let heard = async { tls.connect(name, dial::first_of(&bound.addresses).await?).await?.read_u8().await };
        match tokio::time::timeout(LOOK_TIMEOUT, heard).await {
            Ok(Err(error)) => TlsFault::of(&error),
            Ok(Ok(_)) | Err(_) => None,
        }
    }

    /// That the transport went where it was told to go. It always does; if it ever did not, nothing it brought back
    /// would be used.
    fn check_peer(&self, answer: &reqwest::Response, url: &Url) -> Result<(), EgressError> {
        match answer.remote_addr() {
            Some(peer) if !self.policy.allows(peer.ip(), peer.port()) => {
                Err(self.policy.denied(url.host_str().unwrap_or_default(), peer.ip(), peer.port()))
            }
            _ => Ok(()),
        }
    }

    /// The client for the origin of `url`, whose addresses are checked already.
    async fn client_for(&self, url: &Url, timeout: Duration) -> Result<Bound, EgressError> {
        let refused = |reason| EgressError::Url { url: shown(url), reason };
        let host = url.host().ok_or_else(|| refused("it names no host"))?;
        let port = url.port_or_known_default().ok_or_else(|| refused("it names no port"))?;
        let secure = url.scheme() == "https";
        let key = (host.to_string(), port, secure);
        if let Some(bound) = self.lock().get(&key).filter(|bound| bound.since.elapsed() < RESOLUTION_LIFETIME) {
            return Ok(bound.clone());
        }
        let timeout = timeout.min(CONNECT_TIMEOUT);
        let addresses = resolver::resolve(&self.policy, &*self.resolver, &host, port, timeout).await?;
        let addresses: Arc<[SocketAddr]> = addresses.into();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.config_for(url)?)
            .dns_resolver(Arc::new(Checked { host: key.0.clone(), addresses: addresses.to_vec() }))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .no_gzip()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("matome/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(EgressError::Client)?;
        let mut origins = self.lock();
        if origins.len() >= ORIGIN_LIMIT {
            origins.retain(|_, bound| bound.since.elapsed() < RESOLUTION_LIFETIME);
        }
        if origins.len() >= ORIGIN_LIMIT {
            origins.clear();
        }
        let bound = Bound { since: Instant::now(), addresses, client };
        origins.insert(key, bound.clone());
        Ok(bound)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Origins> {
        // The map is whole after any panic: it is only ever inserted into.
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bound {
    /// What it means that nothing came from `url` for this time. The transport does not say how far it got, so that is looked at
    /// once more: many a firewall drops what it does not let through.
    async fn silent(&self, url: &Url, timeout: Duration) -> EgressError {
        match tokio::time::timeout(LOOK_TIMEOUT, dial::first_of(&self.addresses)).await {
            Ok(Ok(_)) => EgressError::Timeout { url: shown(url), timeout },
            _ => {
                let port = url.port_or_known_default().unwrap_or_default();
                EgressError::Unanswered { peer: format!("{}:{port}", url.host_str().unwrap_or_default()), timeout }
            }
        }
    }
}

/// Answers the transport's question for addresses with those that were checked.
struct Checked {
    host: String,
    addresses: Vec<SocketAddr>,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let found: Result<Addrs, Box<dyn std::error::Error + Send + Sync>> =
            if name.as_str().eq_ignore_ascii_case(&self.host) {
                Ok(Box::new(self.addresses.clone().into_iter()))
            } else {
                Err("a host was asked for that was not checked".into())
            };
        Box::pin(std::future::ready(found))
    }
}

/// Whether the connection ended before anything of the request went out.
fn was_never_sent(error: &(dyn std::error::Error + 'static)) -> bool {
    chain(error).filter_map(|error| error.downcast_ref::<hyper::Error>()).any(hyper::Error::is_canceled)
}

fn check_scheme(url: &mut Url) -> Result<(), EgressError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(EgressError::Url { url: shown(url), reason: "only http and https are spoken" });
    }
    url.set_fragment(None);
    // The transport would send user information as a credential, to whoever a redirect names.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Ok(())
}

fn redirect_target(answer: &reqwest::Response, url: &Url) -> Result<Option<Url>, EgressError> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = answer.headers().get(header::LOCATION) else { return Ok(None) };
    let target = std::str::from_utf8(location.as_bytes()).ok().and_then(|location| url.join(location).ok());
    target.map(Some).ok_or(EgressError::Url { url: shown(url), reason: "it redirects to something that is no address" })
}

fn connection(url: &Url, action: &'static str, error: reqwest::Error) -> EgressError {
    if error.is_timeout() {
        return EgressError::Timeout { url: shown(url), timeout: CONNECT_TIMEOUT };
    }
    // The transport's own message would repeat the address with its query.
    let error = error.without_url();
    let fault = match url.scheme() == "https" && error.is_connect() {
        true => TlsFault::of_opening(&error),
        // Later it is what got lost on the way.
        false => TlsFault::of(&error).filter(|fault| *fault != TlsFault::NoTls),
    };
    if let Some(fault) = fault {
        return EgressError::Handshake { url: shown(url), fault, source: error };
    }
    EgressError::Connection { url: shown(url), action, source: error }
}

impl Response {
    fn start(answer: reqwest::Response, url: Url, request: &Request) -> Result<Self, EgressError> {
        let headers = answer.headers().clone();
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if size > HEADER_LIMIT_BYTES {
            let limit = HEADER_LIMIT_BYTES as u64;
            return Err(EgressError::TooLarge { url: shown(&url), what: "header bytes", limit });
        }
        let encoding = headers.get(header::CONTENT_ENCODING).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let encoding = encoding.unwrap_or_default().trim().to_ascii_lowercase();
        let inflate = match encoding.as_str() {
            "" | "identity" => None,
            known => match Inflate::of(known) {
                Some(inflate) => Some(inflate),
                None => return Err(EgressError::Encoding { url: shown(&url), encoding, source: None }),
            },
        };
        Ok(Self {
            status: answer.status(),
            headers,
            url,
            peer: answer.remote_addr(),
            body: answer,
            inflate,
            ended: false,
            read_bytes: 0,
            body_limit: request.body_limit,
            timeout: request.timeout,
            is_stream: request.is_stream,
            waited: Duration::ZERO,
            came: 0,
        })
    }

    /// The next piece of the decompressed body, never empty; `None` at its end.
    ///
    /// # Errors
    /// [`EgressError`] when the connection breaks, stalls, or a limit is hit.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, EgressError> {
        while !self.ended {
            let asked = Instant::now();
            let next = tokio::time::timeout(self.timeout, self.body.chunk())
                .await
                .map_err(|_| EgressError::Timeout { url: shown(&self.url), timeout: self.timeout })?
                .map_err(|error| connection(&self.url, "reading the answer", error))?;
            self.ended = next.is_none();
            self.check_rate(asked.elapsed(), next.as_ref().map_or(0, |bytes| bytes.len() as u64))?;
            let piece = match (&mut self.inflate, next) {
                (None, Some(bytes)) => bytes.to_vec(),
                (None, None) => Vec::new(),
                (Some(inflate), Some(bytes)) => {
                    inflate.push(&bytes).map_err(|error| inflation(&self.url, inflate.name(), error))?
                }
                (Some(inflate), None) => {
                    inflate.finish().map_err(|error| inflation(&self.url, inflate.name(), error))?
                }
            };
            self.read_bytes += piece.len() as u64;
            if self.read_bytes > self.body_limit {
                let limit = self.body_limit;
                return Err(EgressError::TooLarge { url: shown(&self.url), what: "body bytes", limit });
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// Time counts only while the body is waited for, not while its reader is busy.
    fn check_rate(&mut self, waited: Duration, came: u64) -> Result<(), EgressError> {
        self.waited += waited;
        self.came += came;
        if self.ended || self.is_stream || self.waited < self.timeout {
            return Ok(());
        }
        if self.came < BYTES_PER_TIMEOUT {
            return Err(EgressError::Slow { url: shown(&self.url), bytes: self.came, timeout: self.waited });
        }
        (self.waited, self.came) = (Duration::ZERO, 0);
        Ok(())
    }
}

fn inflation(url: &Url, encoding: &str, error: InflateError) -> EgressError {
    match error {
        InflateError::Ratio => {
            EgressError::TooLarge { url: shown(url), what: "a compression ratio", limit: RATIO_LIMIT }
        }
        InflateError::Corrupt(source) => {
            EgressError::Encoding { url: shown(url), encoding: encoding.to_owned(), source: Some(source) }
        }
    }
}

//! Where the files of a source are, by the scheme of `path`, and opening that.

use std::sync::Arc;
use std::time::Duration;

use matome_egress::HttpClient;
use matome_model::clock::Clock;
use matome_model::field_error::Words;
use matome_model::say;
use matome_model::source::HostUse;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use url::Origin;

use super::Location;
use super::azure::AzurePlace;
use super::gcs::GcsPlace;
use super::http::{Http, HttpPlace};
use super::s3::S3Place;
use super::sftp::SftpPlace;
use crate::api::{Auth, Tokens};
use crate::config::Fields;
use crate::error::ConnectorError;
use crate::file::roots::{self, FileRoots};
use crate::keeper::SecretKeeper;
use crate::tls::TlsOptions;

/// What `path` may begin with.
const KNOWN: &str = "`http://`, `https://`, `s3://`, `gs://`, `az://`, `sftp://`";

/// Where the files of a source are.
#[derive(Clone, Debug)]
pub enum Place {
    /// Beneath the file roots of this machine.
    Roots,
    /// `http://` and `https://`: one document.
    Http(Box<HttpPlace>),
    /// `s3://`: the objects of a bucket.
    S3(Box<S3Place>),
    /// `gs://`: the objects of a bucket of Google Cloud Storage.
    Gcs(Box<GcsPlace>),
    /// `az://`: the blobs of a container of Azure.
    Azure(Box<AzurePlace>),
    /// `sftp://`: the files of an SSH server.
    Sftp(Box<SftpPlace>),
}

impl Place {
    /// Reads `path` and the options of its scheme.
    pub(in crate::file) fn parse(fields: &mut Fields, path: &str) -> Option<Self> {
        let Some((scheme, _)) = path.split_once("://") else {
            in_roots(fields, path);
            return Some(Self::Roots);
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => HttpPlace::parse(fields, path).map(|place| Self::Http(Box::new(place))),
            "s3" => S3Place::parse(fields, path).map(|place| Self::S3(Box::new(place))),
            "gs" => GcsPlace::parse(fields, path).map(|place| Self::Gcs(Box::new(place))),
            "sftp" => SftpPlace::parse(fields, path).map(|place| Self::Sftp(Box::new(place))),
            "az" => AzurePlace::parse(fields, path).map(|place| Self::Azure(Box::new(place))),
            _ => {
                let words = say!(
                    "Files can not be read from `{scheme}://`. Known are {KNOWN} and paths beneath a file root.",
                    "`{scheme}://` からはファイルを読めません。使えるのは {KNOWN} と、ファイルルートの下のパスです。"
                );
                fields.fail("path", words);
                None
            }
        }
    }

    /// What of `path` ends with the name of a file.
    pub(in crate::file) fn named<'p>(&'p self, path: &'p str) -> &'p str {
        match self {
            Self::Roots => path,
            Self::Http(place) => place.url.path(),
            Self::S3(place) => &place.key,
            Self::Gcs(place) => &place.key,
            Self::Azure(place) => &place.key,
            Self::Sftp(place) => &place.path,
        }
    }

    /// The host that is asked.
    pub fn host(&self) -> Option<HostUse> {
        let host = match self {
            Self::Roots => return None,
            Self::Http(place) => place.url.host_str()?,
            Self::S3(place) => place.base.host_str()?,
            Self::Gcs(place) => place.endpoint.host_str()?,
            Self::Azure(place) => place.base.host_str()?,
            Self::Sftp(place) => &place.server.host,
        };
        Some(HostUse { host: host.to_owned(), concurrent: None })
    }

    /// Who may see what the source shows of itself.
    pub(crate) fn origins(&self) -> Vec<Origin> {
        match self {
            Self::Roots | Self::Sftp(_) => Vec::new(),
            Self::Http(place) => {
                std::iter::once(place.url.origin()).chain(place.auth.as_ref().and_then(Auth::origin)).collect()
            }
            Self::S3(place) => vec![place.base.origin()],
            Self::Gcs(place) => vec![place.endpoint.origin()],
            Self::Azure(place) => vec![place.base.origin()],
        }
    }

    /// Whether TLS is spoken on the way there.
    pub(in crate::file) fn has_tls(&self) -> bool {
        !matches!(self, Self::Roots | Self::Sftp(_))
    }

    /// Opens it for one read.
    pub(in crate::file) fn open(&self, roots: Arc<FileRoots>, reach: Reach) -> Arc<dyn Location> {
        match self {
            Self::Roots => roots,
            Self::Http(place) => Arc::new(Http::new(place, Arc::new(reach))),
            Self::S3(place) => place.open(reach),
            Self::Gcs(place) => place.open(reach),
            Self::Azure(place) => place.open(reach),
            Self::Sftp(place) => place.open(reach),
        }
    }
}

fn in_roots(fields: &mut Fields, path: &str) {
    if path.split('/').any(|part| part == "..") {
        fields.fail("path", Words::new("The path may not contain `..`.", "パスに `..` は使えません。"));
    } else if path.contains('\0') {
        let words = Words::new("The path may not contain the NUL character.", "パスに NUL 文字は使えません。");
        fields.fail("path", words);
    } else if let Err(error) = roots::pattern(path) {
        fields.fail("path", roots::no_pattern(&error));
    }
}

/// What places elsewhere are reached with. Cheap to clone.
#[derive(Clone)]
pub struct Means {
    /// What requests are made with, and other connections.
    pub client: HttpClient,
    /// What requests are dated with.
    pub clock: Clock,
    /// The tokens of logins.
    pub tokens: Tokens,
}

impl Means {
    /// The same with the certificates of a source, which are shown to `origins`.
    pub(crate) fn with(
        self,
        tls: &TlsOptions,
        roots: &FileRoots,
        origins: Vec<Origin>,
    ) -> Result<Self, ConnectorError> {
        Ok(Self { client: tls.client(&self.client, roots, origins)?, ..self })
    }
}

/// The means of one read, on the thread of that read.
pub(in crate::file) struct Reach {
    pub(super) means: Means,
    /// How long each answer, and each next piece of it, is waited for.
    pub(super) timeout: Duration,
    pub(super) keeper: Option<Arc<dyn SecretKeeper>>,
    runtime: Handle,
    cancel: CancellationToken,
}

impl Reach {
    /// Ends with `cancel`. Made inside of the runtime.
    pub(in crate::file) fn new(
        means: Means,
        timeout: Duration,
        keeper: Option<Arc<dyn SecretKeeper>>,
        cancel: CancellationToken,
    ) -> Self {
        Self { means, timeout, keeper, runtime: Handle::current(), cancel }
    }

    /// Waits for something, unless the read is cancelled. Blocks; not to be called from inside of the runtime.
    pub(super) fn wait<T>(&self, future: impl Future<Output = Result<T, ConnectorError>>) -> Result<T, ConnectorError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(ConnectorError::Cancelled),
                done = future => done,
            }
        })
    }
}

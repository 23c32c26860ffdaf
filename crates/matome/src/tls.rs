//! TLS for the server: a certificate and a key from files, read again when they change.
//!
//! A handshake that hangs must not keep others from being accepted, so each has a task of its own, and a limited time.

use std::fs::Metadata;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::serve::Listener;
use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode as _, SliceReader, Tag, Tagged as _};
use matome_model::clock::Timestamp;
use matome_model::field_error::Words;
use matome_model::say;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

use crate::failure::{Exit, Failure};
use crate::message::Message;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes under way at most; more wait in the system's queue.
const HANDSHAKES: usize = 256;
/// After the system could not give a connection, for want of file descriptors mostly.
const PAUSE: Duration = Duration::from_millis(100);

/// Inode, length and time of change of a file that is there.
type Stamp = Option<(u64, u64, i64, i64)>;

/// Where certificate and key are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl TlsFiles {
    /// From the settings, of which either both are set or none.
    ///
    /// # Errors
    /// When one is set alone.
    pub fn of(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Result<Option<Self>, Failure> {
        match (certificate, key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate: certificate.clone(), key: key.clone() })),
            (Some(_), None) => Err(alone("tls_cert_file", "tls_key_file")),
            (None, Some(_)) => Err(alone("tls_key_file", "tls_cert_file")),
        }
    }

    /// Whether they can be read and fit.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), Words> {
        self.load().map(drop)
    }

    /// From when until when all certificates of the chain are valid; none when they cannot be read.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&self.certificate).and_then(Iterator::collect);
        let each = chain.ok()?.iter().map(|certificate| validity(certificate)).collect::<Option<Vec<_>>>()?;
        each.into_iter().reduce(|one, other| (one.0.max(other.0), one.1.min(other.1)))
    }

    /// The certificate with its key, when they fit.
    fn load(&self) -> Result<CertifiedKey, Words> {
        let shown = |path: &Path| path.display().to_string();
        let (certificate, key) = (shown(&self.certificate), shown(&self.key));
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&self.certificate).and_then(Iterator::collect);
        let chain = chain.map_err(|err| {
            say!(
                "`{certificate}` cannot be read as certificates in PEM form: {err}",
                "`{certificate}` を PEM 形式の証明書として読めません: {err}"
            )
        })?;
        if chain.is_empty() {
            return Err(say!("`{certificate}` has no certificate", "`{certificate}` に証明書がありません"));
        }
        let private = PrivateKeyDer::from_pem_file(&self.key).map_err(|err| {
            say!(
                "`{key}` cannot be read as a private key in PEM form: {err}",
                "`{key}` を PEM 形式の秘密鍵として読めません: {err}"
            )
        })?;
        let unfit = |err: rustls::Error| {
            say!(
                "`{certificate}` and `{key}` do not belong together: {err}",
                "`{certificate}` と `{key}` が対になっていません: {err}"
            )
        };
        // It looks whether they fit.
        CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(unfit)
    }

    /// What tells that a file was written or replaced.
    fn stamp(&self) -> [Stamp; 2] {
        let of = |meta: Metadata| (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
        [&self.certificate, &self.key].map(|path| std::fs::metadata(path).ok().map(of))
    }
}

/// `notBefore` and `notAfter` of a certificate (RFC 5280, 4.1): they stand behind version, serial number, algorithm and issuer.
fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    fn inside(of: AnyRef<'_>) -> Option<SliceReader<'_>> {
        SliceReader::new(of.value()).ok()
    }
    let mut fields = inside(AnyRef::from_der(certificate).ok()?)?;
    let mut fields = inside(AnyRef::decode(&mut fields).ok()?)?;
    let mut next = || AnyRef::decode(&mut fields).ok();
    let first = next()?;
    if matches!(first.tag(), Tag::ContextSpecific { .. }) {
        next()?;
    }
    let (_algorithm, _issuer) = (next()?, next()?);
    let mut times = inside(next()?)?;
    let mut time = || {
        let time = AnyRef::decode(&mut times).ok()?;
        let since = match time.tag() {
            Tag::UtcTime => time.decode_as::<UtcTime>().ok()?.to_unix_duration(),
            _ => time.decode_as::<GeneralizedTime>().ok()?.to_unix_duration(),
        };
        Timestamp::from_timestamp(i64::try_from(since.as_secs()).ok()?, 0)
    };
    Some((time()?, time()?))
}

fn alone(given: &str, missing: &str) -> Failure {
    let (given, missing) = (given.to_owned(), missing.to_owned());
    Failure::new(Exit::Config, Message::TlsHalf { given, missing: missing.clone() }).help(Message::SetBoth { missing })
}

/// The certificate that is in use.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// TCP connections that have shaken hands.
#[derive(Debug)]
pub struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    /// Begins to accept on `listener`, and to look after the files.
    ///
    /// # Errors
    /// When the files cannot be read, or do not belong together.
    pub fn start(listener: TcpListener, files: TlsFiles) -> Result<Self, Failure> {
        let address = listener.local_addr().map_err(|err| Failure::from_error(Exit::Failed, &err))?;
        let stamp = files.stamp();
        let loaded = files
            .load()
            .map_err(|why| Failure::new(Exit::Config, Message::TlsUnusable).why(why).help(Message::GiveTlsFiles))?;
        let current = Arc::new(Current(RwLock::new(Arc::new(loaded))));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|err| Failure::from_error(Exit::Failed, &err))?;
        let mut config = config.with_no_client_auth().with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (send, ready) = mpsc::channel(HANDSHAKES);
        // Both end with the receiver.
        tokio::spawn(look_after(files, stamp, current, send.clone()));
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), send));
        Ok(Self { address, ready })
    }
}

type Ready = mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>;

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, ready: Ready) {
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(err) => {
                // A peer that left before it was accepted is no news.
                if err.kind() != io::ErrorKind::ConnectionAborted {
                    warn!(error = %err, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            }
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                // Who receives takes them at once; the place is free again either way.
                Ok(Ok(stream)) => drop(ready.send((stream, peer)).await),
                Ok(Err(err)) => tracing::debug!(error = %err, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
            drop(place);
        });
    }
}

/// Takes a new certificate for connections from now on; those that are there stay.
async fn look_after(files: TlsFiles, mut known: [Stamp; 2], current: Arc<Current>, ready: Ready) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = ready.closed() => return,
        }
        let stamp = files.stamp();
        if stamp == known {
            continue;
        }
        known = stamp;
        match files.load() {
            Ok(loaded) => {
                *current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
                info!("the TLS certificate has changed; new connections get the new one");
            }
            // Half of the pair may have been written by now: the next change is looked at again.
            Err(why) => warn!("the TLS files have changed and cannot be used, the old ones stay: {why}"),
        }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The task that accepts ends after this does.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

//! TLS for outgoing connections: rustls with ring, and the authorities of this machine, or those of Mozilla's list when it has
//! none. A source may bring certificates of its own.

mod fault;
mod verifier;

use std::error::Error;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use url::{Origin, Url};

use crate::error::EgressError;
use verifier::Verifier;

pub use fault::TlsFault;

/// Certificates (PEM) that connections have besides those of the machine.
#[derive(Clone, Default)]
pub struct Certificates {
    /// Authorities that are trusted.
    pub authorities: Vec<u8>,
    /// What is shown to a server that asks who connects, and its key.
    pub own: Option<(Vec<u8>, Vec<u8>)>,
    /// To whom that is shown; nobody else learns of it.
    pub shown_to: Vec<Origin>,
}

/// How connections know whom they reach, and what they show of themselves.
#[derive(Default)]
pub(crate) struct Tls {
    verifying: OnceLock<ClientConfig>,
    showing: Option<(ClientConfig, Vec<Origin>)>,
}

impl Tls {
    pub(crate) fn with(certificates: &Certificates) -> Result<Self, EgressError> {
        let mut roots = machine_roots();
        let named: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificates.authorities).collect();
        let named = named.map_err(|source| unusable("ca", source))?;
        for authority in &named {
            roots.add(authority.clone()).map_err(|source| unusable("ca", source))?;
        }
        let showing = match &certificates.own {
            None => None,
            Some((chain, key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
                let chain = chain.map_err(|source| unusable("cert", source))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| unusable("key", source))?;
                let own = Some((chain, key));
                Some((verifying(roots.clone(), named.clone(), own)?, certificates.shown_to.clone()))
            }
        };
        Ok(Self { verifying: OnceLock::from(verifying(roots, named, None)?), showing })
    }

    /// For the origin of `url`.
    pub(crate) fn config_for(&self, url: &Url) -> Result<ClientConfig, EgressError> {
        if url.scheme() != "https" {
            return unused();
        }
        if let Some((config, shown_to)) = &self.showing
            && shown_to.contains(&url.origin())
        {
            return Ok(config.clone());
        }
        // Reading the machine's certificates takes milliseconds; only the first https request pays.
        if let Some(config) = self.verifying.get() {
            return Ok(config.clone());
        }
        let config = verifying(machine_roots(), Vec::new(), None)?;
        Ok(self.verifying.get_or_init(|| config).clone())
    }
}

/// The certificates of this machine's authorities (DER), for drivers that speak TLS themselves and know Mozilla's list.
pub fn trusted_certificates() -> Vec<Vec<u8>> {
    rustls_native_certs::load_native_certs().certs.into_iter().map(|der| der.to_vec()).collect()
}

/// So that a company's own authority works.
fn machine_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// `named`: certificates that are accepted as those of servers, too, whatever they are made for.
fn verifying(
    roots: RootCertStore,
    named: Vec<CertificateDer<'static>>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, EgressError> {
    // The provider is named here: a process-wide default would be global state, and may be missing.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let known = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let known = known.map_err(|source| unusable("ca", source))?;
    let verifier = Arc::new(Verifier::new(known, named));
    let builder = with_versions(provider)?.dangerous().with_custom_certificate_verifier(verifier);
    match own {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|source| unusable("key", source)),
    }
}

/// For clients that only ever speak plain HTTP: verifies nobody, so a TLS connection could not be made.
fn unused() -> Result<ClientConfig, EgressError> {
    let builder = with_versions(Arc::new(rustls::crypto::ring::default_provider()))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn with_versions(provider: Arc<CryptoProvider>) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, EgressError> {
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(EgressError::Tls)
}

fn unusable(option: &'static str, source: impl Error + Send + Sync + 'static) -> EgressError {
    EgressError::Certificates { option, source: Box::new(source) }
}

//! TLS for outgoing connections: rustls with ring, the system's certificates, the bundled ones when it has none.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Verifies peers against the machine's certificates (so a company's own authority works), or against
/// Mozilla's bundled list on machines that have none.
///
/// # Errors
/// When the crypto provider and the protocol versions do not fit, which a build decides.
pub(crate) fn verifying() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    with_roots(roots)
}

/// The certificates of this machine's authorities (DER), for drivers that speak TLS themselves and know Mozilla's list.
pub fn trusted_certificates() -> Vec<Vec<u8>> {
    rustls_native_certs::load_native_certs().certs.into_iter().map(|der| der.to_vec()).collect()
}

/// For clients that only ever speak plain HTTP: verifies nobody, so a TLS connection could not be made.
pub(crate) fn unused() -> Result<ClientConfig, rustls::Error> {
    with_roots(RootCertStore::empty())
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    // The provider is named here: a process-wide default would be global state, and may be missing.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

//! The certificates that a server's own is checked with.

use std::io::Read as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::server::{Tls, TlsMode};
use crate::error::ConnectorError;
use crate::file::FileRoots;

/// A file of certificates is not longer.
const FILE_LIMIT_BYTES: u64 = 4 << 20;

/// The certificates of this machine (so that a company's own authority works) and of `ca_file`, as PEM; `None` when none
/// is looked at.
pub(super) fn certificates(tls: &Tls, roots: &FileRoots) -> Result<Option<Vec<u8>>, ConnectorError> {
    if tls.mode != TlsMode::VerifyFull {
        return Ok(None);
    }
    let mut pem = Vec::new();
    for der in matome_egress::trusted_certificates() {
        pem.extend_from_slice(b"-----BEGIN CERTIFICATE-----\n");
        pem.extend_from_slice(BASE64_STANDARD.encode(der).as_bytes());
        pem.extend_from_slice(b"\n-----END CERTIFICATE-----\n");
    }
    if let Some(path) = &tls.ca_file {
        let (file, failed) = roots.named(path)?;
        file.take(FILE_LIMIT_BYTES).read_to_end(&mut pem).map_err(failed)?;
    }
    Ok(Some(pem))
}

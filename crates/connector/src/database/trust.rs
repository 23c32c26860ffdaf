//! The certificates of a connection: those that a server's own is checked with, and what is shown to it.

use std::io::Read as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use matome_model::say;
use secrecy::ExposeSecret as _;

use super::fault::Faults;
use super::server::{ClientCertificate, Tls, TlsMode};
use crate::error::{ConnectorError, DatabaseFault};
use crate::file::FileRoots;

/// A file of certificates is not longer.
const FILE_LIMIT_BYTES: u64 = 4 << 20;

/// All of it as PEM.
#[derive(Default)]
pub(super) struct Certificates {
    /// The authorities of this machine (so that a company's own works) and of `ca_file`; empty when the server's certificate
    /// is not looked at.
    pub(super) authorities: Vec<u8>,
    /// What is shown when the server asks, and its key.
    pub(super) own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificates {
    /// Reads what `tls` names.
    pub(super) fn of(tls: &Tls, roots: &FileRoots, faults: &Faults) -> Result<Self, ConnectorError> {
        let mut authorities = Vec::new();
        if tls.mode == TlsMode::VerifyFull {
            for der in matome_egress::trusted_certificates() {
                authorities.extend_from_slice(b"-----BEGIN CERTIFICATE-----\n");
                authorities.extend_from_slice(BASE64_STANDARD.encode(der).as_bytes());
                authorities.extend_from_slice(b"\n-----END CERTIFICATE-----\n");
            }
            if let Some(path) = &tls.ca_file {
                authorities.extend(read(path, roots)?);
            }
        }
        let own = match &tls.client {
            None => None,
            Some(ClientCertificate::Texts { cert, key }) => {
                Some((cert.clone().into_bytes(), key.expose_secret().as_bytes().to_vec()))
            }
            Some(ClientCertificate::Files { cert, key }) => Some((read(cert, roots)?, read(key, roots)?)),
        };
        if let Some((cert, key)) = &own {
            holds(cert, "CERTIFICATE-----", "cert", faults)?;
            holds(key, "PRIVATE KEY-----", "key", faults)?;
        }
        Ok(Self { authorities, own })
    }
}

fn read(path: &str, roots: &FileRoots) -> Result<Vec<u8>, ConnectorError> {
    let (file, failed) = roots.named(path)?;
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// What the driver would say of a text without any would be of no help.
fn holds(pem: &[u8], begin: &str, name: &str, faults: &Faults) -> Result<(), ConnectorError> {
    if String::from_utf8_lossy(pem)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(begin))
    {
        return Ok(());
    }
    let problem = say!(
        "`tls.{name}` or `tls.{name}_file` has nothing in PEM that ends with `{begin}` in its first line; an encrypted key is not read",
        "`tls.{name}` か `tls.{name}_file` に、最初の行が `{begin}` で終わる PEM がありません。暗号化された鍵は読めません"
    );
    Err(faults.problem(DatabaseFault::Tls, problem))
}

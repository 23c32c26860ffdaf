//! `tls`: the certificates that the connections of one source have besides those of the machine.

use std::io::Read as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use matome_egress::{Certificates, HttpClient};
use matome_model::field_error::Words;
use matome_model::say;
use secrecy::{ExposeSecret as _, SecretString};
use url::Origin;

use crate::config::Fields;
use crate::error::ConnectorError;
use crate::file::FileRoots;
use crate::record::Position;

/// A file of certificates is not longer.
const FILE_LIMIT_BYTES: u64 = 4 << 20;

/// Certificates (PEM), as a config names them.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Authorities to trust besides those of the machine.
    pub authorities: Option<Authorities>,
    /// What is shown to a server that asks who connects.
    pub client: Option<ClientCertificate>,
}

/// Certificates of authorities.
#[derive(Clone, Debug)]
pub enum Authorities {
    /// `ca_file`, beneath a file root.
    File(String),
    /// `ca` itself.
    Text(String),
}

/// A certificate of the client, with its key.
#[derive(Clone, Debug)]
pub enum ClientCertificate {
    /// `cert_file` and `key_file`, beneath a file root.
    Files {
        /// `cert_file`: the certificate, and those between it and its authority.
        cert: String,
        /// `key_file`.
        key: String,
    },
    /// `cert` and `key` themselves.
    Texts {
        /// `cert`.
        cert: String,
        /// `key`: a secret.
        key: SecretString,
    },
}

impl TlsOptions {
    /// The names of what says which authorities there are.
    pub(crate) const AUTHORITIES: [&'static str; 2] = ["ca", "ca_file"];
    /// The names of what a client shows.
    pub(crate) const CLIENT: [&'static str; 4] = ["cert", "key", "cert_file", "key_file"];

    /// Takes the option `tls` of sources that say by their address whether TLS is spoken.
    pub(crate) fn parse(fields: &mut Fields) -> Self {
        let Some(mut own) = fields.nested("tls") else { return Self::default() };
        let options = Self::parse_inside(&mut own);
        fields.absorb(own);
        options
    }

    /// Takes the options out of `tls`.
    pub(crate) fn parse_inside(own: &mut Fields) -> Self {
        Self { authorities: authorities(own), client: client(own) }
    }

    /// `client` with these certificates. What is shown of the source is shown to `shown_to` alone, the first of which is where it is.
    ///
    /// # Errors
    /// [`ConnectorError`] when a file can not be read, or is not what it should be.
    pub(crate) fn client(
        &self,
        client: &HttpClient,
        roots: &FileRoots,
        shown_to: Vec<Origin>,
    ) -> Result<HttpClient, ConnectorError> {
        if self.authorities.is_none() && self.client.is_none() {
            return Ok(client.clone());
        }
        let document = shown_to.first().map(Origin::ascii_serialization).unwrap_or_default();
        let position = Position { document: document.into(), request: None, line: None, record: 0, headers: None };
        let Pem { authorities, own } = self.read(roots, &position)?;
        let client = client.with_certificates(&Certificates { authorities, own, shown_to });
        client.map_err(|source| ConnectorError::Egress { position: Box::new(position), source })
    }

    /// Reads what is named; `position` is where the source is.
    pub(crate) fn read(&self, roots: &FileRoots, position: &Position) -> Result<Pem, ConnectorError> {
        let authorities = match &self.authorities {
            None => Vec::new(),
            Some(Authorities::Text(text)) => text.clone().into_bytes(),
            Some(Authorities::File(path)) => read(path, roots)?,
        };
        if self.authorities.is_some() {
            holds(&authorities, "CERTIFICATE-----", "ca", position)?;
        }
        let own = match &self.client {
            None => None,
            Some(ClientCertificate::Texts { cert, key }) => {
                Some((cert.clone().into_bytes(), key.expose_secret().as_bytes().to_vec()))
            }
            Some(ClientCertificate::Files { cert, key }) => Some((read(cert, roots)?, read(key, roots)?)),
        };
        if let Some((cert, key)) = &own {
            holds(cert, "CERTIFICATE-----", "cert", position)?;
            holds(key, "PRIVATE KEY-----", "key", position)?;
        }
        Ok(Pem { authorities, own })
    }
}

/// What a source names, as PEM.
#[derive(Default)]
pub(crate) struct Pem {
    pub(crate) authorities: Vec<u8>,
    /// A certificate, and its key.
    pub(crate) own: Option<(Vec<u8>, Vec<u8>)>,
}

/// The authorities of this machine (so that a company's own works), for drivers that speak TLS themselves.
pub(crate) fn machine_authorities() -> Vec<u8> {
    let mut pem = Vec::new();
    for der in matome_egress::trusted_certificates() {
        pem.extend_from_slice(b"-----BEGIN CERTIFICATE-----\n");
        pem.extend_from_slice(BASE64_STANDARD.encode(der).as_bytes());
        pem.extend_from_slice(b"\n-----END CERTIFICATE-----\n");
    }
    pem
}

fn authorities(own: &mut Fields) -> Option<Authorities> {
    if own.has("ca") && own.has("ca_file") {
        own.raw("ca");
        own.raw("ca_file");
        own.fail("ca", Words::new("Give `ca` or `ca_file`, not both.", "`ca` か `ca_file` の一方だけにしてください。"));
        return None;
    }
    let (text, file) = (own.string("ca"), own.string("ca_file"));
    text.map(Authorities::Text).or(file.map(Authorities::File))
}

fn client(own: &mut Fields) -> Option<ClientCertificate> {
    let given: Vec<&str> = TlsOptions::CLIENT.into_iter().filter(|name| own.has(name)).collect();
    let [cert, key, cert_file, key_file] = TlsOptions::CLIENT.map(|name| own.string(name));
    let first = *given.first()?;
    match given.as_slice() {
        ["cert", "key"] => Some(ClientCertificate::Texts { cert: cert?, key: key?.into() }),
        ["cert_file", "key_file"] => Some(ClientCertificate::Files { cert: cert_file?, key: key_file? }),
        _ => {
            let words = Words::new(
                "A certificate goes with its key: `cert` and `key`, or `cert_file` and `key_file`.",
                "証明書と鍵は一緒に指定してください: `cert` と `key`、または `cert_file` と `key_file`。",
            );
            own.fail(first, words);
            None
        }
    }
}

fn read(path: &str, roots: &FileRoots) -> Result<Vec<u8>, ConnectorError> {
    let (file, failed) = roots.named(path)?;
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// What the libraries would say of a text without any would be of no help.
fn holds(pem: &[u8], begin: &str, name: &str, position: &Position) -> Result<(), ConnectorError> {
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
    Err(ConnectorError::Certificates { position: Box::new(position.clone()), problem })
}

//! TLS to Redis (`rediss://`): whose certificates are believed, and our own for servers that ask for one.

use std::path::{Path, PathBuf};

use matome_model::field_error::Words;
use matome_model::say;
use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates};

use super::BusError;

/// Files for TLS to Redis, in PEM form, read at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// The certificates of the authorities that are believed, instead of those of the machine.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, for a server that wants one; with its key or not at all.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
}

impl RedisTls {
    /// A client of the server; nothing is connected yet.
    pub(super) fn client(&self, info: ConnectionInfo) -> Result<Client, BusError> {
        let has_files = *self != Self::default();
        let open = |info| Client::open(info).map_err(|err| BusError::Address(err.to_string()));
        match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => Err(BusError::Tls(Words::new(
                "`#insecure` is not taken: a certificate that nobody checks protects from nobody. Name the authority of a \
                 private one in REDIS_TLS_CA_FILE",
                "`#insecure` は使えません。検証しない証明書は何も守りません。独自の認証局は REDIS_TLS_CA_FILE に指定してください",
            ))),
            ConnectionAddr::TcpTls { .. } if has_files => Client::build_with_tls(info, self.certificates()?)
                .map_err(|err| BusError::Tls(Words::quoted(err.to_string()))),
            ConnectionAddr::TcpTls { .. } => open(info),
            _ if has_files => Err(BusError::Tls(Words::new(
                "files for TLS are set, and an address begins with `redis://`, which is without TLS: write `rediss://`",
                "TLS のファイルが設定されていますが、`redis://` で始まるアドレスは TLS を使いません。`rediss://` と書いてください",
            ))),
            _ => open(info),
        }
    }

    fn certificates(&self) -> Result<TlsCertificates, BusError> {
        let root_cert = self.ca_file.as_deref().map(|file| read(file, "CERTIFICATE")).transpose()?;
        let client_tls = match (&self.cert_file, &self.key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(ClientTlsConfig {
                client_cert: read(certificate, "CERTIFICATE")?,
                client_key: read(key, "PRIVATE KEY")?,
            }),
            _ => {
                return Err(BusError::Tls(Words::new(
                    "REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE belong together: set both or none",
                    "REDIS_TLS_CERT_FILE と REDIS_TLS_KEY_FILE は対です。両方を設定するか、どちらも設定しないでください",
                )));
            }
        };
        Ok(TlsCertificates { client_tls, root_cert })
    }
}

/// The content of a file that has `what`: without any the library would believe nobody and say nothing.
fn read(file: &Path, what: &str) -> Result<Vec<u8>, BusError> {
    let name = file.display();
    let content = std::fs::read(file)
        .map_err(|err| BusError::Tls(say!("`{name}` cannot be read: {err}", "`{name}` を読めません: {err}")))?;
    let ends = format!("{what}-----");
    if content.windows(ends.len()).any(|part| part == ends.as_bytes()) {
        return Ok(content);
    }
    Err(BusError::Tls(say!("`{name}` has no {what} in PEM form", "`{name}` に PEM 形式の {what} がありません")))
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo as _;

    use super::*;

    fn refused(tls: &RedisTls, url: &str) -> String {
        let info = url.into_connection_info().expect("an address");
        tls.client(info).expect_err("it cannot be used").to_string()
    }

    #[test]
    fn what_would_leave_the_server_unverified_is_refused() {
        let some = |file: &str| Some(PathBuf::from(file));
        let tls = |ca_file, cert_file| RedisTls { ca_file, cert_file, key_file: None };
        for (tls, url, part) in [
            (RedisTls::default(), "rediss://h:1/#insecure", "nobody checks"),
            (tls(some("ca.crt"), None), "redis://h:1", "`rediss://`"),
            (tls(some("no/such/file"), None), "rediss://h:1", "cannot be read"),
            (tls(some("Cargo.toml"), None), "rediss://h:1", "has no CERTIFICATE"),
            (tls(None, some("our.crt")), "rediss://h:1", "belong together"),
        ] {
            let why = refused(&tls, url);
            assert!(why.contains(part), "{url}: {why}");
        }
    }
}

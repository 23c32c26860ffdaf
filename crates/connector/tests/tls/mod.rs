//! Servers that speak TLS with certificates made for tests: `one` and `two` have signed themselves, `ca` is an authority that has
//! signed `signed`, `expired` and `named`, `expired-ca` was one. All of them are for `localhost` and `127.0.0.1`, but `named`, which
//! is for `secure.test`.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use matome_connector::{Connector, ConnectorError, FileRoots, Registry};
use matome_egress::{HttpClient, Policy};
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

pub fn fixtures() -> PathBuf {
    std::path::absolute("../matome/tests/fixtures/tls").unwrap()
}

pub fn text(name: &str) -> String {
    std::fs::read_to_string(fixtures().join(name)).unwrap()
}

/// Speaks TLS with the certificate `name`; wants to see the certificate `client` if there is one.
pub fn acceptor(name: &str, client: Option<&str>) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(fixtures().join(format!("{name}.crt"))).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(fixtures().join(format!("{name}.key"))).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let config = match client {
        None => config.with_no_client_auth(),
        Some(name) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(fixtures().join(format!("{name}.crt"))).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            config.with_client_cert_verifier(verifier)
        }
    };
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()))
}

/// Serves with the certificate `name` on all addresses, at the port that comes back; wants to see the certificate `client` if
/// there is one.
pub async fn serve<F, Done>(name: &str, client: Option<&str>, serve: F) -> u16
where
    F: Fn(TlsStream<TcpStream>) -> Done + Clone + Send + Sync + 'static,
    Done: Future<Output = ()> + Send + 'static,
{
    let acceptor = acceptor(name, client);
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, serve) = (acceptor.clone(), serve.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream).await;
                }
            });
        }
    });
    port
}

/// Answers any request with this head and body, and ends the connection.
pub fn answer(head: &'static str, body: &'static str) -> impl Fn(TlsStream<TcpStream>) -> Answering + Clone {
    move |mut stream| {
        Box::pin(async move {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => asked.push(byte),
                    Err(_) => return,
                }
            }
            let answer =
                format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        })
    }
}

type Answering = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connector that may reach every server of this machine and read the certificates.
pub fn connector(source_type: SourceType, config: &str) -> Result<Box<dyn Connector>, ConnectorError> {
    let client = HttpClient::new(Policy::new(["127.0.0.0/8".parse().unwrap()]));
    Registry::new(FileRoots::open([fixtures()]).unwrap(), client, Clock::system()).open(source_type, config)
}

/// The error with its causes, in both languages.
pub fn told(error: &ConnectorError) -> String {
    let all = [error.words()].into_iter().chain(error.causes());
    all.map(|words| format!("{} | {}", words.english, words.japanese)).collect::<Vec<_>>().join("\n")
}

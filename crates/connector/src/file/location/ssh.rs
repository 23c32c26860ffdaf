//! A connection to an SSH server whose key is known beforehand, and the file service behind it.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matome_egress::Dialer;
use matome_model::field_error::Words;
use matome_model::say;
use russh::client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate, decode_secret_key};
use russh::{ChannelMsg, ChannelStream, SshId};
use secrecy::{ExposeSecret as _, SecretString};

use super::rsa_key::{RsaKey, Unsigned};
use super::web::at;
use crate::error::{ConnectorError, PlaceFault};

/// How often somebody who may be gone is asked whether they are there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What a server may send before it is read.
const WINDOW_BYTES: u32 = 2 << 20;
/// How often a server may ask one further question.
const QUESTION_LIMIT: usize = 5;

/// A server, and who asks it.
#[derive(Clone, Debug)]
pub struct SshServer {
    /// Its name or address, as it is dialled.
    pub host: String,
    /// Its port, 22 by default.
    pub port: u16,
    /// Who asks.
    pub user: String,
    /// `host_key`: the fingerprint of its key, `SHA256:...`.
    pub host_key: String,
    /// `password`.
    pub password: Option<SecretString>,
    /// `private_key`, with the `passphrase` that it is encrypted with.
    pub private_key: Option<(SecretString, Option<SecretString>)>,
}

/// A connection that its server has let in.
pub(super) struct Connection {
    handle: Handle<HostKey>,
    name: Arc<str>,
    patience: Duration,
}

/// Compares the key of a server with the one that is known.
struct HostKey {
    known: String,
    seen: Arc<Mutex<Option<String>>>,
}

impl client::Handler for HostKey {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let seen = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.fingerprint(HashAlg::Sha256),
            PublicKeyOrCertificate::Certificate(certificate) => certificate.public_key().fingerprint(HashAlg::Sha256),
        };
        let seen = seen.to_string();
        let is_known = seen == self.known;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(is_known)
    }
}

impl SshServer {
    /// Connects and signs on. `name`: what errors are told of; `patience`: how long each step may take.
    pub(super) async fn connect(
        &self,
        dialer: &Dialer,
        name: Arc<str>,
        patience: Duration,
    ) -> Result<Connection, ConnectorError> {
        let dialled = dialer.connect(&self.host, self.port, patience).await;
        let stream = dialled.map_err(|source| ConnectorError::Unreached { position: at(&name), source })?;
        let config = client::Config {
            client_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-matome_", env!("CARGO_PKG_VERSION")))),
            window_size: WINDOW_BYTES,
            keepalive_interval: Some(KEEPALIVE),
            ..client::Config::default()
        };
        let seen = Arc::default();
        let host_key = HostKey { known: self.host_key.clone(), seen: Arc::clone(&seen) };
        let greeted = tokio::time::timeout(patience, client::connect_stream(Arc::new(config), stream, host_key)).await;
        let handle = match greeted {
            Ok(Ok(handle)) => handle,
            Ok(Err(error)) => {
                let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
                return Err(match seen {
                    Some(seen) if seen != self.host_key => self.stranger(&name, &seen),
                    _ => fault(&name, &error),
                });
            }
            Err(_) => return Err(silent(&name, patience)),
        };
        let mut connection = Connection { handle, name, patience };
        match tokio::time::timeout(patience, self.sign_on(&mut connection)).await {
            Ok(signed) => signed.map(|()| connection),
            Err(_) => Err(silent(&connection.name, patience)),
        }
    }

    fn stranger(&self, name: &Arc<str>, seen: &str) -> ConnectorError {
        let known = &self.host_key;
        let problem = say!(
            "the server has the key `{seen}`, and `sftp.host_key` says `{known}`: somebody else may have answered. If the server has got a new key, set `sftp.host_key` to it",
            "サーバーの鍵は `{seen}` で、`sftp.host_key` の `{known}` と違います。別のサーバーかもしれません。鍵が新しくなったのなら `sftp.host_key` をその値にしてください"
        );
        ConnectorError::Place { position: at(name), fault: PlaceFault::Identity, problem }
    }

    async fn sign_on(&self, connection: &mut Connection) -> Result<(), ConnectorError> {
        let Connection { handle, name, .. } = connection;
        let failed = |error: russh::Error| fault(name, &error);
        if let Some((key, passphrase)) = &self.private_key {
            let passphrase = passphrase.as_ref().map(|text| text.expose_secret());
            let is_in = match private_key(key.expose_secret(), passphrase).map_err(|problem| refused(name, problem))? {
                UserKey::Rsa(key) => self.sign_on_with_rsa(handle, name, key).await?,
                UserKey::Other(key) => {
                    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
                    handle.authenticate_publickey(self.user.clone(), key).await.map_err(failed)?.success()
                }
            };
            if is_in {
                return Ok(());
            }
        }
        if let Some(password) = &self.password {
            let text = password.expose_secret().to_owned();
            let tried = handle.authenticate_password(self.user.clone(), text).await.map_err(failed)?;
            // Servers that ask through PAM take it as the answer to a question only.
            if tried.success()
                || !matches!(tried, AuthResult::Failure { partial_success: true, .. })
                    && self.answers(handle).await.map_err(failed)?
            {
                return Ok(());
            }
        }
        let user = &self.user;
        let problem = say!(
            "the server does not let `{user}` in; check the user in `path`, and `password` or `private_key` in `sftp`",
            "サーバーが `{user}` を受け付けません。`path` のユーザーと、`sftp` の `password` か `private_key` を確かめてください"
        );
        Err(ConnectorError::Place { position: at(name), fault: PlaceFault::Auth, problem })
    }

    async fn sign_on_with_rsa(
        &self,
        handle: &mut Handle<HostKey>,
        name: &Arc<str>,
        mut key: RsaKey,
    ) -> Result<bool, ConnectorError> {
        let hash = match handle.best_supported_rsa_hash().await.map_err(|error| fault(name, &error))? {
            Some(None) => {
                let problem = Words::new(
                    "the server takes RSA keys with SHA-1 only, which is not safe; use another key (`ssh-keygen -t ed25519`), or have the server brought up to date",
                    "サーバーは RSA の鍵を安全でない SHA-1 でしか受け付けません。別の鍵 (`ssh-keygen -t ed25519`) を使うか、サーバーを更新してください",
                );
                return Err(refused(name, problem));
            }
            Some(hash) => hash,
            // It does not say; both are about as old.
            None => Some(HashAlg::Sha256),
        };
        let Some(public) = key.public() else { return Ok(false) };
        match handle.authenticate_publickey_with(self.user.clone(), public, hash, &mut key).await {
            Ok(tried) => Ok(tried.success()),
            Err(Unsigned::Lost) => Err(fault(name, &russh::Error::Disconnect)),
            Err(Unsigned::Key) => Err(refused(
                name,
                Words::new("`sftp.private_key` can not sign", "`sftp.private_key` では署名できません"),
            )),
        }
    }

    /// Answers the one question that a server asks, for the password.
    async fn answers(&self, handle: &mut Handle<HostKey>) -> Result<bool, russh::Error> {
        let Some(password) = &self.password else { return Ok(false) };
        let mut said = handle.authenticate_keyboard_interactive_start(self.user.clone(), None::<String>).await?;
        for _ in 0..QUESTION_LIMIT {
            let prompts = match said {
                KeyboardInteractiveAuthResponse::Success => return Ok(true),
                KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts,
            };
            // More questions than one are not for a password alone.
            let answers = match prompts.len() {
                0 => Vec::new(),
                1 => vec![password.expose_secret().to_owned()],
                _ => return Ok(false),
            };
            said = handle.authenticate_keyboard_interactive_respond(answers).await?;
        }
        Ok(false)
    }
}

impl Connection {
    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.handle.is_closed()
    }

    /// The bytes of its file service.
    pub(super) async fn files(&self) -> Result<ChannelStream<client::Msg>, ConnectorError> {
        match tokio::time::timeout(self.patience, self.begin()).await {
            Ok(begun) => begun,
            Err(_) => Err(silent(&self.name, self.patience)),
        }
    }

    async fn begin(&self) -> Result<ChannelStream<client::Msg>, ConnectorError> {
        let failed = |error: russh::Error| fault(&self.name, &error);
        let mut channel = self.handle.channel_open_session().await.map_err(failed)?;
        channel.request_subsystem(true, "sftp").await.map_err(failed)?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => return Ok(channel.into_stream()),
                Some(ChannelMsg::Failure) => {
                    let problem = Words::new(
                        "the server has no file service (the subsystem `sftp`) for this user",
                        "このユーザーが使えるファイルサービス (サブシステム `sftp`) がサーバーにありません",
                    );
                    return Err(ConnectorError::Place { position: at(&self.name), fault: PlaceFault::Answer, problem });
                }
                Some(_) => {}
                None => return Err(failed(russh::Error::HUP)),
            }
        }
    }
}

/// A key that a user signs on with.
pub(super) enum UserKey {
    Rsa(RsaKey),
    Other(PrivateKey),
}

/// The key of a text.
///
/// # Errors
/// Why it can not be used.
pub(super) fn private_key(text: &str, passphrase: Option<&str>) -> Result<UserKey, Words> {
    if let Some(key) = RsaKey::of_pem(text) {
        return key.map(UserKey::Rsa);
    }
    let key = decode_secret_key(text, passphrase).map_err(|error| {
        say!(
            "It is no private key that can be read, or `passphrase` is missing or wrong: {error}.",
            "読める秘密鍵ではないか、`passphrase` がないか違います: {error}"
        )
    })?;
    match RsaKey::of(&key) {
        Some(key) => key.map(UserKey::Rsa),
        None => Ok(UserKey::Other(key)),
    }
}

/// The key of the user is of no use.
fn refused(name: &Arc<str>, problem: Words) -> ConnectorError {
    ConnectorError::Place { position: at(name), fault: PlaceFault::Auth, problem }
}

/// Nothing came for too long.
pub(super) fn silent(name: &Arc<str>, patience: Duration) -> ConnectorError {
    let seconds = patience.as_secs_f64();
    let problem = say!(
        "the server was connected to, but sent nothing within {seconds} s",
        "サーバーに接続しましたが、{seconds} 秒以内に何も届きませんでした"
    );
    ConnectorError::Place { position: at(name), fault: PlaceFault::Lost, problem }
}

/// What an error of the protocol means.
fn fault(name: &Arc<str>, error: &russh::Error) -> ConnectorError {
    let (fault, problem) = match error {
        russh::Error::NoCommonAlgo { theirs, .. } => {
            let theirs = theirs.join(", ");
            let problem = say!(
                "the server speaks nothing that is safe: it knows {theirs}. Of keys of servers, Ed25519 and ECDSA are known here, RSA is not",
                "サーバーと共通の安全な方式がありません。サーバーの方式: {theirs}。サーバーの鍵は Ed25519 と ECDSA に対応し、RSA には対応していません"
            );
            (PlaceFault::Answer, problem)
        }
        russh::Error::Version => {
            (PlaceFault::Answer, Words::new("what answers is no SSH server", "応答したのは SSH サーバーではありません"))
        }
        russh::Error::Keys(error) => (
            PlaceFault::Auth,
            say!("`sftp.private_key` can not be used: {error}", "`sftp.private_key` を使えません: {error}"),
        ),
        error => (PlaceFault::Lost, say!("the connection broke: {error}", "接続が切れました: {error}")),
    };
    ConnectorError::Place { position: at(name), fault, problem }
}

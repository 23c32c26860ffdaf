//! Files of an SSH server.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use globset::GlobMatcher;
use matome_egress::header::HeaderMap;
use matome_model::field_error::Words;
use matome_model::say;
use russh::keys::PublicKey;
use russh_sftp::client::error::Error;
use russh_sftp::client::fs::{File, Metadata};
use russh_sftp::client::{Config, RawSftpSession, SftpSession};
use russh_sftp::protocol::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::Mutex;
use url::Url;

use super::place::Reach;
use super::ssh::{Connection, SshServer, private_key, silent};
use super::transfer::{Bring, Opened, Pieces, Transfer, Version};
use super::web::at;
use super::{Content, Entry, Location, Stamp};
use crate::config::Fields;
use crate::error::{ConnectorError, PlaceFault};
use crate::file::roots::{self, DEPTH_LIMIT, FILE_LIMIT};
use crate::secrets::KEPT_SECRET;

/// Names that are looked at for one pattern.
const LOOKED_LIMIT: usize = 1_000_000;
/// How much is asked for at once, and how many such questions are under way: 1 MiB in all.
const PACKET_BYTES: u32 = 64 << 10;
const CONCURRENT_READS: usize = 16;

/// Kinds of names.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// `sftp://user@host:port/path`.
#[derive(Clone, Debug)]
pub struct SftpPlace {
    /// The server, and who asks it.
    pub server: SshServer,
    /// The path of a file or a directory, or a pattern of files: from the root, or from the home of the user, which is empty itself.
    pub path: String,
}

impl SftpPlace {
    pub(super) fn parse(fields: &mut Fields, path: &str) -> Option<Self> {
        let named = match named(path) {
            Ok(named) => Some(named),
            Err(words) => {
                fields.fail("path", words);
                None
            }
        };
        if !fields.has("sftp") {
            fields.raw("sftp");
            fields.require("sftp");
            return None;
        }
        let mut own = fields.nested("sftp")?;
        let host_key = own.required_string("host_key").and_then(|text| match fingerprint(&text) {
            Ok(fingerprint) => Some(fingerprint),
            Err(words) => {
                own.fail("host_key", words);
                None
            }
        });
        let is_nobody = !own.has("password") && !own.has("private_key");
        let [password, private_key, passphrase] =
            ["password", "private_key", "passphrase"].map(|name| own.string(name));
        if is_nobody {
            let words =
                Words::new("Give a `password` or a `private_key`.", "`password` か `private_key` を指定してください。");
            own.fail_here(words);
        }
        if let Some(words) = private_key.as_deref().and_then(|key| unusable(key, passphrase.as_deref())) {
            own.fail("private_key", words);
        }
        fields.absorb(own);
        let (host, port, user, path) = named?;
        let private_key = private_key.map(|key| (key.into(), passphrase.map(Into::into)));
        let password = password.map(Into::into);
        let server = SshServer { host, port, user, host_key: host_key?, password, private_key };
        Some(Self { server, path })
    }

    pub(super) fn open(&self, reach: Reach) -> Arc<dyn Location> {
        let host =
            if self.server.host.contains(':') { format!("[{}]", self.server.host) } else { self.server.host.clone() };
        let files = Files {
            place: self.clone(),
            reach: Arc::new(reach),
            base: format!("sftp://{host}"),
            session: Mutex::default(),
        };
        Arc::new(Sftp(Arc::new(files)))
    }
}

/// Host, port, user and path of an address.
fn named(path: &str) -> Result<(String, u16, String, String), Words> {
    let example = || {
        Words::new(
            "Write `sftp://USER@HOST/dir/*.csv` or `sftp://USER@HOST/dir`; the path is from the root, or from the home of the user where it begins with `/~/`.",
            "`sftp://USER@HOST/dir/*.csv` や `sftp://USER@HOST/dir` のように書いてください。パスはルートから、`/~/` で始まればユーザーのホームからです。",
        )
    };
    let rest = path.split_once("://").map_or(path, |(_, rest)| rest);
    let (authority, path) = rest.split_once('/').ok_or_else(example)?;
    let url = Url::parse(&format!("sftp://{authority}/")).map_err(|_| example())?;
    if url.password().is_some() {
        return Err(Words::new(
            "Leave the password out and give it as `sftp.password`: there it is encrypted and never shown.",
            "パスワードは外して `sftp.password` に書いてください。そこでは暗号化され、表示されません。",
        ));
    }
    let user = percent_encoding::percent_decode_str(url.username()).decode_utf8_lossy().into_owned();
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let path = match path {
        "~" => String::new(),
        path => path.strip_prefix("~/").map_or_else(|| format!("/{path}"), str::to_owned),
    };
    if user.is_empty() || host.is_empty() {
        return Err(example());
    }
    if path.split('/').any(|part| part == "..") || path.contains('\0') {
        return Err(Words::new("The path may contain neither `..` nor NUL.", "パスに `..` と NUL 文字は使えません。"));
    }
    roots::pattern(&path).map_err(|error| roots::no_pattern(&error))?;
    Ok((host, url.port().unwrap_or(22), user, path))
}

/// The fingerprint of a key: as it is given, or of the key that is.
fn fingerprint(text: &str) -> Result<String, Words> {
    let text = text.trim();
    if text.strip_prefix("SHA256:").is_some_and(|hash| hash.len() == 43) {
        return Ok(text.to_owned());
    }
    match PublicKey::from_openssh(text) {
        Ok(key) => Ok(key.fingerprint(russh::keys::HashAlg::Sha256).to_string()),
        Err(_) => Err(Words::new(
            "Give the fingerprint of the server's key, `SHA256:...`, or the key itself, `ssh-ed25519 AAAA...`. `ssh-keyscan HOST | ssh-keygen -lf -` shows what the server says; have somebody who knows confirm it.",
            "サーバーの鍵のフィンガープリント `SHA256:...`、または鍵そのもの `ssh-ed25519 AAAA...` を指定してください。`ssh-keyscan HOST | ssh-keygen -lf -` でサーバーの鍵が分かります。正しいことを管理者に確かめてください。",
        )),
    }
}

/// Why a private key can not be used.
fn unusable(key: &str, passphrase: Option<&str>) -> Option<Words> {
    if key == KEPT_SECRET || passphrase == Some(KEPT_SECRET) {
        return None;
    }
    private_key(key, passphrase).err()
}

/// The files of one read.
struct Sftp(Arc<Files>);

struct Files {
    place: SftpPlace,
    reach: Arc<Reach>,
    /// What stands before paths.
    base: String,
    /// The connection that is in use, if it still is one.
    session: Mutex<Option<Arc<Session>>>,
}

struct Session {
    connection: Connection,
    sftp: SftpSession,
}

impl Files {
    fn name(&self, path: &str) -> Arc<str> {
        let slash = if path.starts_with('/') { "" } else { "/~/" };
        format!("{}{slash}{path}", self.base).into()
    }

    fn config(&self) -> Config {
        Config {
            max_packet_len: PACKET_BYTES,
            max_concurrent_reads: CONCURRENT_READS,
            request_timeout_secs: self.reach.timeout.as_secs().max(1),
            ..Config::default()
        }
    }

    /// The connection, made anew where there is none any more.
    async fn session(&self) -> Result<Arc<Session>, ConnectorError> {
        let mut kept = self.session.lock().await;
        if let Some(session) = kept.as_ref().filter(|session| !session.connection.is_over()) {
            return Ok(session.clone());
        }
        *kept = None;
        let name = self.name(&self.place.path);
        let (dialer, patience) = (self.reach.means.client.dialer(), self.reach.timeout);
        let connection = self.place.server.connect(&dialer, name.clone(), patience).await?;
        let stream = connection.files().await?;
        let sftp = SftpSession::new_with_config(stream, self.config()).await.map_err(|error| fault(&name, &error))?;
        let session = Arc::new(Session { connection, sftp });
        *kept = Some(session.clone());
        Ok(session)
    }

    /// What is there under a name that is no pattern.
    async fn looked_up(&self, path: &str) -> Result<Entry, ConnectorError> {
        let name = self.name(path);
        let asked = if path.is_empty() { "." } else { path };
        let session = self.session().await?;
        let metadata = session.sftp.metadata(asked).await.map_err(|error| fault(&name, &error))?;
        match kind(&metadata) {
            Some(DIRECTORY) => Err(ConnectorError::Directory { path: name.to_string() }),
            _ => Ok(Entry { name, place: 0, path: PathBuf::from(path), stamp: Some(stamp_of(&metadata)) }),
        }
    }

    async fn matching(&self, pattern: &str, matcher: &GlobMatcher) -> Result<Vec<Entry>, ConnectorError> {
        let session = self.session().await?;
        // On a channel of its own, since a list that is asked for piece by piece can be given up.
        let lists = RawSftpSession::new_with_config(session.connection.files().await?, self.config());
        let name = self.name(pattern);
        lists.init().await.map_err(|error| fault(&name, &error))?;
        let parts: Vec<&str> = pattern.split('/').collect();
        let fixed = parts.iter().take_while(|part| !part.contains(['*', '?', '[', '{', '\\'])).count();
        let is_deep = pattern.contains("**") || parts.iter().any(|part| roots::has_half_braces(part));
        let depth = if is_deep { DEPTH_LIMIT } else { parts.len() - fixed };
        let shows_hidden = parts.last().is_some_and(|part| part.starts_with('.'));
        let mut waiting = vec![(parts[..fixed].join("/"), 1)];
        let (mut found, mut looked) = (Vec::new(), 0);
        while let Some((folder, level)) = waiting.pop() {
            let asked = match folder.as_str() {
                "" if pattern.starts_with('/') => "/",
                "" => ".",
                folder => folder,
            };
            for (file, metadata) in self.list(&lists, asked).await? {
                looked += 1;
                if file == "." || file == ".." || file.contains('/') || (!shows_hidden && file.starts_with('.')) {
                    continue;
                }
                let path =
                    if folder.is_empty() && !pattern.starts_with('/') { file } else { format!("{folder}/{file}") };
                // Linked directories are not entered, so that a link to a parent is no endless tree.
                if kind(&metadata) == Some(DIRECTORY) {
                    if level < depth {
                        waiting.push((path, level + 1));
                    }
                } else if matcher.is_match(&path) {
                    // A link says nothing of where it leads.
                    let stamp = (kind(&metadata) != Some(LINK)).then(|| stamp_of(&metadata));
                    found.push(Entry { name: self.name(&path), place: 0, path: PathBuf::from(path), stamp });
                }
            }
            if found.len() > FILE_LIMIT {
                return Err(ConnectorError::TooManyFiles { path: name.to_string(), limit: FILE_LIMIT });
            }
            if looked > LOOKED_LIMIT {
                let problem = say!(
                    "there are more than {LOOKED_LIMIT} names to look at; make the part of `path` before the first `*` longer",
                    "調べる名前が {LOOKED_LIMIT} を超えています。`path` の最初の `*` より前を長くしてください"
                );
                return Err(ConnectorError::Place { position: at(&name), fault: PlaceFault::TooLong, problem });
            }
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    async fn list(&self, lists: &RawSftpSession, folder: &str) -> Result<Vec<(String, Metadata)>, ConnectorError> {
        let name = self.name(folder);
        let handle = match lists.opendir(folder).await {
            Ok(handle) => handle.handle,
            // Nothing in it matches.
            Err(Error::Status(status)) if status.status_code == StatusCode::NoSuchFile => return Ok(Vec::new()),
            Err(error) => return Err(fault(&name, &error)),
        };
        let mut found = Vec::new();
        loop {
            match lists.readdir(handle.as_str()).await {
                Ok(some) => found.extend(some.files.into_iter().map(|file| (file.filename, file.attrs))),
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return Err(fault(&name, &error)),
            }
            // Whoever asked sees that it is too much.
            if found.len() > LOOKED_LIMIT {
                break;
            }
        }
        lists.close(handle).await.map_err(|error| fault(&name, &error))?;
        Ok(found)
    }
}

impl Location for Sftp {
    fn find(&self, path: &str) -> Result<Vec<Entry>, ConnectorError> {
        let files = &self.0;
        match roots::pattern(path) {
            // No file has a name that ends with a slash.
            Ok(Some(matcher)) if !path.ends_with('/') => files.reach.wait(files.matching(path, &matcher)),
            Ok(_) | Err(_) => Ok(vec![files.reach.wait(files.looked_up(path))?]),
        }
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn Content>, ConnectorError> {
        let path = entry.path.to_string_lossy().into_owned();
        let is_broken = Arc::default();
        let bring = Remote { files: self.0.clone(), name: entry.name.clone(), path, file: None, is_broken };
        Ok(Box::new(Transfer::open(entry.name.clone(), self.0.reach.clone(), bring)?))
    }

    fn has_files(&self) -> bool {
        true
    }
}

/// One file there.
struct Remote {
    files: Arc<Files>,
    name: Arc<str>,
    path: String,
    /// The file that is read.
    file: Option<Arc<Mutex<File>>>,
    /// Whether its connection broke. One on which nothing comes any more does not know it.
    is_broken: Arc<AtomicBool>,
}

impl Remote {
    async fn begin(&mut self, from: u64, of: Option<&Version>) -> Result<Opened, ConnectorError> {
        if self.is_broken.load(Ordering::Relaxed) {
            self.file = None;
            *self.files.session.lock().await = None;
        }
        let session = self.files.session().await?;
        let failed = |error| fault(&self.name, &error);
        // Looked at before it is opened, because opening a pipe would wait for its writer.
        let metadata = session.sftp.metadata(self.path.as_str()).await.map_err(failed)?;
        if kind(&metadata).is_some_and(|kind| kind != REGULAR) {
            return Err(ConnectorError::NotRegular { path: self.name.to_string() });
        }
        let mut file = session.sftp.open(self.path.as_str()).await.map_err(failed)?;
        let stamp = stamp_of(&file.metadata().await.map_err(failed)?);
        if let Some(of) = of {
            self.same(&of.stamp, &stamp)?;
        }
        if from > 0 {
            file.seek(std::io::SeekFrom::Start(from)).await.map_err(|error| fault(&self.name, &error.into()))?;
        }
        let file = Arc::new(Mutex::new(file));
        self.file = Some(file.clone());
        let patience = self.files.reach.timeout;
        let (name, is_broken) = (self.name.clone(), self.is_broken.clone());
        let pieces = Box::new(Body { _session: session, name, file, patience, is_broken });
        let version = Version { size: Some(stamp.size), stamp, conditions: Some(HeaderMap::new()), validators: None };
        Ok(Opened { version, pieces })
    }

    /// A file may grow.
    fn same(&self, before: &Stamp, now: &Stamp) -> Result<(), ConnectorError> {
        let change = if now.size < before.size {
            ("it became shorter while it was read", "読んでいる間に短くなりました")
        } else if now.size == before.size && now.modified_ns != before.modified_ns {
            ("it was written anew while it was read", "読んでいる間に書き直されました")
        } else {
            return Ok(());
        };
        Err(ConnectorError::Changed { document: self.name.to_string(), records: 0, change, is_stale: false })
    }

    async fn look_again(&self, read: &Version) -> Result<Stamp, ConnectorError> {
        let Some(file) = &self.file else { return Ok(read.stamp.clone()) };
        if let Ok(metadata) = file.lock().await.metadata().await {
            return Ok(stamp_of(&metadata));
        }
        // All of it has come, and the connection may have gone since.
        *self.files.session.lock().await = None;
        let session = self.files.session().await?;
        let metadata = session.sftp.metadata(self.path.as_str()).await.map_err(|error| fault(&self.name, &error))?;
        Ok(stamp_of(&metadata))
    }
}

impl Bring for Remote {
    fn open<'a>(&'a mut self, from: u64, of: Option<&'a Version>) -> BoxFuture<'a, Result<Opened, ConnectorError>> {
        Box::pin(async move {
            let begun = self.begin(from, of).await;
            self.is_broken.store(begun.is_err(), Ordering::Relaxed);
            begun
        })
    }

    fn look<'a>(&'a mut self, read: &'a Version) -> BoxFuture<'a, Result<Stamp, ConnectorError>> {
        Box::pin(self.look_again(read))
    }
}

/// What comes of a file.
struct Body {
    /// Lives as long as it is read.
    _session: Arc<Session>,
    name: Arc<str>,
    file: Arc<Mutex<File>>,
    patience: Duration,
    is_broken: Arc<AtomicBool>,
}

impl Body {
    async fn read(&mut self) -> Result<Option<Vec<u8>>, ConnectorError> {
        let mut piece = vec![0; PACKET_BYTES as usize];
        let mut file = self.file.lock().await;
        let read = match tokio::time::timeout(self.patience, file.read(&mut piece)).await {
            Ok(read) => read.map_err(|error| fault(&self.name, &error.into()))?,
            Err(_) => return Err(silent(&self.name, self.patience)),
        };
        piece.truncate(read);
        Ok((read > 0).then_some(piece))
    }
}

impl Pieces for Body {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<u8>>, ConnectorError>> {
        Box::pin(async move {
            let read = self.read().await;
            self.is_broken.store(read.is_err(), Ordering::Relaxed);
            read
        })
    }
}

/// What a name stands for, as POSIX has it; nothing where the server does not say.
fn kind(metadata: &Metadata) -> Option<u32> {
    metadata.permissions.map(|mode| mode & 0o170_000).filter(|kind| *kind != 0)
}

/// The protocol tells whole seconds, and no inode.
fn stamp_of(metadata: &Metadata) -> Stamp {
    let modified_ns = i64::from(metadata.mtime.unwrap_or_default()) * 1_000_000_000;
    Stamp { size: metadata.size.unwrap_or_default(), modified_ns, inode: 0 }
}

/// What an error of the protocol means.
fn fault(name: &Arc<str>, error: &Error) -> ConnectorError {
    let (fault, problem) = match error {
        Error::Status(status) => match status.status_code {
            StatusCode::NoSuchFile => (
                PlaceFault::Missing,
                Words::new("there is no such file; check `path`", "ファイルがありません。`path` を確かめてください"),
            ),
            StatusCode::PermissionDenied => {
                (PlaceFault::Auth, Words::new("the user may not read it", "このユーザーには読む権限がありません"))
            }
            StatusCode::NoConnection | StatusCode::ConnectionLost => {
                (PlaceFault::Lost, Words::new("the connection broke", "接続が切れました"))
            }
            code => {
                let said = &status.error_message;
                (PlaceFault::Answer, say!("the server says `{said}` ({code})", "サーバーのエラー: `{said}` ({code})"))
            }
        },
        Error::Limited(error) => (PlaceFault::Answer, Words::quoted(error.clone())),
        Error::Timeout | Error::IO(_) | Error::UnexpectedPacket | Error::UnexpectedBehavior(_) => {
            (PlaceFault::Lost, say!("the connection broke: {error}", "接続が切れました: {error}"))
        }
    };
    ConnectorError::Place { position: at(name), fault, problem }
}

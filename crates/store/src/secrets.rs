//! Secret leaves of configs: encrypted here, `{"$secret": true}` in the config itself.
//!
//! XChaCha20-Poly1305 with a random nonce; kind, object and path are authenticated with the value, so that a
//! ciphertext moved to another row does not open. The key is outside the database.

mod replace;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use data_encoding::HEXLOWER_PERMISSIVE;
use matome_model::task::LaneKind;
use rand::Rng as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::db::Conn;
use crate::error::{Result, StoreError};

pub use replace::{Exchange, replace};

/// What stands in a config where a secret is.
pub const PLACEHOLDER: &str = "{\"$secret\":true}";

const NONCE_BYTES: usize = 24;

const SAVE: &str = "insert into secrets (kind, object_id, path, key_id, sealed) values ($1, $2, $3, $4, $5)
on conflict (kind, object_id, path) do update set key_id = excluded.key_id, sealed = excluded.sealed";
const OF_OBJECT: &str = "select path, key_id, sealed from secrets where kind = $1 and object_id = $2 order by path";
const COUNT_OF_OTHER_KEYS: &str = "select count(*) as n from secrets where key_id <> $1";
const FORGET: &str = "delete from secrets where kind = $1 and object_id = $2 and path = $3";

/// Encrypts and decrypts secrets. Cheap to clone; never shows its key.
#[derive(Clone)]
pub struct Vault(Arc<Key>);

struct Key {
    /// First 16 hex digits of the key's SHA-256.
    id: String,
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({})", self.0.id)
    }
}

impl Vault {
    /// A vault with this key.
    pub fn from_key(key: [u8; 32]) -> Self {
        let id = Sha256::digest(key).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self(Arc::new(Key { id, cipher: XChaCha20Poly1305::new(&key.into()) }))
    }

    /// Reads the key file (64 hex digits), as `MASTER_KEY_FILE` names it.
    ///
    /// # Errors
    /// When it cannot be read or holds no key.
    pub fn from_file(path: &Path) -> Result<Self> {
        let failed = |source| StoreError::MasterKey { path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(failed)?;
        let key = parse_key(text.trim()).ok_or_else(|| {
            failed(std::io::Error::new(std::io::ErrorKind::InvalidData, "it does not hold 64 hex digits"))
        })?;
        Ok(Self::from_key(key))
    }

    /// Reads the key file, or makes a new one (mode 0600) where there is none.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn open_or_create(path: &Path) -> Result<Self> {
        match fs::exists(path) {
            Ok(true) => return Self::from_file(path),
            Ok(false) => {}
            Err(source) => return Err(key_file_error(path, "looking for the master key failed", source)),
        }
        let mut key = [0_u8; 32];
        rand::rng().fill_bytes(&mut key);
        write_key(path, &key).map_err(|source| key_file_error(path, "writing the master key failed", source))?;
        Self::from_file(path)
    }

    fn seal(&self, about: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0_u8; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: plain, aad: about.as_bytes() };
        let sealed = self
            .0
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .expect("what is sealed is far shorter than the cipher's limit");
        [nonce.as_slice(), &sealed].concat()
    }

    /// None: it was changed, or sealed with another key or about something else.
    fn open(&self, about: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        self.0.cipher.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: about.as_bytes() }).ok()
    }

    fn open_secret(&self, about: &str, path: &str, key_id: &str, sealed: &[u8]) -> Result<SecretString> {
        let failed = |what: &str| StoreError::Secret { path: path.to_owned(), what: what.to_owned() };
        if key_id != self.0.id {
            let what = format!("it was encrypted with key `{key_id}`, the master key is `{}`", self.0.id);
            return Err(failed(&what));
        }
        let plain =
            self.open(about, sealed).ok_or_else(|| failed("its ciphertext was changed or belongs elsewhere"))?;
        let plain = String::from_utf8(plain).map_err(|_| failed("it is no text"))?;
        Ok(SecretString::from(plain))
    }

    /// Encrypts what leaves for a place where others may read and write, to be opened under the same name by whoever has
    /// the same key.
    pub fn seal_for_away(&self, name: &str, plain: &[u8]) -> Vec<u8> {
        self.seal(&away(name), plain)
    }

    /// What [`Vault::seal_for_away`] sealed under this name; none for anything else.
    pub fn open_from_away(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        self.open(&away(name), sealed)
    }
}

/// Never what [`about`] gives: a name that is no kind.
fn away(name: &str) -> String {
    format!("away\n{name}")
}

fn about(kind: LaneKind, object_id: i64, path: &str) -> String {
    format!("{kind}\n{object_id}\n{path}")
}

fn parse_key(text: &str) -> Option<[u8; 32]> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// Writes beside the final name first, so that a half-written key is never found under it.
fn write_key(path: &Path, key: &[u8; 32]) -> std::io::Result<()> {
    let beside = path.with_extension("key.new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn key_file_error(path: &Path, what: &str, source: std::io::Error) -> StoreError {
    StoreError::DataDir { path: path.to_owned(), what: what.to_owned(), source }
}

/// Stores a secret of an object. `path` is the JSON pointer of its leaf in the config.
///
/// # Errors
/// When the database is gone.
pub async fn save(
    conn: &mut Conn<'_>,
    vault: &Vault,
    kind: LaneKind,
    object_id: i64,
    path: &str,
    plain: &SecretString,
) -> Result<()> {
    let sealed = vault.seal(&about(kind, object_id, path), plain.expose_secret().as_bytes());
    let args =
        [kind.as_str().into(), object_id.into(), path.into(), vault.0.id.as_str().into(), sealed.as_slice().into()];
    conn.execute(SAVE, &args).await.map(drop)
}

/// JSON pointers of the secrets that are stored for an object.
///
/// # Errors
/// When the database is gone.
pub async fn paths(conn: &mut Conn<'_>, kind: LaneKind, object_id: i64) -> Result<Vec<String>> {
    let rows = conn.fetch_all(OF_OBJECT, &[kind.as_str().into(), object_id.into()]).await?;
    rows.iter().map(|row| row.text("path")).collect()
}

/// How many secrets of the database were not encrypted with the key of `vault`; with `None`, how many there are.
///
/// # Errors
/// When the database is gone.
pub async fn count_of_other_keys(conn: &mut Conn<'_>, vault: Option<&Vault>) -> Result<i64> {
    let own = vault.map_or("", |vault| vault.0.id.as_str());
    conn.fetch_one(COUNT_OF_OTHER_KEYS, &[own.into()]).await?.int("n")
}

/// Forgets the secrets of an object whose paths are not in `keep`.
///
/// # Errors
/// When the database is gone.
pub async fn forget_others(conn: &mut Conn<'_>, kind: LaneKind, object_id: i64, keep: &[String]) -> Result<()> {
    for path in paths(conn, kind, object_id).await? {
        if !keep.contains(&path) {
            conn.execute(FORGET, &[kind.as_str().into(), object_id.into(), (&path).into()]).await?;
        }
    }
    Ok(())
}

/// The config with its secrets put in, for the worker that needs them. Never for an answer, never stored.
///
/// # Errors
/// [`StoreError::Secret`] when one cannot be decrypted; a secret whose leaf is gone is left out.
pub async fn reveal(
    conn: &mut Conn<'_>,
    vault: &Vault,
    kind: LaneKind,
    object_id: i64,
    config: &RawValue,
) -> Result<Box<RawValue>> {
    let mut revealed = config.to_owned();
    for row in conn.fetch_all(OF_OBJECT, &[kind.as_str().into(), object_id.into()]).await? {
        let path = row.text("path")?;
        let plain =
            vault.open_secret(&about(kind, object_id, &path), &path, &row.text("key_id")?, &row.bytes("sealed")?)?;
        let text = serde_json::to_string(plain.expose_secret()).expect("text is JSON");
        if let Some(filled) = with_leaf(&revealed, &path, &text) {
            revealed = filled;
        }
    }
    Ok(revealed)
}

/// The value at a JSON pointer, as it is written.
pub fn leaf<'a>(config: &'a RawValue, pointer: &str) -> Option<&'a RawValue> {
    let mut at = config;
    for key in keys(pointer) {
        at = members(at)?.into_iter().rfind(|(name, _)| *name == key)?.1;
    }
    Some(at)
}

/// Whether a leaf is the placeholder that stands for a stored secret.
pub fn is_placeholder(leaf: &RawValue) -> bool {
    members(leaf).is_some_and(
        |members| matches!(members.as_slice(), [(key, value)] if key == "$secret" && value.get() == "true"),
    )
}

/// `config` with the JSON text `value` at a JSON pointer, all else as it is written; none when nothing is there.
pub fn with_leaf(config: &RawValue, pointer: &str, value: &str) -> Option<Box<RawValue>> {
    let keys = keys(pointer);
    let text = replaced(config, &keys, value)?;
    RawValue::from_string(text).ok()
}

fn replaced(at: &RawValue, keys: &[String], value: &str) -> Option<String> {
    let Some((key, rest)) = keys.split_first() else { return Some(value.to_owned()) };
    let members = members(at)?;
    let position = members.iter().rposition(|(name, _)| name == key)?;
    let mut parts = Vec::with_capacity(members.len());
    for (n, (name, member)) in members.iter().enumerate() {
        let text = if n == position { replaced(member, rest, value)? } else { member.get().to_owned() };
        parts.push(format!("{}:{text}", serde_json::to_string(name).expect("text is JSON")));
    }
    Some(format!("{{{}}}", parts.join(",")))
}

fn keys(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~")).collect()
}

/// Members of an object in their order, values as they are written.
fn members(object: &RawValue) -> Option<Vec<(String, &RawValue)>> {
    struct Members<'a>(Vec<(String, &'a RawValue)>);
    impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Vec<(String, &'de RawValue)>;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut members = Vec::new();
                    while let Some(member) = map.next_entry()? {
                        members.push(member);
                    }
                    Ok(members)
                }
            }
            deserializer.deserialize_map(Visitor).map(Members)
        }
    }
    serde_json::from_str::<Members<'_>>(object.get()).ok().map(|members| members.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_sealed_secret_opens_only_where_it_belongs() {
        let vault = Vault::from_key([7; 32]);
        let sealed = vault.seal("source\n1\n/auth/token", b"s3cret");
        let open = |vault: &Vault, about, sealed: &[u8]| vault.open_secret(about, "/auth/token", &vault.0.id, sealed);
        let plain = open(&vault, "source\n1\n/auth/token", &sealed).unwrap();
        assert_eq!(plain.expose_secret(), "s3cret");
        assert!(open(&vault, "source\n2\n/auth/token", &sealed).is_err());
        assert!(open(&Vault::from_key([8; 32]), "source\n1\n/auth/token", &sealed).is_err());
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(open(&vault, "source\n1\n/auth/token", &changed).is_err());
        assert!(!sealed.windows(6).any(|window| window == b"s3cret"));
    }

    #[test]
    fn what_comes_back_from_away_is_what_was_sealed_under_that_name_or_nothing() {
        let vault = Vault::from_key([7; 32]);
        let sealed = vault.seal_for_away("answer:1", b"[1]");
        assert_eq!(vault.open_from_away("answer:1", &sealed).as_deref(), Some(&b"[1]"[..]));
        assert_eq!(vault.open_from_away("answer:2", &sealed), None);
        assert_eq!(vault.open_from_away("answer:1", b"[1]"), None);
        let secret = vault.seal(&about(LaneKind::Source, 1, "/token"), b"s3cret");
        assert_eq!(vault.open_from_away("source\n1\n/token", &secret), None);
    }

    #[test]
    fn a_leaf_is_replaced_and_all_else_stays_as_written() {
        let config = raw(r#"{"n":1e400,"auth":{"type":"bearer","token":"x"},"deep":[1.50]}"#);
        let hidden = with_leaf(&config, "/auth/token", PLACEHOLDER).unwrap();
        assert_eq!(hidden.get(), r#"{"n":1e400,"auth":{"type":"bearer","token":{"$secret":true}},"deep":[1.50]}"#);
        assert!(is_placeholder(leaf(&hidden, "/auth/token").unwrap()));
        assert!(with_leaf(&config, "/auth/nothing", "1").is_none());
        assert!(leaf(&config, "/n/deeper").is_none());
    }
}

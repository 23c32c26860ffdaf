//! API tokens: opaque, revocable, only their hash is stored.
//!
//! A token is `mtm_`, a public prefix of 8 characters by which its row is found, `_`, and 43 base62
//! characters (256 bits) of secret.

use matome_model::clock::Timestamp;
use rand::RngExt as _;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::db::{Conn, Row};
use crate::error::Result;
use crate::listing::{Column, ColumnKind, Listing, Order, unknown_word};

/// What the bearer of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads: GET, HEAD, OPTIONS.
    Viewer,
    /// Everything.
    Admin,
}

impl Role {
    /// The words of all roles.
    pub const WORDS: &'static [&'static str] = &["viewer", "admin"];

    /// The word that stands for it in the database, the API and the CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }

    /// The role that `word` stands for, if any.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "viewer" => Some(Self::Viewer),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

/// A token as it is stored; nothing of its secret.
#[derive(Clone, Debug)]
pub struct ApiToken {
    /// Its id.
    pub id: i64,
    /// What it is for.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    /// Public part.
    pub prefix: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used; at most a minute behind.
    pub last_used_at: Option<Timestamp>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PREFIX_LENGTH: usize = 8;
const SECRET_LENGTH: usize = 43;

const ID: Column = Column::new("id", "t.id", ColumnKind::Int);

/// Tokens as lists show them.
pub const LISTING: Listing = Listing {
    table: "api_tokens",
    select: "t.id, t.name, t.role, t.prefix, t.created_at, t.last_used_at, t.expires_at, t.revoked_at",
    visible: "1 = 1",
    gone: None,
    columns: &[ID, Column::new("role", "t.role", ColumnKind::Choice(Role::WORDS))],
    search: &[],
    default_order: &[Order { column: &ID, descending: false }],
};

const INSERT: &str = "insert into api_tokens (name, role, prefix, token_hash, created_at, expires_at)
values ($1, $2, $3, $4, $5, $6)
returning id, name, role, prefix, created_at, last_used_at, expires_at, revoked_at";
const FIND_BY_PREFIX: &str =
    "select id, name, role, prefix, token_hash, created_at, last_used_at, expires_at, revoked_at
from api_tokens
where prefix = $1";
const REVOKE: &str = "update api_tokens set revoked_at = coalesce(revoked_at, $2) where id = $1";
const TOUCH: &str = "update api_tokens set last_used_at = $2
where id = $1 and (last_used_at is null or last_used_at < $3)";

impl TryFrom<&Row> for ApiToken {
    type Error = crate::error::StoreError;

    fn try_from(row: &Row) -> Result<Self> {
        let role = row.text("role")?;
        Ok(Self {
            id: row.int("id")?,
            name: row.text("name")?,
            role: Role::parse(&role).ok_or_else(|| unknown_word("role", &role))?,
            prefix: row.text("prefix")?,
            created_at: row.time("created_at")?,
            last_used_at: row.opt_time("last_used_at")?,
            expires_at: row.opt_time("expires_at")?,
            revoked_at: row.opt_time("revoked_at")?,
        })
    }
}

/// Makes a token; the secret is returned here and nowhere else.
///
/// # Errors
/// When the database is gone.
pub async fn create(
    conn: &mut Conn<'_>,
    name: &str,
    role: Role,
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<(ApiToken, SecretString)> {
    let (prefix, token) = generate();
    let hash = Sha256::digest(token.as_bytes());
    let row = conn
        .fetch_one(
            INSERT,
            &[
                name.into(),
                role.as_str().into(),
                (&prefix).into(),
                hash.as_slice().into(),
                now.into(),
                expires_at.into(),
            ],
        )
        .await?;
    Ok((ApiToken::try_from(&row)?, SecretString::from(token)))
}

/// The token with this secret, when it is neither revoked nor expired.
///
/// # Errors
/// When the database is gone.
pub async fn find_by_secret(conn: &mut Conn<'_>, token: &str, now: Timestamp) -> Result<Option<ApiToken>> {
    let Some(shown) = Shown::new(token) else { return Ok(None) };
    let Some(row) = conn.fetch_optional(FIND_BY_PREFIX, &[shown.prefix.into()]).await? else { return Ok(None) };
    let is_equal = shown.has(&row.bytes("token_hash")?);
    let found = ApiToken::try_from(&row)?;
    let is_valid = found.revoked_at.is_none() && found.expires_at.is_none_or(|at| at > now);
    Ok((is_equal && is_valid).then_some(found))
}

/// A token that was shown and is valid.
#[derive(Clone, Copy, Debug)]
pub struct Bearer {
    /// See [`ApiToken::id`].
    pub id: i64,
    /// See [`ApiToken::role`].
    pub role: Role,
    /// See [`ApiToken::last_used_at`].
    pub last_used_at: Option<Timestamp>,
}

impl From<ApiToken> for Bearer {
    fn from(token: ApiToken) -> Self {
        Self { id: token.id, role: token.role, last_used_at: token.last_used_at }
    }
}

/// A token that a statement looks up beside what it is needed for, as `k`: columns, and a condition over the public
/// prefix in `$1` and the time in `$2`. The secret is compared afterwards, by [`Shown::bearer`].
pub(crate) const BESIDE: (&str, &str) = (
    "k.id as token_id, k.role as token_role, k.token_hash as token_hash, k.last_used_at as token_used_at",
    "k.prefix = $1 and k.revoked_at is null and (k.expires_at is null or k.expires_at > $2)",
);

/// A token as a client shows it, of which only the form is known to be right.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'t> {
    token: &'t str,
    pub(crate) prefix: &'t str,
}

impl<'t> Shown<'t> {
    pub(crate) fn new(token: &'t str) -> Option<Self> {
        prefix_of(token).map(|prefix| Self { token, prefix })
    }

    /// Its bearer, when the row of a statement with [`BESIDE`] has its secret.
    pub(crate) fn bearer(&self, row: &Row) -> Result<Option<Bearer>> {
        if !self.has(&row.bytes("token_hash")?) {
            return Ok(None);
        }
        let role = row.text("token_role")?;
        Ok(Some(Bearer {
            id: row.int("token_id")?,
            role: Role::parse(&role).ok_or_else(|| unknown_word("role", &role))?,
            last_used_at: row.opt_time("token_used_at")?,
        }))
    }

    fn has(&self, hash: &[u8]) -> bool {
        hash.ct_eq(Sha256::digest(self.token.as_bytes()).as_slice()).into()
    }
}

/// Takes a token back; returns whether it was there.
///
/// # Errors
/// When the database is gone.
pub async fn revoke(conn: &mut Conn<'_>, id: i64, now: Timestamp) -> Result<bool> {
    Ok(conn.execute(REVOKE, &[id.into(), now.into()]).await? == 1)
}

/// Notes the use of a token, unless one was noted less than a minute ago.
///
/// # Errors
/// When the database is gone.
pub async fn touch(conn: &mut Conn<'_>, id: i64, now: Timestamp) -> Result<()> {
    let minute_ago = now - chrono::TimeDelta::minutes(1);
    conn.execute(TOUCH, &[id.into(), now.into(), minute_ago.into()]).await.map(drop)
}

fn generate() -> (String, String) {
    let mut rng = rand::rng();
    let mut text =
        |length| -> String { (0..length).map(|_| char::from(BASE62[rng.random_range(0..BASE62.len())])).collect() };
    let (prefix, secret) = (text(PREFIX_LENGTH), text(SECRET_LENGTH));
    let token = format!("mtm_{prefix}_{secret}");
    (prefix, token)
}

fn prefix_of(token: &str) -> Option<&str> {
    let (prefix, secret) = token.strip_prefix("mtm_")?.split_once('_')?;
    (prefix.len() == PREFIX_LENGTH && secret.len() == SECRET_LENGTH).then_some(prefix)
}

/// Whether any token was ever made.
///
/// # Errors
/// When the database refuses the statement or is gone.
pub async fn exist(conn: &mut Conn<'_>) -> Result<bool> {
    Ok(conn.fetch_optional("select id from api_tokens limit 1", &[]).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_its_prefix_and_nothing_else_does() {
        let (prefix, token) = generate();
        assert_eq!(prefix_of(&token), Some(prefix.as_str()));
        assert_eq!(token.len(), 4 + PREFIX_LENGTH + 1 + SECRET_LENGTH);
        for bad in ["", "mtm_", "mtm_short_x", &token[1..], &token[..token.len() - 1]] {
            assert_eq!(prefix_of(bad), None, "{bad}");
        }
    }
}

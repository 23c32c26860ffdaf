//! Secrets that change while they are used.

use std::error::Error;
use std::fmt;

use futures::future::BoxFuture;
use secrecy::SecretString;

/// Turns a secret into the one that takes its place; nothing when it stays as it is.
pub type Exchange = Box<dyn FnOnce(SecretString) -> BoxFuture<'static, Option<SecretString>> + Send>;

/// Keeps what a server gives in the place of a secret of one source: refresh tokens that change with each use.
pub trait SecretKeeper: fmt::Debug + Send + Sync {
    /// What tells its source from others.
    fn name(&self) -> String;

    /// Has `exchange` turn the secret at `path`, a JSON pointer into the config, as it is stored now, into its
    /// successor, and keeps that before it returns.
    ///
    /// No two exchanges of a secret run at once, in whatever processes they are asked for; and one that was begun runs to its
    /// end and is kept, also when nobody waits for it any more.
    ///
    /// # Errors
    /// When the secret can not be read, or its successor not be kept, which is then lost.
    fn replace(
        &self,
        path: &'static str,
        exchange: Exchange,
    ) -> BoxFuture<'_, Result<(), Box<dyn Error + Send + Sync>>>;
}

//! The config of a source as it is read: with its secrets in place, and with the credentials of another source where it asks for them.

use matome_connector::api::{auth_is_of, with_auth_of};
use matome_model::field_error::Words;
use matome_model::say;
use matome_model::task::LaneKind;
use matome_store::data_sources::{self, DataSource};
use matome_store::db::Conn;
use matome_store::error::StoreError;
use matome_store::secrets::{self, Vault};
use serde_json::value::RawValue;

/// A config as it is read.
#[derive(Debug)]
pub struct Revealed {
    /// With its secrets in place.
    pub config: Box<RawValue>,
    /// The source whose secrets they are: where those are kept that take the place of others.
    pub owner: i64,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum RevealError {
    /// The store says why.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The credentials of another source can not be had.
    #[error("{0}")]
    Credentials(Words),
}

/// Puts the secrets of a source in place.
///
/// # Errors
/// [`RevealError`], when the key is another one, or the source whose credentials are asked for is not there or is elsewhere.
pub async fn reveal(conn: &mut Conn<'_>, vault: &Vault, source: &DataSource) -> Result<Revealed, RevealError> {
    let config = secrets::reveal(conn, vault, LaneKind::Source, source.id, &source.config).await?;
    let Some(name) = auth_is_of(config.get()) else { return Ok(Revealed { config, owner: source.id }) };
    let Some(owner) = data_sources::find_by_name(conn, &name).await? else {
        return Err(RevealError::Credentials(say!(
            "`auth.source`: there is no source `{name}`",
            "`auth.source`: ソース `{name}` がありません"
        )));
    };
    let of = secrets::reveal(conn, vault, LaneKind::Source, owner.id, &owner.config).await?;
    let config = with_auth_of(config.get(), &name, of.get()).map_err(RevealError::Credentials)?;
    let config = RawValue::from_string(config).expect("it was written as JSON");
    Ok(Revealed { config, owner: owner.id })
}

//! Keeps what servers give in the place of a source's secrets.

use std::error::Error;

use futures::future::BoxFuture;
use matome_connector::{Exchange, SecretKeeper};
use matome_model::task::LaneKind;
use matome_store::db::Db;
use matome_store::secrets::{self, Vault};

/// The secrets of one source.
#[derive(Clone, Debug)]
pub struct Keeper {
    db: Db,
    vault: Vault,
    source_id: i64,
}

impl Keeper {
    /// Those of the source with this id.
    pub fn new(db: Db, vault: Vault, source_id: i64) -> Self {
        Self { db, vault, source_id }
    }
}

impl SecretKeeper for Keeper {
    fn name(&self) -> String {
        format!("source {}", self.source_id)
    }

    fn replace(
        &self,
        path: &'static str,
        exchange: Exchange,
    ) -> BoxFuture<'_, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async move {
            let (kind, id) = (LaneKind::Source, self.source_id);
            secrets::replace(&self.db, &self.vault, kind, id, path, exchange).await.map_err(Into::into)
        })
    }
}

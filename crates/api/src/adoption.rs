//! Sources and aggregations of the original application become as if they had been made here: secrets of their configs are
//! encrypted, and what can run runs by its schedule.

use matome_aggregation::config::AggregationConfig;
use matome_connector::{secret_paths, validate_config};
use matome_model::clock::Timestamp;
use matome_model::task::LaneKind;
use matome_store::adoption::{self, Unsettled};
use matome_store::aggregation_sources::{self, AggregationFields};
use matome_store::data_sources::{self, SourceFields};
use matome_store::db::{Conn, Db};
use matome_store::error::StoreError;
use matome_store::secrets::{self, Vault};

use crate::config::{self, Checked};
use crate::error::FieldErrors;
use crate::{aggregations, sources};

/// What became of one of them.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What it is.
    pub kind: LaneKind,
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Whether its config can be run as it is; otherwise it is kept until somebody corrects it.
    pub is_valid: bool,
    /// Secrets of its config that were encrypted.
    pub secrets: usize,
}

/// Settles all that are not settled yet, each in a transaction of its own.
///
/// # Errors
/// When the database is gone.
pub async fn settle_adopted(db: &Db, vault: &Vault, now: Timestamp) -> Result<Vec<Settled>, StoreError> {
    let waiting = {
        let mut reader = db.read().await?;
        adoption::unsettled(&mut reader.conn()).await?
    };
    let mut settled = Vec::with_capacity(waiting.len());
    for adopted in waiting {
        let vault = vault.clone();
        let done = db.write(move |conn| {
            Box::pin(async move {
                let done = match adopted.kind {
                    LaneKind::Source => source(conn, &vault, &adopted, now).await?,
                    LaneKind::Aggregation => aggregation(conn, &adopted, now).await?,
                };
                adoption::note_settled(conn, &adopted).await?;
                Ok(done)
            })
        });
        settled.extend(done.await?);
    }
    Ok(settled)
}

async fn source(
    conn: &mut Conn<'_>,
    vault: &Vault,
    adopted: &Unsettled,
    now: Timestamp,
) -> Result<Option<Settled>, StoreError> {
    let Some(source) = data_sources::find_for_update(conn, adopted.id).await? else { return Ok(None) };
    // Whatever is wrong with the config, its secrets are secrets.
    let paths = secret_paths(source.config.get());
    let Checked { stored, secrets: found, .. } =
        config::check(&source.config, paths, &[], None, |_| Vec::new(), &mut FieldErrors::default());
    for (path, secret) in &found {
        secrets::save(conn, vault, LaneKind::Source, source.id, path, secret).await?;
    }
    if !found.is_empty() {
        data_sources::seal_config(conn, source.id, &stored).await?;
    }
    let is_valid = validate_config(source.source_type, source.config.get()).is_ok_and(|config| !config.is_draft());
    let fields = SourceFields {
        name: source.name.clone(),
        source_type: source.source_type,
        description: source.description,
        status: source.status,
        config: stored,
        fetch_interval: source.fetch_interval,
    };
    sources::align(conn, source.id, &fields, now).await?;
    Ok(Some(Settled { kind: adopted.kind, id: source.id, name: source.name, is_valid, secrets: found.len() }))
}

async fn aggregation(conn: &mut Conn<'_>, adopted: &Unsettled, now: Timestamp) -> Result<Option<Settled>, StoreError> {
    let Some(source) = aggregation_sources::find(conn, adopted.id).await? else { return Ok(None) };
    let config = serde_json::from_str(source.config.get()).ok();
    let is_valid =
        config.is_some_and(|config| AggregationConfig::parse(&config).is_ok_and(|config| !config.is_draft()));
    let fields = AggregationFields {
        name: source.name.clone(),
        description: source.description,
        status: source.status,
        config: source.config,
    };
    aggregations::align(conn, source.id, &fields, now).await?;
    Ok(Some(Settled { kind: adopted.kind, id: source.id, name: source.name, is_valid, secrets: 0 }))
}

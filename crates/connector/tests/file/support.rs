//! Reading a directory, and showing what was read.

use std::path::Path;

use matome_connector::{Batch, Connector, ConnectorError, FileRoots, Item, ReadRequest, Registry};
use matome_egress::{HttpClient, Policy};
use matome_model::clock::Clock;
use matome_model::source::SourceType;
use tempfile::TempDir;

pub fn connector(root: Option<&Path>, config: &str) -> Box<dyn Connector> {
    let registry = Registry::new(FileRoots::open(root).unwrap(), HttpClient::new(Policy::default()), Clock::system());
    registry.open(SourceType::File, config).unwrap()
}

pub async fn read_all(connector: &dyn Connector, request: ReadRequest) -> Result<Vec<Batch>, ConnectorError> {
    let mut reader = connector.read(request).await?;
    let mut batches = Vec::new();
    while let Some(batch) = reader.next().await? {
        batches.push(batch);
    }
    assert!(reader.next().await.unwrap().is_none());
    Ok(batches)
}

pub fn shown(items: impl IntoIterator<Item = Item>) -> Vec<String> {
    let show = |item| match item {
        Item::Record { raw, .. } => String::from_utf8(raw).unwrap(),
        Item::Rejected { reason, position, .. } => format!("{reason} at line {}", position.line.unwrap_or(0)),
    };
    items.into_iter().map(show).collect()
}

pub async fn records(root: &TempDir, config: &str) -> Result<Vec<String>, ConnectorError> {
    let batches = read_all(&*connector(Some(root.path()), config), ReadRequest::default()).await?;
    Ok(shown(batches.into_iter().flat_map(|batch| batch.items)))
}

pub async fn failure(root: &TempDir, config: &str) -> ConnectorError {
    records(root, config).await.unwrap_err()
}

/// The innermost cause of an error.
pub fn cause(error: &ConnectorError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

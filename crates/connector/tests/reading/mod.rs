//! Reads to their end or to an error, of every kind of connector.

use matome_connector::{Batch, Connector, ConnectorError, ReadRequest};

/// The batches of a read, and why no more came.
pub async fn read_until(connector: &dyn Connector, request: ReadRequest) -> (Vec<Batch>, Option<ConnectorError>) {
    let mut batches = Vec::new();
    let mut reader = match connector.read(request).await {
        Ok(reader) => reader,
        Err(error) => return (batches, Some(error)),
    };
    loop {
        match reader.next().await {
            Ok(Some(batch)) => batches.push(batch),
            Ok(None) => return (batches, None),
            Err(error) => return (batches, Some(error)),
        }
    }
}

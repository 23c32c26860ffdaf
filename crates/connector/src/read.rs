//! The trait that every connector implements, and reading a sample through it.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::error::ConnectorError;
use crate::keeper::SecretKeeper;
use crate::record::{Batch, Item};

/// A configured source that can be read.
pub trait Connector: Send + Sync {
    /// Starts a read. Nothing more than finding the source need happen before the first batch is asked for.
    fn read(&self, request: ReadRequest) -> BoxFuture<'_, Result<Box<dyn Reader>, ConnectorError>>;

    /// Whether a read goes on until it is cancelled, which it then ends with what it has; each of its batches is to be
    /// committed at once.
    fn is_stream(&self) -> bool {
        false
    }

    /// Whether a read is given its checkpoint also where equal records are counted, since it knows what it has read and says which
    /// batches add to it.
    fn tells_additions(&self) -> bool {
        false
    }

    /// Whether several batches may be committed as one, under the checkpoint of the last.
    fn may_be_gathered(&self) -> bool {
        !self.is_stream()
    }
}

/// A read under way. Dropping it ends the read.
pub trait Reader: Send {
    /// The next batch; `None` once the read is complete. After an error the reader is spent.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, ConnectorError>>;
}

/// How to read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The checkpoint committed last, if any.
    pub checkpoint: Option<Box<RawValue>>,
    /// Whether to go on exactly behind the last committed record. Otherwise a read starts at the first document, or at the first
    /// page that is not committed, and reads some things again.
    pub resume_inside: bool,
    /// Whether equal records are counted (`dedupe: rows`), so that a read gives all of them or says that it adds some.
    pub counts_equals: bool,
    /// Whether all that a read gives is compared with what is stored (`dedupe: key` and `rows`): it goes on exactly, or it begins
    /// anew as a whole and says so.
    pub compares_reads: bool,
    /// Items in one batch at most.
    pub max_items: usize,
    /// A batch ends with the item that brings it to this many bytes.
    pub max_bytes: usize,
    /// Ends the read with [`ConnectorError::Cancelled`].
    pub cancel: CancellationToken,
    /// Keeps what servers give in the place of secrets; without one, what would need it fails.
    pub keeper: Option<Arc<dyn SecretKeeper>>,
}

impl Default for ReadRequest {
    fn default() -> Self {
        Self {
            checkpoint: None,
            resume_inside: false,
            counts_equals: false,
            compares_reads: false,
            max_items: 1000,
            max_bytes: 1024 * 1024,
            cancel: CancellationToken::new(),
            keeper: None,
        }
    }
}

/// The first records of a source.
#[derive(Debug)]
pub struct Sample {
    /// At most as many as were asked for.
    pub items: Vec<Item>,
    /// Whether these are all.
    pub complete: bool,
}

/// Reads the first `count` records of a source with the code that reads all of them.
///
/// # Errors
/// As the read itself.
pub async fn sample(
    connector: &dyn Connector,
    count: usize,
    cancel: CancellationToken,
) -> Result<Sample, ConnectorError> {
    let request = ReadRequest { max_items: count.max(1), cancel, ..ReadRequest::default() };
    let mut reader = connector.read(request).await?;
    let mut items = Vec::new();
    while items.len() < count {
        let Some(batch) = reader.next().await? else { return Ok(Sample { items, complete: true }) };
        items.extend(batch.items);
    }
    let complete = items.len() == count && matches!(reader.next().await, Ok(None));
    items.truncate(count);
    Ok(Sample { items, complete })
}

//! The fetching side of a read: batches of a connector become pages that are ready to be stored.

use matome_connector::{Connector, ConnectorError, ReadRequest, ReadStats};
use matome_store::acquired_data::{Records, SchemaStep};
use matome_tasks::TaskContext;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::prepare::{Prepared, Preparer, Refused};

/// Batches with fewer bytes are prepared where they are; the others leave the async threads alone.
const PREPARE_INLINE_BYTES: usize = 64 << 10;

/// What the fetching side hands to the committing side.
pub(crate) enum Fetched {
    Page(Prepared),
    /// The last page, after which the source has no more.
    Last(Prepared),
    Failed(ConnectorError),
    /// A page of which nothing may be stored.
    Refused(Box<Refused>),
    /// A stream has ended; all its pages came before.
    Ended,
}

/// Reads and prepares pages until the source has no more. One page is held back until it is known whether
/// it is the last, so that the end of a read needs no transaction of its own.
pub(crate) async fn fetch(
    connector: Box<dyn Connector>,
    request: ReadRequest,
    mut preparer: Preparer,
    pages: mpsc::Sender<Fetched>,
    ctx: TaskContext,
) {
    let checkpoint = request.checkpoint.as_deref().map_or("{}", RawValue::get).to_owned();
    let is_stream = connector.is_stream();
    let mut held: Option<Prepared> = None;
    let mut reader = match connector.read(request).await {
        Ok(reader) => reader,
        Err(err) => {
            let _ = pages.send(Fetched::Failed(err)).await;
            return;
        }
    };
    // A closed channel means that nobody wants the rest.
    let end = loop {
        // After a suspend this may be the first thing that runs: nothing more is asked of the source then.
        if !ctx.lease_valid() {
            return;
        }
        match reader.next().await {
            Ok(Some(batch)) => {
                let bytes: usize = batch.items.iter().map(|item| item.raw().len()).sum();
                let prepared = if bytes < PREPARE_INLINE_BYTES {
                    preparer.prepare(batch)
                } else {
                    let done = tokio::task::spawn_blocking(move || {
                        let prepared = preparer.prepare(batch);
                        (preparer, prepared)
                    });
                    let Ok((back, prepared)) = done.await else { return };
                    preparer = back;
                    prepared
                };
                let prepared = match prepared {
                    Ok(prepared) => prepared,
                    Err(refused) => break Fetched::Refused(refused),
                };
                if is_stream {
                    // The next page may be long in coming.
                    if pages.send(Fetched::Page(prepared)).await.is_err() {
                        return;
                    }
                } else if let Some(page) = &mut held
                    && prepared.is_empty()
                {
                    // Only the checkpoint moved: it goes with the page before.
                    page.follow(prepared);
                } else if let Some(page) = held.replace(prepared)
                    && pages.send(Fetched::Page(page)).await.is_err()
                {
                    return;
                }
            }
            Ok(None) if is_stream => break Fetched::Ended,
            Ok(None) => {
                let empty = || Prepared {
                    records: Records::default(),
                    quarantined: Vec::new(),
                    checkpoint,
                    is_exact: false,
                    is_addition: false,
                    stats: ReadStats::default(),
                    warned: 0,
                    schema: SchemaStep::default(),
                };
                break Fetched::Last(held.take().unwrap_or_else(empty));
            }
            Err(err) => break Fetched::Failed(err),
        }
    };
    if let Some(page) = held
        && pages.send(Fetched::Page(page)).await.is_err()
    {
        return;
    }
    let _ = pages.send(end).await;
}

//! The reader of a source of files: the batches that a pump on a thread of its own hands over a small channel.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use super::checkpoint::State;
use super::config::FileConfig;
use super::directory;
use super::location::Location;
use super::plan::Plan;
use super::pump::Pump;
use crate::error::ConnectorError;
use crate::read::{ReadRequest, Reader};
use crate::record::Batch;

/// Batches that wait to be asked for.
const WAITING_BATCHES: usize = 2;

pub(super) struct FileReader {
    batches: mpsc::Receiver<Result<Batch, ConnectorError>>,
    complete: bool,
    /// Ends what the threads of the read wait for.
    _waits: DropGuard,
}

/// Finds the documents and starts to read them. `waits` cancels the request.
pub(super) async fn start(
    config: Arc<FileConfig>,
    location: Arc<dyn Location>,
    request: ReadRequest,
    waits: DropGuard,
) -> Result<FileReader, ConnectorError> {
    let last = request.checkpoint.as_deref().map(State::parse).transpose()?;
    let (sender, batches) = mpsc::channel(WAITING_BATCHES);
    let (config_there, location_there, request_there) = (config.clone(), location.clone(), request.clone());
    let planned = tokio::task::spawn_blocking(move || {
        let config = &config_there;
        let found = directory::find(&*location_there, &config.place, &config.path, &config.extensions)?.entries;
        let names: Vec<Arc<str>> = found.iter().map(|entry| entry.name.clone()).collect();
        let plan = match config.only_changed {
            true => Plan::of_changes(&*location_there, found, last, &request_there)?,
            false => Plan::of_all(found, last, &request_there),
        };
        Ok::<_, ConnectorError>((plan, names))
    });
    let (plan, names) = planned.await.map_err(|_| ConnectorError::Broken)??;
    tokio::task::spawn_blocking(move || Pump::new(config, location, request, sender).run(plan, &names));
    Ok(FileReader { batches, complete: false, _waits: waits })
}

impl Reader for FileReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Batch>, ConnectorError>> {
        Box::pin(async move {
            if self.complete {
                return Ok(None);
            }
            let batch = self.batches.recv().await.unwrap_or(Err(ConnectorError::Broken))?;
            // The last checkpoint is the only one that says so.
            self.complete = State::parse(&batch.checkpoint).is_ok_and(|state| state.complete);
            Ok(Some(batch))
        })
    }
}

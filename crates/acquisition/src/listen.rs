//! A task that listens to a stream: it goes on until it is asked to stop, and then stores what has come.

use std::time::Duration;

use matome_connector::{Connector, ConnectorError};
use matome_model::say;
use matome_model::source::SourceStatus;
use matome_model::task::Trigger;
use matome_store::data_sources::{self, DataSource};
use matome_store::error::StoreError;
use matome_store::tasks::TaskRow;
use matome_tasks::{Advice, StopReason, TaskContext, TaskError};

use crate::counts::Counts;
use crate::failure::{from_connector, from_refused};
use crate::fetch::Fetched;
use crate::handler::{AcquisitionHandler, stopped};
use crate::read::Read;

/// How often a stream looks whether its source is still what it was.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// When a task that found no slot for its stream is tried again.
const NO_SLOT_PAUSE: Duration = Duration::from_secs(10);

impl AcquisitionHandler {
    /// Commits page by page what comes. A task that was made by its schedule goes on after another one of its lane; one
    /// that a person or something else asked for ends for it.
    pub(crate) async fn listen(
        &self,
        connector: Box<dyn Connector>,
        read: Read,
        source: &DataSource,
        task: &TaskRow,
        ctx: &TaskContext,
        counts: &mut Counts,
    ) -> Result<(), TaskError> {
        if !ctx.becomes_stream() {
            let what = say!(
                "this worker listens to as many streams as it can; another one, or this one later, takes the task",
                "このワーカーが受信できるストリームの数に達しました。別のワーカーか、後でこのワーカーがタスクを引き受けます"
            );
            return Err(TaskError::new(Advice::Retry { after: Some(NO_SLOT_PAUSE) }, "no_stream_slot", what));
        }
        ctx.may_yield();
        let cancel = ctx.stop.child_token();
        let (mut fetched, _fetching) = self.start(connector, &read, ctx, cancel.clone()).await?;
        let mut page_seq = read.begun.page_seq;
        let mut is_outdated = false;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = tokio::select! {
                biased;
                next = fetched.recv() => next,
                _ = look.tick(), if !is_outdated => {
                    // What cannot be read now, the next look reads.
                    if let Ok(false) = self.is_current(source).await {
                        is_outdated = true;
                        cancel.cancel();
                    }
                    continue;
                }
            };
            match next {
                Some(Fetched::Page(prepared) | Fetched::Last(prepared)) => {
                    self.store(&read, ctx, prepared, page_seq, false, counts).await?;
                    page_seq += 1;
                }
                Some(Fetched::Failed(ConnectorError::Cancelled)) => return Err(stopped(ctx)),
                Some(Fetched::Failed(err)) => return Err(from_connector(&err)),
                Some(Fetched::Refused(refused)) => return Err(from_refused(*refused)),
                // Its lease may be why.
                None if ctx.stop_reason().is_some() || is_outdated => return Err(stopped(ctx)),
                None => return Err(from_connector(&ConnectorError::Broken)),
                Some(Fetched::Ended) => {
                    return match ctx.stop_reason() {
                        Some(StopReason::Yield) if task.cause != Trigger::Schedule => Ok(()),
                        Some(_) => Err(stopped(ctx)),
                        // The next attempt goes on by what the source is now.
                        None if is_outdated => Err(TaskError::interrupted()),
                        None => Ok(()),
                    };
                }
            }
        }
    }

    /// Whether the source is still the one that is read, and not paused.
    async fn is_current(&self, source: &DataSource) -> Result<bool, StoreError> {
        let mut reader = self.db.read().await?;
        let now = data_sources::find(&mut reader.conn(), source.id).await?;
        Ok(now.is_some_and(|now| {
            now.status != SourceStatus::Inactive
                && now.config_rev == source.config_rev
                && now.config.get() == source.config.get()
        }))
    }
}

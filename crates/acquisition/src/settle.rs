//! The end of a read whose records have keys: what came with the content of an older version becomes a version, or turns
//! out to be known ([`matome_store::acquired_data::KeyedRead`]).

use std::sync::Arc;

use matome_model::source::Dedupe;
use matome_store::acquired_data::tombstones::Deletes;
use matome_store::acquired_data::{self, Page, PageCounts, Progress, Records, Room, SchemaStep};
use matome_store::checkpoints::{self, Advance, CheckpointKey};
use matome_store::tasks::TaskRow;
use matome_tasks::{TaskContext, TaskError};

use crate::commit::commit;
use crate::counts::Counts;
use crate::handler::{AcquisitionHandler, go_on, store_error};

/// What a page does that brings no records, behind the end of a read.
pub(crate) enum Behind {
    /// It settles some of what waits.
    Settles(Room),
    /// It makes tombstones for these versions.
    Buries(Vec<i64>),
}

impl AcquisitionHandler {
    /// Settles what a read that has ended left behind when its worker died, and adds it to `counts`.
    pub(crate) async fn settle_left(
        &self,
        task: &TaskRow,
        key: &CheckpointKey,
        config_rev: i64,
        ctx: &TaskContext,
        counts: &mut Counts,
    ) -> Result<(), TaskError> {
        let is_left = {
            let mut reader = self.db.read().await?;
            let mut conn = reader.conn();
            checkpoints::find(&mut conn, key).await?.is_some_and(|checkpoint| checkpoint.read_ended)
                && acquired_data::any_repeats(&mut conn, key).await?
        };
        if !is_left {
            return Ok(());
        }
        let (fence, of, now) = (ctx.fence, key.clone(), self.clock.now());
        let hold = self
            .db
            .write(move |conn| Box::pin(async move { checkpoints::hold(conn, &fence, &of, config_rev, now).await }));
        hold.await.map_err(|err| store_error(err, ctx))?;
        self.settle(task.id, key, ctx, counts).await
    }

    /// Settles all that waits of a read that has ended, page by page, and adds it to `counts`.
    pub(crate) async fn settle(
        &self,
        task_id: i64,
        key: &CheckpointKey,
        ctx: &TaskContext,
        counts: &mut Counts,
    ) -> Result<(), TaskError> {
        loop {
            go_on(ctx)?;
            let is_any = acquired_data::any_repeats(&mut self.db.read().await?.conn(), key).await?;
            let settles = Behind::Settles(Room { rows: self.db.page_rows(), bytes: self.db.page_bytes() });
            if !is_any || !self.commit_behind(task_id, key, settles, ctx, counts).await? {
                return Ok(());
            }
        }
    }

    /// Commits a page behind the end of a read and adds it to `counts`; the checkpoint stays where it is. False: there is none.
    pub(crate) async fn commit_behind(
        &self,
        task_id: i64,
        key: &CheckpointKey,
        what: Behind,
        ctx: &TaskContext,
        counts: &mut Counts,
    ) -> Result<bool, TaskError> {
        let checkpoint = checkpoints::find(&mut self.db.read().await?.conn(), key).await?;
        let Some(checkpoint) = checkpoint else { return Ok(false) };
        let (settles, gone) = match what {
            Behind::Settles(room) => (Some(room), Vec::new()),
            Behind::Buries(gone) => (None, gone),
        };
        let before = *counts;
        let after = move |page: PageCounts| {
            let mut counts = before;
            counts.add_settled(page);
            counts.to_json()
        };
        let page = Page {
            fence: ctx.fence,
            task_id,
            acquired_at: self.clock.now(),
            dedupe: Dedupe::Key,
            occurrences: None,
            keyed: None,
            records: Records::default(),
            quarantined: Vec::new(),
            checkpoint: Advance {
                key: key.clone(),
                page_seq: checkpoint.page_seq,
                config_rev: checkpoint.config_rev,
                state: checkpoint.state.get().to_owned(),
                is_exact: false,
                begins_anew: false,
            },
            ends_read: false,
            is_fetch: false,
            settles,
            progress: Some(Progress(Arc::new(after))),
            inbox: None,
            pushes: None,
            schema: SchemaStep::default(),
            deletes: Deletes { begins_sweep: false, gone },
        };
        let committed = commit(&self.db, Arc::new(page), &ctx.stop).await.map_err(|err| store_error(err, ctx))?;
        counts.add_settled(committed.counts);
        Ok(true)
    }
}

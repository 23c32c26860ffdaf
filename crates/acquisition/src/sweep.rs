//! The end of a whole read of a source with `deletes`: the keys that it did not give get a tombstone
//! ([`matome_store::acquired_data::tombstones`]).
//!
//! First all of them are counted, since a source that suddenly lacks most of its keys is more often broken than empty. Then they
//! are marked, page by page. Whoever takes the task over in between counts again what is left: it is a smaller part.

use matome_model::say;
use matome_store::acquired_data::tombstones::{self, SeenKeys, Sweep, WINDOW};
use matome_store::retention::Place;
use matome_tasks::{TaskContext, TaskError};

use crate::counts::{Counts, Withheld};
use crate::handler::{AcquisitionHandler, go_on, store_error};
use crate::read::Read;
use crate::settle::Behind;

/// Tombstones of one page: each is written with the record that it stands for.
const PAGE_ROWS: usize = 500;

/// Current keys of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Keys {
    /// Those that there were before the read.
    before: u64,
    /// Of these, the ones that it did not give.
    gone: u64,
}

impl Keys {
    fn are_mostly_gone(self) -> bool {
        self.gone > self.before / 2
    }
}

impl AcquisitionHandler {
    /// Marks the keys that a whole read did not give, if there is a sweep to be done, and adds them to `counts`.
    pub(crate) async fn sweep(&self, read: &Read, ctx: &TaskContext, counts: &mut Counts) -> Result<(), TaskError> {
        if let Some(withheld) = counts.deletes_withheld {
            let why = match withheld {
                Withheld::Quarantined => "a record is in quarantine whose key cannot be read",
                Withheld::Partial => "some of it was passed over",
            };
            let (source_id, id) = (read.key.source_id, read.task_id);
            tracing::warn!(
                source.id = source_id,
                task.id = id,
                "what source {source_id} no longer has cannot be told: {why}"
            );
        }
        let pending = tombstones::pending(&mut self.db.read().await?.conn(), &read.key).await?;
        let Some(sweep) = pending.filter(|sweep| sweep.task_id == read.task_id) else { return Ok(()) };
        let keys = self.count(read, sweep, ctx).await?;
        if keys.are_mostly_gone() && !read.how.confirm_deletes {
            return Err(refused(keys));
        }
        if keys.gone > 0 {
            self.mark(read, sweep, ctx, counts).await?;
        }
        let (fence, key) = (ctx.fence, read.key.clone());
        let end = self.db.write(move |conn| Box::pin(async move { tombstones::end(conn, &fence, &key).await }));
        end.await.map_err(|err| store_error(err, ctx))
    }

    async fn count(&self, read: &Read, sweep: Sweep, ctx: &TaskContext) -> Result<Keys, TaskError> {
        let mut keys = Keys::default();
        for (from, to) in windows(sweep.up_to_id) {
            let seen = self.seen(read, from, to).await?;
            let mut place = Place::start();
            while let Some(records) = self.next(read, &mut place, ctx).await? {
                for record in records.iter().filter(|record| record.is_current) {
                    let id = record.place.id;
                    if from < id && id <= to {
                        keys.before += 1;
                        keys.gone += u64::from(!seen.has(id));
                    } else if id > sweep.up_to_id && from == 0 {
                        // Of a key that was there before, with what it says now.
                        keys.before += u64::from(record.version > 1);
                    }
                }
            }
        }
        Ok(keys)
    }

    async fn mark(&self, read: &Read, sweep: Sweep, ctx: &TaskContext, counts: &mut Counts) -> Result<(), TaskError> {
        for (from, to) in windows(sweep.up_to_id) {
            let seen = self.seen(read, from, to).await?;
            let (mut place, mut gone) = (Place::start(), Vec::new());
            while let Some(records) = self.next(read, &mut place, ctx).await? {
                let current = records.iter().filter(|record| record.is_current).map(|record| record.place.id);
                gone.extend(current.filter(|id| from < *id && *id <= to && !seen.has(*id)));
                while gone.len() >= PAGE_ROWS {
                    let rest = gone.split_off(PAGE_ROWS);
                    self.bury(read, std::mem::replace(&mut gone, rest), ctx, counts).await?;
                }
            }
            self.bury(read, gone, ctx, counts).await?;
        }
        Ok(())
    }

    async fn seen(&self, read: &Read, from: i64, to: i64) -> Result<SeenKeys, TaskError> {
        let mut reader = self.db.read().await?;
        Ok(tombstones::seen(&mut reader.conn(), &read.key, from, to).await?)
    }

    /// The next records of the source; `None` behind the last.
    async fn next(
        &self,
        read: &Read,
        place: &mut Place,
        ctx: &TaskContext,
    ) -> Result<Option<Vec<tombstones::Standing>>, TaskError> {
        go_on(ctx)?;
        let limit = i64::try_from(self.db.page_rows()).unwrap_or(i64::MAX);
        let mut reader = self.db.read().await?;
        let records = tombstones::standing(&mut reader.conn(), &read.key, *place, limit).await?;
        let Some(last) = records.last() else { return Ok(None) };
        *place = last.place;
        Ok(Some(records))
    }

    /// Makes tombstones of these versions, in pages of their bytes.
    async fn bury(&self, read: &Read, gone: Vec<i64>, ctx: &TaskContext, counts: &mut Counts) -> Result<(), TaskError> {
        let lengths = tombstones::lengths(&mut self.db.read().await?.conn(), &gone).await?;
        let (mut page, mut bytes) = (Vec::new(), 0);
        for (id, length) in lengths {
            page.push(id);
            bytes += length;
            if bytes >= self.db.page_bytes() {
                self.commit_tombstones(read, std::mem::take(&mut page), ctx, counts).await?;
                bytes = 0;
            }
        }
        self.commit_tombstones(read, page, ctx, counts).await
    }

    async fn commit_tombstones(
        &self,
        read: &Read,
        gone: Vec<i64>,
        ctx: &TaskContext,
        counts: &mut Counts,
    ) -> Result<(), TaskError> {
        if !gone.is_empty() {
            self.commit_behind(read.task_id, &read.key, Behind::Buries(gone), ctx, counts).await?;
        }
        Ok(())
    }
}

/// Parts of the ids up to `up_to`, each behind the first of its pair and up to the second.
fn windows(up_to: i64) -> impl Iterator<Item = (i64, i64)> {
    std::iter::successors(Some(0), move |from: &i64| from.checked_add(WINDOW).filter(|next| *next < up_to))
        .map(move |from| (from, up_to.min(from.saturating_add(WINDOW))))
}

/// Most keys did not come: nothing is marked unless somebody says that it is right.
fn refused(Keys { before, gone }: Keys) -> TaskError {
    TaskError::fail(
        "deletes_refused",
        say!(
            "{gone} of {before} keys did not come, which is more than half, so none of them was marked as deleted; what came is \
             stored. If they are gone, run `matome source run NAME --confirm-deletes` (POST `run/` with \
             `{{\"confirm_deletes\": true}}`); if they are not, correct the source or its config",
            "{before} 件のキーのうち {gone} 件が来ませんでした。半分を超えるので、削除の印は一つも付けていません。来たものは保存されています。\
             本当になくなったのなら `matome source run NAME --confirm-deletes` (POST `run/` に `{{\"confirm_deletes\": true}}`) を\
             実行し、そうでなければデータソースかその config を直してください"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_every_id_once() {
        let all = |up_to| windows(up_to).collect::<Vec<_>>();
        assert_eq!(all(0), [(0, 0)]);
        assert_eq!(all(7), [(0, 7)]);
        assert_eq!(all(WINDOW), [(0, WINDOW)]);
        assert_eq!(all(2 * WINDOW + 1), [(0, WINDOW), (WINDOW, 2 * WINDOW), (2 * WINDOW, 2 * WINDOW + 1)]);
    }

    #[test]
    fn more_than_half_is_too_much() {
        for (before, gone, mostly) in
            [(0, 0, false), (1, 1, true), (2, 1, false), (3, 1, false), (3, 2, true), (4, 2, false)]
        {
            assert_eq!(Keys { before, gone }.are_mostly_gone(), mostly, "{gone} of {before}");
        }
    }
}

//! What judging anew would do to what is stored, told without doing it.

use std::collections::BTreeMap;

use matome_model::field_error::Words;
use matome_store::acquired_data::renewal;
use matome_tasks::{TaskContext, TaskError};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::counts::Counts;
use crate::handler::{AcquisitionHandler, go_on, store_error};
use crate::revalidate::{Course, Judged, Revalidation, State};

/// Records that a report names.
const EXAMPLES: usize = 10;

/// The result of a task that reports, and its progress.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Reported {
    /// What it did: it looked.
    #[serde(flatten)]
    counts: Counts,
    report: Report,
}

/// What judging anew would count.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Report {
    /// Records that would stay as they are.
    unchanged: u64,
    /// Those that would get another content, identity or version.
    changed: u64,
    /// Those that would go to quarantine.
    quarantined: u64,
    /// Those that break the schema or a rule whose policy is `warn`.
    warned: u64,
    /// Records in quarantine that would come back.
    replayed: u64,
    /// Why records would go to quarantine, and how many for each reason.
    reasons: BTreeMap<String, u64>,
    /// The first of them.
    examples: Vec<Example>,
}

/// A record that would go to quarantine.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Example {
    id: i64,
    reason: String,
    detail: Words,
}

impl Reported {
    /// What the attempts before this one found; `progress` is what they left.
    pub(crate) fn of_earlier(progress: Option<&RawValue>) -> Self {
        progress.and_then(|found| serde_json::from_str(found.get()).ok()).unwrap_or_default()
    }

    pub(crate) fn to_json(&self) -> Box<RawValue> {
        to_raw_value(self).expect("numbers and texts are JSON")
    }

    /// With a page of stored records, of which `changed` would be others.
    fn and_records(mut self, judged: &Judged, changed: u64) -> Self {
        let (kept, quarantined) = (judged.kept.len() as u64, judged.rejected.len() as u64);
        self.counts.read += kept + quarantined;
        self.counts.pages += u64::from(kept + quarantined > 0);
        self.report.unchanged += kept - changed;
        self.report.changed += changed;
        self.report.quarantined += quarantined;
        self.report.warned += judged.warned;
        for (id, bad) in &judged.rejected {
            let reason = bad.reason.as_str().to_owned();
            *self.report.reasons.entry(reason.clone()).or_default() += 1;
            if self.report.examples.len() < EXAMPLES {
                // PostgreSQL cannot store NUL.
                let detail = bad.detail.clone().map(|text| text.replace('\0', "\u{2400}"));
                self.report.examples.push(Example { id: *id, reason, detail });
            }
        }
        self
    }

    /// With records in quarantine that would come back.
    fn and_replayed(mut self, records: usize) -> Self {
        self.counts.read += records as u64;
        self.report.replayed += records as u64;
        self
    }
}

impl AcquisitionHandler {
    /// Goes through all of it as [`AcquisitionHandler::revalidate`] does, and adds what it finds to `found`.
    pub(crate) async fn report(
        &self,
        what: &Revalidation,
        ctx: &TaskContext,
        found: &mut Reported,
    ) -> Result<(), TaskError> {
        let mut course = self.course_of(what, ctx).await?;
        if course.is_new {
            // Of a config that has changed meanwhile nothing holds that was found before.
            *found = Reported::default();
        }
        let mut preparer = self.preparer(what).await?;
        while course.state.has_records() {
            go_on(ctx)?;
            let (judged, back) = self.judged(what, &course, preparer).await?;
            preparer = back;
            let changed = {
                let mut reader = self.db.read().await?;
                let of = (what.key.source_id, what.key.stream.as_str());
                renewal::count_changes(&mut reader.conn(), of, what.dedupe, &judged.kept).await?
            };
            let next = found.clone().and_records(&judged, changed);
            *found = self.pass(&mut course, judged.next, next, ctx).await?;
        }
        while course.state.has_held() {
            go_on(ctx)?;
            let (fit, behind, back) = self.fit(what, &course, preparer).await?;
            preparer = back;
            let next = found.clone().and_replayed(fit.len());
            *found = self.pass(&mut course, behind, next, ctx).await?;
        }
        Ok(())
    }

    /// Commits that a page was looked at, with what has been found so far.
    async fn pass(
        &self,
        course: &mut Course,
        next: State,
        found: Reported,
        ctx: &TaskContext,
    ) -> Result<Reported, TaskError> {
        let (step, progress, fence, now) = (course.advance(next), found.to_json(), ctx.fence, self.clock.now());
        let pass = self
            .db
            .write(move |conn| Box::pin(async move { renewal::pass(conn, &fence, &step, &progress, now).await }));
        pass.await.map_err(|err| store_error(err, ctx))?;
        course.move_to(next);
        Ok(found)
    }
}

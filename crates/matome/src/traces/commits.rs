//! The commits of a process that has one task alone, on their way to its parent: that knows the attempt that they belong to, and
//! has the collector.

use std::fmt::Debug;

use matome_tasks::trace::{self, PAGE, PUBLISH};
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::now;

/// A commit, in microseconds since 1970.
#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Commit {
    /// Of a page; none of what shows a run.
    records: Option<u64>,
    since_us: i64,
    until_us: i64,
}

impl Commit {
    /// Tells it as one of the attempt that runs here.
    pub fn tell(&self) {
        trace::committed(self.records, self.since_us, self.until_us);
    }
}

impl Visit for Commit {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "records" {
            self.records = Some(value);
        }
    }
}

/// Hands each commit on once it is made.
pub struct Commits<F>(pub F);

impl<S, F> Layer<S> for Commits<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: Fn(Commit) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if !is_commit(attributes.metadata()) {
            return;
        }
        let mut commit = Commit { since_us: microseconds(), ..Commit::default() };
        attributes.record(&mut commit);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(commit);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let commit = context.span(&id).and_then(|span| span.extensions_mut().remove::<Commit>());
        if let Some(commit) = commit {
            (self.0)(Commit { until_us: microseconds(), ..commit });
        }
    }
}

fn is_commit(of: &Metadata<'_>) -> bool {
    of.target() == trace::TARGET && [PAGE, PUBLISH].contains(&of.name())
}

fn microseconds() -> i64 {
    i64::try_from(now() / 1000).unwrap_or(i64::MAX)
}

//! Traces: the spans of [`matome_tasks::trace`], on their way to a collector that speaks OTLP.

mod commits;
mod export;

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

use matome_tasks::trace::TARGET;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, Layer};
use tracing_subscriber::registry::LookupSpan;
use uuid::Uuid;

pub use commits::{Commit, Commits};
pub use export::{Collector, Export};

/// Spans that wait to be sent; what comes when so many wait is dropped and counted.
const WAITING: usize = 8192;

/// A layer that collects spans, and what sends them.
pub fn start(collector: Collector) -> (TraceLayer, Export) {
    let (sender, receiver) = mpsc::channel(WAITING);
    dropped(0);
    (TraceLayer { sender }, Export::new(collector, receiver))
}

/// Counts spans that are lost.
fn dropped(spans: usize) {
    metrics::counter!("matome_trace_spans_dropped_total").increment(u64::try_from(spans).unwrap_or(u64::MAX));
}

/// Makes spans of OTLP out of those of tracing. It never waits.
pub struct TraceLayer {
    sender: mpsc::Sender<Span>,
}

/// Lets only our spans through.
pub struct Ours;

impl<S> Filter<S> for Ours {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        metadata.target() == TARGET
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TraceLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut open = Open::new(span.name());
        attributes.record(&mut open);
        if open.is_whole {
            open.span.span_id = std::mem::take(&mut open.span.parent_span_id);
        }
        if open.span.trace_id.is_empty() {
            // One without a task belongs to the attempt that it is in.
            let parent = span.parent();
            let Some(parent) = parent.as_ref().map(|parent| parent.extensions()) else { return };
            let Some(parent) = parent.get::<Open>() else { return };
            open.span.trace_id.clone_from(&parent.span.trace_id);
            open.span.parent_span_id.clone_from(&parent.span.span_id);
        }
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(open) = span.extensions_mut().get_mut::<Open>()
        {
            values.record(open);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(mut open) = context.span(&id).and_then(|span| span.extensions_mut().remove::<Open>()) else { return };
        if open.span.end_time_unix_nano == 0 {
            open.span.end_time_unix_nano = now();
        }
        if self.sender.try_send(open.span).is_err() {
            dropped(1);
        }
    }
}

/// A span that has not ended.
struct Open {
    span: Span,
    /// All others of its trace are in it. Its id is known to all of them.
    is_whole: bool,
}

impl Open {
    fn new(name: &str) -> Self {
        let span_id = rand::random::<u64>().max(1).to_be_bytes().to_vec();
        let (name, kind) = (name.to_owned(), SpanKind::Internal.into());
        let span = Span { name, span_id, kind, start_time_unix_nano: now(), ..Span::default() };
        Self { span, is_whole: false }
    }

    fn attribute(&mut self, field: &Field, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.span.attributes.push(KeyValue { key: field.name().to_owned(), value, ..KeyValue::default() });
    }

    fn text(&mut self, field: &Field, text: &str) {
        match (field.name(), Uuid::parse_str(text)) {
            ("task.uuid", Ok(uuid)) => {
                let (trace, first) = (uuid.as_bytes(), &uuid.as_bytes()[..8]);
                self.span.trace_id = trace.to_vec();
                self.span.parent_span_id = first.to_vec();
            }
            ("error", _) => {
                self.span.status = Some(Status { message: text.to_owned(), code: StatusCode::Error.into() });
            }
            _ => {}
        }
        self.attribute(field, Value::StringValue(text.to_owned()));
    }
}

impl Visit for Open {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        match field.name() {
            // It began before it was told.
            "since_us" => self.span.start_time_unix_nano = nanoseconds(value),
            // It ended before it was told.
            "until_us" => self.span.end_time_unix_nano = nanoseconds(value),
            _ => self.attribute(field, Value::IntValue(value)),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_i64(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "is_whole" => self.is_whole = value,
            _ => self.attribute(field, Value::BoolValue(value)),
        }
    }
}

fn nanoseconds(microseconds: i64) -> u64 {
    u64::try_from(microseconds).unwrap_or(0).saturating_mul(1000)
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn spans_of_a_task_are_one_trace_and_more_than_fit_are_dropped() {
        let (sender, mut receiver) = mpsc::channel(3);
        let subscriber = tracing_subscriber::registry().with(TraceLayer { sender }.with_filter(Ours));
        let task = Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
        tracing::subscriber::with_default(subscriber, || {
            let attempt = tracing::info_span!(target: TARGET, parent: None, "attempt", task.uuid = %task, error = tracing::field::Empty);
            attempt.in_scope(|| {
                // What logs show stands between.
                tracing::info_span!("for the log").in_scope(|| {
                    drop(tracing::info_span!(target: TARGET, "page.commit", records = 7));
                });
            });
            attempt.record("error", "deadline");
            drop(attempt);
            let since_us = 1_000_000;
            drop(
                tracing::info_span!(target: TARGET, parent: None, "task", is_whole = true, task.uuid = %task, since_us),
            );
            drop(tracing::info_span!(target: TARGET, parent: None, "one too many", task.uuid = %task));
            drop(tracing::info_span!(target: TARGET, parent: None, "of no task"));
        });
        let [page, attempt, whole] = std::array::from_fn(|_| receiver.try_recv().expect("three were kept"));
        assert!(receiver.try_recv().is_err());
        for span in [&page, &attempt, &whole] {
            assert_eq!(span.trace_id, task.as_bytes(), "{span:?}");
            assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
        }
        assert_eq!((whole.span_id.as_slice(), whole.parent_span_id.len()), (&task.as_bytes()[..8], 0));
        assert_eq!(whole.start_time_unix_nano, 1_000_000_000);
        assert_eq!((&attempt.parent_span_id, &page.parent_span_id), (&whole.span_id, &attempt.span_id));
        assert_eq!(attempt.status.map(|status| status.message), Some("deadline".to_owned()));
        assert_eq!(page.attributes[0].value, Some(AnyValue { value: Some(Value::IntValue(7)) }));
    }
}

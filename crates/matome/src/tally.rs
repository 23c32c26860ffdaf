//! What a child process counts, on its way to the metrics of its parent: nobody can ask a child that lives as long as one task.
//!
//! The child counts here instead of in a recorder of its own; its parent adds what comes to what it counts itself. Gauges are
//! not carried: they say how a process is, and that of a child is not its parent's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
};
use serde::{Deserialize, Serialize};

/// Values of one histogram that are kept between two reports; of more, the first are.
const VALUES: usize = 1024;

/// A metric by name and labels.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
struct Name {
    name: String,
    labels: Vec<(String, String)>,
}

impl Name {
    fn of(key: &Key) -> Self {
        let label = |label: &Label| (label.key().to_owned(), label.value().to_owned());
        Self { name: key.name().to_owned(), labels: key.labels().map(label).collect() }
    }

    fn labels(&self) -> Vec<Label> {
        self.labels.iter().map(|(key, value)| Label::new(key.clone(), value.clone())).collect()
    }
}

/// What was counted since the last report.
#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Counted {
    counters: Vec<(Name, u64)>,
    histograms: Vec<(Name, Vec<f64>)>,
}

impl Counted {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty() && self.histograms.is_empty()
    }

    /// Adds all of it to the metrics of this process.
    pub fn add(self) {
        for (name, n) in self.counters {
            metrics::counter!(name.name.clone(), name.labels()).increment(n);
        }
        for (name, values) in self.histograms {
            let histogram = metrics::histogram!(name.name.clone(), name.labels());
            values.into_iter().for_each(|value| histogram.record(value));
        }
    }
}

#[derive(Debug, Default)]
struct Sums {
    counters: BTreeMap<Name, u64>,
    histograms: BTreeMap<Name, Vec<f64>>,
}

/// Counts for the parent. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<Sums>>);

impl Tally {
    /// What was counted since it was last asked.
    pub fn take(&self) -> Counted {
        let sums = std::mem::take(&mut *self.sums());
        Counted {
            counters: sums.counters.into_iter().filter(|(_, n)| *n > 0).collect(),
            histograms: sums.histograms.into_iter().collect(),
        }
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct One(Tally, Name);

impl CounterFn for One {
    fn increment(&self, value: u64) {
        *self.0.sums().counters.entry(self.1.clone()).or_default() += value;
    }

    fn absolute(&self, value: u64) {
        let mut sums = self.0.sums();
        let counter = sums.counters.entry(self.1.clone()).or_default();
        *counter = value.max(*counter);
    }
}

impl HistogramFn for One {
    fn record(&self, value: f64) {
        let mut sums = self.0.sums();
        let values = sums.histograms.entry(self.1.clone()).or_default();
        if values.len() < VALUES {
            values.push(value);
        }
    }
}

impl Recorder for Tally {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(One(self.clone(), Name::of(key))))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(One(self.clone(), Name::of(key))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_counted_is_told_once_and_arrives_as_it_was() {
        let (child, parent) = (Tally::default(), Tally::default());
        metrics::with_local_recorder(&child, || {
            metrics::counter!("rows", "outcome" => "stored").increment(3);
            metrics::counter!("rows", "outcome" => "stored").increment(2);
            metrics::counter!("rows", "outcome" => "duplicate").increment(0);
            metrics::histogram!("seconds").record(0.25);
            metrics::gauge!("open").set(1.0);
        });
        let told = serde_json::to_string(&child.take()).expect("JSON");
        assert!(child.take().is_empty(), "it is told once");
        let heard: Counted = serde_json::from_str(&told).expect("what was written");
        metrics::with_local_recorder(&parent, || heard.add());
        let name = |name: &str, labels: &[(&str, &str)]| Name {
            name: name.to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        let expected = Counted {
            counters: vec![(name("rows", &[("outcome", "stored")]), 5)],
            histograms: vec![(name("seconds", &[]), vec![0.25])],
        };
        assert_eq!(parent.take(), expected);
    }
}

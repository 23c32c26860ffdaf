//! The metrics of tasks once more, under the names and labels that celery-exporter has: dashboards and alerts that ask for
//! these go on. They are read off the text of our own, so nothing is counted twice, and nothing where they are not wanted.
//!
//! celery-exporter (danihodovic) tells all workers of a broker; here each process tells what it did itself, as everywhere.
//! Their sum is the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use matome_model::task::Queue;
use matome_store::pulse::{Pulse, WorkerHost};

/// How the names begin of what is told once more.
const OF_TASKS: &str = "matome_task";

/// What stands in the labels.
#[derive(Clone, Debug)]
pub struct CeleryNames {
    /// The machine.
    pub hostname: String,
    /// The Python tasks that are called in each queue.
    pub tasks: Vec<(Queue, String)>,
}

impl CeleryNames {
    fn task(&self, queue: Queue) -> &str {
        self.tasks.iter().find(|(of, _)| *of == queue).map_or(queue.as_str(), |(_, task)| task)
    }
}

/// The lines of one metric.
#[derive(Default)]
struct Family {
    kind: &'static str,
    /// By name and labels.
    samples: BTreeMap<String, f64>,
    /// In the order in which they came: buckets of a histogram stay in theirs.
    order: Vec<String>,
}

#[derive(Default)]
struct Families(BTreeMap<&'static str, Family>);

impl Families {
    fn add(&mut self, family: &'static str, kind: &'static str, sample: String, value: f64) {
        let family = self.0.entry(family).or_default();
        family.kind = kind;
        if !family.samples.contains_key(&sample) {
            family.order.push(sample.clone());
        }
        *family.samples.entry(sample).or_default() += value;
    }

    fn text(self) -> String {
        let mut text = String::new();
        for (name, family) in self.0 {
            let _ = writeln!(text, "\n# TYPE {name} {}", family.kind);
            for sample in family.order {
                let _ = writeln!(text, "{sample} {}", family.samples[&sample]);
            }
        }
        text
    }
}

/// `text` says what this process counted; `fleet` what the database says of all, when it answers.
pub(crate) fn translate(text: &str, names: &CeleryNames, fleet: Option<&(Pulse, Vec<WorkerHost>)>) -> String {
    let mut families = Families::default();
    for line in text.lines().filter(|line| line.starts_with(OF_TASKS)) {
        let Some(Sample { name, labels, value }) = Sample::read(line) else { continue };
        let label = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let Some(queue) = label("queue").and_then(Queue::parse) else { continue };
        let ours =
            format!("name=\"{}\",hostname=\"{}\",queue_name=\"{queue}_queue\"", names.task(queue), names.hostname);
        let mut count = |family: &'static str| families.add(family, "counter", format!("{family}{{{ours}}}"), value);
        match (name, label("outcome")) {
            ("matome_tasks_accepted_total", _) => count("celery_task_sent_total"),
            ("matome_task_wait_seconds_count", _) => {
                count("celery_task_received_total");
                count("celery_task_started_total");
            }
            ("matome_task_slots", _) => {
                let (family, queue) = ("celery_active_process_count", format!("{queue}_queue"));
                families.add(family, "gauge", format!("{family}{{queue_name=\"{queue}\"}}"), value);
            }
            ("matome_tasks_finished_total", Some("succeeded")) => count("celery_task_succeeded_total"),
            ("matome_tasks_finished_total", Some("retry")) => count("celery_task_retried_total"),
            ("matome_tasks_finished_total", Some("cancelled")) => count("celery_task_revoked_total"),
            ("matome_tasks_failed_total", _) => {
                let (family, reason) = ("celery_task_failed_total", label("reason").unwrap_or_default());
                families.add(family, "counter", format!("{family}{{{ours},exception=\"{reason}\"}}"), value);
            }
            (name, Some("succeeded")) => {
                let Some(part) = name.strip_prefix("matome_task_duration_seconds") else { continue };
                let le = label("le").map_or_else(String::new, |le| format!(",le=\"{le}\""));
                let sample = format!("celery_task_runtime{part}{{{ours}{le}}}");
                families.add("celery_task_runtime", "histogram", sample, value);
            }
            _ => {}
        }
    }
    if let Some((pulse, hosts)) = fleet {
        tell_fleet(&mut families, pulse, hosts);
    }
    families.text()
}

fn tell_fleet(families: &mut Families, pulse: &Pulse, hosts: &[WorkerHost]) {
    let mut gauge = |family: &'static str, label: &str, of: &str, value: i64| {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is no exact number above 2^53")]
        families.add(family, "gauge", format!("{family}{{{label}=\"{of}\"}}"), value as f64);
    };
    for state in &pulse.queues {
        let queue = format!("{}_queue", state.queue);
        let serves = |role: &str| role == "serve" || role.split(',').any(|one| one == state.queue.as_str());
        let workers = pulse.roles.iter().filter(|role| serves(&role.role)).map(|role| role.processes).sum();
        gauge("celery_queue_length", "queue_name", &queue, state.due);
        gauge("celery_active_worker_count", "queue_name", &queue, workers);
    }
    for host in hosts {
        gauge("celery_worker_up", "hostname", &host.host, i64::from(host.is_up));
        gauge("celery_worker_tasks_active", "hostname", &host.host, host.tasks);
    }
}

/// A line.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    value: f64,
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (key, value) = line.rsplit_once(' ')?;
        let (name, labels) = key.split_once('{')?;
        let pairs = labels.strip_suffix('}')?.split("\",").filter_map(|pair| pair.split_once("=\""));
        let labels = pairs.map(|(name, value)| (name, value.trim_end_matches('"'))).collect();
        Some(Self { name, labels, value: value.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_times_are_found_under_the_other_names() {
        let text = "# TYPE matome_tasks_finished_total counter\n\
            matome_tasks_accepted_total{queue=\"acquisition\",cause=\"schedule\"} 3\n\
            matome_tasks_accepted_total{queue=\"acquisition\",cause=\"manual\"} 2\n\
            matome_tasks_finished_total{queue=\"acquisition\",outcome=\"succeeded\"} 4\n\
            matome_tasks_finished_total{queue=\"acquisition\",outcome=\"released\"} 9\n\
            matome_tasks_failed_total{queue=\"acquisition\",reason=\"http_status\"} 1\n\
            matome_task_wait_seconds_count{queue=\"acquisition\"} 5\n\
            matome_task_slots{queue=\"acquisition\"} 8\n\
            matome_task_duration_seconds_bucket{queue=\"acquisition\",outcome=\"succeeded\",le=\"0.5\"} 3\n\
            matome_task_duration_seconds_bucket{queue=\"acquisition\",outcome=\"succeeded\",le=\"+Inf\"} 4\n\
            matome_task_duration_seconds_bucket{queue=\"acquisition\",outcome=\"failed\",le=\"+Inf\"} 1\n\
            matome_task_duration_seconds_sum{queue=\"acquisition\",outcome=\"succeeded\"} 1.25\n\
            matome_task_duration_seconds_count{queue=\"acquisition\",outcome=\"succeeded\"} 4\n";
        let names =
            CeleryNames { hostname: "alpha".to_owned(), tasks: vec![(Queue::Acquisition, "tasks.fetch".to_owned())] };
        let labels = "name=\"tasks.fetch\",hostname=\"alpha\",queue_name=\"acquisition_queue\"";
        let translated = translate(text, &names, None);
        for wanted in [
            format!("celery_task_sent_total{{{labels}}} 5"),
            format!("celery_task_received_total{{{labels}}} 5"),
            format!("celery_task_started_total{{{labels}}} 5"),
            format!("celery_task_succeeded_total{{{labels}}} 4"),
            format!("celery_task_failed_total{{{labels},exception=\"http_status\"}} 1"),
            "# TYPE celery_task_runtime histogram".to_owned(),
            format!("celery_task_runtime_bucket{{{labels},le=\"0.5\"}} 3"),
            format!("celery_task_runtime_bucket{{{labels},le=\"+Inf\"}} 4"),
            format!("celery_task_runtime_sum{{{labels}}} 1.25"),
            format!("celery_task_runtime_count{{{labels}}} 4"),
            "# TYPE celery_active_process_count gauge".to_owned(),
            "celery_active_process_count{queue_name=\"acquisition_queue\"} 8".to_owned(),
        ] {
            assert_eq!(translated.lines().filter(|line| *line == wanted).count(), 1, "{wanted}\n{translated}");
        }
        assert!(!translated.contains("released") && !translated.contains("revoked"), "{translated}");
    }
}

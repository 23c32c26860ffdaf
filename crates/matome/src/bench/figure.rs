//! One measured figure, beside its peer and its budget, and the table of them.

use serde_json::json;
use serde_json::value::to_raw_value;

use super::usage::Usage;
use crate::cli::{Format, OutputArgs};
use crate::console::Console;
use crate::failure::Failure;
use crate::output::{Column, Row, print_rows};

const COLUMNS: &[Column] = &[
    ("what", &["what"]),
    ("database", &["database"]),
    ("figure", &["figure"]),
    ("peer", &["peer"]),
    ("ratio", &["ratio"]),
    ("budget", &["budget"]),
    ("met", &["met"]),
    ("CPU s", &["cpu"]),
    ("per CPU s", &["per_cpu_second"]),
    ("peak MiB", &["peak"]),
    ("note", &["note"]),
];

/// What a figure must reach.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    AtLeast(f64),
    AtMost(f64),
    /// So much of the peer at least.
    OfPeer(f64),
}

/// Somebody else doing the same in the same run.
#[derive(Clone, Debug)]
pub struct Peer {
    pub name: &'static str,
    pub value: f64,
    pub usage: Usage,
}

/// A measured figure.
#[derive(Clone, Debug)]
pub struct Figure {
    pub group: &'static str,
    pub what: String,
    /// `sqlite`, `postgres`, or nothing.
    pub database: &'static str,
    pub value: f64,
    pub unit: &'static str,
    pub peer: Option<Peer>,
    pub budget: Option<Budget>,
    pub usage: Usage,
    pub note: String,
}

impl Figure {
    pub fn new(group: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            group,
            what: what.into(),
            database: "",
            value,
            unit,
            peer: None,
            budget: None,
            usage: Usage::default(),
            note: String::new(),
        }
    }

    pub fn on(mut self, database: &'static str) -> Self {
        self.database = database;
        self
    }

    pub fn beside(mut self, peer: Option<Peer>) -> Self {
        self.peer = peer;
        self
    }

    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    pub fn cost(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().filter(|peer| peer.value > 0.0).map(|peer| self.value / peer.value)
    }

    /// Whether the budget is met; nothing where there is none, or its peer is not here.
    fn is_met(&self) -> Option<bool> {
        match self.budget? {
            Budget::AtLeast(least) => Some(self.value >= least),
            Budget::AtMost(most) => Some(self.value <= most),
            Budget::OfPeer(share) => self.ratio().map(|ratio| ratio >= share),
        }
    }

    /// Whether it says how many of something there were in a second.
    fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }

    fn row(&self, format: Format) -> Row {
        let budget = self.budget.map(|budget| match budget {
            Budget::AtLeast(least) => format!("at least {} {}", short(least), self.unit),
            Budget::AtMost(most) => format!("at most {} {}", short(most), self.unit),
            Budget::OfPeer(times) if times > 1.0 => format!("{times} times the peer"),
            Budget::OfPeer(share) => format!("{share} of the peer"),
        });
        let (cpu, peak) = (self.usage.cpu, self.usage.peak_mib);
        let peer = self.peer.as_ref();
        let per_cpu_second = |value, usage: &Usage| self.is_rate().then(|| of_cpu(value, usage)).flatten();
        let own_rate = per_cpu_second(self.value, &self.usage);
        let peer_rate = peer.and_then(|peer| per_cpu_second(peer.value, &peer.usage));
        let row = if matches!(format, Format::Json | Format::Ndjson | Format::Yaml) {
            json!({
                "group": self.group, "what": self.what, "database": self.database, "value": self.value,
                "unit": self.unit, "budget": budget, "met": self.is_met(), "ratio": self.ratio(),
                "wall_seconds": self.usage.wall.as_secs_f64(), "cpu_seconds": cpu, "per_cpu_second": own_rate,
                "peak_mib": peak,
                "peer": peer.map(|peer| json!({
                    "name": peer.name, "value": peer.value, "wall_seconds": peer.usage.wall.as_secs_f64(),
                    "cpu_seconds": peer.usage.cpu, "per_cpu_second": peer_rate, "peak_mib": peer.usage.peak_mib,
                })),
                "note": self.note,
            })
        } else {
            let pair = |own: Option<f64>, of_peer: Option<f64>, digits: usize| match (own, of_peer) {
                (None, None) => None,
                (own, None) => own.map(|own| format!("{own:.digits$}")),
                (own, Some(of_peer)) => Some(format!("{:.digits$} / {of_peer:.digits$}", own.unwrap_or(f64::NAN))),
            };
            json!({
                "what": self.what, "database": self.database,
                "figure": format!("{} {}", short(self.value), self.unit),
                "peer": peer.map(|peer| format!("{} {}: {}", short(peer.value), self.unit, peer.name)),
                "ratio": self.ratio().map(|ratio| format!("{ratio:.2}")),
                "budget": budget,
                "met": self.is_met().map(|met| if met { "yes" } else { "NO" }),
                "cpu": pair(cpu, peer.and_then(|peer| peer.usage.cpu), 1),
                "per_cpu_second": pair(own_rate, peer_rate, 0),
                "peak": pair(peak, peer.and_then(|peer| peer.usage.peak_mib), 0),
                "note": self.note,
            })
        };
        to_raw_value(&row).expect("text and numbers are JSON")
    }
}

/// What there was in a second, for a second of CPU time.
fn of_cpu(per_second: f64, usage: &Usage) -> Option<f64> {
    usage.cpu.filter(|cpu| *cpu > 0.0).map(|cpu| per_second * usage.wall.as_secs_f64() / cpu)
}

/// Three digits, or all before the point.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Prints the table.
///
/// # Errors
/// When stdout cannot be written.
pub fn print(console: &Console, output: &OutputArgs, figures: &[Figure]) -> Result<(), Failure> {
    let rows: Vec<Row> = figures.iter().map(|figure| figure.row(output.output)).collect();
    print_rows(console, output, &rows, COLUMNS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_met_by_the_figure_or_by_its_ratio_to_the_peer() {
        let peer = Peer { name: "other", value: 100.0, usage: Usage::default() };
        let figure = |value| Figure::new("group", "what", value, "rows/s").beside(Some(peer.clone()));
        assert_eq!(figure(80.0).budget(Budget::OfPeer(0.8)).is_met(), Some(true));
        assert_eq!(figure(79.0).budget(Budget::OfPeer(0.8)).is_met(), Some(false));
        assert_eq!(figure(79.0).beside(None).budget(Budget::OfPeer(0.8)).is_met(), None);
        assert_eq!(figure(5.0).budget(Budget::AtMost(5.0)).is_met(), Some(true));
        assert_eq!(figure(5.0).budget(Budget::AtLeast(5.1)).is_met(), Some(false));
        assert_eq!(figure(5.0).is_met(), None);
    }

    #[test]
    fn a_rate_is_told_for_a_second_of_cpu_time_too_and_a_time_is_not() {
        let usage = |cpu| Usage { wall: std::time::Duration::from_secs(4), cpu: Some(cpu), peak_mib: None };
        let peer = Peer { name: "other", value: 100.0, usage: usage(8.0) };
        let told = |unit| {
            let figure = Figure::new("group", "what", 300.0, unit).beside(Some(peer.clone())).cost(usage(2.0));
            serde_json::from_str::<serde_json::Value>(figure.row(Format::Json).get()).unwrap()
        };
        let rate = told("rows/s");
        assert_eq!((&rate["per_cpu_second"], &rate["peer"]["per_cpu_second"]), (&json!(600.0), &json!(50.0)));
        assert_eq!(told("s")["per_cpu_second"], json!(null));
        assert_eq!(of_cpu(300.0, &usage(0.0)), None, "less than a tick");
    }
}

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

    fn row(&self, format: Format) -> Row {
        let budget = self.budget.map(|budget| match budget {
            Budget::AtLeast(least) => format!("at least {} {}", short(least), self.unit),
            Budget::AtMost(most) => format!("at most {} {}", short(most), self.unit),
            Budget::OfPeer(share) => format!("{share} of the peer"),
        });
        let (cpu, peak) = (self.usage.cpu, self.usage.peak_mib);
        let peer = self.peer.as_ref();
        let row = if matches!(format, Format::Json | Format::Ndjson | Format::Yaml) {
            json!({
                "group": self.group, "what": self.what, "database": self.database, "value": self.value,
                "unit": self.unit, "budget": budget, "met": self.is_met(), "ratio": self.ratio(),
                "wall_seconds": self.usage.wall.as_secs_f64(), "cpu_seconds": cpu, "peak_mib": peak,
                "peer": peer.map(|peer| json!({
                    "name": peer.name, "value": peer.value, "wall_seconds": peer.usage.wall.as_secs_f64(),
                    "cpu_seconds": peer.usage.cpu, "peak_mib": peer.usage.peak_mib,
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
                "peak": pair(peak, peer.and_then(|peer| peer.usage.peak_mib), 0),
                "note": self.note,
            })
        };
        to_raw_value(&row).expect("text and numbers are JSON")
    }
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
}

//! How much of the workers' time a source gets: `priority` and `weight`.

use matome_model::task::{Priority, Share};

use super::Fields;

/// Takes the options.
pub(super) fn parse(fields: &mut Fields) -> Share {
    let words = Priority::ALL.iter().map(|priority| (priority.as_str(), *priority)).collect::<Vec<_>>();
    let default = Share::default();
    let priority = fields.choice("priority", &words).unwrap_or(default.priority);
    let weight = fields.integer("weight", 1, u64::from(Share::MAX_WEIGHT));
    Share { priority, weight: weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(default.weight) }
}

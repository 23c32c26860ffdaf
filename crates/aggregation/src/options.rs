//! What whoever starts a run asks of it; kept as the task's payload.

use serde::{Deserialize, Serialize};

/// The options of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOptions {
    /// Show the rows of this run alone, whatever the aggregation's mode.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// Values of parameters by name.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub params: serde_json::Map<String, serde_json::Value>,
}

impl RunOptions {
    /// Reads a task's payload. What it does not know is for others.
    ///
    /// # Errors
    /// When it is no object, or an option is of another type.
    pub fn parse(payload: &serde_json::value::RawValue) -> Result<Self, serde_json::Error> {
        serde_json::from_str(payload.get())
    }
}

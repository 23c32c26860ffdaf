//! What the checkpoint of a `database` source says.

use serde::{Deserialize, Serialize};

/// Where a read is. Values are in the database's own text, exact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) version: u32,
    /// Everything was read; the next read starts anew, or behind the mark.
    pub(super) complete: bool,
    /// When this read began, by the clock of the database: what no mark passes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) began: String,
    /// The mark: the highest cursor below which nothing is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) high: Option<String>,
    /// What the row that was read last has in the columns of the order; null for a row without a cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<Vec<Option<String>>>,
}

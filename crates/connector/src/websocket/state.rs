//! What the checkpoint of a `websocket` source says.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Gaps that are kept one by one, the latest ones.
const GAP_LIMIT: usize = 100;

/// A time in which messages may have been sent that nobody can send again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When something was heard last, RFC 3339.
    pub from: String,
    /// When the next connection stood.
    pub until: String,
    /// Why: `closed`, `broken`, `silence`, `unreadable` or `stopped` (no task was listening).
    pub reason: String,
    /// The code with which the source closed a WebSocket (RFC 6455, section 7.4), if it gave one.
    #[serde(default)]
    pub code: Option<u16>,
    /// What it said about it.
    #[serde(default)]
    pub message: Option<String>,
}

/// Where a stream is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) version: u32,
    /// What is listened to; a state of another scope says nothing.
    pub(super) scope: String,
    /// The cursor of the last message, as JSON, or the id of the last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<Box<RawValue>>,
    /// Records of messages behind it that are committed already.
    #[serde(default)]
    pub(super) taken: u64,
    /// Until when nothing was missed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) heard: Option<String>,
    /// Messages that had nothing where the records are.
    #[serde(default)]
    pub(super) passed_over: u64,
    /// How many gaps there were in all.
    #[serde(default)]
    pub(super) gaps: u64,
    /// The latest of them.
    #[serde(default)]
    pub(super) latest_gaps: Vec<Gap>,
    /// A message behind this token could not be read; `null` when there was no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unreadable: Option<Box<RawValue>>,
}

impl State {
    pub(super) fn add_gap(&mut self, gap: Gap) {
        self.gaps += 1;
        if self.latest_gaps.len() >= GAP_LIMIT {
            self.latest_gaps.remove(0);
        }
        self.latest_gaps.push(gap);
    }
}

/// How many gaps a stream had, and the latest of them, by the state of its checkpoint.
pub fn gaps_of(state: &RawValue) -> (u64, Vec<Gap>) {
    let state: State = serde_json::from_str(state.get()).unwrap_or_default();
    (state.gaps, state.latest_gaps)
}

//! What a task has done so far: its result, its progress, and what the metrics say of it.

use matome_connector::QuarantineLimit;
use matome_store::acquired_data::PageCounts;
use matome_store::acquired_data::renewal::RenewalCounts;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::prepare::{Prepared, Told};

/// The counts of a task, as its result and its progress show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Counts {
    /// Records read, bad ones included.
    pub(crate) read: u64,
    /// New records, new versions included.
    pub(crate) stored: u64,
    /// Of these, new versions of a key that was stored before.
    pub(crate) updated: u64,
    /// Records that were stored before.
    pub(crate) duplicate: u64,
    /// Records that cannot be stored.
    pub(crate) quarantined: u64,
    /// Records that were read and break the schema or a rule whose policy is `warn`.
    pub(crate) warned: u64,
    /// Records read that came back from quarantine.
    pub(crate) replayed: u64,
    /// Pages with records that the source gave and that were committed.
    pub(crate) pages: u64,
    /// HTTP requests that were answered.
    pub(crate) requests: u64,
    /// Those answered with "304 Not Modified".
    pub(crate) not_modified: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Gaps of a stream that cannot be resumed; only streams have any.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) gaps: u64,
    /// Stored records that were looked at again and are as they were.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unchanged: u64,
    /// Those that got another content, identity or version.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) changed: u64,
    /// Keys that the source had no more, each with its tombstone; only sources with `deletes` have any.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) deleted: u64,
    /// Why this read says nothing of keys that did not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deletes_withheld: Option<Withheld>,
}

/// Why a whole read cannot tell which keys are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Withheld {
    /// A record went to quarantine whose key cannot be read.
    Quarantined,
    /// Something of the source was passed over, or said not to have changed.
    Partial,
}

impl Withheld {
    pub(crate) fn of(prepared: &Prepared) -> Option<Self> {
        if prepared.quarantined.iter().any(|bad| bad.key.is_none()) {
            Some(Self::Quarantined)
        } else if prepared.told.stats.is_partial || prepared.told.stats.not_modified > 0 {
            Some(Self::Partial)
        } else {
            None
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks like this")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Counts {
    pub(crate) fn add(&mut self, page: PageCounts, told: Told) {
        let Told { stats, warned, pages } = told;
        self.read += page.read;
        self.stored += page.stored;
        self.updated += page.updated;
        self.duplicate += page.duplicate;
        self.quarantined += page.quarantined;
        self.warned += warned;
        self.pages += pages;
        self.requests += stats.requests;
        self.not_modified += stats.not_modified;
        self.bytes += stats.bytes;
        self.gaps += stats.gaps;
        self.deleted += page.deleted;
    }

    /// Whether more is bad than the source may have.
    pub(crate) fn exceed(&self, limit: QuarantineLimit) -> bool {
        /// Of fewer records a share says little.
        const ENOUGH: u64 = 100;
        #[expect(clippy::cast_precision_loss, reason = "a share of counts; nothing is stored of it")]
        let is_above = |ratio: f64| self.quarantined as f64 > ratio * self.read as f64;
        limit.max_records.is_some_and(|most| self.quarantined > most)
            || (self.read >= ENOUGH && limit.max_ratio.is_some_and(is_above))
    }

    /// Adds a page of records that came back from quarantine.
    pub(crate) fn add_replayed(&mut self, page: PageCounts, told: Told) {
        self.add(page, told);
        self.replayed += page.read;
    }

    /// Adds a page without records of its own: of those that waited for the end of their read, or of tombstones.
    pub(crate) fn add_settled(&mut self, page: PageCounts) {
        self.add(page, Told::default());
    }

    /// Adds a page of stored records that were looked at again.
    pub(crate) fn add_renewed(&mut self, page: RenewalCounts, read: u64, warned: u64) {
        self.read += read;
        self.unchanged += page.unchanged;
        self.changed += page.changed;
        self.quarantined += page.quarantined;
        self.warned += warned;
        self.pages += u64::from(read > 0);
    }

    pub(crate) fn to_json(self) -> Box<RawValue> {
        serde_json::value::to_raw_value(&self).expect("numbers are JSON")
    }
}

/// Adds to the metrics what this attempt did.
pub(crate) fn count_records(earlier: &Counts, counts: &Counts) {
    for (outcome, records) in [
        ("stored", counts.stored - earlier.stored),
        ("duplicate", counts.duplicate - earlier.duplicate),
        ("quarantined", counts.quarantined - earlier.quarantined),
        ("warned", counts.warned - earlier.warned),
    ] {
        metrics::counter!("matome_acquisition_records_total", "outcome" => outcome).increment(records);
    }
    metrics::counter!("matome_acquisition_updated_records_total").increment(counts.updated - earlier.updated);
    let unchanged = counts.not_modified - earlier.not_modified;
    let requests = counts.requests - earlier.requests;
    for (answer, requests) in [("full", requests.saturating_sub(unchanged)), ("not_modified", unchanged)] {
        metrics::counter!("matome_acquisition_requests_total", "answer" => answer).increment(requests);
    }
    metrics::counter!("matome_acquisition_read_bytes_total").increment(counts.bytes - earlier.bytes);
    metrics::counter!("matome_acquisition_stream_gaps_total").increment(counts.gaps - earlier.gaps);
}

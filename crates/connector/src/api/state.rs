//! What the checkpoint of an `api` source says.

use serde::{Deserialize, Serialize};

use super::parents::ParentValues;

/// Pages whose validators are kept.
const PAGE_LIMIT: usize = 1_000;

/// Where a read is, and what the server said about each page.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) version: u32,
    /// What the pages depend on; a state of another scope says nothing.
    pub(super) scope: String,
    /// Everything was read; the next read starts at the first page.
    pub(super) complete: bool,
    /// The page to read next, without secrets.
    pub(super) at: Option<String>,
    /// Records of that page that are committed already.
    pub(super) records: u64,
    /// Of complete pages, by their names.
    pub(super) pages: Vec<Page>,
    /// When this read began: what `{now}` is, and what no mark passes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) began: String,
    /// The lower bound that this read asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<String>,
    /// The upper bound, where it asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<String>,
    /// The upper bound up to which all was read in steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) passed: Option<String>,
    /// The mark: the highest cursor below which nothing is missing, in the source's own text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) high: Option<String>,
    /// The highest cursor of this read so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) top: Option<String>,
    /// The cursor of the last record, where they rise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<String>,
    /// This read had records.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) has_records: bool,
    /// And one of them a cursor.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) has_cursor: bool,
    /// A page of this read was passed over.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) skipped: bool,
    /// The parent whose children are being read, or were read last when there is no page to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<ParentPlace>,
}

/// A parent record, and the page that has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ParentPlace {
    pub(super) at: String,
    pub(super) values: ParentValues,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks like this")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What makes a request for a page conditional, and where it led.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Page {
    pub(super) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_modified: Option<String>,
    /// The next page; the unchanged page would name it again.
    pub(super) next: Option<String>,
}

impl State {
    pub(super) fn page(&self, url: &str) -> Option<&Page> {
        self.pages.iter().find(|page| page.url == url)
    }

    /// Keeps what is known about a page that is complete now, or forgets it when nothing is.
    pub(super) fn remember(&mut self, page: Page) {
        let known = page.etag.is_some() || page.last_modified.is_some();
        let place = self.pages.iter().position(|other| other.url == page.url);
        match (place, known) {
            (Some(place), true) => self.pages[place] = page,
            (Some(place), false) => drop(self.pages.remove(place)),
            (None, true) if self.pages.len() < PAGE_LIMIT => self.pages.push(page),
            (None, _) => {}
        }
    }

    /// The list goes on at another page, or has ended.
    pub(super) fn go_on(&mut self, at: Option<String>) {
        self.at = at;
        self.records = 0;
    }
}

//! Names of fields that say when a record changed.

use super::records::plain;

/// The likeliest first.
const CHANGES: [&str; 16] = [
    "updatedat",
    "modifiedat",
    "lastmodified",
    "lastmodifiedat",
    "changedat",
    "lastupdated",
    "lastupdatedat",
    "updated",
    "modified",
    "changed",
    "updatetime",
    "modifiedon",
    "updatedon",
    "updateddate",
    "modifieddate",
    "datemodified",
];

/// How likely a field of this name is one; the lower the better.
pub(crate) fn change_rank(name: &str) -> Option<usize> {
    let plain = plain(name);
    CHANGES.iter().position(|change| *change == plain)
}

//! What must hold for every input: the fuzz targets as plain functions, which panic when something does not hold.

#![allow(clippy::unwrap_used, reason = "a failing check panics")]

mod api;
mod canonical;
mod csv;
mod documents;
mod events;
mod files;
mod fixed;
mod listings;
mod messages;
mod ndjson;
mod probe;
mod push;
mod values;

use matome_connector::file::{self, FileConfig};
use matome_connector::{Item, ParsedConfig, validate_config};
use matome_model::source::SourceType;

pub use api::{pages, templates};
pub use canonical::canonical;
pub use csv::csv;
pub use documents::documents;
pub use events::events;
pub use files::{avro, packed, tables, xml};
pub use fixed::fixed;
pub use listings::listings;
pub use messages::messages;
pub use ndjson::ndjson;
pub use probe::probe;
pub use push::{bodies, signatures};
pub use values::values;

fn config(text: &str) -> FileConfig {
    match validate_config(SourceType::File, text).unwrap() {
        ParsedConfig::File(config) => *config,
        other => panic!("{other:?} is no config of a file"),
    }
}

/// Reads the bytes whole and in pieces; what is found must be the same.
///
/// The first byte says how long the pieces are, so that a fuzzer can choose.
fn items(config: &FileConfig, bytes: &[u8]) -> Vec<Item> {
    let whole = file::take_apart(config, [bytes]);
    let length = usize::from(bytes.first().copied().unwrap_or_default() % 7) + 1;
    for length in [length, 1] {
        let pieces = file::take_apart(config, bytes.chunks(length));
        assert_eq!(pieces, whole, "in pieces of {length} bytes");
    }
    let (items, problem) = whole;
    assert_eq!(problem, None, "nothing in a line or a row makes the rest of a file unreadable");
    for (n, item) in items.iter().enumerate() {
        assert_eq!(item.position().record, n as u64 + 1, "records are counted");
    }
    items
}

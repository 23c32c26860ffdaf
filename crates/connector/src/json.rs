//! Records out of JSON documents, as the bytes come.

mod path;
mod splitter;

pub(crate) use path::Step;
pub use path::{JsonPath, JsonPathError};
pub(crate) use splitter::Splitter;

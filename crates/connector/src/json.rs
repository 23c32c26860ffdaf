//! Records out of JSON documents, as the bytes come.

mod form;
mod path;
mod splitter;

pub use form::{Names, RecordForm};
pub(crate) use path::Step;
pub use path::{JsonPath, JsonPathError};
pub(crate) use splitter::Splitter;

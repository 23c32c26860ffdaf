//! Columns of Arrow as rows of JSON, exactly; and the files that hold such columns, Parquet.
//!
//! The only crate that knows this file format. It reads what it is given and neither opens nor connects to anything.

mod parquet_file;
mod rows;

pub use parquet_file::Parquet;
pub use rows::{Fault, RowWriter, Zoneless};

use matome_model::field_error::Words;

/// A row of a file.
#[derive(Debug)]
pub struct FileRow {
    /// A JSON object. Where a value has no form in JSON, its text.
    pub json: Vec<u8>,
    /// The first value that has none.
    pub fault: Option<Fault>,
}

/// A file that can not be read further.
#[derive(Debug)]
pub enum FileError {
    /// Its bytes do not come.
    Io(std::io::Error),
    /// They are not what the format says.
    Broken(Words),
}

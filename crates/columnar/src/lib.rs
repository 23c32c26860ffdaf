//! Columns of Arrow as rows of JSON, exactly; and the files whose values have such types: Parquet, and Avro, which holds rows.
//!
//! The only crate that knows these file formats. It reads what it is given and neither opens nor connects to anything.

mod avro;
mod parquet_file;
mod rows;
mod scalar;

pub use avro::Avro;
pub use parquet_file::Parquet;
pub use rows::{Fault, RowWriter, Zoneless};

use matome_model::field_error::Words;

/// A file whose rows are read one after the other.
pub trait FileRows {
    /// The next row, if there is one.
    ///
    /// # Errors
    /// When the file is broken there.
    fn next(&mut self) -> Result<Option<FileRow>, FileError>;
}

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

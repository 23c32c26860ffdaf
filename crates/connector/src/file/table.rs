//! Parquet and Avro, whose rows another crate takes apart.

use matome_columnar::{FileError, FileRow, FileRows};
use matome_model::canonical::QuarantineReason;
use matome_model::field_error::Words;

use crate::record::{Broken, DocumentError, Found, Pull};

/// How much a reader finds before it hands over.
const STEP_ROWS: usize = 1000;
const STEP_BYTES: usize = 1024 * 1024;

/// The rows of a file whose values have types.
pub(super) struct TypedRows<R>(pub(super) R);

impl<R: FileRows> Pull for TypedRows<R> {
    fn next(&mut self, found: &mut Found) -> Result<bool, Broken> {
        let mut bytes = 0;
        for _ in 0..STEP_ROWS {
            let Some(FileRow { json, fault }) = self.0.next()? else { return Ok(false) };
            bytes += json.len();
            match fault {
                None => found.record(None, json),
                Some(fault) => {
                    let (column, reason) = (&fault.column, &fault.reason);
                    let detail = Words::new(
                        format!("column `{column}`: {}", reason.english),
                        format!("列 `{column}`: {}", reason.japanese),
                    );
                    found.rejected(None, &json, QuarantineReason::Schema, detail);
                }
            }
            if bytes > STEP_BYTES {
                break;
            }
        }
        Ok(true)
    }
}

impl From<FileError> for Broken {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io(error) => Self::Io(error),
            FileError::Broken(problem) => Self::Document(DocumentError::anywhere(problem)),
        }
    }
}

//! Avro object container files (Apache Avro 1.12, "Object Container Files"), block by block in one pass.
//!
//! | type | JSON |
//! |---|---|
//! | int, long, decimal | the number with all its digits |
//! | float, double | the shortest number that reads back as the same float; NaN and infinity are faults |
//! | string, enum, boolean, null | themselves |
//! | date, time, timestamp | ISO 8601 text; timestamps with `Z`, local ones without |
//! | duration | ISO 8601 duration |
//! | bytes, fixed | lower-case hexadecimal text |
//! | uuid | its text |
//! | record, map, array | object, object, array |
//! | union | the value that it has |
//!
//! A logical type that is not known, or does not fit its type, counts for nothing, as the specification says.

mod block;
mod codec;
mod schema;
mod value;

use std::io::Read;

use matome_model::field_error::Words;

use crate::{FileError, FileRow, FileRows};
use block::{Block, Blocks};
use schema::{Schema, Type};
use value::{Cursor, Decoder};

/// Values that take no bytes, of which a block may say that it has as many as it likes.
const EMPTY_VALUES: u32 = 1_000_000;

/// The rows of an Avro file.
pub struct Avro<R> {
    blocks: Blocks<R>,
    schema: Schema,
    block: Option<Current>,
}

/// A block that is being read.
struct Current {
    block: Block,
    at: usize,
    left: u64,
    /// Values without bytes that it may still have.
    empty_left: u32,
}

impl<R: Read> Avro<R> {
    /// Reads the header of the file.
    ///
    /// # Errors
    /// When it is no Avro file, has a schema or a codec that is not known, or its bytes do not come.
    pub fn open(input: R) -> Result<Self, FileError> {
        let (blocks, schema) = Blocks::open(input)?;
        let schema = Schema::parse(&schema).map_err(|problem| {
            let Words { english, japanese } = problem;
            FileError::Broken(Words::new(
                format!("its schema can not be read: {english}"),
                format!("スキーマを読めません: {japanese}"),
            ))
        })?;
        if !matches!(schema.types[schema.root], Type::Record(_) | Type::Map(_) | Type::Union(_)) {
            return Err(FileError::Broken(Words::new("its values are no records", "値がレコードではありません")));
        }
        Ok(Self { blocks, schema, block: None })
    }
}

impl<R: Read> FileRows for Avro<R> {
    fn next(&mut self) -> Result<Option<FileRow>, FileError> {
        loop {
            if let Some(current) = self.block.as_mut().filter(|current| current.left > 0) {
                return current.row(&self.schema).map(Some);
            }
            if let Some(Current { block, at, .. }) = self.block.take()
                && at < block.bytes.len()
            {
                let left = block.bytes.len() - at;
                return Err(block.place.broken(
                    &format!("{left} bytes are left behind its last record"),
                    &format!("最後のレコードの後ろに {left} バイトが残っています"),
                ));
            }
            let Some(block) = self.blocks.next()? else { return Ok(None) };
            let left = block.count;
            self.block = Some(Current { block, at: 0, left, empty_left: EMPTY_VALUES });
        }
    }
}

impl Current {
    fn row(&mut self, schema: &Schema) -> Result<FileRow, FileError> {
        let mut cursor = Cursor::new(&self.block.bytes, self.at);
        let mut decoder = Decoder::new(schema, &mut self.empty_left);
        let decoded = decoder.row(&mut cursor);
        let number = self.block.count - self.left + 1;
        match decoded {
            Ok(row) => {
                (self.at, self.left) = (cursor.at, self.left - 1);
                Ok(row)
            }
            Err((english, japanese)) => Err(self.block.place.broken(
                &format!("record {number} of it can not be read: {english}"),
                &format!("その {number} 番目のレコードを読めません: {japanese}"),
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

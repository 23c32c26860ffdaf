//! The header and the blocks of a container.

use std::io::{self, BufReader, Read};

use matome_model::field_error::Words;

use super::codec::Codec;
use crate::FileError;

const MAGIC: &[u8] = b"Obj\x01";
/// What describes the file is held in memory.
const HEADER_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// A block is held in memory, as it is stored and as it is inflated.
pub(super) const BLOCK_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Which block, and where it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// From 1; 0 is the header.
    number: u64,
    at: u64,
}

/// A block whose marker was seen behind it.
pub(super) struct Block {
    pub(super) place: Place,
    /// Records in it.
    pub(super) count: u64,
    pub(super) bytes: Vec<u8>,
}

/// The blocks of a container, one after the other.
pub(super) struct Blocks<R> {
    input: Counted<R>,
    codec: Codec,
    sync: [u8; 16],
    number: u64,
}

struct Counted<R> {
    input: BufReader<R>,
    at: u64,
}

impl Place {
    /// An error in the block.
    pub(super) fn broken(self, english: &str, japanese: &str) -> FileError {
        let Self { number, at } = self;
        FileError::Broken(match number {
            0 => Words::new(format!("its header is broken: {english}"), format!("ヘッダーが壊れています: {japanese}")),
            _ => Words::new(
                format!("block {number} (at byte {at}) is broken: {english}"),
                format!("{number} 番目のブロック ({at} バイト目から) が壊れています: {japanese}"),
            ),
        })
    }
}

impl<R: Read> Counted<R> {
    /// Fills the buffer, or says where the file ends.
    fn exact(&mut self, buffer: &mut [u8], place: Place) -> Result<(), FileError> {
        match self.input.read_exact(buffer) {
            Ok(()) => {
                self.at += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(place.broken("the file ends early", "ファイルが途中で切れています"))
            }
            Err(error) => Err(FileError::Io(error)),
        }
    }

    fn bytes(&mut self, length: usize, place: Place) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        // Room is made for what comes, not for what is said to.
        let read = self.input.by_ref().take(length as u64).read_to_end(&mut bytes).map_err(FileError::Io)?;
        self.at += read as u64;
        match read == length {
            true => Ok(bytes),
            false => Err(place.broken("the file ends early", "ファイルが途中で切れています")),
        }
    }

    fn long(&mut self, place: Place) -> Result<i64, FileError> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.exact(&mut byte, place)?;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(zigzag(value));
            }
        }
        Err(place.broken("a number is too long", "数値が長すぎます"))
    }

    fn is_at_end(&mut self) -> Result<bool, FileError> {
        use io::BufRead as _;
        loop {
            match self.input.fill_buf() {
                Ok(rest) => return Ok(rest.is_empty()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FileError::Io(error)),
            }
        }
    }
}

/// A number that was written so that small ones are short, whatever their sign.
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

impl<R: Read> Blocks<R> {
    /// Reads the header; the text of its schema comes with it.
    pub(super) fn open(input: R) -> Result<(Self, String), FileError> {
        let mut input = Counted { input: BufReader::with_capacity(64 * 1024, input), at: 0 };
        let place = Place { number: 0, at: 0 };
        let mut magic = [0; 4];
        match input.exact(&mut magic, place) {
            Err(FileError::Io(error)) => return Err(FileError::Io(error)),
            Ok(()) if magic == MAGIC => {}
            _ => {
                return Err(FileError::Broken(Words::new(
                    "it is no Avro file: it does not begin as one (`Obj`, 1)",
                    "Avro ファイルではありません。始まりの形 (`Obj`, 1) が違います",
                )));
            }
        }
        let (mut schema, mut codec) = (None, Codec::Null);
        let mut left = HEADER_LIMIT_BYTES;
        let mut take = |input: &mut Counted<R>| {
            let length = usize::try_from(input.long(place)?).ok().filter(|length| *length <= left);
            let length = length.ok_or_else(|| place.broken("it is too long", "長すぎます"))?;
            left -= length;
            input.bytes(length, place)
        };
        loop {
            let mut count = input.long(place)?;
            if count == 0 {
                break;
            }
            if count < 0 {
                // The size of the entries, which are read anyway.
                input.long(place)?;
                count = count.checked_neg().ok_or_else(|| place.broken("it is too long", "長すぎます"))?;
            }
            for _ in 0..count {
                let (key, value) = (take(&mut input)?, take(&mut input)?);
                match key.as_slice() {
                    b"avro.schema" => schema = Some(value),
                    b"avro.codec" => codec = Codec::named(&String::from_utf8_lossy(&value))?,
                    _ => {}
                }
            }
        }
        let mut sync = [0; 16];
        input.exact(&mut sync, place)?;
        let schema = schema.ok_or_else(|| place.broken("it has no schema", "スキーマがありません"))?;
        let schema = String::from_utf8(schema)
            .map_err(|_| place.broken("its schema is no UTF-8", "スキーマが UTF-8 ではありません"))?;
        Ok((Self { input, codec, sync, number: 0 }, schema))
    }

    /// The next block, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Block>, FileError> {
        if self.input.is_at_end()? {
            return Ok(None);
        }
        self.number += 1;
        let place = Place { number: self.number, at: self.input.at };
        let count = u64::try_from(self.input.long(place)?)
            .map_err(|_| place.broken("its number of records is negative", "レコード数が負です"))?;
        let size = usize::try_from(self.input.long(place)?).ok().filter(|size| *size <= BLOCK_LIMIT_BYTES);
        let size = size.ok_or_else(|| {
            place.broken(
                &format!("its size is negative or more than the limit of {BLOCK_LIMIT_BYTES} bytes"),
                &format!("大きさが負か、上限の {BLOCK_LIMIT_BYTES} バイトを超えています"),
            )
        })?;
        let stored = self.input.bytes(size, place)?;
        let mut sync = [0; 16];
        self.input.exact(&mut sync, place)?;
        if sync != self.sync {
            return Err(place.broken(
                "the marker behind it is not that of the file",
                "後ろの同期マーカーがファイルのものと違います",
            ));
        }
        let bytes = self
            .codec
            .inflate(stored, BLOCK_LIMIT_BYTES)
            .map_err(|(english, japanese)| place.broken(&english, &japanese))?;
        Ok(Some(Block { place, count, bytes }))
    }
}

//! Parquet, row group by row group.

use std::io::{self, Read, Seek, SeekFrom};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array as _, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use matome_model::field_error::Words;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::rows::{RowWriter, Zoneless};
use crate::{FileError, FileRow, FileRows};

/// Rows that are decoded at once, at most; fewer when they are long.
const BATCH_ROWS: u64 = 1024;
/// Bytes of the decoded rows, as far as the file tells.
const BATCH_BYTES: u64 = 1024 * 1024;
/// What describes the file is held in memory.
const FOOTER_LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// The rows of a Parquet file.
pub struct Parquet {
    batches: Batches,
    batch: Option<RecordBatch>,
    row: usize,
    writer: RowWriter,
}

impl Parquet {
    /// Reads what describes the file.
    ///
    /// # Errors
    /// When it is no Parquet file, or its bytes do not come.
    pub fn open<C: Read + Seek + Send + 'static>(content: C) -> Result<Self, FileError> {
        guarded(|| Self::described(content))
    }

    fn described<C: Read + Seek + Send + 'static>(mut content: C) -> Result<Self, FileError> {
        let size = content.seek(SeekFrom::End(0)).map_err(FileError::Io)?;
        footer_within_limits(&mut content, size)?;
        let content = Shared { content: Arc::new(Mutex::new(content)), size };
        let metadata = ArrowReaderMetadata::load(&content, ArrowReaderOptions::new()).map_err(told)?;
        let old_times = old_times(&metadata)?;
        let with = |unit: TimeUnit| {
            let schema = Arc::new(as_read(metadata.schema(), &old_times, unit));
            let options = ArrowReaderOptions::new().with_schema(schema);
            ArrowReaderMetadata::try_new(metadata.metadata().clone(), options).map_err(told)
        };
        let groups = metadata.metadata().row_groups();
        let longest = groups.iter().filter_map(|group| {
            let (bytes, rows) = (u64::try_from(group.total_byte_size()).ok()?, u64::try_from(group.num_rows()).ok()?);
            bytes.checked_div(rows)
        });
        let rows = BATCH_BYTES.checked_div(longest.max().unwrap_or(1)).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS);
        let rows = usize::try_from(rows).unwrap_or(1);
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(content.clone(), with(TimeUnit::Microsecond)?);
        let batches = builder.with_batch_size(rows).build().map_err(told)?;
        let finer = match old_times.is_empty() {
            true => None,
            false => {
                let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(content, with(TimeUnit::Nanosecond)?);
                let only = ProjectionMask::roots(metadata.parquet_schema(), old_times.iter().copied());
                Some(builder.with_projection(only).with_batch_size(rows).build().map_err(told)?)
            }
        };
        let batches = Batches { batches, finer, old_times };
        Ok(Self { batches, batch: None, row: 0, writer: RowWriter::new(Zoneless::Local) })
    }
}

impl FileRows for Parquet {
    fn next(&mut self) -> Result<Option<FileRow>, FileError> {
        guarded(|| next_row(&mut self.batches, &mut self.batch, &mut self.row, &mut self.writer))
    }
}

/// The batches of a file. Times of the type INT96, which has days and nanoseconds, are read twice: nanoseconds since 1970 are exact
/// but hold only the years 1677 to 2262 and wrap beyond; microseconds hold every year.
struct Batches {
    batches: ParquetRecordBatchReader,
    /// The same times in nanoseconds.
    finer: Option<ParquetRecordBatchReader>,
    /// The columns with such times.
    old_times: Vec<usize>,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        let finer = self.finer.as_mut().and_then(Iterator::next);
        Some(match (batch, finer) {
            (Ok(batch), Some(finer)) => finer.and_then(|finer| self.in_nanoseconds(&batch, &finer)),
            (batch, _) => batch,
        })
    }
}

impl Batches {
    /// The batch with times in nanoseconds in each column where all of them are in their range.
    fn in_nanoseconds(&self, batch: &RecordBatch, finer: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        const MOST_MICROSECONDS: i64 = i64::MAX / 1000 - 1;
        let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
        let mut columns = batch.columns().to_vec();
        for (place, column) in self.old_times.iter().zip(finer.columns()) {
            let micros = columns[*place].as_primitive::<TimestampMicrosecondType>();
            if micros.iter().flatten().all(|time| time.unsigned_abs() <= MOST_MICROSECONDS.unsigned_abs()) {
                let field = fields[*place].as_ref().clone().with_data_type(column.data_type().clone());
                fields[*place] = Arc::new(field);
                columns[*place] = column.clone();
            }
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    }
}

/// The columns of the type INT96.
fn old_times(metadata: &ArrowReaderMetadata) -> Result<Vec<usize>, FileError> {
    let schema = metadata.parquet_schema();
    let mut places = Vec::new();
    for (index, column) in schema.columns().iter().enumerate() {
        if column.physical_type() != PhysicalType::INT96 {
            continue;
        }
        if column.path().parts().len() > 1 || column.max_rep_level() > 0 {
            let name = column.path().string();
            return Err(FileError::Broken(Words::new(
                format!("`{name}` has times of the old type INT96 inside of a list or a struct, which are not read"),
                format!("`{name}` はリストか構造体の中に古い型 INT96 の日時を持っています。これは読めません"),
            )));
        }
        places.push(schema.get_column_root_idx(index));
    }
    Ok(places)
}

/// The next row of batches that follow each other.
pub(crate) fn next_row(
    batches: &mut dyn Iterator<Item = Result<RecordBatch, ArrowError>>,
    batch: &mut Option<RecordBatch>,
    row: &mut usize,
    writer: &mut RowWriter,
) -> Result<Option<FileRow>, FileError> {
    loop {
        if let Some(current) = batch.as_ref().filter(|batch| *row < batch.num_rows()) {
            let (json, fault) = writer.row(current, *row);
            *row += 1;
            return Ok(Some(FileRow { json, fault }));
        }
        *batch = match batches.next() {
            None => return Ok(None),
            Some(next) => Some(next.map_err(from_arrow)?),
        };
        *row = 0;
    }
}

/// Texts and bytes refer to where they are decoded, so that one that comes a thousand times is there once; old times as `unit`.
fn as_read(schema: &Schema, old_times: &[usize], unit: TimeUnit) -> Schema {
    let kind = |(place, field): (usize, &Arc<Field>)| {
        let kind = match field.data_type() {
            _ if old_times.contains(&place) => DataType::Timestamp(unit, None),
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
            other => other.clone(),
        };
        field.as_ref().clone().with_data_type(kind)
    };
    let fields: Vec<Field> = schema.fields().iter().enumerate().map(kind).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

fn footer_within_limits(content: &mut (impl Read + Seek), size: u64) -> Result<(), FileError> {
    let no_parquet = || {
        FileError::Broken(Words::new(
            "it is no Parquet file: it does not end as one, or ends early",
            "Parquet ファイルではありません。終わりの形が違うか、途中で切れています",
        ))
    };
    if size < 12 {
        return Err(no_parquet());
    }
    let mut end = [0; 8];
    content.seek(SeekFrom::Start(size - 8)).and_then(|_| content.read_exact(&mut end)).map_err(FileError::Io)?;
    let length = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    match &end[4..] {
        b"PARE" => Err(FileError::Broken(Words::new("it is encrypted", "暗号化されています"))),
        b"PAR1" if length <= (size - 12).min(FOOTER_LIMIT_BYTES) => Ok(()),
        _ => Err(no_parquet()),
    }
}

/// The library panics over some of what a broken file says. What it was doing is not gone on with.
fn guarded<T>(work: impl FnOnce() -> Result<T, FileError>) -> Result<T, FileError> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(broken(text.unwrap_or("it says what cannot be")))
    })
}

fn told(error: ParquetError) -> FileError {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => FileError::Io(*error),
            Err(source) => broken(&source.to_string()),
        },
        error => broken(&error.to_string()),
    }
}

pub(crate) fn from_arrow(error: ArrowError) -> FileError {
    match error {
        ArrowError::IoError(_, error) => FileError::Io(error),
        ArrowError::ExternalError(source) => match source.downcast::<ParquetError>() {
            Ok(error) => told(*error),
            Err(source) => broken(&source.to_string()),
        },
        error => broken(&error.to_string()),
    }
}

pub(crate) fn broken(error: &str) -> FileError {
    FileError::Broken(Words::new(format!("it is broken: {error}"), format!("壊れています: {error}")))
}

/// A file that the columns are read from in turns.
struct Shared<C> {
    content: Arc<Mutex<C>>,
    size: u64,
}

impl<C> Clone for Shared<C> {
    fn clone(&self) -> Self {
        Self { content: self.content.clone(), size: self.size }
    }
}

impl<C> Length for Shared<C> {
    fn len(&self) -> u64 {
        self.size
    }
}

impl<C: Read + Seek + Send + 'static> ChunkReader for Shared<C> {
    type T = io::BufReader<From<C>>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(io::BufReader::new(From { content: self.content.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        if start.saturating_add(length as u64) > self.size {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of {}", self.size)));
        }
        let mut bytes = vec![0; length];
        let mut from = From { content: self.content.clone(), at: start };
        from.read_exact(&mut bytes).map_err(|error| ParquetError::External(Box::new(error)))?;
        Ok(bytes.into())
    }
}

/// The bytes of a file from a place on.
pub(crate) struct From<C> {
    content: Arc<Mutex<C>>,
    at: u64,
}

impl<C: Read + Seek> Read for From<C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.seek(SeekFrom::Start(self.at))?;
        let read = content.read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

//! A file with rows as a table: columns inferred in one pass, then read again in batches for each scan.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use matome_model::engine::{Failure, FailureCode, InputSummary, Schema, TableInput};
use matome_model::inference::{ColumnType, Inference, InferenceError};

use crate::PARTITIONS;
use crate::decode::{FieldDecoder, arrow_type};
use crate::failure::Passed;

/// A batch ends at this many rows or this many bytes of text, whichever comes first.
const BATCH_ROWS: usize = 8_192;
const BATCH_BYTES: usize = 4 << 20;

/// Tables smaller than this are read by one thread.
const SPLIT_BYTES: u64 = 4 << 20;

/// A table whose rows lie in a file.
#[derive(Debug)]
pub(crate) struct FileTable {
    path: PathBuf,
    rows: u64,
    /// Byte ranges of whole lines, one for each partition.
    ranges: Vec<(u64, u64)>,
    columns: Vec<(String, ColumnType)>,
    added: Vec<Added>,
    schema: SchemaRef,
    input: TableInput,
}

/// The columns that matome adds to a record's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    Id,
    Time,
    Hash,
    Version,
    Key,
}

impl Added {
    fn of(schema: Schema) -> Vec<(&'static str, Self)> {
        match schema {
            Schema::Sources => {
                vec![
                    ("_id", Self::Id),
                    ("_acquired_at", Self::Time),
                    ("_hash", Self::Hash),
                    ("_version", Self::Version),
                    ("_key", Self::Key),
                ]
            }
            Schema::Aggregations => vec![("_id", Self::Id), ("_aggregated_at", Self::Time)],
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Id | Self::Version => DataType::Int64,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            Self::Hash | Self::Key => DataType::Utf8,
        }
    }
}

impl FileTable {
    /// Reads the whole file once, in as many parts as there are threads.
    pub(crate) async fn open(input: TableInput) -> Result<Self, Failure> {
        let path = PathBuf::from(&input.file);
        let mut components = Path::new(&input.file).components();
        if !matches!((components.next(), components.next()), (Some(std::path::Component::Normal(_)), None)) {
            return Err(Failure::alike(FailureCode::Protocol, format!("`{}` is no plain file name", input.file)));
        }
        let ranges = split(&path).map_err(|err| unreadable(&input, &err))?;
        let looks = ranges.iter().map(|range| {
            let (path, range) = (path.clone(), *range);
            tokio::spawn(async move { Look::at(&path, range) })
        });
        let looks: Vec<_> = looks.collect();
        let mut inference = Inference::default();
        let mut rows = 0;
        for look in looks {
            let look = look.await.map_err(|err| Failure::internal(err.to_string()))?;
            let Look { inference: found, rows: more, end } = look.map_err(|err| unreadable(&input, &err))?;
            rows += more;
            match end {
                Ok(()) => inference.merge(found).map_err(|err| of_row(&input, rows, err))?,
                Err(Odd::Row) => return Err(malformed(&input, rows)),
                Err(Odd::Record(err)) => return Err(of_row(&input, rows + 1, err)),
            }
        }

        let columns = inference.columns();
        let mut fields: Vec<Field> =
            columns.iter().map(|(name, column)| Field::new(name, arrow_type(column), true)).collect();
        let mut added = Vec::new();
        for (name, kind) in Added::of(input.table.schema) {
            let mut name = name.to_owned();
            while columns.iter().any(|(own, _)| *own == name) {
                name.insert(0, '_');
            }
            fields.push(Field::new(name, kind.data_type(), true));
            added.push(kind);
        }
        Ok(Self { path, rows, ranges, columns, added, schema: Arc::new(ArrowSchema::new(fields)), input })
    }

    /// What the parent should know of this table.
    pub(crate) fn summary(&self) -> InputSummary {
        InputSummary { table: self.input.table.clone(), rows: self.rows, columns: self.columns.clone() }
    }
}

/// What was seen of a part of a file.
struct Look {
    inference: Inference,
    /// Rows before the end.
    rows: u64,
    end: Result<(), Odd>,
}

/// A row that no table can have.
enum Odd {
    Row,
    Record(InferenceError),
}

impl Look {
    fn at(path: &Path, range: (u64, u64)) -> std::io::Result<Self> {
        let mut lines = Lines::open(path, range)?;
        let mut look = Self { inference: Inference::default(), rows: 0, end: Ok(()) };
        while lines.next()? {
            look.end = match Row::parse(&lines.line) {
                Some(row) => look.inference.record(row.record).map_err(Odd::Record),
                None => Err(Odd::Row),
            };
            if look.end.is_err() {
                break;
            }
            look.rows += 1;
        }
        Ok(look)
    }
}

/// Ranges of whole lines that cover a file: as many as [`PARTITIONS`], of like size; one if it is small.
fn split(path: &Path) -> std::io::Result<Vec<(u64, u64)>> {
    let end = std::fs::metadata(path)?.len();
    let (mut ranges, mut from) = (Vec::new(), 0);
    if end >= SPLIT_BYTES {
        for part in 1..PARTITIONS as u64 {
            // The line that begins before the cut ends behind it.
            let mut lines = Lines::open(path, ((end / PARTITIONS as u64 * part).max(from), end))?;
            lines.next()?;
            if lines.position < end {
                ranges.push((from, lines.position));
                from = lines.position;
            }
        }
    }
    ranges.push((from, end));
    Ok(ranges)
}

fn of_row(input: &TableInput, row: u64, err: InferenceError) -> Failure {
    let Failure { code, message, hint } = Failure::from(err);
    let table = &input.table;
    let message = (
        format!("table `{table}`, row {row}: {}", message.english),
        format!("テーブル`{table}`の{row}行目: {}", message.japanese),
    );
    Failure::new(code, message, hint)
}

fn unreadable(input: &TableInput, err: &std::io::Error) -> Failure {
    Failure::alike(FailureCode::Input, format!("the rows of table `{}` cannot be read: {err}", input.table))
}

fn malformed(input: &TableInput, before: u64) -> Failure {
    Failure::alike(FailureCode::Input, format!("row {} of table `{}` is not in its form", before + 1, input.table))
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let schema = Arc::new(self.schema.project(projection)?);
        let partitions = self.ranges.iter().map(|range| {
            let scan = Scan {
                path: self.path.clone(),
                range: *range,
                schema: Arc::clone(&schema),
                columns: projection
                    .iter()
                    .map(|position| match self.columns.get(*position) {
                        Some(column) => Projected::Field(column.clone()),
                        None => Projected::Added(self.added[position - self.columns.len()]),
                    })
                    .collect(),
                input: self.input.clone(),
            };
            Arc::new(scan) as Arc<dyn PartitionStream>
        });
        let scan = StreamingTableExec::try_new(Arc::clone(&schema), partitions.collect(), None, None, false, limit)?;
        Ok(Arc::new(scan))
    }
}

/// A part of a file, read for some columns.
#[derive(Debug)]
struct Scan {
    path: PathBuf,
    range: (u64, u64),
    schema: SchemaRef,
    columns: Vec<Projected>,
    input: TableInput,
}

#[derive(Clone, Debug)]
enum Projected {
    Field((String, ColumnType)),
    Added(Added),
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        // Decoding is work for the processor more than waiting for the disk, so it stays on the thread that asks.
        let batches: Box<dyn Iterator<Item = Result<RecordBatch, DataFusionError>> + Send> = match Batches::open(self) {
            Ok(batches) => Box::new(batches.map(|batch| batch.map_err(Passed::through))),
            Err(failure) => Box::new(std::iter::once(Err(Passed::through(failure)))),
        };
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), futures::stream::iter(batches)))
    }
}

struct Batches {
    lines: Lines,
    schema: SchemaRef,
    columns: Vec<Projected>,
    fields: FieldDecoder,
    ids: Int64Builder,
    times: TimestampMicrosecondBuilder,
    hashes: StringBuilder,
    versions: Int64Builder,
    keys: StringBuilder,
    input: TableInput,
    rows: u64,
    done: bool,
}

impl Batches {
    fn open(scan: &Scan) -> Result<Self, Failure> {
        let fields: Vec<(String, ColumnType)> = scan
            .columns
            .iter()
            .filter_map(|column| match column {
                Projected::Field(field) => Some(field.clone()),
                Projected::Added(_) => None,
            })
            .collect();
        Ok(Self {
            lines: Lines::open(&scan.path, scan.range).map_err(|err| unreadable(&scan.input, &err))?,
            schema: Arc::clone(&scan.schema),
            columns: scan.columns.clone(),
            fields: FieldDecoder::new(&fields),
            ids: Int64Builder::new(),
            times: TimestampMicrosecondBuilder::new().with_timezone("+00:00"),
            hashes: StringBuilder::new(),
            versions: Int64Builder::new(),
            keys: StringBuilder::new(),
            input: scan.input.clone(),
            rows: 0,
            done: false,
        })
    }

    fn wants(&self, added: Added) -> bool {
        self.columns.iter().any(|column| matches!(column, Projected::Added(wanted) if *wanted == added))
    }

    fn read(&mut self) -> Result<Option<RecordBatch>, Failure> {
        let wanted = [Added::Id, Added::Time, Added::Hash, Added::Version, Added::Key].map(|added| self.wants(added));
        let mut rows = 0;
        let mut bytes = 0;
        while rows < BATCH_ROWS && bytes < BATCH_BYTES {
            if !self.lines.next().map_err(|err| unreadable(&self.input, &err))? {
                break;
            }
            let row = Row::parse(&self.lines.line).ok_or_else(|| malformed(&self.input, self.rows))?;
            self.fields.append(row.record)?;
            if wanted[0] {
                self.ids.append_value(row.id);
            }
            if wanted[1] {
                self.times.append_value(row.time);
            }
            if wanted[2] {
                self.hashes.append_option(row.hash);
            }
            if wanted[3] {
                self.versions.append_option(row.version);
            }
            if wanted[4] {
                self.keys.append_option(row.key);
            }
            rows += 1;
            self.rows += 1;
            bytes += self.lines.line.len();
        }
        if rows == 0 {
            return Ok(None);
        }
        let mut fields = self.fields.finish().into_iter();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            arrays.push(match column {
                Projected::Field(_) => fields.next().expect("the decoder has a column for each projected field"),
                Projected::Added(Added::Id) => Arc::new(self.ids.finish()),
                Projected::Added(Added::Time) => Arc::new(self.times.finish()),
                Projected::Added(Added::Hash) => Arc::new(self.hashes.finish()),
                Projected::Added(Added::Version) => Arc::new(self.versions.finish()),
                Projected::Added(Added::Key) => Arc::new(self.keys.finish()),
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map(Some)
            .map_err(|err| Failure::internal(err.to_string()))
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let batch = self.read().transpose();
        self.done = !matches!(batch, Some(Ok(_)));
        batch
    }
}

/// The lines that start within a byte range.
struct Lines {
    reader: BufReader<std::io::Take<File>>,
    /// The current line, without its line feed.
    line: Vec<u8>,
    /// Byte after the current line.
    position: u64,
}

impl Lines {
    fn open(path: &Path, (from, to): (u64, u64)) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        Ok(Self { reader: BufReader::with_capacity(256 << 10, file.take(to - from)), line: Vec::new(), position: from })
    }

    /// Goes to the next line; false at the end.
    fn next(&mut self) -> std::io::Result<bool> {
        self.line.clear();
        let read = self.reader.read_until(b'\n', &mut self.line)?;
        self.position += read as u64;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        }
        Ok(read > 0)
    }
}

/// One line of a file, see [`TableInput`].
struct Row<'a> {
    id: i64,
    time: i64,
    hash: Option<&'a str>,
    version: Option<i64>,
    key: Option<&'a str>,
    record: &'a str,
}

impl<'a> Row<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(line).ok()?.splitn(6, '\t');
        let id = parts.next()?.parse().ok()?;
        let time = parts.next()?.parse().ok()?;
        let hash = Some(parts.next()?).filter(|hash| !hash.is_empty());
        let version = match parts.next()? {
            "" => None,
            version => Some(version.parse().ok()?),
        };
        let key = Some(parts.next()?).filter(|key| !key.is_empty());
        Some(Self { id, time, hash, version, key, record: parts.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_covers_every_line_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table-0");
        for (lengths, parts) in [
            (vec![], 1),
            (vec![10], 1),
            (vec![1_000; 10_000], PARTITIONS),
            (vec![9_000_000, 10], 2),
            // Its second half has no beginning of a line.
            (vec![10, 9_000_000], 1),
        ] {
            let text: Vec<String> = lengths.iter().map(|length| "x".repeat(*length) + "\n").collect();
            std::fs::write(&path, text.concat()).unwrap();
            let ranges = split(&path).unwrap();
            assert_eq!(ranges.len(), parts, "{ranges:?}");
            let mut found = Vec::new();
            for range in &ranges {
                let mut lines = Lines::open(&path, *range).unwrap();
                while lines.next().unwrap() {
                    found.push(lines.line.len());
                }
            }
            assert_eq!(found, lengths);
        }
    }

    #[test]
    fn row_without_hash_and_version_is_read() {
        let row = Row::parse(b"7\t-5\t\t\t\t{\"a\":\"\\t\"}").unwrap();
        assert_eq!((row.id, row.time, row.hash, row.version, row.record), (7, -5, None, None, "{\"a\":\"\\t\"}"));
        assert!(Row::parse(b"7\t5\t\t\t").is_none());
        assert!(Row::parse(b"x\t5\t\t\t\t{}").is_none());
    }
}

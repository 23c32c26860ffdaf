//! One execution: check, infer, plan, stream.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use arrow_ipc::writer::StreamWriter;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::FormatOptions;
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::{displayable, execute_stream};
use datafusion::prelude::SQLOptions;
use futures::StreamExt;
use matome_model::engine::{self, Failure, FailureCode, Frame, Limits, Run, RunHeader, RunTrailer, Table};

use crate::failure::{self, broken_pipe, execution, no_table, refused};
use crate::guard;
use crate::output::{ArrowWriter, Output};
use crate::parameters;
use crate::session::session;
use crate::table::FileTable;

/// Rows and bytes of a batch as it is sent: the parent holds one at a time.
const SENT_ROWS: usize = 1_024;
const SENT_BYTES: usize = 1 << 20;

/// Bytes of one result row; a stored record may not be longer either.
const ROW_BYTES: usize = 8 << 20;

/// A cast that fails where the default one makes nulls.
const EXACT: CastOptions<'static> = CastOptions { safe: false, format_options: FormatOptions::new() };

/// Bytes of the plan that a run keeps.
const PLAN_BYTES: usize = 64 << 10;

/// Executes `run` and sends header, rows and trailer.
pub(crate) async fn run(run: Run, started: Instant, output: &Output) -> Result<(), Failure> {
    let mut query = guard::check(&run.sql)?;
    parameters::bind(&mut query.statement, &run.parameters)?;
    let known: Vec<Table> = run.tables.iter().map(|input| input.table.clone()).collect();
    engine::resolve(&query.tables, &known).map_err(|unknown| no_table(&unknown))?;

    let mut tables = Vec::new();
    for input in run.tables {
        let name = input.table.clone();
        tables.push((name, Arc::new(FileTable::open(input).await?)));
    }
    let header = RunHeader { inputs: tables.iter().map(|(_, table)| table.summary()).collect() };
    let empty: Vec<String> =
        header.inputs.iter().filter(|input| input.rows == 0).map(|input| input.table.to_string()).collect();
    let planning = |err: &DataFusionError| failure::planning(err, &empty);

    let session = session(tables, &run.limits).map_err(|err| Failure::internal(err.to_string()))?;
    let state = session.state();
    let plan = state.statement_to_plan(query.statement).await.map_err(|err| planning(&err))?;
    let only_queries = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    only_queries.verify_plan(&plan).map_err(|err| planning(&err))?;
    let mut frame = DataFrame::new(state, plan);
    if let Some(rows) = run.preview_rows {
        // One more tells whether there are more.
        let rows = usize::try_from(rows).unwrap_or(usize::MAX).saturating_add(1);
        frame = frame.limit(0, Some(rows)).map_err(|err| planning(&err))?;
    }
    distinct_names(frame.schema().as_arrow())?;
    let context = frame.task_ctx();
    let physical = frame.create_physical_plan().await.map_err(|err| planning(&err))?;
    // Of the physical plan: analysis may have given a column another type.
    let schema = sent_schema(&physical.schema());
    let plan = displayable(physical.as_ref()).indent(false).to_string();
    let mut batches = execute_stream(physical, Arc::new(context)).map_err(|err| execution(&err))?;

    output.json(Frame::Header, &header).map_err(broken_pipe)?;
    let mut sender = Sender::start(output, schema, &run.limits, run.preview_rows)?;
    while let Some(batch) = batches.next().await {
        if !sender.send(&batch.map_err(|err| execution(&err))?)? {
            break;
        }
    }
    drop(batches);
    let (rows, bytes, truncated) = sender.finish()?;
    let trailer = RunTrailer {
        rows,
        bytes,
        truncated,
        plan: cut(plan),
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    output.json(Frame::Trailer, &trailer).map_err(broken_pipe)
}

fn cut(mut plan: String) -> String {
    let mut end = plan.len().min(PLAN_BYTES);
    while !plan.is_char_boundary(end) {
        end -= 1;
    }
    plan.truncate(end);
    plan
}

/// A row becomes a JSON object, in which a name can stand once.
fn distinct_names(schema: &Schema) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    for field in schema.fields() {
        if !seen.insert(field.name()) {
            return Err(refused(
                (
                    format!("two columns of the result are called `{}`", field.name()),
                    format!("結果に`{}`という名前の列が二つあります", field.name()),
                ),
                (
                    "name them with `as`, or list the columns instead of `*`",
                    "`as`で名付けるか、`*`の代わりに列を並べてください",
                ),
            ));
        }
    }
    Ok(())
}

/// Views share buffers with rows that are not sent; plain strings do not.
fn sent_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let data_type = match field.data_type() {
                DataType::Utf8View => DataType::LargeUtf8,
                DataType::BinaryView => DataType::LargeBinary,
                other => other.clone(),
            };
            Field::new(field.name(), data_type, true)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

struct Sender<'a> {
    writer: StreamWriter<ArrowWriter<'a>>,
    schema: SchemaRef,
    limits: Limits,
    preview_rows: Option<u64>,
    rows: u64,
    bytes: u64,
    truncated: bool,
}

impl<'a> Sender<'a> {
    fn start(
        output: &'a Output,
        schema: SchemaRef,
        limits: &Limits,
        preview_rows: Option<u64>,
    ) -> Result<Self, Failure> {
        let writer = StreamWriter::try_new(output.arrow(), &schema).map_err(|err| sending(&err))?;
        Ok(Self { writer, schema, limits: *limits, preview_rows, rows: 0, bytes: 0, truncated: false })
    }

    /// False when the preview is full.
    fn send(&mut self, batch: &RecordBatch) -> Result<bool, Failure> {
        let mut offset = 0;
        while offset < batch.num_rows() {
            let left = match self.preview_rows {
                Some(most) if self.rows == most => {
                    self.truncated = true;
                    return Ok(false);
                }
                Some(most) => usize::try_from(most - self.rows).unwrap_or(usize::MAX),
                None => usize::MAX,
            };
            let mut len = SENT_ROWS.min(batch.num_rows() - offset).min(left);
            let (slice, size) = loop {
                let slice = self.plain(&batch.slice(offset, len))?;
                let size = size(&slice)?;
                if size <= SENT_BYTES || len == 1 {
                    break (slice, size);
                }
                len = (len * SENT_BYTES / size).clamp(1, len - 1);
            };
            if len == 1 && size > ROW_BYTES {
                return Err(Failure::new(
                    FailureCode::ByteLimit,
                    (
                        format!(
                            "row {} of the result has {size} bytes, at most {ROW_BYTES} can be stored",
                            self.rows + 1
                        ),
                        format!(
                            "結果の{}行目が{size}バイトあります。保存できるのは{ROW_BYTES}バイトまでです",
                            self.rows + 1
                        ),
                    ),
                    (
                        "make smaller groups, or fewer and shorter columns",
                        "グループを小さくするか、列を減らすか短くしてください",
                    ),
                ));
            }
            self.rows += len as u64;
            self.bytes += size as u64;
            if self.rows > self.limits.rows {
                return Err(Failure::new(
                    FailureCode::RowLimit,
                    (
                        format!("the result has more than {} rows", self.limits.rows),
                        format!("結果が{}行を超えています", self.limits.rows),
                    ),
                    (
                        "aggregate or filter further, or check that every join has a condition",
                        "さらに集計するか絞り込んでください。すべての結合に条件があるかも確かめてください",
                    ),
                ));
            }
            if self.bytes > self.limits.bytes {
                return Err(Failure::new(
                    FailureCode::ByteLimit,
                    (
                        format!("the result has more than {} bytes", self.limits.bytes),
                        format!("結果が{}バイトを超えています", self.limits.bytes),
                    ),
                    (
                        "aggregate or filter further, or list the columns that are needed",
                        "さらに集計するか絞り込むか、必要な列だけを並べてください",
                    ),
                ));
            }
            self.writer.write(&slice).map_err(|err| sending(&err))?;
            offset += len;
        }
        Ok(true)
    }

    fn plain(&self, batch: &RecordBatch) -> Result<RecordBatch, Failure> {
        let columns = batch.columns().iter().zip(self.schema.fields()).map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                cast_with_options(column, field.data_type(), &EXACT)
            }
        });
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(|err| sending(&err))?;
        let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(|err| sending(&err))
    }

    fn finish(mut self) -> Result<(u64, u64, bool), Failure> {
        self.writer.finish().map_err(|err| sending(&err))?;
        self.writer.flush().map_err(|err| sending(&err))?;
        Ok((self.rows, self.bytes, self.truncated))
    }
}

fn size(batch: &RecordBatch) -> Result<usize, Failure> {
    batch.columns().iter().try_fold(0, |sum, column| {
        column.to_data().get_slice_memory_size().map(|size| sum + size).map_err(|err| sending(&err))
    })
}

fn sending(err: &ArrowError) -> Failure {
    Failure::internal(format!("the result cannot be sent: {err}"))
}

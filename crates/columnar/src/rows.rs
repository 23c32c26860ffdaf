//! From Arrow columns to JSON objects, exactly.
//!
//! | column | JSON |
//! |---|---|
//! | integers, decimals | the number with all its digits |
//! | floats | the shortest number that reads back as the same float; NaN and infinity are errors |
//! | text, boolean, null | themselves |
//! | date, time, timestamp | ISO 8601 text; timestamps in UTC with `Z`; those without a zone as asked for |
//! | interval, duration | ISO 8601 duration, or DataFusion's text |
//! | binary | lower-case hexadecimal text |
//! | UUID | its text |
//! | list, struct | array, object |
//! | map | object, or an array of entries where keys are no text |
//! | union | the value that it has |

use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_cast::display::{ArrayFormatter, DurationFormat, FormatOptions};
use arrow_schema::{DataType, Field, TimeUnit};
use matome_model::canonical::write_string;
use matome_model::field_error::Words;

use crate::scalar::{Shape, Unfit, float, hex, key, time_of_day, timestamp, uuid};

/// How times are written that have no zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zoneless {
    /// As if they were UTC, with `Z`.
    #[default]
    Utc,
    /// Without a zone.
    Local,
}

/// Writes rows, one after the other, of batches with the same schema.
#[derive(Debug, Default)]
pub struct RowWriter {
    /// `"name":` for each column, written once.
    keys: Vec<Vec<u8>>,
    zoneless: Zoneless,
}

/// A value that has no form in JSON.
#[derive(Debug)]
pub struct Fault {
    /// The column it is in.
    pub column: String,
    /// What it is.
    pub reason: Words,
    /// What to do in a query.
    pub hint: (&'static str, &'static str),
}

impl RowWriter {
    /// A writer that writes times without a zone so.
    pub fn new(zoneless: Zoneless) -> Self {
        Self { zoneless, ..Self::default() }
    }

    /// Row `row` of `batch` as a JSON object; and the first value that has no form in JSON, which is written as its text.
    pub fn row(&mut self, batch: &RecordBatch, row: usize) -> (Vec<u8>, Option<Fault>) {
        let schema = batch.schema_ref();
        if self.keys.len() != batch.num_columns() {
            self.keys = schema.fields().iter().map(|field| key(field.name())).collect();
        }
        let mut out = Vec::with_capacity(128);
        let mut first = None;
        out.push(b'{');
        for (position, (key, column)) in self.keys.iter().zip(batch.columns()).enumerate() {
            if position > 0 {
                out.push(b',');
            }
            out.extend_from_slice(key);
            let start = out.len();
            if let Err(Unfit { reason, hint }) = self.value(&mut out, schema.field(position), column, row) {
                out.truncate(start);
                let text = ArrayFormatter::try_new(column, &FormatOptions::new());
                let text = text.and_then(|formatter| formatter.value(row).try_to_string());
                write_string(&mut out, &text.unwrap_or_default());
                first.get_or_insert_with(|| Fault { column: schema.field(position).name().clone(), reason, hint });
            }
        }
        out.push(b'}');
        (out, first)
    }
}

macro_rules! number {
    ($out:ident, $array:ident, $row:ident, $type:ty) => {
        write!($out, "{}", $array.as_primitive::<$type>().value($row)).expect("a vector takes all bytes")
    };
}

macro_rules! decimal {
    ($out:ident, $array:ident, $row:ident, $type:ty) => {
        $out.extend_from_slice($array.as_primitive::<$type>().value_as_string($row).as_bytes())
    };
}

macro_rules! time {
    ($out:ident, $array:ident, $row:ident, $type:ty, $per_second:expr) => {
        time_of_day($out, i64::from($array.as_primitive::<$type>().value($row)), $per_second)
    };
}

impl RowWriter {
    fn value(&self, out: &mut Vec<u8>, field: &Field, array: &ArrayRef, row: usize) -> Result<(), Unfit> {
        if array.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match array.data_type() {
            DataType::Null => out.extend_from_slice(b"null"),
            DataType::Boolean => out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" }),
            DataType::Int8 => number!(out, array, row, Int8Type),
            DataType::Int16 => number!(out, array, row, Int16Type),
            DataType::Int32 => number!(out, array, row, Int32Type),
            DataType::Int64 => number!(out, array, row, Int64Type),
            DataType::UInt8 => number!(out, array, row, UInt8Type),
            DataType::UInt16 => number!(out, array, row, UInt16Type),
            DataType::UInt32 => number!(out, array, row, UInt32Type),
            DataType::UInt64 => number!(out, array, row, UInt64Type),
            DataType::Float16 => float(out, f64::from(array.as_primitive::<Float16Type>().value(row)), None)?,
            DataType::Float32 => {
                let narrow = array.as_primitive::<Float32Type>().value(row);
                float(out, f64::from(narrow), Some(narrow))?;
            }
            DataType::Float64 => float(out, array.as_primitive::<Float64Type>().value(row), None)?,
            DataType::Decimal32(..) => decimal!(out, array, row, Decimal32Type),
            DataType::Decimal64(..) => decimal!(out, array, row, Decimal64Type),
            DataType::Decimal128(..) => decimal!(out, array, row, Decimal128Type),
            DataType::Decimal256(..) => decimal!(out, array, row, Decimal256Type),
            DataType::Utf8 => write_string(out, array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => write_string(out, array.as_string::<i64>().value(row)),
            DataType::Utf8View => write_string(out, array.as_string_view().value(row)),
            DataType::Binary => hex(out, array.as_binary::<i32>().value(row)),
            DataType::LargeBinary => hex(out, array.as_binary::<i64>().value(row)),
            DataType::BinaryView => hex(out, array.as_binary_view().value(row)),
            DataType::FixedSizeBinary(16) if is_uuid(field) => uuid(out, array.as_fixed_size_binary().value(row)),
            DataType::FixedSizeBinary(_) => hex(out, array.as_fixed_size_binary().value(row)),
            DataType::Date32 => timestamp(
                out,
                i64::from(array.as_primitive::<Date32Type>().value(row)).checked_mul(86_400),
                1,
                Shape::Date,
            )?,
            DataType::Date64 => {
                timestamp(out, Some(array.as_primitive::<Date64Type>().value(row)), 1_000, Shape::Date)?
            }
            DataType::Timestamp(TimeUnit::Second, zone) => {
                let units = array.as_primitive::<TimestampSecondType>().value(row);
                timestamp(out, Some(units), 1, self.shape(zone))?;
            }
            DataType::Timestamp(TimeUnit::Millisecond, zone) => {
                let units = array.as_primitive::<TimestampMillisecondType>().value(row);
                timestamp(out, Some(units), 1_000, self.shape(zone))?;
            }
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                let units = array.as_primitive::<TimestampMicrosecondType>().value(row);
                timestamp(out, Some(units), 1_000_000, self.shape(zone))?;
            }
            DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
                let units = array.as_primitive::<TimestampNanosecondType>().value(row);
                timestamp(out, Some(units), 1_000_000_000, self.shape(zone))?;
            }
            DataType::Time32(TimeUnit::Second) => time!(out, array, row, Time32SecondType, 1)?,
            DataType::Time32(_) => time!(out, array, row, Time32MillisecondType, 1_000)?,
            DataType::Time64(TimeUnit::Microsecond) => time!(out, array, row, Time64MicrosecondType, 1_000_000)?,
            DataType::Time64(_) => time!(out, array, row, Time64NanosecondType, 1_000_000_000)?,
            DataType::Duration(_) | DataType::Interval(_) => {
                let options = FormatOptions::new().with_duration_format(DurationFormat::ISO8601);
                let text = ArrayFormatter::try_new(array, &options).map(|formatter| formatter.value(row).to_string());
                write_string(
                    out,
                    &text.map_err(|err| Unfit {
                        reason: Words::new(err.to_string(), err.to_string()),
                        hint: ("cast it to text", "テキストにキャストしてください"),
                    })?,
                );
            }
            DataType::List(item) => self.items(out, item, &array.as_list::<i32>().value(row))?,
            DataType::LargeList(item) => self.items(out, item, &array.as_list::<i64>().value(row))?,
            DataType::FixedSizeList(item, _) => self.items(out, item, &array.as_fixed_size_list().value(row))?,
            DataType::ListView(item) => self.items(out, item, &array.as_list_view::<i32>().value(row))?,
            DataType::LargeListView(item) => self.items(out, item, &array.as_list_view::<i64>().value(row))?,
            DataType::Struct(fields) => {
                let columns = array.as_struct().columns();
                out.push(b'{');
                for (position, (field, column)) in fields.iter().zip(columns).enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(&key(field.name()));
                    self.value(out, field, column, row)?;
                }
                out.push(b'}');
            }
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                let position = dictionary.normalized_keys()[row];
                self.value(out, field, dictionary.values(), position)?;
            }
            DataType::Map(entries, _) => self.map(out, entries, &array.as_map().value(row))?,
            DataType::Union(fields, _) => {
                let union = array.as_union();
                let id = union.type_id(row);
                let Some((_, member)) = fields.iter().find(|(known, _)| *known == id) else {
                    return Err(Unfit {
                        reason: Words::new("a union without its member", "メンバーのない共用体です"),
                        hint: ("", ""),
                    });
                };
                self.value(out, member, union.child(id), union.value_offset(row))?;
            }
            other @ DataType::RunEndEncoded(..) => {
                return Err(Unfit {
                    reason: Words::new(
                        format!("a value of type {other} has no JSON form"),
                        format!("{other}型の値はJSONで表せません"),
                    ),
                    hint: (
                        "cast it to text, or take its parts",
                        "テキストにキャストするか、その部分を取り出してください",
                    ),
                });
            }
        }
        Ok(())
    }

    fn items(&self, out: &mut Vec<u8>, field: &Field, items: &ArrayRef) -> Result<(), Unfit> {
        out.push(b'[');
        for item in 0..items.len() {
            if item > 0 {
                out.push(b',');
            }
            self.value(out, field, items, item)?;
        }
        out.push(b']');
        Ok(())
    }

    /// A map as an object when its keys are text, else as an array of its entries.
    fn map(&self, out: &mut Vec<u8>, entries: &Field, map: &StructArray) -> Result<(), Unfit> {
        let keys = map.column(0);
        let values = map.column(1);
        let DataType::Struct(fields) = entries.data_type() else {
            return Err(Unfit {
                reason: Words::new("a map without entries", "要素のないマップです"), hint: ("", "")
            });
        };
        let is_text = matches!(keys.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        out.push(if is_text { b'{' } else { b'[' });
        for entry in 0..map.len() {
            if entry > 0 {
                out.push(b',');
            }
            if is_text {
                self.value(out, &fields[0], keys, entry)?;
                out.push(b':');
                self.value(out, &fields[1], values, entry)?;
            } else {
                out.push(b'[');
                self.value(out, &fields[0], keys, entry)?;
                out.push(b',');
                self.value(out, &fields[1], values, entry)?;
                out.push(b']');
            }
        }
        out.push(if is_text { b'}' } else { b']' });
        Ok(())
    }

    fn shape(&self, zone: &Option<std::sync::Arc<str>>) -> Shape {
        match (zone, self.zoneless) {
            (None, Zoneless::Local) => Shape::Local,
            _ => Shape::Utc,
        }
    }
}

/// Whether 16 bytes are a UUID.
fn is_uuid(field: &Field) -> bool {
    field.metadata().get("ARROW:extension:name").is_some_and(|name| name == "arrow.uuid")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        BinaryArray, Date32Array, Decimal128Array, DictionaryArray, DurationSecondArray, Float32Array, Float64Array,
        Int64Array, ListArray, StringArray, StringViewArray, StructArray, Time64MicrosecondArray,
        TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
    };
    use arrow_schema::{Field, Schema};

    use super::*;

    fn rows(columns: Vec<(&str, ArrayRef)>) -> Result<Vec<String>, Fault> {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = RowWriter::default();
        (0..batch.num_rows())
            .map(|row| match writer.row(&batch, row) {
                (json, None) => Ok(String::from_utf8(json).unwrap()),
                (_, Some(fault)) => Err(fault),
            })
            .collect()
    }

    fn one(column: impl Array + 'static) -> String {
        let row = rows(vec![("x", Arc::new(column))]).unwrap().remove(0);
        row.strip_prefix(r#"{"x":"#).unwrap().strip_suffix('}').unwrap().to_owned()
    }

    #[test]
    fn numbers_keep_their_digits() {
        assert_eq!(one(Int64Array::from(vec![i64::MIN])), "-9223372036854775808");
        assert_eq!(one(UInt64Array::from(vec![u64::MAX])), "18446744073709551615");
        let decimal = Decimal128Array::from(vec![-5]).with_precision_and_scale(38, 3).unwrap();
        assert_eq!(one(decimal), "-0.005");
        assert_eq!(one(Float64Array::from(vec![0.1 + 0.2])), "0.30000000000000004");
        assert_eq!(one(Float32Array::from(vec![0.1])), "0.1");
        assert_eq!(one(Float64Array::from(vec![1e21])), "1000000000000000000000");
    }

    #[test]
    fn not_a_number_is_named_and_written_as_text() {
        let batch = RecordBatch::try_from_iter([
            ("ratio", Arc::new(Float64Array::from(vec![1.0, f64::NAN])) as ArrayRef),
            ("n", Arc::new(Int64Array::from(vec![1, 2]))),
        ])
        .unwrap();
        let mut writer = RowWriter::default();
        assert!(writer.row(&batch, 0).1.is_none());
        let (json, fault) = writer.row(&batch, 1);
        assert_eq!(json, br#"{"ratio":"NaN","n":2}"#);
        let fault = fault.unwrap();
        assert_eq!((fault.column.as_str(), fault.reason.english.as_str()), ("ratio", "NaN is not a number in JSON"));
        assert!(rows(vec![("x", Arc::new(Float64Array::from(vec![f64::NEG_INFINITY])))]).is_err());
    }

    #[test]
    fn times_are_iso_8601() {
        assert_eq!(one(Date32Array::from(vec![-1])), r#""1969-12-31""#);
        assert_eq!(one(TimestampMicrosecondArray::from(vec![1_500_000])), r#""1970-01-01T00:00:01.500Z""#);
        assert_eq!(
            one(TimestampMicrosecondArray::from(vec![-1]).with_timezone("+09:00")),
            r#""1969-12-31T23:59:59.999999Z""#
        );
        assert_eq!(one(TimestampNanosecondArray::from(vec![0])), r#""1970-01-01T00:00:00Z""#);
        let local = TimestampNanosecondArray::from(vec![1_000_000_001]);
        let batch = RecordBatch::try_from_iter([("t", Arc::new(local) as ArrayRef)]).unwrap();
        let (json, _) = RowWriter::new(Zoneless::Local).row(&batch, 0);
        assert_eq!(json, br#"{"t":"1970-01-01T00:00:01.000000001"}"#);
        assert_eq!(one(Time64MicrosecondArray::from(vec![3_661_000_001])), r#""01:01:01.000001""#);
        assert_eq!(one(DurationSecondArray::from(vec![90])), r#""PT90S""#);
    }

    #[test]
    fn text_and_bytes_are_escaped() {
        assert_eq!(one(StringArray::from(vec!["a\"\n\u{1}é"])), r#""a\"\n\u0001é""#);
        assert_eq!(
            one(StringViewArray::from(vec!["long enough not to be inlined"])),
            r#""long enough not to be inlined""#
        );
        assert_eq!(one(BinaryArray::from(vec![&[0_u8, 255][..]])), r#""00ff""#);
        let dictionary: DictionaryArray<arrow_array::types::Int32Type> = vec!["a", "b"].into_iter().collect();
        assert_eq!(rows(vec![("x", Arc::new(dictionary))]).unwrap()[1], r#"{"x":"b"}"#);
    }

    #[test]
    fn nested_values_and_nulls_are_json() {
        let list =
            ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])]);
        let field = Arc::new(Field::new("a b", DataType::Utf8, true));
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, Some("z")]));
        let object = StructArray::new(vec![field].into(), vec![text], Some(vec![true, true, false].into()));
        let rows = rows(vec![("l", Arc::new(list)), ("o", Arc::new(object))]).unwrap();
        assert_eq!(
            rows,
            [r#"{"l":[1,null],"o":{"a b":"x"}}"#, r#"{"l":null,"o":{"a b":null}}"#, r#"{"l":[],"o":null}"#]
        );
    }

    #[test]
    fn batch_without_columns_has_empty_rows() {
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(1));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
        assert_eq!(RowWriter::default().row(&batch, 0).0, b"{}");
    }
}

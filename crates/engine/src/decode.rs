//! From JSON text to Arrow columns of an inferred type, value by value, without rounding.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanBuilder, Decimal128Builder, Decimal256Builder, Int64Builder, ListArray, NullBufferBuilder,
    StringBuilder, StructArray,
};
use datafusion::arrow::buffer::{OffsetBuffer, ScalarBuffer};
use datafusion::arrow::datatypes::{DataType, Field, Fields, i256};
use matome_model::canonical::{Canonicaliser, Limits, canonical_number};
use matome_model::engine::{Failure, FailureCode};
use matome_model::inference::{ColumnType, for_each_field, for_each_item};

/// Digits that 128 bits hold.
const NARROW_DECIMAL_DIGITS: u8 = 38;

/// The Arrow type of a column.
pub(crate) fn arrow_type(column: &ColumnType) -> DataType {
    match column {
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Integer => DataType::Int64,
        ColumnType::Decimal { precision, scale } => {
            let scale = i8::try_from(*scale).expect("a scale is at most 76");
            if *precision <= NARROW_DECIMAL_DIGITS {
                DataType::Decimal128(*precision, scale)
            } else {
                DataType::Decimal256(*precision, scale)
            }
        }
        ColumnType::Text => DataType::Utf8,
        ColumnType::List(item) => DataType::List(item_field(item)),
        ColumnType::Struct(fields) => DataType::Struct(arrow_fields(fields)),
    }
}

fn item_field(item: &ColumnType) -> Arc<Field> {
    Arc::new(Field::new_list_field(arrow_type(item), true))
}

fn arrow_fields(fields: &[(String, ColumnType)]) -> Fields {
    fields.iter().map(|(name, column)| Field::new(name, arrow_type(column), true)).collect()
}

/// Collects the values of some fields of records.
pub(crate) struct FieldDecoder {
    fields: Vec<Column>,
    positions: HashMap<String, usize>,
    filled: Vec<bool>,
}

impl FieldDecoder {
    pub(crate) fn new(fields: &[(String, ColumnType)]) -> Self {
        Self {
            fields: fields.iter().map(|(_, column)| Column::new(column)).collect(),
            positions: fields.iter().enumerate().map(|(position, (name, _))| (name.clone(), position)).collect(),
            filled: vec![false; fields.len()],
        }
    }

    /// Appends one value to each field: what `json`, an object, has for it, else null.
    pub(crate) fn append(&mut self, json: &str) -> Result<(), Failure> {
        if self.fields.is_empty() {
            return Ok(());
        }
        self.filled.fill(false);
        for_each_field(json, |key, value| match self.positions.get(key.as_ref()) {
            Some(&position) if !self.filled[position] => {
                self.filled[position] = true;
                self.fields[position].append(value)
            }
            _ => Ok(()),
        })?;
        for (field, filled) in self.fields.iter_mut().zip(&self.filled) {
            if !filled {
                field.append_null();
            }
        }
        Ok(())
    }

    fn append_null(&mut self) {
        for field in &mut self.fields {
            field.append_null();
        }
    }

    /// The fields' values so far; the decoder starts anew.
    pub(crate) fn finish(&mut self) -> Vec<ArrayRef> {
        self.fields.iter_mut().map(Column::finish).collect()
    }
}

enum Column {
    Boolean(BooleanBuilder),
    Integer(Int64Builder),
    Decimal { values: Decimal128Builder, scale: usize },
    WideDecimal { values: Decimal256Builder, scale: usize },
    Text { values: StringBuilder, canonicaliser: Box<Canonicaliser>, scratch: Vec<u8> },
    List { items: Box<Column>, field: Arc<Field>, offsets: Vec<i32>, len: i32, nulls: NullBufferBuilder },
    Struct { decoder: FieldDecoder, fields: Fields, nulls: NullBufferBuilder },
}

impl Column {
    fn new(column: &ColumnType) -> Self {
        match column {
            ColumnType::Boolean => Self::Boolean(BooleanBuilder::new()),
            ColumnType::Integer => Self::Integer(Int64Builder::new()),
            ColumnType::Decimal { scale, .. } => {
                let scale = usize::from(*scale);
                let data_type = arrow_type(column);
                if matches!(data_type, DataType::Decimal128(..)) {
                    Self::Decimal { values: Decimal128Builder::new().with_data_type(data_type), scale }
                } else {
                    Self::WideDecimal { values: Decimal256Builder::new().with_data_type(data_type), scale }
                }
            }
            ColumnType::Text => {
                // A part of a stored record is within the limits of a record; only the wrapper of `append_canonical` comes on top.
                let limits = Limits { record_bytes: usize::MAX, depth: 1_000, ..Limits::default() };
                Self::Text {
                    values: StringBuilder::new(),
                    canonicaliser: Box::new(Canonicaliser::new(limits)),
                    scratch: Vec::new(),
                }
            }
            ColumnType::List(item) => Self::List {
                items: Box::new(Self::new(item)),
                field: item_field(item),
                offsets: vec![0],
                len: 0,
                nulls: NullBufferBuilder::new(0),
            },
            ColumnType::Struct(fields) => Self::Struct {
                decoder: FieldDecoder::new(fields),
                fields: arrow_fields(fields),
                nulls: NullBufferBuilder::new(0),
            },
        }
    }

    fn append(&mut self, json: &str) -> Result<(), Failure> {
        if json.starts_with('n') {
            self.append_null();
            return Ok(());
        }
        match self {
            Self::Boolean(values) => values.append_value(json.starts_with('t')),
            Self::Integer(values) => values.append_value(integer(json)?),
            Self::Decimal { values, scale } => {
                values.append_value(unscaled(json, *scale)?.parse().map_err(|_| odd(json))?)
            }
            Self::WideDecimal { values, scale } => {
                values.append_value(i256::from_string(&unscaled(json, *scale)?).ok_or_else(|| odd(json))?);
            }
            Self::Text { values, canonicaliser, scratch } => match json.as_bytes()[0] {
                b'"' => values.append_value(text(json)?),
                b't' | b'f' => values.append_value(json),
                b'{' | b'[' => {
                    scratch.clear();
                    scratch.extend_from_slice(br#"{"v":"#);
                    scratch.extend_from_slice(json.as_bytes());
                    scratch.push(b'}');
                    let canonical = canonicaliser.canonicalise(scratch).map_err(|_| odd(json))?;
                    values.append_value(&canonical.text[5..canonical.text.len() - 1]);
                }
                _ => values.append_value(number(json)?),
            },
            Self::List { items, offsets, len, nulls, .. } => {
                for_each_item::<Failure>(json, |item| {
                    *len = len.checked_add(1).ok_or_else(|| odd(json))?;
                    items.append(item)
                })?;
                offsets.push(*len);
                nulls.append_non_null();
            }
            Self::Struct { decoder, nulls, .. } => {
                decoder.append(json)?;
                nulls.append_non_null();
            }
        }
        Ok(())
    }

    fn append_null(&mut self) {
        match self {
            Self::Boolean(values) => values.append_null(),
            Self::Integer(values) => values.append_null(),
            Self::Decimal { values, .. } => values.append_null(),
            Self::WideDecimal { values, .. } => values.append_null(),
            Self::Text { values, .. } => values.append_null(),
            Self::List { offsets, len, nulls, .. } => {
                offsets.push(*len);
                nulls.append_null();
            }
            Self::Struct { decoder, nulls, .. } => {
                decoder.append_null();
                nulls.append_null();
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(values) => Arc::new(values.finish()),
            Self::Integer(values) => Arc::new(values.finish()),
            Self::Decimal { values, .. } => Arc::new(values.finish()),
            Self::WideDecimal { values, .. } => Arc::new(values.finish()),
            Self::Text { values, .. } => Arc::new(values.finish()),
            Self::List { items, field, offsets, len, nulls } => {
                *len = 0;
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                Arc::new(ListArray::new(Arc::clone(field), offsets, items.finish(), nulls.finish()))
            }
            Self::Struct { decoder, fields, nulls } => {
                Arc::new(StructArray::new(fields.clone(), decoder.finish(), nulls.finish()))
            }
        }
    }
}

/// The string that `json` writes.
fn text(json: &str) -> Result<Cow<'_, str>, Failure> {
    let inner = json.get(1..json.len() - 1).ok_or_else(|| odd(json))?;
    if inner.contains('\\') {
        serde_json::from_str::<String>(json).map(Cow::Owned).map_err(|_| odd(json))
    } else {
        Ok(Cow::Borrowed(inner))
    }
}

fn number(json: &str) -> Result<String, Failure> {
    canonical_number(json, usize::MAX).map_err(|_| odd(json))
}

fn integer(json: &str) -> Result<i64, Failure> {
    // `2e3` and `1.0` are integers too.
    json.parse().or_else(|_| number(json)?.parse().map_err(|_| odd(json)))
}

/// The digits of `json` as an integer of `10^-scale`.
fn unscaled(json: &str, scale: usize) -> Result<String, Failure> {
    let text = number(json)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if fraction.len() > scale {
        return Err(odd(json));
    }
    let mut digits = String::with_capacity(whole.len() + scale);
    digits.push_str(whole);
    digits.push_str(fraction);
    digits.extend(std::iter::repeat_n('0', scale - fraction.len()));
    Ok(digits)
}

/// The file changed between inference and decoding, or inference is wrong.
fn odd(json: &str) -> Failure {
    let shown: String = json.chars().take(80).collect();
    Failure::alike(FailureCode::Input, format!("a value does not have the type inferred for its column: `{shown}`"))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
    use datafusion::arrow::datatypes::{Decimal128Type, Schema};
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use matome_model::inference::Inference;

    use super::*;

    fn decode(records: &[&str]) -> RecordBatch {
        let mut inference = Inference::default();
        for record in records {
            inference.record(record).unwrap();
        }
        let columns = inference.columns();
        let mut decoder = FieldDecoder::new(&columns);
        for record in records {
            decoder.append(record).unwrap();
        }
        let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(arrow_fields(&columns))), decoder.finish(), &options)
            .unwrap()
    }

    #[test]
    fn decimals_keep_every_digit() {
        let batch = decode(&[r#"{"x": 12345678901234567.05}"#, r#"{"x": -0.1}"#, r#"{"x": 1e2}"#, "{}"]);
        let column = batch.column(0).as_primitive::<Decimal128Type>();
        let shown: Vec<String> = (0..3).map(|row| column.value_as_string(row)).collect();
        assert_eq!(shown, ["12345678901234567.05", "-0.10", "100.00"]);
        assert!(column.is_null(3));

        let wide = decode(&[r#"{"x": 100000000000000000000000000000000000000}"#, r#"{"x": -0.25}"#]);
        assert_eq!(wide.schema().field(0).data_type(), &DataType::Decimal256(41, 2));
        let shown = pretty_format_batches(&[wide]).unwrap().to_string();
        assert!(shown.contains("100000000000000000000000000000000000000.00") && shown.contains("-0.25"), "{shown}");
    }

    #[test]
    fn mixed_column_is_text_in_canonical_form() {
        let batch = decode(&[
            r#"{"x": "a\u00e9\n"}"#,
            r#"{"x": 1.50}"#,
            r#"{"x": {"b" : 1.0, "a":[true ]}}"#,
            r#"{"x": false}"#,
            r#"{"x":null}"#,
        ]);
        let column: Vec<Option<&str>> = batch.column(0).as_string::<i32>().iter().collect();
        assert_eq!(column, [Some("aé\n"), Some("1.5"), Some(r#"{"a":[true],"b":1}"#), Some("false"), None]);
    }

    #[test]
    fn nested_nulls_and_absent_fields_stay_apart_from_values() {
        let records =
            [r#"{"s": {"n": 1, "l": [{"a": "x"}, null, {}]}}"#, r#"{"s": null}"#, r#"{"s": {"l": []}}"#, r#"{}"#];
        let batch = decode(&records);
        let column = batch.column(0).as_struct();
        assert_eq!((0..4).map(|row| column.is_null(row)).collect::<Vec<_>>(), [false, true, false, true]);
        let list = column.column_by_name("l").unwrap().as_list::<i32>();
        assert_eq!((0..4).map(|row| list.is_null(row)).collect::<Vec<_>>(), [false, true, false, true]);
        assert_eq!(list.value_length(0), 3);
        let items = list.values().as_struct();
        assert_eq!((0..3).map(|item| items.is_null(item)).collect::<Vec<_>>(), [false, true, false]);
    }
}

//! The options of fixed width.

use matome_model::field_error::Words;
use matome_model::say;
use serde_json::Value;

use super::ColumnType;
use crate::config::Fields;
use crate::file::fixed::{FixedColumn, FixedConfig, Unit};

/// The widest row.
const WIDTH_LIMIT: usize = 1024 * 1024;

impl FixedConfig {
    /// Takes its options; `columns` is required when rows are read by them.
    pub(super) fn parse(fields: &mut Fields, is_required: bool) -> Self {
        if is_required && !fields.has("columns") {
            fields.require("columns");
        }
        let columns = columns(fields).unwrap_or_default();
        let unit = fields.choice("unit", &[("bytes", Unit::Bytes), ("characters", Unit::Characters)]);
        let line_breaks = super::flag(fields, "line_breaks", true);
        let trim = super::flag(fields, "trim", true);
        // Where a row ends is a number of bytes then, whatever they mean.
        let unit = unit.unwrap_or(if line_breaks { Unit::Characters } else { Unit::Bytes });
        if !line_breaks && unit == Unit::Characters {
            let words =
                Words::new("Without line breaks rows are counted in `bytes`.", "改行のない行は `bytes` で数えます。");
            fields.fail("unit", words);
        }
        Self { columns, unit, line_breaks, trim }
    }
}

fn columns(fields: &mut Fields) -> Option<Vec<FixedColumn>> {
    let value = fields.value("columns")?;
    let Value::Array(items) = value else {
        fields.fail("columns", wanted());
        return None;
    };
    let mut columns = Vec::with_capacity(items.len());
    for item in &items {
        match column(item) {
            Ok(column) => columns.push(column),
            Err(words) => {
                fields.fail("columns", words);
                return None;
            }
        }
    }
    let names: Vec<String> = columns.iter().filter_map(|column| column.name.clone()).collect();
    if let Some(name) = crate::file::csv::repeated(&names) {
        fields.fail("columns", say!("The name \"{name}\" is there twice.", "名前 \"{name}\" が2回あります。"));
    } else if names.is_empty() || columns.len() > crate::file::csv::COLUMN_LIMIT {
        fields.fail("columns", wanted());
    } else if columns.iter().map(|column| column.width).sum::<usize>() > WIDTH_LIMIT {
        fields.fail("columns", say!("A row may not be wider than {WIDTH_LIMIT}.", "行の幅は {WIDTH_LIMIT} までです。"));
    } else {
        return Some(columns);
    }
    None
}

fn column(item: &Value) -> Result<FixedColumn, Words> {
    let Value::Object(item) = item else { return Err(wanted()) };
    if let Some(other) = item.keys().find(|key| !["name", "width", "type"].contains(&key.as_str())) {
        return Err(say!(
            "\"{other}\" is no option of a column. Known here: `name`, `width`, `type`.",
            "\"{other}\" は列のオプションではありません。使えるもの: `name`, `width`, `type`。"
        ));
    }
    let name = match item.get("name") {
        None => None,
        Some(Value::String(name)) if !name.is_empty() => Some(name.clone()),
        Some(_) => return Err(wanted()),
    };
    let width = item.get("width").and_then(Value::as_u64).and_then(|width| usize::try_from(width).ok());
    let width = width.filter(|width| (1..=WIDTH_LIMIT).contains(width)).ok_or_else(wanted)?;
    let kind = match item.get("type") {
        None => ColumnType::String,
        Some(word) => {
            let known = ColumnType::WORDS.iter().find(|(known, _)| word.as_str() == Some(known));
            let words = ColumnType::WORDS.map(|(word, _)| word);
            known.map(|(_, kind)| *kind).ok_or_else(|| Words::no_choice(&word.to_string(), &words))?
        }
    };
    Ok(FixedColumn { name, width, kind })
}

fn wanted() -> Words {
    Words::new(
        "Give the columns of a row in their order: {\"name\": \"id\", \"width\": 4, \"type\": \"integer\"}; those without a name \
         are passed over, and one has a name at least.",
        "行の列を順に指定してください: {\"name\": \"id\", \"width\": 4, \"type\": \"integer\"}。名前のない列は飛ばします。名前のある列が\
         少なくとも一つ必要です。",
    )
}

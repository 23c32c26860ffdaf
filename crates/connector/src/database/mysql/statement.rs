//! The statement that asks for rows.

use super::super::condition::{self, Dialect};
use super::super::incremental::Kind;
use super::super::order::{Column, Order, Part};
use super::form::Form;
use super::quoted;

/// A longer record goes to quarantine (`model::canonical::Limits`), so no more of it than its beginning is fetched.
const ROW_LIMIT_BYTES: u64 = 8 << 20;
/// Of each value of such a row, so many characters are.
const KEPT_CHARS: u64 = 64 << 10;

/// What the column of a name is.
pub(super) fn form(columns: &[(String, Form)], name: &str) -> Form {
    columns.iter().find(|(known, _)| known == name).map_or(Form::Text, |(_, form)| *form)
}

/// The statement for the rows of `part`, and the values of its parameters. Each row has: its length if it is cut, whether it
/// may be a mark, the columns of the order, all columns.
pub(super) fn rows(
    relation: &str,
    columns: &[(String, Form)],
    order: &Order,
    part: &Part,
    began: &str,
) -> (String, Vec<String>) {
    let mut words = Words { columns, values: Vec::new() };
    let name = |name: &str| format!("matome_row.{}", quoted(name));
    let long: Vec<String> = columns
        .iter()
        .filter(|(_, form)| form.is_long())
        .map(|(long, form)| format!("coalesce(octet_length({}), 0) * {}", name(long), form.expansion()))
        .collect();
    let is_cut = format!("{} > {ROW_LIMIT_BYTES}", long.join(" + "));
    let mut selected = vec![match long.is_empty() {
        true => "null".to_owned(),
        false => format!("if({is_cut}, cast({} as unsigned), null)", long.join(" + ")),
    }];
    // Only a time may lie behind the beginning of the read.
    selected.push(match (&order.cursor, order.columns.first()) {
        (Some(_), Some(cursor)) if cursor.kind == Kind::Time => {
            format!("coalesce({} <= {}, 0)", words.column(cursor), words.parameter(began, cursor))
        }
        _ => "1".to_owned(),
    });
    selected.extend(order.columns.iter().map(|key| words.form(key).place(&name(&key.name))));
    selected.extend(columns.iter().map(|(column, form)| match form {
        Form::Geometry => format!("if({is_cut}, null, {})", name(column)),
        form if form.is_long() => format!("if({is_cut}, left({0}, {KEPT_CHARS}), {0})", name(column)),
        form => form.asked(&name(column)),
    }));
    let tail = condition::rows(order, part, &mut words);
    (format!("select {}\nfrom {relation} as matome_row{tail}", selected.join(",\n    ")), words.values)
}

/// The values of a statement's parameters.
struct Words<'a> {
    columns: &'a [(String, Form)],
    values: Vec<String>,
}

impl Words<'_> {
    fn form(&self, column: &Column) -> Form {
        form(self.columns, &column.name)
    }
}

impl Dialect for Words<'_> {
    const COMPARES_ROWS: bool = false;

    fn column(&self, column: &Column) -> String {
        self.form(column).compared(&format!("matome_row.{}", quoted(&column.name)))
    }

    fn parameter(&mut self, value: &str, column: &Column) -> String {
        self.values.push(value.to_owned());
        self.form(column).parameter(value)
    }

    fn before(&mut self, value: &str, overlap: u64, column: &Column) -> String {
        match (column.kind, value.trim().parse::<i128>()) {
            (Kind::Integer, Ok(whole)) => {
                let least = if self.form(column) == Form::Unsigned { 0 } else { i128::from(i64::MIN) };
                self.parameter(&(whole - i128::from(overlap)).max(least).to_string(), column)
            }
            (Kind::Time, _) => {
                let value = self.parameter(value, column);
                // There is nothing before dates that are none: then all rows are wanted.
                format!("coalesce({value} - interval {overlap} second, cast('0000-00-00' as datetime(6)))")
            }
            _ => self.parameter(value, column),
        }
    }

    fn is_null(&self, column: &Column) -> String {
        let name = self.column(column);
        // Of a column that is never NULL, the first half alone means the date 0000-00-00.
        format!("{name} is null and coalesce({name}, {name}) is null")
    }
}

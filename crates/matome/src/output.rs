//! Printing rows: stdout carries data only, in the form that was asked for.

use std::io::{self, IsTerminal as _, Write};

use comfy_table::{ContentArrangement, Table, presets};
use matome_model::language::Language;
use serde_json::value::RawValue;

use crate::cli::{Format, OutputArgs};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::message::Message;

mod heading;
pub mod yaml;

/// A row as the API gives it: JSON object text.
pub type Row = Box<RawValue>;

/// A column of a table: its heading, and the path of its value in the row.
pub type Column = (&'static str, &'static [&'static str]);

/// Prints rows. `columns` are those of the table and CSV forms; empty means the fields of the first row. `--fields`
/// takes the place of both.
///
/// # Errors
/// When `--fields` names what no row has, or stdout cannot be written.
pub fn print_rows(console: &Console, output: &OutputArgs, rows: &[Row], columns: &[Column]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if output.fields.is_empty() {
        let (headings, lines) = match output.output {
            Format::Table | Format::Csv => cells(rows, columns),
            _ => Default::default(),
        };
        return printed(write_rows(&mut out, console, output.output, rows, headings, lines));
    }
    let rows = picked(rows, &output.fields)?;
    let lines = rows.iter().map(|row| fields(row.get()).into_iter().map(|(_, value)| plain(value.get())).collect());
    let lines = lines.collect();
    printed(write_rows(&mut out, console, output.output, &rows, output.fields.clone(), lines))
}

fn write_rows(
    out: &mut impl Write,
    console: &Console,
    format: Format,
    rows: &[Row],
    headings: Vec<String>,
    lines: Vec<Vec<String>>,
) -> io::Result<()> {
    match format {
        Format::Json if rows.is_empty() => writeln!(out, "[]"),
        Format::Json => {
            writeln!(out, "[")?;
            for (n, row) in rows.iter().enumerate() {
                let comma = if n + 1 < rows.len() { "," } else { "" };
                writeln!(out, "  {}{comma}", row.get())?;
            }
            writeln!(out, "]")
        }
        Format::Ndjson => rows.iter().try_for_each(|row| writeln!(out, "{}", row.get())),
        Format::Yaml if rows.is_empty() => writeln!(out, "[]"),
        Format::Yaml => rows.iter().try_for_each(|row| yaml::write_item(out, row)),
        Format::Csv => {
            write_csv_line(out, &headings)?;
            lines.iter().try_for_each(|line| write_csv_line(out, line))
        }
        Format::Table if lines.is_empty() => Ok(()),
        Format::Table if io::stdout().is_terminal() => writeln!(out, "{}", aligned(console.language, &headings, lines)),
        Format::Table => {
            writeln!(out, "{}", headings.join("\t"))?;
            // A tab or line end inside a value would break the columns for whoever cuts them.
            let flat = |cell: &String| cell.replace(['\t', '\n', '\r'], " ");
            lines.iter().try_for_each(|line| writeln!(out, "{}", line.iter().map(flat).collect::<Vec<_>>().join("\t")))
        }
    }
}

/// A table for eyes: columns by display width, headings in the user's language.
pub fn aligned(language: Language, headings: &[String], lines: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(headings.iter().map(|name| heading::of(name, language)));
    table.add_rows(lines);
    table.trim_fmt()
}

/// Prints one row: field by field in the table form.
///
/// # Errors
/// As [`print_rows`].
pub fn print_row(console: &Console, output: &OutputArgs, row: &Row) -> Result<(), Failure> {
    let row = match output.fields.as_slice() {
        [] => row,
        names => &picked(std::slice::from_ref(row), names)?.remove(0),
    };
    match output.output {
        Format::Json | Format::Ndjson => printed(writeln!(io::stdout(), "{}", row.get())),
        Format::Yaml => printed(yaml::write_document(&mut io::stdout().lock(), row)),
        Format::Csv => {
            print_rows(console, &OutputArgs { output: Format::Csv, fields: Vec::new() }, std::slice::from_ref(row), &[])
        }
        Format::Table => {
            let fields = fields(row.get());
            let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            let mut out = io::stdout().lock();
            let mut each = fields.iter();
            printed(each.try_for_each(|(name, value)| writeln!(out, "{name:width$}  {}", plain(value.get()))))
        }
    }
}

/// Rows with the members that `names` name, in that order; a dot goes deeper.
fn picked(rows: &[Row], names: &[String]) -> Result<Vec<Row>, Failure> {
    let pick = |row: &Row| {
        let value = |name: &String| raw_at(row.get(), &name.split('.').collect::<Vec<_>>());
        names.iter().map(value).collect::<Vec<_>>()
    };
    let found: Vec<Vec<_>> = rows.iter().map(pick).collect();
    for (n, name) in names.iter().enumerate() {
        if !rows.is_empty() && found.iter().all(|values| values[n].is_none()) {
            let known: Vec<String> = fields(rows[0].get()).into_iter().map(|(name, _)| format!("`{name}`")).collect();
            return Err(Failure::new(Exit::Usage, Message::NoSuchField { field: name.clone() })
                .help(Message::FieldsAre { fields: known.join(", ") }));
        }
    }
    let object = |values: Vec<Option<Box<RawValue>>>| {
        let member = |(name, value): (&String, Option<Box<RawValue>>)| {
            let value = value.map_or_else(|| "null".to_owned(), |value| value.get().to_owned());
            format!("{}:{value}", serde_json::to_string(name).expect("text is JSON"))
        };
        let text = names.iter().zip(values).map(member).collect::<Vec<_>>().join(",");
        RawValue::from_string(format!("{{{text}}}")).expect("members of an object make an object")
    };
    Ok(found.into_iter().map(object).collect())
}

/// What became of writing to stdout.
pub fn printed(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        // `matome ... | head` ends reading early; that is no failure of ours.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other
            .map_err(|err| Failure::new(Exit::Failed, Message::NothingPrinted).because(&err).help(Message::CheckRoom)),
    }
}

/// The headings and cells of rows under their columns.
pub fn cells(rows: &[Row], columns: &[Column]) -> (Vec<String>, Vec<Vec<String>>) {
    if columns.is_empty() {
        let headings: Vec<String> =
            rows.first().map(|row| fields(row.get()).into_iter().map(|(name, _)| name).collect()).unwrap_or_default();
        let line = |row: &Row| {
            let fields = fields(row.get());
            let find = |name: &String| fields.iter().find(|(field, _)| field == name);
            headings.iter().map(|name| find(name).map(|(_, value)| plain(value.get())).unwrap_or_default()).collect()
        };
        let lines = rows.iter().map(line).collect();
        return (headings, lines);
    }
    let line = |row: &Row| columns.iter().map(|(_, path)| value_at(row.get(), path).unwrap_or_default()).collect();
    (columns.iter().map(|(heading, _)| (*heading).to_owned()).collect(), rows.iter().map(line).collect())
}

/// The value at a path of member names, as plain text; `None` when it is not there or null.
pub fn value_at(json: &str, path: &[&str]) -> Option<String> {
    raw_at(json, path).filter(|value| value.get() != "null").map(|value| plain(value.get()))
}

/// The value at a path of member names, as it is written.
fn raw_at(json: &str, path: &[&str]) -> Option<Box<RawValue>> {
    let (first, rest) = path.split_first()?;
    let (_, value) = fields(json).into_iter().find(|(name, _)| name == first)?;
    if rest.is_empty() { Some(value) } else { raw_at(value.get(), rest) }
}

/// The row with its members in the order of `names`, the order of a query; stored rows are sorted by name.
pub fn in_order(row: &Row, names: &[String]) -> Row {
    let mut members = fields(row.get());
    members.sort_by_key(|(name, _)| names.iter().position(|other| other == name));
    let member = |(name, value): &(String, Box<RawValue>)| {
        format!("{}:{}", serde_json::to_string(name).expect("text is JSON"), value.get())
    };
    let text = members.iter().map(member).collect::<Vec<_>>().join(",");
    RawValue::from_string(format!("{{{text}}}")).expect("members of an object make an object")
}

/// The members of a JSON object in their order, their values as they are written.
fn fields(json: &str) -> Vec<(String, Box<RawValue>)> {
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(String, Box<RawValue>)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    serde::Deserializer::deserialize_map(&mut serde_json::Deserializer::from_str(json), Members).unwrap_or_default()
}

/// A JSON value for people: text without quotes, null as nothing, the rest as written.
fn plain(json: &str) -> String {
    match json {
        "null" => String::new(),
        text if text.starts_with('"') => serde_json::from_str(text).unwrap_or_else(|_| text.to_owned()),
        other => other.to_owned(),
    }
}

/// Writes one line of RFC 4180 CSV.
///
/// # Errors
/// When it cannot be written.
pub fn write_csv_line(out: &mut impl Write, cells: &[String]) -> io::Result<()> {
    for (n, cell) in cells.iter().enumerate() {
        if n > 0 {
            out.write_all(b",")?;
        }
        write_csv_cell(out, cell)?;
    }
    out.write_all(b"\r\n")
}

/// RFC 4180. A cell that a spreadsheet would run as a formula gets a leading apostrophe (ASVS 1.2.10), unless
/// it is a plain number.
fn write_csv_cell(out: &mut impl Write, cell: &str) -> io::Result<()> {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
    let cell = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains(['"', ',', '\n', '\r']) {
        return write!(out, "\"{}\"", cell.replace('"', "\"\""));
    }
    out.write_all(cell.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(json: &str) -> Row {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn numbers_are_printed_as_they_were_written() {
        let rows = [row(r#"{"id":7,"raw":{"n":12345678901234567890.10}}"#)];
        let (_, lines) = cells(&rows, &[("id", &["id"]), ("n", &["raw", "n"])]);
        assert_eq!(lines, [["7", "12345678901234567890.10"]]);
    }

    #[test]
    fn a_formula_is_disarmed_in_csv_and_a_number_is_not() {
        let csv = |cell: &str| {
            let mut out = Vec::new();
            write_csv_line(&mut out, &[cell.to_owned()]).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(csv("=HYPERLINK()"), "'=HYPERLINK()\r\n");
        assert_eq!(csv("-1.5"), "-1.5\r\n");
        assert_eq!(csv("a\"b,c"), "\"a\"\"b,c\"\r\n");
    }

    #[test]
    fn without_columns_the_fields_of_the_first_row_are_the_headings() {
        let (headings, lines) = cells(&[row(r#"{"b":"x","a":null}"#), row(r#"{"a":1}"#)], &[]);
        assert_eq!(headings, ["b", "a"]);
        assert_eq!(lines, [["x", ""], ["", "1"]]);
    }

    #[test]
    fn wide_characters_take_two_columns_and_headings_are_in_the_users_language() {
        let headings = ["name".to_owned(), "status".to_owned()];
        let lines = vec![vec!["受注データ".to_owned(), "active".to_owned()], vec!["abcdefghij".into(), "error".into()]];
        let english = aligned(Language::English, &headings, lines.clone());
        let lines_of: Vec<&str> = english.lines().collect();
        assert!(lines_of[0].contains("NAME"), "{english}");
        // Five wide characters are as wide as ten narrow ones.
        let at = |line: &str, word: &str| {
            let before = &line[..line.find(word).unwrap()];
            before.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum::<usize>()
        };
        assert_eq!(at(lines_of[1], "active"), at(lines_of[2], "error"), "{english}");
        assert!(aligned(Language::Japanese, &headings, lines).contains("名前"));
    }

    #[test]
    fn picked_fields_keep_their_order_their_depth_and_their_text() {
        let rows = [row(r#"{"id":1,"config":{"n":1.50},"x":null}"#)];
        let names = ["config.n", "id", "x"].map(str::to_owned);
        assert_eq!(picked(&rows, &names).unwrap()[0].get(), r#"{"config.n":1.50,"id":1,"x":null}"#);
        let unknown = picked(&rows, &["nope".to_owned()]).unwrap_err();
        assert!(unknown.text(Language::English).contains("`id`, `config`, `x`"), "{unknown:?}");
        assert!(picked(&[], &["nope".to_owned()]).unwrap().is_empty());
    }
}

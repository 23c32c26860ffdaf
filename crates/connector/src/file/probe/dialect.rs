//! How the rows of a text are written: the sign between fields, whether fields are quoted, whether the first row has names, and
//! which columns are numbers. Each way is tried with the reader that reads them all.

use std::collections::HashSet;

use matome_model::field_error::Words;
use matome_model::say;
use serde_json::{Map, Value, json};

use super::super::config::{ColumnTypes, CsvConfig, Header};
use super::super::csv::{Csv, is_number};
use crate::probe::Finding;
use crate::record::{Found, Item, Parse as _};

/// So much of a text is tried.
const TRIED_BYTES: usize = 256 * 1024;
/// Lines that may stand above rows, as titles do.
const TITLE_LINES: usize = 20;
/// Signs between fields, the likeliest first.
const DELIMITERS: [u8; 4] = *b",\t;|";
/// Numbers of one length from so many digits on are likely codes, which may begin with a zero.
const CODE_DIGITS: usize = 4;

/// A way to take a text apart, and what comes of it.
struct Tried {
    delimiter: u8,
    quote: bool,
    rows: Vec<Vec<String>>,
    rejected: usize,
}

/// What `given` leaves open; `config` is what it means so far.
pub(in crate::file) fn look(text: &[u8], config: &CsvConfig, given: &Map<String, Value>) -> Vec<Finding> {
    let text = match text.get(..TRIED_BYTES) {
        Some(start) => &start[..start.iter().rposition(|byte| *byte == b'\n').map_or(start.len(), |end| end + 1)],
        None => text,
    };
    let is_open = |option: &str| !given.contains_key(option);
    let delimiters = match is_open("delimiter") {
        true => DELIMITERS.to_vec(),
        false => vec![config.delimiter],
    };
    let quotes: &[bool] = if is_open("quote") { &[true, false] } else { &[config.quote] };
    let ways = delimiters.iter().flat_map(|delimiter| quotes.iter().map(move |quote| (*delimiter, *quote)));
    let best_of = |text: &[u8]| {
        let tried = ways.clone().map(|(delimiter, quote)| attempt(text, delimiter, quote, config.comment));
        // The first of equals: a comma before a tab, quotes before none.
        tried.reduce(|best, other| if other.score() > best.score() { other } else { best })
    };
    let given_row = if is_open("header_row") { 1 } else { usize::try_from(config.header_row).unwrap_or(usize::MAX) };
    let Some(mut best) = best_of(from_line(text, given_row).unwrap_or_default()) else { return Vec::new() };
    let mut findings = Vec::new();
    if is_open("header_row") && !best.is_split() {
        let table = (2..=TITLE_LINES).find_map(|row| {
            let rows = from_line(text, row).filter(|rows| !rows.starts_with(b"\n") && !rows.starts_with(b"\r"))?;
            best_of(rows).filter(Tried::is_table).map(|tried| (row, tried))
        });
        if let Some((row, tried)) = table {
            let above = row - 1;
            let words = say!(
                "the names stand in line {row}; the {above} lines above are no rows and are passed over",
                "列名は {row} 行目にあります。上の {above} 行は行データではないので飛ばします"
            );
            findings.push(Finding { option: "header_row", value: Some(row.into()), words });
            best = tried;
        }
    }
    let (fields, rows) = (best.width(), best.rows.len());
    if best.delimiter != config.delimiter {
        let words =
            say!("{rows} rows have {fields} fields with it", "これで {rows} 行が {fields} 個のフィールドになります");
        let delimiter = char::from(best.delimiter).to_string();
        findings.push(Finding { option: "delimiter", value: Some(delimiter.into()), words });
    }
    if best.quote != config.quote {
        let words = Words::new(
            "double quotes are text: they do not stand around fields",
            "二重引用符はフィールドを囲むものではなく、文字として使われています",
        );
        findings.push(Finding { option: "quote", value: Some(best.quote.into()), words });
    }
    let has_names = match (is_open("header"), &config.header) {
        (true, _) => best.has_names(),
        (false, header) => *header == Header::FirstRow,
    };
    if is_open("header") && !has_names {
        let words = Words::new(
            "the first row has values, no names: columns are called `column_1`, `column_2`, ...",
            "最初の行は名前ではなく値です。列は `column_1`, `column_2`, ... となります",
        );
        findings.push(Finding { option: "header", value: Some(false.into()), words });
    }
    if is_open("types") {
        findings.extend(best.types(has_names, &config.header));
    }
    if best.rejected > 0 {
        let (rejected, rows) = (best.rejected, rows + best.rejected);
        let words = say!(
            "{rejected} of the first {rows} rows do not fit and would go to quarantine",
            "最初の {rows} 行のうち {rejected} 行は形が合わず、隔離されます"
        );
        findings.push(Finding { option: "delimiter", value: None, words });
    }
    findings
}

/// A text from a line on, the first of which is 1.
fn from_line(text: &[u8], number: usize) -> Option<&[u8]> {
    let mut rest = text;
    for _ in 1..number {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        rest = &rest[end + 1..];
    }
    Some(rest)
}

fn attempt(text: &[u8], delimiter: u8, quote: bool, comment: Option<u8>) -> Tried {
    let types = ColumnTypes::Declared(Default::default());
    let config = CsvConfig { delimiter, quote, header: Header::Numbered, header_row: 1, comment, types };
    let mut csv = Csv::new(config, None);
    let mut found = Found::new("".into(), None, 0);
    // A first row that can not be one says the same as rows that do not fit.
    let fed = csv.feed(text, &mut found).and_then(|()| csv.finish(&mut found));
    let mut tried = Tried { delimiter, quote, rows: Vec::new(), rejected: usize::from(fed.is_err()) };
    for item in found.take(usize::MAX, usize::MAX) {
        match item {
            Item::Record { raw, .. } => tried.rows.push(values(&raw)),
            Item::Rejected { .. } => tried.rejected += 1,
        }
    }
    tried
}

/// The values of a row in the order of its columns, of which the object has no other.
fn values(object: &[u8]) -> Vec<String> {
    let mut row: Vec<(usize, String)> = serde_json::from_slice::<Map<String, Value>>(object)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(name, value)| {
            let number = name.strip_prefix("column_")?.parse().ok()?;
            Some((number, value.as_str()?.to_owned()))
        })
        .collect();
    row.sort_unstable();
    row.into_iter().map(|(_, value)| value).collect()
}

impl Tried {
    fn width(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    /// The better the higher: what is split at all, and then fits in most rows, and then into most columns.
    fn score(&self) -> (bool, usize, usize) {
        (self.is_split(), self.fitting(), self.width())
    }

    /// Of a hundred rows, those that fit.
    fn fitting(&self) -> usize {
        let all = self.rows.len() + self.rejected;
        (self.rows.len() * 100).checked_div(all).unwrap_or_default()
    }

    fn is_split(&self) -> bool {
        self.width() > 1 && self.fitting() >= 50
    }

    /// Whether these are rows beneath their names, beyond doubt.
    fn is_table(&self) -> bool {
        let is_much = self.rows.len() >= 3 || (self.rows.len() == 2 && self.width() >= 3);
        is_much && self.width() > 1 && self.fitting() >= 90 && self.has_names()
    }

    /// Whether the first row has the names of the columns: it has no value, and none twice.
    fn has_names(&self) -> bool {
        let Some(first) = self.rows.first() else { return true };
        let mut seen = HashSet::new();
        !first.iter().any(|value| is_value(value)) && first.iter().all(|name| name.is_empty() || seen.insert(name))
    }

    /// The columns that are numbers or truth values in every row that has something there.
    fn types(&self, has_names: bool, header: &Header) -> Option<Finding> {
        let mut rows = self.rows.iter();
        let numbered = (1..=self.width()).map(|number| format!("column_{number}"));
        let names: Vec<String> = match header {
            Header::Named(names) => names.clone(),
            _ if has_names => rows.next()?.iter().zip(numbered).map(|(name, number)| or(name, number)).collect(),
            _ => numbered.collect(),
        };
        let types: Map<String, Value> = names
            .into_iter()
            .enumerate()
            .filter_map(|(column, name)| {
                let values = rows.clone().filter_map(|row| row.get(column)).filter(|value| !value.trim().is_empty());
                Some((name, json!(kind(values.map(|value| value.trim()))?)))
            })
            .collect();
        let (count, rows) = (types.len(), rows.len());
        (count > 0).then(|| {
            let words = say!(
                "so in all {rows} rows that were looked at; one that is not so goes to quarantine",
                "調べた {rows} 行すべてでそうです。合わない行は隔離されます"
            );
            Finding { option: "types", value: Some(types.into()), words }
        })
    }
}

fn or(name: &str, otherwise: String) -> String {
    if name.is_empty() { otherwise } else { name.to_owned() }
}

/// The type of a column, if it is none of text. Two values at least must say so.
fn kind<'v>(values: impl Iterator<Item = &'v str> + Clone) -> Option<&'static str> {
    if values.clone().take(2).count() < 2 {
        return None;
    }
    let is_truth = |value: &str| value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false");
    if values.clone().all(is_truth) {
        return Some("boolean");
    }
    let is_plain = |value: &str| is_number(value) && !value.contains(['e', 'E']);
    let lengths: HashSet<usize> = values.clone().map(str::len).collect();
    let is_code = lengths.len() == 1
        && lengths.iter().all(|length| *length >= CODE_DIGITS)
        && values.clone().all(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
    (values.clone().all(is_plain) && !is_code).then_some("number")
}

/// Whether a text is rather a value than a name: a number, a date, true or false.
fn is_value(text: &str) -> bool {
    let text = text.trim();
    let is_date = text.len() >= 8
        && text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || b"-/.: TZ+".contains(&byte));
    is_date || is_number(text) || text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, given: Value) -> Value {
        let given = given.as_object().unwrap().clone();
        let types = ColumnTypes::Declared(Default::default());
        let config =
            CsvConfig { delimiter: b',', quote: true, header: Header::FirstRow, header_row: 1, comment: None, types };
        let findings = look(text.as_bytes(), &config, &given).into_iter();
        findings.filter_map(|finding| Some((finding.option.to_owned(), finding.value?))).collect::<Map<_, _>>().into()
    }

    #[test]
    fn the_dialect_of_rows_is_found() {
        for (text, wanted) in [
            ("id,name\n1,a\n22,b\n", json!({"types": {"id": "number"}})),
            ("id;total\n1;1,50\n2;2,75\n", json!({"delimiter": ";", "types": {"id": "number"}})),
            ("a\tb\nx, y\tz\nx\tz\n", json!({"delimiter": "\t"})),
            ("a|b|c\n1,5|x|y\n", json!({"delimiter": "|"})),
            ("1,x\n22,y\n", json!({"header": false, "types": {"column_1": "number"}})),
            ("2026-01-31,x\n2026-02-01,y\n", json!({"header": false})),
            ("a,b\n5\" pipe,1\n6\" pipe,2\n", json!({"quote": false, "types": {"b": "number"}})),
            ("a,b\n\"5\"\" pipe, long\",true\nx,False\n", json!({"types": {"b": "boolean"}})),
            ("name\nx\ny\n", json!({})),
            ("zip,n\n1000001,1\n1600022,\n1600023,20\n", json!({"types": {"n": "number"}})),
            ("code\n007\n8\n", json!({})),
            ("a,,b\n1,2,3\n4,5,66\n", json!({"types": {"a": "number", "column_2": "number", "b": "number"}})),
            ("a,a\nx,y\n", json!({"header": false})),
            ("a,b\n", json!({})),
            ("", json!({})),
            ("Report 2026\n\nid,name,total\n1,a,2\n", json!({"header_row": 3})),
            (
                "# made by x\n# on Monday, 3 pm\nid;total\n1;2\n22;3\n",
                json!({"header_row": 3, "delimiter": ";", "types": {"id": "number", "total": "number"}}),
            ),
            ("note\nx, y\nz, w\n", json!({"delimiter": "\t"})),
        ] {
            assert_eq!(found(text, json!({})), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_is_given_is_kept() {
        let text = "1;2\n33;4\n";
        assert_eq!(found(text, json!({"types": "infer", "header": true})), json!({"delimiter": ";"}));
        assert_eq!(found(text, json!({"delimiter": ",", "quote": true})), json!({}), "one column of text");
    }

    #[test]
    fn rows_that_do_not_fit_are_told() {
        let types = ColumnTypes::Declared(Default::default());
        let config =
            CsvConfig { delimiter: b',', quote: true, header: Header::FirstRow, header_row: 1, comment: None, types };
        let findings = look(b"a,b\n1,2\n3\n4,5\n", &config, &Map::new());
        assert!(findings.iter().any(|finding| finding.words.english.starts_with("1 of the first 4 rows")));
    }
}

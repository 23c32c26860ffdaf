//! CSV (RFC 4180), strictly: what does not fit goes to quarantine instead of being guessed at.
//!
//! The usual readers repair an unescaped quote silently and drop blank lines of one-column files; both change data.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use encoding_rs::Encoding;
use matome_model::canonical::{QuarantineReason, is_canonical_number, write_string};
use matome_model::field_error::Words;
use matome_model::say;
use serde_json::value::RawValue;

use super::config::{ColumnType, ColumnTypes, CsvConfig, Header};
use super::lines::{KEPT_BYTES, LINE_LIMIT_BYTES};
use crate::record::{Boundary, DocumentError, Found, Parse};

/// Columns that a file may have.
pub(crate) const COLUMN_LIMIT: usize = 10_000;
/// Longer numbers stay text: the canonical form would refuse them.
const NUMBER_DIGITS: usize = 1_000;
/// Bytes of the names of columns that are kept with a row that can not be read.
const NAMES_BYTES: usize = 4_096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a line that is no row.
    Passed,
    FieldStart,
    Unquoted,
    Quoted,
    /// Behind a quote inside of a quoted field: it ends the field or is the first of two.
    QuoteSeen,
    /// The row broke a rule and is read to the end of its line.
    Broken,
}

#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    doubled: bool,
}

struct Column {
    name: String,
    /// `{"name":` of the first column, `,"name":` of the others.
    prefix: Vec<u8>,
    kind: Option<ColumnType>,
}

/// Takes rows apart and makes an object of each.
pub(super) struct Csv {
    config: CsvConfig,
    encoding: Option<&'static Encoding>,
    columns: Option<Vec<Column>>,
    /// Of the columns, to be kept with rows that can not be read; of very many they are not.
    names: Option<Arc<[String]>>,
    state: State,
    raw: Vec<u8>,
    size: usize,
    spans: Vec<Span>,
    fields: usize,
    start: usize,
    quoted: bool,
    doubled: bool,
    broken: Option<(&'static str, &'static str)>,
    after_cr: bool,
    line: u64,
    start_line: u64,
    /// Bytes before those that are fed.
    offset: u64,
}

/// The first name that is there twice.
pub(super) fn repeated(names: &[String]) -> Option<&str> {
    let mut seen = HashSet::new();
    names.iter().find(|name| !seen.insert(name.as_str())).map(String::as_str)
}

impl Csv {
    pub(super) fn new(config: CsvConfig, encoding: Option<&'static Encoding>) -> Self {
        let mut csv = Self {
            config,
            encoding,
            columns: None,
            names: None,
            state: State::FieldStart,
            raw: Vec::new(),
            size: 0,
            spans: Vec::new(),
            fields: 0,
            start: 0,
            quoted: false,
            doubled: false,
            broken: None,
            after_cr: false,
            line: 1,
            start_line: 1,
            offset: 0,
        };
        if let Header::Named(names) = &csv.config.header {
            let names = names.clone();
            csv.set_columns(names);
        }
        csv
    }

    fn set_columns(&mut self, names: Vec<String>) {
        let bytes: usize = names.iter().map(String::len).sum();
        self.names = (bytes + names.len() <= NAMES_BYTES).then(|| names.as_slice().into());
        self.columns = Some(self.make_columns(names));
    }

    fn make_columns(&self, names: Vec<String>) -> Vec<Column> {
        let make = |(index, name): (usize, String)| {
            let mut prefix = vec![if index == 0 { b'{' } else { b',' }];
            write_string(&mut prefix, &name);
            prefix.push(b':');
            let kind = match &self.config.types {
                ColumnTypes::Declared(types) => Some(types.get(&name).copied().unwrap_or(ColumnType::String)),
                ColumnTypes::Infer => None,
            };
            Column { name, prefix, kind }
        };
        names.into_iter().enumerate().map(make).collect()
    }

    fn hold(&mut self, piece: &[u8]) {
        self.size += piece.len();
        if self.size <= LINE_LIMIT_BYTES {
            self.raw.extend_from_slice(piece);
        } else if self.raw.len() > KEPT_BYTES {
            self.raw.truncate(KEPT_BYTES);
            self.raw.shrink_to_fit();
        } else {
            let room = KEPT_BYTES - self.raw.len();
            self.raw.extend_from_slice(&piece[..room.min(piece.len())]);
        }
    }

    fn end_field(&mut self) {
        self.fields += 1;
        if self.fields <= COLUMN_LIMIT {
            let quotes = usize::from(self.quoted);
            let (start, end) = (self.start + quotes, self.raw.len().saturating_sub(quotes));
            self.spans.push(Span { start, end: end.max(start), doubled: self.doubled });
        }
        (self.quoted, self.doubled) = (false, false);
        self.state = State::FieldStart;
    }

    fn end_row(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        let blank = self.size == 0;
        self.end_field();
        // A blank line is a row with one empty field; in a wider file it is nothing.
        let skipped = blank && self.columns.as_ref().is_none_or(|columns| columns.len() != 1);
        let result = if skipped { Ok(()) } else { self.row(found) };
        self.raw.clear();
        self.spans.clear();
        (self.size, self.fields, self.start, self.broken) = (0, 0, 0, None);
        result
    }

    fn row(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        if self.columns.is_none() {
            let names = self.header()?;
            self.set_columns(names);
            if self.config.header == Header::FirstRow {
                return Ok(());
            }
        }
        let columns = self.columns.as_ref().map_or(&[][..], Vec::as_slice);
        let line = Some(self.start_line);
        match self.object(columns) {
            Ok(object) => found.record(line, object),
            Err(rejection) => found.rejected_row(line, &self.raw, rejection, self.names.clone()),
        }
        Ok(())
    }

    /// Whether the line that begins with `first` is no row.
    fn is_passed(&self, first: u8) -> bool {
        self.line < self.config.header_row || self.config.comment == Some(first)
    }

    /// Whether all lines so far stand above the one with the header, or with the first row.
    fn header_row_is_ahead(&self) -> bool {
        let wanted = self.config.header_row;
        let is_nothing_there = self.line == wanted && self.size == 0 && self.columns.is_none();
        wanted > 1 && (self.line < wanted || is_nothing_there)
    }

    /// The names of the columns, from the first row.
    fn header(&self) -> Result<Vec<String>, DocumentError> {
        let fail = |problem: Words| Err(DocumentError::new(self.start_line, problem));
        if self.size > LINE_LIMIT_BYTES || self.fields > COLUMN_LIMIT {
            return fail(say!(
                "the first row has more than {COLUMN_LIMIT} columns or {LINE_LIMIT_BYTES} bytes",
                "最初の行が {COLUMN_LIMIT} 列または {LINE_LIMIT_BYTES} バイトを超えています"
            ));
        }
        if self.config.header == Header::Numbered {
            return Ok((1..=self.fields).map(|number| format!("column_{number}")).collect());
        }
        if let Some((problem, in_japanese)) = self.broken {
            return fail(say!("the header can not be read: {problem}", "見出しを読めません: {in_japanese}"));
        }
        let mut names = Vec::with_capacity(self.fields);
        for (index, span) in self.spans.iter().enumerate() {
            match self.text(*span) {
                Some(name) if name.is_empty() => names.push(format!("column_{}", index + 1)),
                Some(name) => names.push(name.into_owned()),
                None => {
                    let name = self.encoding_name();
                    return fail(say!(
                        "the header is not valid {name}; declare `encoding`",
                        "見出しが {name} として正しくありません。`encoding` を指定してください"
                    ));
                }
            }
        }
        match repeated(&names) {
            Some(name) => fail(say!(
                "the header has the name `{name}` twice; give names with `header`",
                "見出しに同じ名前 `{name}` が二度あります。`header` で名前を指定してください"
            )),
            None => Ok(names),
        }
    }

    fn encoding_name(&self) -> &'static str {
        self.encoding.unwrap_or(encoding_rs::UTF_8).name()
    }

    fn object(&self, columns: &[Column]) -> Result<Vec<u8>, (QuarantineReason, Words)> {
        if self.size > LINE_LIMIT_BYTES {
            let size = self.size;
            let detail = say!(
                "row of {size} bytes is longer than the limit of {LINE_LIMIT_BYTES}",
                "{size} バイトの行は上限の {LINE_LIMIT_BYTES} バイトを超えています"
            );
            return Err((QuarantineReason::LineLimit, detail));
        }
        if let Some(problem) = self.broken {
            return Err((QuarantineReason::CsvQuote, problem.into()));
        }
        if self.fields != columns.len() {
            let (fields, expected) = (self.fields, columns.len());
            let detail = say!(
                "row has {fields} fields where the header has {expected}",
                "見出しのフィールドは {expected} 個ですが、行には {fields} 個あります"
            );
            return Err((QuarantineReason::CsvWidth, detail));
        }
        let mut object = Vec::with_capacity(
            self.raw.len() + columns.iter().map(|column| column.prefix.len() + 2).sum::<usize>() + 1,
        );
        for (column, span) in columns.iter().zip(&self.spans) {
            let Some(text) = self.text(*span) else {
                let reason = match self.encoding {
                    None => QuarantineReason::InvalidUtf8,
                    Some(_) => QuarantineReason::Encoding,
                };
                let (column, encoding) = (&column.name, self.encoding_name());
                let detail = say!(
                    "column `{column}` is not valid {encoding}",
                    "列 `{column}` が {encoding} として正しくありません"
                );
                return Err((reason, detail));
            };
            object.extend_from_slice(&column.prefix);
            write_value(&mut object, &text, column.kind).map_err(|wanted| misfit(&column.name, wanted))?;
        }
        object.push(b'}');
        Ok(object)
    }

    fn text(&self, span: Span) -> Option<Cow<'_, str>> {
        let bytes = &self.raw[span.start..span.end];
        let text = match self.encoding {
            None => Cow::Borrowed(std::str::from_utf8(bytes).ok()?),
            Some(encoding) => encoding.decode_without_bom_handling_and_without_replacement(bytes)?,
        };
        Some(if span.doubled { Cow::Owned(text.replace("\"\"", "\"")) } else { text })
    }
}

/// Writes one field; the error says what it should have been.
pub(super) fn write_value(
    out: &mut Vec<u8>,
    text: &str,
    kind: Option<ColumnType>,
) -> Result<(), (&'static str, &'static str)> {
    let raw = |out: &mut Vec<u8>, json: &str| out.extend_from_slice(json.as_bytes());
    let Some(kind) = kind else {
        match text {
            "true" | "false" => raw(out, text),
            _ if is_canonical_number(text, NUMBER_DIGITS) => raw(out, text),
            _ => write_string(out, text),
        }
        return Ok(());
    };
    if kind == ColumnType::String {
        write_string(out, text);
        return Ok(());
    }
    let text = text.trim();
    match kind {
        _ if text.is_empty() => raw(out, "null"),
        ColumnType::Integer if is_number(text) && !text.contains(['.', 'e', 'E']) => raw(out, text),
        ColumnType::Integer => return Err(("an integer", "整数")),
        ColumnType::Number if is_number(text) => raw(out, text),
        ColumnType::Number => return Err(("a number", "数値")),
        ColumnType::Boolean if text.eq_ignore_ascii_case("true") => raw(out, "true"),
        ColumnType::Boolean if text.eq_ignore_ascii_case("false") => raw(out, "false"),
        ColumnType::Boolean => return Err(("`true` or `false`", " `true` か `false` ")),
        ColumnType::Json if serde_json::from_str::<&RawValue>(text).is_ok() => raw(out, text),
        ColumnType::Json => return Err(("JSON", " JSON ")),
        ColumnType::String => unreachable!("handled before"),
    }
    Ok(())
}

/// Why a row whose column is not what it should have been is no record.
pub(super) fn misfit(column: &str, (wanted, in_japanese): (&'static str, &'static str)) -> (QuarantineReason, Words) {
    let detail = say!("column `{column}` is not {wanted}", "列 `{column}` が{in_japanese}ではありません");
    (QuarantineReason::Schema, detail)
}

/// Whether `text` is a number in JSON's grammar.
pub(super) fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && serde_json::from_str::<&RawValue>(text).is_ok()
}

impl Parse for Csv {
    fn feed(&mut self, bytes: &[u8], found: &mut Found) -> Result<(), DocumentError> {
        let delimiter = self.config.delimiter;
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                at += 1;
                continue;
            }
            if self.size == 0 && self.fields == 0 {
                self.start_line = self.line;
                if self.state == State::FieldStart && self.is_passed(byte) {
                    self.state = State::Passed;
                }
            }
            let rest = &bytes[at..];
            match self.state {
                State::Passed => {
                    at += rest.iter().position(|&byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
                    if let Some(end) = bytes.get(at) {
                        self.after_cr = *end == b'\r';
                        self.line += 1;
                        self.state = State::FieldStart;
                        at += 1;
                    }
                    continue;
                }
                State::FieldStart => {
                    self.start = self.raw.len();
                    if byte == b'"' && self.config.quote {
                        self.quoted = true;
                        self.hold(b"\"");
                        self.state = State::Quoted;
                        at += 1;
                    } else {
                        self.state = State::Unquoted;
                    }
                    continue;
                }
                State::Quoted => {
                    let end = rest.iter().position(|&byte| byte == b'"');
                    let piece = &rest[..end.map_or(rest.len(), |end| end + 1)];
                    self.line += piece.iter().filter(|&&byte| byte == b'\n').count() as u64;
                    self.hold(piece);
                    at += piece.len();
                    if end.is_some() {
                        self.state = State::QuoteSeen;
                    }
                    continue;
                }
                State::QuoteSeen if byte == b'"' => {
                    self.doubled = true;
                    self.hold(b"\"");
                    self.state = State::Quoted;
                    at += 1;
                    continue;
                }
                State::QuoteSeen if byte != delimiter && byte != b'\n' && byte != b'\r' => {
                    self.broken = Some((
                        "there is text behind the closing quote of a field",
                        "フィールドを閉じる引用符のあとに文字があります",
                    ));
                    self.state = State::Broken;
                    continue;
                }
                State::QuoteSeen => {}
                State::Unquoted => {
                    let quote = self.config.quote;
                    let ends = |byte: u8| byte == delimiter || matches!(byte, b'\n' | b'\r') || (byte == b'"' && quote);
                    let end = rest.iter().position(|&byte| ends(byte));
                    let piece = &rest[..end.unwrap_or(rest.len())];
                    self.hold(piece);
                    at += piece.len();
                    match bytes.get(at) {
                        None => continue,
                        Some(b'"') if quote => {
                            self.broken = Some((
                                "there is a quote inside of a field that does not begin with one",
                                "引用符で始まらないフィールドの中に引用符があります",
                            ));
                            self.state = State::Broken;
                            continue;
                        }
                        Some(_) => {}
                    }
                }
                State::Broken => {
                    let end = rest.iter().position(|&byte| matches!(byte, b'\n' | b'\r'));
                    let piece = &rest[..end.unwrap_or(rest.len())];
                    self.hold(piece);
                    at += piece.len();
                    if end.is_none() {
                        continue;
                    }
                }
            }
            // Here a field ends, with the delimiter or with the line.
            let byte = bytes[at];
            at += 1;
            if byte == delimiter && self.state != State::Broken {
                self.end_field();
                self.hold(&[byte]);
            } else {
                self.after_cr = byte == b'\r';
                found.ends_at(Some(Boundary { offset: self.offset + at as u64, line: self.line + 1 }));
                let ended = self.end_row(found);
                self.line += 1;
                ended?;
            }
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        if self.state == State::Quoted {
            self.broken = Some((
                "a quoted field is not closed before the end of the file",
                "引用符で囲んだフィールドがファイルの終わりまで閉じられていません",
            ));
        }
        let is_whole = self.size == 0 && self.fields == 0;
        if self.header_row_is_ahead() {
            let (wanted, lines) = (self.config.header_row, self.line);
            return Err(DocumentError::anywhere(say!(
                "there is no line {wanted} (`header_row`): it ends in line {lines}",
                "{wanted} 行目 (`header_row`) がありません。{lines} 行目で終わっています"
            )));
        }
        // What comes behind lines that are no rows may be the header still, or go on in the last of them.
        let is_row_end = is_whole && self.state != State::Passed && self.columns.is_some();
        found.end_text(is_row_end.then_some(Boundary { offset: self.offset, line: self.line }));
        if !is_whole {
            if self.state == State::FieldStart {
                self.start = self.raw.len();
            }
            found.ends_at(None);
            self.end_row(found)?;
        }
        Ok(())
    }

    fn jump(&mut self, to: Boundary, before: u8) -> bool {
        let (columns, names) = (self.columns.take(), self.names.take());
        *self = Self::new(self.config.clone(), self.encoding);
        (self.columns, self.names) = (columns, names);
        (self.offset, self.line) = (to.offset, to.line);
        // What follows is the second byte of a line break then, and no row.
        self.after_cr = before == b'\r';
        matches!(before, b'\n' | b'\r')
    }

    fn knows_columns(&self) -> bool {
        self.columns.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Item;

    fn config() -> CsvConfig {
        let types = ColumnTypes::Declared(Default::default());
        CsvConfig { delimiter: b',', quote: true, header: Header::FirstRow, header_row: 1, comment: None, types }
    }

    fn read_in(
        config: CsvConfig,
        encoding: Option<&'static Encoding>,
        bytes: &[u8],
        step: usize,
    ) -> Result<Vec<String>, String> {
        let mut csv = Csv::new(config, encoding);
        let mut found = Found::new("d".into(), None, 0);
        let mut run = || {
            for piece in bytes.chunks(step) {
                csv.feed(piece, &mut found)?;
            }
            csv.finish(&mut found)
        };
        run().map_err(|error: DocumentError| error.problem.english)?;
        let show = |item| match item {
            Item::Record { raw, position } => format!("{}:{}", position.line.unwrap(), String::from_utf8(raw).unwrap()),
            Item::Rejected { raw, reason, position, .. } => {
                format!("{}:{reason}:{}", position.line.unwrap(), String::from_utf8_lossy(&raw))
            }
        };
        Ok(found.take(usize::MAX, usize::MAX).into_iter().map(show).collect())
    }

    fn read(config: CsvConfig, text: &str) -> Result<Vec<String>, String> {
        let whole = read_in(config.clone(), None, text.as_bytes(), usize::MAX);
        for step in [1, 2, 3] {
            assert_eq!(read_in(config.clone(), None, text.as_bytes(), step), whole, "{text:?} by {step}");
        }
        whole
    }

    #[test]
    fn rows_become_objects_of_strings_in_the_order_of_the_header() {
        let rows = ["2:{\"b\":\"1\",\"a\":\"00123\"}", "3:{\"b\":\"\",\"a\":\"x y\"}"];
        for end in ["\n", "\r\n", "\r"] {
            let text = ["b,a", "1,00123", ",x y"].join(end);
            assert_eq!(read(config(), &text).unwrap(), rows, "{end:?}");
            assert_eq!(read(config(), &format!("{text}{end}")).unwrap(), rows, "{end:?}");
        }
    }

    #[test]
    fn quoted_fields_hold_delimiters_quotes_and_lines() {
        let text = "a,b\n\"x,\"\"y\"\"\nz\",\"\"\n\"\"\"\",=1+1\n";
        assert_eq!(
            read(config(), text).unwrap(),
            ["2:{\"a\":\"x,\\\"y\\\"\\nz\",\"b\":\"\"}", "4:{\"a\":\"\\\"\",\"b\":\"=1+1\"}"]
        );
    }

    #[test]
    fn rows_of_another_width_and_broken_quotes_are_rejected_alone() {
        let text = "a,b\n1\n1,2,3\nx \"y\",2\n\"x\"y,2\nok,2\n";
        assert_eq!(
            read(config(), text).unwrap(),
            [
                "2:csv_width:1",
                "3:csv_width:1,2,3",
                "4:csv_quote:x \"y\",2",
                "5:csv_quote:\"x\"y,2",
                "6:{\"a\":\"ok\",\"b\":\"2\"}"
            ]
        );
        assert_eq!(read(config(), "a,b\n1,2\n3,\"open\n4,5\n").unwrap()[1], "3:csv_quote:3,\"open\n4,5\n");
    }

    #[test]
    fn quotes_are_text_where_none_are_expected() {
        let tabs = CsvConfig { delimiter: b'\t', quote: false, ..config() };
        let text = "a\tb\n\"x\t5\" wide\n\"\"\t\"y\"\n";
        assert_eq!(read(tabs, text).unwrap(), [r#"2:{"a":"\"x","b":"5\" wide"}"#, r#"3:{"a":"\"\"","b":"\"y\""}"#]);
    }

    #[test]
    fn blank_lines_are_rows_in_files_of_one_column_only() {
        assert_eq!(read(config(), "a\n1\n\n2\n").unwrap(), ["2:{\"a\":\"1\"}", "3:{\"a\":\"\"}", "4:{\"a\":\"2\"}"]);
        assert_eq!(read(config(), "a,b\n\n1,2\n\n").unwrap(), ["3:{\"a\":\"1\",\"b\":\"2\"}"]);
    }

    #[test]
    fn lines_above_the_header_and_comments_are_no_rows() {
        let text = "Report \"2026\n\nid,name\n#1,x\n1,a\n#2\n3,\"b\n#c\"\n";
        let third = CsvConfig { header_row: 3, ..config() };
        assert_eq!(
            read(third.clone(), text).unwrap()[..2],
            ["4:{\"id\":\"#1\",\"name\":\"x\"}", "5:{\"id\":\"1\",\"name\":\"a\"}"]
        );
        let comments = CsvConfig { comment: Some(b'#'), ..third.clone() };
        for end in ["\n", "\r\n", "\r"] {
            let rows = read(comments.clone(), &text.replace('\n', end)).unwrap();
            assert_eq!(rows.len(), 2, "{rows:?}");
            assert!(rows[0].starts_with("5:") && rows[1].starts_with("7:"), "{rows:?}");
        }
        let named = CsvConfig { header: Header::Named(vec!["x".into(), "y".into()]), ..third.clone() };
        assert_eq!(read(named, text).unwrap()[0], "3:{\"x\":\"id\",\"y\":\"name\"}");
        let behind = CsvConfig { comment: Some(b'#'), ..config() };
        assert_eq!(read(behind, "#made\n#by\na\n1\n# end").unwrap(), ["4:{\"a\":\"1\"}"]);
        for text in ["", "a\n", "a\nb\n", "a\nb"] {
            assert!(read(third.clone(), text).unwrap_err().contains("`header_row`"), "{text:?}");
        }
        assert_eq!(read(third, "a\nb\nc").unwrap(), [""; 0]);
    }

    #[test]
    fn headers_can_be_missing_given_or_wrong() {
        let numbered = CsvConfig { header: Header::Numbered, ..config() };
        assert_eq!(read(numbered, "1,2\n").unwrap(), ["1:{\"column_1\":\"1\",\"column_2\":\"2\"}"]);
        let named = CsvConfig { header: Header::Named(vec!["x".into(), "y".into()]), delimiter: b';', ..config() };
        assert_eq!(read(named, "1;2\n").unwrap(), ["1:{\"x\":\"1\",\"y\":\"2\"}"]);
        assert_eq!(read(config(), "a,,c\n1,2,3").unwrap(), ["2:{\"a\":\"1\",\"column_2\":\"2\",\"c\":\"3\"}"]);
        assert!(read(config(), "a,b,a\n1,2,3").unwrap_err().contains("`a` twice"));
        assert_eq!(read(config(), "a,b\n").unwrap(), [""; 0]);
        assert_eq!(read(config(), "").unwrap(), [""; 0]);
    }

    #[test]
    fn declared_types_convert_or_reject() {
        let types = [
            ("i", ColumnType::Integer),
            ("n", ColumnType::Number),
            ("b", ColumnType::Boolean),
            ("j", ColumnType::Json),
        ];
        let types = types.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
        let config = CsvConfig { delimiter: b';', types: ColumnTypes::Declared(types), ..config() };
        let text = "i;n;b;j;s\n12345678901234567890;1.50;TRUE;[1,null];7\n;;;;\n1.5;1;true;1;s\n1;x;true;1;s\n01;1;true;1;s\n1;1;yes;1;s\n1;1;true;{;s\n";
        let rows = read(config, text).unwrap();
        assert_eq!(rows[0], "2:{\"i\":12345678901234567890,\"n\":1.50,\"b\":true,\"j\":[1,null],\"s\":\"7\"}");
        assert_eq!(rows[1], "3:{\"i\":null,\"n\":null,\"b\":null,\"j\":null,\"s\":\"\"}");
        assert!(rows[2..].iter().all(|row| row.contains(":schema:")), "{rows:?}");
    }

    #[test]
    fn inference_converts_only_what_is_written_back_the_same() {
        let config = CsvConfig { types: ColumnTypes::Infer, ..config() };
        let values = ["7", "00123", "1.5", "1.50", "-0", "1e5", "true", "True", "", " 1", "NaN"];
        let text = format!("a,b\n{}\n", values.map(|value| format!("{value},x")).join("\n"));
        let rows = read(config, &text).unwrap();
        let got: Vec<&str> =
            rows.iter().map(|row| row.split_once("\"a\":").unwrap().1.split_once(",\"b\"").unwrap().0).collect();
        assert_eq!(
            got,
            ["7", "\"00123\"", "1.5", "\"1.50\"", "\"-0\"", "\"1e5\"", "true", "\"True\"", "\"\"", "\" 1\"", "\"NaN\""]
        );
    }

    #[test]
    fn shift_jis_is_decoded_and_malformed_rows_are_kept_raw() {
        let (bytes, _, _) = encoding_rs::SHIFT_JIS.encode("名前,住所\nソース表,\"東京,都\"\n");
        let mut bytes = bytes.into_owned();
        bytes.extend(b"\x81,x\n");
        let rows = read_in(config(), Some(encoding_rs::SHIFT_JIS), &bytes, 3).unwrap();
        assert_eq!(rows[0], "2:{\"名前\":\"ソース表\",\"住所\":\"東京,都\"}");
        assert!(rows[1].starts_with("3:encoding:"), "{rows:?}");
        assert!(read_in(config(), None, &bytes, 3).unwrap_err().contains("`encoding`"));
    }
}

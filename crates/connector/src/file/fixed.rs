//! Rows of columns that have a width instead of a delimiter, on lines or one behind the other.

use std::borrow::Cow;

use encoding_rs::Encoding;
use matome_model::canonical::{QuarantineReason, write_string};
use matome_model::field_error::Words;
use matome_model::say;

use super::config::ColumnType;
use super::csv::{misfit, write_value};
use super::lines::{KEPT_BYTES, LINE_LIMIT_BYTES, Line, LineBuffer};
use crate::record::{Boundary, DocumentError, Found, Parse};

/// What a width counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of the file: what programs write that know one- and two-byte characters.
    Bytes,
    /// Characters (Unicode scalar values).
    Characters,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedColumn {
    /// `name`; without one it is passed over.
    pub name: Option<String>,
    /// `width`.
    pub width: usize,
    /// `type`, as of a CSV column; a string if it is not given.
    pub kind: ColumnType,
}

/// The options of fixed width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedConfig {
    /// `columns`, in their order; all of a row.
    pub columns: Vec<FixedColumn>,
    /// `unit`: `bytes` or `characters` (default).
    pub unit: Unit,
    /// `line_breaks`: whether each row is a line (default), or follows the one before at once.
    pub line_breaks: bool,
    /// `trim`: whether spaces around a value are no part of it (default).
    pub trim: bool,
}

/// Takes rows apart and makes an object of each.
pub(super) struct Fixed {
    config: FixedConfig,
    encoding: Option<&'static Encoding>,
    width: usize,
    lines: LineBuffer,
    /// Of rows without line breaks: the one that is not whole yet.
    held: Vec<u8>,
    rows: u64,
}

impl Fixed {
    pub(super) fn new(config: FixedConfig, encoding: Option<&'static Encoding>) -> Self {
        let width = config.columns.iter().map(|column| column.width).sum();
        Self { config, encoding, width, lines: LineBuffer::default(), held: Vec::new(), rows: 0 }
    }

    /// A row, and the number of its line or, without lines, its own.
    fn row(&self, bytes: &[u8], number: u64, found: &mut Found) {
        match self.object(bytes) {
            Ok(object) => found.record(Some(number), object),
            Err((reason, detail)) => found.rejected(Some(number), bytes, reason, detail),
        }
    }

    fn line(&self, bytes: &[u8], Line { size, number, end }: Line, found: &mut Found) {
        found.ends_at(end);
        if size > LINE_LIMIT_BYTES {
            let detail = say!(
                "line of {size} bytes is longer than the limit of {LINE_LIMIT_BYTES}",
                "{size} バイトの行は上限の {LINE_LIMIT_BYTES} バイトを超えています"
            );
            let kept = &bytes[..bytes.len().min(KEPT_BYTES)];
            return found.rejected(Some(number), kept, QuarantineReason::LineLimit, detail);
        }
        if !bytes.is_empty() {
            self.row(bytes, number, found);
        }
    }

    fn object(&self, bytes: &[u8]) -> Result<Vec<u8>, (QuarantineReason, Words)> {
        let mut object = Vec::with_capacity(bytes.len() * 2);
        match self.config.unit {
            Unit::Bytes => {
                self.has_width(bytes.len())?;
                let mut rest = bytes;
                for column in &self.config.columns {
                    let (field, behind) = rest.split_at(column.width);
                    rest = behind;
                    if let Some(name) = &column.name {
                        let text = self.decode(field).ok_or_else(|| self.undecodable(Some(name)))?;
                        self.write(&mut object, name, column.kind, &text)?;
                    }
                }
            }
            Unit::Characters => {
                let text = self.decode(bytes).ok_or_else(|| self.undecodable(None))?;
                self.has_width(text.chars().count())?;
                let mut rest: &str = &text;
                for column in &self.config.columns {
                    let end = rest.char_indices().nth(column.width).map_or(rest.len(), |(at, _)| at);
                    let (field, behind) = rest.split_at(end);
                    rest = behind;
                    if let Some(name) = &column.name {
                        self.write(&mut object, name, column.kind, field)?;
                    }
                }
            }
        }
        object.push(b'}');
        Ok(object)
    }

    fn has_width(&self, width: usize) -> Result<(), (QuarantineReason, Words)> {
        if width == self.width {
            return Ok(());
        }
        let expected = self.width;
        let (unit, in_japanese) = match self.config.unit {
            Unit::Bytes => ("bytes", "バイト"),
            Unit::Characters => ("characters", "文字"),
        };
        let detail = say!(
            "row has {width} {unit} where its columns have {expected}",
            "列は合わせて {expected} {in_japanese}ですが、行は {width} {in_japanese}です"
        );
        Err((QuarantineReason::CsvWidth, detail))
    }

    fn decode<'b>(&self, bytes: &'b [u8]) -> Option<Cow<'b, str>> {
        match self.encoding {
            None => std::str::from_utf8(bytes).ok().map(Into::into),
            Some(encoding) => encoding.decode_without_bom_handling_and_without_replacement(bytes),
        }
    }

    fn undecodable(&self, column: Option<&str>) -> (QuarantineReason, Words) {
        let (reason, name) = match self.encoding {
            None => (QuarantineReason::InvalidUtf8, "UTF-8"),
            Some(encoding) => (QuarantineReason::Encoding, encoding.name()),
        };
        let detail = match column {
            None => say!("row is not valid {name}", "行が {name} として正しくありません"),
            Some(column) => {
                say!("column `{column}` is not valid {name}", "列 `{column}` が {name} として正しくありません")
            }
        };
        (reason, detail)
    }

    fn write(
        &self,
        object: &mut Vec<u8>,
        name: &str,
        kind: ColumnType,
        text: &str,
    ) -> Result<(), (QuarantineReason, Words)> {
        let text = if self.config.trim { text.trim_matches(' ') } else { text };
        let text = numeral(text, kind);
        object.push(if object.is_empty() { b'{' } else { b',' });
        write_string(object, name);
        object.push(b':');
        write_value(object, &text, Some(kind)).map_err(|wanted| misfit(name, wanted))
    }
}

/// The text of a value; where it is a number, as JSON writes one.
pub(super) fn numeral(text: &str, kind: ColumnType) -> Cow<'_, str> {
    if matches!(kind, ColumnType::Integer | ColumnType::Number) { unpadded(text) } else { text.into() }
}

/// A number without the zeros that fill its column, which JSON does not have.
fn unpadded(text: &str) -> Cow<'_, str> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (if text.starts_with('-') { "-" } else { "" }, digits),
        None => ("", text),
    };
    let stripped = digits.trim_start_matches('0');
    let is_bare = !stripped.starts_with(|first: char| first.is_ascii_digit());
    let zero = if is_bare && stripped.len() < digits.len() { "0" } else { "" };
    format!("{sign}{zero}{stripped}").into()
}

impl Parse for Fixed {
    fn feed(&mut self, mut bytes: &[u8], found: &mut Found) -> Result<(), DocumentError> {
        if self.config.line_breaks {
            let mut lines = std::mem::take(&mut self.lines);
            lines.feed(bytes, &mut |bytes, line| self.line(bytes, line, found));
            self.lines = lines;
            return Ok(());
        }
        while !bytes.is_empty() {
            let (piece, behind) = bytes.split_at(bytes.len().min(self.width - self.held.len()));
            self.held.extend_from_slice(piece);
            bytes = behind;
            if self.held.len() == self.width {
                let row = std::mem::take(&mut self.held);
                self.rows += 1;
                found.ends_at(Some(Boundary { offset: self.rows * self.width as u64, line: self.rows + 1 }));
                self.row(&row, self.rows, found);
            }
        }
        Ok(())
    }

    fn finish(&mut self, found: &mut Found) -> Result<(), DocumentError> {
        if self.config.line_breaks {
            let mut lines = std::mem::take(&mut self.lines);
            found.end_text(lines.whole());
            lines.finish(&mut |bytes, line| self.line(bytes, line, found));
            return Ok(());
        }
        let rest = std::mem::take(&mut self.held);
        if rest.is_empty() {
            found.end_text(Some(Boundary { offset: self.rows * self.width as u64, line: self.rows + 1 }));
        }
        // Whoever ends a file with a line break, or with the Control-Z of old, means no row.
        if !rest.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0x1a)) {
            found.end_text(None);
            found.ends_at(None);
            self.row(&rest, self.rows + 1, found);
        }
        Ok(())
    }

    fn jump(&mut self, to: Boundary, before: u8) -> bool {
        if self.config.line_breaks {
            return self.lines.jump(to, before);
        }
        self.held.clear();
        self.rows = to.line - 1;
        to.offset == self.rows * self.width as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Item;

    fn column(name: &str, width: usize, kind: ColumnType) -> FixedColumn {
        FixedColumn { name: (!name.is_empty()).then(|| name.to_owned()), width, kind }
    }

    fn config() -> FixedConfig {
        let columns = vec![
            column("id", 4, ColumnType::Integer),
            column("", 1, ColumnType::String),
            column("name", 5, ColumnType::String),
        ];
        FixedConfig { columns, unit: Unit::Characters, line_breaks: true, trim: true }
    }

    fn read(config: &FixedConfig, encoding: Option<&'static Encoding>, bytes: &[u8]) -> Vec<String> {
        let by = |step: usize| {
            let mut fixed = Fixed::new(config.clone(), encoding);
            let mut found = Found::new("d".into(), None, 0);
            bytes.chunks(step).for_each(|piece| fixed.feed(piece, &mut found).unwrap());
            fixed.finish(&mut found).unwrap();
            let show = |item: Item| {
                let line = item.position().line.unwrap();
                match item {
                    Item::Record { raw, .. } => format!("{line}:{}", String::from_utf8(raw).unwrap()),
                    Item::Rejected { raw, reason, .. } => format!("{line}:{reason}:{}", raw.escape_ascii()),
                }
            };
            found.take(usize::MAX, usize::MAX).into_iter().map(show).collect::<Vec<_>>()
        };
        let whole = by(usize::MAX);
        assert_eq!(by(1), whole);
        assert_eq!(by(3), whole);
        whole
    }

    #[test]
    fn columns_are_cut_by_their_width_and_passed_over_without_a_name() {
        assert_eq!(
            read(&config(), None, "0012|東京 x \r\n   7#     \n\n".as_bytes()),
            [r#"1:{"id":12,"name":"東京 x"}"#, r#"2:{"id":7,"name":""}"#]
        );
    }

    #[test]
    fn rows_that_do_not_fit_are_rejected_alone() {
        assert_eq!(
            read(&config(), None, b"1234|abcde\n12|abc\nx   |abcde\n\xff234|abcde\n"),
            [
                r#"1:{"id":1234,"name":"abcde"}"#,
                "2:csv_width:12|abc",
                "3:schema:x   |abcde",
                r"4:invalid_utf8:\xff234|abcde"
            ]
        );
    }

    #[test]
    fn bytes_of_two_byte_characters_are_counted_without_line_breaks_too() {
        let config = FixedConfig {
            columns: vec![column("name", 6, ColumnType::String), column("n", 2, ColumnType::Integer)],
            unit: Unit::Bytes,
            line_breaks: false,
            trim: true,
        };
        let (bytes, _, _) = encoding_rs::SHIFT_JIS.encode("東京  10大阪府 9abc");
        assert_eq!(
            read(&config, Some(encoding_rs::SHIFT_JIS), &bytes),
            [r#"1:{"name":"東京","n":10}"#, r#"2:{"name":"大阪府","n":9}"#, "3:csv_width:abc"]
        );
        assert_eq!(read(&config, None, b"abcdef 1\r\n"), [r#"1:{"name":"abcdef","n":1}"#]);
    }

    #[test]
    fn zeros_that_fill_a_number_are_no_part_of_it() {
        let cases =
            [("0012", "12"), ("-007", "-7"), ("+1.50", "1.50"), ("000", "0"), ("0.5", "0.5"), ("", ""), ("0x", "0x")];
        for (text, number) in cases {
            assert_eq!(unpadded(text), number, "{text}");
        }
    }

    #[test]
    fn spaces_stay_when_they_are_not_to_be_trimmed() {
        let config = FixedConfig { trim: false, columns: vec![column("a", 3, ColumnType::String)], ..config() };
        assert_eq!(read(&config, None, b" a \n"), [r#"1:{"a":" a "}"#]);
    }
}

//! Sheets of workbooks: xlsx cell by cell, xls and ods as a whole.
//!
//! A number in a workbook is a double, as the programs that make them have it; it is written with the shortest digits that read
//! back as the same double. What a formula comes to is what the program stored with it.

use std::io::{BufReader, Read, Seek};

use calamine::{Cell, Data, DataRef, DataType as _, ExcelDateTime, Ods, Range, Reader, Xls, Xlsx, XlsxCellReader};
use matome_model::canonical::{QuarantineReason, write_string};
use matome_model::field_error::Words;
use matome_model::say;
use quick_xml::events::Event;
use zip::ZipArchive;

use super::archive::directory_within_limits;
use super::compression::{Bounded, Counted, Meter};
use super::config::Header;
use super::lines::{KEPT_BYTES, LINE_LIMIT_BYTES};
use super::xls::within_limits;
use crate::record::{Broken, DocumentError, Found, Pull};

/// What a workbook holds beside its sheets (texts that cells share, styles) is held in memory.
const SHARED_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
/// A workbook of the kinds that are held as a whole.
const WHOLE_LIMIT_BYTES: u64 = 8 * 1024 * 1024;
/// What the cells of an ods may come to, those that are only said to be repeated among them.
const CELLS_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
/// What a cell takes beside its text.
const CELL_BYTES: u64 = 32;
/// How much a reader finds before it hands over.
const STEP_ROWS: usize = 500;
/// Columns of a sheet, as many as Excel has.
const COLUMN_LIMIT: usize = 16_384;
/// The day behind the last one that Excel has.
const LAST_DAY: f64 = 2_958_466.0;

/// Which sheet is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sheet {
    /// By its place, from 1.
    Number(usize),
    /// By its name.
    Name(String),
}

/// The options of a workbook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExcelConfig {
    /// `sheet`: a name, or a number from 1; default 1.
    pub sheet: Sheet,
    /// `header_row`: the number of the row that has the names, from 1; rows above it are passed over. Default 1.
    pub header_row: u32,
}

impl Default for ExcelConfig {
    fn default() -> Self {
        Self { sheet: Sheet::Number(1), header_row: 1 }
    }
}

impl ExcelConfig {
    fn name(&self, names: &[String]) -> Result<String, Broken> {
        let found = match &self.sheet {
            Sheet::Number(number) => names.get(number - 1),
            Sheet::Name(name) => names.iter().find(|known| *known == name),
        };
        found.cloned().ok_or_else(|| {
            let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            broken(say!(
                "the workbook has no such sheet (`sheet`); it has {names}",
                "指定したシート (`sheet`) がありません。あるのは {names} です"
            ))
        })
    }
}

pub(super) fn broken(problem: impl Into<Words>) -> Broken {
    DocumentError::anywhere(problem).into()
}

pub(super) fn unreadable(error: &dyn std::fmt::Display) -> Broken {
    broken(say!("the workbook can not be read: {error}", "ワークブックを読めません: {error}"))
}

/// Hands the rows of a workbook's sheet to `take`, whose result comes back.
pub(super) fn with_rows<C: Read + Seek, T>(
    mut content: C,
    config: &ExcelConfig,
    header: &Header,
    take: impl FnOnce(&mut dyn Pull) -> T,
) -> Result<T, Broken> {
    let mut start = [0; 4];
    let read = content.read(&mut start)?;
    content.rewind()?;
    let table = Table::new(config, header.clone());
    match &start[..read] {
        b"PK\x03\x04" => match kind_of(&mut content)? {
            Kind::Xlsx => {
                let mut book = Xlsx::new(BufReader::new(content)).map_err(|error| unreadable(&error))?;
                let name = config.name(&book.sheet_names())?;
                let cells = book.worksheet_cells_reader(&name).map_err(|error| unreadable(&error))?;
                Ok(take(&mut Streamed { table, cells, ahead: None, ended: false }))
            }
            Kind::Ods => {
                let mut book = Ods::new(BufReader::new(content)).map_err(|error| unreadable(&error))?;
                let name = config.name(&book.sheet_names())?;
                let range = book.worksheet_range(&name).map_err(|error| unreadable(&error))?;
                Ok(take(&mut Whole { table, range, read: 0 }))
            }
        },
        b"\xd0\xcf\x11\xe0" => {
            let size = content.seek(std::io::SeekFrom::End(0))?;
            content.rewind()?;
            if size > WHOLE_LIMIT_BYTES {
                return Err(too_large());
            }
            let workbook = within_limits(BufReader::new(content), WHOLE_LIMIT_BYTES)?;
            let mut book = Xls::new(workbook).map_err(|error| unreadable(&error))?;
            let name = config.name(&book.sheet_names())?;
            let range = book.worksheet_range(&name).map_err(|error| unreadable(&error))?;
            Ok(take(&mut Whole { table, range, read: 0 }))
        }
        _ => Err(broken(("it is no workbook (xlsx, xls or ods)", "ワークブック (xlsx、xls、ods) ではありません"))),
    }
}

pub(super) fn too_large() -> Broken {
    broken(say!(
        "a workbook of this kind is held in memory, so that {WHOLE_LIMIT_BYTES} bytes of it are read at most (of an ods, {CELLS_LIMIT_BYTES} when it is unpacked); save it as xlsx",
        "この種類のワークブックは全体をメモリーに置くため、読めるのは {WHOLE_LIMIT_BYTES} バイト (ods は展開して {CELLS_LIMIT_BYTES} バイト) までです。xlsx で保存してください"
    ))
}

enum Kind {
    Xlsx,
    Ods,
}

/// Looks into the archive that a workbook is: what will be held in memory must be within limits when it is inflated, whatever the
/// archive says about it.
fn kind_of(content: &mut (impl Read + Seek)) -> Result<Kind, Broken> {
    directory_within_limits(content)?;
    let meter = Meter::default();
    let mut zip =
        ZipArchive::new(Counted { inner: &mut *content, meter: meter.clone() }).map_err(|error| unreadable(&error))?;
    let is_ods = zip.index_for_name("mimetype").is_some() && zip.index_for_name("content.xml").is_some();
    let mut shared = 0;
    for index in 0..zip.len() {
        let inner = zip.by_index(index).map_err(|error| unreadable(&error))?;
        let name = inner.name().map_err(|error| unreadable(&error))?.into_owned();
        if name == "xl/workbook.bin" {
            return Err(broken(("xlsb is not read; save it as xlsx", "xlsb は読めません。xlsx で保存してください")));
        }
        let bounded = Bounded { inner, meter: meter.clone() };
        if is_ods && name == "content.xml" {
            cells_within_limits(bounded.take(CELLS_LIMIT_BYTES + 1))?;
        } else if name.starts_with("xl/worksheets/") {
            std::io::copy(&mut bounded.take(u64::MAX), &mut Tokens::default())?;
        } else {
            let left = SHARED_LIMIT_BYTES + 1 - shared;
            shared += std::io::copy(&mut bounded.take(left), &mut std::io::sink())?;
            if shared > SHARED_LIMIT_BYTES {
                return Err(broken(say!(
                    "beside its sheets the workbook holds more than {SHARED_LIMIT_BYTES} bytes, which would be held in memory",
                    "ワークブックのシート以外の部分が {SHARED_LIMIT_BYTES} バイトを超えています。この部分はメモリーに置かれます"
                )));
            }
        }
    }
    drop(zip);
    content.rewind()?;
    Ok(if is_ods { Kind::Ods } else { Kind::Xlsx })
}

/// Looks at a sheet for texts and tags that are too long to be held.
#[derive(Default)]
struct Tokens {
    /// Bytes since one began or ended.
    length: usize,
}

impl std::io::Write for Tokens {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'<' | b'>')) {
            self.length += piece.len();
            if self.length > LINE_LIMIT_BYTES {
                let message = format!("a text in a sheet is longer than {LINE_LIMIT_BYTES} bytes");
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
            }
            if piece.ends_with(b"<") || piece.ends_with(b">") {
                self.length = 0;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Counts the cells of an ods, those that are only said to be repeated among them.
fn cells_within_limits(content: std::io::Take<impl Read>) -> Result<(), Broken> {
    let mut reader = quick_xml::Reader::from_reader(BufReader::new(content));
    let mut buffer = Vec::new();
    let (mut bytes, mut rows, mut cell) = (0_u64, 1_u64, None);
    loop {
        buffer.clear();
        let event = reader.read_event_into(&mut buffer).map_err(|error| unreadable(&error))?;
        let length = event.len() as u64;
        let (start, is_empty) = match &event {
            Event::Start(start) => (start, false),
            Event::Empty(start) => (start, true),
            Event::Eof => break,
            _ => {
                bytes = bytes.saturating_add(cell.unwrap_or(0) * length);
                continue;
            }
        };
        let repeated = |name: &str, most: u64| {
            let value = start.attributes().flatten().find(|attribute| attribute.key.as_ref() == name);
            value.and_then(|attribute| attribute.value.parse::<u64>().ok()).unwrap_or(1).min(most)
        };
        match start.name().as_ref() {
            "table:table-row" => (rows, cell) = (repeated("table:number-rows-repeated", 1 << 20), None),
            "table:table-cell" | "table:covered-table-cell" => {
                let copies = repeated("table:number-columns-repeated", 1 << 14);
                // One that is empty fills up a row to its end, mostly, and costs nothing there.
                let rows = if is_empty { 1 } else { rows };
                bytes = bytes.saturating_add(rows * copies * (CELL_BYTES + length));
                cell = Some(rows * copies);
            }
            _ => bytes = bytes.saturating_add(cell.unwrap_or(0) * length),
        }
        if bytes > CELLS_LIMIT_BYTES {
            return Err(too_large());
        }
    }
    if reader.into_inner().into_inner().limit() == 0 { Err(too_large()) } else { Ok(()) }
}

/// What makes records of rows.
struct Table {
    header_row: u32,
    /// The last row so far.
    last: u32,
    header: Header,
    names: Option<Vec<String>>,
}

impl Table {
    fn new(config: &ExcelConfig, header: Header) -> Self {
        let names = match &header {
            Header::Named(names) => Some(names.clone()),
            Header::FirstRow | Header::Numbered => None,
        };
        Self { header_row: config.header_row, last: 0, header, names }
    }

    /// There are no more rows.
    fn end(&self) -> Result<(), Broken> {
        let (wanted, last) = (self.header_row, self.last);
        if wanted == 1 || last >= wanted {
            return Ok(());
        }
        Err(broken(say!(
            "the sheet has no row {wanted} (`header_row`): its last one is row {last}",
            "シートに {wanted} 行目 (`header_row`) がありません。最後の行は {last} 行目です"
        )))
    }

    /// Takes a row, whose cells come with their columns, from 0; `number` counts rows from 1.
    fn row(&mut self, number: u32, cells: &[(u32, DataRef<'_>)], found: &mut Found) -> Result<(), Broken> {
        self.last = number;
        if number < self.header_row || cells.iter().all(|(_, value)| matches!(value, DataRef::Empty)) {
            return Ok(());
        }
        let names = match &self.names {
            Some(names) => names,
            None if self.header == Header::FirstRow => {
                self.names = Some(names_of(cells, number)?);
                return Ok(());
            }
            None => {
                let last = cells.iter().map(|(column, _)| column + 1).max().unwrap_or_default();
                self.names.insert((1..=last).map(|column| format!("column_{column}")).collect())
            }
        };
        let line = Some(u64::from(number));
        match object(names, cells) {
            Ok(object) => found.record(line, object),
            Err((reason, detail)) => {
                let mut raw = Vec::new();
                for (index, (_, value)) in cells.iter().enumerate() {
                    if index > 0 {
                        raw.push(b'\t');
                    }
                    if raw.len() > KEPT_BYTES {
                        break;
                    }
                    raw.extend_from_slice(text_of(value).as_bytes());
                }
                raw.truncate(KEPT_BYTES);
                found.rejected(line, &raw, reason, detail);
            }
        }
        Ok(())
    }
}

/// A cell as people see it, more or less.
fn text_of(value: &DataRef<'_>) -> String {
    match value {
        DataRef::Error(error) => error.to_string(),
        value => value.as_string().unwrap_or_default(),
    }
}

fn names_of(cells: &[(u32, DataRef<'_>)], number: u32) -> Result<Vec<String>, Broken> {
    let mut names: Vec<String> = Vec::new();
    for (column, value) in cells {
        let column = usize::try_from(*column).unwrap_or(usize::MAX);
        if matches!(value, DataRef::Empty) {
            continue;
        }
        while names.len() < column {
            names.push(format!("column_{}", names.len() + 1));
        }
        names.push(text_of(value));
    }
    match super::csv::repeated(&names) {
        None => Ok(names),
        Some(name) => Err(DocumentError::new(
            u64::from(number),
            say!(
                "the header has the name `{name}` twice; give names with `header`",
                "見出しに同じ名前 `{name}` が二度あります。`header` で名前を指定してください"
            ),
        )
        .into()),
    }
}

fn object(names: &[String], cells: &[(u32, DataRef<'_>)]) -> Result<Vec<u8>, (QuarantineReason, Words)> {
    let mut values: Vec<&DataRef<'_>> = vec![&DataRef::Empty; names.len()];
    for (column, value) in cells {
        match values.get_mut(usize::try_from(*column).unwrap_or(usize::MAX)) {
            Some(place) => *place = value,
            None if matches!(value, DataRef::Empty) => {}
            None => {
                let (column, width) = (column + 1, names.len());
                let detail = say!(
                    "row has a value in column {column} where the header has {width} columns",
                    "見出しは {width} 列ですが、行の {column} 列目に値があります"
                );
                return Err((QuarantineReason::CsvWidth, detail));
            }
        }
    }
    let mut out = Vec::with_capacity(64);
    for (index, (name, value)) in names.iter().zip(values).enumerate() {
        out.push(if index == 0 { b'{' } else { b',' });
        write_string(&mut out, name);
        out.push(b':');
        write_value(&mut out, value).map_err(|(english, japanese)| {
            let detail = Words::new(format!("column `{name}`: {english}"), format!("列 `{name}`: {japanese}"));
            (QuarantineReason::Schema, detail)
        })?;
        // Cells share texts, so a row may be longer than all that is in memory.
        if out.len() > LINE_LIMIT_BYTES {
            let detail = say!(
                "row is longer than the limit of {LINE_LIMIT_BYTES} bytes",
                "行が上限の {LINE_LIMIT_BYTES} バイトを超えています"
            );
            return Err((QuarantineReason::RecordLimit, detail));
        }
    }
    out.push(b'}');
    Ok(out)
}

fn write_value(out: &mut Vec<u8>, value: &DataRef<'_>) -> Result<(), (String, String)> {
    match value {
        DataRef::Empty => out.extend_from_slice(b"null"),
        DataRef::Bool(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        DataRef::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
        DataRef::Float(number) if number.is_finite() => out.extend_from_slice(number.to_string().as_bytes()),
        DataRef::Float(number) => {
            return Err((format!("{number} is no number"), format!("{number} は数ではありません")));
        }
        DataRef::String(text) | DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => write_string(out, text),
        DataRef::SharedString(text) => write_string(out, text),
        DataRef::DateTime(time) => match date_text(time) {
            Some(text) => write_string(out, &text),
            None => {
                let serial = time.as_f64();
                return Err((format!("{serial} is no date"), format!("{serial} は日付ではありません")));
            }
        },
        DataRef::Error(error) => return Err((format!("the error {error}"), format!("エラー {error}"))),
    }
    Ok(())
}

/// A date, a time of day, or both; of a duration hours, minutes and seconds. To the millisecond, as Excel has it.
fn date_text(time: &ExcelDateTime) -> Option<String> {
    let serial = time.as_f64();
    if !(0.0..LAST_DAY).contains(&serial) {
        return None;
    }
    let millis = |milli: u64| if milli == 0 { String::new() } else { format!(".{milli:03}") };
    if time.is_duration() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the range above")]
        let total = (serial * 86_400_000.0).round() as u64;
        let (seconds, milli) = (total / 1000, total % 1000);
        return Some(format!("{:02}:{:02}:{:02}{}", seconds / 3600, seconds / 60 % 60, seconds % 60, millis(milli)));
    }
    let (year, month, day, hour, minute, second, milli) = time.to_ymd_hms_milli();
    let clock = format!("{hour:02}:{minute:02}:{second:02}{}", millis(u64::from(milli)));
    let is_midnight = (hour, minute, second, milli) == (0, 0, 0, 0);
    Some(match (serial < 1.0, is_midnight) {
        (true, _) => clock,
        (false, true) => format!("{year:04}-{month:02}-{day:02}"),
        (false, false) => format!("{year:04}-{month:02}-{day:02}T{clock}"),
    })
}

/// An xlsx, whose cells come one by one.
struct Streamed<'b, R: Read + Seek> {
    table: Table,
    cells: XlsxCellReader<'b, R>,
    /// The first cell of the next row.
    ahead: Option<Cell<DataRef<'b>>>,
    ended: bool,
}

impl<R: Read + Seek> Pull for Streamed<'_, R> {
    fn next(&mut self, found: &mut Found) -> Result<bool, Broken> {
        for _ in 0..STEP_ROWS {
            let mut row: Vec<(u32, DataRef<'_>)> = Vec::new();
            let mut number = None;
            while !self.ended {
                let cell = match self.ahead.take() {
                    Some(cell) => cell,
                    None => match self.cells.next_cell().map_err(|error| unreadable(&error))? {
                        Some(cell) => cell,
                        None => {
                            self.ended = true;
                            break;
                        }
                    },
                };
                let (at, column) = cell.get_position();
                if *number.get_or_insert(at) != at {
                    self.ahead = Some(cell);
                    break;
                }
                if row.len() >= COLUMN_LIMIT {
                    let problem =
                        say!("a row has more than {COLUMN_LIMIT} cells", "行に {COLUMN_LIMIT} を超えるセルがあります");
                    return Err(DocumentError::new(u64::from(at) + 1, problem).into());
                }
                row.push((column, cell.get_value().clone()));
            }
            if let Some(number) = number {
                self.table.row(number + 1, &row, found)?;
            }
            if self.ended && self.ahead.is_none() {
                self.table.end()?;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A sheet that is in memory.
struct Whole {
    table: Table,
    range: Range<Data>,
    /// Rows that were read.
    read: usize,
}

impl Pull for Whole {
    fn next(&mut self, found: &mut Found) -> Result<bool, Broken> {
        let (top, left) = self.range.start().unwrap_or_default();
        let mut read = 0;
        for (row, number) in self.range.rows().zip(top..).skip(self.read).take(STEP_ROWS) {
            let cells: Vec<_> = (left..).zip(row.iter().map(borrowed)).collect();
            self.table.row(number + 1, &cells, found)?;
            read += 1;
        }
        self.read += read;
        if read < STEP_ROWS {
            self.table.end()?;
        }
        Ok(read == STEP_ROWS)
    }
}

fn borrowed(value: &Data) -> DataRef<'_> {
    match value {
        Data::Int(number) => DataRef::Int(*number),
        Data::Float(number) => DataRef::Float(*number),
        Data::String(text) => DataRef::SharedString(text),
        Data::Bool(flag) => DataRef::Bool(*flag),
        Data::DateTime(time) => DataRef::DateTime(*time),
        Data::DateTimeIso(text) => DataRef::DateTimeIso(text.clone()),
        Data::DurationIso(text) => DataRef::DurationIso(text.clone()),
        Data::Error(error) => DataRef::Error(error.clone()),
        Data::Empty => DataRef::Empty,
    }
}

//! An xls before the library reads it: what it would hold in memory must be within limits, whatever the file says.
//!
//! The library follows chains of sectors as they come, and makes room for the smallest rectangle that has all cells of each sheet.
//! So the stream of the workbook is taken out of its container by another reader, looked at record by record ([MS-XLS] 2.4), and
//! given on alone in a new container.

use std::io::{Cursor, Read, Seek, Write as _};

use cfb::{CompoundFile, Version};
use matome_model::say;

use super::excel::{broken, too_large, unreadable};
use crate::record::Broken;

/// The workbook, first as Excel 97 and later name it.
const STREAMS: [&str; 2] = ["/Workbook", "/Book"];
/// Cells of the rectangles of all sheets together.
const CELLS_LIMIT: u64 = 2 << 20;
/// The largest sheet there is.
const SHEET_LIMIT: u64 = 65_536 * 256;

const BOF: u16 = 0x0809;
const EOF: u16 = 0x000a;
const BOUND_SHEET: u16 = 0x0085;
const DIMENSIONS: u16 = 0x0200;
const FORMULA: u16 = 0x0006;
const MUL_RK: u16 = 0x00bd;
/// Those that begin with the row and the column of one cell: number, labels, boolean or error, rk, shared text.
const CELLS: [u16; 7] = [FORMULA, 0x0203, 0x0204, 0x00d6, 0x0205, 0x027e, 0x00fd];

/// The same workbook and nothing else, once it is known to fit.
pub(super) fn within_limits<C: Read + Seek>(content: C, limit: u64) -> Result<Cursor<Vec<u8>>, Broken> {
    let mut file = CompoundFile::open(content).map_err(|error| unreadable(&error))?;
    let Some(name) = STREAMS.into_iter().find(|name| file.is_stream(name)) else {
        return Err(broken(("it has no workbook", "ワークブックがありません")));
    };
    let mut workbook = Vec::new();
    let stream = file.open_stream(name).map_err(|error| unreadable(&error))?;
    stream.take(limit + 1).read_to_end(&mut workbook).map_err(|error| unreadable(&error))?;
    if workbook.len() as u64 > limit {
        return Err(too_large());
    }
    look_at(&workbook)?;
    let made = || -> std::io::Result<Cursor<Vec<u8>>> {
        let mut file = CompoundFile::create_with_version(Version::V3, Cursor::new(Vec::new()))?;
        file.create_stream(name)?.write_all(&workbook)?;
        file.flush()?;
        Ok(file.into_inner())
    };
    Ok(made()?)
}

/// Looks at all sheets that the library would read, in the way it reads them.
fn look_at(workbook: &[u8]) -> Result<(), Broken> {
    let globals = records(workbook).take_while(|(kind, _)| *kind != EOF);
    let sheets = globals.filter(|(kind, _)| *kind == BOUND_SHEET).map(|(_, data)| number(data, 0, 4));
    let (mut cells, mut looked_at) = (0_u64, 0);
    for at in sheets {
        let Some(sheet) = at.and_then(|at| workbook.get(usize::try_from(at).ok()?..)) else {
            return Err(broken(say!(
                "a sheet is said to be where the workbook has ended",
                "ワークブックの終わりより後ろにあるとされるシートがあります"
            )));
        };
        let read = Sheet::of(sheet)?;
        cells = cells.saturating_add(read.values.area()).saturating_add(read.formulas.area());
        looked_at += read.bytes;
        // Sheets may be said to begin in the same place.
        if cells > CELLS_LIMIT || looked_at > 4 * workbook.len() {
            return Err(too_large());
        }
    }
    Ok(())
}

/// What a sheet takes.
#[derive(Default)]
struct Sheet {
    values: Rectangle,
    formulas: Rectangle,
    bytes: usize,
}

impl Sheet {
    fn of(sheet: &[u8]) -> Result<Self, Broken> {
        let mut read = Self::default();
        // Charts within a sheet have records of the same kinds.
        let mut depth = 0_u32;
        for (kind, data) in records(sheet) {
            read.bytes += 4 + data.len();
            match kind {
                BOF => depth += 1,
                EOF if depth <= 1 => break,
                EOF => depth -= 1,
                _ if depth > 1 => {}
                DIMENSIONS => said_to_be(data)?,
                MUL_RK => {
                    let last = data.len().checked_sub(2).and_then(|at| number(data, at, 2));
                    read.values.take_in(number(data, 0, 2), number(data, 2, 2));
                    read.values.take_in(number(data, 0, 2), last);
                }
                kind if CELLS.contains(&kind) => {
                    read.values.take_in(number(data, 0, 2), number(data, 2, 2));
                    if kind == FORMULA {
                        read.formulas.take_in(number(data, 0, 2), number(data, 2, 2));
                    }
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

/// The library reserves as much as a sheet says that it has.
fn said_to_be(data: &[u8]) -> Result<(), Broken> {
    let wide = if data.len() >= 14 { 4 } else { 2 };
    let rows = (number(data, 0, wide), number(data, wide, wide));
    let columns = (number(data, 2 * wide, 2), number(data, 2 * wide + 2, 2));
    let ((Some(first), Some(last)), (Some(left), Some(right))) = (rows, columns) else { return Ok(()) };
    match (last.checked_sub(first), right.checked_sub(left)) {
        (Some(rows), Some(columns)) if (rows + 1).saturating_mul(columns + 1) <= SHEET_LIMIT => Ok(()),
        _ => Err(broken(say!(
            "a sheet is said to be larger than a sheet can be",
            "シートの大きさとされる値が、シートの上限を超えています"
        ))),
    }
}

/// The smallest one that has all cells.
#[derive(Default)]
struct Rectangle(Option<[u64; 4]>);

impl Rectangle {
    fn take_in(&mut self, row: Option<u64>, column: Option<u64>) {
        // A record that is too short is none that the library reads.
        let (Some(row), Some(column)) = (row, column) else { return };
        let [top, left, bottom, right] = self.0.unwrap_or([row, column, row, column]);
        self.0 = Some([top.min(row), left.min(column), bottom.max(row), right.max(column)]);
    }

    fn area(&self) -> u64 {
        self.0.map_or(0, |[top, left, bottom, right]| (bottom - top + 1) * (right - left + 1))
    }
}

/// The records of a stream, as far as they are whole.
fn records(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, behind) = rest.split_first_chunk::<4>()?;
        let kind = u16::from_le_bytes([head[0], head[1]]);
        let (data, next) = behind.split_at_checked(usize::from(u16::from_le_bytes([head[2], head[3]])))?;
        rest = next;
        Some((kind, data))
    })
}

/// A number of `bytes` bytes, the lowest first.
fn number(data: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let part = data.get(at..at.checked_add(bytes)?)?;
    Some(part.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u16, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap().to_le_bytes();
        [&kind.to_le_bytes()[..], &length, data].concat()
    }

    fn cell(row: u16, column: u16) -> Vec<u8> {
        record(0x0203, &[&row.to_le_bytes()[..], &column.to_le_bytes(), &[0; 10]].concat())
    }

    /// A workbook whose sheets all begin in the same place.
    fn workbook(sheets: usize, sheet: &[Vec<u8>]) -> Vec<u8> {
        let globals = 8 + sheets * 12 + 4;
        let bound = record(BOUND_SHEET, &[&u32::try_from(globals).unwrap().to_le_bytes()[..], &[0; 4]].concat());
        let parts = [vec![record(BOF, &[0; 4])], vec![bound; sheets], vec![record(EOF, &[])]].concat();
        [parts.concat(), record(BOF, &[0; 4]), sheet.concat(), record(EOF, &[])].concat()
    }

    #[test]
    fn sheets_take_the_rectangle_of_their_cells() {
        let corners = [cell(0, 0), cell(65_535, 31)];
        assert!(look_at(&workbook(1, &corners)).is_ok(), "2,097,152 cells");
        assert!(look_at(&workbook(1, &[cell(0, 0), cell(65_535, 32)])).is_err());
        assert!(look_at(&workbook(2, &corners)).is_err(), "twice as many");
        assert!(look_at(&workbook(1, &[cell(0, 0), record(EOF, &[]), cell(65_535, 255)])).is_ok(), "behind its end");
        let chart = [cell(0, 0), record(BOF, &[0; 4]), cell(65_535, 255), record(EOF, &[]), cell(1, 1)];
        assert!(look_at(&workbook(1, &chart)).is_ok(), "within a chart");
    }

    #[test]
    fn a_sheet_that_is_said_to_be_larger_than_any_is_refused() {
        let said = |rows: u32, columns: u16| {
            let data = [&0_u32.to_le_bytes()[..], &rows.to_le_bytes(), &[0; 2], &columns.to_le_bytes(), &[0; 2]];
            look_at(&workbook(1, &[record(DIMENSIONS, &data.concat())])).is_ok()
        };
        assert!(said(65_535, 255));
        assert!(!said(u32::MAX, 255));
    }

    #[test]
    fn many_sheets_in_one_place_are_not_looked_at_for_ever() {
        let sheet: Vec<Vec<u8>> = (0..100).map(|row| cell(row, 0)).collect();
        assert!(look_at(&workbook(3, &sheet)).is_ok());
        assert!(look_at(&workbook(1000, &sheet)).is_err());
    }
}

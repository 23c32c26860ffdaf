//! In which order rows are asked for, and from where on.

use super::incremental::{Kind, Nulls};

/// A column of what is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// The type, as the database writes it.
    pub(super) of_type: String,
    pub(super) kind: Kind,
}

/// The columns that rows are ordered by; none when they come as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) columns: Vec<Column>,
    /// The first of them is a cursor: it may be null, and marks how far was read.
    pub(super) cursor: Option<Cursor>,
    /// No two rows have the same values in them.
    pub(super) is_unique: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) overlap: u64,
    pub(super) nulls: Nulls,
}

/// Rows of one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Those that have a cursor, or all where there is none.
    Valued(From),
    /// Those that have no cursor, behind the others; from behind the place on.
    Nulls(Option<Vec<String>>),
}

/// Where rows begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum From {
    First,
    /// So far before this cursor; it is the first one that is wanted.
    Cursor(String, u64),
    /// Behind the row that has these values; at them where others may have the same.
    Place(Vec<String>),
}

/// One row, as it came.
pub(super) struct Row<'a> {
    /// The JSON text of the whole row, or its beginning.
    pub(super) json: &'a [u8],
    /// Its bytes, were it whole.
    pub(super) size: u64,
    /// What it has in the columns of the order.
    pub(super) place: Vec<Option<String>>,
    /// Whether its cursor is not after the beginning of the read.
    pub(super) may_mark: bool,
}

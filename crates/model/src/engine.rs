//! The messages between an aggregation worker and its engine child, and the rule by which SQL names tables.
//!
//! The parent sends one [`Frame::Request`] on the child's stdin and keeps stdin open; end of file there tells the child that
//! its parent is gone. The child answers on stdout: for `validate` and `probe` one [`Frame::Reply`]; for `run` a [`Frame::Header`], the
//! bytes of one Arrow IPC stream in [`Frame::Arrow`] frames, and a [`Frame::Trailer`]. A [`Frame::Failure`] may come
//! instead of any of them and is the last. Rows are handed over as files in the child's working directory, see [`TableInput`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::field_error::Words;
use crate::inference::{ColumnType, InferenceError};
use crate::source::words;

/// The format number of these messages; a child refuses any other.
pub const FORMAT: u32 = 2;

/// Longest SQL text, in bytes.
pub const MAX_SQL_BYTES: usize = 64 << 10;

/// Longest payload of one frame, in bytes. Arrow bytes come in frames much smaller.
pub const MAX_FRAME_BYTES: u32 = 16 << 20;

/// Bytes before each payload: one for the kind, four for the payload's length (big endian).
pub const FRAME_HEADER_BYTES: usize = 5;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A [`Request`] as JSON, parent to child.
    Request,
    /// A [`Validated`] as JSON.
    Reply,
    /// A [`RunHeader`] as JSON.
    Header,
    /// A piece of the result's Arrow IPC stream; pieces end anywhere.
    Arrow,
    /// A [`RunTrailer`] as JSON: the result is complete.
    Trailer,
    /// A [`Failure`] as JSON: there is no result.
    Failure,
}

impl Frame {
    /// The bytes before a payload of `len` bytes.
    #[must_use]
    pub fn head(self, len: u32) -> [u8; FRAME_HEADER_BYTES] {
        let kind = match self {
            Self::Request => b'Q',
            Self::Reply => b'R',
            Self::Header => b'H',
            Self::Arrow => b'A',
            Self::Trailer => b'T',
            Self::Failure => b'F',
        };
        let [a, b, c, d] = len.to_be_bytes();
        [kind, a, b, c, d]
    }

    /// The kind and payload length that `head` announces; `None` when no frame starts so, or it is past [`MAX_FRAME_BYTES`].
    #[must_use]
    pub fn parse_head(head: [u8; FRAME_HEADER_BYTES]) -> Option<(Self, u32)> {
        let [kind, len @ ..] = head;
        let kind = match kind {
            b'Q' => Self::Request,
            b'R' => Self::Reply,
            b'H' => Self::Header,
            b'A' => Self::Arrow,
            b'T' => Self::Trailer,
            b'F' => Self::Failure,
            _ => return None,
        };
        let len = u32::from_be_bytes(len);
        (len <= MAX_FRAME_BYTES).then_some((kind, len))
    }
}

/// What the parent asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`FORMAT`] of the sender.
    pub format: u32,
    /// The question.
    pub ask: Ask,
}

impl Request {
    /// A request in this binary's format.
    #[must_use]
    pub fn new(ask: Ask) -> Self {
        Self { format: FORMAT, ask }
    }
}

/// The questions a child answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Parse and check `sql`, without any table: which tables does it read?
    Validate {
        /// The user's text.
        sql: String,
    },
    /// Execute.
    Run(Run),
    /// Try what a child is not to do, and tell which walls stand: answered with [`Probed`].
    Probe,
}

/// One execution of a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The user's text.
    pub sql: String,
    /// The tables the query may read, each with its rows in a file.
    pub tables: Vec<TableInput>,
    /// What it may use.
    pub limits: Limits,
    /// At most this many rows of the result, then the run ends well with [`RunTrailer::truncated`].
    pub preview_rows: Option<u64>,
    /// Values of the query's parameters, by name without `$`.
    pub parameters: BTreeMap<String, Parameter>,
}

words! {
    /// What the values of a parameter are.
    ParameterType {
        /// An instant.
        Timestamp = "timestamp",
        /// A day.
        Date = "date",
        /// A whole number within 64 bits.
        Integer = "integer",
        /// An exact decimal number.
        Decimal = "decimal",
        /// Text.
        Text = "text",
        /// True or false.
        Boolean = "boolean",
    }
}

impl ParameterType {
    /// The words, for people.
    pub const WORDS: &'static [&'static str] = &["timestamp", "date", "integer", "decimal", "text", "boolean"];
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its type.
    pub kind: ParameterType,
    /// Its text: ISO 8601 for times and dates, plain digits for numbers. `None` is null.
    pub value: Option<String>,
}

/// A table of the query.
///
/// `file` is a name in the child's working directory. Each line of it is one row: decimal id, tab, time in microseconds since
/// 1970, tab, hash, tab, version, tab, key, tab, the record as one JSON object without line feeds. Hash, version and key may be
/// empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInput {
    /// The table's name in SQL.
    pub table: Table,
    /// The file with its rows.
    pub file: String,
}

/// The schema of a table: where its rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schema {
    /// Acquired records; an unqualified name is looked up here first.
    Sources,
    /// Current rows of aggregations.
    Aggregations,
}

impl Schema {
    /// The schema's name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sources => "sources",
            Self::Aggregations => "aggregations",
        }
    }
}

/// A table that exists.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Table {
    /// Its schema.
    pub schema: Schema,
    /// Name of the source or aggregation, exactly.
    pub name: String,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema.name(), quoted(&self.name))
    }
}

/// A table as a query names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableReference {
    /// `None` when unqualified.
    pub schema: Option<Schema>,
    /// The name without quotes.
    pub name: String,
}

impl fmt::Display for TableReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.schema {
            Some(schema) => write!(f, "{}.{}", schema.name(), quoted(&self.name)),
            None => f.write_str(&quoted(&self.name)),
        }
    }
}

/// `name` as SQL must write it: as it is when it is an identifier, else in double quotes.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A query names a table that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no table is called `{reference}`")]
pub struct UnknownTable {
    /// As the query names it.
    pub reference: TableReference,
    /// What the user can do: a likely name, or the names there are.
    pub hint: Words,
}

impl UnknownTable {
    /// What it says with its hint, in both languages.
    #[must_use]
    pub fn words(&self) -> Words {
        let (reference, Words { english, japanese }) = (&self.reference, &self.hint);
        Words::new(format!("{self} ({english})"), format!("`{reference}`というテーブルはありません ({japanese})"))
    }
}

/// The table that each of `references` means, in their order: an unqualified name is a source, else an aggregation.
///
/// # Errors
/// [`UnknownTable`] for the first that is none of `known`.
pub fn resolve(references: &[TableReference], known: &[Table]) -> Result<Vec<Table>, UnknownTable> {
    references.iter().map(|reference| resolve_one(reference, known)).collect()
}

fn resolve_one(reference: &TableReference, known: &[Table]) -> Result<Table, UnknownTable> {
    let schemas: &[Schema] = match &reference.schema {
        Some(schema) => std::slice::from_ref(schema),
        None => &[Schema::Sources, Schema::Aggregations],
    };
    for schema in schemas {
        if let Some(table) = known.iter().find(|table| table.schema == *schema && table.name == reference.name) {
            return Ok(table.clone());
        }
    }
    Err(UnknownTable { reference: reference.clone(), hint: hint_for(reference, known) })
}

fn hint_for(reference: &TableReference, known: &[Table]) -> Words {
    const LISTED: usize = 20;
    if known.is_empty() {
        return Words::new("there is no source and no aggregation yet", "データソースも集約もまだありません");
    }
    let wanted = reference.name.to_lowercase();
    let nearest = known
        .iter()
        .map(|table| (strsim::normalized_damerau_levenshtein(&wanted, &table.name.to_lowercase()), table))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut hint = match nearest {
        Some((likeness, table)) if likeness >= 0.6 => {
            Words::new(format!("did you mean `{table}`? "), format!("`{table}`のことですか。"))
        }
        _ => Words::default(),
    };
    let names: Vec<String> = known.iter().take(LISTED).map(|table| format!("`{table}`")).collect();
    hint.english.push_str(&format!("tables: {}", names.join(", ")));
    hint.japanese.push_str(&format!("テーブル: {}", names.join("、")));
    if known.len() > LISTED {
        let more = known.len() - LISTED;
        hint.english.push_str(&format!(" and {more} more"));
        hint.japanese.push_str(&format!("、ほか{more}個"));
    }
    hint
}

/// What one run may use; passing any of them ends it with a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes that the query's operators may hold in memory together; beyond them they spill or fail. Default 256 MiB.
    pub memory_bytes: u64,
    /// Bytes of temporary files. Default 4 GiB.
    pub spill_bytes: u64,
    /// Rows of the result. Default 1,000,000.
    pub rows: u64,
    /// Bytes of the result in memory. Default 1 GiB.
    pub bytes: u64,
    /// Seconds from request to last row, waiting for the receiver included. Default 300.
    pub seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: 256 << 20, spill_bytes: 4 << 30, rows: 1_000_000, bytes: 1 << 30, seconds: 300 }
    }
}

/// Answer to [`Ask::Validate`]: the query may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// The tables it reads, sorted, each once.
    pub tables: Vec<TableReference>,
    /// The parameters it names, without `$`, sorted, each once.
    pub parameters: Vec<String>,
}

/// Answer to [`Ask::Probe`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// The walls around the child.
    pub sandbox: Sandbox,
    /// What it could do all the same; empty when the walls stand.
    pub escapes: Vec<Escape>,
}

/// The walls of the kernel around a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// No files outside its folder, no TCP.
    pub landlock: Wall,
    /// No sockets, no other programs, no other views of the system.
    pub seccomp: Wall,
}

/// Whether a wall stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Wall {
    /// Wholly.
    Stands,
    /// In parts.
    Partial {
        /// Which, or why.
        why: String,
    },
    /// Not at all.
    Missing {
        /// Why not.
        why: String,
    },
}

/// What a child is not to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Escape {
    /// Read a file outside its folder.
    ReadsFiles,
    /// Make a file outside its folder.
    WritesFiles,
    /// Make a socket.
    OpensSockets,
    /// Start another program.
    RunsPrograms,
}

/// What is known of a run before its first row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunHeader {
    /// The tables read, as the engine saw them.
    pub inputs: Vec<InputSummary>,
}

/// One table as the engine saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSummary {
    /// The table.
    pub table: Table,
    /// Its rows.
    pub rows: u64,
    /// The inferred columns in their order, without the ones that matome adds.
    pub columns: Vec<(String, ColumnType)>,
}

/// What is known of a run after its last row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunTrailer {
    /// Rows sent.
    pub rows: u64,
    /// Bytes of these rows in memory.
    pub bytes: u64,
    /// Whether `preview_rows` cut the result.
    pub truncated: bool,
    /// The physical plan, for a reader; at most 64 KiB.
    pub plan: String,
    /// Milliseconds from request to last row.
    pub elapsed_ms: u64,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure.
    pub code: FailureCode,
    /// What went wrong.
    pub message: Words,
    /// What the user can do; may be empty.
    pub hint: Words,
}

impl Failure {
    /// A failure with a remedy.
    pub fn new(code: FailureCode, message: impl Into<Words>, hint: impl Into<Words>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }

    /// A failure of the machinery, told alike in every language: it is for those who maintain it.
    pub fn alike(code: FailureCode, message: String) -> Self {
        Self { code, message: Words::new(message.clone(), message), hint: Words::default() }
    }

    /// A fault of the engine.
    pub fn internal(message: String) -> Self {
        Self::alike(FailureCode::Internal, message)
    }

    /// The query passed [`Limits::seconds`].
    pub fn time_limit(seconds: u64) -> Self {
        Self::new(
            FailureCode::TimeLimit,
            (
                format!("the query did not end within {seconds} s"),
                format!("クエリが{seconds}秒以内に終わりませんでした"),
            ),
            (
                "read fewer rows, check that every join has a condition, or raise `timeout_secs`",
                "読む行を減らすか、すべての結合に条件があるか確かめるか、`timeout_secs`を増やしてください",
            ),
        )
    }
}

impl From<InferenceError> for Failure {
    fn from(err: InferenceError) -> Self {
        let hint = match err {
            InferenceError::TooManyColumns => (
                "a map with data as keys is better kept one level down, where it becomes one column",
                "データをキーとする対応表は、一段下に置くと一つの列になります",
            ),
            InferenceError::Json(_) | InferenceError::Number(_) => ("", ""),
        };
        Self::new(FailureCode::Input, (err.to_string(), err.to_string()), hint)
    }
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The SQL can not be accepted, whatever the data.
    Refused,
    /// The SQL is sound, but these data break it: a cast, an overflow, a division by zero.
    Query,
    /// [`Limits::memory_bytes`].
    MemoryLimit,
    /// [`Limits::spill_bytes`].
    SpillLimit,
    /// [`Limits::rows`].
    RowLimit,
    /// [`Limits::bytes`], or a single row past the record limit.
    ByteLimit,
    /// [`Limits::seconds`].
    TimeLimit,
    /// A file with rows cannot be read or is not in its form.
    Input,
    /// The request has another [`FORMAT`] or is no request.
    Protocol,
    /// A fault of the engine.
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(schema: Schema, name: &str) -> Table {
        Table { schema, name: name.to_owned() }
    }

    fn reference(schema: Option<Schema>, name: &str) -> TableReference {
        TableReference { schema, name: name.to_owned() }
    }

    #[test]
    fn frame_head_round_trips() {
        for frame in [Frame::Request, Frame::Reply, Frame::Header, Frame::Arrow, Frame::Trailer, Frame::Failure] {
            assert_eq!(Frame::parse_head(frame.head(70_000)), Some((frame, 70_000)));
        }
        assert_eq!(Frame::parse_head([b'x', 0, 0, 0, 1]), None);
        assert_eq!(Frame::parse_head(Frame::Arrow.head(MAX_FRAME_BYTES + 1)), None);
    }

    #[test]
    fn unqualified_name_is_a_source_before_an_aggregation() {
        let known = [
            table(Schema::Aggregations, "daily"),
            table(Schema::Sources, "daily"),
            table(Schema::Aggregations, "sums"),
        ];
        let found = resolve(
            &[reference(None, "daily"), reference(None, "sums"), reference(Some(Schema::Aggregations), "daily")],
            &known,
        );
        assert_eq!(found.unwrap(), [known[1].clone(), known[2].clone(), known[0].clone()]);
    }

    #[test]
    fn unknown_table_names_the_nearest() {
        let known = [table(Schema::Sources, "orders"), table(Schema::Sources, "web log")];
        let err = resolve(&[reference(None, "Order")], &known).unwrap_err();
        assert_eq!(err.to_string(), "no table is called `Order`");
        assert_eq!(err.hint.english, "did you mean `sources.orders`? tables: `sources.orders`, `sources.\"web log\"`");
        assert!(resolve(&[reference(Some(Schema::Aggregations), "orders")], &known).is_err());
    }
}

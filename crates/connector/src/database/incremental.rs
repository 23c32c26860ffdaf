//! Reading only what is new of a table: a column by which rows are ordered, and where the last read stood.

use matome_model::field_error::Words;
use matome_model::source::Dedupe;
use serde_json::Value;

use crate::config::Fields;

/// Times: five minutes, as clocks differ and transactions take a while. Whole numbers: ids are given out before their
/// rows can be seen.
const TIME_OVERLAP_SECS: u64 = 300;
const INTEGER_OVERLAP: u64 = 1_000;

/// Columns that order rows of the same cursor.
const MAX_TIE_BREAK: usize = 16;

/// `incremental`: which rows a read asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incremental {
    /// `cursor`: a column whose values grow, such as the time of the last change.
    pub cursor: String,
    /// `tie_break`: columns that tell rows of the same cursor apart; default: the primary key.
    pub tie_break: Option<Vec<String>>,
    /// `start`: the first read begins at this value; without it with the lowest.
    pub start: Option<String>,
    /// `overlap`: how far before the last cursor the next read begins: seconds, or units of a whole number.
    pub overlap: Option<u64>,
    /// `nulls`: what becomes of rows without a cursor.
    pub nulls: Nulls,
}

/// `incremental.nulls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nulls {
    /// They are read each time, behind the others; those that are stored already are passed over.
    Read,
    /// They are left out.
    Skip,
    /// A read that has read all others fails if there is one.
    Fail,
}

/// What the values of a cursor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A date or a time.
    Time,
    /// A whole number of so many bits at most.
    Integer,
    /// Anything else that has an order.
    Other,
}

impl Kind {
    /// The `overlap` that a cursor of this kind has by itself.
    pub(super) fn overlap(self) -> u64 {
        match self {
            Self::Time => TIME_OVERLAP_SECS,
            Self::Integer => INTEGER_OVERLAP,
            Self::Other => 0,
        }
    }
}

impl Incremental {
    /// Reads `incremental`.
    pub(super) fn parse(fields: &mut Fields, dedupe: Dedupe) -> Option<Self> {
        let mut own = fields.nested("incremental")?;
        let cursor = own.required_string("cursor");
        let tie_break = tie_break(&mut own);
        let start = own.scalar("start");
        let has_overlap = own.has("overlap");
        let mut overlap = own.integer("overlap", 0, 366 * 86_400);
        let words = [("read", Nulls::Read), ("skip", Nulls::Skip), ("fail", Nulls::Fail)];
        let nulls = own.choice("nulls", &words);
        if dedupe == Dedupe::None {
            // Whatever came twice would be stored twice.
            if overlap.is_some_and(|overlap| overlap > 0) {
                let words = Words::new(
                    "With `dedupe` \"none\" what is read again is stored again. Leave one of the two out.",
                    "`dedupe` が \"none\" のときは、読み直したものがもう一度保存されます。どちらかを外してください。",
                );
                own.fail("overlap", words);
            }
            if nulls == Some(Nulls::Read) {
                let words = Words::new(
                    "With `dedupe` \"none\" they would be stored again by each read. Use `skip` or `fail`.",
                    "`dedupe` が \"none\" のときは、読むたびに保存されてしまいます。`skip` か `fail` にしてください。",
                );
                own.fail("nulls", words);
            }
            overlap = Some(0);
        } else if !has_overlap {
            overlap = None;
        }
        fields.absorb(own);
        let nulls = nulls.unwrap_or(if dedupe == Dedupe::None { Nulls::Fail } else { Nulls::Read });
        Some(Self { cursor: cursor?, tie_break, start, overlap, nulls })
    }
}

fn tie_break(own: &mut Fields) -> Option<Vec<String>> {
    let names = match own.value("tie_break")? {
        Value::String(name) => vec![name],
        Value::Array(values) => values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let distinct = names.iter().enumerate().all(|(at, name)| !name.is_empty() && !names[..at].contains(name));
    if names.is_empty() || names.len() > MAX_TIE_BREAK || !distinct {
        let words = Words::new(
            format!("Give the name of a column, or a list of 1 to {MAX_TIE_BREAK} different ones."),
            format!("列の名前、または1〜{MAX_TIE_BREAK}個の異なる列名のリストを指定してください。"),
        );
        own.fail("tie_break", words);
        return None;
    }
    Some(names)
}

//! From what DataFusion reports to what a user can act on.

use std::error::Error;
use std::io;
use std::sync::OnceLock;

use datafusion::arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use matome_model::engine::{Failure, FailureCode, UnknownTable};
use matome_model::field_error::Words;

pub(crate) fn time_limit(seconds: u64) -> Failure {
    Failure::time_limit(seconds)
}

pub(crate) fn broken_pipe(err: io::Error) -> Failure {
    Failure::internal(format!("the answer cannot be sent: {err}"))
}

/// The words of this process's first panic.
static FIRST_PANIC: OnceLock<String> = OnceLock::new();

/// Keeps the words of the first panic of this process, for [`panicked`]: threads that wait for what another one computes panic
/// behind it, each with words of its own, and any of them may be the one that is heard of.
pub(crate) fn remember_first_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        FIRST_PANIC.get_or_init(|| panic.payload_as_str().unwrap_or("no reason given").to_owned());
        tell(panic);
    }));
}

/// A fault of the engine that stopped a thread; stderr has the place.
pub(crate) fn panicked() -> Failure {
    let text = FIRST_PANIC.get().map_or("no reason given", String::as_str);
    // DataFusion 55 runs the left side of a nested loop join a second time when it does not fit in memory, to spill it; a
    // repartition below panics with these words then.
    if text == "partition not used yet" {
        return Failure::new(
            FailureCode::MemoryLimit,
            (
                "one side of a join without an equality does not fit in memory",
                "等号のない結合の一方が、メモリーに収まりません",
            ),
            (
                "join on `a.x = b.x`, filter or aggregate before the join, or raise the memory limit",
                "`a.x = b.x`で結合するか、結合の前に絞り込みや集計をするか、メモリーの上限を上げてください",
            ),
        );
    }
    Failure::new(
        FailureCode::Internal,
        (format!("the SQL engine failed: {text}"), format!("SQLエンジンが失敗しました: {text}")),
        (
            "write the query in another way; this is a fault of the engine, not of the data",
            "クエリを別の書き方にしてください。データではなくエンジンの不具合です",
        ),
    )
}

pub(crate) fn refused(message: impl Into<Words>, hint: impl Into<Words>) -> Failure {
    Failure::new(FailureCode::Refused, message, hint)
}

pub(crate) fn no_table(unknown: &UnknownTable) -> Failure {
    let japanese = format!("`{}`というテーブルはありません", unknown.reference);
    refused((unknown.to_string(), japanese), unknown.hint.clone())
}

/// A failure met while planning: the query's own fault, or that of tables that have no row yet (`empty`).
pub(crate) fn planning(err: &DataFusionError, empty: &[String]) -> Failure {
    let root = root(err);
    match root {
        DataFusionError::SchemaError(schema_error, _) if !empty.is_empty() => match schema_error.as_ref() {
            SchemaError::FieldNotFound { field, .. } => {
                let tables = empty.iter().map(|table| format!("`{table}`")).collect::<Vec<_>>().join(", ");
                let column = &field.name;
                refused(
                    (
                        format!(
                            "there is no column `{column}`: {tables} has no rows yet, and columns are known from rows"
                        ),
                        format!("列`{column}`がありません。{tables}にはまだ行がなく、列は行から決まります"),
                    ),
                    (
                        "read the source or run the aggregation first, then this one",
                        "先にデータソースを読み込むか集約を実行してから、もう一度実行してください",
                    ),
                )
            }
            _ => failure(FailureCode::Refused, root, NAME_COLUMNS),
        },
        DataFusionError::Internal(_) => failure(FailureCode::Internal, root, NO_HINT),
        DataFusionError::ResourcesExhausted(_) => execution(err),
        DataFusionError::External(source) if source.is::<Passed>() => execution(err),
        DataFusionError::NotImplemented(_) => {
            failure(FailureCode::Refused, root, ("write it with other expressions", "別の式で書いてください"))
        }
        DataFusionError::SchemaError(schema_error, _) => {
            let hint = match schema_error.as_ref() {
                SchemaError::AmbiguousReference { .. } => (
                    "write the table before the column: `table.column`",
                    "列の前にテーブルを書いてください: `table.column`",
                ),
                SchemaError::FieldNotFound { .. } => (
                    "names are exact, in lower and upper case as the records have them",
                    "名前は、レコードにあるとおりの大文字と小文字で、正確に書いてください",
                ),
                _ => NAME_COLUMNS,
            };
            failure(FailureCode::Refused, root, hint)
        }
        DataFusionError::Plan(message) if message.contains("No function matches") => {
            let hint = (
                "cast the argument, as in `sum(cast(x as double))`",
                "`sum(cast(x as double))`のように、引数をキャストしてください",
            );
            failure(FailureCode::Refused, root, hint)
        }
        DataFusionError::Plan(message) if message.contains("Cannot coerce") => {
            let hint = (
                "one of the two is text: cast it, as in `cast(x as decimal(38, 10))`, or declare it in `types` of a csv source",
                "どちらかがテキストです。`cast(x as decimal(38, 10))`のようにキャストするか、csvソースの`types`で宣言してください",
            );
            failure(FailureCode::Refused, root, hint)
        }
        _ => failure(FailureCode::Refused, root, NO_HINT),
    }
}

/// A failure met while executing: mostly the data's.
pub(crate) fn execution(err: &DataFusionError) -> Failure {
    let root = root(err);
    match root {
        // The limit on temporary files comes as an I/O error without a kind of its own.
        _ if root.strip_backtrace().contains("used disk space during the spilling process") => Failure::new(
            FailureCode::SpillLimit,
            (
                "the query needs more room for temporary files than it may have",
                "クエリの一時ファイルが上限を超えました",
            ),
            (
                "sort and group fewer rows or columns: filter earlier, or aggregate in two steps",
                "整列やグループ化をする行か列を減らしてください。早めに絞り込むか、二段階で集計してください",
            ),
        ),
        DataFusionError::ResourcesExhausted(_) => failure(
            FailureCode::MemoryLimit,
            root,
            (
                "the query needs more memory than it may have: filter or aggregate before joining, or raise the memory limit",
                "クエリのメモリーが上限を超えました。結合の前に絞り込みや集計をするか、メモリーの上限を上げてください",
            ),
        ),
        DataFusionError::External(source) => match source.downcast_ref::<Passed>() {
            Some(Passed(passed)) => passed.clone(),
            None => failure(FailureCode::Query, root, NO_HINT),
        },
        DataFusionError::ExecutionJoin(join) if join.is_panic() => panicked(),
        DataFusionError::Internal(_) | DataFusionError::ExecutionJoin(_) | DataFusionError::IoError(_) => {
            failure(FailureCode::Internal, root, NO_HINT)
        }
        DataFusionError::ArrowError(arrow, _) => {
            let hint = match arrow.as_ref() {
                ArrowError::DivideByZero => {
                    ("guard the divisor: `a / nullif(b, 0)`", "除数が0にならないようにしてください: `a / nullif(b, 0)`")
                }
                ArrowError::CastError(_) | ArrowError::ParseError(_) => (
                    "a value does not have the form that a cast asks for: `try_cast` makes it null instead",
                    "キャストできない形の値があります。`try_cast`なら、その値はnullになります",
                ),
                ArrowError::ArithmeticOverflow(_) => (
                    "cast to `double` or to a wider `decimal` before the calculation",
                    "計算の前に、`double`か、より広い`decimal`にキャストしてください",
                ),
                _ => NO_HINT,
            };
            failure(FailureCode::Query, root, hint)
        }
        _ => failure(FailureCode::Query, root, NO_HINT),
    }
}

/// Our own failure on its way through DataFusion's error type.
#[derive(Debug)]
pub(crate) struct Passed(pub(crate) Failure);

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message.english)
    }
}

impl Error for Passed {}

impl Passed {
    pub(crate) fn through(failure: Failure) -> DataFusionError {
        DataFusionError::External(Box::new(Self(failure)))
    }
}

const NO_HINT: (&str, &str) = ("", "");

const NAME_COLUMNS: (&str, &str) = ("name the columns with `as`", "列を`as`で名付けてください");

/// In the engine's own words, which it has in English.
fn failure(code: FailureCode, err: &DataFusionError, hint: (&str, &str)) -> Failure {
    let said = words(err);
    let japanese = format!("SQLエンジンの説明: {said}");
    Failure::new(code, (said, japanese), hint)
}

/// The message without DataFusion's word for the kind of error, and without its backtrace.
fn words(err: &DataFusionError) -> String {
    let message = match err {
        DataFusionError::ArrowError(arrow, _) => arrow.to_string(),
        DataFusionError::SQL(parser, _) => match parser.as_ref() {
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => format!("SQL: {message}"),
            ParserError::RecursionLimitExceeded => "SQL: nested too deep".to_owned(),
        },
        other => other.message().into_owned(),
    };
    let message = message.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default();
    // A long list of attempts comes before the sentence that helps.
    let message = message.find("No function matches").map_or(message, |at| &message[at..]);
    // Advice about DataFusion's own settings and issue tracker is none for a user of matome.
    let kept = message.lines().filter(|line| !line.contains("datafusion.") && !line.contains("bug in DataFusion"));
    kept.collect::<Vec<_>>().join("\n")
}

/// A text that no parser accepts.
pub(crate) fn unparsed(err: &DataFusionError) -> Failure {
    failure(FailureCode::Refused, root(err), NO_HINT)
}

/// The innermost DataFusion error: the outer ones say where in the plan, not why.
fn root(err: &DataFusionError) -> &DataFusionError {
    match err {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => root(inner),
        DataFusionError::Shared(inner) => root(inner),
        DataFusionError::Collection(all) => all.first().map_or(err, root),
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::ExternalError(inner) => inner.downcast_ref::<DataFusionError>().map_or(err, root),
            _ => err,
        },
        DataFusionError::External(inner) => inner.downcast_ref::<DataFusionError>().map_or(err, root),
        _ => err,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_panics_the_first_one_is_told() {
        remember_first_panic();
        for words in ["partition not used yet", "inner future panicked during poll"] {
            std::thread::spawn(move || panic!("{words}")).join().unwrap_err();
        }
        assert_eq!(panicked().code, FailureCode::MemoryLimit);
    }
}

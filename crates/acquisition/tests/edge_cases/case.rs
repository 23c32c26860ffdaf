//! One row of the table: what comes in, and what must come of it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;

use matome_tasks::Advice;

use crate::server::Answer;

/// One row.
pub struct Case {
    /// Its number in the corpus; letters tell parts apart.
    pub number: &'static str,
    pub input: Input,
    pub expected: Outcome,
}

/// What comes in.
pub enum Input {
    /// One line of an NDJSON file that all such cases share.
    Line(Vec<u8>),
    /// A file in a directory of its own.
    File { name: OsString, bytes: Vec<u8>, options: &'static str },
    /// A file that is read with each of these contents, one after the other.
    Reads { contents: Vec<&'static str>, options: &'static str },
    /// A directory made by a function, and what is done to it once the first page of `path` is committed.
    Directory { prepare: fn(&Path), path: &'static str, options: &'static str, then: Option<fn(&Path)> },
    /// Answers of a server to requests for a path. A path that is there several times is answered in that order.
    /// The outcome is that of the last of `runs`.
    Http { answers: Vec<(&'static str, Answer)>, options: &'static str, runs: usize },
    /// A config of a file source that must be refused.
    Config(&'static str),
}

/// What must come of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The canonical texts, in the order of the source. Long ones are cut, many are counted, see [`shown`].
    pub stored: Vec<String>,
    /// The reasons, in the order of the source.
    pub quarantined: Vec<String>,
    pub failed: Option<Failure>,
    /// The field of the config that was refused.
    pub refused: Option<String>,
}

/// How a task failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub reason: String,
    pub advice: Advice,
    /// In the expectation: a part of the message or its causes. In what was found: all of them.
    pub says: String,
}

impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        let says = self.says.contains(&other.says) || other.says.contains(&self.says);
        self.reason == other.reason && self.advice == other.advice && says
    }
}

impl Eq for Failure {}

pub fn stored<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Outcome {
    let texts: Vec<String> = texts.into_iter().map(|text| text.as_ref().to_owned()).collect();
    Outcome { stored: shown(texts), ..Outcome::default() }
}

pub fn quarantined<T: AsRef<str>>(reasons: impl IntoIterator<Item = T>) -> Outcome {
    nothing().and_quarantined(reasons)
}

pub fn failed(reason: &str, says: &str) -> Outcome {
    nothing().and_failed(reason, says)
}

pub fn nothing() -> Outcome {
    Outcome::default()
}

pub fn refused(field: &str) -> Outcome {
    Outcome { refused: Some(field.to_owned()), ..Outcome::default() }
}

impl Outcome {
    pub fn and_quarantined<T: AsRef<str>>(self, reasons: impl IntoIterator<Item = T>) -> Self {
        let quarantined = reasons.into_iter().map(|reason| reason.as_ref().to_owned()).collect();
        Self { quarantined, ..self }
    }

    pub fn and_failed(self, reason: &str, says: &str) -> Self {
        let failure = Failure { reason: reason.to_owned(), advice: Advice::Fail, says: says.to_owned() };
        Self { failed: Some(failure), ..self }
    }

    /// The task is to be tried again, after this time if the source named one.
    pub fn retried(mut self, after: Option<Duration>) -> Self {
        if let Some(failure) = &mut self.failed {
            failure.advice = Advice::Retry { after };
        }
        self
    }
}

/// Texts as an outcome has them: long ones as their start with their length, many as their number.
pub fn shown(texts: Vec<String>) -> Vec<String> {
    const LONG: usize = 2_000;
    const MANY: usize = 100;
    if texts.len() > MANY {
        let different = texts.iter().collect::<std::collections::HashSet<_>>().len();
        assert_eq!(different, texts.len(), "many records are all different here");
        return vec![counted(different)];
    }
    let cut = |text: String| match text.len() {
        length @ LONG.. => {
            let (start, end) = (text.floor_char_boundary(60), text.ceil_char_boundary(length - 20));
            format!("{}...{} ({length} bytes)", &text[..start], &text[end..])
        }
        _ => text,
    };
    texts.into_iter().map(cut).collect()
}

/// What is shown of many records, all of them different.
pub fn counted(records: usize) -> String {
    format!("{records} different records")
}

/// What is shown of many records of a read that was broken off, which may be more or fewer.
pub const SOME: &str = "some records";

pub fn line(number: &'static str, bytes: impl AsRef<[u8]>, expected: Outcome) -> Case {
    Case { number, input: Input::Line(bytes.as_ref().to_vec()), expected }
}

/// A line that is stored as it is.
pub fn as_it_is(number: &'static str, text: &str) -> Case {
    line(number, text, stored([text]))
}

pub fn file(
    number: &'static str,
    name: impl AsRef<[u8]>,
    bytes: impl AsRef<[u8]>,
    options: &'static str,
    expected: Outcome,
) -> Case {
    let name = OsString::from_vec(name.as_ref().to_vec());
    Case { number, input: Input::File { name, bytes: bytes.as_ref().to_vec(), options }, expected }
}

pub fn directory(
    number: &'static str,
    prepare: fn(&Path),
    path: &'static str,
    then: Option<fn(&Path)>,
    expected: Outcome,
) -> Case {
    Case { number, input: Input::Directory { prepare, path, options: "", then }, expected }
}

pub fn http(
    number: &'static str,
    answers: Vec<(&'static str, Answer)>,
    options: &'static str,
    expected: Outcome,
) -> Case {
    Case { number, input: Input::Http { answers, options, runs: 1 }, expected }
}

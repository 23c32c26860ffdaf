//! Bad and odd input, from the bytes of a source to the rows of the store: one table, equal on both databases.
//!
//! The numbers are those of the project's corpus of bad input. A comment at a row says where the outcome differs from
//! the corpus, and why.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod case;
mod compression;
mod csv;
mod files;
mod http;
mod idempotence;
mod json;
mod run;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod time;

use matome_testbed::databases;

/// The table.
fn cases() -> impl Iterator<Item = case::Case> {
    let parts = [
        json::cases(),
        files::cases(),
        compression::cases(),
        csv::cases(),
        time::cases(),
        http::cases(),
        idempotence::cases(),
    ];
    parts.into_iter().flatten()
}

/// The numbers of the corpus that this version is about: JSON values, NDJSON and files, gzip, CSV, time, HTTP,
/// idempotence. 74 to 80 are other compressions and archives, 119 to 128 WebSocket, subprocesses and databases.
fn required() -> impl Iterator<Item = u32> {
    (1..=73).chain(81..=118).chain(129..=134)
}

#[test]
fn every_case_that_this_version_is_about_has_a_row() {
    // `61, grown and replaced; 62` is about both.
    let numbers = |case: &case::Case| -> Vec<u32> {
        let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>();
        case.number
            .split("; ")
            .map(|part| digits(part).parse().unwrap_or_else(|_| panic!("`{part}` has no number")))
            .collect()
    };
    let covered: std::collections::BTreeSet<u32> = cases().flat_map(|case| numbers(&case)).collect();
    let missing: Vec<u32> = required().filter(|number| !covered.contains(number)).collect();
    assert!(missing.is_empty(), "no row has these numbers: {missing:?}");
    let unknown: Vec<u32> =
        covered.iter().copied().filter(|covered| required().all(|number| number != *covered)).collect();
    assert!(unknown.is_empty(), "these numbers are not of this version: {unknown:?}");
}

#[tokio::test]
async fn each_case_ends_as_stated_on_both_databases() {
    let mut wrong = Vec::new();
    for bed in databases().await {
        let mut lines = Vec::new();
        for case in cases() {
            let number = case.number;
            let expected = case.expected.clone();
            let found = match case.input {
                case::Input::Line(_) => {
                    lines.push(case);
                    continue;
                }
                input => run::run(&bed.db, input).await,
            };
            if found != expected {
                wrong.push(format!("{}: case {number}\n    expected {expected:?}\n    found    {found:?}", bed.name));
            }
        }
        let found = run::run_lines(&bed.db, &lines).await;
        for (case, found) in lines.iter().zip(found) {
            if found != case.expected {
                let (number, expected) = (case.number, &case.expected);
                wrong.push(format!("{}: case {number}\n    expected {expected:?}\n    found    {found:?}", bed.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} outcomes differ:\n{}", wrong.len(), wrong.join("\n"));
}

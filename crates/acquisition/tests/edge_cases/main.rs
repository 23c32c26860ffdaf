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
mod json;
mod run;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod time;

use matome_testbed::databases;

#[tokio::test]
async fn each_case_ends_as_stated_on_both_databases() {
    let cases = || [json::cases(), files::cases(), compression::cases(), csv::cases(), time::cases(), http::cases()];
    let mut wrong = Vec::new();
    for bed in databases().await {
        let mut lines = Vec::new();
        for case in cases().into_iter().flatten() {
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

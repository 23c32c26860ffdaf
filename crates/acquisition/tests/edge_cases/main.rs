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

/// The numbers of the corpus that have a row here: JSON values, NDJSON and files, gzip, CSV, time, HTTP, idempotence.
fn required() -> impl Iterator<Item = u32> {
    (1..=73).chain(81..=118).chain(129..=134)
}

/// The others, which end before there is a record to store: each with the test beside its connector. Of 79 (tar) and 120
/// (connectors as subprocesses) there is nothing to test: neither is read.
const ELSEWHERE: &[(u32, &str, &str)] = &[
    (74, HTTP, "gzip_and_deflate_are_inflated_within_limits"),
    (75, COMPRESSED, "a_bomb_of_each_codec_is_stopped"),
    (75, COMPRESSED, "a_zstd_stream_that_asks_for_more_memory_than_it_may_have_is_refused"),
    (76, ARCHIVES, "the_names_of_members_lead_nowhere"),
    (77, ARCHIVES, "a_bomb_in_an_archive_is_stopped_also_in_many_members"),
    (78, ARCHIVES, "archives_that_two_programs_would_read_differently_are_refused"),
    (80, ARCHIVES, "archives_that_two_programs_would_read_differently_are_refused"),
    (119, LIMITS, "a_message_over_the_limit_goes_to_quarantine_and_the_connection_stays"),
    (119, LIMITS, "a_message_that_cannot_be_held_costs_the_connection_once_and_is_told"),
    (119, LIMITS, "a_message_in_many_frames_is_one_and_may_not_grow_without_end"),
    (119, LIMITS, "a_flood_of_pings_keeps_no_record_back_and_the_read_from_no_end"),
    (121, TYPES, "every_type_is_exact"),
    (122, TYPES, "a_number_of_a_thousand_digits_is_exact"),
    (123, TYPES, "every_type_is_exact"),
    (124, MYSQL_TYPES, "every_type_is_exact_in_tables_and_queries"),
    (125, SQLITE, "every_value_is_exact_whatever_its_column_says"),
    (126, TYPES, "every_type_is_exact"),
    (127, TYPES, "text_that_is_in_no_encoding_is_told_with_the_remedy"),
    (128, ERRORS, "a_connection_that_is_lost_in_the_middle_goes_on_where_it_was"),
];
const COMPRESSED: &str = include_str!("../../../connector/tests/file/compressed.rs");
const HTTP: &str = include_str!("../../../egress/tests/client.rs");
const ARCHIVES: &str = include_str!("../../../connector/tests/file/archives.rs");
const LIMITS: &str = include_str!("../../../connector/tests/websocket/limits.rs");
const TYPES: &str = include_str!("../../../connector/tests/database/types.rs");
const MYSQL_TYPES: &str = include_str!("../../../connector/tests/database/mysql/types.rs");
const SQLITE: &str = include_str!("../../../connector/tests/database/sqlite.rs");
const ERRORS: &str = include_str!("../../../connector/tests/database/errors.rs");

#[test]
fn what_ends_before_there_is_a_record_has_a_test_beside_its_connector() {
    let missing = ELSEWHERE.iter().filter(|(_, text, test)| !text.contains(&format!("async fn {test}(")));
    assert_eq!(missing.map(|(number, _, test)| (number, test)).collect::<Vec<_>>(), []);
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

//! Times. A record has no times of its own in this version, only text: nothing is guessed, clamped or rounded.

use crate::case::{Case, as_it_is};

pub fn cases() -> Vec<Case> {
    vec![
        as_it_is("97", r#"{"at":"2024-02-30"}"#),
        as_it_is("98", r#"{"at":"2016-12-31T23:59:60Z"}"#),
        as_it_is("99", r#"{"at":"2024-01-01T24:00:00Z"}"#),
        as_it_is("100", r#"{"at":"2024-01-01T00:00:00"}"#),
        as_it_is("101", r#"{"at":["0000-01-01","10000-01-01","-0001-01-01","294277-01-10"]}"#),
        as_it_is("102", r#"{"at":"2024-01-01T00:00:00.123456789Z"}"#),
        as_it_is("103", r#"{"at":[1700000000,1700000000000,1700000000000000,1700000000000000000]}"#),
        as_it_is("104", r#"{"at":["2024-03-10T02:30:00","2024-11-03T01:30:00"],"zone":"America/New_York"}"#),
    ]
}

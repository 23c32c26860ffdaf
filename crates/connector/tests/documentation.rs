//! The configs that `docs/sources.md`, the pages of connectors and their translations print are accepted, and both
//! languages print the same.

#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use matome_connector::validate_config;
use matome_model::canonical::QuarantineReason;
use matome_model::source::{Dedupe, SourceType};

const PAGES: [&str; 2] = ["sources.md", "sources.ja.md"];
/// Pages of single types.
const CONNECTORS: [[&str; 2]; 5] = [
    ["connectors/api.md", "connectors/api.ja.md"],
    ["connectors/database.md", "connectors/database.ja.md"],
    ["connectors/file.md", "connectors/file.ja.md"],
    ["connectors/push.md", "connectors/push.ja.md"],
    ["connectors/websocket.md", "connectors/websocket.ja.md"],
];

fn page(name: &str) -> String {
    let path = Path::new("../../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("`{}`: {err}", path.display()))
}

/// The blocks that start with ```` ```json TYPE ````, with their types.
fn configs(markdown: &str) -> Vec<(SourceType, String)> {
    let mut found = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if let Some(source_type) = line.strip_prefix("```json ").and_then(|word| SourceType::parse(word.trim())) {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push((source_type, block.join("\n")));
        }
    }
    found
}

#[test]
fn printed_configs_are_accepted() {
    for name in PAGES.into_iter().chain(CONNECTORS.into_iter().flatten()) {
        let configs = configs(&page(name));
        let least = if PAGES.contains(&name) { 5 } else { 1 };
        assert!(configs.len() > least, "{name} has {} configs", configs.len());
        for (source_type, config) in configs {
            let parsed =
                validate_config(source_type, &config).unwrap_or_else(|errors| panic!("{name}: {config}: {errors:?}"));
            assert!(!parsed.is_draft(), "{name}: {config}");
        }
    }
}

#[test]
fn both_languages_print_the_same_configs() {
    for pages in [PAGES].into_iter().chain(CONNECTORS) {
        let [english, japanese] = pages.map(|name| configs(&page(name)));
        assert_eq!(english, japanese);
    }
}

#[test]
fn every_reason_and_dedupe_mode_is_described() {
    for name in PAGES {
        let page = page(name);
        let reasons = QuarantineReason::ALL.iter().map(|reason| reason.as_str());
        for code in reasons.chain(Dedupe::ALL.iter().map(|dedupe| dedupe.as_str())) {
            assert!(page.contains(&format!("| `{code}` |")), "{name} has no row for `{code}`");
        }
    }
}

#[test]
fn every_option_of_a_database_is_described() {
    for name in ["connectors/database.md", "connectors/database.ja.md"] {
        let page = page(name);
        // An unknown option is answered with all that are known.
        let errors = validate_config(SourceType::Database, r#"{"engine":"postgres","x":1}"#).unwrap_err();
        let known = errors.iter().find(|error| error.path == ["x"]).unwrap().message.english.clone();
        let options: Vec<&str> = known.rsplit_once("Known here: ").unwrap().1.split('`').skip(1).step_by(2).collect();
        assert!(options.len() > 15, "{known}");
        let of_all = self::page(PAGES[0]);
        for option in options {
            let is_here = page.contains(&format!("`{option}`"));
            assert!(is_here || of_all.contains(&format!("| `{option}` |")), "{name} does not describe `{option}`");
        }
    }
}

//! The configs that `docs/aggregations.md` and its translation print are accepted, and are the same in both.

#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use matome_aggregation::config::AggregationConfig;

fn configs(page: &str) -> Vec<String> {
    let path = Path::new("../../docs").join(page);
    let markdown = fs::read_to_string(&path).unwrap_or_else(|err| panic!("`{}`: {err}", path.display()));
    let blocks = markdown.split("```json aggregation\n").skip(1);
    blocks.map(|block| block.split("\n```").next().unwrap().to_owned()).collect()
}

#[test]
fn printed_configs_are_accepted_and_the_same_in_both_languages() {
    let english = configs("aggregations.md");
    assert!(english.len() > 2, "{english:?}");
    for config in &english {
        let value = serde_json::from_str(config).unwrap_or_else(|err| panic!("{config}: {err}"));
        let parsed = AggregationConfig::parse(&value).unwrap_or_else(|errors| panic!("{config}: {errors:?}"));
        assert!(!parsed.is_draft(), "{config}");
    }
    assert_eq!(english, configs("aggregations.ja.md"));
}

//! What is proposed for a source that is looked at before it is made, and what every kind of source is looked at for: where the
//! records are and which field tells them apart.

mod changes;
mod elements;
mod key;
mod records;

use matome_model::field_error::{FieldError, Words};
use matome_model::source::SourceType;
use serde_json::{Map, Value};

use crate::config::validate_config;
use crate::database;
use crate::file;
use crate::record::ReadStats;

pub(crate) use changes::change_rank;
pub(crate) use elements::look as elements;
pub(crate) use key::key;
pub(crate) use records::{Member, around, closed, find, member, plain, resource, select};

/// What is proposed for a source.
#[derive(Debug)]
pub struct Proposal {
    /// Options to be added to the config that was given.
    pub options: Map<String, Value>,
    /// What was found, one by one, for people.
    pub findings: Vec<Finding>,
    /// What was done for it.
    pub stats: ReadStats,
}

/// One thing that was found, or looked for in vain.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The option that it is about.
    pub option: &'static str,
    /// What is proposed for it; nothing when it stays as it is.
    pub value: Option<Value>,
    /// What was seen.
    pub words: Words,
}

/// What is wrong with a config that a probe is to complete; what a probe proposes may be missing.
///
/// # Errors
/// As [`validate_config`], and when nothing is named that could be looked at.
pub fn validate_for_probe(source_type: SourceType, config: &str) -> Result<(), Vec<FieldError>> {
    if source_type == SourceType::Database {
        return database::validate_without_relation(config);
    }
    let place = if source_type == SourceType::File { "path" } else { "url" };
    let mut errors = match validate_config(source_type, config) {
        Ok(parsed) if parsed.is_draft() => vec![FieldError::new(&[place], Words::required())],
        Ok(_) => Vec::new(),
        Err(errors) => errors,
    };
    if source_type == SourceType::File {
        let given: Map<String, Value> = serde_json::from_str(config).unwrap_or_default();
        errors.retain(|error| error.path != ["format"] || given.contains_key("format"));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// As [`validate_for_probe`], where what is named is to say whether it is an API or a file.
///
/// # Errors
/// When it can be neither.
pub fn validate_for_choice(config: &str) -> Result<(), Vec<FieldError>> {
    if file::has_path(config) {
        return validate_for_probe(SourceType::File, config);
    }
    match validate_for_probe(SourceType::Api, config) {
        Err(_) if file::of_address(config).is_some() => Ok(()),
        checked => checked,
    }
}

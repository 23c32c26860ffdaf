//! What a source's `config` may say, by its type, and field errors that name their path.

mod change;
mod deletes;
mod fields;
mod identity;
mod quality;
mod retention;
mod share;

use std::time::Duration;

use matome_model::field_error::Words;
use matome_model::record_key::RecordKey;
use matome_model::schedule::ScheduleOptions;
use matome_model::source::{Dedupe, HostUse, SourceType};
use matome_model::task::Share;
use serde_json::value::RawValue;

use crate::api::ApiConfig;
use crate::database::DatabaseConfig;
use crate::file::{FileConfig, RowReader};
use crate::push::PushConfig;
use crate::websocket::WebsocketConfig;

pub use change::{Change, change};
pub use deletes::Deletes;
pub(crate) use fields::Fields;
pub use matome_model::field_error::FieldError;
pub(crate) use quality::MAX_RULES;
pub use quality::{Quality, QuarantineLimit};
pub(crate) use retention::{MOST_BYTES, MOST_DAYS, MOST_RECORDS};
pub use retention::{Retention, retention_of};

/// The errors as `a.b: message; c: message`.
pub(crate) fn in_one_line(errors: &[FieldError]) -> String {
    let line = |error: &FieldError| match error.path.is_empty() {
        true => error.message.to_string(),
        false => format!("`{}`: {}", error.path.join("."), error.message),
    };
    errors.iter().map(line).collect::<Vec<_>>().join(" ")
}

/// A config that validated.
#[derive(Debug)]
pub enum ParsedConfig {
    /// Nothing but labels: it can be stored, not run.
    Draft,
    /// Reads files.
    File(Box<FileConfig>),
    /// Reads a REST API.
    Api(Box<ApiConfig>),
    /// Listens to a stream.
    Websocket(Box<WebsocketConfig>),
    /// Reads a database.
    Database(Box<DatabaseConfig>),
    /// Takes what is sent to it.
    Push(Box<PushConfig>),
}

impl ParsedConfig {
    /// The options that every type has; `None` for a draft.
    pub fn common(&self) -> Option<&CommonConfig> {
        match self {
            Self::Draft => None,
            Self::File(config) => Some(&config.common),
            Self::Api(config) => Some(&config.common),
            Self::Websocket(config) => Some(&config.common),
            Self::Database(config) => Some(&config.common),
            Self::Push(config) => Some(&config.common),
        }
    }

    /// When it runs, beside its `fetch_interval`; `None` for a draft.
    pub fn schedule(&self) -> Option<&ScheduleOptions> {
        self.common().map(|common| &common.schedule)
    }

    /// Whether a read that was interrupted goes on where it stopped, unless all equal records have to be counted.
    pub fn goes_on(&self) -> bool {
        match self {
            Self::Draft => false,
            Self::Push(_) => true,
            Self::File(config) => config.common.dedupe == Dedupe::None,
            Self::Api(config) => config.common.dedupe != Dedupe::Rows,
            Self::Websocket(config) => config.common.dedupe != Dedupe::Rows,
            Self::Database(config) => config.goes_on(),
        }
    }

    /// Whether a read gives all that the source has, so that what it does not give is gone; `full`: it was asked to begin anew.
    pub fn gives_all(&self, full: bool) -> bool {
        match self {
            Self::Draft | Self::Websocket(_) | Self::Push(_) => false,
            Self::File(_) => true,
            Self::Api(config) => config.incremental.is_none() || full,
            Self::Database(config) => config.incremental.is_none() || full,
        }
    }

    /// The host whose tasks at a time are counted; `None` where there is none.
    pub fn host(&self) -> Option<HostUse> {
        match self {
            // A stream would hold its place for ever.
            Self::Draft | Self::Websocket(_) | Self::Push(_) => None,
            Self::File(config) => config.place.host(),
            Self::Api(config) => config.host(),
            Self::Database(config) => config.host(),
        }
    }

    /// What reads single records anew that could not be taken apart; `None` where records are JSON already.
    pub fn row_reader(&self) -> Option<RowReader> {
        match self {
            Self::Draft | Self::Websocket(_) | Self::Database(_) => None,
            Self::File(config) => RowReader::new(&config.document),
            Self::Api(config) => config.list.document.as_deref().and_then(RowReader::new),
            Self::Push(config) => RowReader::new(&config.document(config.format?)),
        }
    }

    /// Whether it can not be run.
    pub fn is_draft(&self) -> bool {
        matches!(self, Self::Draft)
    }
}

/// Longest `deadline_secs`: a week.
pub(crate) const MAX_DEADLINE_SECS: u64 = 7 * 86_400;

/// Options of every type of source.
#[derive(Clone, Debug)]
pub struct CommonConfig {
    /// `dedupe`: `rows` (default for files and whole tables), `hash` (default for APIs and incremental reads of tables), `key`
    /// (default with `key`) or `none` (default for streams).
    pub dedupe: Dedupe,
    /// `key`: the path of one field, or a list of them; there with [`Dedupe::Key`] and only then.
    pub key: Option<RecordKey>,
    /// `deletes`: what becomes of keys that a whole read no longer gives; `ignore` (default) or `tombstone`, with a `key` only.
    pub deletes: Deletes,
    /// `retention`: which records are removed in the background.
    pub retention: Option<Retention>,
    /// `timeout_secs`: how long to wait for the head of an answer and for each next piece; 1 to 3600, default 30.
    pub timeout: Duration,
    /// `deadline_secs`: how long a whole task may take, after which it fails; 1 to 604800. Not for streams.
    pub deadline: Option<Duration>,
    /// `validation`, `drift` and `quarantine`.
    pub quality: Quality,
    /// `schedule`: `cron` with `timezone`, `misfire`, `overlap`, `jitter_secs`.
    pub schedule: ScheduleOptions,
    /// `priority` and `weight`: how much of the workers' time it gets beside others.
    pub share: Share,
}

/// Checks `config`, the JSON text of an object, with its secrets in place.
///
/// `{}`, or `labels` alone, is a draft for every type. Types that this version can not run take drafts only.
///
/// # Errors
/// Everything that is wrong, in no particular order.
pub fn validate_config(source_type: SourceType, config: &str) -> Result<ParsedConfig, Vec<FieldError>> {
    let mut fields = Fields::parse(config)?;
    if let Some(labels) = fields.raw("labels")
        && !labels.get().starts_with('{')
    {
        fields.fail("labels", Words::no_object(kind_of(&labels)));
    }
    if fields.is_empty() {
        return fields.finish().map(|()| ParsedConfig::Draft);
    }
    match source_type {
        SourceType::File => crate::file::parse_config(fields).map(|config| ParsedConfig::File(Box::new(config))),
        SourceType::Api => crate::api::parse_config(fields).map(|config| ParsedConfig::Api(Box::new(config))),
        SourceType::Push => crate::push::parse_config(fields).map(|config| ParsedConfig::Push(Box::new(config))),
        SourceType::Websocket => {
            crate::websocket::parse_config(fields).map(|config| ParsedConfig::Websocket(Box::new(config)))
        }
        SourceType::Database => {
            crate::database::parse_config(fields).map(|config| ParsedConfig::Database(Box::new(config)))
        }
    }
}

/// Reads the options that every type has.
pub(crate) fn parse_common(fields: &mut Fields, default: Dedupe) -> CommonConfig {
    let (dedupe, key) = identity::parse(fields, default);
    let deletes = deletes::parse(fields, dedupe);
    let retention = retention::parse(fields, dedupe);
    let timeout = fields.integer("timeout_secs", 1, 3600).unwrap_or(30);
    let deadline = fields.integer("deadline_secs", 1, MAX_DEADLINE_SECS).map(Duration::from_secs);
    fields.choice("mode", &[("full", ())]);
    let quality = quality::parse_quality(fields);
    let schedule = fields.schedule();
    let share = share::parse(fields);
    let timeout = Duration::from_secs(timeout);
    CommonConfig { dedupe, key, deletes, retention, timeout, deadline, quality, schedule, share }
}

/// The word that DRF has for a type of JSON.
fn kind_of(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'{') => "dict",
        Some(b'[') => "list",
        Some(b'"') => "str",
        Some(b't' | b'f') => "bool",
        Some(b'n') => "NoneType",
        _ if value.get().contains(['.', 'e', 'E']) => "float",
        _ => "int",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn errors(source_type: SourceType, config: &str) -> Vec<(String, String)> {
        let errors = validate_config(source_type, config).map(|_| ()).unwrap_err();
        errors.into_iter().map(|error| (error.path.join("."), error.message.english)).collect()
    }

    #[test]
    fn drafts_are_taken_for_every_type() {
        for source_type in SourceType::ALL {
            for config in ["{}", r#"{"labels":{"a":[1,1e999,{"b":null}],"🗾":"東京"}}"#] {
                assert!(validate_config(*source_type, config).unwrap().is_draft(), "{config}");
            }
        }
    }

    #[test]
    fn labels_must_be_an_object_and_a_config_too() {
        assert_eq!(
            errors(SourceType::Api, r#"{"labels":[1]}"#),
            [("labels".into(), "Expected a dictionary of items but got type \"list\".".into())]
        );
        assert_eq!(errors(SourceType::Api, "[]")[0].0, "");
    }

    #[test]
    fn unknown_options_are_errors_with_a_suggestion() {
        let errors = errors(SourceType::File, r#"{"path":"a.csv","delimeter":";"}"#);
        assert_eq!(errors[0].0, "delimeter");
        assert!(errors[0].1.contains("Did you mean `delimiter`?") && errors[0].1.contains("`encoding`"), "{errors:?}");
    }

    #[test]
    fn a_schedule_is_checked_with_the_config() {
        let errors = errors(SourceType::File, r#"{"path":"a.csv","schedule":{"cron":"0 0 30 2 *","misfires":"skip"}}"#);
        let paths: Vec<&str> = errors.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["schedule.cron", "schedule.misfires"], "{errors:?}");
        let config = r#"{"path":"a.csv","schedule":{"cron":"@daily","timezone":"Asia/Tokyo"}}"#;
        let config = validate_config(SourceType::File, config).unwrap();
        assert!(config.schedule().unwrap().cron.is_some());
    }

    #[test]
    fn common_options_are_checked() {
        let errors = errors(
            SourceType::File,
            r#"{"path":"a.csv","dedupe":"keys","timeout_secs":0,"deadline_secs":604801,"mode":"incremental"}"#,
        );
        assert_eq!(
            errors,
            [
                ("dedupe".into(), "\"keys\" is not a valid choice. Choices are `rows`, `hash`, `key`, `none`.".into()),
                ("timeout_secs".into(), "Ensure this value is greater than or equal to 1.".into()),
                ("deadline_secs".into(), "Ensure this value is less than or equal to 604800.".into()),
                ("mode".into(), "\"incremental\" is not a valid choice. Choices are `full`.".into()),
            ]
        );
    }
}

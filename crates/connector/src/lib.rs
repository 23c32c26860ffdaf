//! Reading records from the outside: the [`Connector`] trait, typed configs, one folder per connector.
//!
//! A connector turns a source into [`Batch`]es of raw records and checkpoints. It knows neither store nor queue:
//! who calls it canonicalises, deduplicates and commits each batch together with its checkpoint.

pub mod api;
pub mod config;
pub mod database;
mod error;
pub mod file;
pub mod json;
mod jwt;
mod keeper;
mod probe;
pub mod push;
mod read;
mod record;
mod registry;
mod schema;
mod secrets;
mod sigv4;
pub mod tls;
pub mod websocket;

pub use config::{
    Change, Deletes, FieldError, ParsedConfig, Quality, QuarantineLimit, Retention, change, retention_of,
    validate_config,
};
pub use database::Table;
pub use error::{Advice, ConnectorError, DatabaseFault, PlaceFault};
pub use file::{FileRoots, RowReader};
pub use jwt::JwtAlgorithm;
pub use keeper::{Exchange, SecretKeeper};
pub use probe::{Finding, Proposal, validate_for_choice, validate_for_probe};
pub use read::{Connector, ReadRequest, Reader, Sample, sample};
pub use record::{Batch, Item, Position, ReadStats};
pub use registry::Registry;
pub use schema::config_schema;
pub use secrets::{KEPT_SECRET, secret_paths};
pub use sigv4::{AwsKey, AwsSigning};
// What a `Registry` is made with.
pub use matome_egress::{EgressRule, HttpClient, Policy};

//! All SQL of matome, for SQLite and PostgreSQL, one module per entity.
//!
//! Every function takes a [`db::Conn`]; what belongs together is called in one [`db::Db::write`]. Statements
//! are written once, with `$1` parameters; where the databases truly differ the two texts stand side by side
//! in [`db::Conn::pick`]. Rows come back as typed structs; a lookup that finds nothing is `Ok(None)`.

pub mod about;
pub mod acquired_data;
pub mod adoption;
pub mod aggregated_data;
pub mod aggregation_runs;
pub mod aggregation_sources;
pub mod api_tokens;
pub mod backup;
pub mod backups;
pub mod celery_calls;
pub mod check;
pub mod checkpoints;
pub mod copy;
pub mod counters;
pub mod data_sources;
pub mod db;
pub mod error;
pub mod hosts;
pub mod inbox;
pub mod lanes;
pub mod lease;
pub mod listing;
pub mod migrate;
pub mod pulse;
mod purge;
pub mod pushes;
pub mod quarantine;
pub mod removals;
pub mod retention;
pub mod schedules;
pub mod secrets;
pub mod source_bytes;
pub mod source_schemas;
pub mod task_history;
pub mod tasks;
pub mod triggers;
pub mod workers;

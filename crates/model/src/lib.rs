//! The words of matome's domain: sources, records, tasks, schedules, canonical JSON, schema inference, validation,
//! the messages of the engine child.
//!
//! No I/O and no async: everything here is a value or a pure function, so that every other crate can
//! depend on it.

pub mod canonical;
pub mod clock;
pub mod complaint;
pub mod difference;
pub mod drift;
pub mod engine;
pub mod field_error;
pub mod inference;
pub mod kept_error;
pub mod language;
pub mod record_key;
pub mod schedule;
pub mod source;
pub mod task;
pub mod validation;

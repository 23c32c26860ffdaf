//! Reads of databases: real PostgreSQL servers, real SQLite files.

#![allow(missing_docs, clippy::unwrap_used)]

mod errors;
mod incremental;
mod sqlite;
mod support;
mod tls;
mod types;

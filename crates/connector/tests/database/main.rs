//! Reads of databases: real PostgreSQL and MariaDB servers, real SQLite files.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tls/mod.rs"]
mod certificates;
mod errors;
mod incremental;
mod mysql;
#[path = "../reading/mod.rs"]
mod reading;
mod servers;
mod sqlite;
mod support;
mod tls;
mod types;

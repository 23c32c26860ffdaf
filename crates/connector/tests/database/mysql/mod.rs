//! Reads of a real MariaDB server.

mod bed;
mod errors;
mod incremental;
mod tls;
mod types;

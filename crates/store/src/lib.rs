//! All SQL of matome, for SQLite and PostgreSQL, one module per entity.
//!
//! Every function takes a [`db::Conn`]; what belongs together is called in one [`db::Db::write`]. Statements
//! are written once, with `$1` parameters; where the databases truly differ the two texts stand side by side
//! in [`db::Conn::pick`]. Rows come back as typed structs; a lookup that finds nothing is `Ok(None)`.

pub mod db;
pub mod error;
pub mod lease;
pub mod migrate;

//! The file connector on real directories.
#![allow(clippy::unwrap_used)]

mod archives;
mod avro;
mod changed;
mod compressed;
mod encodings;
mod probe;
mod read;
#[path = "../reading/mod.rs"]
mod reading;
mod remote;
mod resume;
mod rotation;
mod support;
mod tables;
#[path = "../tls/mod.rs"]
mod tls;
mod xml;

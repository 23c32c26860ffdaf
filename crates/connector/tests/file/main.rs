//! The file connector on real directories.
#![allow(clippy::unwrap_used)]

mod archives;
mod compressed;
mod encodings;
mod read;
mod remote;
mod support;
mod tables;
mod xml;

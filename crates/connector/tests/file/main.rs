//! The file connector on real directories.
#![allow(clippy::unwrap_used)]

mod archives;
mod compressed;
mod read;
mod support;

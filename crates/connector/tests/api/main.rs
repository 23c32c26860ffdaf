//! The API connector against real servers on loopback.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod answers;
mod auth;
mod auth_changing;
mod denied;
mod errors;
mod formats;
mod incremental;
mod pages;
mod parents;
mod probe;
mod rate;
#[path = "../reading/mod.rs"]
mod reading;
#[path = "../../../egress/tests/spelling/mod.rs"]
mod spelling;
mod support;
#[path = "../tls/mod.rs"]
mod tls;
mod tls_of_sources;

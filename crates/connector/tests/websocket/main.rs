//! Streams, from real WebSocket servers and real servers of events.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod errors;
mod events;
mod limits;
mod peer;
mod reconnect;
mod stream;
#[path = "../tls/mod.rs"]
mod tls;
mod tls_of_sources;

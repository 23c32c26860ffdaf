//! Records that are sent to matome: by a client with a token, or by a webhook that signs what it sends.
//!
//! What was sent is kept in the store, of which this crate knows nothing: here is what a config says about it, how a
//! body is taken apart, and whether a webhook's signature is good.

mod body;
mod config;
mod headers;
mod signature;

pub use body::{BadBody, Body, InflateError, examine, inflate};
pub use config::PushConfig;
pub(crate) use config::{format_of_media_type, parse as parse_config};
pub(crate) use headers::MOST_HEADERS;
pub use signature::{Delivery, Refusal, Scheme, Webhook};

//! The only way to the outside: which addresses may be reached, the HTTP client that obeys, and the dialer for other protocols.
//!
//! A host is resolved once; every address it has is canonicalised and checked; the connection goes to a
//! checked address and nowhere else. Redirects are followed by hand and checked again. No proxy is taken
//! from the environment.

mod address;
mod body;
mod budgets;
mod client;
mod dial;
mod error;
mod pace;
mod policy;
mod resolver;
mod tls;

pub use budgets::{Budgets, CLOSED_WAIT, Rate, Turn};
pub use client::{DEFAULT_BODY_LIMIT, HttpClient, Request, Response, Signer, Upgrade};
pub use dial::Dialer;
pub use error::EgressError;
pub use pace::SharedPace;
pub use policy::{EgressRule, EgressRuleError, Policy};
pub use reqwest::header;
pub use reqwest::{Method, StatusCode, Upgraded};
pub use resolver::Resolver;
pub use tls::{Certificates, TlsFault, trusted_certificates};

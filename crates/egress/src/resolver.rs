//! From a name to the addresses it has, and to those of them that may be reached: the machine's resolver, or another one.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use url::Host;

use crate::error::EgressError;
use crate::policy::Policy;

/// Looks names up. What it answers is never trusted: each address is checked before it is dialled.
pub trait Resolver: Send + Sync {
    /// Every address of `name`; may be empty.
    fn lookup<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;
}

/// The machine's resolver.
pub(crate) struct System;

impl Resolver for System {
    fn lookup<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>> {
        // The port is only there because the resolver wants one.
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|found| found.ip()).collect()) })
    }
}

/// The addresses of `host` that may be reached; connect to these and to no other.
pub(crate) async fn resolve(
    policy: &Policy,
    resolver: &dyn Resolver,
    host: &Host<&str>,
    port: u16,
    timeout: Duration,
) -> Result<Vec<SocketAddr>, EgressError> {
    let found = match host {
        Host::Ipv4(address) => vec![IpAddr::V4(*address)],
        Host::Ipv6(address) => vec![IpAddr::V6(*address)],
        Host::Domain(name) => {
            let unresolved = |source| EgressError::Resolve { host: (*name).to_owned(), source };
            let looking = tokio::time::timeout(timeout, resolver.lookup(name)).await;
            looking
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer"))
                .and_then(|found| found)
                .map_err(unresolved)?
        }
    };
    policy.reachable(&host.to_string(), &found, port)
}

//! From a name to the addresses it has: the machine's resolver, or another one.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;

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

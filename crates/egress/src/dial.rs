//! TCP connections for protocols other than HTTP, under the same policy.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use url::Host;

use crate::error::EgressError;
use crate::policy::Policy;
use crate::resolver::{self, Resolver};

/// A peer that is gone is noticed after about a minute of silence, also where only its answers are waited for.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// Dials what a [`Policy`] allows. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    policy: Policy,
    resolver: Arc<dyn Resolver>,
}

impl Dialer {
    pub(crate) fn new(policy: Policy, resolver: Arc<dyn Resolver>) -> Self {
        Self { policy, resolver }
    }

    /// Connects to `host`, a name or an address in any of its spellings, and `port`. The name is resolved once; its addresses
    /// that may be reached are tried one after the other.
    ///
    /// `timeout` is for the resolver, and then for all of these tries together.
    ///
    /// # Errors
    /// [`EgressError`]; `Denied` when none of the addresses may be reached.
    pub async fn connect(&self, host: &str, port: u16, timeout: Duration) -> Result<TcpStream, EgressError> {
        let host = parse(host)?;
        let named = match &host {
            Host::Domain(name) => Host::Domain(name.as_str()),
            Host::Ipv4(address) => Host::Ipv4(*address),
            Host::Ipv6(address) => Host::Ipv6(*address),
        };
        let addresses = resolver::resolve(&self.policy, &*self.resolver, &named, port, timeout).await?;
        let shown = format!("{host}:{port}");
        match tokio::time::timeout(timeout, first_of(&addresses)).await {
            Err(_) => Err(EgressError::Unanswered { peer: shown, timeout }),
            Ok(Err(source)) => Err(EgressError::Dial { peer: shown, source }),
            Ok(Ok(stream)) => Ok(stream),
        }
    }
}

/// The host that a text names, an address for what machines take for one.
fn parse(text: &str) -> Result<Host<String>, EgressError> {
    // Without the brackets that it has in URLs.
    if let Ok(address) = text.parse() {
        return Ok(Host::Ipv6(address));
    }
    Host::parse(text).map_err(|_| EgressError::Url { url: text.to_owned(), reason: "it is no host name" })
}

/// The connection to the first of these that takes one.
pub(crate) async fn first_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    for address in addresses {
        let connected = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new()
                .with_time(KEEPALIVE)
                .with_interval(KEEPALIVE_INTERVAL)
                .with_retries(KEEPALIVE_RETRIES);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(stream)
        };
        match connected.await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

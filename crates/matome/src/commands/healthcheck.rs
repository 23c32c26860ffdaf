//! `matome healthcheck`: whether a server is ready, for containers. No token, no output but the reason.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::cli::HealthcheckArgs;
use crate::failure::{Exit, Failure, said};
use crate::message::Message;

/// The server's own check takes two seconds at most.
const LIMIT: Duration = Duration::from_secs(5);

pub async fn run(args: HealthcheckArgs) -> Result<(), Failure> {
    let base = args.url.unwrap_or_else(|| format!("http://{}", reachable(args.bind)));
    let url = format!("{}/readyz", base.trim_end_matches('/').trim_end_matches("/readyz"));
    let failed =
        |url: &str| Failure::new(Exit::Failed, Message::NotReady { url: url.to_owned() }).help(Message::SeeLog);
    let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build();
    let client = client.map_err(|err| failed(&url).because(&err))?;
    let answer = client.get(&url).send().await.map_err(|err| failed(&url).because(&err))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = answer.text().await.unwrap_or_default();
    Err(failed(&url).why(said(format!("{status} {body}"))))
}

/// The address at which a server that listens everywhere is reached from here.
fn reachable(bind: SocketAddr) -> SocketAddr {
    let ip = match bind.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, bind.port())
}

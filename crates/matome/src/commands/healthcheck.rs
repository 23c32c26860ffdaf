//! `matome healthcheck`: whether a process is ready, for containers. No token, no output but the reason.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::HealthcheckArgs;
use crate::failure::{Exit, Failure, said};
use crate::message::Message;
use crate::role::HEALTH_DIR;

/// The server's own check takes two seconds at most.
const LIMIT: Duration = Duration::from_secs(5);

pub async fn run(args: HealthcheckArgs) -> Result<(), Failure> {
    let sockets = if args.url.is_none() { sockets(&args.data_dir.join(HEALTH_DIR)).await } else { Vec::new() };
    for socket in &sockets {
        let name = socket.display().to_string();
        ask(client().unix_socket(socket.clone()), "http://localhost", &name).await?;
    }
    if sockets.is_empty() {
        let is_tls = args.tls_cert_file.is_some_and(|file| !file.as_os_str().is_empty());
        let scheme = if is_tls { "https" } else { "http" };
        // The server beside it is asked by address, and nothing secret is said: its name does not matter.
        let client =
            if is_tls && args.url.is_none() { client().tls_danger_accept_invalid_certs(true) } else { client() };
        let base = args.url.unwrap_or_else(|| format!("{scheme}://{}", reachable(args.bind)));
        let base = base.trim_end_matches('/').trim_end_matches("/readyz");
        ask(client, base, &format!("{base}/readyz")).await?;
    }
    Ok(())
}

fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().timeout(LIMIT)
}

async fn ask(client: reqwest::ClientBuilder, base: &str, name: &str) -> Result<(), Failure> {
    let failed = || Failure::new(Exit::Failed, Message::NotReady { url: name.to_owned() }).help(Message::SeeLog);
    let client = client.build().map_err(|err| failed().because(&err))?;
    let answer = client.get(format!("{base}/readyz")).send().await.map_err(|err| failed().because(&err))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = answer.text().await.unwrap_or_default();
    Err(failed().why(said(format!("{status} {body}"))))
}

/// The sockets of processes that live; one that was killed leaves a socket behind at which nobody listens.
async fn sockets(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut sockets: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect();
    sockets.sort_unstable();
    let mut live = Vec::new();
    for socket in sockets {
        let connected = tokio::time::timeout(LIMIT, tokio::net::UnixStream::connect(&socket)).await;
        if !matches!(connected, Ok(Err(_))) {
            live.push(socket);
        }
    }
    live
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

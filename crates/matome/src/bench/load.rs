//! A small HTTP client that costs little beside the server it asks: one request after the other on connections that
//! stay open.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::target::failed;
use super::usage::percentile;
use crate::failure::Failure;

/// What a load found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub requests: u64,
    pub per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    /// Bytes of one answer's body.
    pub body: usize,
}

/// Asks for `path` for `time` on `connections` connections at once.
pub async fn get(base: &str, token: &str, path: &str, connections: usize, time: Duration) -> Result<Found, Failure> {
    let address = base.trim_start_matches("http://").to_owned();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nAccept: application/json\r\n\r\n"
    );
    // Plans and pages are warm before the clock starts.
    one_connection(&address, &request, Duration::ZERO).await?;
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..connections {
        let (address, request) = (address.clone(), request.clone());
        running.spawn(async move { one_connection(&address, &request, time).await });
    }
    let (mut took, mut body) = (Vec::new(), 0);
    while let Some(done) = running.join_next().await {
        let (times, size) = done.map_err(failed)??;
        took.extend(times);
        body = size;
    }
    let wall = started.elapsed();
    took.sort_unstable();
    let requests = u64::try_from(took.len()).unwrap_or(u64::MAX);
    let per_second = super::peer::per_second(requests, wall);
    Ok(Found { requests, per_second, p50: percentile(&took, 0.5), p99: percentile(&took, 0.99), body })
}

/// At least one request; then more until `time` is over.
async fn one_connection(address: &str, request: &str, time: Duration) -> Result<(Vec<Duration>, usize), Failure> {
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let started = Instant::now();
    let (mut took, mut size, mut buffer) = (Vec::new(), 0, Vec::with_capacity(64 << 10));
    while took.is_empty() || started.elapsed() < time {
        let asked = Instant::now();
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        size = answer(&mut stream, &mut buffer).await?;
        took.push(asked.elapsed());
    }
    Ok((took, size))
}

/// Reads one answer; returns the length of its body.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<usize, Failure> {
    buffer.clear();
    let head = loop {
        if stream.read_buf(buffer).await.map_err(failed)? == 0 {
            return Err(failed("the server closed the connection"));
        }
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    if !text.starts_with("http/1.1 200") {
        return Err(failed(format!("the server answered `{}`", text.lines().next().unwrap_or_default())));
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let Some(length) = length else { return Err(failed("an answer without a length")) };
    while buffer.len() < head + length {
        if stream.read_buf(buffer).await.map_err(failed)? == 0 {
            return Err(failed("the server closed the connection"));
        }
    }
    Ok(length)
}

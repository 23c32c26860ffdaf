//! Lists over HTTP on loopback: requests a second, and how long one takes.

use super::celery::Redis;
use super::figure::{Budget, Figure};
use super::load;
use super::target::{Server, Target};
use super::usage::Meter;
use super::{Bench, say};
use crate::failure::Failure;

const GROUP: &str = "list";
/// Connections of the load; each waits for its answer before it asks again.
const CONNECTIONS: usize = 8;
/// Sources in the list of sources.
const SOURCES: usize = 20;
/// 100 and 20 times what Django + DRF + gunicorn reach on such a machine (22 and 410 a second), design.md §12.
const RECORDS_PER_SECOND: f64 = 2_200.0;
const SOURCES_PER_SECOND: f64 = 8_200.0;

/// A result of many rows, of which a filter must be counted.
const RESULT: &str = "select order_id, max(quantity) as quantity from orders group by order_id";

/// The lists of a server that holds the data of an ingest.
pub async fn run(bench: &mut Bench, target: &Target, server: &Server, redis: Option<&Redis>) -> Result<(), Failure> {
    say(format_args!("{}: lists", target.name));
    let path = "/api/acquisition/data/";
    let total = bench.sizes.count(super::data::Kind::Orders) + bench.sizes.count(super::data::Kind::Events);
    let what = format!("list of 20 records of {total}, with count");
    list(bench, target, server, path, what, Some(RECORDS_PER_SECOND)).await?;

    for n in 2..SOURCES {
        server.file_source(&format!("source {n}"), "orders.csv", "csv").await?;
    }
    let path = "/api/acquisition/sources/";
    list(bench, target, server, path, format!("list of {SOURCES} sources"), Some(SOURCES_PER_SECOND)).await?;
    results(bench, target, server, redis).await
}

/// Rows of a result whose number is counted for each answer, and the same where answers are kept in Redis.
async fn results(bench: &mut Bench, target: &Target, server: &Server, redis: Option<&Redis>) -> Result<(), Failure> {
    let id = server.aggregation("orders by id", RESULT).await?;
    server.run("aggregation", id).await?;
    let path = format!("/api/aggregation/data/?source={id}&id__gt=0");
    let rows = server.send("GET", &path, None).await?["count"].as_u64().unwrap_or(0);
    let what = format!("list of 20 of {rows} rows of a result, counted");
    list(bench, target, server, &path, what.clone(), None).await?;
    if target.database_url.is_none() {
        return Ok(());
    }
    let Some(redis) = redis else {
        say(format_args!("redis-server is not here: no figure of kept answers"));
        return Ok(());
    };
    let beside = target.serve_beside(&bench.files(), &redis.url()).await?;
    list(bench, target, &beside, &path, format!("{what}; kept in Redis"), None).await
}

async fn list(
    bench: &mut Bench,
    target: &Target,
    server: &Server,
    path: &str,
    what: String,
    budget: Option<f64>,
) -> Result<(), Failure> {
    let meter = Meter::start(server.pid(), target.server_pid);
    let found = load::get(&server.base, &server.token, path, CONNECTIONS, bench.sizes.load).await?;
    let usage = meter.end();
    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    let cpu_each = usage.cpu.map(|cpu| cpu * 1e6 / found.requests as f64);
    let note = format!(
        "{CONNECTIONS} connections, p50 {:.2} ms, p99 {:.2} ms, body {} bytes, {:.0} us of CPU each",
        found.p50.as_secs_f64() * 1e3,
        found.p99.as_secs_f64() * 1e3,
        found.body,
        cpu_each.unwrap_or(0.0),
    );
    let figure = Figure::new(GROUP, what, found.per_second, "requests/s").on(target.name).cost(usage).note(note);
    bench.add(match budget {
        Some(least) => figure.budget(Budget::AtLeast(least)),
        None => figure,
    });
    Ok(())
}

//! Removing stored records: how fast it goes, and how long somebody else's write waits meanwhile. On SQLite there is one
//! writer, so the longest wait is about the longest time that a batch holds it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::data::Kind;
use super::figure::{Budget, Figure};
use super::peer::per_second;
use super::target::{Server, Target, failed};
use super::usage::{Meter, percentile};
use super::{Bench, say};
use crate::failure::Failure;

const GROUP: &str = "remove";
/// Writes on an idle server, to compare with.
const WRITES_BEFORE: usize = 200;
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(5);
/// So many writes between two looks at what is left.
const WRITES_A_LOOK: usize = 10;
/// What a write may wait beside background work: half of what people notice.
const WAIT_MS: f64 = 50.0;
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Removes what an ingest stored of the orders; they are gone afterwards.
pub async fn run(bench: &mut Bench, target: &Target, server: &Server) -> Result<(), Failure> {
    let count = bench.sizes.count(Kind::Orders);
    say(format_args!("{}: removing {count} records", target.name));
    let found = server.send("GET", "/api/acquisition/sources/?name=orders", None).await?;
    let orders = found["results"][0]["id"].as_i64().ok_or_else(|| failed("the orders are not there"))?;
    let beside = server.file_source("beside", "orders.csv", "csv").await?;
    let mut before = Vec::with_capacity(WRITES_BEFORE);
    for n in 0..WRITES_BEFORE {
        before.push(write(server, beside, n).await?);
    }

    let (mut during, started) = (Vec::new(), Instant::now());
    let meter = Meter::start(server.pid(), target.server_pid);
    server.send("POST", &format!("/api/acquisition/sources/{orders}/reset/"), Some(json!({"data": true}))).await?;
    let left = format!("/api/acquisition/data/?source={orders}&page_size=1");
    while server.send("GET", &left, None).await?["count"] != 0 {
        for n in 0..WRITES_A_LOOK {
            during.push(write(server, beside, n).await?);
        }
        if started.elapsed() > PATIENCE {
            return Err(failed("the removal does not end"));
        }
    }
    let usage = meter.end();

    bench.add(
        Figure::new(GROUP, format!("{count} records removed"), per_second(count, usage.wall), "rows/s")
            .on(target.name)
            .cost(usage),
    );
    before.sort_unstable();
    during.sort_unstable();
    let ms = |times: &[Duration], share| percentile(times, share).as_secs_f64() * 1e3;
    bench.add(
        Figure::new(GROUP, "a write beside it, p99", ms(&during, 0.99), "ms")
            .on(target.name)
            .budget(Budget::AtMost(WAIT_MS))
            .note(format!(
                "p50 {:.1} ms, longest {:.1} ms of {} writes; before it p50 {:.1} ms, p99 {:.1} ms",
                ms(&during, 0.5),
                ms(&during, 1.0),
                during.len(),
                ms(&before, 0.5),
                ms(&before, 0.99),
            )),
    );
    Ok(())
}

/// Changes a source; how long that took.
async fn write(server: &Server, source: i64, n: usize) -> Result<Duration, Failure> {
    tokio::time::sleep(PAUSE).await;
    let started = Instant::now();
    let body = json!({ "description": format!("written {n} times") });
    server.send("PATCH", &format!("/api/acquisition/sources/{source}/"), Some(body)).await?;
    Ok(started.elapsed())
}

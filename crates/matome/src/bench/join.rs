//! Join and group over the raw records of an ingest.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::data;
use super::figure::{Budget, Figure, Peer};
use super::target::{Server, Target, failed};
use super::usage::{self, Meter, Usage};
use super::{Bench, say};
use crate::failure::Failure;

const SQL: &str = "\
select c.segment, o.region, count(*) as orders, sum(cast(o.quantity as bigint) * cast(o.unit_price as double)) as total
from orders o join customers c on c.customer_id = o.customer_id
group by c.segment, o.region
order by c.segment, o.region";

const DUCKDB: &str = "\
select c.segment, o.region, count(*) as orders, sum(cast(o.quantity as bigint) * cast(o.unit_price as double)) as total
from read_csv('orders.csv', all_varchar = true) o join read_csv('customers.csv', all_varchar = true) c
on c.customer_id = o.customer_id group by c.segment, o.region order by c.segment, o.region";

/// On a server that holds the orders.
pub async fn run(bench: &mut Bench, target: &Target, server: &Server) -> Result<(), Failure> {
    say(format_args!("{}: join and group", target.name));
    data::write_customers(&bench.files().join("customers.csv")).map_err(failed)?;
    let customers = server.file_source("customers", "customers.csv", "csv").await?;
    server.run("acquisition", customers).await?;
    let aggregation = server.aggregation("orders by segment and region", SQL).await?;
    let meter = Meter::start(server.pid(), target.server_pid);
    let result = server.run("aggregation", aggregation).await?;
    let usage = meter.end();
    let peer = duckdb(&bench.files())?;
    let note = if peer.is_some() {
        "cold; DuckDB reads the CSV file itself".to_owned()
    } else {
        "cold; DuckDB is not here (0.91 s on NDJSON in design.md); the columnar cache comes later".to_owned()
    };
    let note = format!("{note}; result {result}");
    let count = bench.sizes.count(data::Kind::Orders);
    bench.add(
        Figure::new("join", format!("join and group over {count} records"), usage.wall.as_secs_f64(), "s")
            .on(target.name)
            .budget(Budget::AtMost(peer.as_ref().map_or(0.91, |peer| peer.value)))
            .beside(peer)
            .cost(usage)
            .note(note),
    );
    Ok(())
}

/// The command line tool of DuckDB, where there is one.
fn duckdb(files: &Path) -> Result<Option<Peer>, Failure> {
    let before = usage::cpu_seconds_of_ended_children();
    let started = Instant::now();
    let mut command = Command::new("duckdb");
    let spawned = command.args(["-c", DUCKDB]).current_dir(files).stdin(Stdio::null()).output();
    let output = match spawned {
        Ok(output) => output,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(failed(err)),
    };
    if !output.status.success() {
        return Err(failed(format!("duckdb: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let wall: Duration = started.elapsed();
    let cpu = usage::cpu_seconds_of_ended_children().zip(before).map(|(end, begun)| end - begun);
    Ok(Some(Peer { name: "DuckDB", value: wall.as_secs_f64(), usage: Usage { wall, cpu, peak_mib: None } }))
}

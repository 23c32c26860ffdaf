//! Join and group over the raw records of an ingest.

use std::path::Path;
use std::process::{Command, Stdio};

use super::data;
use super::figure::{Budget, Figure, Peer};
use super::target::{Server, Target, failed};
use super::usage::{Children, Meter, Usage};
use super::{Bench, peer, say};
use crate::failure::Failure;

const SQL: &str = "\
select c.segment, o.region, count(*) as orders, sum(cast(o.quantity as bigint) * cast(o.unit_price as double)) as total
from orders o join customers c on c.customer_id = o.customer_id
group by c.segment, o.region
order by c.segment, o.region";

/// What DuckDB did on a machine of this kind, for where it is not installed (design.md §12): NDJSON and Parquet.
const DUCKDB_SECONDS: (f64, f64) = (0.91, 0.34);

/// On a server that holds the orders.
pub async fn run(bench: &mut Bench, target: &Target, server: &Server) -> Result<(), Failure> {
    say(format_args!("{}: join and group", target.name));
    let files = bench.files();
    data::write_customers(&files.join("customers.csv")).map_err(failed)?;
    let customers = server.file_source("customers", "customers.csv", "csv").await?;
    server.run("acquisition", customers).await?;
    let aggregation = server.aggregation("orders by segment and region", SQL).await?;
    let count = bench.sizes.count(data::Kind::Orders);

    let cold = aggregate(target, server, aggregation).await?;
    data::write_json_file(&files.join("orders.ndjson"), data::Kind::Orders, 1, count).map_err(failed)?;
    let on_json = duckdb(&files, "DuckDB on NDJSON", &statement("read_json('orders.ndjson')")).await?;
    // The peer of a second run reads columns that it prepared before, as the columnar cache will.
    let prepare = "copy (select * from read_json('orders.ndjson')) to 'orders.parquet' (format parquet)";
    duckdb(&files, "DuckDB", prepare).await?;
    let again = aggregate(target, server, aggregation).await?;
    let on_parquet = duckdb(&files, "DuckDB on Parquet", &statement("read_parquet('orders.parquet')")).await?;
    for file in ["orders.ndjson", "orders.parquet"] {
        let _ = std::fs::remove_file(files.join(file));
    }
    let runs = [("first run", cold, on_json, DUCKDB_SECONDS.0), ("run again", again, on_parquet, DUCKDB_SECONDS.1)];
    for (which, (usage, note), peer, seconds) in runs {
        let note = if peer.is_some() { note } else { format!("{note}; duckdb is not here") };
        bench.add(
            Figure::new("join", format!("join and group over {count} records, {which}"), usage.wall.as_secs_f64(), "s")
                .on(target.name)
                .budget(Budget::AtMost(peer.as_ref().map_or(seconds, |peer| peer.value)))
                .beside(peer)
                .cost(usage)
                .note(note),
        );
    }
    Ok(())
}

/// Runs the aggregation; what it cost, and what became of it.
async fn aggregate(target: &Target, server: &Server, aggregation: i64) -> Result<(Usage, String), Failure> {
    let (meter, children) = (Meter::start(server.pid(), target.server_pid), Children::watch(server.pid()));
    let result = server.run("aggregation", aggregation).await?;
    let usage = meter.end();
    let of_child = children.peak_mib().map_or_else(|| "?".to_owned(), |mib| format!("{mib:.0} MiB"));
    Ok((usage, format!("no columnar cache yet; engine child's peak {of_child}; result {result}")))
}

fn statement(orders: &str) -> String {
    let customers = "read_csv('customers.csv', all_varchar = true)";
    SQL.replace("from orders o join customers c", &format!("from {orders} o join {customers} c"))
}

/// The command line tool of DuckDB, where there is one.
async fn duckdb(files: &Path, name: &'static str, sql: &str) -> Result<Option<Peer>, Failure> {
    let mut command = Command::new("duckdb");
    command.args(["-c", sql]).current_dir(files).stdin(Stdio::null());
    let usage = peer::run(command, None).await?;
    Ok(usage.map(|usage| Peer { name, value: usage.wall.as_secs_f64(), usage }))
}

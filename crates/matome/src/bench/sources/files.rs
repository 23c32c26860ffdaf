//! Files into matome on SQLite, beside DuckDB that makes a table of its own file of them. It does less: what it keeps are columns,
//! without the record as it was, hashes, versions or indexes. So there is no budget.

use super::{figure, peers};
use crate::bench::data::Kind;
use crate::bench::target::Target;
use crate::bench::{Bench, ingest, say};
use crate::failure::Failure;

/// Name of the file, what its rows are called, and how DuckDB reads it.
const FILES: [(&str, Kind, &str, &str); 3] = [
    ("orders.csv", Kind::Orders, "CSV rows", "read_csv"),
    ("events.ndjson", Kind::Events, "NDJSON records of 1 KB", "read_json"),
    (PARQUET, Kind::Orders, "Parquet rows", "read_parquet"),
];
const PARQUET: &str = "orders.parquet";

pub async fn run(bench: &mut Bench) -> Result<(), Failure> {
    let target = Target::sqlite(&bench.scratch, "files");
    let server = ingest::serve(bench, &target).await?;
    for (file, kind, rows, reader) in FILES {
        let (path, count) = (bench.files().join(file), bench.sizes.count(kind));
        if file == PARQUET && !make_parquet(bench, count).await? {
            say(format_args!("no Parquet file without DuckDB, which makes it"));
            continue;
        }
        say(format_args!("sqlite: {count} {rows}"));
        let source =
            server.file_source(file, file, path.extension().and_then(|name| name.to_str()).unwrap_or("")).await?;
        let usage = ingest::read(&target, &server, source, count).await?;
        say(format_args!("sqlite: {count} {rows}: DuckDB"));
        let statement = format!("create table loaded as from {reader}('{}')", path.display());
        let duckdb = peers::duckdb(bench.scratch.path(), &statement, count).await?;
        let note = if duckdb.is_some() { "DuckDB keeps columns only" } else { "DuckDB is not here" };
        bench.add(figure(&format!("{count} {rows}"), &target, count, usage).beside(duckdb).note(note));
    }
    drop(server);
    target.remove(None).await
}

/// Makes a Parquet file of the orders with DuckDB; whether that is here.
async fn make_parquet(bench: &Bench, count: u64) -> Result<bool, Failure> {
    let files = bench.files();
    let (from, to) = (files.join("orders.csv"), files.join(PARQUET));
    let statement = format!(
        "create table loaded as from read_csv('{}'); copy loaded to '{}' (format parquet)",
        from.display(),
        to.display()
    );
    Ok(peers::duckdb(bench.scratch.path(), &statement, count).await?.is_some())
}

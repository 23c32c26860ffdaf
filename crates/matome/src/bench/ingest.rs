//! Ingest: the product reads a file from nothing to stored, its peer stores ready rows in the same tables.

use std::path::Path;

use serde_json::Value;

use super::data::{self, Kind};
use super::figure::{Budget, Figure, Peer};
use super::peer::{self, per_second};
use super::target::{Server, Target, failed};
use super::usage::{Meter, Usage};
use super::{Bench, say};
use crate::failure::Failure;

const GROUP: &str = "ingest";
/// design.md §12.
const SHARE_OF_PEER: f64 = 0.8;
const MEMORY_MIB: f64 = 256.0;
/// The data of the figures; rows of a peer in the same table come from another one.
const SEED: u64 = 1;
const PEER_SEED: u64 = 2;
const FILL_SEED: u64 = 3;
const WARM_SEED: u64 = 4;

/// Both kinds on one target, each beside its peer on another one; leaves the server with the data.
pub async fn run(bench: &mut Bench, target: &Target, peer_target: &Target) -> Result<Server, Failure> {
    let server = serve(bench, target).await?;
    for kind in [Kind::Orders, Kind::Events] {
        let count = bench.sizes.count(kind);
        say(format_args!("{}: {count} records of {}", target.name, kind.file_name()));
        let source = source(&server, kind, kind.file_name()).await?;
        let first = read(target, &server, source, count).await?;
        let again = read(target, &server, source, count).await?;
        say(format_args!("{}: the peer", target.name));
        let peer = peer(bench, peer_target, kind, SEED, count).await?;
        let size = match kind {
            Kind::Orders => "CSV rows",
            Kind::Events => "NDJSON records of 1 KB",
        };
        bench.add(figure(format!("{count} {size}, first load"), target, count, first, peer.clone()));
        bench.add(figure(format!("{count} {size}, read again"), target, count, again, peer));
    }
    Ok(server)
}

/// The same data without figures, for what needs it loaded.
pub async fn load(bench: &Bench, target: &Target) -> Result<Server, Failure> {
    let server = serve(bench, target).await?;
    for kind in [Kind::Orders, Kind::Events] {
        say(format_args!("{}: loading {} records of {}", target.name, bench.sizes.count(kind), kind.file_name()));
        let source = source(&server, kind, kind.file_name()).await?;
        server.run("acquisition", source).await?;
    }
    Ok(server)
}

/// The product on `target`, with the files of both kinds beneath its file root.
pub async fn serve(bench: &Bench, target: &Target) -> Result<Server, Failure> {
    target.migrate()?;
    for kind in [Kind::Orders, Kind::Events] {
        let file = bench.files().join(kind.file_name());
        if !file.exists() {
            let count = bench.sizes.count(kind);
            data::write_file(&file, kind, SEED, count).map_err(failed)?;
        }
    }
    target.serve(&bench.files()).await
}

async fn source(server: &Server, kind: Kind, file: &str) -> Result<i64, Failure> {
    match kind {
        Kind::Orders => server.file_source("orders", file, "csv").await,
        Kind::Events => server.file_source("events", file, "ndjson").await,
    }
}

/// Reads a source to its end and sees to it that each record was met. A machine that stands still for long makes an
/// attempt be repeated; then some were met twice, which is said and part of the figure.
pub async fn read(target: &Target, server: &Server, source: i64, count: u64) -> Result<Usage, Failure> {
    let meter = Meter::start(server.pid(), target.server_pid);
    let result = server.run("acquisition", source).await?;
    let usage = meter.end();
    let number = |name: &str| result.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (read, stored) = (number("read"), number("stored"));
    if read > count {
        say(format_args!("{}: an attempt was repeated: {read} records were read instead of {count}", target.name));
    }
    if read < count || stored > count || number("quarantined") != 0 || stored + number("duplicate") != read {
        return Err(failed(format!("{count} records were there, and the task says {result}")));
    }
    Ok(usage)
}

async fn peer(bench: &Bench, on: &Target, kind: Kind, seed: u64, count: u64) -> Result<Peer, Failure> {
    let db = on.open().await?;
    let source_id = peer::source(&db, &format!("peer {kind:?} {seed}")).await?;
    let peer = if on.database_url.is_some() {
        let file = bench.files().join("ready.copy");
        data::write_copy_file(&file, kind, seed, source_id, count).map_err(failed)?;
        let peer = peer::copy(on, &db, &file, count).await?;
        std::fs::remove_file(&file).map_err(failed)?;
        peer
    } else {
        peer::bare_insert(&db, kind, seed, source_id, count).await?
    };
    db.close().await;
    Ok(peer)
}

fn figure(what: String, target: &Target, count: u64, usage: Usage, peer: Peer) -> Figure {
    Figure::new(GROUP, what, per_second(count, usage.wall), "rows/s")
        .on(target.name)
        .beside(Some(peer))
        .budget(Budget::OfPeer(SHARE_OF_PEER))
        .cost(usage)
}

/// Both kinds into a table that is full already, and the peer into the same.
pub async fn on_full_table(bench: &mut Bench, target: &Target) -> Result<(), Failure> {
    let rows = bench.sizes.full_rows;
    say(format_args!("{}: filling the table with {rows} rows", target.name));
    fill(target, rows).await?;
    // Whoever stores into it first would find its indexes on the disk, and the other one in memory.
    for kind in [Kind::Orders, Kind::Events] {
        peer(bench, target, kind, WARM_SEED, bench.sizes.count(kind) / 5).await?;
    }
    let server = serve(bench, target).await?;
    let mut reads = Vec::new();
    for kind in [Kind::Orders, Kind::Events] {
        let count = bench.sizes.count(kind) / 5;
        let file = format!("full-{}", kind.file_name());
        data::write_file(&bench.files().join(&file), kind, FILL_SEED, count).map_err(failed)?;
        say(format_args!("{}: {count} records of {file}", target.name));
        let source = source(&server, kind, &file).await?;
        let first = read(target, &server, source, count).await?;
        let again = read(target, &server, source, count).await?;
        reads.push((kind, count, first, again));
    }
    drop(server);
    for (kind, count, first, again) in reads {
        let peer = peer(bench, target, kind, PEER_SEED, count).await?;
        let what = format!("{count} of {} at {rows} rows", kind.file_name());
        bench.add(figure(format!("{what}, first load"), target, count, first, peer.clone()));
        bench.add(figure(format!("{what}, read again"), target, count, again, peer));
    }
    Ok(())
}

/// Rows of a source of their own, with random keys, through the database itself; the indexes are made afterwards.
async fn fill(target: &Target, rows: u64) -> Result<(), Failure> {
    let db = target.open().await?;
    let source_id = peer::source(&db, "older rows").await?;
    let sqlite = db.dialect() == matome_store::db::Dialect::Sqlite;
    let indexes = if sqlite { INDEXES_SQLITE } else { INDEXES_POSTGRES };
    let (names, texts): (Vec<String>, Vec<String>) = {
        let mut reader = db.read().await?;
        let found = reader.conn().fetch_all(indexes, &[]).await?;
        let row = |row: &matome_store::db::Row| Ok((row.text("name")?, row.text("sql")?));
        let found: Result<Vec<_>, matome_store::error::StoreError> = found.iter().map(row).collect();
        found?.into_iter().unzip()
    };
    let drop_all = names.iter().map(|name| format!("drop index {name};")).collect::<String>();
    db.write(move |conn| Box::pin(async move { conn.execute_script(drop_all).await })).await?;
    let insert = if sqlite { FILL_SQLITE } else { FILL_POSTGRES };
    let mut done = 0;
    while done < rows {
        let count = i64::try_from((rows - done).min(500_000)).unwrap_or(0);
        db.write(move |conn| Box::pin(async move { conn.execute(insert, &[source_id.into(), count.into()]).await }))
            .await?;
        done += 500_000;
    }
    for text in texts {
        db.write(move |conn| Box::pin(async move { conn.execute_script(text).await })).await?;
    }
    if !sqlite {
        db.read().await?.conn().execute_script("vacuum analyze acquired_data".to_owned()).await?;
    }
    db.close().await;
    Ok(())
}

const INDEXES_SQLITE: &str =
    "select name, sql from sqlite_schema where type = 'index' and tbl_name = 'acquired_data' and sql is not null";
const INDEXES_POSTGRES: &str = "select indexname::text as name, indexdef as sql from pg_indexes
where tablename = 'acquired_data' and indexname <> 'acquired_data_pkey'";

const FILL_SQLITE: &str = "with recursive n (i) as (select 1 union all select i + 1 from n where i < $2)
insert into acquired_data (source_id, raw_data, metadata, data_hash, key_hash)
select $1, '{\"fill\":\"' || hex(randomblob(48)) || '\"}', '{\"document\":\"older.csv\"}', lower(hex(randomblob(32))), randomblob(16)
from n";
const FILL_POSTGRES: &str = "insert into acquired_data (source_id, raw_data, metadata, data_hash, key_hash)
select $1, jsonb_build_object('fill', h || h || h), '{\"document\":\"older.csv\"}', h || md5(h), decode(md5(h || 'k'), 'hex')
from (select md5(random()::text || i::text) as h from generate_series(1, $2) i) s";

/// Peak memory while a file of so many bytes is read.
pub async fn memory(bench: &mut Bench, target: &Target, bytes: u64) -> Result<(), Failure> {
    let mib = bytes >> 20;
    say(format_args!("{}: memory of a file of {mib} MiB", target.name));
    target.migrate()?;
    let file = bench.files().join("large.ndjson");
    let count = data::write_file_of(&file, Kind::Events, SEED, bytes).map_err(failed)?;
    let server = target.serve(&bench.files()).await?;
    let source = server.file_source("large", "large.ndjson", "ndjson").await?;
    let usage = read(target, &server, source, count).await?;
    drop(server);
    remove(&file)?;
    bench.add(
        Figure::new("memory", format!("peak while reading a file of {mib} MiB"), usage.peak_mib.unwrap_or(0.0), "MiB")
            .on(target.name)
            .budget(Budget::AtMost(MEMORY_MIB))
            .cost(usage),
    );
    Ok(())
}

fn remove(file: &Path) -> Result<(), Failure> {
    std::fs::remove_file(file).map_err(failed)
}

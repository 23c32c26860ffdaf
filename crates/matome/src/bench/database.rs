//! A table of a PostgreSQL server from there to stored in another of its databases, beside `psql` that pipes ready rows from one
//! to the other.

use std::path::Path;
use std::process::Command;

use matome_store::db::Db;
use serde_json::json;
use url::Url;

use super::data::{self, COPY_COLUMNS, Kind};
use super::figure::{Budget, Figure, Peer};
use super::target::{Server, Target, failed};
use super::usage::Usage;
use super::{Bench, ingest, peer, say};
use crate::database_url::take_password;
use crate::failure::Failure;

const GROUP: &str = "database";
/// Issue 5, part 1.
const SHARE_OF_PEER: f64 = 0.7;
const SEED: u64 = 1;

/// The tables that are read: columns of the types that such data has in a database.
const TABLES: &str = "create table orders (order_id text primary key, customer_id text, ordered_at timestamptz, region text, sku text,
    quantity integer, unit_price numeric(12, 2), status text, note text);
create table lines (line jsonb);
create table ready (source_id bigint, stream text, raw_data jsonb, metadata jsonb, data_hash text, acquired_at timestamptz, key_hash bytea)";
const EVENTS: &str = "create table events as select line ->> 'event_id' as event_id, (line ->> 'seq')::bigint as seq,
    (line ->> 'at')::timestamptz as at, line -> 'device' as device, line -> 'readings' as readings, line -> 'tags' as tags,
    line ->> 'message' as message, line ->> 'parent' as parent
from lines;
alter table events add primary key (event_id);
drop table lines";
const COPY_ORDERS: &str = "copy orders from stdin (format csv, header)";
// Neither character stands in a line, so that each is one value.
const COPY_LINES: &str = "copy lines from stdin (format csv, delimiter e'\\x01', quote e'\\x02')";

/// Both kinds out of `origin` into `target`, and ready rows out of it into `peer_target`.
pub async fn run(bench: &mut Bench, origin: &Target, target: &Target, peer_target: &Target) -> Result<(), Failure> {
    let Some(url) = origin.database_url.clone() else { return Ok(()) };
    let peer_db = peer_target.open().await?;
    let db = origin.open().await?;
    fill(bench, &db).await?;
    let server = serve(bench, target, &url).await?;
    for kind in [Kind::Orders, Kind::Events] {
        let (count, table) = (bench.sizes.count(kind), table(kind));
        say(format_args!("{}: {count} rows of the table {table}", target.name));
        let source = source(&server, &url, kind).await?;
        let first = ingest::read(target, &server, source, count).await?;
        let again = ingest::read(target, &server, source, count).await?;
        say(format_args!("{}: the peer", target.name));
        let peer = pipe(bench, &db, &url, &peer_db, peer_target, kind).await?;
        bench.add(figure(format!("{count} rows of the table {table}, first load"), target, count, first, peer.clone()));
        bench.add(figure(format!("{count} rows of the table {table}, read again"), target, count, again, peer));
    }
    db.close().await;
    peer_db.close().await;
    Ok(())
}

/// The product on `target`, where it may read from the server of `url`.
pub async fn serve(bench: &Bench, target: &Target, url: &str) -> Result<Server, Failure> {
    target.migrate()?;
    let address: Url = url.parse().map_err(failed)?;
    target.serve_with(&bench.files(), &["--egress-allow", address.host_str().unwrap_or_default()]).await
}

/// Defines a source that reads a table of the database at `url`; returns its id.
pub async fn source(server: &Server, url: &str, kind: Kind) -> Result<i64, Failure> {
    let mut address: Url = url.parse().map_err(failed)?;
    let (password, table) = (take_password(&mut address), table(kind));
    let config = json!({ "url": address.as_str(), "password": password, "table": table, "tls": { "mode": "disable" } });
    server.source(table, "database", config).await
}

/// The table that holds data of a kind.
pub fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::Orders => "orders",
        Kind::Events => "events",
    }
}

fn figure(what: String, target: &Target, count: u64, usage: Usage, peer: Option<Peer>) -> Figure {
    let note = if peer.is_some() { "the peer's rows are ready" } else { "psql is not here" };
    Figure::new(GROUP, what, peer::per_second(count, usage.wall), "rows/s")
        .on(target.name)
        .beside(peer)
        .budget(Budget::OfPeer(SHARE_OF_PEER))
        .cost(usage)
        .note(note)
}

/// Makes the tables that are read.
pub async fn fill(bench: &Bench, db: &Db) -> Result<(), Failure> {
    say(format_args!("filling the tables"));
    script(db, TABLES).await?;
    for (kind, copy) in [(Kind::Orders, COPY_ORDERS), (Kind::Events, COPY_LINES)] {
        let file = bench.files().join(kind.file_name());
        data::write_file(&file, kind, SEED, bench.sizes.count(kind)).map_err(failed)?;
        copy_in(db, copy.to_owned(), &file).await?;
    }
    script(db, EVENTS).await?;
    script(db, "analyze").await
}

async fn script(db: &Db, text: &'static str) -> Result<(), Failure> {
    db.read().await?.conn().execute_script(text.to_owned()).await.map_err(failed)
}

async fn copy_in(db: &Db, copy: String, file: &Path) -> Result<(), Failure> {
    let rows = tokio::fs::File::open(file).await.map_err(failed)?;
    db.write(move |conn| Box::pin(async move { conn.copy_in(&copy, rows).await })).await?;
    std::fs::remove_file(file).map_err(failed)
}

/// `psql COPY | psql COPY` of ready rows, in one transaction. Nothing when psql is not here.
async fn pipe(
    bench: &Bench,
    from: &Db,
    from_url: &str,
    to: &Db,
    to_target: &Target,
    kind: Kind,
) -> Result<Option<Peer>, Failure> {
    let count = bench.sizes.count(kind);
    let source_id = peer::source(to, &format!("peer {kind:?}")).await?;
    let file = bench.files().join("ready.copy");
    data::write_copy_file(&file, kind, SEED, source_id, count).map_err(failed)?;
    script(from, "truncate ready").await?;
    copy_in(from, format!("copy ready ({COPY_COLUMNS}) from stdin"), &file).await?;
    script(from, "vacuum analyze ready").await?;
    let Some(to_url) = to_target.database_url.as_ref().filter(|_| peer::is_here("psql")) else { return Ok(None) };
    let (mut from_url, mut to_url): (Url, Url) = (from_url.parse().map_err(failed)?, to_url.parse().map_err(failed)?);
    let password = take_password(&mut from_url);
    take_password(&mut to_url);
    let mut command = Command::new("sh");
    // The password goes through the environment: arguments can be read by everybody on the machine.
    command.args([
        "-c",
        "psql -X -q -v ON_ERROR_STOP=1 -d \"$1\" -c \"$2\" | psql -X -q -v ON_ERROR_STOP=1 -d \"$3\" -c \"$4\"",
    ]);
    command.args(["pipe", from_url.as_str(), &format!("copy ready ({COPY_COLUMNS}) to stdout")]);
    command.args([to_url.as_str(), &format!("copy acquired_data ({COPY_COLUMNS}) from stdin")]);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    let Some(usage) = peer::run(command, to_target.server_pid).await? else { return Ok(None) };
    let sql = "select count(*) as n from acquired_data where source_id = $1";
    let stored = to.read().await?.conn().fetch_one(sql, &[source_id.into()]).await?.int("n")?;
    if u64::try_from(stored) != Ok(count) {
        return Err(failed(format!("{count} ready rows were there, and psql stored {stored}")));
    }
    Ok(Some(Peer { name: "psql COPY | psql COPY", value: peer::per_second(count, usage.wall), usage }))
}

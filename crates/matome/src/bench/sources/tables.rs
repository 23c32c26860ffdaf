//! Tables of a PostgreSQL server into another of its databases: into matome, beside dlt.

use super::peers::{self, Load};
use super::{beside_mover, figure};
use crate::bench::data::Kind;
use crate::bench::{Bench, Place, database, ingest, say};
use crate::failure::Failure;

/// Where `place` is a PostgreSQL server.
pub async fn run(bench: &mut Bench, place: &mut Place<'_>) -> Result<(), Failure> {
    let (origin, target) = (place.target(bench, "origin").await?, place.target(bench, "table").await?);
    let beside = place.target(bench, "dlt").await?;
    let Some(url) = &origin.database_url else { return Ok(()) };
    let db = origin.open().await?;
    database::fill(bench, &db).await?;
    db.close().await;
    let server = database::serve(bench, &target, url).await?;
    for kind in [Kind::Orders, Kind::Events] {
        let (count, table) = (bench.sizes.count(kind), database::table(kind));
        let what = format!("{count} rows of the table {table}");
        say(format_args!("postgres: {what}"));
        let source = database::source(&server, url, kind).await?;
        let usage = ingest::read(&target, &server, source, count).await?;
        say(format_args!("postgres: {what}: dlt"));
        let dlt = peers::dlt(bench.scratch.path(), &beside, Load::Table { url, table }, count).await?;
        let own = figure(&what, &target, count, usage);
        bench.add(match dlt {
            Some(dlt) => beside_mover(own, dlt, "dlt loads the same columns, without hashes or versions"),
            None => own.note("dlt is not here"),
        });
    }
    drop(server);
    for target in [origin, target, beside] {
        place.remove(target).await?;
    }
    Ok(())
}

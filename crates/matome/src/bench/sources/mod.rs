//! Sources beside what people use for them today: a paginated API beside dlt and the Airbyte CDK, tables of PostgreSQL beside
//! dlt, files beside DuckDB. Each peer is the released one, set up as its documentation says for speed, where it is installed
//! (`scripts/install-missing --bench`).

mod api;
mod files;
mod pages;
mod peers;
mod tables;

use super::figure::{Budget, Figure, Peer};
use super::peer::per_second;
use super::target::{Postgres, Target};
use super::tools::{AIRBYTE, DLT, DUCKDB};
use super::usage::Usage;
use super::{Bench, Place, say};
use crate::failure::Failure;

const GROUP: &str = "sources";
/// An order of magnitude faster than dlt and Airbyte (issue 5).
const TIMES_THE_PEER: f64 = 10.0;

/// Everything, on SQLite and on PostgreSQL where there is one.
pub async fn run(bench: &mut Bench, mut postgres: Option<&mut Postgres>) -> Result<(), Failure> {
    for tool in [DLT, AIRBYTE, DUCKDB] {
        if tool.python().is_none() {
            say(format_args!("{} is not here (scripts/install-missing --bench): no peer", tool.name));
        }
    }
    api::run(bench, postgres.as_deref_mut()).await?;
    if let Some(mut place) = Place::of("postgres", postgres) {
        tables::run(bench, &mut place).await?;
    }
    files::run(bench).await
}

/// `count` records of something that cost matome so much.
fn figure(what: &str, target: &Target, count: u64, usage: Usage) -> Figure {
    Figure::new(GROUP, what, per_second(count, usage.wall), "records/s").on(target.name).cost(usage)
}

/// Beside a program that moves records as matome does.
fn beside_mover(figure: Figure, peer: Peer, note: impl Into<String>) -> Figure {
    figure.beside(Some(peer)).budget(Budget::OfPeer(TIMES_THE_PEER)).note(note)
}

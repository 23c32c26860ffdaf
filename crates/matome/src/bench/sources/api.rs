//! A paginated API of the benchmark's own: into matome on both databases, beside dlt and the Airbyte CDK.

use serde_json::json;

use super::pages::Api;
use super::peers::{self, Load};
use super::{beside_mover, figure};
use crate::bench::figure::Peer;
use crate::bench::target::{Postgres, Target, failed};
use crate::bench::usage::Usage;
use crate::bench::{Bench, DATABASES, Place, ingest, say};
use crate::failure::Failure;

const PAGE_SIZES: [usize; 2] = [100, 1_000];

pub async fn run(bench: &mut Bench, mut postgres: Option<&mut Postgres>) -> Result<(), Failure> {
    let count = bench.sizes.json_records;
    let file = bench.scratch.path().join("pages");
    let api = Api::serve(&file, count).await?;
    for size in PAGE_SIZES {
        let list = List { api: &api, size, count, what: format!("{count} records of an API, {size} a page") };
        say(format_args!("{}: Airbyte", list.what));
        let airbyte = list.watched(list.airbyte(bench)).await?;
        for database in DATABASES {
            let Some(mut place) = Place::of(database, postgres.as_deref_mut()) else { continue };
            say(format_args!("{database}: {}", list.what));
            let target = place.target(bench, "api").await?;
            let own = list.watched(list.matome(bench, &target)).await?;
            place.remove(target.clone()).await?;
            say(format_args!("{database}: {}: dlt", list.what));
            let beside = place.target(bench, "dlt").await?;
            let dlt = list.watched(list.dlt(bench, &beside)).await?;
            place.remove(beside).await?;
            list.add_figures(bench, &target, own, dlt, airbyte.clone());
        }
    }
    drop(api);
    std::fs::remove_file(file).map_err(failed)
}

/// The records of the API with pages of one size.
struct List<'a> {
    api: &'a Api,
    size: usize,
    count: u64,
    what: String,
}

impl List<'_> {
    /// Does something, and tells the CPU seconds that the API spent on it.
    async fn watched<T>(&self, reading: impl Future<Output = Result<T, Failure>>) -> Result<(T, f64), Failure> {
        let before = self.api.cpu_seconds();
        let read = reading.await?;
        Ok((read, self.api.cpu_seconds().zip(before).map_or(0.0, |(end, begun)| end - begun)))
    }

    async fn matome(&self, bench: &Bench, target: &Target) -> Result<Usage, Failure> {
        target.migrate()?;
        let server = target.serve_with(&bench.files(), &["--egress-allow", "127.0.0.1"]).await?;
        let config = json!({
            "url": format!("{}/events?size={}", self.api.base(), self.size), "records": "$.results",
            "pagination": { "type": "next_link", "next": "$.next" },
        });
        let source = server.source("events", "api", config).await?;
        ingest::read(target, &server, source, self.count).await
    }

    async fn dlt(&self, bench: &Bench, target: &Target) -> Result<Option<Peer>, Failure> {
        let load = Load::Api { base: &self.api.base(), size: self.size };
        peers::dlt(bench.scratch.path(), target, load, self.count).await
    }

    async fn airbyte(&self, bench: &Bench) -> Result<Option<Peer>, Failure> {
        peers::airbyte(bench.scratch.path(), &self.api.base(), self.size, self.count).await
    }

    /// One figure for each peer that is here, or one without.
    fn add_figures(
        &self,
        bench: &mut Bench,
        target: &Target,
        (usage, of_api): (Usage, f64),
        dlt: (Option<Peer>, f64),
        airbyte: (Option<Peer>, f64),
    ) {
        let own = figure(&self.what, target, self.count, usage);
        let into = if target.database_url.is_some() { "PostgreSQL" } else { "DuckDB" };
        let dlt_does = format!("dlt loads columns into {into} and keeps duplicates");
        let does = [(dlt, dlt_does), (airbyte, "Airbyte only reads, into a pipe".to_owned())];
        let mut is_alone = true;
        for ((peer, of_api_beside), what) in does {
            let Some(peer) = peer else { continue };
            let note = format!("{what}; CPU of the API {of_api:.1} / {of_api_beside:.1} s");
            bench.add(beside_mover(own.clone(), peer, note));
            is_alone = false;
        }
        if is_alone {
            bench.add(own.note(format!("neither dlt nor the Airbyte CDK is here; CPU of the API {of_api:.1} s")));
        }
    }
}

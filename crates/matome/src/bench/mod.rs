//! `matome bench`: the figures of the product, each beside a peer in the same run where there is one.
//!
//! What is measured is the product: this binary runs itself as `serve` in a scratch directory and is asked over HTTP.
//! Only the task engine is driven within this process, because no source is quick enough to show its limit. Data comes
//! from a seed. Figures go to stdout, what is being done to stderr.

mod celery;
mod data;
mod database;
mod figure;
mod ingest;
mod join;
mod lists;
mod load;
mod peer;
mod processes;
mod records;
mod recovery;
mod removal;
mod sources;
mod target;
mod tasks;
mod tools;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{BenchArgs, BenchGroup};
use crate::console::Console;
use crate::failure::Failure;
use crate::message::Message;
use celery::{Celery, Redis};
use data::Kind;
use figure::Figure;
use target::{Postgres, Scratch, Target};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    csv_rows: u64,
    json_records: u64,
    /// Rows that are in the table before, with `--full`; 0: not measured.
    full_rows: u64,
    tasks: u64,
    /// Tasks a second while it is measured how soon one starts.
    pace: u64,
    lanes: u64,
    /// How long a load lasts.
    load: Duration,
    /// How often something short is repeated; the middle one counts.
    times: usize,
    /// Bytes of the files whose reading must not take memory.
    files: &'static [u64],
}

impl Sizes {
    fn of(args: &BenchArgs) -> Self {
        const DEFAULT: &[u64] = &[200 << 20];
        const FULL: &[u64] = &[200 << 20, 400 << 20, 2 << 30];
        let mut sizes = Self {
            csv_rows: 1_000_000,
            json_records: 200_000,
            full_rows: 0,
            tasks: 10_000,
            pace: 500,
            lanes: 100_000,
            load: Duration::from_secs(5),
            times: 9,
            files: DEFAULT,
        };
        if args.quick {
            const QUICK: &[u64] = &[1 << 20];
            sizes = Self {
                csv_rows: 2_000,
                json_records: 400,
                tasks: 400,
                pace: 50,
                lanes: 2_000,
                load: Duration::from_secs(1),
                times: 3,
                files: QUICK,
                ..sizes
            };
        }
        if let Some(rows) = args.full {
            sizes.full_rows = if args.quick { rows.min(5_000) } else { rows };
            sizes.files = if args.quick { sizes.files } else { FULL };
        }
        if let Some(rows) = args.rows {
            (sizes.csv_rows, sizes.json_records) = (rows, (rows / 5).max(1));
        }
        sizes
    }

    /// Whether it is only to be seen that it works.
    fn is_quick(&self) -> bool {
        self.times < 9
    }

    fn count(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Orders => self.csv_rows,
            Kind::Events => self.json_records,
        }
    }
}

/// One run: what to measure, and what was found.
struct Bench {
    sizes: Sizes,
    scratch: Scratch,
    figures: Vec<Figure>,
    /// The peer of tasks, where it is here.
    celery: Option<Celery>,
}

impl Bench {
    fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// The file root of the servers.
    fn files(&self) -> PathBuf {
        self.scratch.path().join("files")
    }
}

/// Runs the groups that were asked for and prints the table.
pub async fn run(args: BenchArgs, console: &Console) -> Result<(), Failure> {
    let mut signals = crate::serve::Signals::catch()?;
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let (sizes, scratch) = (Sizes::of(&args), Scratch::make(&parent)?);
    let mut bench = Bench { sizes, scratch, figures: Vec::new(), celery: None };
    std::fs::create_dir_all(bench.files()).map_err(target::failed)?;
    if cfg!(debug_assertions) {
        say(format_args!("this is a debug build: its figures say nothing about matome"));
    }
    let mut postgres = match &args.database_url {
        Some(url) => Some(Postgres::connect(url).await?),
        None => {
            say(format_args!("no --database-url: SQLite only"));
            None
        }
    };
    let measured = tokio::select! {
        measured = all(&mut bench, &args, postgres.as_mut()) => measured,
        exit = signals.next() => Err(Failure::new(exit, Message::Interrupted)),
    };
    if let Some(postgres) = &mut postgres {
        postgres.clean().await?;
    }
    // What was found before something failed, or before the user had enough, is worth as much as without.
    figure::print(console, &args.output, &bench.figures)?;
    measured
}

async fn all(bench: &mut Bench, args: &BenchArgs, mut postgres: Option<&mut Postgres>) -> Result<(), Failure> {
    let wanted = |group: BenchGroup| args.groups.is_empty() || args.groups.contains(&group);
    let redis = match wanted(BenchGroup::Tasks) || wanted(BenchGroup::List) {
        true => Redis::start(bench.scratch.path()).await?,
        false => None,
    };
    if wanted(BenchGroup::Tasks) {
        bench.celery = celery::run(bench.scratch.path(), redis.as_ref(), &bench.sizes).await?;
    }
    for database in DATABASES.into_iter().filter(|database| !args.skip_sqlite || *database != "sqlite") {
        let Some(mut place) = Place::of(database, postgres.as_deref_mut()) else { continue };
        if wanted(BenchGroup::Start) || wanted(BenchGroup::Memory) {
            let target = place.target(bench, "start").await?;
            processes::serve(bench, &target).await?;
            place.remove(target).await?;
        }
        let on_data = [BenchGroup::Ingest, BenchGroup::List, BenchGroup::Join, BenchGroup::Remove];
        if on_data.into_iter().any(wanted) {
            let target = place.target(bench, "main").await?;
            let server = if wanted(BenchGroup::Ingest) {
                let peer = place.target(bench, "peer").await?;
                let server = ingest::run(bench, &target, &peer).await?;
                place.remove(peer).await?;
                server
            } else {
                ingest::load(bench, &target).await?
            };
            if wanted(BenchGroup::List) {
                lists::run(bench, &target, &server, redis.as_ref()).await?;
            }
            if wanted(BenchGroup::Join) {
                join::run(bench, &target, &server).await?;
            }
            // Last, as the others need the records.
            if wanted(BenchGroup::Remove) {
                removal::run(bench, &target, &server).await?;
            }
            drop(server);
            place.remove(target).await?;
        }
        if wanted(BenchGroup::Ingest) && bench.sizes.full_rows > 0 {
            let target = place.target(bench, "full").await?;
            ingest::on_full_table(bench, &target).await?;
            place.remove(target).await?;
        }
        if wanted(BenchGroup::Database) && database == "postgres" {
            let origin = place.target(bench, "origin").await?;
            let target = place.target(bench, "table").await?;
            let peer = place.target(bench, "pipe").await?;
            database::run(bench, &origin, &target, &peer).await?;
            for target in [origin, target, peer] {
                place.remove(target).await?;
            }
        }
        if wanted(BenchGroup::Tasks) {
            let target = place.target(bench, "tasks").await?;
            tasks::run(bench, &target, redis.as_ref()).await?;
            place.remove(target).await?;
            if database == "postgres" {
                let target = place.target(bench, "workers").await?;
                recovery::run(bench, &target, redis.as_ref()).await?;
                place.remove(target).await?;
            }
        }
        if wanted(BenchGroup::Memory) {
            for bytes in bench.sizes.files {
                let target = place.target(bench, &format!("memory_{}", bytes >> 20)).await?;
                ingest::memory(bench, &target, *bytes).await?;
                place.remove(target).await?;
            }
        }
    }
    if wanted(BenchGroup::Sources) {
        sources::run(bench, postgres).await?;
    }
    if wanted(BenchGroup::Ingest) {
        records::run(bench)?;
    }
    if wanted(BenchGroup::Start) {
        processes::demo(bench)?;
        processes::engine_child(bench).await?;
    }
    Ok(())
}

/// In the order in which they are measured.
const DATABASES: [&str; 2] = ["sqlite", "postgres"];

/// Where targets are made.
struct Place<'a> {
    database: &'static str,
    postgres: Option<&'a mut Postgres>,
}

impl<'a> Place<'a> {
    /// Nothing on a database that is not here.
    fn of(database: &'static str, postgres: Option<&'a mut Postgres>) -> Option<Self> {
        (database == "sqlite" || postgres.is_some()).then_some(Self { database, postgres })
    }

    async fn target(&mut self, bench: &Bench, label: &str) -> Result<Target, Failure> {
        match (&mut self.postgres, self.database) {
            (Some(postgres), "postgres") => Target::postgres(postgres, &bench.scratch, label).await,
            _ => Ok(Target::sqlite(&bench.scratch, label)),
        }
    }

    async fn remove(&mut self, target: Target) -> Result<(), Failure> {
        target.remove(self.postgres.as_deref_mut()).await
    }
}

/// What is being done, for the eyes.
fn say(what: std::fmt::Arguments<'_>) {
    eprintln!("bench: {what}");
}

//! The peers of an ingest: a program that has ready rows and does nothing but store them, in the same tables with the
//! same indexes and the same durability.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use matome_store::db::{Arg, Conn, Db};
use matome_store::error::Result as StoreResult;
use tokio::sync::mpsc;

use super::data::{COPY_COLUMNS, Kind, ReadyRow, ReadyRows};
use super::figure::Peer;
use super::target::{Target, failed};
use super::usage::{self, Meter, Usage};
use crate::database_url::take_password;
use crate::failure::Failure;

/// Rows of one transaction on SQLite, as many as matome's pages have.
const PAGE: usize = 1_000;
/// Rows of one statement.
const ROWS_A_STATEMENT: usize = 250;

const SOURCE: &str = "insert into data_sources (name, source_type) values ($1, 'file') returning id";

/// A source that the rows of a peer belong to.
pub async fn source(db: &Db, name: &str) -> Result<i64, Failure> {
    let name = name.to_owned();
    let insert =
        db.write(move |conn| Box::pin(async move { conn.fetch_one(SOURCE, &[(&name).into()]).await?.int("id") }));
    Ok(insert.await?)
}

/// COPY of a file of ready rows in one transaction: `psql \copy`, or our own driver where psql is not here.
pub async fn copy(target: &Target, db: &Db, file: &Path, rows: u64) -> Result<Peer, Failure> {
    if let Some(usage) = psql_copy(target, file).await? {
        return Ok(Peer { name: "psql \\copy", value: per_second(rows, usage.wall), usage });
    }
    let source = tokio::fs::File::open(file).await.map_err(failed)?;
    let meter = Meter::start(std::process::id(), target.server_pid);
    let copy = format!("copy acquired_data ({COPY_COLUMNS}) from stdin");
    db.write(move |conn| Box::pin(async move { conn.copy_in(&copy, source).await })).await?;
    let usage = meter.end();
    Ok(Peer { name: "COPY by matome's driver", value: per_second(rows, usage.wall), usage })
}

/// Nothing when psql is not here.
async fn psql_copy(target: &Target, file: &Path) -> Result<Option<Usage>, Failure> {
    let Some(url) = &target.database_url else { return Ok(None) };
    let copy = format!("\\copy acquired_data ({COPY_COLUMNS}) from pstdin");
    // The password goes through the environment: arguments can be read by everybody on the machine.
    let (address, password) = without_password(url)?;
    let mut command = Command::new("psql");
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &address, "-c", &copy]);
    command.stdin(File::open(file).map_err(failed)?);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    run(command, target.server_pid).await
}

/// Whether a program is installed.
pub fn is_here(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Runs a program to its good end; what it cost, with what the database `server` did meanwhile. Nothing when it is not
/// installed.
pub async fn run(mut command: Command, server: Option<u32>) -> Result<Option<Usage>, Failure> {
    let before = (usage::cpu_seconds_of_ended_children(), server.and_then(usage::cpu_seconds_of_tree));
    let started = std::time::Instant::now();
    let mut child = match command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(failed(err)),
    };
    let mut peak_mib = None;
    let status = loop {
        // What is installed as a program may be a script that starts it.
        let now = usage::peak_mib(child.id()).into_iter().chain(usage::peak_mib_of_children(child.id()));
        peak_mib = now.chain(peak_mib).reduce(f64::max);
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let wall = started.elapsed();
    if !status.success() {
        let mut text = String::new();
        let _ = child.stderr.take().map(|mut stderr| std::io::Read::read_to_string(&mut stderr, &mut text));
        return Err(failed(format!("{}: {text}", command.get_program().display())));
    }
    let spent = |before: Option<f64>, now: Option<f64>| Some(now? - before?);
    let own = spent(before.0, usage::cpu_seconds_of_ended_children());
    let cpu = match server {
        None => own,
        Some(server) => own.zip(spent(before.1, usage::cpu_seconds_of_tree(server))).map(|(own, server)| own + server),
    };
    Ok(Some(Usage { wall, cpu, peak_mib }))
}

fn without_password(url: &str) -> Result<(String, Option<String>), Failure> {
    let mut url: url::Url = url.parse().map_err(failed)?;
    let password = take_password(&mut url);
    Ok((url.into(), password))
}

/// A bare bulk insert into SQLite: statements of many rows, a commit each 1,000, rows made on another thread.
pub async fn bare_insert(db: &Db, kind: Kind, seed: u64, source_id: i64, count: u64) -> Result<Peer, Failure> {
    let (sender, mut pages) = mpsc::channel::<Vec<ReadyRow>>(2);
    // Making the rows is no part of the peer: the first pages are there before the clock starts, and their CPU time
    // is that of another thread.
    let maker = tokio::task::spawn_blocking(move || {
        let mut rows = ReadyRows::new(kind, seed);
        let mut left = count;
        let begun = usage::thread_cpu_seconds();
        while left > 0 {
            let page: Vec<ReadyRow> = (0..left.min(PAGE as u64)).map(|_| rows.next()).collect();
            left -= page.len() as u64;
            if sender.blocking_send(page).is_err() {
                break;
            }
        }
        usage::thread_cpu_seconds().zip(begun).map(|(end, begun)| end - begun)
    });
    let mut next = pages.recv().await;
    let meter = Meter::start(std::process::id(), None);
    while let Some(page) = next {
        db.write_page(move |conn| {
            Box::pin(async move {
                let mut chunks = page.chunks_exact(ROWS_A_STATEMENT);
                for rows in chunks.by_ref() {
                    insert(conn, &MANY, source_id, rows).await?;
                }
                for row in chunks.remainder() {
                    insert(conn, &ONE, source_id, std::slice::from_ref(row)).await?;
                }
                Ok(())
            })
        })
        .await?;
        next = pages.recv().await;
    }
    let mut usage = meter.end();
    let making = maker.await.map_err(failed)?;
    usage.cpu = usage.cpu.zip(making).map(|(all, making)| all - making);
    Ok(Peer { name: "bare insert", value: per_second(count, usage.wall), usage })
}

/// Full chunks, and what is left row by row: each text is prepared once.
static MANY: LazyLock<String> = LazyLock::new(|| statement(ROWS_A_STATEMENT));
static ONE: LazyLock<String> = LazyLock::new(|| statement(1));

fn statement(rows: usize) -> String {
    let row = |n: usize| {
        let first = 3 + 4 * n;
        format!("($1, '', $2, ${first}, ${}, ${}, ${})", first + 1, first + 2, first + 3)
    };
    let values: Vec<String> = (0..rows).map(row).collect();
    let columns = "source_id, stream, acquired_at, raw_data, metadata, data_hash, key_hash";
    format!("insert into acquired_data ({columns}) values {}", values.join(", "))
}

async fn insert(conn: &mut Conn<'_>, sql: &'static str, source_id: i64, rows: &[ReadyRow]) -> StoreResult<()> {
    let mut args: Vec<Arg<'_>> = Vec::with_capacity(2 + 4 * rows.len());
    args.extend([source_id.into(), 1_764_000_000_000_000_i64.into()]);
    for row in rows {
        let key: &[u8] = &row.key_hash;
        args.extend([Arg::from(&row.raw_data), (&row.metadata).into(), (&row.data_hash).into(), key.into()]);
    }
    conn.execute(sql, &args).await.map(drop)
}

#[allow(clippy::cast_precision_loss, reason = "row counts are far below 2^52")]
pub fn per_second(rows: u64, wall: Duration) -> f64 {
    rows as f64 / wall.as_secs_f64().max(1e-9)
}

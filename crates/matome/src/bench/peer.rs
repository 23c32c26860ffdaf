//! The peers of an ingest: a program that has ready rows and does nothing but store them, in the same tables with the
//! same indexes and the same durability.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use matome_store::db::{Arg, Conn, Db};
use matome_store::error::Result as StoreResult;
use tokio::sync::{mpsc, oneshot};

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
    command.stdout(Stdio::null());
    let begun = Begun::now(None, server);
    let Some(mut running) = Running::spawn(command, server)? else { return Ok(None) };
    let peak_mib = running.end().await?;
    Ok(Some(running.cost(begun, peak_mib)))
}

/// The same for a program that writes a line when it begins: the time before, in which an interpreter starts and loads its
/// modules, does not count. What it writes behind that is folded into a number, line by line.
pub async fn run_from_first_line(
    mut command: Command,
    server: Option<u32>,
    fold: fn(u64, &str) -> u64,
) -> Result<(Usage, u64), Failure> {
    command.stdout(Stdio::piped());
    let program = command.get_program().display().to_string();
    let spawned = Running::spawn(command, server)?;
    let mut running = spawned.ok_or_else(|| failed(format!("{program} is not here")))?;
    let (pid, stdout) = (running.child.id(), running.child.stdout.take());
    let (begins, begun) = oneshot::channel();
    let lines = std::thread::spawn(move || {
        let mut lines = stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines().map_while(Result::ok));
        let _ = begins.send(lines.next().map(|_| Begun::now(Some(pid), server)));
        lines.fold(0, |sum, line| fold(sum, &line))
    });
    // One that has ended is not waited for before it is known what it had spent: that is gone afterwards.
    let begun = begun.await.ok().flatten();
    let peak_mib = running.end().await?;
    let sum = lines.join().map_err(|_| failed(format!("what {program} said could not be read")))?;
    let begun = begun.ok_or_else(|| failed(format!("{program} did not say that it begins")))?;
    Ok((running.cost(begun, peak_mib), sum))
}

/// The moment from which on a program is measured, and the CPU seconds that were spent by then.
#[derive(Clone, Copy)]
struct Begun {
    at: Instant,
    own: Option<f64>,
    server: Option<f64>,
}

impl Begun {
    /// Of the process `pid`, or of one that has not been started.
    fn now(pid: Option<u32>, server: Option<u32>) -> Self {
        let at = Instant::now();
        Self {
            at,
            own: pid.map_or(Some(0.0), usage::cpu_seconds_of_tree),
            server: server.and_then(usage::cpu_seconds_of_tree),
        }
    }
}

/// A program that runs.
struct Running {
    program: String,
    child: Child,
    server: Option<u32>,
    /// CPU seconds of children that ended before it.
    earlier: Option<f64>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Nothing when it is not installed.
    fn spawn(mut command: Command, server: Option<u32>) -> Result<Option<Self>, Failure> {
        let earlier = usage::cpu_seconds_of_ended_children();
        let mut child = match command.stderr(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(failed(err)),
        };
        // Read at once: a program that says much would wait for ever.
        let stderr = child.stderr.take().map(|mut stderr| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = stderr.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        let program = command.get_program().display().to_string();
        Ok(Some(Self { program, child, server, earlier, stderr }))
    }

    /// Waits for its good end; the highest peak of its processes, in MiB.
    async fn end(&mut self) -> Result<Option<f64>, Failure> {
        let mut peak_mib = None;
        let status = loop {
            // What is installed as a program may be a script that starts it.
            let pid = self.child.id();
            let now = usage::peak_mib(pid).into_iter().chain(usage::peak_mib_of_children(pid));
            peak_mib = now.chain(peak_mib).reduce(f64::max);
            if let Some(status) = self.child.try_wait().map_err(failed)? {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        if status.success() {
            return Ok(peak_mib);
        }
        let text = self.stderr.take().and_then(|stderr| stderr.join().ok()).unwrap_or_default();
        Err(failed(format!("{}: {text}", self.program)))
    }

    /// What it cost since it began, when it has ended.
    fn cost(&self, begun: Begun, peak_mib: Option<f64>) -> Usage {
        let wall = begun.at.elapsed();
        let spent = |before: Option<f64>, now: Option<f64>| Some(now? - before?);
        let own = spent(self.earlier, usage::cpu_seconds_of_ended_children());
        let own = spent(begun.own, own);
        let cpu = match self.server {
            None => own,
            Some(server) => {
                own.zip(spent(begun.server, usage::cpu_seconds_of_tree(server))).map(|(own, server)| own + server)
            }
        };
        Usage { wall, cpu, peak_mib }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended is not there to be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[tokio::test]
    async fn what_a_program_does_before_its_first_line_does_not_count() {
        let script = "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; echo begins; echo 3; echo 4";
        let started = Instant::now();
        let fold = |sum, line: &str| sum + line.parse::<u64>().unwrap();
        let (usage, sum) = run_from_first_line(shell(script), None, fold).await.unwrap();
        assert_eq!(sum, 7);
        assert!(usage.wall < started.elapsed() / 2, "{usage:?}");
        let whole = run(shell(script), None).await.unwrap().unwrap();
        assert!(whole.cpu.unwrap() > 0.05 && usage.cpu.unwrap() < whole.cpu.unwrap() / 2.0, "{usage:?}, {whole:?}");
    }

    #[tokio::test]
    async fn a_program_that_fails_is_told_with_what_it_said_however_much_that_was() {
        let script = "echo begins; seq 100000 >&2; echo because >&2; exit 3";
        let failure = run_from_first_line(shell(script), None, |sum, _| sum).await.unwrap_err();
        assert!(format!("{failure:?}").contains("because"));
        let failure = run_from_first_line(shell("exit 0"), None, |sum, _| sum).await.unwrap_err();
        assert!(format!("{failure:?}").contains("did not say that it begins"));
    }
}

//! Workers as processes of their own: what one holds in memory, and how soon its tasks go on when it is killed.

use std::time::{Duration, Instant};

use matome_model::clock::Clock;
use matome_model::source::{SourceStatus, SourceType};
use matome_model::task::LaneKind;
use matome_store::data_sources::{self, SourceFields};
use matome_store::db::Db;
use matome_store::tasks::{NewTask, enqueue};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::celery::{Beside, Redis};
use super::figure::{Budget, Figure};
use super::target::{Target, failed};
use super::{Bench, say, usage};
use crate::failure::Failure;

/// Tasks that run when the worker is killed.
const TASKS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

/// On PostgreSQL, where there are workers.
pub async fn run(bench: &mut Bench, target: &Target, redis: Option<&Redis>) -> Result<(), Failure> {
    say(format_args!("{}: a worker's memory, and its kill", target.name));
    target.migrate()?;
    // It makes the key that workers need.
    target.token()?;
    let db = target.open().await?;
    let slow = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let address = slow.local_addr().map_err(failed)?;
    let upstream = tokio::spawn(answer_late(slow));
    let url = redis.map(Redis::url);
    let start = |args: &[&str], says: &'static str| {
        let args = [args, &["--log-level", "info"]].concat();
        target.role(&args, url.as_deref(), says)
    };
    let _beat = start(&["beat"], "beat runs")?;
    let worker = ["worker", "acquisition", "-c", "8", "--egress-allow", "127.0.0.1/32"];
    let mut doomed = start(&worker, "takes tasks")?;
    for n in 0..TASKS {
        let config = json!({ "url": format!("http://{address}/{n}"), "timeout_secs": 3600 });
        task_of(&db, format!("slow {n}"), &config).await?;
    }
    until(&db, "select count(*) as n from tasks where status = 'running'", "they run").await?;
    let boot = db.read().await?.conn().fetch_one("select worker from tasks limit 1", &[]).await?.uuid("worker")?;
    let memory = usage::pss_mib(doomed.id());
    let _other = start(&worker, "takes tasks")?;
    doomed.kill().map_err(failed)?;
    let killed = Instant::now();
    loop {
        let moved = "select count(*) as n from tasks where status = 'running' and worker <> $1";
        let moved = db.read().await?.conn().fetch_one(moved, &[boot.into()]).await?.int("n")?;
        if usize::try_from(moved).unwrap_or(0) == TASKS {
            break;
        }
        if killed.elapsed() > PATIENCE {
            return Err(failed(format!("{moved} of {TASKS} tasks of a killed worker run elsewhere after a minute")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = killed.elapsed().as_secs_f64();
    upstream.abort();
    db.close().await;
    let (peer, note) = beside(bench, super::celery::Celery::memory);
    bench.add(
        Figure::new("tasks", "worker -c 8 with 8 tasks", memory.unwrap_or(0.0), "MiB")
            .on(target.name)
            .beside(peer)
            .note(format!("one process, shared pages counted once; {note}")),
    );
    let (peer, note) = beside(bench, super::celery::Celery::recovery);
    bench.add(
        Figure::new("tasks", "worker killed, until all it ran goes on elsewhere", took, "s")
            .on(target.name)
            .beside(peer)
            .budget(Budget::AtMost(10.0))
            .note(note),
    );
    Ok(())
}

fn beside(bench: &Bench, of: impl Fn(&super::celery::Celery) -> Beside) -> Beside {
    bench.celery.as_ref().map_or((None, "Celery is not here".to_owned()), of)
}

/// A source that reads what never comes, and a task of it.
async fn task_of(db: &Db, name: String, config: &serde_json::Value) -> Result<(), Failure> {
    let fields = SourceFields {
        name,
        source_type: SourceType::Api,
        description: None,
        status: SourceStatus::Active,
        config: serde_json::value::to_raw_value(config).map_err(failed)?,
        fetch_interval: 0,
    };
    let now = Clock::system().now();
    db.write(move |conn| {
        Box::pin(async move {
            let source = data_sources::create(conn, &fields, now).await?;
            enqueue(conn, &NewTask::manual(LaneKind::Source, source, now), now).await.map(drop)
        })
    })
    .await?;
    Ok(())
}

async fn until(db: &Db, count: &'static str, what: &str) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let found = db.read().await?.conn().fetch_one(count, &[]).await?.int("n")?;
        if usize::try_from(found).unwrap_or(0) == TASKS {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(failed(format!("not in a minute: {what}")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Takes requests and keeps them waiting.
async fn answer_late(listener: TcpListener) {
    let wait = async |mut client: TcpStream| {
        let mut request = [0; 4096];
        let _ = client.read(&mut request).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let _ = client.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    };
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(wait(client));
    }
}

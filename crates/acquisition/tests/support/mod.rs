//! A source made of files, its lane, and the handler that reads it.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod failpoint;

use std::path::Path;

use futures::StreamExt as _;
use matome_acquisition::AcquisitionHandler;
use matome_connector::{FileRoots, HttpClient, Policy, Registry};
use matome_model::canonical::Canonicaliser;
use matome_model::clock::Clock;
use matome_model::source::{SourceStatus, SourceType};
use matome_model::task::{LaneKind, Queue};
use matome_store::data_sources::{self, SourceFields};
use matome_store::db::Db;
use matome_store::quarantine::{self, Replay};
use matome_store::secrets::Vault;
use matome_store::tasks::{self, NewTask};
use matome_store::{acquired_data, counters};
use matome_tasks::{ClaimedTask, Handler as _, TaskContext, TaskError, TaskOutcome};
use serde_json::value::RawValue;
use tempfile::TempDir;
use uuid::Uuid;

pub struct Bench {
    pub db: Db,
    pub dir: TempDir,
    pub source_id: i64,
    pub registry: Registry,
}

pub fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

pub fn registry(root: &Path) -> Registry {
    let roots = FileRoots::open([root]).unwrap();
    Registry::new(roots, HttpClient::new(Policy::default()), Clock::system())
}

impl Bench {
    /// A source that reads all of `data.ndjson` each time; `options` are further members of its config.
    pub async fn new(db: &Db, options: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("data.ndjson").canonicalize().unwrap_or_else(|_| dir.path().join("data.ndjson"));
        let config = format!(r#"{{"path":{},"files":"all"{options}}}"#, serde_json::to_string(&path).unwrap());
        Self::with_config(db, dir, SourceType::File, &config).await
    }

    pub async fn with_config(db: &Db, dir: TempDir, source_type: SourceType, config: &str) -> Self {
        let fields = SourceFields {
            name: Uuid::new_v4().to_string(),
            source_type,
            description: None,
            status: SourceStatus::Active,
            config: json(config),
            fetch_interval: 0,
        };
        let create = move |fields: SourceFields| async move {
            db.write(move |conn| {
                Box::pin(async move { data_sources::create(conn, &fields, Clock::system().now()).await })
            })
            .await
            .unwrap()
        };
        let source_id = create(fields).await;
        let registry = registry(dir.path());
        Self { db: db.clone(), dir, source_id, registry }
    }

    pub async fn set_config(&self, config: &str) {
        let (source_id, config) = (self.source_id, config.to_owned());
        let write = self.db.write(move |conn| {
            Box::pin(async move {
                let sql = "update data_sources set config = $2, config_rev = config_rev + 1 where id = $1";
                conn.execute(sql, &[source_id.into(), matome_store::db::Arg::Json(Some(&config))]).await
            })
        });
        write.await.unwrap();
    }

    /// Has everything that is held in quarantine tried again.
    pub async fn replay_all(&self) {
        let sql = "select id from quarantine where source_id = $1 and status = 'held' order by id";
        let rows = self.db.read().await.unwrap().conn().fetch_all(sql, &[self.source_id.into()]).await.unwrap();
        for row in rows {
            let (id, source_id) = (row.int("id").unwrap(), self.source_id);
            let replay = self.db.write(move |conn| {
                Box::pin(async move { quarantine::replay(conn, id, None, &[source_id], Clock::system().now()).await })
            });
            assert!(matches!(replay.await.unwrap(), Replay::Accepted { .. }));
        }
    }

    pub fn write_file(&self, lines: &[String]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(self.dir.path().join("data.ndjson"), text).unwrap();
    }

    /// A new task of the source, claimed by a worker of its own.
    pub async fn claim(&self) -> ClaimedTask {
        let source_id = self.source_id;
        let claimed = self
            .db
            .write(move |conn| {
                Box::pin(async move {
                    let now = Clock::system().now();
                    tasks::enqueue(conn, &NewTask::manual(LaneKind::Source, source_id, now), now).await?;
                    tasks::claim(conn, Queue::Acquisition, Uuid::new_v4(), 1, now).await
                })
            })
            .await
            .unwrap();
        claimed.into_iter().next().expect("the lane is free")
    }

    /// The task that waits, claimed by a worker of its own.
    pub async fn claim_pending(&self) -> ClaimedTask {
        let claimed = self.db.write(move |conn| {
            Box::pin(
                async move { tasks::claim(conn, Queue::Acquisition, Uuid::new_v4(), 1, Clock::system().now()).await },
            )
        });
        claimed.await.unwrap().into_iter().next().expect("a task waits")
    }

    /// The same task again, claimed by another worker after the death of its own.
    pub async fn take_over(&self, task: &ClaimedTask) -> ClaimedTask {
        self.steal(task).await;
        self.claim_pending().await
    }

    /// Takes the lane back, as the sweeper does: again and again while a page that the dead worker handed over holds it.
    async fn steal(&self, task: &ClaimedTask) {
        let worker = task.fence.worker;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let steal = self
                .db
                .write(move |conn| Box::pin(async move { tasks::steal(conn, worker, Clock::system().now()).await }));
            if steal.await.unwrap().total() > 0 {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "its lane stays locked");
            tokio::task::yield_now().await;
        }
    }

    /// As if the worker died: the lease ends, and its task with it.
    pub async fn abandon(&self, task: &ClaimedTask) {
        self.steal(task).await;
        let task_id = task.task.id;
        let cancel = self
            .db
            .write(move |conn| Box::pin(async move { tasks::cancel(conn, task_id, Clock::system().now()).await }));
        cancel.await.unwrap();
    }

    pub fn handler(&self) -> AcquisitionHandler {
        self.handler_on(&self.db)
    }

    pub fn handler_on(&self, db: &Db) -> AcquisitionHandler {
        self.as_in_production(db).storing_pages_apart()
    }

    /// A handler whose commits cannot be foretold: it stores as one page what it read while it stored the page before.
    pub fn as_in_production(&self, db: &Db) -> AcquisitionHandler {
        AcquisitionHandler::new(db.clone(), self.registry.clone(), Vault::from_key([7; 32]), Clock::system())
    }

    /// Runs a whole task.
    pub async fn run(&self) -> Result<TaskOutcome, TaskError> {
        let task = self.claim().await;
        let ctx = TaskContext::new(self.db.clone(), task.task.id, task.fence);
        let result = self.handler().run(task.clone(), ctx).await;
        self.abandon(&task).await;
        result
    }

    /// Starts a task, lets it commit so many pages, and cuts it off.
    pub async fn cut_off(&self, pages: i64) {
        let task = self.claim().await;
        let ctx = TaskContext::new(self.db.clone(), task.task.id, task.fence);
        let before = self.committed().await;
        let handler = self.handler();
        let run = tokio::spawn({
            let task = task.clone();
            async move { handler.run(task, ctx).await }
        });
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.committed().await < before + pages {
            assert!(tokio::time::Instant::now() < deadline && !run.is_finished(), "it was to be cut off");
            tokio::task::yield_now().await;
        }
        run.abort();
        let _ = run.await;
        self.abandon(&task).await;
    }

    /// How many pages were committed.
    async fn committed(&self) -> i64 {
        let mut reader = self.db.read().await.unwrap();
        let sql = "select coalesce(max(page_seq), 0) as pages from checkpoints where source_id = $1";
        reader.conn().fetch_one(sql, &[self.source_id.into()]).await.unwrap().int("pages").unwrap()
    }

    /// Canonical texts of what is stored, sorted; the counter must agree.
    pub async fn stored(&self) -> Vec<String> {
        let mut reader = self.db.read().await.unwrap();
        let mut conn = reader.conn();
        let rows: Vec<_> = acquired_data::stream(&mut conn, self.source_id, i64::MAX).collect().await;
        let mut canonicaliser = Canonicaliser::default();
        let mut texts: Vec<String> = rows
            .into_iter()
            .map(|row| canonicaliser.canonicalise(row.unwrap().raw_data.as_bytes()).unwrap().text.to_owned())
            .collect();
        texts.sort();
        let counted = counters::of_source(&mut conn, counters::ACQUIRED_DATA, self.source_id).await.unwrap();
        assert_eq!(counted, i64::try_from(texts.len()).unwrap());
        texts
    }
}

/// Lines with repeated rows among them, enough for several pages on either database.
pub fn many_lines(rows: usize) -> Vec<String> {
    (0..rows).map(|n| format!(r#"{{"n":{},"name":"行{}"}}"#, n % (rows * 2 / 3), n % 7)).collect()
}

pub fn canonical(lines: &[String]) -> Vec<String> {
    let mut canonicaliser = Canonicaliser::default();
    let mut texts: Vec<String> =
        lines.iter().map(|line| canonicaliser.canonicalise(line.as_bytes()).unwrap().text.to_owned()).collect();
    texts.sort();
    texts
}

pub fn count(result: &RawValue, name: &str) -> u64 {
    let counts: std::collections::HashMap<String, u64> = serde_json::from_str(result.get()).unwrap();
    counts[name]
}

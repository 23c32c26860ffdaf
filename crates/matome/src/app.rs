//! One process put together: database, secrets, connectors, engine, router, workers.

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_acquisition::AcquisitionHandler;
use matome_aggregation::config::{AggregationConfig, bind};
use matome_aggregation::engine::{Engine, EngineError, EngineSettings};
use matome_aggregation::{AggregationHandler, PreviewError, Previewed, preview};
use matome_api::{ApiSettings, ApiState, Preview, Previewer, TrialError};
use matome_bus::Bus;
use matome_connector::{FileRoots, Registry};
use matome_egress::{EgressRule, HttpClient, Policy};
use matome_model::clock::Clock;
use matome_model::engine::Limits;
use matome_model::field_error::FieldError;
use matome_model::task::Queue;
use matome_store::db::{DataDir, Db};
use matome_store::secrets::{self, Vault};
use matome_store::workers::NewWorker;
use matome_store::{api_tokens, migrate, tasks};
use matome_tasks::{Beat, Process, Worker, WorkerOptions};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::ENGINE_CHILD;
use crate::cli::{ReachArgs, StorageArgs};
use crate::failure::{Exit, Failure};
use crate::housekeeping;
use crate::message::Message;

/// Connections to PostgreSQL of one process.
const POSTGRES_CONNECTIONS: u32 = 16;

/// The names that requests may give this server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// As the user lists them; empty: loopback names and the bind address.
    pub allowed_hosts: &'a [String],
    /// The address it listens on; none when it does not.
    pub bind: Option<IpAddr>,
}

/// A process that can serve and work. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    db: Db,
    vault: Vault,
    clock: Clock,
    bus: Bus,
    registry: Registry,
    engine: Engine,
    limits: Limits,
    boot: Uuid,
    router: Router,
    is_first_start: bool,
    /// Cancelled when the process is about to stop: not ready any more, no new claims.
    draining: CancellationToken,
    workers: TaskTracker,
    process: Mutex<Option<Process>>,
}

impl App {
    /// Opens the database (an embedded one is made and migrated) and builds the router.
    pub async fn open(
        storage: &StorageArgs,
        reach: &ReachArgs,
        names: Names<'_>,
        aggregation_memory_mib: u64,
    ) -> Result<Self, Failure> {
        let (boot, clock, bus) = (Uuid::now_v7(), Clock::system(), Bus::in_process());
        let registry = registry(reach, clock.clone())?;
        let db = open_database(storage, boot, &clock).await?;
        let vault = open_vault(storage, &db).await?;
        let engine = engine(storage)?;
        let limits = Limits { memory_bytes: aggregation_memory_mib << 20, ..Limits::default() };
        let draining = CancellationToken::new();
        let state = ApiState {
            db: db.clone(),
            clock: clock.clone(),
            vault: vault.clone(),
            registry: registry.clone(),
            previewer: Arc::new(EnginePreviewer { db: db.clone(), engine: engine.clone(), limits }),
            bus: bus.clone(),
            metrics: metrics_handle(),
            draining: draining.clone(),
            settings: Arc::new(ApiSettings {
                allowed_hosts: names.allowed_hosts.to_vec(),
                bind: names.bind,
                ..ApiSettings::default()
            }),
        };
        let is_first_start = !api_tokens::exist(&mut db.read().await?.conn()).await?;
        let router = matome_api::router(state);
        let (workers, process) = (TaskTracker::new(), Mutex::default());
        let inner = Inner {
            db,
            vault,
            clock,
            bus,
            registry,
            engine,
            limits,
            boot,
            router,
            is_first_start,
            draining,
            workers,
            process,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The public API.
    pub fn router(&self) -> Router {
        self.0.router.clone()
    }

    /// Whether nobody has a token yet.
    pub fn is_first_start(&self) -> bool {
        self.0.is_first_start
    }

    /// Starts the workers of both queues, the beat and the housekeeping.
    pub async fn start_workers(
        &self,
        acquisition_slots: usize,
        aggregation_slots: usize,
        deadline: Duration,
    ) -> Result<(), Failure> {
        let app = &self.0;
        let process = Process::start(app.db.clone(), app.clock.clone(), self.introduction()).await?;
        let acquisition =
            AcquisitionHandler::new(app.db.clone(), app.registry.clone(), app.vault.clone(), app.clock.clone());
        let aggregation = AggregationHandler::new(app.db.clone(), app.engine.clone(), app.clock.clone(), app.limits);
        let options = WorkerOptions { deadline, ..WorkerOptions::new(Queue::Acquisition, acquisition_slots) };
        let worker = Worker::new(&process, app.bus.clone(), options, Arc::new(acquisition));
        app.workers.spawn(worker.run(app.draining.clone()));
        let options = WorkerOptions { deadline, ..WorkerOptions::new(Queue::Aggregation, aggregation_slots) };
        let worker = Worker::new(&process, app.bus.clone(), options, Arc::new(aggregation));
        app.workers.spawn(worker.run(app.draining.clone()));
        let beat = Beat::new(app.db.clone(), app.bus.clone(), app.clock.clone(), Some(process.boot()));
        let beat = beat.with_deadline(deadline);
        app.workers.spawn(beat.run(app.draining.clone()));
        app.workers.spawn(housekeeping::run(app.db.clone(), app.clock.clone(), app.draining.clone()));
        *app.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        if let Err(err) = app.engine.warm() {
            tracing::warn!(error = %err, "no engine child could be started ahead");
        }
        Ok(())
    }

    fn introduction(&self) -> NewWorker {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        NewWorker {
            boot: self.0.boot,
            role: "serve".to_owned(),
            host: host.trim().to_owned(),
            pid: i64::from(std::process::id()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Stops claiming; running tasks finish their page. `/readyz` says so.
    pub fn drain(&self) {
        self.0.draining.cancel();
    }

    /// Drains, waits for what runs, and signs off.
    pub async fn stop(&self) {
        self.drain();
        self.0.workers.close();
        self.0.workers.wait().await;
        let process = self.0.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = process {
            process.stop().await;
        }
        self.0.db.close().await;
    }
}

async fn open_database(storage: &StorageArgs, boot: Uuid, clock: &Clock) -> Result<Db, Failure> {
    if let Some(url) = &storage.database_url {
        let db = Db::connect_postgres(url, boot, POSTGRES_CONNECTIONS).await?;
        migrate::check(&db).await?;
        return Ok(db);
    }
    let db = Db::open_embedded(DataDir::acquire(&storage.data_dir)?).await?;
    migrate::migrate(&db).await?;
    if let Some(mib) = storage.max_database {
        db.limit_size(mib << 20).await?;
    }
    db.look_for_room().await?;
    // This process holds the directory, so whoever held a lease is gone.
    let now = clock.now();
    let voided = db.write(move |conn| async move { tasks::void_leases(conn, now).await }.boxed()).await?;
    if voided.total() > 0 {
        tracing::info!(tasks = voided.total(), "tasks of the last process are taken up again");
    }
    Ok(db)
}

/// The master key. A new one is made only where no secret needs an old one.
async fn open_vault(storage: &StorageArgs, db: &Db) -> Result<Vault, Failure> {
    let mut reader = db.read().await?;
    let vault = match &storage.master_key_file {
        Some(file) => Vault::from_file(file)?,
        None => {
            make_data_dir(storage)?;
            let file = storage.data_dir.join("master.key");
            let sealed = secrets::count_of_other_keys(&mut reader.conn(), None).await?;
            if sealed > 0 && !file.exists() {
                let what = Message::KeyMissing { file: file.display().to_string(), n: sealed.to_string() };
                return Err(Failure::new(Exit::Config, what).help(Message::RestoreKey));
            }
            Vault::open_or_create(&file)?
        }
    };
    let others = secrets::count_of_other_keys(&mut reader.conn(), Some(&vault)).await?;
    if others > 0 {
        tracing::warn!(
            secrets = others,
            "{others} secrets were encrypted with another master key; their sources fail until it is back or the \
             secrets are entered anew"
        );
    }
    Ok(vault)
}

/// On PostgreSQL the data directory holds only the key and the scratch folder.
fn make_data_dir(storage: &StorageArgs) -> Result<(), Failure> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&storage.data_dir).map_err(|err| {
        Failure::new(Exit::Config, Message::CannotMake { dir: storage.data_dir.display().to_string() })
            .because(&err)
            .help(Message::CheckDataDir)
    })
}

/// What sources may reach, opened.
pub fn registry(reach: &ReachArgs, clock: Clock) -> Result<Registry, Failure> {
    let parse = |rule: &String| {
        rule.parse::<EgressRule>().map_err(|err| {
            let what = Message::EgressRuleWrong { rule: rule.clone() };
            Failure::new(Exit::Config, what).because(&err).help(Message::WriteEgressRule)
        })
    };
    let rules = reach.egress_allow.iter().filter(|rule| !rule.is_empty()).map(parse);
    let rules: Vec<EgressRule> = rules.collect::<Result<_, _>>()?;
    let paths = reach.file_roots.iter().filter(|path| !path.as_os_str().is_empty());
    let roots = FileRoots::open(paths).map_err(|(path, err)| {
        Failure::new(Exit::Config, Message::FileRootWrong { dir: path.display().to_string() })
            .because(&err)
            .help(Message::GiveFileRoot)
    })?;
    Ok(Registry::new(roots, HttpClient::new(Policy::new(rules)), clock))
}

/// An engine whose children work beneath `scratch_root`.
pub fn engine_in(scratch_root: &Path) -> Result<Engine, Failure> {
    let program = std::env::current_exe().map_err(|err| Failure::from_error(Exit::Failed, &err))?;
    Ok(Engine::new(EngineSettings {
        program,
        arguments: vec![ENGINE_CHILD.into()],
        scratch_root: scratch_root.to_owned(),
        slots: 4,
    }))
}

fn engine(storage: &StorageArgs) -> Result<Engine, Failure> {
    let engine = engine_in(&storage.data_dir.join("scratch"))?;
    // Several processes may share the folder on PostgreSQL.
    if storage.database_url.is_none()
        && let Err(err) = engine.clear_scratch()
    {
        tracing::warn!(error = %err, "leftovers in the scratch folder cannot be removed");
    }
    Ok(engine)
}

/// The metrics recorder is the one global thing; the first app of a process installs it.
fn metrics_handle() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().ok()).clone()
}

/// `preview` of the API by the engine.
struct EnginePreviewer {
    db: Db,
    engine: Engine,
    limits: Limits,
}

impl Previewer for EnginePreviewer {
    fn validate(&self, sql: String) -> BoxFuture<'_, Result<Vec<String>, TrialError>> {
        let validated = async move { self.engine.validate(&sql).await };
        let refused = |err: EngineError| TrialError { japanese: Some(err.words().japanese), ..TrialError::new(&err) };
        validated.map(move |validated| validated.map(|query| query.parameters).map_err(refused)).boxed()
    }

    fn preview(
        &self,
        config: Box<RawValue>,
        params: serde_json::Map<String, serde_json::Value>,
        rows: usize,
    ) -> BoxFuture<'_, Result<Preview, TrialError>> {
        async move {
            let value = serde_json::from_str(config.get()).map_err(|err| TrialError::new(&err))?;
            let config = AggregationConfig::parse(&value).map_err(|errors| wrong(&errors))?;
            let parameters = bind(&config.params, &params).map_err(|errors| wrong(&errors))?;
            let sql = config.sql.unwrap_or_default();
            let limits = Limits { seconds: config.timeout_secs.min(60), ..self.limits };
            let query = Previewed { sql: &sql, parameters };
            let found = preview(&self.db, &self.engine, query, limits, rows).await.map_err(from_preview)?;
            let columns: Vec<_> =
                found.columns.iter().map(|(name, kind)| serde_json::json!({ "name": name, "type": kind })).collect();
            let columns = serde_json::value::to_raw_value(&columns).map_err(|err| TrialError::new(&err))?;
            Ok(Preview { rows: found.rows, columns, complete: found.complete })
        }
        .boxed()
    }
}

fn wrong(errors: &[FieldError]) -> TrialError {
    let told: Vec<String> = errors.iter().map(|error| format!("{}: {}", error.path.join("."), error.message)).collect();
    TrialError { message: told.join("; "), japanese: None, causes: Vec::new(), position: None }
}

fn from_preview(err: PreviewError) -> TrialError {
    let PreviewError { words, causes } = err;
    TrialError { message: words.english, japanese: Some(words.japanese), causes, position: None }
}

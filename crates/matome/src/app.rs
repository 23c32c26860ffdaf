//! One process put together: database, secrets, connectors, engine, router, workers.

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use matome_acquisition::AcquisitionHandler;
use matome_aggregation::config::{AggregationConfig, bind};
use matome_aggregation::engine::{Engine, EngineError, EngineSettings};
use matome_aggregation::{AggregationHandler, PreviewError, Previewed, preview, told};
use matome_api::{ApiSettings, ApiState, CeleryNames, Health, Intake, Metrics, Preview, Previewer, TrialError};
use matome_bus::celery::mailbox::Mailbox;
use matome_bus::{Bus, BusError};
use matome_connector::{FileRoots, Registry};
use matome_egress::{EgressRule, HttpClient, Policy};
use matome_model::clock::Clock;
use matome_model::engine::Limits;
use matome_model::field_error::{FieldError, Words};
use matome_model::task::Queue;
use matome_store::db::{DataDir, Db, Dialect};
use matome_store::error::StoreError;
use matome_store::secrets::{self, Vault};
use matome_store::workers::NewWorker;
use matome_store::{api_tokens, migrate, pulse, tasks};
use matome_tasks::{Beat, CeleryIntake, Handler, Process, Worker, WorkerOptions};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::ENGINE_CHILD;
use crate::cli::{ReachArgs, RedisArgs, StorageArgs};
use crate::failure::{Exit, Failure, of_postgres, said};
use crate::isolated::{Isolated, Surroundings};
use crate::message::Message;
use crate::pace::OverBus;
use crate::{allocator, housekeeping};

/// Connections to PostgreSQL of one process that has an API.
const WEB_CONNECTIONS: u32 = 16;
/// Of one without: beside those of its tasks, for heartbeat, claims and ends.
const SPARE_CONNECTIONS: u32 = 4;
/// A worker waits so long for the key that a web process beside it makes at its first start.
const KEY_PATIENCE: Duration = Duration::from_secs(60);

/// The role of a process that asks and ends, unknown to the installation.
const COMMAND: &str = "command";
/// The role of a command that waits for the task it started, and may run it.
const WAITING: &str = "waiting command";

/// What one process does; `serve` does everything.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What it is called among the processes of the installation.
    pub role: String,
    /// Its name there; the machine's when there is none.
    pub name: Option<String>,
    /// Whether it answers requests.
    pub web: bool,
    /// Acquisition tasks at once; 0: not its queue.
    pub acquisition: usize,
    /// Aggregation tasks at once; 0: not its queue.
    pub aggregation: usize,
    /// Whether it turns schedules into tasks and keeps house.
    pub beat: bool,
    /// How long an attempt may take.
    pub deadline: Duration,
    /// Whether metrics of tasks have Celery's names, too.
    pub celery_metrics: bool,
}

impl Parts {
    /// Everything in one process.
    pub fn all(acquisition: usize, aggregation: usize, deadline: Duration) -> Self {
        let (role, name) = ("serve".to_owned(), None);
        Self { role, name, web: true, acquisition, aggregation, beat: true, deadline, celery_metrics: false }
    }

    /// A command that asks the API and ends; tasks wait for another process.
    pub fn command() -> Self {
        Self { role: COMMAND.to_owned(), beat: false, ..Self::all(0, 0, matome_tasks::ATTEMPT_DEADLINE) }
    }

    /// A command that waits for a task, and runs it where nobody else does: see [`App::work_on`].
    pub fn waiting_command() -> Self {
        Self { role: WAITING.to_owned(), ..Self::command() }
    }

    fn slots(&self, queue: Queue) -> usize {
        match queue {
            Queue::Acquisition => self.acquisition,
            Queue::Aggregation => self.aggregation,
        }
    }

    /// Whether the installation knows it as one of its processes.
    fn is_member(&self) -> bool {
        self.role != COMMAND
    }

    /// Who sees the secrets of configs.
    fn needs_key(&self) -> bool {
        self.web || self.acquisition > 0
    }

    /// Connections to PostgreSQL, unless the user says how many.
    fn connections(&self) -> u32 {
        let tasks = u32::try_from(self.acquisition + self.aggregation).unwrap_or(u32::MAX);
        match self.web {
            true => WEB_CONNECTIONS,
            false => tasks.saturating_add(SPARE_CONNECTIONS),
        }
    }
}

/// Who may talk to this server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Web<'a> {
    /// As the user lists them; empty: loopback names and the bind address.
    pub allowed_hosts: &'a [String],
    /// The address it listens on; none when it does not.
    pub bind: Option<IpAddr>,
    /// Origins whose pages may read answers in a browser.
    pub cors_origins: &'a [String],
    /// MiB that the body of a push may have.
    pub max_push: Option<u16>,
    /// Whether it speaks TLS.
    pub is_tls: bool,
}

/// A process that can serve and work. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    parts: Parts,
    db: Db,
    /// Only where secrets are needed.
    vault: Option<Vault>,
    clock: Clock,
    bus: Bus,
    celery: RedisArgs,
    registry: Registry,
    engine: Engine,
    limits: Limits,
    /// Runs tasks that may be what kills their workers.
    isolated: Arc<Isolated>,
    router: Router,
    metrics: Option<Metrics>,
    is_first_start: bool,
    /// Cancelled when the process is about to stop: not ready any more, no new claims.
    draining: CancellationToken,
    workers: TaskTracker,
    process: Mutex<Option<Process>>,
    /// The lane of which a command runs tasks.
    works_on: OnceLock<i64>,
}

impl App {
    /// Opens the database (an embedded one is made and migrated), signs the process on, and builds the router. Nothing
    /// runs before [`App::start_workers`].
    pub async fn open(
        storage: &StorageArgs,
        reach: &ReachArgs,
        web: Web<'_>,
        aggregation_memory_mib: u64,
        parts: Parts,
    ) -> Result<Self, Failure> {
        let (boot, clock) = (Uuid::now_v7(), Clock::system());
        let (registry, http) = connectors(reach, clock.clone())?;
        let connections = storage.database_connections.unwrap_or_else(|| parts.connections());
        let db = open_database(storage, boot, connections, &clock).await?;
        // The recorder comes before all that counts, the bus first: counters begin at zero when what counts begins.
        let metrics = metrics_handle();
        let bus = open_bus(storage, &db, parts.is_member()).await?;
        if bus.is_shared() {
            http.share_pace(Arc::new(OverBus(bus.clone())));
        }
        let vault = match parts.needs_key() {
            true => Some(open_vault(storage, &db, &parts).await?),
            false => None,
        };
        let engine = engine(storage)?;
        let limits = Limits { memory_bytes: aggregation_memory_mib << 20, ..Limits::default() };
        let draining = CancellationToken::new();
        let metrics = metrics.map(|handle| Metrics::new(handle, db.clone(), clock.clone()));
        let metrics = match parts.celery_metrics {
            true => metrics.map(|metrics| metrics.with_celery_names(celery_names(&storage.redis))),
            false => metrics,
        };
        let process = match parts.is_member() {
            true => Some(Process::start(db.clone(), clock.clone(), introduction(boot, &parts)).await?),
            false => None,
        };
        let heart = process.as_ref().map(Process::heart);
        let health = Health { db: db.clone(), bus: bus.clone(), draining: draining.clone(), heart };
        let (mut router, mut is_first_start) = (matome_api::health_router(health.clone()), false);
        if let (true, Some(vault)) = (parts.web, &vault) {
            is_first_start = !api_tokens::exist(&mut db.read().await?.conn()).await?;
            router = matome_api::router(ApiState {
                db: db.clone(),
                clock: clock.clone(),
                vault: vault.clone(),
                registry: registry.clone(),
                previewer: Arc::new(EnginePreviewer { db: db.clone(), engine: engine.clone(), limits }),
                bus: bus.clone(),
                metrics: metrics.clone(),
                health,
                intake: Intake::default(),
                settings: Arc::new(ApiSettings {
                    allowed_hosts: web.allowed_hosts.to_vec(),
                    bind: web.bind,
                    scheme: if web.is_tls { "https" } else { "http" },
                    cors_origins: web.cors_origins.to_vec(),
                    push_limit: web.max_push.map_or(ApiSettings::default().push_limit, |mib| usize::from(mib) << 20),
                    time_zone: Some(reach.time_zone.clone()).filter(|zone| *zone != "UTC"),
                    ..ApiSettings::default()
                }),
            });
        }
        let celery = storage.redis.clone();
        let (storage, reach) = (storage.clone(), reach.clone());
        let surroundings = Surroundings { storage, reach, aggregation_memory: aggregation_memory_mib };
        let isolated = Arc::new(Isolated(surroundings));
        let (workers, process) = (TaskTracker::new(), Mutex::new(process));
        let inner = Inner {
            parts,
            db,
            vault,
            clock,
            bus,
            celery,
            registry,
            engine,
            limits,
            isolated,
            router,
            metrics,
            is_first_start,
            draining,
            workers,
            process,
            works_on: OnceLock::new(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The public API; of a process without one, what tells whether it is ready.
    pub fn router(&self) -> Router {
        self.0.router.clone()
    }

    /// What those who watch are told, without a token.
    pub fn metrics_router(&self) -> Router {
        self.0.metrics.clone().map_or_else(Router::new, matome_api::metrics_router)
    }

    /// Whether nobody has a token yet.
    pub fn is_first_start(&self) -> bool {
        self.0.is_first_start
    }

    /// Starts what the process is to do beside answering: workers, beat, housekeeping.
    pub fn start_workers(&self) {
        let app = &self.0;
        let process = app.process.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(process) = process.as_ref() else { return };
        app.workers.spawn(allocator::give_back(app.draining.clone()));
        for queue in [Queue::Acquisition, Queue::Aggregation] {
            match app.parts.slots(queue) {
                0 => {}
                slots => {
                    self.start_worker(process, WorkerOptions::new(queue, slots));
                    self.start_intake(queue);
                }
            }
        }
        if app.parts.beat {
            let beat = Beat::new(app.db.clone(), app.bus.clone(), app.clock.clone(), Some(process.boot()));
            let beat = beat.with_deadline(app.parts.deadline);
            app.workers.spawn(beat.run(app.draining.clone()));
            app.workers.spawn(housekeeping::run(app.db.clone(), app.clock.clone(), app.draining.clone()));
        }
        if (app.parts.web || app.parts.aggregation > 0)
            && let Err(err) = app.engine.warm()
        {
            tracing::warn!(error = %err, "no engine child could be started ahead");
        }
    }

    /// Runs a task in this process, after what its lane has before it, unless a process lives whose work it is: what the others may
    /// read and reach is not what whoever typed this command may. Nothing else is run here: no other lane, no schedule. Returns
    /// whether it is run here; ask again while it waits, since the others may end.
    pub async fn work_on(&self, task_id: i64) -> Result<bool, StoreError> {
        let app = &self.0;
        if app.works_on.get().is_some() {
            return Ok(true);
        }
        let mut reader = app.db.read().await?;
        let Some(task) = tasks::find(&mut reader.conn(), task_id).await? else { return Ok(false) };
        if app.parts.slots(task.queue) > 0 {
            return Ok(true);
        }
        // An embedded database has no other process, whatever rows a dead one left.
        if app.db.dialect() == Dialect::Postgres
            && pulse::is_served(&mut reader.conn(), task.queue, app.clock.now()).await?
        {
            return Ok(false);
        }
        let process = app.process.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(process) = process.as_ref() else { return Ok(false) };
        if app.works_on.set(task.lane_id).is_ok() {
            self.start_worker(process, WorkerOptions::of_lane(task.queue, task.lane_id));
        }
        Ok(true)
    }

    /// What runs the tasks of a queue; none for those that need the secrets of configs in a process without their key.
    fn handler(&self, queue: Queue) -> Option<Arc<dyn Handler>> {
        let app = &self.0;
        let (db, clock) = (app.db.clone(), app.clock.clone());
        Some(match queue {
            Queue::Acquisition => {
                Arc::new(AcquisitionHandler::new(db, app.registry.clone(), app.vault.clone()?, clock))
            }
            Queue::Aggregation => Arc::new(AggregationHandler::new(db, app.engine.clone(), clock, app.limits)),
        })
    }

    fn start_worker(&self, process: &Process, options: WorkerOptions) {
        let app = &self.0;
        let Some(handler) = self.handler(options.queue) else { return };
        let options = WorkerOptions { deadline: app.parts.deadline, ..options };
        let worker = Worker::new(process, app.bus.clone(), options, handler).isolating(app.isolated.clone());
        app.workers.spawn(worker.run(app.draining.clone()));
    }

    /// Takes over what Python producers put on a queue.
    fn start_intake(&self, queue: Queue) {
        let app = &self.0;
        if let Some(task) = app.celery.python_task(queue)
            && let Some(mailbox) = Mailbox::new(app.bus.clone(), queue)
        {
            let intake = CeleryIntake::new(app.db.clone(), app.bus.clone(), app.clock.clone(), mailbox, queue, task);
            app.workers.spawn(intake.run(app.draining.clone()));
        }
    }

    /// Looks at an embedded database that was too large to be checked before it was opened, after a kill; ends only when it
    /// is damaged.
    pub async fn damage(&self) -> Failure {
        match self.0.db.check_after_kill().await {
            Ok(true) => tracing::info!("the database file is whole"),
            Ok(false) => {}
            Err(err) => return err.into(),
        }
        std::future::pending().await
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
        self.0.bus.close().await;
        self.0.db.close().await;
    }

    /// Gives up everything that the process holds, without waiting for what runs: others take it up at once.
    pub async fn void(&self) {
        let process = self.0.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = process {
            let voided = tokio::time::timeout(Duration::from_secs(2), process.void()).await;
            if !matches!(voided, Ok(Ok(()))) {
                tracing::warn!("this process could not sign off; another will notice");
            }
        }
    }
}

fn introduction(boot: Uuid, parts: &Parts) -> NewWorker {
    NewWorker {
        boot,
        role: parts.role.clone(),
        host: parts.name.clone().unwrap_or_else(host_name),
        pid: i64::from(std::process::id()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The name of this machine; empty where there is none.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Connects to PostgreSQL.
pub async fn connect(url: &str, boot: Uuid, connections: u32) -> Result<Db, Failure> {
    Db::connect_postgres(url, boot, connections).await.map_err(|err| of_postgres(err, url))
}

async fn open_database(storage: &StorageArgs, boot: Uuid, connections: u32, clock: &Clock) -> Result<Db, Failure> {
    if let Some(url) = &storage.database_url {
        let db = connect(url, boot, connections).await?;
        migrate::check(&db).await.map_err(|err| of_postgres(err, url))?;
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

/// Redis connects the processes of an installation; an embedded database has one.
async fn open_bus(storage: &StorageArgs, db: &Db, is_member: bool) -> Result<Bus, Failure> {
    let urls = storage.redis.urls();
    if storage.database_url.is_none() || urls.is_empty() {
        return Ok(Bus::in_process());
    }
    let instance_id = migrate::instance_id(&mut db.read().await?.conn()).await?;
    // What a command does not tell, those that stay do, and `doctor`.
    let bus = if is_member { Bus::redis(instance_id, &urls) } else { Bus::redis_hushed(instance_id, &urls) };
    bus.map_err(|err| match err {
        BusError::Address(what) => {
            Failure::new(Exit::Config, Message::NoRedisUrl).why(said(what)).help(Message::WriteRedisUrl)
        }
        BusError::Tls(what) => Failure::new(Exit::Config, Message::NoRedisTls).why(what).help(Message::GiveRedisTls),
    })
}

/// The master key. A new one is made only where no secret needs an old one, and only by a process with an API: were a worker
/// elsewhere to make another, it could never read what the API encrypts.
pub async fn open_vault(storage: &StorageArgs, db: &Db, parts: &Parts) -> Result<Vault, Failure> {
    let mut reader = db.read().await?;
    let file = storage.master_key_file.clone().unwrap_or_else(|| storage.data_dir.join("master.key"));
    let vault = match &storage.master_key_file {
        Some(file) => Vault::from_file(file)?,
        None => {
            make_data_dir(storage)?;
            let sealed = secrets::count_of_other_keys(&mut reader.conn(), None).await?;
            if sealed > 0 && !file.exists() {
                let what = Message::KeyMissing { file: file.display().to_string(), n: sealed.to_string() };
                return Err(Failure::new(Exit::Config, what).help(Message::RestoreKey));
            }
            if !parts.web {
                wait_for_key(&file).await?;
            }
            Vault::open_or_create(&file)?
        }
    };
    let others = secrets::count_of_other_keys(&mut reader.conn(), Some(&vault)).await?;
    // With an API the secrets can be entered anew; a worker alone would take the tasks of sources from workers that have the key,
    // and fail them.
    if others > 0 && !parts.web && others == secrets::count_of_other_keys(&mut reader.conn(), None).await? {
        let what = Message::KeyOpensNothing { file: file.display().to_string(), n: others.to_string() };
        return Err(Failure::new(Exit::Config, what).help(Message::ShareKeyOrEnterAnew));
    }
    if others > 0 {
        tracing::warn!(
            secrets = others,
            "{others} secrets were encrypted with another master key; their sources fail until it is back or the \
             secrets are entered anew"
        );
    }
    Ok(vault)
}

async fn wait_for_key(file: &Path) -> Result<(), Failure> {
    let begun = Instant::now();
    if !file.exists() {
        tracing::info!("waiting for the key `{}`, which `matome web` makes at its first start", file.display());
    }
    while !file.exists() {
        if begun.elapsed() >= KEY_PATIENCE {
            let what = Message::NoKeyHere { file: file.display().to_string() };
            return Err(Failure::new(Exit::Config, what).help(Message::ShareKey));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

/// On PostgreSQL the data directory holds only the key and the scratch folder.
pub fn make_data_dir(storage: &StorageArgs) -> Result<(), Failure> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&storage.data_dir).map_err(|err| {
        Failure::new(Exit::Config, Message::CannotMake { dir: storage.data_dir.display().to_string() })
            .because(&err)
            .help(Message::CheckDataDir)
    })
}

/// What sources may reach, opened.
pub fn registry(reach: &ReachArgs, clock: Clock) -> Result<Registry, Failure> {
    connectors(reach, clock).map(|(registry, _)| registry)
}

/// The same, with the HTTP client that the connectors use.
fn connectors(reach: &ReachArgs, clock: Clock) -> Result<(Registry, HttpClient), Failure> {
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
    let http = HttpClient::new(Policy::new(rules));
    Ok((Registry::new(roots, http.clone(), clock), http))
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

/// Upper bounds of the buckets of times, in seconds: from a request to a long task.
const BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];

/// What metrics say of tasks to those who know them by Celery's names.
fn celery_names(redis: &RedisArgs) -> CeleryNames {
    let tasks = Queue::ALL.iter().map(|queue| (*queue, redis.called_task(*queue))).collect();
    CeleryNames { hostname: host_name(), tasks }
}

/// The metrics recorder is the one global thing; the first app of a process installs it.
fn metrics_handle() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        // Histograms that can be added up over processes, instead of quantiles that cannot.
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS);
        builder.ok()?.install_recorder().ok()
    };
    HANDLE.get_or_init(install).clone()
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
        let refused = |err: EngineError| TrialError::new(err.words(), Vec::new());
        validated.map(move |validated| validated.map(|query| query.parameters).map_err(refused)).boxed()
    }

    fn preview(
        &self,
        config: Box<RawValue>,
        params: serde_json::Map<String, serde_json::Value>,
        rows: usize,
    ) -> BoxFuture<'_, Result<Preview, TrialError>> {
        async move {
            let value = serde_json::from_str(config.get()).map_err(|err| broken(&err))?;
            let config = AggregationConfig::parse(&value).map_err(|errors| wrong(&errors))?;
            let parameters = bind(&config.params, &params).map_err(|errors| wrong(&errors))?;
            let sql = config.sql.unwrap_or_default();
            let limits = Limits { seconds: config.timeout_secs.min(60), ..self.limits };
            let query = Previewed { sql: &sql, parameters };
            let found = preview(&self.db, &self.engine, query, limits, rows).await.map_err(from_preview)?;
            let columns: Vec<_> =
                found.columns.iter().map(|(name, kind)| serde_json::json!({ "name": name, "type": kind })).collect();
            let columns = serde_json::value::to_raw_value(&columns).map_err(|err| broken(&err))?;
            Ok(Preview { rows: found.rows, columns, complete: found.complete })
        }
        .boxed()
    }
}

fn wrong(errors: &[FieldError]) -> TrialError {
    TrialError::new(told(errors), Vec::new())
}

fn broken(err: &serde_json::Error) -> TrialError {
    TrialError::new(Words::quoted(err.to_string()), Vec::new())
}

fn from_preview(err: PreviewError) -> TrialError {
    TrialError::new(err.words, err.causes)
}

//! The processes that run until a signal: `serve`, and its parts `web`, `worker` and `beat` on their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use matome_model::task::Queue;
use matome_store::db::postgres_place;
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use tracing::{info, warn};

use crate::app::{self, App, Parts, Web};
use crate::cli::{BeatArgs, HealthArgs, ListenArgs, ReachArgs, ServeArgs, StorageArgs, WebArgs, WorkerArgs};
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::patience::Patience;
use crate::serve::{self, Server, Signals};
use crate::tls::{TlsFiles, TlsListener};

/// Directory in the data directory with the sockets of processes that have no API.
pub const HEALTH_DIR: &str = "health";

/// A process that was told to stop is gone after so long, whatever it waits for.
const STOP_WITHIN: Duration = Duration::from_secs(29);

/// One such process.
struct Role {
    storage: StorageArgs,
    reach: ReachArgs,
    aggregation_memory: u64,
    parts: Parts,
    listen: Option<ListenArgs>,
    health: Option<HealthArgs>,
    metrics_bind: Option<SocketAddr>,
}

/// Runs `matome serve` until a signal.
pub async fn serve(args: ServeArgs) -> Result<(), Failure> {
    let (slots, deadline) = (&args.slots, args.attempt.deadline());
    run(Role {
        parts: Parts {
            celery_metrics: args.watch.has_celery_metrics(),
            ..Parts::all(slots.acquisition_slots, slots.aggregation_slots, deadline)
        },
        storage: args.storage,
        reach: args.reach,
        aggregation_memory: args.engine.aggregation_memory,
        listen: Some(args.listen),
        health: None,
        metrics_bind: args.watch.metrics_bind,
    })
    .await
}

/// Runs `matome web` until a signal.
pub async fn web(args: WebArgs) -> Result<(), Failure> {
    need_server(&args.storage, "web")?;
    run(Role {
        parts: Parts {
            role: "web".to_owned(),
            beat: false,
            celery_metrics: args.watch.has_celery_metrics(),
            ..Parts::all(0, 0, matome_tasks::ATTEMPT_DEADLINE)
        },
        storage: args.storage,
        reach: args.reach,
        aggregation_memory: args.engine.aggregation_memory,
        listen: Some(args.listen),
        health: None,
        metrics_bind: args.watch.metrics_bind,
    })
    .await
}

/// Runs `matome worker` until a signal.
pub async fn worker(args: WorkerArgs) -> Result<(), Failure> {
    need_server(&args.storage, "worker")?;
    let [acquisition, aggregation] = [Queue::Acquisition, Queue::Aggregation].map(|queue| args.slots(queue));
    let role = match (acquisition, aggregation) {
        (_, 0) => "acquisition",
        (0, _) => "aggregation",
        _ => "acquisition,aggregation",
    };
    let name = args.name.as_deref().map(|name| node_name(name, &app::host_name()));
    let deadline = args.attempt.deadline();
    run(Role {
        parts: Parts {
            role: role.to_owned(),
            name,
            web: false,
            acquisition,
            aggregation,
            beat: false,
            deadline,
            celery_metrics: args.watch.has_celery_metrics(),
        },
        storage: args.storage,
        reach: args.reach,
        aggregation_memory: args.engine.aggregation_memory,
        listen: None,
        health: Some(args.health),
        metrics_bind: args.watch.metrics_bind,
    })
    .await
}

/// Runs `matome beat` until a signal.
pub async fn beat(args: BeatArgs) -> Result<(), Failure> {
    need_server(&args.storage, "beat")?;
    let deadline = args.attempt.deadline();
    run(Role {
        parts: Parts {
            role: "beat".to_owned(),
            web: false,
            celery_metrics: args.watch.has_celery_metrics(),
            ..Parts::all(0, 0, deadline)
        },
        storage: args.storage,
        reach: ReachArgs { file_roots: Vec::new(), egress_allow: Vec::new(), time_zone: "UTC".to_owned() },
        aggregation_memory: 0,
        listen: None,
        health: Some(args.health),
        metrics_bind: args.watch.metrics_bind,
    })
    .await
}

/// An embedded database belongs to one process.
fn need_server(storage: &StorageArgs, role: &str) -> Result<(), Failure> {
    match storage.database_url {
        Some(_) => Ok(()),
        None => {
            let what = Message::NeedsServer { role: role.to_owned() };
            Err(Failure::new(Exit::Config, what).help(Message::GiveServerOrServe))
        }
    }
}

/// A name with Celery's signs filled in.
fn node_name(name: &str, host: &str) -> String {
    let (machine, domain) = host.split_once('.').unwrap_or((host, ""));
    name.replace("%h", host).replace("%n", machine).replace("%d", domain)
}

async fn run(role: Role) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let (gate, server) = (Gate::default(), Server::default());
    let mut names = role.start_listening(&gate, &server).await?;
    let opened = tokio::select! {
        opened = role.open(&names, &gate) => opened,
        _ = signals.next() => {
            server.stop().await;
            return Ok(());
        }
    };
    let app = opened?;
    app.start_workers();
    gate.open(app.router());
    if let Some(listener) = names.metrics.take() {
        if let Ok(address) = listener.local_addr() {
            info!("metrics at http://{address}/metrics");
        }
        server.tcp(listener, app.metrics_router());
    }
    if role.storage.database_url.is_none() {
        server.control_socket(&role.storage.data_dir, &app)?;
    }
    role.tell_start(&names, &app);
    let outcome = tokio::select! {
        _ = signals.next() => Ok(()),
        damage = app.damage() => Err(damage),
    };
    info!("stopping: running tasks finish their page; a second signal ends at once");
    app.drain();
    tokio::select! {
        () = async { server.stop().await; app.stop().await } => outcome,
        _ = signals.next() => {
            app.void().await;
            Err(Failure::new(Exit::Failed, Message::StoppedAtOnce))
        }
        () = tokio::time::sleep(STOP_WITHIN) => {
            app.void().await;
            let seconds = STOP_WITHIN.as_secs().to_string();
            Err(Failure::new(Exit::Failed, Message::DidNotStop { seconds }).help(Message::GoesOnElsewhere))
        }
    }
}

/// The address that a process listens on and the names that requests may give it.
#[derive(Default)]
struct Listening {
    address: Option<SocketAddr>,
    allowed_hosts: Vec<String>,
    cors_origins: Vec<String>,
    /// In MiB.
    max_push: u16,
    is_tls: bool,
    /// Where metrics are asked for, once there are any.
    metrics: Option<TcpListener>,
}

impl Role {
    /// Listens before anything else: whoever watches is told from the beginning what the process waits for.
    async fn start_listening(&self, gate: &Gate, server: &Server) -> Result<Listening, Failure> {
        let mut listening = Listening::default();
        if let Some(listen) = &self.listen {
            let listener = serve::listen(listen.bind).await?;
            let address = listener.local_addr().map_err(|err| Failure::from_error(Exit::Failed, &err))?;
            let tls = TlsFiles::of(listen.tls_cert_file.as_ref(), listen.tls_key_file.as_ref())?;
            let is_tls = tls.is_some();
            if !is_tls && !address.ip().is_loopback() {
                warn!(
                    "listening beyond loopback without TLS, tokens travel in the clear: set tls_cert_file and \
                     tls_key_file, or put a TLS proxy in front"
                );
            }
            match tls {
                Some(files) => server.tls(TlsListener::start(listener, files)?, gate.router()),
                None => server.tcp(listener, gate.router()),
            }
            listening = Listening {
                address: Some(address),
                allowed_hosts: listen.allowed_hosts.clone(),
                cors_origins: listen.cors_allowed_origins.clone(),
                max_push: listen.max_push,
                is_tls,
                metrics: None,
            };
        }
        if let Some(address) = self.metrics_bind {
            listening.metrics = Some(serve::listen(address).await?);
        }
        if let Some(health) = &self.health {
            if let Some(address) = health.health_bind {
                server.tcp(serve::listen(address).await?, gate.router());
            }
            server.unix(&self.health_socket()?, gate.router())?;
        }
        Ok(listening)
    }

    /// Where `matome healthcheck` asks: under the name of the process, unless another that lives has it.
    fn health_socket(&self) -> Result<PathBuf, Failure> {
        app::make_data_dir(&self.storage)?;
        let dir = self.storage.data_dir.join(HEALTH_DIR);
        if let Err(err) = std::fs::create_dir(&dir)
            && err.kind() != std::io::ErrorKind::AlreadyExists
        {
            let dir = dir.display().to_string();
            return Err(Failure::new(Exit::Config, Message::CannotMake { dir })
                .because(&err)
                .help(Message::CheckDataDir));
        }
        let name = self.parts.name.as_ref().unwrap_or(&self.parts.role).replace(['/', ','], "-");
        let path = dir.join(format!("{name}.sock"));
        match std::os::unix::net::UnixStream::connect(&path) {
            Ok(_) => Ok(dir.join(format!("{name}.{}.sock", std::process::id()))),
            Err(_) => Ok(path),
        }
    }

    /// Opens everything; tries again what may heal by itself.
    async fn open(&self, names: &Listening, gate: &Gate) -> Result<App, Failure> {
        let mut patience = Patience::default();
        if let Some(place) = self.storage.database_url.as_deref().and_then(postgres_place) {
            // Until it answers or time runs out, whoever looks should know what is waited for.
            gate.tell("connecting to the database");
            info!("connecting to the database `{place}`");
        }
        loop {
            let web = Web {
                allowed_hosts: &names.allowed_hosts,
                bind: names.address.map(|address| address.ip()),
                cors_origins: &names.cors_origins,
                max_push: Some(names.max_push),
                is_tls: names.is_tls,
            };
            let opened = App::open(&self.storage, &self.reach, web, self.aggregation_memory, self.parts.clone());
            match opened.await {
                Err(failure) if self.storage.database_url.is_some() && Patience::helps(&failure) => {
                    gate.tell(&failure.what.english);
                    patience.wait(&failure).await;
                }
                opened => return opened,
            }
        }
    }

    fn tell_start(&self, names: &Listening, app: &App) {
        let Parts { role, acquisition, aggregation, .. } = &self.parts;
        match names.address {
            Some(address) => {
                let scheme = if names.is_tls { "https" } else { "http" };
                info!("serving on {scheme}://{address}, documentation at {scheme}://{address}/api/docs/");
            }
            None if acquisition + aggregation == 0 => info!("{role} runs"),
            None => {
                let name = self.parts.name.clone().unwrap_or_else(|| role.clone());
                info!(acquisition, aggregation, "worker {name} takes tasks: {role}");
            }
        }
        if app.is_first_start() {
            let hint = match self.storage.database_url {
                Some(_) => String::new(),
                None => format!(" --data-dir {}", self.storage.data_dir.display()),
            };
            info!("no API token exists yet; make one: matome token create --role admin{hint}");
        }
    }
}

/// What answers from the first moment on: that the process lives, and what it waits for; later the process itself.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<Inside>);

#[derive(Debug, Default)]
struct Inside {
    router: OnceLock<Router>,
    trouble: Mutex<Option<String>>,
}

impl Gate {
    fn router(&self) -> Router {
        let gate = self.clone();
        Router::new().fallback(move |request: Request| {
            let gate = gate.clone();
            async move { gate.answer(request).await }
        })
    }

    async fn answer(&self, request: Request) -> Response {
        match self.0.router.get() {
            Some(router) => router.clone().oneshot(request).await.unwrap_or_else(|never| match never {}),
            None => {
                let trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let trouble = trouble.unwrap_or_else(|| "the process is starting".to_owned());
                matome_api::not_started(request.uri().path(), "database", &trouble)
            }
        }
    }

    fn tell(&self, trouble: &str) {
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble.to_owned());
    }

    fn open(&self, router: Router) {
        let _ = self.0.router.set(router);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_in_a_name_are_those_of_celery() {
        let named = |name| node_name(name, "alpha.example.org");
        assert_eq!(named("acquisition_worker@%h"), "acquisition_worker@alpha.example.org");
        assert_eq!(named("a@%n"), "a@alpha");
        assert_eq!(named("a.%d"), "a.example.org");
        assert_eq!(node_name("%n|%d", "alpha"), "alpha|");
    }
}

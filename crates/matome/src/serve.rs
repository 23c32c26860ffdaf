//! Listening: TCP for everybody, a Unix socket in the data directory for its owner's command line.

use std::future::IntoFuture as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Extension;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::app::{App, Names};
use crate::cli::ServeArgs;
use crate::client::SOCKET;
use crate::failure::{Exit, Failure};
use crate::message::Message;

/// Open requests get this long to end after the stop signal.
const GRACE: Duration = Duration::from_secs(10);

/// Runs `matome serve` until a signal.
pub async fn run(args: ServeArgs) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let listener = listen(args.bind).await?;
    let address = listener.local_addr().map_err(|err| Failure::from_error(Exit::Failed, &err))?;
    if !address.ip().is_loopback() {
        warn!("listening beyond loopback without TLS: put a TLS proxy in front, tokens travel in the clear");
    }
    let names = Names { allowed_hosts: &args.allowed_hosts, bind: Some(address.ip()) };
    let app = App::open(&args.storage, &args.reach, names, args.aggregation_memory).await?;
    let deadline = Duration::from_secs(args.attempt_deadline);
    app.start_workers(args.acquisition_slots, args.aggregation_slots, deadline).await?;
    let socket_dir = args.storage.database_url.is_none().then_some(args.storage.data_dir.as_path());
    let server = start(&app, listener, socket_dir).await?;
    info!("serving on http://{address}, documentation at http://{address}/api/docs/");
    if app.is_first_start() {
        info!("no API token exists yet; make one: matome token create --role admin{}", storage_hint(&args));
    }
    signals.next().await;
    info!("stopping: running tasks finish their page; a second signal ends at once");
    app.drain();
    tokio::select! {
        () = async { server.stop().await; app.stop().await } => Ok(()),
        _ = signals.next() => Err(Failure::new(Exit::Failed, Message::StoppedAtOnce)),
    }
}

fn storage_hint(args: &ServeArgs) -> String {
    match args.storage.database_url {
        Some(_) => String::new(),
        None => format!(" --data-dir {}", args.storage.data_dir.display()),
    }
}

/// A TCP listener, or what is wrong in words.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|err| match err.kind() {
        ErrorKind::AddrInUse => {
            let (port, ip) = (address.port().to_string(), address.ip().to_string());
            Failure::new(Exit::Conflict, Message::PortInUse { port, ip }).help(Message::StopListener)
        }
        ErrorKind::PermissionDenied => {
            Failure::new(Exit::Forbidden, Message::MayNotListen { address: address.to_string() })
                .help(Message::LowPorts)
        }
        _ => Failure::new(Exit::Config, Message::CannotListen { address: address.to_string() })
            .because(&err)
            .help(Message::GiveAddress),
    })
}

/// Running listeners.
#[derive(Debug)]
pub struct Server {
    stop: CancellationToken,
    listeners: TaskTracker,
    socket: Option<PathBuf>,
}

/// Serves the app's router on `listener`, and on the socket in `socket_dir`.
pub async fn start(app: &App, listener: TcpListener, socket_dir: Option<&Path>) -> Result<Server, Failure> {
    let (stop, listeners) = (CancellationToken::new(), TaskTracker::new());
    let tcp = axum::serve(listener, app.router()).with_graceful_shutdown(stop.clone().cancelled_owned());
    listeners.spawn(tcp.into_future());
    let socket = socket_dir.map(|dir| dir.join(SOCKET));
    if let Some(path) = &socket {
        let unix = owner_socket(path).map_err(|err| {
            Failure::new(Exit::Config, Message::CannotListen { address: format!("`{}`", path.display()) })
                .because(&err)
                .help(Message::SocketTooLong)
        })?;
        // Whoever can open the socket (mode 0600) owns the data directory.
        let router = app.router().layer(Extension(matome_api::LocalOwner));
        listeners.spawn(axum::serve(unix, router).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());
    }
    listeners.close();
    Ok(Server { stop, listeners, socket })
}

/// Makes the socket with mode 0600 from its first moment on: it is bound under another name in a directory
/// that only the owner enters, then renamed.
fn owner_socket(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

impl Server {
    /// Stops accepting and waits for open requests, at most ten seconds.
    pub async fn stop(&self) {
        self.stop.cancel();
        if tokio::time::timeout(GRACE, self.listeners.wait()).await.is_err() {
            warn!("some requests did not end within {} s", GRACE.as_secs());
        }
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// SIGINT and SIGTERM, caught from the moment this is made: before it, they end the process at once.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Starts catching.
    pub fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).map_err(|err| Failure::from_error(Exit::Failed, &err));
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// The next one: what a process that it ends exits with.
    pub async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
}

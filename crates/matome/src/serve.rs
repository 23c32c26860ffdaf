//! Listening: TCP for everybody, Unix sockets in the data directory for its owner; and the signals that end it.

use std::future::IntoFuture as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::app::App;
use crate::client::SOCKET;
use crate::failure::{Exit, Failure};
use crate::message::Message;
use crate::tls::TlsListener;

/// Open requests get this long to end after the stop signal.
const GRACE: Duration = Duration::from_secs(10);

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
#[derive(Debug, Default)]
pub struct Server {
    stop: CancellationToken,
    listeners: TaskTracker,
    sockets: Mutex<Vec<PathBuf>>,
}

impl Server {
    /// Serves `router` on `listener`.
    pub fn tcp(&self, listener: TcpListener, router: Router) {
        let serving = axum::serve(listener, router).with_graceful_shutdown(self.stop.clone().cancelled_owned());
        self.listeners.spawn(serving.into_future());
    }

    /// Serves `router` on connections that have shaken hands.
    pub fn tls(&self, listener: TlsListener, router: Router) {
        let serving = axum::serve(listener, router).with_graceful_shutdown(self.stop.clone().cancelled_owned());
        self.listeners.spawn(serving.into_future());
    }

    /// Serves `router` on a socket that only its owner may open.
    pub fn unix(&self, path: &Path, router: Router) -> Result<(), Failure> {
        let socket = owner_socket(path).map_err(|err| {
            Failure::new(Exit::Config, Message::CannotListen { address: format!("`{}`", path.display()) })
                .because(&err)
                .help(Message::SocketTooLong)
        })?;
        let serving = axum::serve(socket, router).with_graceful_shutdown(self.stop.clone().cancelled_owned());
        self.listeners.spawn(serving.into_future());
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        Ok(())
    }

    /// The socket in a data directory through which the command line of its owner asks the API.
    pub fn control_socket(&self, dir: &Path, app: &App) -> Result<(), Failure> {
        // Whoever can open the socket (mode 0600) owns the data directory.
        self.unix(&dir.join(SOCKET), app.router().layer(Extension(matome_api::LocalOwner)))
    }

    /// Stops accepting and waits for open requests, at most ten seconds.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.listeners.close();
        if tokio::time::timeout(GRACE, self.listeners.wait()).await.is_err() {
            warn!("some requests did not end within {} s", GRACE.as_secs());
        }
        for socket in self.sockets.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = std::fs::remove_file(socket);
        }
    }
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

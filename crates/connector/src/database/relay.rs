//! Leads a database driver, which would dial by itself, to a connection that `egress` has made.
//!
//! The driver connects to a Unix socket in a private directory; behind it waits the checked connection. TLS is spoken by
//! the driver, from end to end, and its names are verified against the configured host.

use std::io;
use std::path::Path;
use std::time::Duration;

use matome_egress::Dialer;
use tempfile::TempDir;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;

use super::fault::Faults;
use super::server::Server;
use crate::error::ConnectorError;

const BUFFER_BYTES: usize = 128 << 10;

/// A socket that one driver may connect to once. Dropping it ends the connection.
pub(super) struct Relay {
    dir: TempDir,
    _task: JoinSet<()>,
}

impl Relay {
    /// Connects to a server within `patience`; its driver finds the connection behind the socket `name`.
    pub(super) async fn dial(
        server: &Server,
        dialer: &Dialer,
        name: &str,
        patience: Duration,
        faults: &Faults,
    ) -> Result<Self, ConnectorError> {
        let dialled = dialer.connect(&server.host, server.port, patience).await;
        let stream = dialled.map_err(|error| faults.unreached(error))?;
        Self::to(stream, name).map_err(|error| faults.of(error.into()))
    }

    /// A socket `name` in a directory of its own, which only this user may enter.
    fn to(mut stream: TcpStream, name: &str) -> io::Result<Self> {
        let dir = TempDir::with_prefix("matome-")?;
        let listener = UnixListener::bind(dir.path().join(name))?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let Ok((mut driver, _)) = listener.accept().await else { return };
            // Nobody comes in behind the driver.
            drop(listener);
            // Both sides see for themselves that the connection ended.
            let _ = copy_bidirectional_with_sizes(&mut driver, &mut stream, BUFFER_BYTES, BUFFER_BYTES).await;
        });
        Ok(Self { dir, _task: task })
    }

    /// Where the socket is.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

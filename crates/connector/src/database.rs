//! Rows out of a database: a table, a view or a query of PostgreSQL, MySQL, MariaDB or SQLite.

mod condition;
mod config;
mod fault;
mod incremental;
mod mysql;
mod order;
mod postgres;
mod reader;
mod relay;
mod server;
mod session;
mod sqlite;
mod state;
mod tables;
mod value;

use std::sync::Arc;

use futures::future::BoxFuture;
use matome_egress::Dialer;

pub(crate) use config::parse as parse_config;
pub use config::{DatabaseConfig, Engine, Place, Relation};
pub use incremental::{Incremental, Nulls};
pub use server::{Server, Tls, TlsMode};
pub use tables::Table;
pub(crate) use tables::{list, names_relation, propose, validate_without_relation};

use crate::error::ConnectorError;
use crate::file::FileRoots;
use crate::read::{Connector, ReadRequest, Reader};

/// Bytes that a server of MySQL sends, as the JSON value of each type that it sends as bytes. For fuzzing.
pub fn mysql_values(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    mysql::as_each_form(bytes)
}

/// Reads what a config names.
pub struct DatabaseConnector {
    config: Arc<DatabaseConfig>,
    roots: Arc<FileRoots>,
    dialer: Dialer,
}

impl DatabaseConnector {
    /// Servers are reached through `dialer`; SQLite files and certificates are beneath `roots`.
    pub fn new(config: DatabaseConfig, roots: Arc<FileRoots>, dialer: Dialer) -> Self {
        Self { config: Arc::new(config), roots, dialer }
    }
}

impl Connector for DatabaseConnector {
    fn read(&self, request: ReadRequest) -> BoxFuture<'_, Result<Box<dyn Reader>, ConnectorError>> {
        Box::pin(async move {
            let reader = reader::start(self.config.clone(), self.roots.clone(), self.dialer.clone(), request).await?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }
}

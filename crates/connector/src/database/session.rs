//! A connection to a database of any kind, in one read-only transaction.

use matome_egress::Dialer;

use super::config::{DatabaseConfig, Engine, Place, Relation};
use super::fault::Faults;
use super::mysql::Mysql;
use super::order::{Column, Order, Part};
use super::postgres::Postgres;
use super::reader::{Sink, Stop};
use super::sqlite::Sqlite;
use super::tables::{MOST_TABLES, Table};
use crate::error::ConnectorError;
use crate::file::FileRoots;

pub(super) enum Session {
    Postgres(Box<Postgres>),
    Mysql(Box<Mysql>),
    Sqlite(Box<Sqlite>, Relation),
}

impl Session {
    pub(super) async fn open(
        config: &DatabaseConfig,
        roots: &FileRoots,
        dialer: &Dialer,
        faults: &Faults,
    ) -> Result<Self, ConnectorError> {
        Ok(match &config.place {
            Place::Server(server) => {
                let certificates = server.tls.read(roots, &faults.at(0))?;
                match config.engine {
                    Engine::Mysql => {
                        Self::Mysql(Box::new(Mysql::open(config, server, dialer, certificates, faults).await?))
                    }
                    _ => Self::Postgres(Box::new(Postgres::open(config, server, dialer, certificates, faults).await?)),
                }
            }
            Place::File(path) => {
                Self::Sqlite(Box::new(Sqlite::open(config, path, roots, faults).await?), config.relation.clone())
            }
        })
    }

    /// The names of the columns of what is read. First of all, this is asked.
    pub(super) async fn columns(&mut self, faults: &Faults) -> Result<Vec<String>, ConnectorError> {
        match self {
            Self::Postgres(session) => session.columns(faults).await,
            Self::Mysql(session) => session.columns(faults).await,
            Self::Sqlite(session, _) => session.columns(faults).await,
        }
    }

    /// The tables and views that may be read, in the order of their names.
    pub(super) async fn tables(&mut self, faults: &Faults) -> Result<Vec<Table>, ConnectorError> {
        let tables = match self {
            Self::Postgres(session) => session.tables(faults).await,
            Self::Mysql(session) => session.tables(faults).await,
            Self::Sqlite(session, _) => session.tables(faults).await,
        };
        tables.map(|mut tables| {
            tables.truncate(MOST_TABLES);
            tables
        })
    }

    pub(super) async fn primary_key(&mut self, faults: &Faults) -> Result<Vec<String>, ConnectorError> {
        match self {
            Self::Postgres(session) => session.primary_key(faults).await,
            Self::Mysql(session) => session.primary_key(faults).await,
            Self::Sqlite(session, relation) => session.primary_key(relation, faults).await,
        }
    }

    /// The columns of these names, with what is known about their types.
    pub(super) async fn typed(&mut self, names: &[String], faults: &Faults) -> Result<Vec<Column>, ConnectorError> {
        match self {
            Self::Postgres(session) => session.typed(names, faults).await,
            Self::Mysql(session) => session.typed(names, faults),
            Self::Sqlite(session, _) => Ok(session.typed(names)),
        }
    }

    pub(super) async fn now(&mut self, faults: &Faults) -> Result<String, ConnectorError> {
        match self {
            Self::Postgres(session) => session.now(faults).await,
            Self::Mysql(session) => session.now(faults).await,
            Self::Sqlite(session, _) => session.now(faults).await,
        }
    }

    pub(super) async fn rows(&mut self, order: &Order, part: &Part, began: &str, sink: &mut Sink) -> Result<(), Stop> {
        match self {
            Self::Postgres(session) => session.rows(order, part, began, sink).await,
            Self::Mysql(session) => session.rows(order, part, began, sink).await,
            Self::Sqlite(session, _) => session.rows(order, part, began, sink).await,
        }
    }

    pub(super) async fn close(self) {
        match self {
            Self::Postgres(session) => session.close().await,
            Self::Mysql(session) => session.close().await,
            Self::Sqlite(session, _) => session.close().await,
        }
    }
}

//! A connection to a database of any kind, in one read-only transaction.

use matome_egress::Dialer;
use sqlx::postgres::types::Oid;

use super::config::{DatabaseConfig, Place, Relation};
use super::fault::Faults;
use super::order::{Column, Order, Part};
use super::postgres::Postgres;
use super::reader::{Sink, Stop};
use super::sqlite::Sqlite;
use super::trust;
use crate::error::ConnectorError;
use crate::file::FileRoots;

pub(super) enum Session {
    Postgres(Box<Postgres>),
    Sqlite(Box<Sqlite>, Relation),
}

/// What a database says about the type of a column, before anything is asked about it.
#[derive(Clone, Debug)]
pub(super) enum Declared {
    Oid(Oid),
    Name(String),
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
                let trusted = trust::certificates(&server.tls, roots)?;
                Self::Postgres(Box::new(Postgres::open(config, server, dialer, trusted, faults).await?))
            }
            Place::File(path) => {
                Self::Sqlite(Box::new(Sqlite::open(config, path, roots, faults).await?), config.relation.clone())
            }
        })
    }

    pub(super) async fn columns(&mut self, faults: &Faults) -> Result<Vec<(String, Declared)>, ConnectorError> {
        Ok(match self {
            Self::Postgres(session) => {
                session.columns(faults).await?.into_iter().map(|(name, oid)| (name, Declared::Oid(oid))).collect()
            }
            Self::Sqlite(session, _) => {
                session.columns(faults).await?.into_iter().map(|(name, of)| (name, Declared::Name(of))).collect()
            }
        })
    }

    pub(super) async fn primary_key(&mut self, faults: &Faults) -> Result<Vec<String>, ConnectorError> {
        match self {
            Self::Postgres(session) => session.primary_key(faults).await,
            Self::Sqlite(session, relation) => session.primary_key(relation, faults).await,
        }
    }

    pub(super) async fn typed(
        &mut self,
        columns: Vec<(String, Declared)>,
        faults: &Faults,
    ) -> Result<Vec<Column>, ConnectorError> {
        match self {
            Self::Postgres(session) => {
                let oid = |declared| match declared {
                    Declared::Oid(oid) => oid,
                    Declared::Name(_) => Oid(0),
                };
                let columns = columns.into_iter().map(|(name, declared)| (name, oid(declared))).collect();
                session.typed(columns, faults).await
            }
            Self::Sqlite(..) => {
                let name = |declared| match declared {
                    Declared::Name(name) => name,
                    Declared::Oid(_) => String::new(),
                };
                Ok(columns.into_iter().map(|(column, declared)| Sqlite::typed(column, name(declared))).collect())
            }
        }
    }

    pub(super) async fn now(&mut self, faults: &Faults) -> Result<String, ConnectorError> {
        match self {
            Self::Postgres(session) => session.now(faults).await,
            Self::Sqlite(session, _) => session.now(faults).await,
        }
    }

    pub(super) async fn rows(&mut self, order: &Order, part: &Part, began: &str, sink: &mut Sink) -> Result<(), Stop> {
        match self {
            Self::Postgres(session) => session.rows(order, part, began, sink).await,
            Self::Sqlite(session, _) => session.rows(order, part, began, sink).await,
        }
    }

    pub(super) async fn close(self) {
        match self {
            Self::Postgres(session) => session.close().await,
            Self::Sqlite(session, _) => session.close().await,
        }
    }
}
